//! The objects of a managed etcd, and its connection Secret. Pure.

use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};

use super::auth;
use super::marker::key;
use super::validate::{Connection, Managed, PORT};
use crate::error::Error;
use crate::infra::set::{self, Objects, Shape};
use crate::infra::{Site, secret};
use crate::names::object;
use crate::workload::{container_security, pod_security};

/// Any user but root: the image has no user of its own.
const UID: i64 = 1000;
/// Port between members.
pub const PEER_PORT: u16 = 2380;
/// Port of probes and metrics, open to everybody.
const METRICS_PORT: u16 = 2381;
const FOLDER: &str = "/var/lib/etcd";

/// `pods` run: those that are members, and at most one more.
pub fn objects(site: &Site<'_>, etcd: &Managed, pods: u16) -> Result<Objects, Error> {
    let shape = Shape {
        component: object::ETCD,
        replicas: pods,
        ports: &[("client", PORT)],
        peer_ports: &[("peer", PEER_PORT), ("metrics", METRICS_PORT)],
        pod: pod(site, etcd),
        volume: &etcd.member.volume,
    };
    set::objects(site, &shape, None)
}

/// Where members reach a member, as the list of members has it.
pub fn peer_url(site: &Site<'_>, ordinal: u16) -> String {
    format!("http://{}:{PEER_PORT}", member_host(site, &set::pod_name(object::ETCD, ordinal)))
}

/// DNS name of one member.
fn member_host(site: &Site<'_>, pod: &str) -> String {
    format!("{pod}.{}.{}.svc.cluster.local", set::headless_name(object::ETCD), site.owner.namespace)
}

/// The same for every member, whether it forms the cluster, joins it or restarts: `etcd-cluster` says which.
fn pod(site: &Site<'_>, etcd: &Managed) -> Value {
    let own = member_host(site, "$(POD_NAME)");
    // Not optional: without it an empty member would form a cluster of its own.
    let told =
        |key: &str| json!({"secretKeyRef": {"name": object::ETCD_CLUSTER, "key": key, "optional": false}});
    let alive = |more: Value| probe("/livez", more);
    json!({
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "securityContext": pod_security(UID),
        // A leader hands over before it ends.
        "terminationGracePeriodSeconds": 30,
        "topologySpreadConstraints": [set::spread(site, object::ETCD)],
        "containers": [{
            "name": object::ETCD,
            "image": etcd.member.image,
            "imagePullPolicy": "IfNotPresent",
            "command": ["/usr/local/bin/etcd"],
            "args": [
                "--name=$(POD_NAME)",
                format!("--data-dir={FOLDER}/data"),
                format!("--listen-client-urls=http://[::]:{PORT}"),
                format!("--advertise-client-urls=http://{own}:{PORT}"),
                format!("--listen-peer-urls=http://[::]:{PEER_PORT}"),
                format!("--initial-advertise-peer-urls=http://{own}:{PEER_PORT}"),
                format!("--listen-metrics-urls=http://[::]:{METRICS_PORT}"),
                format!("--quota-backend-bytes={}", etcd.quota),
                "--auto-compaction-mode=periodic",
                "--auto-compaction-retention=1h",
            ],
            "securityContext": container_security(),
            "env": [
                {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "ETCD_INITIAL_CLUSTER", "valueFrom": told(key::CLUSTER)},
                {"name": "ETCD_INITIAL_CLUSTER_STATE", "valueFrom": told(key::STATE)},
                {"name": "ETCD_INITIAL_CLUSTER_TOKEN", "valueFrom": told(key::TOKEN)},
            ],
            "ports": [
                {"name": "client", "containerPort": PORT, "protocol": "TCP"},
                {"name": "peer", "containerPort": PEER_PORT, "protocol": "TCP"},
                {"name": "metrics", "containerPort": METRICS_PORT, "protocol": "TCP"},
            ],
            "resources": etcd.member.resources.json(),
            "startupProbe": alive(json!({"periodSeconds": 1, "timeoutSeconds": 3, "failureThreshold": 300})),
            "livenessProbe": alive(json!({"periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6})),
            // A learner, and a member without a leader, are not ready: the Service does not lead to them.
            "readinessProbe": probe("/readyz", json!({"periodSeconds": 2, "timeoutSeconds": 3})),
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "volumeMounts": [{"name": set::VOLUME, "mountPath": FOLDER}],
        }],
    })
}

fn probe(path: &str, more: Value) -> Value {
    let mut probe = more;
    probe["httpGet"] = json!({"path": path, "port": "metrics"});
    probe
}

/// Where services find a managed etcd. The Service, not the members: so that growing changes nothing for them.
pub fn connection(site: &Site<'_>, password: &str) -> Connection {
    let host = site.host(object::ETCD);
    Connection {
        endpoints: vec![format!("http://{host}:{PORT}")],
        host,
        port: PORT,
        login: Some((auth::USER.into(), password.into())),
    }
}

/// `etcd-conn`: all that a SomaStack reads.
pub fn connection_secret(site: &Site<'_>, etcd: &Connection, mode: &str) -> Result<Secret, Error> {
    let Connection { endpoints, host, port, login } = etcd;
    let (endpoints, port) = (endpoints.join(","), port.to_string());
    let mut data = vec![
        ("endpoints", endpoints.as_str()),
        ("host", host.as_str()),
        ("port", port.as_str()),
        ("prefix", auth::PREFIX),
        ("mode", mode),
    ];
    if let Some((username, password)) = login {
        data.extend([("username", username.as_str()), ("password", password.as_str())]);
    }
    secret::build(site, object::ETCD, object::ETCD_CONN, &data)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::check::{self, Plan};
    use crate::infra::etcd::marker::{Marker, Stage};
    use crate::infra::etcd::validate::{Etcd, Observed, validate};
    use crate::infra::fixture;
    use soma_settings::{ConfigHash, canonical_json};

    pub fn marker() -> Marker {
        Marker { stage: Stage::Formed, founders: 1, root: "r".into(), user: "u".into(), admission: None }
    }

    fn built(replicas: u16) -> Objects {
        let infra = fixture::infra(json!({"etcd": {"managed": {"replicas": replicas}}}));
        let site = Site::new(&infra);
        let Etcd::Managed(managed) = validate(&site, &Observed::default()).unwrap() else { panic!() };
        objects(&site, &managed, replicas).unwrap()
    }

    #[test]
    fn a_managed_etcd_is_sound() {
        let mut plan = Plan::default();
        built(3).plan(&mut plan);
        check::sound(&plan).unwrap();
    }

    /// A new build of the operator must not change the pod template, or it would restart every etcd; nor may growth.
    #[test]
    fn the_pod_template_changes_neither_by_accident_nor_by_growth() {
        let hash = |replicas| {
            let template = serde_json::to_value(built(replicas).set).unwrap()["spec"]["template"].clone();
            ConfigHash::of(&canonical_json(&template)).short().to_owned()
        };
        assert_eq!(hash(1), hash(5));
        assert_eq!(hash(1), "16ee8d8f");
    }

    #[test]
    fn what_is_published_says_where_and_as_whom() {
        let infra = fixture::managed();
        let site = Site::new(&infra);
        let secret = connection_secret(&site, &connection(&site, "p"), "managed").unwrap();
        let keys: Vec<_> = secret.data.iter().flatten().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["endpoints", "host", "mode", "password", "port", "prefix", "username"]);
        assert_eq!(
            secret::text(&secret, "endpoints").as_deref(),
            Some("http://etcd.soma-infra.svc.cluster.local:2379")
        );
    }
}
