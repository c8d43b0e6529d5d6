//! The objects of a managed Vault, and its connection Secret. Pure.

use k8s_openapi::api::core::v1::{ConfigMap, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use serde_json::{Value, json};
use soma_settings::{ConfigHash, canonical_json};

use super::validate::{Address, Managed, PORT};
use crate::error::Error;
use crate::infra::set::{self, Shape};
use crate::infra::{Site, secret};
use crate::names::object;
use crate::workload::{container_security, pod_security, typed};

/// User of the official image.
const UID: i64 = 100;
/// Port between members.
const PEER_PORT: u16 = 8201;
/// Members named in the configuration, whether they exist or not: so that growing restarts nobody.
const MAX_MEMBERS: u16 = 5;
const CONFIG_KEY: &str = "vault.json";
const FOLDER: &str = "/etc/soma/vault";

/// The objects of a managed Vault. Destructured without `..` where they are applied.
pub struct Objects {
    pub account: ServiceAccount,
    /// Lets Vault ask the API server whose token it was given.
    pub reviewer: ClusterRoleBinding,
    pub set: set::Objects,
}

pub fn objects(site: &Site<'_>, vault: &Managed) -> Result<Objects, Error> {
    let config = config(site)?;
    let shape = Shape {
        component: object::VAULT,
        replicas: vault.replicas,
        ports: &[("http", PORT)],
        peer_ports: &[("peer", PEER_PORT)],
        pod: pod(site, vault, config.metadata.name.as_deref().unwrap_or_default()),
        volume: &vault.member.volume,
    };
    let namespace = &site.owner.namespace;
    Ok(Objects {
        account: typed(&json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": site.metadata(object::VAULT, object::VAULT),
        }))?,
        // No owner reference: an owner in a namespace cannot have a child outside of any.
        reviewer: typed(&json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": reviewer_name(namespace), "labels": site.owner.labels(object::VAULT)},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:auth-delegator"},
            "subjects": [{"kind": "ServiceAccount", "name": object::VAULT, "namespace": namespace}],
        }))?,
        set: set::objects(site, &shape, Some(config))?,
    })
}

/// Name of the ClusterRoleBinding for the Vault of a namespace.
pub fn reviewer_name(namespace: &str) -> String {
    format!("soma-vault-{namespace}")
}

/// Immutable and named by its content. It does not depend on the number of members.
fn config(site: &Site<'_>) -> Result<ConfigMap, Error> {
    let peer = |n| json!({"leader_api_addr": format!("http://{}:{PORT}", member_host(site, &set::pod_name(object::VAULT, n)))});
    let config = canonical_json(&json!({
        "disable_mlock": true,
        "ui": false,
        "listener": [{"tcp": {
            "address": format!("[::]:{PORT}"),
            "cluster_address": format!("[::]:{PEER_PORT}"),
            "tls_disable": true,
            "telemetry": {"unauthenticated_metrics_access": true},
        }}],
        "storage": {"raft": {"path": "/vault/data", "retry_join": (0..MAX_MEMBERS).map(peer).collect::<Vec<_>>()}},
        "telemetry": {"prometheus_retention_time": "30s", "disable_hostname": true},
    }));
    let name = format!("vault-config-{}", ConfigHash::of(&config).short());
    typed(&json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": site.metadata(object::VAULT, &name),
        "immutable": true, "data": {CONFIG_KEY: config},
    }))
}

/// DNS name of one member.
fn member_host(site: &Site<'_>, pod: &str) -> String {
    format!("{pod}.{}.{}.svc.cluster.local", set::headless_name(object::VAULT), site.owner.namespace)
}

fn pod(site: &Site<'_>, vault: &Managed, config: &str) -> Value {
    let own = member_host(site, "$(POD_NAME)");
    // A member that is sealed or empty lives, but is not ready: the Service leads to open members only.
    let alive = json!({"httpGet": {"path": "/v1/sys/health?standbyok=true&perfstandbyok=true&sealedcode=204&uninitcode=204", "port": "http"}});
    let with = |probe: &Value, more: Value| {
        let mut probe = probe.clone();
        for (key, value) in more.as_object().into_iter().flatten() {
            probe[key] = value.clone();
        }
        probe
    };
    let ready =
        json!({"httpGet": {"path": "/v1/sys/health?standbyok=true&perfstandbyok=true", "port": "http"}});
    json!({
        "serviceAccountName": object::VAULT,
        // Vault asks the API server whose token it was given.
        "automountServiceAccountToken": true,
        "enableServiceLinks": false,
        "securityContext": pod_security(UID),
        "terminationGracePeriodSeconds": 30,
        "topologySpreadConstraints": [set::spread(site, object::VAULT)],
        "containers": [{
            "name": object::VAULT,
            "image": vault.member.image,
            "imagePullPolicy": "IfNotPresent",
            // OpenBao's program has another name and takes the same configuration.
            "command": ["/bin/sh", "-c", format!("exec \"$(command -v vault || command -v bao)\" server -config={FOLDER}/{CONFIG_KEY}")],
            "securityContext": container_security(),
            "env": [
                {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "VAULT_API_ADDR", "value": format!("http://{own}:{PORT}")},
                {"name": "VAULT_CLUSTER_ADDR", "value": format!("https://{own}:{PEER_PORT}")},
                {"name": "VAULT_RAFT_NODE_ID", "value": "$(POD_NAME)"},
                // For `kubectl exec vault-0 -- vault …`.
                {"name": "VAULT_ADDR", "value": format!("http://127.0.0.1:{PORT}")},
                {"name": "HOME", "value": "/tmp"},
            ],
            "ports": [
                {"name": "http", "containerPort": PORT, "protocol": "TCP"},
                {"name": "peer", "containerPort": PEER_PORT, "protocol": "TCP"},
            ],
            "resources": vault.member.resources.json(),
            "startupProbe": with(&alive, json!({"periodSeconds": 1, "timeoutSeconds": 3, "failureThreshold": 300})),
            "livenessProbe": with(&alive, json!({"periodSeconds": 10, "timeoutSeconds": 3, "failureThreshold": 6})),
            "readinessProbe": with(&ready, json!({"periodSeconds": 2, "timeoutSeconds": 3})),
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "volumeMounts": [
                {"name": set::VOLUME, "mountPath": "/vault/data"},
                {"name": "config", "mountPath": FOLDER, "readOnly": true},
                {"name": "tmp", "mountPath": "/tmp"},
            ],
        }],
        "volumes": [
            {"name": "config", "configMap": {"name": config, "items": [{"key": CONFIG_KEY, "path": CONFIG_KEY}]}},
            {"name": "tmp", "emptyDir": {}},
        ],
    })
}

/// `vault-conn`: all that a SomaStack reads.
pub fn connection_secret(site: &Site<'_>, address: &Address, mode: &str) -> Result<Secret, Error> {
    let Address { scheme, host, port } = address;
    let data = [
        ("scheme", scheme.as_str()),
        ("host", host),
        ("port", &port.to_string()),
        ("address", &address.url()),
        ("mode", mode),
    ];
    secret::build(site, object::VAULT, object::VAULT_CONN, &data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{self, Plan};
    use crate::infra::fixture;
    use crate::infra::vault::validate::{Observed, Vault, validate};

    fn built(replicas: u16) -> Objects {
        let infra = fixture::infra(json!({"vault": {"managed": {"replicas": replicas}}}));
        let site = Site::new(&infra);
        let Vault::Managed(managed) = validate(&site, &Observed::default()).unwrap() else { panic!() };
        objects(&site, &managed).unwrap()
    }

    #[test]
    fn a_managed_vault_is_sound() {
        let mut plan = Plan::default();
        built(3).set.plan(&mut plan);
        check::sound(&plan).unwrap();
    }

    /// A new build of the operator must not change the pod template, or it would restart every Vault; nor may growth.
    #[test]
    fn the_pod_template_changes_neither_by_accident_nor_by_growth() {
        let hash = |replicas| {
            let template = serde_json::to_value(built(replicas).set.set).unwrap()["spec"]["template"].clone();
            ConfigHash::of(&canonical_json(&template)).short().to_owned()
        };
        assert_eq!(hash(1), hash(5));
        assert_eq!(hash(1), "76e6522f");
    }
}
