//! Makes sure that the database answers and, where the operator runs it, that the memory service has its own
//! database and a role that may use only that. Everything is read first, done if needed, and read back.

use std::time::Duration;

use soma_settings::SslMode;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Row};

use super::build::PORT;
use super::passwords::Credentials;
use super::validate::{External, Observed, Passwords};
use crate::context::Context;
use crate::error::chain;
use crate::infra::Site;
use crate::infra::component::State;
use crate::infra::set;
use crate::names::object;

/// Longest time all statements of one attempt may take together.
const BUDGET: Duration = Duration::from_secs(10);

pub async fn ensure(ctx: &Context, site: &Site<'_>, observed: &Observed, credentials: &Credentials) -> State {
    let attempt = async {
        match credentials {
            Credentials::External(external) => probe(external).await,
            Credentials::Managed(passwords) => {
                let at = ctx.addresses.postgres_of(&site.owner.namespace);
                // The pod itself rather than its Service: it answers as soon as it is ready, before every proxy has
                // heard of it.
                let own = observed.live.address(0, PORT);
                provision(&at.or(own).unwrap_or_default(), passwords).await
            }
        }
    };
    if let Credentials::Managed(_) = credentials
        && let Some(waiting) = set::unready(&observed.live, object::POSTGRES, 0)
    {
        return waiting;
    }
    match tokio::time::timeout(BUDGET, attempt).await {
        Ok(Ok(version)) => State::Ready { version },
        Ok(Err(error)) => State::Unreachable(chain(&error)),
        Err(_) => State::Unreachable(format!("no answer within {} s", BUDGET.as_secs())),
    }
}

/// What a user may call the database, and what it answered.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{0} is not host:port")]
    Address(String),
    #[error("cannot connect as {user}")]
    Connect {
        user: String,
        #[source]
        source: sqlx::Error,
    },
    #[error("cannot {what}")]
    Statement {
        what: &'static str,
        #[source]
        source: sqlx::Error,
    },
    #[error("role {0} is still a superuser after it was changed")]
    NotReadBack(&'static str),
}

fn statement(what: &'static str) -> impl FnOnce(sqlx::Error) -> Error {
    move |source| Error::Statement { what, source }
}

async fn probe(external: &External) -> Result<String, Error> {
    let options = PgConnectOptions::new_without_pgpass()
        .host(&external.host)
        .port(external.port)
        .database(&external.database)
        .ssl_mode(ssl_mode(external.sslmode));
    let mut connection = connect(options, &external.username, &external.password).await?;
    let version = version(&mut connection).await;
    // The answer is in; a connection that closes badly is no news.
    let _ = connection.close().await;
    version
}

fn ssl_mode(mode: SslMode) -> PgSslMode {
    match mode {
        SslMode::Disable => PgSslMode::Disable,
        SslMode::Prefer => PgSslMode::Prefer,
        SslMode::Require => PgSslMode::Require,
        SslMode::VerifyFull => PgSslMode::VerifyFull,
    }
}

async fn connect(options: PgConnectOptions, user: &str, password: &str) -> Result<PgConnection, Error> {
    let options = options.username(user).password(password).application_name("soma-operator");
    options.connect().await.map_err(|source| Error::Connect { user: user.into(), source })
}

async fn version(connection: &mut PgConnection) -> Result<String, Error> {
    let row = sqlx::query("SELECT current_setting('server_version')").fetch_one(connection).await;
    row.and_then(|row| row.try_get::<String, _>(0)).map_err(statement("read its version"))
}

/// Role and database of the memory service.
async fn provision(address: &str, passwords: &Passwords) -> Result<String, Error> {
    let (host, port) = address.rsplit_once(':').ok_or_else(|| Error::Address(address.into()))?;
    let port = port.parse().map_err(|_| Error::Address(address.into()))?;
    let options = PgConnectOptions::new_without_pgpass().host(host).port(port).ssl_mode(PgSslMode::Prefer);
    let own = options.clone().database(object::MEMORY_DATABASE);
    if let Ok(mut connection) = connect(own.clone(), object::MEMORY_DATABASE, &passwords.memory).await {
        let version = version(&mut connection).await;
        let _ = connection.close().await;
        return version;
    }
    let mut superuser = connect(options.database("postgres"), "postgres", &passwords.superuser).await?;
    ensure_role(&mut superuser, &passwords.memory).await?;
    ensure_database(&mut superuser).await?;
    let _ = superuser.close().await;
    let mut connection = connect(own, object::MEMORY_DATABASE, &passwords.memory).await?;
    version(&mut connection).await
}

async fn ensure_role(superuser: &mut PgConnection, password: &str) -> Result<(), Error> {
    let name = object::MEMORY_DATABASE;
    let exists = sqlx::query("SELECT 1 FROM pg_roles WHERE rolname = $1")
        .bind(name)
        .fetch_optional(&mut *superuser)
        .await;
    let verb = if exists.map_err(statement("read the roles"))?.is_some() { "ALTER" } else { "CREATE" };
    // Neither statement takes parameters. The password is ours, of letters and digits only.
    let sql = format!(
        "{verb} ROLE {name} WITH LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD '{password}'"
    );
    sqlx::query(AssertSqlSafe(sql))
        .execute(&mut *superuser)
        .await
        .map_err(statement("make the role of the memory service"))?;
    let row =
        sqlx::query("SELECT rolsuper FROM pg_roles WHERE rolname = $1").bind(name).fetch_one(superuser).await;
    let is_superuser =
        row.and_then(|row| row.try_get::<bool, _>(0)).map_err(statement("read the role back"))?;
    if is_superuser { Err(Error::NotReadBack(name)) } else { Ok(()) }
}

async fn ensure_database(superuser: &mut PgConnection) -> Result<(), Error> {
    let name = object::MEMORY_DATABASE;
    let exists = sqlx::query("SELECT 1 FROM pg_database WHERE datname = $1")
        .bind(name)
        .fetch_optional(&mut *superuser)
        .await;
    if exists.map_err(statement("read the databases"))?.is_none() {
        let create = AssertSqlSafe(format!("CREATE DATABASE {name} OWNER {name}"));
        sqlx::query(create).execute(&mut *superuser).await.map_err(statement("create the database"))?;
    }
    let revoke = AssertSqlSafe(format!("REVOKE ALL ON DATABASE {name} FROM PUBLIC"));
    sqlx::query(revoke).execute(superuser).await.map_err(statement("close the database to other roles"))?;
    Ok(())
}
