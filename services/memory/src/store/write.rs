//! Storing and deleting memories: rows, usage and events in one transaction.

use std::collections::HashMap;

use serde_json::Value;
use soma_platform::database::{CHUNK, placeholders};
use soma_platform::outbox;
use sqlx::{AnyConnection, AssertSqlSafe, Connection as _, Row as _};

use super::plan::{self, Existing, Plan};
use super::{Store, lock, now};
use crate::model::{Kind, Namespace, NewMemory, Scope, Stored, Usage};
use crate::{Coordinate, Error};

impl Store {
    /// Stores a batch: all of it or nothing. Returns one result per item, in order.
    pub async fn store(&self, scope: &Scope, items: Vec<NewMemory>) -> Result<Vec<Stored>, Error> {
        let mut connection = self.writer().await?;
        let mut tx = connection.begin().await?;
        let namespace = lock(&mut tx, scope).await?;
        self.check_embedder(&namespace)?;
        let existing = existing(&mut tx, &namespace.name, &items).await?;
        let plan = plan::plan(&namespace, &existing, items, now())?;
        if plan.writes.is_empty() {
            tx.rollback().await?;
            return Ok(plan.stored);
        }
        self.upsert(&mut tx, &namespace, &plan).await?;
        outbox::enqueue(&mut tx, &plan.events).await?;
        set_usage(&mut tx, &namespace.name, plan.usage).await?;
        tx.commit().await?;
        Ok(plan.stored)
    }

    /// Deletes a memory and its links. False when there is none.
    pub async fn delete(&self, scope: &Scope, coordinate: &Coordinate) -> Result<bool, Error> {
        let mut connection = self.writer().await?;
        let mut tx = connection.begin().await?;
        let namespace = lock(&mut tx, scope).await?;
        let row = sqlx::query(
            "SELECT version, payload FROM memories WHERE namespace = $1 AND coordinate = $2 AND deleted = 0",
        )
        .bind(&namespace.name)
        .bind(coordinate.as_str())
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = row else {
            tx.rollback().await?;
            return Ok(false);
        };
        let version = row.try_get::<i64, _>("version")? + 1;
        let bytes = plan::length(row.try_get("payload")?);
        bury(&mut tx, &namespace, coordinate, version).await?;
        let event = plan::event(&namespace, coordinate, version, "deleted", &Value::Null, now());
        outbox::enqueue(&mut tx, &[event]).await?;
        let Usage { memories, bytes: before } = namespace.usage;
        set_usage(&mut tx, &namespace.name, Usage { memories: memories - 1, bytes: before - bytes }).await?;
        tx.commit().await?;
        Ok(true)
    }

    async fn upsert(&self, tx: &mut AnyConnection, namespace: &Namespace, plan: &Plan) -> Result<(), Error> {
        let now = now();
        for chunk in plan.writes.chunks(CHUNK) {
            let sql = format!(
                "INSERT INTO memories (namespace, coordinate, kind, payload, importance, version, clock, created_at, \
                 updated_at, deleted, pending, writer) VALUES {} ON CONFLICT (namespace, coordinate) DO UPDATE SET \
                 kind = excluded.kind, payload = excluded.payload, importance = excluded.importance, \
                 version = excluded.version, clock = excluded.clock, created_at = excluded.created_at, \
                 updated_at = excluded.updated_at, deleted = 0, pending = 1, writer = excluded.writer, \
                 embedding = NULL",
                placeholders(chunk.len(), 12)
            );
            let mut query = sqlx::query(AssertSqlSafe(sql)).persistent(chunk.len() == 1);
            for write in chunk {
                let memory = &write.memory;
                query = query
                    .bind(&namespace.name)
                    .bind(memory.coordinate.as_str())
                    .bind(memory.kind.as_str())
                    .bind(&memory.payload)
                    .bind(memory.importance)
                    .bind(write.version)
                    .bind(namespace.clock)
                    .bind(write.created_at)
                    .bind(now)
                    .bind(0_i64)
                    .bind(1_i64)
                    .bind(&*self.writer);
            }
            query.execute(&mut *tx).await?;
        }
        Ok(())
    }
}

/// What is at the coordinates of a batch.
async fn existing(
    tx: &mut AnyConnection,
    namespace: &str,
    items: &[NewMemory],
) -> Result<HashMap<String, Existing>, Error> {
    let mut found = HashMap::new();
    for chunk in items.chunks(CHUNK) {
        let holes: Vec<_> = (2..=chunk.len() + 1).map(|n| format!("${n}")).collect();
        let sql = format!(
            "SELECT coordinate, version, deleted, pending, kind, payload, created_at FROM memories \
             WHERE namespace = $1 AND coordinate IN ({})",
            holes.join(",")
        );
        let mut query = sqlx::query(AssertSqlSafe(sql)).persistent(chunk.len() == 1).bind(namespace);
        for item in chunk {
            query = query.bind(item.coordinate.as_str());
        }
        for row in query.fetch_all(&mut *tx).await? {
            let existing = Existing {
                version: row.try_get("version")?,
                deleted: row.try_get::<i64, _>("deleted")? != 0,
                pending: row.try_get::<i64, _>("pending")? != 0,
                kind: Kind::stored(row.try_get("kind")?),
                payload: row.try_get("payload")?,
                created_at: row.try_get("created_at")?,
            };
            found.insert(row.try_get("coordinate")?, existing);
        }
    }
    Ok(found)
}

/// Leaves a tombstone, without content and without links.
async fn bury(
    tx: &mut AnyConnection,
    namespace: &Namespace,
    coordinate: &Coordinate,
    version: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE memories SET deleted = 1, pending = 0, payload = '', embedding = NULL, version = $3, clock = $4, \
         updated_at = $5 WHERE namespace = $1 AND coordinate = $2",
    )
    .bind(&namespace.name)
    .bind(coordinate.as_str())
    .bind(version)
    .bind(namespace.clock)
    .bind(now())
    .execute(&mut *tx)
    .await?;
    sqlx::query("DELETE FROM links WHERE namespace = $1 AND (from_coordinate = $2 OR to_coordinate = $2)")
        .bind(&namespace.name)
        .bind(coordinate.as_str())
        .execute(&mut *tx)
        .await?;
    Ok(())
}

async fn set_usage(tx: &mut AnyConnection, namespace: &str, usage: Usage) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE namespaces SET memories = $2, bytes = $3 WHERE name = $1")
        .bind(namespace)
        .bind(usage.memories)
        .bind(usage.bytes)
        .execute(tx)
        .await?;
    Ok(())
}
