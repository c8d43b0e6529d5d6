//! Makes sure that Postgres answers and, where the operator runs it, that every service has a database of its own and a
//! role that may use only that. Everything is read first, done if needed, and read back.

use std::time::Duration;

use soma_settings::SslMode;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Row};

use super::build::PORT;
use super::passwords::Credentials;
use super::scram;
use super::service::{self, Database, Role, SERVICES, Seen, Step};
use super::validate::{External, Observed, Passwords};
use crate::context::Context;
use crate::error::chain;
use crate::infra::Site;
use crate::infra::component::State;
use crate::infra::set;
use crate::names::object;

/// Longest time all statements of one attempt may take together.
const BUDGET: Duration = Duration::from_secs(10);

pub async fn ensure(
    ctx: &Context,
    site: &Site<'_>,
    observed: &Observed,
    credentials: &Credentials,
    backed_up: bool,
) -> State {
    let attempt = async {
        match credentials {
            Credentials::External(external) => probe(external).await,
            Credentials::Managed(passwords) => {
                let at = ctx.addresses.postgres_of(&site.owner.namespace);
                // The pod itself rather than its Service: it answers as soon as it is ready, before every proxy has
                // heard of it.
                let own = observed.live.address(0, PORT);
                provision(&at.or(own).unwrap_or_default(), passwords, backed_up).await
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
pub(super) enum Error {
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
    #[error("Postgres took every change, but still lacks {0:?}; look for what changes it back")]
    NotReadBack(Vec<Step>),
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

/// Looks with one connection, and changes only what differs.
pub(super) async fn provision(
    address: &str,
    passwords: &Passwords,
    backed_up: bool,
) -> Result<String, Error> {
    let (host, port) = address.rsplit_once(':').ok_or_else(|| Error::Address(address.into()))?;
    let port = port.parse().map_err(|_| Error::Address(address.into()))?;
    let options = PgConnectOptions::new_without_pgpass().host(host).port(port).ssl_mode(PgSslMode::Prefer);
    let at = |database: &str| connect(options.clone().database(database), "postgres", &passwords.superuser);
    let mut superuser = at("postgres").await?;
    let mut seen = look(&mut superuser, backed_up).await?;
    let steps = service::steps(&seen, &passwords.services, backed_up);
    if !steps.is_empty() {
        for step in steps {
            match step {
                Step::HandOver(service) => {
                    let mut inside = at(service.database).await?;
                    perform(&mut inside, step, passwords).await?;
                    let _ = inside.close().await;
                }
                step => perform(&mut superuser, step, passwords).await?,
            }
        }
        seen = look(&mut superuser, backed_up).await?;
        let left = service::steps(&seen, &passwords.services, backed_up);
        if !left.is_empty() {
            return Err(Error::NotReadBack(left));
        }
    }
    // The answer is in; a connection that closes badly is no news.
    let _ = superuser.close().await;
    Ok(seen.version)
}

async fn look(superuser: &mut PgConnection, backed_up: bool) -> Result<Seen, Error> {
    let version = version(superuser).await?;
    let names: Vec<_> = SERVICES.iter().map(|service| service.database.to_owned()).collect();
    let roles = "SELECT rolname::text, rolpassword, rolcanlogin AND NOT (rolsuper OR rolcreatedb OR rolcreaterole \
                 OR rolreplication OR rolbypassrls) FROM pg_authid WHERE rolname = ANY($1)";
    let roles = sqlx::query(roles).bind(names).fetch_all(&mut *superuser).await;
    let role = |row: &sqlx::postgres::PgRow| {
        Ok((row.try_get(0)?, Role { verifier: row.try_get(1)?, plain: row.try_get(2)? }))
    };
    let databases = "SELECT datname::text, pg_get_userbyid(datdba)::text, \
                     has_database_privilege('public', oid, 'CONNECT, TEMPORARY') FROM pg_database";
    let databases = sqlx::query(databases).fetch_all(&mut *superuser).await;
    let database = |row: &sqlx::postgres::PgRow| {
        Ok((row.try_get(0)?, Database { owner: row.try_get(1)?, open: row.try_get(2)? }))
    };
    Ok(Seen {
        admits_backups: backed_up && admits_backups(superuser).await?,
        version,
        roles: roles.and_then(|rows| rows.iter().map(role).collect()).map_err(statement("read the roles"))?,
        databases: databases
            .and_then(|rows| rows.iter().map(database).collect())
            .map_err(statement("read the databases"))?,
    })
}

/// `all` does not stand for replication there, so the image lets base backups in from its own pod only.
async fn admits_backups(superuser: &mut PgConnection) -> Result<bool, Error> {
    let rule = "SELECT EXISTS (SELECT FROM pg_hba_file_rules WHERE 'replication' = ANY(database) \
                AND user_name && ARRAY['all', 'postgres'] AND address = 'all' AND auth_method = 'scram-sha-256')";
    sqlx::query_scalar(rule).fetch_one(superuser).await.map_err(statement("read who may connect"))
}

/// Appends a rule to the file of those who may connect: there is no statement for it.
async fn admit_backups(superuser: &mut PgConnection) -> Result<(), Error> {
    let what = "let base backups in";
    let file = sqlx::query_scalar::<_, String>("SELECT current_setting('hba_file')");
    let file = file.fetch_one(&mut *superuser).await.map_err(statement(what))?;
    let program = format!("cat >> '{}'", file.replace('\'', "'\\''")).replace('\'', "''");
    let rule = "(VALUES (''), ('host replication postgres all scram-sha-256'))";
    for sql in [format!("COPY {rule} TO PROGRAM '{program}'"), "SELECT pg_reload_conf()".to_owned()] {
        sqlx::query(AssertSqlSafe(sql)).execute(&mut *superuser).await.map_err(statement(what))?;
    }
    Ok(())
}

/// None of these statements takes parameters. Names are ours, and a verifier needs no quoting.
async fn perform(connection: &mut PgConnection, step: Step, passwords: &Passwords) -> Result<(), Error> {
    let role = |verb: &str, name: &'static str| {
        let password = passwords.services.get(name).map(|password| scram::verifier(password));
        format!(
            "{verb} ROLE {name} WITH LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD '{}'",
            password.unwrap_or_default()
        )
    };
    let (what, statements) = match step {
        Step::AdmitBackups => return admit_backups(connection).await,
        Step::CreateRole(service) => ("make a role", vec![role("CREATE", service.database)]),
        Step::AlterRole(service) => ("change a role", vec![role("ALTER", service.database)]),
        Step::CreateDatabase(service) => {
            ("make a database", vec![format!("CREATE DATABASE {}", service.database)])
        }
        Step::Close(name) => {
            ("close a database to other roles", vec![format!("REVOKE ALL ON DATABASE {name} FROM PUBLIC")])
        }
        Step::HandOver(service) => {
            let name = service.database;
            let statements = vec![
                format!("ALTER SCHEMA public OWNER TO {name}"),
                "REVOKE ALL ON SCHEMA public FROM PUBLIC".to_owned(),
                format!("ALTER DATABASE {name} OWNER TO {name}"),
            ];
            ("give a database to its role", statements)
        }
    };
    for sql in statements {
        sqlx::query(AssertSqlSafe(sql)).execute(&mut *connection).await.map_err(statement(what))?;
    }
    Ok(())
}
