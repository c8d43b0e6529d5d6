//! The objects of a managed OpenFGA, and its connection Secret. Pure.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::{Value, json};
use soma_crds::Mode;
use soma_settings::{ConfigHash, canonical_json};

use super::kept::{Kept, TOKEN};
use super::validate::{Database, Managed};
use crate::check::{self, Plan};
use crate::error::Error;
use crate::infra::{Site, network, secret, set};
use crate::names::{label, object};
use crate::workload::{Resources, container_security, pod_security, typed};

/// Ports of clients, and that of metrics.
const PORTS: [(&str, u16); 3] = [("http", HTTP), ("grpc", 8081), ("metrics", 2112)];
pub const HTTP: u16 = 8080;
/// User of the official image.
const UID: i64 = 65532;

/// Everything OpenFGA needs. Destructured without `..` where it is applied.
pub struct Objects {
    /// Named by what it runs; it has to succeed before pods of this image start.
    pub migration: Job,
    pub service: Service,
    pub budget: PodDisruptionBudget,
    pub policy: NetworkPolicy,
    pub deployment: Deployment,
}

pub fn objects(
    site: &Site<'_>,
    openfga: &Managed,
    database: &Database,
    kept: &Kept,
) -> Result<Objects, Error> {
    let selector = site.owner.selector(object::OPENFGA);
    let meta = || site.metadata(object::OPENFGA, object::OPENFGA);
    let port = |(name, port): (&str, u16)| json!({"name": name, "port": port, "targetPort": name, "protocol": "TCP"});
    let objects = Objects {
        migration: migration(site, openfga, database)?,
        service: typed(&json!({
            "apiVersion": "v1", "kind": "Service", "metadata": meta(),
            "spec": {"selector": selector, "ports": PORTS.map(port)},
        }))?,
        budget: typed(&json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": meta(),
            "spec": {"maxUnavailable": 1, "unhealthyPodEvictionPolicy": "AlwaysAllow", "selector": {"matchLabels": selector}},
        }))?,
        policy: network::policy(site, object::OPENFGA, &PORTS)?,
        deployment: typed(&json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta(),
            "spec": {
                "replicas": openfga.replicas,
                "revisionHistoryLimit": 1,
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
                "selector": {"matchLabels": selector},
                "template": {
                    "metadata": {
                        "labels": site.owner.labels(object::OPENFGA),
                        // What pods read from Secrets they read only when they start.
                        "annotations": {label::CONFIG_HASH: database.hash(&kept.token)},
                    },
                    "spec": pod(site, openfga, database),
                },
            },
        }))?,
    };
    check(&objects)?;
    Ok(objects)
}

/// Lints what was built.
fn check(objects: &Objects) -> Result<(), Error> {
    let Objects { migration, service, budget, policy, deployment } = objects;
    let mut plan = Plan::default();
    plan.job(migration);
    plan.service(service);
    plan.budget(budget);
    plan.policy(policy);
    plan.deployment(deployment);
    check::sound(&plan)
}

fn from(secret: &str, key: &str) -> Value {
    json!({"secretKeyRef": {"name": secret, "key": key}})
}

/// User and password come from their Secret, so that neither a manifest nor a command line shows them.
pub fn datastore(database: &Database) -> [Value; 4] {
    [
        json!({"name": "OPENFGA_DATASTORE_ENGINE", "value": "postgres"}),
        json!({"name": "OPENFGA_DATASTORE_URI", "value": database.uri}),
        json!({"name": "OPENFGA_DATASTORE_USERNAME", "valueFrom": from(&database.secret, database.username_key)}),
        json!({"name": "OPENFGA_DATASTORE_PASSWORD", "valueFrom": from(&database.secret, database.password_key)}),
    ]
}

fn migration(site: &Site<'_>, openfga: &Managed, database: &Database) -> Result<Job, Error> {
    let spec = json!({
        // It goes on trying, later and later: a database that is away for an hour is no reason to need somebody.
        "backoffLimit": 10_000,
        "template": {
            "metadata": {"labels": site.owner.labels(object::OPENFGA_MIGRATE)},
            "spec": {
                "restartPolicy": "OnFailure",
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                "securityContext": pod_security(UID),
                "containers": [{
                    "name": object::OPENFGA_MIGRATE,
                    "image": openfga.image,
                    "imagePullPolicy": "IfNotPresent",
                    "args": ["migrate"],
                    "env": datastore(database),
                    "securityContext": container_security(),
                    "resources": Resources::of("50m", "64Mi", "256Mi").json(),
                    "terminationMessagePolicy": "FallbackToLogsOnError",
                }],
            },
        },
    });
    let name = format!("{}-{}", object::OPENFGA_MIGRATE, ConfigHash::of(&canonical_json(&spec)).short());
    typed(&json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": site.metadata(object::OPENFGA_MIGRATE, &name), "spec": spec,
    }))
}

fn pod(site: &Site<'_>, openfga: &Managed, database: &Database) -> Value {
    let setting = |name: &str, value: &str| json!({"name": format!("OPENFGA_{name}"), "value": value});
    let mut env = vec![
        setting("HTTP_ADDR", ":8080"),
        setting("GRPC_ADDR", ":8081"),
        setting("METRICS_ADDR", ":2112"),
        setting("PLAYGROUND_ENABLED", "false"),
        setting("LOG_FORMAT", "json"),
        setting("LOG_LEVEL", "warn"),
        setting("AUTHN_METHOD", "preshared"),
        json!({"name": "OPENFGA_AUTHN_PRESHARED_KEYS", "valueFrom": from(object::OPENFGA_STORE, TOKEN)}),
    ];
    env.extend(datastore(database));
    let listens = |period: u32, failures: u32| json!({"tcpSocket": {"port": "http"}, "periodSeconds": period, "timeoutSeconds": 5, "failureThreshold": failures});
    json!({
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "securityContext": pod_security(UID),
        "terminationGracePeriodSeconds": 30,
        "topologySpreadConstraints": [set::spread(site, object::OPENFGA)],
        "containers": [{
            "name": object::OPENFGA,
            "image": openfga.image,
            "imagePullPolicy": "IfNotPresent",
            "args": ["run"],
            "env": env,
            "securityContext": container_security(),
            "ports": PORTS.map(|(name, port)| json!({"name": name, "containerPort": port, "protocol": "TCP"})),
            "resources": openfga.resources.json(),
            // Neither asks for the database: a start again would not bring it back.
            "startupProbe": listens(1, 120),
            "livenessProbe": listens(10, 6),
            "readinessProbe": {
                "httpGet": {"path": "/healthz", "port": "http"},
                "periodSeconds": 2, "timeoutSeconds": 5, "failureThreshold": 3,
            },
            // It answers as long as some proxy may still send it something.
            "lifecycle": {"preStop": {"sleep": {"seconds": 3}}},
            "terminationMessagePolicy": "FallbackToLogsOnError",
        }],
    })
}

/// How the services reach OpenFGA, and what they ask about in it.
#[derive(Clone, PartialEq, Eq)]
pub struct Connection {
    pub url: String,
    pub host: String,
    pub port: u16,
    pub token: Option<String>,
    pub store: String,
    pub model: String,
}

/// `openfga-conn`.
pub fn connection_secret(site: &Site<'_>, mode: Mode, openfga: &Connection) -> Result<Secret, Error> {
    let Connection { url, host, port, token, store, model } = openfga;
    let mode = match mode {
        Mode::Managed => "managed",
        Mode::External => "external",
    };
    let port = port.to_string();
    let mut data = vec![
        ("mode", mode),
        ("url", url.as_str()),
        ("host", host),
        ("port", &port),
        ("store", store),
        ("model", model),
    ];
    data.extend(token.as_deref().map(|token| ("token", token)));
    secret::build(site, object::OPENFGA, object::OPENFGA_CONN, &data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infra::fixture;
    use crate::infra::openfga::validate::{Observed, OpenFga, validate};

    fn built(spec: &Value, password: &str) -> Objects {
        let infra = fixture::infra(json!({"openfga": {"managed": spec}}));
        let site = Site::new(&infra);
        let data = [
            ("host", "postgres.soma-infra.svc.cluster.local"),
            ("port", "5432"),
            ("database", "openfga"),
            ("username", "openfga"),
            ("password", password),
        ];
        let kept = fixture::secret(&[("token", "secret-token")]);
        let observed =
            Observed { database: Some(fixture::secret(&data)), kept: Some(kept), ..Observed::default() };
        let OpenFga::Managed(managed) = validate(&site, &observed).unwrap() else { panic!() };
        let (database, kept) = (managed.database.clone().unwrap(), managed.kept.clone().unwrap());
        objects(&site, &managed, &database, &kept).unwrap()
    }

    /// A new build of the operator must not change the pod templates, or it would restart every OpenFGA.
    #[test]
    fn the_pod_template_does_not_change_by_accident() {
        let built = built(&json!({}), "secret-password");
        let template = serde_json::to_value(&built.deployment).unwrap()["spec"]["template"].clone();
        let pods = ConfigHash::of(&canonical_json(&template)).short().to_owned();
        let expected = ("440c5855".to_owned(), Some("openfga-migrate-436ba374".to_owned()));
        assert_eq!((pods, built.migration.metadata.name), expected);
    }

    #[test]
    fn no_secret_is_in_a_manifest() {
        let Objects { migration, service, budget, policy, deployment } =
            built(&json!({"replicas": 3}), "secret-password");
        let all = serde_json::to_string(&(migration, service, budget, policy, deployment)).unwrap();
        assert!(!all.contains("secret-password") && !all.contains("secret-token"), "{all}");
    }

    #[test]
    fn pods_are_replaced_when_what_they_read_changes_and_migrated_for_when_the_image_does() {
        let of = |spec: Value, password: &str| {
            let built = built(&spec, password);
            let template = serde_json::to_value(built.deployment.spec.unwrap().template).unwrap();
            (built.migration.metadata.name.unwrap(), canonical_json(&template))
        };
        let (job, pods) = of(json!({}), "one");
        let (same_job, other_pods) = of(json!({}), "two");
        assert!(job == same_job && pods != other_pods);
        assert_eq!(of(json!({"replicas": 4}), "one"), (job.clone(), pods));
        assert_ne!(of(json!({"image": "openfga/openfga:v2"}), "one").0, job);
    }
}
