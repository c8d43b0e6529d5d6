//! What can go wrong, in the words a client reads.

use soma_platform::database::{self, Failure};
use soma_platform::problem::{Code, Problem};

use crate::embed::EmbedError;

/// Why an operation was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value the request gives is not allowed.
    #[error("{reason}")]
    Invalid {
        /// Dotted path of the field.
        field: String,
        /// What is wrong with it.
        reason: String,
        /// What to send instead.
        remedy: String,
    },
    /// No such namespace, or it belongs to another tenant.
    #[error("namespace `{0}` not found")]
    NamespaceNotFound(String),
    /// No memory at this coordinate.
    #[error("Memory not found")]
    MemoryNotFound(String),
    /// The store would grow beyond what the namespace may hold.
    #[error("quota exceeded: namespace `{namespace}` may hold {limit} {quota}, this would make {wanted}")]
    QuotaExceeded {
        /// The namespace.
        namespace: String,
        /// `memories` or `bytes`.
        quota: &'static str,
        /// The limit.
        limit: i64,
        /// What the namespace would hold.
        wanted: i64,
    },
    /// A namespace was provisioned before with another value of something that is fixed.
    #[error("namespace `{namespace}` is bound to {field} {bound}; it cannot become {wanted}")]
    Bound {
        /// The namespace.
        namespace: String,
        /// `tenant` or `embedding`.
        field: &'static str,
        /// What it is bound to.
        bound: String,
        /// What was asked for.
        wanted: String,
    },
    /// The namespace's vectors come from another embedder than the one this process runs.
    #[error("namespace `{namespace}` is embedded with {bound}, and this service runs {running}")]
    OtherEmbedder {
        /// The namespace.
        namespace: String,
        /// Its embedder.
        bound: String,
        /// The process's embedder.
        running: String,
    },
    /// The database cannot be reached.
    #[error("{backend} cannot be used")]
    Connection {
        /// `postgres` or `sqlite`.
        backend: &'static str,
        /// The reason.
        #[source]
        source: database::Error,
    },
    /// The database refused a statement.
    #[error("the database refused a statement")]
    Database(#[from] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("the database schema could not be brought up to date")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// What the database holds is not what was written there.
    #[error("the stored {what} is damaged")]
    Damaged {
        /// What cannot be read.
        what: &'static str,
        /// The reason.
        source: serde_json::Error,
    },
    /// A text could not be embedded.
    #[error("the text cannot be embedded")]
    Embed(#[from] EmbedError),
    /// Work on another thread ended early: the process is stopping, or the work panicked.
    #[error("work ended early")]
    Stopping(#[from] tokio::task::JoinError),
}

impl Error {
    /// A value that is not allowed.
    pub fn invalid(field: impl Into<String>, reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), reason: reason.into(), remedy: remedy.into() }
    }

    /// The database error inside, if that is what it is.
    fn database(&self) -> Option<&sqlx::Error> {
        match self {
            Self::Database(source) | Self::Connection { source: database::Error::Database(source), .. } => {
                Some(source)
            }
            Self::Migration(sqlx::migrate::MigrateError::Execute(source)) => Some(source),
            _ => None,
        }
    }

    /// What the error says with everything that caused it, for logs and `/readyz`.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(source) = next {
            let part = source.to_string();
            if !text.ends_with(&part) {
                text = format!("{text}: {part}");
            }
            next = source.source();
        }
        text
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::Invalid { field, remedy, .. } => {
                Self::new(Code::Invalid, text).field(field).remedy(remedy)
            }
            Error::NamespaceNotFound(_) => Self::new(Code::NotFound, text).field("X-Soma-Namespace").remedy(
                "create it with a MemoryNamespace, or name one that exists in the header X-Soma-Namespace",
            ),
            Error::MemoryNotFound(coordinate) => {
                Self::new(Code::NotFound, text).remedy(format!("store a memory at {coordinate} first"))
            }
            Error::QuotaExceeded { quota, .. } => Self::new(Code::QuotaExceeded, text)
                .field(format!("quota.{quota}"))
                .remedy("delete memories, or raise the quota of the MemoryNamespace"),
            Error::Bound { field, .. } => Self::new(Code::Conflict, text)
                .field(field)
                .remedy("use another name, or delete the namespace and its memories first"),
            Error::OtherEmbedder { .. } => Self::new(Code::Conflict, text)
                .remedy("run the embedder it is bound to, or import its memories into a new namespace"),
            Error::Connection { source: database::Error::Credentials { .. }, backend } => {
                Self::new(Code::Unavailable, format!("{backend} cannot be used: no credentials"))
                    .remedy("mount the Secret postgres-conn where SOMA_POSTGRES_SECRET_DIR points")
            }
            Error::Stopping(ref source) if !source.is_panic() => {
                Self::new(Code::Unavailable, text).remedy("try again")
            }
            other => match other.database().map(Failure::of) {
                Some(Failure::Unavailable) => {
                    tracing::warn!(error = other.chain(), "the database is unavailable");
                    Self::new(Code::Unavailable, "the database is unavailable")
                        .remedy("try again after the time Retry-After gives")
                }
                Some(Failure::Full) => Self::new(Code::StorageFull, "the storage of the database is full")
                    .remedy("free or add space; what was acknowledged is intact and can be recalled"),
                _ => {
                    tracing::error!(error = other.chain(), "a request failed");
                    Self::new(Code::Internal, "the service failed to answer this request")
                }
            },
        }
    }
}
