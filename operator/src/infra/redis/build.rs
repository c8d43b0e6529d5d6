//! The objects of a managed Redis, and its connection Secret. Pure.

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde_json::{Value, json};
use soma_crds::{MaxmemoryPolicy, RedisMode};
use soma_settings::{ConfigHash, canonical_json};

use super::users::{OPERATOR, SERVICES, Users, mode_name};
use super::validate::{Connection, Managed, PORT};
use crate::error::Error;
use crate::infra::set::{self, Shape};
use crate::infra::{Site, secret};
use crate::names::object;
use crate::workload::{container_security, pod_security, typed};

/// User of the official image.
const UID: i64 = 999;
/// Port between the members of a cluster.
const BUS_PORT: u16 = 16379;
const FOLDER: &str = "/etc/soma/redis";
const FILE: &str = "redis.conf";
const DATA: &str = "/data";
/// In memory: what is rendered at the start has passwords in it.
const RUN: &str = "/run/redis";

/// What differs between members and what is secret comes from the environment. Services may neither administer Redis nor
/// run what its authors call dangerous; `INFO` is what clients ask first.
///
/// A member with a new volume lets nobody copy from it before the operator gave it a place: the replica of the member that
/// was at its address before would replace the last copy of the data with nothing.
pub const START: &str = r#"set -e
umask 077
replica=off
if grep -Eqs 'myself,slave|myself,master .* connected [0-9]' "$DATA/nodes.conf"; then replica=on; fi
cat > "$RUN/users.acl" <<END
user default off resetpass resetkeys resetchannels -@all
user soma-operator on >$REDISCLI_AUTH ~* &* +@all
user soma-replica $replica >$REDISCLI_AUTH +psync +replconf +ping
user soma on >$SOMA_PASSWORD ~* &* +@all -@admin -@dangerous +info
END
cat > "$RUN/redis.conf" <<END
include $CONFIG
dir $DATA
aclfile $RUN/users.acl
masteruser soma-replica
masterauth $REDISCLI_AUTH
END
if [ -n "${ANNOUNCE:-}" ]; then
  echo "cluster-announce-ip $POD_IP" >> "$RUN/redis.conf"
  echo "cluster-announce-hostname $ANNOUNCE" >> "$RUN/redis.conf"
fi
exec redis-server "$RUN/redis.conf"
"#;

/// A server that loads its data or runs a script is alive, but not ready.
pub const ALIVE: &str =
    r#"case "$(redis-cli --user soma-operator ping 2>&1)" in PONG|LOADING*|BUSY*) ;; *) exit 1 ;; esac"#;
/// It answers and has its data.
pub const READY: &str = r#"[ "$(redis-cli --user soma-operator ping 2>&1)" = PONG ]"#;

/// What is the same for every Redis. The log of writes is what a restart reads; replicas keep one, too.
const SETTINGS: &str = "\
port 6379
tcp-keepalive 60
appendonly yes
appendfsync everysec
save \"\"
repl-diskless-sync-delay 0
repl-backlog-size 16mb
";

/// Members are named, because addresses of pods change; a part of the slots serves without the others; replicas stay
/// where the operator puts them.
const CLUSTER: &str = "\
cluster-enabled yes
cluster-config-file nodes.conf
cluster-node-timeout 15000
cluster-preferred-endpoint-type hostname
cluster-require-full-coverage no
cluster-allow-replica-migration no
";

pub fn objects(site: &Site<'_>, redis: &Managed) -> Result<set::Objects, Error> {
    let config = config(site, redis)?;
    let shape = Shape {
        component: object::REDIS,
        replicas: redis.replicas(),
        ports: &[("client", PORT)],
        peer_ports: if redis.mode == RedisMode::Cluster { &[("bus", BUS_PORT)] } else { &[] },
        pod: pod(site, redis, config.metadata.name.as_deref().unwrap_or_default()),
        volume: &redis.member.volume,
    };
    set::objects(site, &shape, Some(config))
}

/// Immutable and named by its content.
fn config(site: &Site<'_>, redis: &Managed) -> Result<ConfigMap, Error> {
    let data = json!({FILE: settings(redis)});
    let name = format!("redis-config-{}", ConfigHash::of(&canonical_json(&data)).short());
    typed(&json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": site.metadata(object::REDIS, &name),
        "immutable": true, "data": data,
    }))
}

/// The configuration file.
pub fn settings(redis: &Managed) -> String {
    let policy = match redis.policy {
        MaxmemoryPolicy::Noeviction => "noeviction",
        MaxmemoryPolicy::AllkeysLru => "allkeys-lru",
    };
    let cluster = if redis.mode == RedisMode::Cluster { CLUSTER } else { "" };
    format!("{SETTINGS}{cluster}maxmemory {}\nmaxmemory-policy {policy}\n", redis.maxmemory)
}

/// DNS name of a member of a cluster, as it tells it to the others.
fn announced(site: &Site<'_>) -> String {
    format!("$(POD_NAME).{}.{}.svc.cluster.local", set::headless_name(object::REDIS), site.owner.namespace)
}

fn pod(site: &Site<'_>, redis: &Managed, config: &str) -> Value {
    let field = |path: &str| json!({"fieldRef": {"fieldPath": path}});
    let password = |key: &str| json!({"secretKeyRef": {"name": object::REDIS_USERS, "key": key}});
    let mut env = vec![
        json!({"name": "POD_NAME", "valueFrom": field("metadata.name")}),
        json!({"name": "POD_IP", "valueFrom": field("status.podIP")}),
        json!({"name": "CONFIG", "value": format!("{FOLDER}/{FILE}")}),
        json!({"name": "DATA", "value": DATA}),
        json!({"name": "RUN", "value": RUN}),
        // Where redis-cli looks for a password, so that it is on no command line.
        json!({"name": "REDISCLI_AUTH", "valueFrom": password(OPERATOR)}),
        json!({"name": "SOMA_PASSWORD", "valueFrom": password(SERVICES)}),
    ];
    let mut ports = vec![json!({"name": "client", "containerPort": PORT, "protocol": "TCP"})];
    if redis.mode == RedisMode::Cluster {
        ports.push(json!({"name": "bus", "containerPort": BUS_PORT, "protocol": "TCP"}));
        env.push(json!({"name": "ANNOUNCE", "value": announced(site)}));
    }
    let probe = |script: &str, period: u32, failures: u32| {
        json!({
            "exec": {"command": ["/bin/sh", "-c", script]},
            "periodSeconds": period, "timeoutSeconds": 5, "failureThreshold": failures,
        })
    };
    json!({
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "securityContext": pod_security(UID),
        // It writes what is left of its log, and a master waits ten seconds at most for its replica.
        "terminationGracePeriodSeconds": 60,
        "topologySpreadConstraints": [set::spread(site, object::REDIS)],
        "containers": [{
            "name": object::REDIS,
            "image": redis.member.image,
            "imagePullPolicy": "IfNotPresent",
            "command": ["/bin/sh", "-c", START],
            "securityContext": container_security(),
            "env": env,
            "ports": ports,
            "resources": redis.member.resources.json(),
            "startupProbe": probe(ALIVE, 1, 300),
            "livenessProbe": probe(ALIVE, 10, 6),
            "readinessProbe": probe(READY, 5, 2),
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "volumeMounts": [
                {"name": set::VOLUME, "mountPath": DATA},
                {"name": "config", "mountPath": FOLDER, "readOnly": true},
                {"name": "run", "mountPath": RUN},
            ],
        }],
        "volumes": [
            {"name": "config", "configMap": {"name": config}},
            {"name": "run", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        ],
    })
}

/// How the services reach a managed Redis.
pub fn connection(site: &Site<'_>, users: &Users) -> Connection {
    Connection {
        host: site.host(object::REDIS),
        port: PORT,
        username: Some(SERVICES.into()),
        password: Some(users.services.clone()),
        mode: users.mode,
    }
}

/// `redis-conn`. A URL stands for one server, so a cluster has none.
pub fn connection_secret(site: &Site<'_>, redis: &Connection) -> Result<Secret, Error> {
    let Connection { host, port, username, password, mode } = redis;
    let encode = |text: &Option<String>| secret::percent_encode(text.as_deref().unwrap_or_default());
    let login = password.as_ref().map(|_| format!("{}:{}@", encode(username), encode(password)));
    let shown = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let url = format!("redis://{}{shown}:{port}", login.unwrap_or_default());
    let port = port.to_string();
    let mut data = vec![("host", host.as_str()), ("port", &port), ("mode", mode_name(*mode))];
    data.extend(username.as_deref().map(|username| ("username", username)));
    data.extend(password.as_deref().map(|password| ("password", password)));
    if *mode == RedisMode::Standalone {
        data.push(("url", &url));
    }
    secret::build(site, object::REDIS, object::REDIS_CONN, &data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{self, Plan};
    use crate::infra::fixture;
    use crate::infra::redis::validate::{Observed, Redis, validate};

    fn built(spec: &Value) -> set::Objects {
        let infra = fixture::infra(json!({"redis": {"managed": spec}}));
        let site = Site::new(&infra);
        let Redis::Managed(managed) = validate(&site, &Observed::default()).unwrap() else { panic!() };
        objects(&site, &managed).unwrap()
    }

    #[test]
    fn a_managed_redis_is_sound() {
        for mode in ["standalone", "cluster"] {
            let mut plan = Plan::default();
            built(&json!({"mode": mode})).plan(&mut plan);
            check::sound(&plan).unwrap();
        }
    }

    /// A new build of the operator must not change the pod template, or it would restart every Redis.
    #[test]
    fn the_pod_template_does_not_change_by_accident() {
        let hash = |mode| {
            let set = serde_json::to_value(built(&json!({"mode": mode})).set).unwrap();
            ConfigHash::of(&canonical_json(&set["spec"]["template"])).short().to_owned()
        };
        assert_eq!([hash("standalone"), hash("cluster")], ["46ab3210", "045b1206"]);
    }

    #[test]
    fn the_configuration_holds_no_password() {
        let objects = built(&json!({"mode": "cluster", "maxmemoryPolicy": "allkeysLru"}));
        let config = &objects.config.unwrap().data.unwrap()[FILE];
        assert!(config.ends_with("maxmemory 201326592\nmaxmemory-policy allkeys-lru\n"), "{config}");
        assert!(config.contains("cluster-enabled yes") && !config.contains("auth"), "{config}");
    }

    #[test]
    fn only_one_server_has_a_url() {
        let infra = fixture::infra(json!({}));
        let mut redis = Connection {
            host: "h".into(),
            port: 1,
            username: None,
            password: Some("p/".into()),
            mode: RedisMode::Standalone,
        };
        let url =
            |redis: &Connection| secret::text(&connection_secret(&Site::new(&infra), redis).unwrap(), "url");
        assert_eq!(url(&redis).as_deref(), Some("redis://:p%2F@h:1"));
        redis.password = None;
        assert_eq!(url(&redis).as_deref(), Some("redis://h:1"));
        redis.mode = RedisMode::Cluster;
        assert_eq!(url(&redis), None);
    }
}
