//! Memories that have no vector yet. The table is the queue: it survives any crash, and it cannot overflow.

use std::collections::BTreeMap;

use soma_platform::outbox;
use sqlx::{Connection as _, Row as _};

use super::{Store, now, rows};
use crate::model::text_to_embed;
use crate::{Coordinate, Error};

/// Rows another replica wrote are left to it for this long.
const ORPHAN_AFTER_MICROS: i64 = 10_000_000;
/// Events kept until a relay publishes them: enough to look back, and a bound on the table.
const OUTBOX_KEEP: i64 = 100_000;

/// A text to be embedded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingText {
    namespace: String,
    uid: String,
    coordinate: String,
    version: i64,
    /// What stands for the memory's meaning.
    pub text: String,
}

impl Store {
    /// The memories longest without a vector: this process's own, and orphans of others. With `all`, those of
    /// other replicas too, however new.
    pub async fn pending(&self, all: bool, limit: i64) -> Result<Vec<PendingText>, Error> {
        let mut connection = self.reader().await?;
        let found = sqlx::query(
            "SELECT m.namespace, n.uid, m.coordinate, m.version, m.payload FROM memories m \
             JOIN namespaces n ON n.name = m.namespace \
             WHERE m.pending = 1 AND (m.writer = $1 OR m.updated_at < $2) AND n.model = $3 \
             ORDER BY m.updated_at LIMIT $4",
        )
        .bind(&*self.writer)
        .bind(if all { i64::MAX } else { now() - ORPHAN_AFTER_MICROS })
        .bind(&self.embedding.model)
        .bind(limit)
        .fetch_all(&mut *connection)
        .await?;
        found
            .iter()
            .map(|row| {
                Ok(PendingText {
                    namespace: row.try_get("namespace")?,
                    uid: row.try_get("uid")?,
                    coordinate: row.try_get("coordinate")?,
                    version: row.try_get("version")?,
                    text: text_to_embed(row.try_get("payload")?)?,
                })
            })
            .collect()
    }

    /// How many memories wait for a vector.
    pub async fn backlog(&self) -> Result<i64, Error> {
        let mut connection = self.reader().await?;
        Ok(sqlx::query_scalar("SELECT COUNT(*) FROM memories WHERE pending = 1")
            .fetch_one(&mut *connection)
            .await?)
    }

    /// Whether any of these memories still waits for a vector.
    pub async fn any_pending(&self, namespace: &str, coordinates: &[&Coordinate]) -> Result<bool, Error> {
        let mut connection = self.reader().await?;
        for coordinate in coordinates {
            let pending: Option<i64> =
                sqlx::query_scalar("SELECT pending FROM memories WHERE namespace = $1 AND coordinate = $2")
                    .bind(namespace)
                    .bind(coordinate.as_str())
                    .fetch_optional(&mut *connection)
                    .await?;
            if pending == Some(1) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Writes vectors. A memory that changed, or a namespace that was made anew, since its text was read is left
    /// alone. A vector of `None` marks a text that cannot be embedded: it stays unsearchable.
    pub async fn set_vectors(&self, done: Vec<(PendingText, Option<Vec<f32>>)>) -> Result<(), Error> {
        let mut by_namespace: BTreeMap<(String, String), Vec<_>> = BTreeMap::new();
        for (pending, vector) in done {
            let key = (pending.namespace.clone(), pending.uid.clone());
            by_namespace.entry(key).or_default().push((pending, vector));
        }
        let mut connection = self.writer().await?;
        for ((name, uid), items) in by_namespace {
            let mut tx = connection.begin().await?;
            let clock: Option<i64> = sqlx::query_scalar(
                "UPDATE namespaces SET clock = clock + 1 WHERE name = $1 AND uid = $2 RETURNING clock",
            )
            .bind(&name)
            .bind(uid)
            .fetch_optional(&mut *tx)
            .await?;
            let Some(clock) = clock else { continue };
            for (pending, vector) in items {
                sqlx::query(
                    "UPDATE memories SET embedding = $1, pending = 0, clock = $2 WHERE namespace = $3 \
                     AND coordinate = $4 AND version = $5 AND deleted = 0 AND pending = 1",
                )
                .bind(vector.as_deref().map(rows::to_bytes))
                .bind(clock)
                .bind(&name)
                .bind(&pending.coordinate)
                .bind(pending.version)
                .execute(&mut *tx)
                .await?;
            }
            tx.commit().await?;
        }
        Ok(())
    }

    /// Drops the oldest events beyond the number kept.
    pub async fn trim_outbox(&self) -> Result<u64, Error> {
        let mut connection = self.writer().await?;
        Ok(outbox::trim(&mut connection, OUTBOX_KEEP).await?)
    }
}
