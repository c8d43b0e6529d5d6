//! The objects of a managed Kafka, and its connection Secret. Pure.

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde_json::{Value, json};
use soma_settings::{ConfigHash, canonical_json};

use super::cluster::{FIRST, ID, PASSWORD};
use super::validate::{External, Managed, PORT};
use crate::error::Error;
use crate::infra::set::{self, Shape};
use crate::infra::{Site, secret};
use crate::names::object;
use crate::workload::{container_security, pod_security, typed};

/// User of the official image.
const UID: i64 = 1000;
/// Listener of the controllers.
pub const CONTROLLER: &str = "CONTROLLER";
/// Port of the listener of the controllers.
pub const CONTROLLER_PORT: u16 = 9093;
/// Port of the listener the brokers and the operator use.
pub const INTERNAL_PORT: u16 = 9091;
/// User of the members and of the operator, bound by no right.
pub const USER: &str = "soma-operator";
/// How clients log in.
pub const SECURITY_PROTOCOL: &str = "SASL_PLAINTEXT";
pub const SASL_MECHANISM: &str = "SCRAM-SHA-512";
/// Members named in the configuration, whether they exist or not: so that growing changes nothing there.
const MAX_MEMBERS: u16 = 3;
const FOLDER: &str = "/etc/soma/kafka";
const SERVER: &str = "server.properties";
const ADMIN: &str = "admin.properties";
const DATA: &str = "/var/lib/kafka/data";

/// A disk is formatted once; a new one is only a first member's while the cluster is being formed. The server keeps its
/// log in a folder of the disk, because file systems have folders of their own at the top.
const START: &str = r#"set -e
export KAFKA_NODE_ID="${POD_NAME##*-}"
if [ ! -f "$DATA/kafka/meta.properties" ]; then
  if [ -n "$FIRST_MEMBERS" ]; then set -- --initial-controllers "$FIRST_MEMBERS"; else set -- --no-initial-controllers; fi
  /opt/kafka/bin/kafka-storage.sh format --cluster-id "$CLUSTER_ID" --config "$CONFIG" "$@"
fi
exec /opt/kafka/bin/kafka-server-start.sh "$CONFIG"
"#;

pub fn objects(site: &Site<'_>, kafka: &Managed) -> Result<set::Objects, Error> {
    let config = config(site, kafka)?;
    let shape = Shape {
        component: object::KAFKA,
        replicas: kafka.replicas,
        ports: &[("client", PORT)],
        peer_ports: &[("internal", INTERNAL_PORT), ("controller", CONTROLLER_PORT)],
        pod: pod(site, kafka, config.metadata.name.as_deref().unwrap_or_default()),
        volume: &kafka.member.volume,
    };
    set::objects(site, &shape, Some(config))
}

/// DNS name of one member.
pub fn member_host(site: &Site<'_>, n: u16) -> String {
    host_of(site, &set::pod_name(object::KAFKA, n))
}

fn host_of(site: &Site<'_>, pod: &str) -> String {
    format!("{pod}.{}.{}.svc.cluster.local", set::headless_name(object::KAFKA), site.owner.namespace)
}

/// Immutable and named by its content. What differs between members and what is secret comes from the environment.
fn config(site: &Site<'_>, kafka: &Managed) -> Result<ConfigMap, Error> {
    let data = json!({SERVER: server_properties(site, kafka), ADMIN: admin_properties()});
    let name = format!("kafka-config-{}", ConfigHash::of(&canonical_json(&data)).short());
    typed(&json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": site.metadata(object::KAFKA, &name),
        "immutable": true, "data": data,
    }))
}

const PROVIDERS: &str = "\
config.providers=env
config.providers.env.class=org.apache.kafka.common.config.provider.EnvVarConfigProvider
config.providers.env.param.allowlist.pattern=KAFKA_NODE_ID|KAFKA_PASSWORD|POD_NAME
";

/// What is the same for every cluster. Members know each other by PLAIN: a credential of SCRAM is kept in the log they
/// first have to agree on.
const SETTINGS: &str = "\
process.roles=broker,controller
node.id=${env:KAFKA_NODE_ID}
listeners=CLIENT://:9092,INTERNAL://:9091,CONTROLLER://:9093
listener.security.protocol.map=CLIENT:SASL_PLAINTEXT,INTERNAL:SASL_PLAINTEXT,CONTROLLER:SASL_PLAINTEXT
inter.broker.listener.name=INTERNAL
controller.listener.names=CONTROLLER
sasl.mechanism.inter.broker.protocol=PLAIN
sasl.mechanism.controller.protocol=PLAIN
listener.name.client.sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.client.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.internal.sasl.enabled.mechanisms=PLAIN
listener.name.controller.sasl.enabled.mechanisms=PLAIN
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
auto.create.topics.enable=false
# Not the 128 MB of its default, which a small heap does not have.
log.cleaner.dedupe.buffer.size=33554432
";

fn server_properties(site: &Site<'_>, kafka: &Managed) -> String {
    let own = host_of(site, "${env:POD_NAME}");
    let login = format!(
        "{} user_{USER}=\"${{env:KAFKA_PASSWORD}}\";",
        login("org.apache.kafka.common.security.plain.PlainLoginModule")
    );
    let bootstrap: Vec<_> =
        (0..MAX_MEMBERS).map(|n| format!("{}:{CONTROLLER_PORT}", member_host(site, n))).collect();
    let copies = kafka.copies().to_string();
    let in_sync = if kafka.copies() >= 3 { "2" } else { "1" };
    let advertised = format!(
        "CLIENT://{own}:{PORT},INTERNAL://{own}:{INTERNAL_PORT},{CONTROLLER}://{own}:{CONTROLLER_PORT}"
    );
    let own = [
        ("log.dirs", format!("{DATA}/kafka")),
        ("advertised.listeners", advertised),
        ("controller.quorum.bootstrap.servers", bootstrap.join(",")),
        ("listener.name.internal.plain.sasl.jaas.config", login.clone()),
        ("listener.name.controller.plain.sasl.jaas.config", login),
        ("super.users", format!("User:{USER}")),
        ("default.replication.factor", copies.clone()),
        ("offsets.topic.replication.factor", copies.clone()),
        ("transaction.state.log.replication.factor", copies.clone()),
        ("transaction.state.log.min.isr", in_sync.to_owned()),
        ("share.coordinator.state.topic.replication.factor", copies),
        ("share.coordinator.state.topic.min.isr", in_sync.to_owned()),
    ];
    let own = own.iter().map(|(key, value)| format!("{key}={value}\n"));
    // Java's format of properties takes a backslash for an escape.
    let given = kafka.fixed.iter().map(|(key, value)| format!("{key}={}\n", value.replace('\\', "\\\\")));
    [PROVIDERS.to_owned(), SETTINGS.to_owned()].into_iter().chain(own).chain(given).collect()
}

/// For `kubectl exec kafka-0 -- /opt/kafka/bin/kafka-topics.sh --bootstrap-server localhost:9091 --command-config …`.
fn admin_properties() -> String {
    let login = login("org.apache.kafka.common.security.plain.PlainLoginModule");
    format!("{PROVIDERS}security.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\nsasl.jaas.config={login};\n")
}

fn login(module: &str) -> String {
    format!("{module} required username=\"{USER}\" password=\"${{env:KAFKA_PASSWORD}}\"")
}

fn pod(site: &Site<'_>, kafka: &Managed, config: &str) -> Value {
    let from = |key: &str, optional: bool| json!({"secretKeyRef": {"name": object::KAFKA_CLUSTER, "key": key, "optional": optional}});
    // The controllers' port opens at once; that of clients only when the broker takes part.
    let alive = |period: u32, failures: u32| {
        json!({
            "tcpSocket": {"port": "controller"},
            "periodSeconds": period, "timeoutSeconds": 3, "failureThreshold": failures,
        })
    };
    json!({
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "securityContext": pod_security(UID),
        // A member that is killed loses nothing, it only starts more slowly.
        "terminationGracePeriodSeconds": 60,
        "topologySpreadConstraints": [set::spread(site, object::KAFKA)],
        "containers": [{
            "name": object::KAFKA,
            "image": kafka.member.image,
            "imagePullPolicy": "IfNotPresent",
            "command": ["/bin/sh", "-c", START],
            "securityContext": container_security(),
            "env": [
                {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "DATA", "value": DATA},
                {"name": "CONFIG", "value": format!("{FOLDER}/{SERVER}")},
                {"name": "CLUSTER_ID", "valueFrom": from(ID, false)},
                {"name": "FIRST_MEMBERS", "valueFrom": from(FIRST, true)},
                {"name": "KAFKA_PASSWORD", "valueFrom": from(PASSWORD, false)},
                // Half of the memory is for the page cache, Kafka's only cache of messages.
                {"name": "KAFKA_HEAP_OPTS", "value": "-XX:InitialRAMPercentage=25 -XX:MaxRAMPercentage=50"},
                {"name": "LOG_DIR", "value": "/tmp/logs"},
            ],
            "ports": [
                {"name": "client", "containerPort": PORT, "protocol": "TCP"},
                {"name": "internal", "containerPort": INTERNAL_PORT, "protocol": "TCP"},
                {"name": "controller", "containerPort": CONTROLLER_PORT, "protocol": "TCP"},
            ],
            "resources": kafka.member.resources.json(),
            "startupProbe": alive(1, 300),
            "livenessProbe": alive(10, 6),
            "readinessProbe": {"tcpSocket": {"port": "client"}, "periodSeconds": 2, "timeoutSeconds": 3},
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "volumeMounts": [
                {"name": set::VOLUME, "mountPath": DATA},
                {"name": "config", "mountPath": FOLDER, "readOnly": true},
                {"name": "tmp", "mountPath": "/tmp"},
            ],
        }],
        "volumes": [
            {"name": "config", "configMap": {"name": config}},
            {"name": "tmp", "emptyDir": {}},
        ],
    })
}

/// Name of the Secret with the password of a service.
pub fn user_secret_name(user: &str) -> String {
    format!("kafka-user-{user}")
}

/// The user of a service.
pub fn user_secret(site: &Site<'_>, user: &str, password: &str) -> Result<Secret, Error> {
    let data = [("username", user), ("password", password)];
    secret::build(site, object::KAFKA, &user_secret_name(user), &data)
}

/// `kafka-conn` of a managed Kafka: all that a SomaStack reads besides the password of each service.
pub fn connection_secret(site: &Site<'_>) -> Result<Secret, Error> {
    let host = site.host(object::KAFKA);
    let data = [
        ("host", host.as_str()),
        ("port", &PORT.to_string()),
        ("bootstrap", &format!("{host}:{PORT}")),
        ("securityProtocol", SECURITY_PROTOCOL),
        ("saslMechanism", SASL_MECHANISM),
        ("mode", "managed"),
    ];
    secret::build(site, object::KAFKA, object::KAFKA_CONN, &data)
}

/// `kafka-conn` of a Kafka that runs elsewhere.
pub fn external_secret(site: &Site<'_>, kafka: &External) -> Result<Secret, Error> {
    let port = kafka.port.to_string();
    let mut data = vec![
        ("host", kafka.host.as_str()),
        ("port", &port),
        ("bootstrap", &kafka.bootstrap),
        ("securityProtocol", &kafka.security_protocol),
        ("mode", "external"),
    ];
    data.extend(kafka.sasl_mechanism.as_deref().map(|mechanism| ("saslMechanism", mechanism)));
    if let Some((user, password)) = &kafka.login {
        data.extend([("username", user.as_str()), ("password", password.as_str())]);
    }
    secret::build(site, object::KAFKA, object::KAFKA_CONN, &data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{self, Plan};
    use crate::infra::fixture;
    use crate::infra::kafka::validate::{Kafka, Observed, validate};

    fn built(spec: &Value) -> set::Objects {
        let infra = fixture::infra(json!({"kafka": {"managed": spec}}));
        let site = Site::new(&infra);
        let Kafka::Managed(managed) = validate(&site, &Observed::default()).unwrap() else { panic!() };
        objects(&site, &managed).unwrap()
    }

    #[test]
    fn a_managed_kafka_is_sound() {
        let mut plan = Plan::default();
        built(&json!({"replicas": 3})).plan(&mut plan);
        check::sound(&plan).unwrap();
    }

    /// A new build of the operator must not change the pod template, or it would restart every Kafka.
    #[test]
    fn the_pod_template_does_not_change_by_accident() {
        let hash = |spec| {
            let template = serde_json::to_value(built(&spec).set).unwrap()["spec"]["template"].clone();
            ConfigHash::of(&canonical_json(&template)).short().to_owned()
        };
        let dynamic = json!({"settings": {"log.retention.ms": "5"}});
        assert_eq!(hash(json!({})), hash(dynamic), "a setting that changes while Kafka runs");
        assert_eq!(hash(json!({})), "3ac7e673");
    }

    #[test]
    fn no_password_is_written_down() {
        let config = built(&json!({"settings": {"x": "a\\b"}})).config.unwrap().data.unwrap();
        let server = &config[SERVER];
        assert_eq!(server.matches("${env:KAFKA_PASSWORD}").count(), 4, "{server}");
        assert!(server.ends_with("x=a\\\\b\n"), "{server}");
        assert!(server.contains("kafka-2.kafka-headless.soma-infra.svc.cluster.local:9093"), "{server}");
    }
}
