//! Provisioning namespaces.

use serde_json::Value;
use soma_platform::outbox;
use sqlx::{AnyConnection, Connection as _};
use uuid::Uuid;

use super::{Store, now, plan, rows};
use crate::model::{Embedding, Namespace, NamespaceSpec, Quota, Scope};
use crate::{Coordinate, Error};

const COLUMNS: &str = "SELECT name, uid, tenant, provider, model, dimension, quota_memories, quota_bytes, memories, \
                       bytes, clock FROM namespaces";

impl Store {
    /// Makes a namespace, or changes its quota. Its tenant and embedding are fixed once bound.
    pub async fn put_namespace(&self, name: &str, spec: &NamespaceSpec) -> Result<Namespace, Error> {
        if spec.embedding != *self.embedding {
            let existing = self.find_namespace(name).await?;
            return Err(match existing {
                Some(found) if found.embedding == spec.embedding => self.other_embedder(&found),
                Some(found) => bound(name, "embedding", &found.embedding, &spec.embedding),
                None => Error::invalid(
                    "embedding",
                    format!("this service cannot embed with {}", spec.embedding),
                    format!("ask for {}", self.embedding),
                ),
            });
        }
        let mut connection = self.writer().await?;
        let mut tx = connection.begin().await?;
        self.insert_namespace(&mut tx, name, spec).await?;
        sqlx::query(
            "UPDATE namespaces SET quota_memories = $2, quota_bytes = $3 WHERE name = $1 AND tenant = $4",
        )
        .bind(name)
        .bind(spec.quota.memories)
        .bind(spec.quota.bytes)
        .bind(&spec.tenant)
        .execute(&mut *tx)
        .await?;
        let found = find(&mut tx, name).await?.ok_or_else(|| Error::NamespaceNotFound(name.to_owned()))?;
        if found.tenant != spec.tenant {
            return Err(bound(name, "tenant", &found.tenant, &spec.tenant));
        }
        if found.embedding != spec.embedding {
            return Err(bound(name, "embedding", &found.embedding, &spec.embedding));
        }
        tx.commit().await?;
        Ok(found)
    }

    /// A namespace by name, whoever owns it.
    pub async fn find_namespace(&self, name: &str) -> Result<Option<Namespace>, Error> {
        Ok(find(&mut *self.reader().await?, name).await?)
    }

    /// Every namespace, by name.
    pub async fn namespaces(&self) -> Result<Vec<Namespace>, Error> {
        let mut connection = self.reader().await?;
        let sql = sqlx::AssertSqlSafe(format!("{COLUMNS} ORDER BY name"));
        let found = sqlx::query(sql).fetch_all(&mut *connection).await?;
        Ok(found.iter().map(rows::namespace).collect::<Result<_, _>>()?)
    }

    /// Deletes a namespace and everything in it, with one event. False when there is none.
    pub async fn delete_namespace(&self, name: &str) -> Result<bool, Error> {
        let mut connection = self.writer().await?;
        let mut tx = connection.begin().await?;
        // The update takes the lock that every writer of the namespace waits for.
        sqlx::query("UPDATE namespaces SET clock = clock + 1 WHERE name = $1")
            .bind(name)
            .execute(&mut *tx)
            .await?;
        let Some(namespace) = find(&mut tx, name).await? else { return Ok(false) };
        for sql in [
            "DELETE FROM links WHERE namespace = $1",
            "DELETE FROM memories WHERE namespace = $1",
            "DELETE FROM namespaces WHERE name = $1",
        ] {
            sqlx::query(sql).bind(name).execute(&mut *tx).await?;
        }
        let all = Coordinate::stored("*".to_owned());
        let event = plan::event(&namespace, &all, namespace.clock, "namespace_deleted", &Value::Null, now());
        outbox::enqueue(&mut tx, &[event]).await?;
        tx.commit().await?;
        if name == Scope::DEFAULT {
            self.insert_namespace(&mut connection, name, &self.default_namespace()).await?;
        }
        Ok(true)
    }

    /// What the namespace that always exists is: unlimited, of the tenant `default`.
    pub(super) fn default_namespace(&self) -> NamespaceSpec {
        NamespaceSpec {
            tenant: "default".to_owned(),
            quota: Quota::default(),
            embedding: (*self.embedding).clone(),
        }
    }

    /// Makes a namespace unless it exists.
    pub(super) async fn insert_namespace(
        &self,
        connection: &mut AnyConnection,
        name: &str,
        spec: &NamespaceSpec,
    ) -> Result<(), sqlx::Error> {
        sqlx::query(
            "INSERT INTO namespaces (name, uid, tenant, provider, model, dimension) VALUES ($1, $2, $3, $4, $5, $6) \
             ON CONFLICT (name) DO NOTHING",
        )
        .bind(name)
        .bind(Uuid::new_v4().to_string())
        .bind(&spec.tenant)
        .bind(&spec.embedding.provider)
        .bind(&spec.embedding.model)
        .bind(spec.embedding.dimension)
        .execute(connection)
        .await?;
        Ok(())
    }
}

pub(super) async fn find(
    connection: &mut AnyConnection,
    name: &str,
) -> Result<Option<Namespace>, sqlx::Error> {
    let sql = sqlx::AssertSqlSafe(format!("{COLUMNS} WHERE name = $1"));
    sqlx::query(sql).bind(name).fetch_optional(connection).await?.as_ref().map(rows::namespace).transpose()
}

fn bound(name: &str, field: &'static str, bound: &impl ToString, wanted: &impl ToString) -> Error {
    Error::Bound { namespace: name.to_owned(), field, bound: bound.to_string(), wanted: wanted.to_string() }
}

impl std::fmt::Display for Embedding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{} of {} dimensions", self.provider, self.model, self.dimension)
    }
}
