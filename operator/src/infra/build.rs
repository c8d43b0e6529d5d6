//! The objects of a SomaInfra. Pure.

use std::fmt::Write as _;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::{Value, json};

use super::validate::{Aliases, Managed, Passwords, Postgres, Wanted};
use crate::check::{self, Plan};
use crate::error::Error;
use crate::names::{Owner, label, object};
use crate::workload::{container_security, pod_security, typed};

/// User and group of the official image.
const UID: i64 = 999;
/// Port of a managed Postgres.
pub const PORT: u16 = 5432;

/// Everything a SomaInfra needs.
pub struct Objects {
    pub managed: Option<ManagedObjects>,
    pub aliases: Vec<Service>,
}

/// What a managed Postgres needs.
pub struct ManagedObjects {
    pub headless: Service,
    pub service: Service,
    pub budget: PodDisruptionBudget,
    pub set: StatefulSet,
}

pub fn objects(wanted: &Wanted) -> Result<Objects, Error> {
    let managed = match &wanted.postgres {
        Postgres::Managed(postgres) => Some(managed(wanted, postgres)?),
        Postgres::External(_) => None,
    };
    let aliases =
        wanted.aliases.as_ref().map_or(Ok(Vec::new()), |aliases| alias_services(&wanted.owner, aliases))?;
    Ok(Objects { managed, aliases })
}

/// Lints what was built.
pub fn check(objects: &Objects) -> Result<(), Error> {
    let Objects { managed, aliases } = objects;
    let mut plan = Plan::default();
    for alias in aliases {
        plan.service(alias);
    }
    if let Some(ManagedObjects { headless, service, budget, set }) = managed {
        plan.secret(object::POSTGRES_SECRET, &["password"]);
        plan.service(headless);
        plan.service(service);
        plan.budget(budget);
        plan.stateful_set(set);
    }
    check::sound(&plan)
}

fn managed(wanted: &Wanted, postgres: &Managed) -> Result<ManagedObjects, Error> {
    let owner = &wanted.owner;
    let meta = |name: &str| metadata(wanted, name);
    let selector = owner.selector(object::POSTGRES);
    let port = json!([{"name": "postgres", "port": PORT, "targetPort": "postgres", "protocol": "TCP"}]);
    Ok(ManagedObjects {
        headless: typed(&json!({
            "apiVersion": "v1", "kind": "Service", "metadata": meta(object::POSTGRES_HEADLESS),
            "spec": {"clusterIP": "None", "publishNotReadyAddresses": true, "selector": selector, "ports": port},
        }))?,
        service: typed(&json!({
            "apiVersion": "v1", "kind": "Service", "metadata": meta(object::POSTGRES),
            "spec": {"selector": selector, "ports": port},
        }))?,
        budget: typed(&json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": meta(object::POSTGRES),
            "spec": {"maxUnavailable": 1, "unhealthyPodEvictionPolicy": "AlwaysAllow", "selector": {"matchLabels": selector}},
        }))?,
        set: typed(&json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": meta(object::POSTGRES),
            "spec": {
                "replicas": 1,
                "serviceName": object::POSTGRES_HEADLESS,
                "podManagementPolicy": "Parallel",
                // The operator rolls the pod itself, when its predicate allows it.
                "updateStrategy": {"type": "OnDelete"},
                "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
                "selector": {"matchLabels": selector},
                "template": {
                    "metadata": {"labels": owner.labels(object::POSTGRES)},
                    "spec": pod(postgres),
                },
                "volumeClaimTemplates": [claim(postgres)],
            },
        }))?,
    })
}

fn metadata(wanted: &Wanted, name: &str) -> Value {
    json!({
        "name": name,
        "namespace": wanted.owner.namespace,
        "labels": wanted.owner.labels(object::POSTGRES),
        "ownerReferences": [wanted.owner_reference],
    })
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
            "image": postgres.image,
            "imagePullPolicy": "IfNotPresent",
            "securityContext": container_security(),
            "env": [
                {"name": "PGDATA", "value": "/var/lib/postgresql/data/pgdata"},
                {"name": "POSTGRES_INITDB_ARGS", "value": "--auth-host=scram-sha-256 --data-checksums"},
                {"name": "POSTGRES_PASSWORD_FILE", "value": "/etc/soma/superuser/password"},
            ],
            "ports": [{"name": "postgres", "containerPort": PORT, "protocol": "TCP"}],
            "resources": postgres.resources.json(),
            // Replaying the log after a crash may take long; liveness must not begin before it is done.
            "startupProbe": {"exec": ready, "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": 1800},
            "readinessProbe": {"exec": ready, "periodSeconds": 5, "timeoutSeconds": 5},
            "livenessProbe": {"tcpSocket": {"port": "postgres"}, "periodSeconds": 10, "failureThreshold": 6},
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "volumeMounts": [
                {"name": object::POSTGRES_VOLUME, "mountPath": "/var/lib/postgresql/data"},
                {"name": "superuser", "mountPath": "/etc/soma/superuser", "readOnly": true},
                {"name": "run", "mountPath": "/var/run/postgresql"},
                {"name": "tmp", "mountPath": "/tmp"},
            ],
        }],
        "volumes": [
            {"name": "superuser", "secret": {
                "secretName": object::POSTGRES_SECRET,
                "defaultMode": 0o440,
                "items": [{"key": "password", "path": "password"}],
            }},
            {"name": "run", "emptyDir": {}},
            {"name": "tmp", "emptyDir": {}},
        ],
    })
}

/// No labels of a release: a claim template cannot change.
fn claim(postgres: &Managed) -> Value {
    let mut spec = json!({
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": postgres.size}},
    });
    if let Some(class) = &postgres.storage_class {
        spec["storageClassName"] = class.as_str().into();
    }
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": object::POSTGRES_VOLUME}, "spec": spec})
}

/// `postgres.<namespace>.svc.cluster.local` for each alias namespace. No owner reference: it cannot cross namespaces.
fn alias_services(owner: &Owner, aliases: &Aliases) -> Result<Vec<Service>, Error> {
    let mut labels = owner.labels(object::POSTGRES);
    labels.insert(label::ROLE.into(), "alias".into());
    let service = |namespace: &String| {
        typed(&json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": object::POSTGRES, "namespace": namespace, "labels": labels},
            "spec": {"type": "ExternalName", "externalName": aliases.target},
        }))
    };
    aliases.namespaces.iter().map(service).collect()
}

/// The Secret with the passwords of a managed Postgres. No owner reference: it has to outlive everything but the volume.
pub fn password_secret(owner: &Owner, passwords: &Passwords) -> Result<Secret, Error> {
    secret(
        owner,
        object::POSTGRES_SECRET,
        &[("password", &passwords.superuser), (object::MEMORY_DATABASE, &passwords.memory)],
    )
}

/// What a client needs to connect.
pub struct Connection<'a> {
    pub host: &'a str,
    pub port: u16,
    pub database: &'a str,
    pub username: &'a str,
    pub password: &'a str,
    pub sslmode: &'a str,
    pub mode: &'a str,
}

/// `postgres-conn`: all that a SomaStack reads. No owner reference: it stays under deletion policy `Retain`.
pub fn connection_secret(owner: &Owner, connection: &Connection<'_>) -> Result<Secret, Error> {
    let Connection { host, port, database, username, password, sslmode, mode } = *connection;
    let uri = format!(
        "postgresql://{}:{}@{host}:{port}/{}?sslmode={sslmode}",
        percent_encode(username),
        percent_encode(password),
        percent_encode(database),
    );
    secret(
        owner,
        object::POSTGRES_CONN,
        &[
            ("host", host),
            ("port", &port.to_string()),
            ("database", database),
            ("username", username),
            ("password", password),
            ("sslmode", sslmode),
            ("uri", &uri),
            ("mode", mode),
        ],
    )
}

fn secret(owner: &Owner, name: &str, data: &[(&str, &str)]) -> Result<Secret, Error> {
    let mut secret: Secret = typed(&json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": {"name": name, "namespace": owner.namespace, "labels": owner.labels(object::POSTGRES)},
    }))?;
    let bytes = |text: &str| k8s_openapi::ByteString(text.as_bytes().to_vec());
    secret.data = Some(data.iter().map(|(key, value)| ((*key).to_owned(), bytes(value))).collect());
    Ok(secret)
}

/// Encodes everything but RFC 3986 unreserved characters.
fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing into a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infra::fixture;
    use crate::infra::validate::validate;
    use soma_settings::{ConfigHash, canonical_json};

    #[test]
    fn a_managed_postgres_is_sound() {
        let wanted = validate(&fixture::managed(), &fixture::observed()).unwrap();
        let built = objects(&wanted).unwrap();
        check(&built).unwrap();
        let set = built.managed.unwrap().set;
        let json = serde_json::to_value(&set).unwrap();
        assert_eq!(json["spec"]["updateStrategy"]["type"], "OnDelete");
        assert!(
            json["spec"]["volumeClaimTemplates"][0]["metadata"]["labels"].is_null(),
            "claim templates are immutable"
        );
    }

    /// A new build of the operator must not change the pod template, or it would restart every Postgres.
    #[test]
    fn the_pod_template_of_postgres_does_not_change_by_accident() {
        let wanted = validate(&fixture::managed(), &fixture::observed()).unwrap();
        let set = objects(&wanted).unwrap().managed.unwrap().set;
        let template = serde_json::to_value(&set).unwrap()["spec"]["template"].clone();
        assert_eq!(ConfigHash::of(&canonical_json(&template)).short(), "6946336f");
    }

    #[test]
    fn an_external_postgres_makes_no_workload_and_its_alias_is_its_host() {
        let (infra, observed) = fixture::external();
        let built = objects(&validate(&infra, &observed).unwrap()).unwrap();
        assert!(built.managed.is_none());
        assert_eq!(built.aliases.len(), 1);
        let spec = built.aliases[0].spec.clone().unwrap();
        assert_eq!(spec.external_name.as_deref(), Some("db.example.org"));
        assert!(built.aliases[0].metadata.owner_references.is_none(), "owners cannot cross namespaces");
    }

    #[test]
    fn the_uri_of_a_strange_password_is_encoded() {
        let owner = fixture::owner();
        let connection = Connection {
            host: "h",
            port: 5432,
            database: "d",
            username: "u@x",
            password: "p/:ä",
            sslmode: "prefer",
            mode: "external",
        };
        let secret = connection_secret(&owner, &connection).unwrap();
        let uri = String::from_utf8(secret.data.unwrap()["uri"].0.clone()).unwrap();
        assert_eq!(uri, "postgresql://u%40x:p%2F%3A%C3%A4@h:5432/d?sslmode=prefer");
    }
}
