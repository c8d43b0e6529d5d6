//! One pool type over Postgres and SQLite, the queries of both being the same text.
//!
//! SQLite gets one connection that writes and a few that read; Postgres one pool for both. Credentials of
//! Postgres are read from a directory, again whenever the server refuses them, so a rotated password needs no
//! restart.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::pool::PoolConnection;
use sqlx::{Any, AnyConnection, AnyPool, Connection as _, Executor as _};

/// Rows per multi-row statement: 15 columns of them stay under SQLite's 32 766 parameters.
pub const CHUNK: usize = 500;
/// How long a request waits for a connection before it is answered "unavailable".
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// Connections that read an SQLite file beside the one that writes it.
const SQLITE_READERS: u32 = 4;

/// `FULL`: an acknowledged write survives a power cut, not only a crash of the process.
const SQLITE_PRAGMAS: &str =
    "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA journal_size_limit = 67108864;";

/// Where the data is.
#[derive(Clone, Debug)]
pub enum Target {
    /// A file, made when absent.
    Sqlite {
        /// The file.
        path: PathBuf,
    },
    /// A server.
    Postgres {
        /// Host name or address.
        host: String,
        /// TCP port.
        port: u16,
        /// Database name.
        database: String,
        /// libpq's `sslmode`.
        sslmode: &'static str,
        /// Directory with the files `username` and `password`.
        credentials: PathBuf,
        /// Connections at most.
        connections: u32,
    },
}

/// Which database answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// A file.
    Sqlite,
    /// A server.
    Postgres,
}

impl Backend {
    /// Its name in messages and in `/readyz`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        }
    }
}

/// What a database error means to a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Down, failing over, or refusing connections: the same request may work later.
    Unavailable,
    /// No space left.
    Full,
    /// A defect of ours.
    Other,
}

/// Why no connection could be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A credentials file cannot be read.
    #[error("cannot read {path}")]
    Credentials {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// The database refused or did not answer.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Pools of connections.
#[derive(Clone, Debug)]
pub struct Database {
    target: Arc<Target>,
    read: AnyPool,
    write: AnyPool,
}

impl Database {
    /// Prepares the pools; no connection is made yet.
    pub fn new(target: Target) -> Result<Self, Error> {
        sqlx::any::install_default_drivers();
        let pool = |connections, options| {
            AnyPoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(ACQUIRE_TIMEOUT)
                .idle_timeout(Duration::from_mins(5))
                .after_connect(move |connection, _| {
                    Box::pin(async move {
                        if connection.backend_name() == "SQLite" {
                            connection.execute(SQLITE_PRAGMAS).await?;
                        }
                        Ok(())
                    })
                })
                .after_release(|connection, _| Box::pin(ended_cleanly(connection)))
                .connect_lazy_with(options)
        };
        let (read, write) = match &target {
            Target::Sqlite { .. } => {
                let options = connect_options(&target)?;
                (pool(SQLITE_READERS, options.clone()), pool(1, options))
            }
            Target::Postgres { connections, .. } => {
                // Credentials that are not there yet are read when the first connection is asked for.
                let options = connect_options(&target).or_else(|_| anonymous_options(&target))?;
                let pool = pool(*connections, options);
                (pool.clone(), pool)
            }
        };
        Ok(Self { target: Arc::new(target), read, write })
    }

    /// Which database this is.
    pub fn backend(&self) -> Backend {
        match *self.target {
            Target::Sqlite { .. } => Backend::Sqlite,
            Target::Postgres { .. } => Backend::Postgres,
        }
    }

    /// A connection to read with.
    pub async fn reader(&self) -> Result<PoolConnection<Any>, Error> {
        self.acquire(&self.read).await
    }

    /// A connection to write with. On SQLite there is one: a second writer waits here.
    pub async fn writer(&self) -> Result<PoolConnection<Any>, Error> {
        self.acquire(&self.write).await
    }

    async fn acquire(&self, pool: &AnyPool) -> Result<PoolConnection<Any>, Error> {
        match pool.acquire().await {
            Err(error) if refused_credentials(&error) => {
                pool.set_connect_options(connect_options(&self.target)?);
                Ok(pool.acquire().await?)
            }
            other => Ok(other?),
        }
    }

    /// Closes every connection once it is given back.
    pub async fn close(&self) {
        self.read.close().await;
        self.write.close().await;
    }
}

/// Whether a connection may be used again. SQLite ends a transaction by itself when the disk is full, which the driver
/// does not notice: it would go on counting one transaction too many, and later "commits" would only release savepoints.
async fn ended_cleanly(connection: &mut AnyConnection) -> Result<bool, sqlx::Error> {
    // A rollback may still be queued; the ping comes back after it.
    connection.ping().await?;
    Ok(!connection.is_in_transaction())
}

fn connect_options(target: &Target) -> Result<AnyConnectOptions, Error> {
    let url = match target {
        Target::Sqlite { path } => format!("sqlite://{}?mode=rwc", encode(&path.to_string_lossy())),
        Target::Postgres { credentials, .. } => {
            let (user, password) = (secret(credentials, "username")?, secret(credentials, "password")?);
            postgres_url(target, &format!("{}:{}@", encode(&user), encode(&password)))
        }
    };
    Ok(url.parse()?)
}

fn anonymous_options(target: &Target) -> Result<AnyConnectOptions, Error> {
    Ok(postgres_url(target, "").parse()?)
}

fn postgres_url(target: &Target, user: &str) -> String {
    let Target::Postgres { host, port, database, sslmode, .. } = target else { return String::new() };
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    format!("postgres://{user}{host}:{port}/{}?sslmode={sslmode}", encode(database))
}

fn secret(directory: &Path, name: &str) -> Result<String, Error> {
    let path = directory.join(name);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(text.trim_end_matches('\n').to_owned()),
        Err(source) => Err(Error::Credentials { path, source }),
    }
}

fn encode(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

fn code(error: &sqlx::Error) -> Option<String> {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).map(std::borrow::Cow::into_owned)
}

/// Class 28 of SQLSTATE: wrong password or unknown role.
fn refused_credentials(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| code.starts_with("28"))
}

impl Failure {
    /// Sorts an error by what a caller can do about it.
    pub fn of(error: &sqlx::Error) -> Self {
        let Some(code) = code(error) else {
            return match error {
                sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::Protocol(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed => Self::Unavailable,
                _ => Self::Other,
            };
        };
        // SQLSTATE has five characters; SQLite's extended result codes are numbers of one to four digits.
        match (code.len(), code.as_str()) {
            (5, "53100") => Self::Full,
            // Connection, resources, operator intervention, credentials, rollback, read only, no such database.
            (5, c) if ["08", "53", "57", "28", "40", "25", "3D"].iter().any(|class| c.starts_with(class)) => {
                Self::Unavailable
            }
            (5, _) => Self::Other,
            _ => match code.parse::<u32>() {
                // SQLITE_FULL, and the I/O errors a full disk shows as: write, fsync, shared memory size.
                Ok(13 | 778 | 1034 | 4874) => Self::Full,
                // SQLITE_BUSY, LOCKED, READONLY, IOERR, CANTOPEN.
                Ok(n) if matches!(n & 0xff, 5 | 6 | 8 | 10 | 14) => Self::Unavailable,
                _ => Self::Other,
            },
        }
    }
}

/// `($1,$2),($3,$4)` for two rows of two columns.
pub fn placeholders(rows: usize, columns: usize) -> String {
    let row = |r: usize| {
        let cells: Vec<_> = (1..=columns).map(|c| format!("${}", r * columns + c)).collect();
        format!("({})", cells.join(","))
    };
    (0..rows).map(row).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_count_through_the_rows() {
        assert_eq!(placeholders(2, 3), "($1,$2,$3),($4,$5,$6)");
    }

    #[test]
    fn odd_characters_survive_the_url() {
        assert_eq!(encode("p@ss:w/ö rd%"), "p%40ss%3Aw/%C3%B6%20rd%25");
    }

    #[tokio::test]
    async fn sqlite_is_durable_and_opens_a_path_with_spaces() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a b#c?.db");
        let database = Database::new(Target::Sqlite { path: path.clone() }).unwrap();
        let mut writer = database.writer().await.unwrap();
        let journal: String =
            sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut *writer).await.unwrap();
        let synchronous: i64 =
            sqlx::query_scalar("PRAGMA synchronous").fetch_one(&mut *writer).await.unwrap();
        assert_eq!((journal.as_str(), synchronous), ("wal", 2));
        assert!(path.exists());
    }
}
