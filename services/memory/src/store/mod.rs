//! The memories of every namespace, in Postgres or in an SQLite file: one schema, one set of statements.
//!
//! Every write first adds one to its namespace's `clock`. That locks the namespace's row until the commit, so quotas
//! are exact under concurrency and a reader that has seen clock *n* has seen every commit up to *n*.

mod links;
mod namespaces;
mod pending;
mod plan;
mod read;
mod rows;
mod write;

use std::sync::Arc;

use soma_platform::database::{Backend, Database, Target};
use sqlx::migrate::Migrator;
use sqlx::pool::PoolConnection;
use sqlx::{Any, AnyConnection};
use tokio::sync::OnceCell;

use crate::Error;
use crate::model::{Embedding, Namespace, Scope};

pub use pending::PendingText;
pub use read::{Counts, Page};
pub(crate) use read::{IndexRow, Position};

static SQLITE: Migrator = sqlx::migrate!("migrations/sqlite");
static POSTGRES: Migrator = sqlx::migrate!("migrations/postgres");

/// Where memories are kept. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    database: Database,
    migrated: Arc<OnceCell<()>>,
    embedding: Arc<Embedding>,
    /// Names this process on the rows it wrote, so that replicas share the embedding work.
    writer: Arc<str>,
}

impl Store {
    /// Prepares a store; the database is first asked for when it is first used.
    pub fn new(target: Target, embedding: Embedding, writer: &str) -> Result<Self, Error> {
        let backend = match target {
            Target::Sqlite { .. } => Backend::Sqlite.name(),
            Target::Postgres { .. } => Backend::Postgres.name(),
        };
        let database = Database::new(target).map_err(|source| Error::Connection { backend, source })?;
        Ok(Self { database, migrated: Arc::default(), embedding: Arc::new(embedding), writer: writer.into() })
    }

    /// Which database this is.
    pub fn backend(&self) -> Backend {
        self.database.backend()
    }

    /// Brings the schema up to date, once per process; until that worked, every call tries again.
    pub async fn ready(&self) -> Result<(), Error> {
        self.migrated.get_or_try_init(|| self.migrate()).await.copied()
    }

    /// Asks the database for a sign of life.
    pub async fn ping(&self) -> Result<(), Error> {
        let mut connection = self.reader().await?;
        sqlx::query("SELECT 1").execute(&mut *connection).await?;
        Ok(())
    }

    /// Gives every connection back.
    pub async fn close(&self) {
        self.database.close().await;
    }

    async fn migrate(&self) -> Result<(), Error> {
        let mut connection = self.database.writer().await.map_err(|e| self.connection(e))?;
        // On Postgres the migrator holds an advisory lock, so that replicas may start together.
        match self.backend() {
            Backend::Sqlite => SQLITE.run_direct(None, &mut *connection, false).await?,
            Backend::Postgres => POSTGRES.run_direct(None, &mut *connection, false).await?,
        }
        self.insert_namespace(&mut connection, Scope::DEFAULT, &self.default_namespace()).await?;
        tracing::info!(database = self.backend().name(), "the schema is up to date");
        Ok(())
    }

    async fn reader(&self) -> Result<PoolConnection<Any>, Error> {
        self.ready().await?;
        self.database.reader().await.map_err(|e| self.connection(e))
    }

    async fn writer(&self) -> Result<PoolConnection<Any>, Error> {
        self.ready().await?;
        self.database.writer().await.map_err(|e| self.connection(e))
    }

    fn connection(&self, source: soma_platform::database::Error) -> Error {
        Error::Connection { backend: self.backend().name(), source }
    }

    /// The namespace a scope names, as it is now.
    pub async fn namespace(&self, scope: &Scope) -> Result<Namespace, Error> {
        let mut connection = self.reader().await?;
        check(scope, namespaces::find(&mut connection, &scope.namespace).await?)
    }

    /// Refuses a namespace whose vectors another embedder made: two kinds of vectors must never meet.
    pub fn check_embedder(&self, namespace: &Namespace) -> Result<(), Error> {
        if namespace.embedding == *self.embedding { Ok(()) } else { Err(self.other_embedder(namespace)) }
    }

    fn other_embedder(&self, namespace: &Namespace) -> Error {
        Error::OtherEmbedder {
            namespace: namespace.name.clone(),
            bound: namespace.embedding.to_string(),
            running: self.embedding.to_string(),
        }
    }
}

/// Adds one to the clock and locks the namespace's row until the transaction ends.
async fn lock(tx: &mut AnyConnection, scope: &Scope) -> Result<Namespace, Error> {
    let row = sqlx::query(
        "UPDATE namespaces SET clock = clock + 1 WHERE name = $1 RETURNING name, uid, tenant, provider, \
         model, dimension, quota_memories, quota_bytes, memories, bytes, clock",
    )
    .bind(&scope.namespace)
    .fetch_optional(tx)
    .await?;
    check(scope, row.as_ref().map(rows::namespace).transpose()?)
}

/// The namespace found, unless it belongs to another tenant than the scope claims.
fn check(scope: &Scope, found: Option<Namespace>) -> Result<Namespace, Error> {
    found
        .filter(|n| scope.tenant.as_ref().is_none_or(|tenant| *tenant == n.tenant))
        .ok_or_else(|| Error::NamespaceNotFound(scope.namespace.clone()))
}

/// Microseconds since 1970.
fn now() -> i64 {
    jiff::Timestamp::now().as_microsecond()
}
