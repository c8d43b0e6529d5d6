//! Reading memories: one, a page, and what an index has not seen yet.

use sqlx::Row as _;

use super::{Store, rows};
use crate::model::{Kind, Record, Scope};
use crate::{Coordinate, Error};

/// One page of a listing.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// In the order of their coordinates' text.
    pub memories: Vec<Record>,
    /// Where the next page starts, or `None` on the last one.
    pub next: Option<Coordinate>,
}

/// How many memories of each kind a namespace holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Episodic memories.
    pub episodic: i64,
    /// Semantic memories.
    pub semantic: i64,
    /// Memories that a recall can find.
    pub vectors: i64,
}

/// Where an index is: all rows up to here are in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    pub clock: i64,
    pub coordinate: String,
}

/// A row as an index takes it.
pub(crate) struct IndexRow {
    pub coordinate: String,
    pub kind: Kind,
    pub payload: String,
    pub importance: f64,
    pub version: i64,
    pub clock: i64,
    pub created_at: i64,
    pub updated_at: i64,
    /// `None`: deleted, or not embedded yet.
    pub vector: Option<Vec<f32>>,
}

impl Store {
    /// One memory.
    pub async fn get(&self, scope: &Scope, coordinate: &Coordinate) -> Result<Record, Error> {
        self.namespace(scope).await?;
        let mut connection = self.reader().await?;
        let row = sqlx::query(
            "SELECT coordinate, kind, payload, importance, version, created_at, updated_at, pending FROM memories \
             WHERE namespace = $1 AND coordinate = $2 AND deleted = 0",
        )
        .bind(&scope.namespace)
        .bind(coordinate.as_str())
        .fetch_optional(&mut *connection)
        .await?;
        rows::memory(&row.ok_or_else(|| Error::MemoryNotFound(coordinate.to_string()))?)
    }

    /// A page of `limit` memories after the coordinate `after`.
    pub async fn list(
        &self,
        scope: &Scope,
        kind: Option<Kind>,
        after: Option<&Coordinate>,
        limit: usize,
    ) -> Result<Page, Error> {
        self.namespace(scope).await?;
        let mut connection = self.reader().await?;
        let found = sqlx::query(
            "SELECT coordinate, kind, payload, importance, version, created_at, updated_at, pending FROM memories \
             WHERE namespace = $1 AND coordinate > $2 AND deleted = 0 AND ($3 = '' OR kind = $3) \
             ORDER BY coordinate LIMIT $4",
        )
        .bind(&scope.namespace)
        .bind(after.map_or("", Coordinate::as_str))
        .bind(kind.map_or("", Kind::as_str))
        .bind(i64::try_from(limit).unwrap_or(i64::MAX - 1) + 1)
        .fetch_all(&mut *connection)
        .await?;
        let memories = found.iter().take(limit).map(rows::memory).collect::<Result<Vec<_>, _>>()?;
        let next = (found.len() > limit).then(|| memories.last().map(|m| m.coordinate.clone())).flatten();
        Ok(Page { memories, next })
    }

    /// Counts of a namespace.
    pub async fn counts(&self, scope: &Scope) -> Result<Counts, Error> {
        self.namespace(scope).await?;
        let mut connection = self.reader().await?;
        // Without GROUP BY: grouping would sort the rows, vectors and all.
        let row = sqlx::query(
            "SELECT COUNT(CASE WHEN kind = 'episodic' THEN 1 END) AS episodic, \
             COUNT(CASE WHEN kind = 'semantic' THEN 1 END) AS semantic, COUNT(embedding) AS vectors \
             FROM memories WHERE namespace = $1 AND deleted = 0",
        )
        .bind(&scope.namespace)
        .fetch_one(&mut *connection)
        .await?;
        Ok(Counts {
            episodic: row.try_get("episodic")?,
            semantic: row.try_get("semantic")?,
            vectors: row.try_get("vectors")?,
        })
    }

    /// The rows of a namespace that changed after `position`, oldest change first, at most `limit`.
    pub(crate) async fn changes(
        &self,
        namespace: &str,
        position: &Position,
        limit: i64,
    ) -> Result<Vec<IndexRow>, Error> {
        let mut connection = self.reader().await?;
        let found = sqlx::query(
            "SELECT coordinate, kind, payload, importance, version, clock, created_at, updated_at, embedding \
             FROM memories WHERE namespace = $1 AND (clock, coordinate) > ($2, $3) \
             ORDER BY clock, coordinate LIMIT $4",
        )
        .bind(namespace)
        .bind(position.clock)
        .bind(&position.coordinate)
        .bind(limit)
        .fetch_all(&mut *connection)
        .await?;
        let index_row = |row: &sqlx::any::AnyRow| {
            Ok(IndexRow {
                coordinate: row.try_get("coordinate")?,
                kind: Kind::stored(row.try_get("kind")?),
                payload: row.try_get("payload")?,
                importance: row.try_get("importance")?,
                version: row.try_get("version")?,
                clock: row.try_get("clock")?,
                created_at: row.try_get("created_at")?,
                updated_at: row.try_get("updated_at")?,
                vector: row.try_get::<Option<&[u8]>, _>("embedding")?.map(rows::to_vector),
            })
        };
        found.iter().map(index_row).collect()
    }
}
