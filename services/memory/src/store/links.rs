//! Links between memories.

use serde_json::Value;
use sqlx::{AnyConnection, Connection as _, Row as _};

use super::{Store, lock, now, rows};
use crate::model::{Link, Scope, parse_stored};
use crate::{Coordinate, Error};

impl Store {
    /// Links two memories that exist; the same link again replaces its strength and metadata.
    pub async fn link(&self, scope: &Scope, link: &Link) -> Result<(), Error> {
        let mut connection = self.writer().await?;
        let mut tx = connection.begin().await?;
        let namespace = lock(&mut tx, scope).await?;
        for end in [&link.from, &link.to] {
            if !exists(&mut tx, &namespace.name, end).await? {
                return Err(Error::MemoryNotFound(end.to_string()));
            }
        }
        sqlx::query(
            "INSERT INTO links (namespace, from_coordinate, to_coordinate, link_type, strength, metadata, updated_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7) \
             ON CONFLICT (namespace, from_coordinate, to_coordinate, link_type) DO UPDATE SET \
             strength = excluded.strength, metadata = excluded.metadata, updated_at = excluded.updated_at",
        )
        .bind(&namespace.name)
        .bind(link.from.as_str())
        .bind(link.to.as_str())
        .bind(&link.link_type)
        .bind(link.strength)
        .bind(Value::Object(link.metadata.clone()).to_string())
        .bind(now())
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// The links that start at a memory, strongest first.
    pub async fn links_from(
        &self,
        scope: &Scope,
        from: &Coordinate,
        link_type: Option<&str>,
    ) -> Result<Vec<Link>, Error> {
        let mut connection = self.reader().await?;
        let found = sqlx::query(
            "SELECT from_coordinate, to_coordinate, link_type, strength, metadata, updated_at FROM links \
             WHERE namespace = $1 AND from_coordinate = $2 AND ($3 = '' OR link_type = $3) \
             ORDER BY strength DESC, to_coordinate, link_type",
        )
        .bind(&scope.namespace)
        .bind(from.as_str())
        .bind(link_type.unwrap_or_default())
        .fetch_all(&mut *connection)
        .await?;
        found
            .iter()
            .map(|row| {
                let metadata = match parse_stored(row.try_get("metadata")?, "link")? {
                    Value::Object(map) => map,
                    _ => serde_json::Map::new(),
                };
                Ok(Link {
                    from: rows::coordinate(row, "from_coordinate")?,
                    to: rows::coordinate(row, "to_coordinate")?,
                    link_type: row.try_get("link_type")?,
                    strength: row.try_get("strength")?,
                    metadata,
                    updated_at: row.try_get("updated_at")?,
                })
            })
            .collect()
    }
}

async fn exists(
    tx: &mut AnyConnection,
    namespace: &str,
    coordinate: &Coordinate,
) -> Result<bool, sqlx::Error> {
    let found: Option<i64> = sqlx::query_scalar(
        "SELECT version FROM memories WHERE namespace = $1 AND coordinate = $2 AND deleted = 0",
    )
    .bind(namespace)
    .bind(coordinate.as_str())
    .fetch_optional(tx)
    .await?;
    Ok(found.is_some())
}
