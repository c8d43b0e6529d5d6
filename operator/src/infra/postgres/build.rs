//! The objects of a managed Postgres, and the Secrets of both modes. Pure.

use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};

use super::backup;
use super::passwords::Credentials;
use super::service::{MEMORY, Service};
use super::validate::{External, Managed, Passwords};
use crate::error::Error;
use crate::infra::set::{self, Objects, Shape};
use crate::infra::{Site, secret};
use crate::names::object;
use crate::workload::{container_security, pod_security};

/// User and group of the official image.
pub const UID: i64 = 999;
/// Where the data is.
pub const DATA: &str = "/var/lib/postgresql/data/pgdata";
/// Port of a managed Postgres.
pub const PORT: u16 = 5432;

pub fn objects(site: &Site<'_>, postgres: &Managed) -> Result<Objects, Error> {
    let shape = Shape {
        component: object::POSTGRES,
        replicas: 1,
        ports: &[("postgres", PORT)],
        peer_ports: &[],
        pod: pod(postgres),
        volume: &postgres.member.volume,
    };
    set::objects(site, &shape, None)
}

fn pod(postgres: &Managed) -> Value {
    // Over TCP: the server that the image starts for initialisation listens on a socket only and is not ready.
    let ready =
        json!({"command": ["pg_isready", "-h", "127.0.0.1", "-p", PORT.to_string(), "-U", "postgres"]});
    json!({
        "securityContext": pod_security(UID),
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        // A fast shutdown writes a checkpoint; killed before, the next start replays the log.
        "terminationGracePeriodSeconds": 120,
        "containers": [{
            "name": object::POSTGRES,
            "image": postgres.member.image,
            "imagePullPolicy": "IfNotPresent",
            "securityContext": container_security(),
            "env": [
                {"name": "PGDATA", "value": DATA},
                {"name": "POSTGRES_INITDB_ARGS", "value": "--auth-host=scram-sha-256 --data-checksums"},
                {"name": "POSTGRES_PASSWORD_FILE", "value": "/etc/soma/superuser/password"},
            ],
            "ports": [{"name": "postgres", "containerPort": PORT, "protocol": "TCP"}],
            "resources": postgres.member.resources.json(),
            // Replaying the log after a crash may take long; liveness must not begin before it is done.
            "startupProbe": {"exec": ready, "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": 1800},
            "readinessProbe": {"exec": ready, "periodSeconds": 5, "timeoutSeconds": 5},
            "livenessProbe": {"tcpSocket": {"port": "postgres"}, "periodSeconds": 10, "failureThreshold": 6},
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "volumeMounts": [
                {"name": set::VOLUME, "mountPath": "/var/lib/postgresql/data"},
                {"name": "superuser", "mountPath": "/etc/soma/superuser", "readOnly": true},
                {"name": "run", "mountPath": "/var/run/postgresql"},
                {"name": "tmp", "mountPath": "/tmp"},
            ],
        }],
        "volumes": [
            backup::superuser(),
            {"name": "run", "emptyDir": {}},
            {"name": "tmp", "emptyDir": {}},
        ],
    })
}

/// The Secret with the passwords of a managed Postgres.
pub fn password_secret(site: &Site<'_>, passwords: &Passwords) -> Result<Secret, Error> {
    let services = passwords.services.iter().map(|(database, password)| (*database, password.as_str()));
    let data: Vec<_> = [("password", passwords.superuser.as_str())].into_iter().chain(services).collect();
    secret::build(site, object::POSTGRES, object::POSTGRES_SECRET, &data)
}

/// Where a service finds its database, and as whom.
pub fn user_secret(site: &Site<'_>, service: Service, password: &str) -> Result<Secret, Error> {
    let (host, port) = (site.host(object::POSTGRES), PORT.to_string());
    let data = [
        ("host", host.as_str()),
        ("port", &port),
        ("database", service.database),
        ("username", service.database),
        ("password", password),
    ];
    secret::build(site, object::POSTGRES, &service.secret_name(), &data)
}

/// `postgres-conn`: all that a SomaStack reads.
pub fn connection_secret(site: &Site<'_>, credentials: &Credentials) -> Result<Secret, Error> {
    let own = site.host(object::POSTGRES);
    let (host, port, database, username, password, sslmode, mode) = match credentials {
        Credentials::Managed(passwords) => {
            let name = MEMORY.database;
            let password = passwords.services.get(name).map_or("", String::as_str);
            (own.as_str(), PORT, name, name, password, "prefer", "managed")
        }
        Credentials::External(External { host, port, database, username, password, sslmode }) => (
            host.as_str(),
            *port,
            database.as_str(),
            username.as_str(),
            password.as_str(),
            sslmode.as_str(),
            "external",
        ),
    };
    let encode = secret::percent_encode;
    let uri = format!(
        "postgresql://{}:{}@{host}:{port}/{}?sslmode={sslmode}",
        encode(username),
        encode(password),
        encode(database),
    );
    let data = [
        ("host", host),
        ("port", &port.to_string()),
        ("database", database),
        ("username", username),
        ("password", password),
        ("sslmode", sslmode),
        ("uri", &uri),
        ("mode", mode),
    ];
    secret::build(site, object::POSTGRES, object::POSTGRES_CONN, &data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{self, Plan};
    use crate::infra::fixture;
    use crate::infra::postgres::validate::{Observed, Postgres, validate};
    use soma_settings::{ConfigHash, SslMode, canonical_json};

    fn built() -> Objects {
        let infra = fixture::managed();
        let site = Site::new(&infra);
        let Postgres::Managed(managed) = validate(&site, &Observed::default()).unwrap() else { panic!() };
        objects(&site, &managed).unwrap()
    }

    #[test]
    fn a_managed_postgres_is_sound() {
        let built = built();
        let mut plan = Plan::default();
        plan.secret(object::POSTGRES_SECRET, &["password"]);
        built.plan(&mut plan);
        check::sound(&plan).unwrap();
        let json = serde_json::to_value(&built.set).unwrap();
        assert_eq!(json["spec"]["updateStrategy"]["type"], "OnDelete");
        assert!(
            json["spec"]["volumeClaimTemplates"][0]["metadata"]["labels"].is_null(),
            "claim templates are immutable"
        );
    }

    /// A new build of the operator must not change the pod template, or it would restart every Postgres.
    #[test]
    fn the_pod_template_of_postgres_does_not_change_by_accident() {
        let template = serde_json::to_value(built().set).unwrap()["spec"]["template"].clone();
        assert_eq!(ConfigHash::of(&canonical_json(&template)).short(), "6946336f");
    }

    #[test]
    fn the_uri_of_a_strange_password_is_encoded() {
        let infra = fixture::external();
        let external = External {
            host: "h".into(),
            port: 5432,
            database: "d".into(),
            username: "u@x".into(),
            password: "p/:ä".into(),
            sslmode: SslMode::Prefer,
        };
        let secret = connection_secret(&Site::new(&infra), &Credentials::External(external)).unwrap();
        let uri = secret::text(&secret, "uri").unwrap();
        assert_eq!(uri, "postgresql://u%40x:p%2F%3A%C3%A4@h:5432/d?sslmode=prefer");
    }
}
