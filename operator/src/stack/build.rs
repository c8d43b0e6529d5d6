//! The objects of a SomaStack. Pure.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::{Value, json};

use super::release::Release;
use super::validate::Wanted;
use crate::check::{self, Plan};
use crate::error::Error;
use crate::names::{label, object};
use crate::workload::{container_security, pod_security, typed};

/// User and group of the memory image.
const UID: i64 = 10_001;
const HTTP: u16 = 9595;
const GRPC: u16 = 50053;

/// Everything a SomaStack needs.
pub struct Objects {
    /// Made once; `None` when it is there.
    pub token: Option<Secret>,
    /// Copy of `postgres-conn`; `None` when the original is in the same namespace.
    pub conn: Option<Secret>,
    pub config: ConfigMap,
    pub deployment: Deployment,
    /// Only where more than one pod serves.
    pub budget: Option<PodDisruptionBudget>,
    pub service: Service,
}

pub fn objects(wanted: &Wanted, release: &Release) -> Result<Objects, Error> {
    Ok(Objects {
        token: wanted.needs_token.then(|| token(wanted)).transpose()?,
        conn: wanted.conn.as_ref().map(|_| connection(wanted)).transpose()?,
        config: typed(&json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(wanted, &wanted.config_map()),
            "immutable": true,
            "data": {"memory.json": wanted.payload},
        }))?,
        deployment: deployment(wanted)?,
        budget: (wanted.replicas > 1).then(|| budget(wanted)).transpose()?,
        service: service(wanted, &release.serving)?,
    })
}

/// Lints what was built.
pub fn check(objects: &Objects) -> Result<(), Error> {
    let Objects { token: _, conn: _, config, deployment, budget, service } = objects;
    let mut plan = Plan::default();
    plan.secret(object::API_TOKEN, &[object::API_TOKEN_KEY]);
    plan.secret(object::POSTGRES_CONN, &["username", "password"]);
    plan.config_map(config);
    plan.deployment(deployment);
    if let Some(budget) = budget {
        plan.budget(budget);
    }
    plan.service(service);
    check::sound(&plan)
}

fn metadata(wanted: &Wanted, name: &str) -> Value {
    json!({
        "name": name,
        "namespace": wanted.owner.namespace,
        "labels": wanted.owner.labels(object::MEMORY),
        "ownerReferences": [wanted.owner_reference],
    })
}

/// No owner reference: a new stack in this namespace keeps the clients of the old one.
fn token(wanted: &Wanted) -> Result<Secret, Error> {
    let mut secret: Secret = typed(&json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": {
            "name": object::API_TOKEN,
            "namespace": wanted.owner.namespace,
            "labels": wanted.owner.labels(object::MEMORY),
        },
    }))?;
    let bytes = k8s_openapi::ByteString(crate::random::secret().into_bytes());
    secret.data = Some([(object::API_TOKEN_KEY.to_owned(), bytes)].into());
    Ok(secret)
}

fn connection(wanted: &Wanted) -> Result<Secret, Error> {
    let mut secret: Secret = typed(&json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": metadata(wanted, object::POSTGRES_CONN),
    }))?;
    secret.data.clone_from(&wanted.conn);
    Ok(secret)
}

fn service(wanted: &Wanted, serving: &str) -> Result<Service, Error> {
    let mut selector = wanted.owner.selector(object::MEMORY);
    selector.insert(label::REVISION.into(), serving.into());
    typed(&json!({
        "apiVersion": "v1", "kind": "Service", "metadata": metadata(wanted, object::MEMORY),
        "spec": {"selector": selector, "ports": [
            {"name": "http", "port": HTTP, "targetPort": "http", "protocol": "TCP"},
            {"name": "grpc", "port": GRPC, "targetPort": "grpc", "protocol": "TCP", "appProtocol": "kubernetes.io/h2c"},
        ]},
    }))
}

fn budget(wanted: &Wanted) -> Result<PodDisruptionBudget, Error> {
    typed(&json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": metadata(wanted, object::MEMORY),
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": wanted.owner.selector(object::MEMORY)},
        },
    }))
}

fn deployment(wanted: &Wanted) -> Result<Deployment, Error> {
    let mut selector = wanted.owner.selector(object::MEMORY);
    selector.insert(label::REVISION.into(), wanted.revision.clone());
    let mut labels = wanted.owner.labels(object::MEMORY);
    labels.insert(label::REVISION.into(), wanted.revision.clone());
    labels.insert(label::CONFIG_HASH.into(), wanted.config_hash.to_string());
    labels.insert(label::CONFIG_HASH_SHORT.into(), wanted.config_hash.to_string());
    let mut meta = metadata(wanted, &wanted.revision);
    meta["labels"] = json!(labels);
    typed(&json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta,
        "spec": {
            "replicas": wanted.replicas,
            "revisionHistoryLimit": 1,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "selector": {"matchLabels": selector},
            "template": {"metadata": {"labels": labels}, "spec": pod(wanted, &selector)},
        },
    }))
}

fn pod(wanted: &Wanted, selector: &std::collections::BTreeMap<String, String>) -> Value {
    json!({
        "securityContext": pod_security(UID),
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": 30,
        "topologySpreadConstraints": [{
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": selector},
        }],
        "containers": [container(wanted)],
        "volumes": [
            {"name": "etc", "projected": {"defaultMode": 0o440, "sources": [
                {"configMap": {"name": wanted.config_map(), "items": [{"key": "memory.json", "path": "memory.json"}]}},
                {"secret": {"name": object::POSTGRES_CONN, "items": [
                    {"key": "username", "path": "postgres/username"},
                    {"key": "password", "path": "postgres/password"},
                ]}},
                {"secret": {"name": object::API_TOKEN, "items": [
                    {"key": object::API_TOKEN_KEY, "path": "api-token"},
                ]}},
            ]}},
            {"name": "tmp", "emptyDir": {}},
        ],
    })
}

fn container(wanted: &Wanted) -> Value {
    json!({
        "name": object::MEMORY,
        "image": wanted.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/usr/local/bin/soma-memory"],
        "args": ["--config", "/etc/soma/memory.json"],
        "securityContext": container_security(),
        "env": [{"name": "SOMA_API_TOKEN_FILE", "value": "/etc/soma/api-token"}],
        "ports": [
            {"name": "http", "containerPort": HTTP, "protocol": "TCP"},
            {"name": "grpc", "containerPort": GRPC, "protocol": "TCP"},
        ],
        "resources": wanted.resources.json(),
        "startupProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 1, "failureThreshold": 120},
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": "http"}, "periodSeconds": 2, "timeoutSeconds": 3},
        "livenessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 10, "timeoutSeconds": 5},
        // Every node's proxy needs a moment to learn that the pod is gone; until then it still gets connections.
        "lifecycle": {"preStop": {"sleep": {"seconds": 2}}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "etc", "mountPath": "/etc/soma", "readOnly": true},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::{fixture, release, validate::validate};
    use soma_settings::{ConfigHash, canonical_json};

    fn built(spec: Value) -> Objects {
        let wanted = validate(&fixture::stack(spec), &fixture::observed()).unwrap();
        let release = release::next(&wanted.revision, wanted.replicas, None, &[]);
        let built = objects(&wanted, &release).unwrap();
        check(&built).unwrap();
        built
    }

    #[test]
    fn a_stack_is_sound_and_its_pods_carry_the_hash() {
        let built = built(json!({}));
        assert!(built.token.is_some() && built.conn.is_some() && built.budget.is_none());
        let template = serde_json::to_value(&built.deployment).unwrap()["spec"]["template"].clone();
        let labels = &template["metadata"]["labels"];
        assert_eq!(labels["configHash"], labels["somastack.dev/config-hash"]);
        assert!(labels["configHash"].as_str().unwrap().starts_with("v1-"));
        assert_eq!(built.config.immutable, Some(true));
        let config = serde_json::to_string(&built.config).unwrap();
        assert!(!config.contains("password") && !config.contains("username"), "no secret in a ConfigMap");
        assert_eq!(
            built.service.spec.unwrap().selector.unwrap()[label::REVISION],
            built.deployment.metadata.name.unwrap()
        );
    }

    #[test]
    fn several_pods_get_a_budget_and_the_same_template() {
        let (one, three) = (built(json!({})), built(json!({"services": {"memory": {"replicas": 3}}})));
        assert!(three.budget.is_some());
        let template = |o: &Objects| o.deployment.spec.as_ref().unwrap().template.clone();
        assert_eq!(template(&one), template(&three));
    }

    #[test]
    fn a_stack_beside_its_infra_reads_the_original_secret() {
        let mut stack = fixture::stack(json!({}));
        stack.spec.infra_ref.namespace = None;
        let wanted = validate(&stack, &fixture::observed()).unwrap();
        assert!(wanted.conn.is_none());
    }

    /// Raise `TEMPLATE` in revision.rs when this fails on purpose.
    #[test]
    fn the_pod_template_does_not_change_without_a_new_template_version() {
        let template = serde_json::to_value(built(json!({})).deployment).unwrap()["spec"]["template"].clone();
        assert_eq!(ConfigHash::of(&canonical_json(&template)).short(), "a90e311f");
    }
}
