//! Databases and roles on a real Postgres that asks for passwords.

mod backup;

use std::collections::BTreeMap;

use soma_testenv::Postgres;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};

use super::database::provision;
use super::service::{SERVICES, Service};
use super::validate::Passwords;

/// A server that lets only its own user in without a password.
pub async fn server() -> Postgres {
    let server = Postgres::start().await.unwrap();
    server.psql("CREATE ROLE postgres SUPERUSER LOGIN PASSWORD 'super'").await.unwrap();
    let file = server.psql("SHOW hba_file").await.unwrap();
    let rules = "host all soma 127.0.0.1/32 trust\n\
                 host all all 127.0.0.1/32 scram-sha-256\n";
    std::fs::write(file.trim(), rules).unwrap();
    server.psql("SELECT pg_reload_conf()").await.unwrap();
    server
}

pub fn passwords() -> Passwords {
    let services = SERVICES.iter().map(|s| (s.database, format!("of '{}'", s.name)));
    Passwords { superuser: "super".into(), services: services.collect() }
}

pub fn address(server: &Postgres) -> String {
    format!("127.0.0.1:{}", server.port())
}

pub async fn enter(
    server: &Postgres,
    user: &str,
    password: &str,
    database: &str,
) -> sqlx::Result<PgConnection> {
    let options = PgConnectOptions::new_without_pgpass().host("127.0.0.1").port(server.port());
    let options = options.ssl_mode(PgSslMode::Disable).username(user).password(password);
    options.database(database).connect().await
}

async fn run(connection: &mut PgConnection, sql: &str) -> sqlx::Result<()> {
    sqlx::query(AssertSqlSafe(sql.to_owned())).execute(connection).await.map(|_| ())
}

/// Gives every service its role and database.
pub async fn provisioned(server: &Postgres, passwords: &Passwords) {
    let version = provision(&address(server), passwords, false).await.unwrap();
    assert!(version.starts_with(char::is_numeric), "{version}");
}

async fn refused(server: &Postgres, user: Service, database: &str) {
    let password = &passwords().services[user.database];
    let error = enter(server, user.database, password, database).await.unwrap_err();
    let said = error.to_string();
    assert!(said.contains("permission denied for database"), "{} in {database}: {said}", user.name);
}

/// Everything of the roles and databases that a second run could touch.
async fn picture(server: &Postgres) -> String {
    let roles = "SELECT string_agg(r::text, ' ' ORDER BY r.oid) FROM pg_authid r WHERE r.oid > 16383";
    let databases = "SELECT string_agg(d::text || d.xmin, ' ' ORDER BY d.oid) FROM pg_database d";
    server.psql(roles).await.unwrap() + &server.psql(databases).await.unwrap()
}

#[tokio::test]
async fn each_role_has_its_own_database_and_no_other() {
    let server = server().await;
    let passwords = passwords();
    provisioned(&server, &passwords).await;
    for service in SERVICES {
        let own = &passwords.services[service.database];
        let mut connection = enter(&server, service.database, own, service.database).await.unwrap();
        run(&mut connection, "CREATE TABLE a (b int)").await.unwrap();
        run(&mut connection, "CREATE SCHEMA c").await.unwrap();
        for forbidden in
            ["CREATE ROLE x", "CREATE DATABASE x", "SELECT * FROM pg_authid", "COPY a TO '/tmp/x'"]
        {
            let said = run(&mut connection, forbidden).await.unwrap_err().to_string();
            assert!(said.contains("ermission denied") || said.contains("must be"), "{forbidden}: {said}");
        }
        connection.close().await.unwrap();
        for other in SERVICES.iter().map(|s| s.database).chain(["postgres", "template1"]) {
            if other != service.database {
                refused(&server, service, other).await;
            }
        }
        assert!(enter(&server, service.database, "wrong", service.database).await.is_err());
    }
    let before = picture(&server).await;
    provisioned(&server, &passwords).await;
    assert_eq!(picture(&server).await, before, "a second run changes nothing");
}

#[tokio::test]
async fn what_is_lost_or_changed_is_put_right_and_the_rest_is_left_alone() {
    let server = server().await;
    let mut passwords = passwords();
    provisioned(&server, &passwords).await;
    let agent = SERVICES[1];

    // Its password was edited in its Secret.
    passwords.services.insert(agent.database, "edited \\ 'by' hand".into());
    provisioned(&server, &passwords).await;
    assert!(enter(&server, agent.database, "edited \\ 'by' hand", agent.database).await.is_ok());
    assert!(enter(&server, agent.database, "of 'agent'", agent.database).await.is_err());

    // Somebody made it a superuser and let everybody in.
    server.psql("ALTER ROLE openfga SUPERUSER").await.unwrap();
    server.psql("GRANT CONNECT ON DATABASE temporal TO PUBLIC").await.unwrap();
    provisioned(&server, &passwords).await;
    refused(&server, SERVICES[2], "temporal").await;
    refused(&server, SERVICES[2], "postgres").await;

    // A role and a database are gone; those of others stay as they are.
    let kept = server.psql("SELECT oid, xmin FROM pg_authid WHERE rolname = 'somamemory'").await.unwrap();
    server.psql("DROP DATABASE temporal").await.unwrap();
    server.psql("DROP ROLE temporal").await.unwrap();
    provisioned(&server, &passwords).await;
    assert!(enter(&server, "temporal", &passwords.services["temporal"], "temporal").await.is_ok());
    assert_eq!(
        server.psql("SELECT oid, xmin FROM pg_authid WHERE rolname = 'somamemory'").await.unwrap(),
        kept
    );

    // An earlier attempt ended between making a database and giving it away.
    server.psql("DROP DATABASE openfga").await.unwrap();
    server.psql("CREATE DATABASE openfga").await.unwrap();
    provisioned(&server, &passwords).await;
    let mut own = enter(&server, "openfga", &passwords.services["openfga"], "openfga").await.unwrap();
    run(&mut own, "CREATE TABLE a (b int)").await.unwrap();
}

/// As releases made it that knew one database only.
#[tokio::test]
async fn an_older_installation_keeps_its_rows_and_password() {
    let server = server().await;
    server.psql("CREATE ROLE somamemory LOGIN PASSWORD 'old'").await.unwrap();
    server.psql("CREATE DATABASE somamemory OWNER somamemory").await.unwrap();
    let mut own = enter(&server, "somamemory", "old", "somamemory").await.unwrap();
    run(&mut own, "CREATE TABLE rows AS SELECT 7 AS n").await.unwrap();
    let services: BTreeMap<_, _> =
        passwords().services.into_iter().chain([("somamemory", "old".to_owned())]).collect();
    let verifier = "SELECT rolpassword FROM pg_authid WHERE rolname = 'somamemory'";
    let before = server.psql(verifier).await.unwrap();
    provisioned(&server, &Passwords { superuser: "super".into(), services }).await;
    assert_eq!(server.psql(verifier).await.unwrap(), before);
    let sum: i64 = sqlx::query_scalar("SELECT sum(n) FROM rows").fetch_one(&mut own).await.unwrap();
    assert_eq!(sum, 7, "the open connection went on");
}
