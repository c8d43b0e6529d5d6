//! From a manifest and what it refers to, to the form the builders take. Pure.

use k8s_openapi::api::core::v1::Secret;
use soma_crds::{ManagedKafka, Profile};

use super::cluster::Cluster;
use super::content::Settings;
use crate::infra::Site;
use crate::infra::blocked::Blocked;
use crate::infra::secret::Reader;
use crate::infra::set::{self, Defaults, Live, Member};
use crate::names::object;
use crate::workload::Resources;

/// Port of the listener of clients.
pub const PORT: u16 = 9092;
/// The release the operator was tested with.
const IMAGE: &str = "docker.io/apache/kafka:4.1.2";

/// What the operator sets itself: settings with these beginnings.
const OWNED: [&str; 22] = [
    "advertised.",
    "allow.everyone.if.no.acl.found",
    "authorizer.",
    "auto.create.topics.enable",
    "broker.",
    "config.providers",
    "controller.",
    "default.replication.factor",
    "early.start.listeners",
    "inter.broker.",
    "listener",
    "log.dir",
    "metadata.log.dir",
    "node.id",
    "offsets.topic.replication.factor",
    "password.encoder.",
    "process.roles",
    "sasl.",
    "security.",
    "ssl.",
    "super.users",
    "transaction.state.log.",
];

/// Settings that all brokers take while they run: those of Kafka's documentation with the update mode `cluster-wide`, as
/// far as they concern neither listeners nor remote storage.
const DYNAMIC: [&str; 39] = [
    "background.threads",
    "compression.gzip.level",
    "compression.lz4.level",
    "compression.type",
    "compression.zstd.level",
    "log.cleaner.backoff.ms",
    "log.cleaner.dedupe.buffer.size",
    "log.cleaner.delete.retention.ms",
    "log.cleaner.io.buffer.load.factor",
    "log.cleaner.io.buffer.size",
    "log.cleaner.io.max.bytes.per.second",
    "log.cleaner.max.compaction.lag.ms",
    "log.cleaner.min.cleanable.ratio",
    "log.cleaner.min.compaction.lag.ms",
    "log.cleaner.threads",
    "log.cleanup.policy",
    "log.flush.interval.messages",
    "log.flush.interval.ms",
    "log.index.interval.bytes",
    "log.index.size.max.bytes",
    "log.message.timestamp.after.max.ms",
    "log.message.timestamp.before.max.ms",
    "log.message.timestamp.type",
    "log.preallocate",
    "log.retention.bytes",
    "log.retention.ms",
    "log.roll.jitter.ms",
    "log.roll.ms",
    "log.segment.bytes",
    "log.segment.delete.delay.ms",
    "max.connection.creation.rate",
    "max.connections",
    "max.connections.per.ip",
    "message.max.bytes",
    "min.insync.replicas",
    "num.io.threads",
    "num.network.threads",
    "num.replica.fetchers",
    "unclean.leader.election.enable",
];

/// What the cluster holds for Kafka.
#[derive(Debug, Default)]
pub struct Observed {
    pub live: Live,
    /// `kafka-cluster`.
    pub cluster: Option<Secret>,
    /// `kafka-conn`.
    pub conn: Option<Secret>,
    /// The Secret an external Kafka is described by.
    pub external: Option<Secret>,
}

/// Kafka, in one of its modes.
#[derive(Clone, Debug)]
pub enum Kafka {
    Managed(Managed),
    External(External),
    Disabled,
}

/// A Kafka the operator runs.
#[derive(Clone, Debug)]
pub struct Managed {
    pub replicas: u16,
    pub member: Member,
    /// In the file; a change replaces the pods.
    pub fixed: Settings,
    /// Changed while Kafka runs.
    pub dynamic: Settings,
    /// What was decided when it was formed; none before.
    pub cluster: Option<Cluster>,
}

impl Managed {
    /// Brokers each partition is on.
    pub fn copies(&self) -> u16 {
        self.replicas.min(3)
    }

    /// Replicas a write waits for where its topic says nothing.
    pub fn in_sync(&self) -> u16 {
        self.dynamic.get("min.insync.replicas").and_then(|text| text.parse().ok()).unwrap_or(1)
    }
}

/// How to reach a Kafka that runs elsewhere.
#[derive(Clone, PartialEq, Eq)]
pub struct External {
    /// `host:port`, with commas between several.
    pub bootstrap: String,
    pub host: String,
    pub port: u16,
    pub security_protocol: String,
    pub sasl_mechanism: Option<String>,
    /// User and password.
    pub login: Option<(String, String)>,
}

impl std::fmt::Debug for External {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "External({})", self.bootstrap)
    }
}

pub fn validate(site: &Site<'_>, observed: &Observed) -> Result<Kafka, Blocked> {
    let spec = site.infra.spec.kafka.clone().unwrap_or_default();
    if let Some(external) = &spec.external {
        let name = &external.secret_ref.name;
        return read_external(site, name, observed.external.as_ref()).map(Kafka::External);
    }
    let managed = spec.managed.as_ref();
    managed.map_or(Ok(Kafka::Disabled), |managed| read_managed(site, managed, observed).map(Kafka::Managed))
}

fn read_managed(site: &Site<'_>, spec: &ManagedKafka, observed: &Observed) -> Result<Managed, Blocked> {
    let (replicas, disk, resources) = match site.infra.spec.profile {
        Profile::Dev => (1, "1Gi", Resources::of("100m", "512Mi", "768Mi")),
        Profile::Ha => (3, "20Gi", Resources::of("500m", "2Gi", "2Gi")),
    };
    let owned = |key: &&String| OWNED.iter().any(|beginning| key.starts_with(beginning));
    if let Some(key) = spec.settings.keys().find(owned) {
        return Err(Blocked::SettingOwned { component: object::KAFKA, key: key.clone() });
    }
    let cluster = observed.cluster.as_ref().and_then(Cluster::read);
    if cluster.is_none() && (observed.live.has_volume() || observed.cluster.is_some()) {
        return Err(Blocked::PasswordLost {
            namespace: site.owner.namespace.clone(),
            component: object::KAFKA,
            name: object::KAFKA_CLUSTER,
            claim: set::claim_name(object::KAFKA, 0),
        });
    }
    let replicas = observed.live.members(spec.replicas.unwrap_or(replicas));
    let given = spec.settings.iter().map(|(key, value)| (key.clone(), value.0.clone()));
    let (mut dynamic, fixed): (Settings, Settings) =
        given.partition(|(key, _)| DYNAMIC.contains(&key.as_str()));
    // Kafka keeps this one where it keeps dynamic settings, whoever sets it.
    let in_sync = if replicas >= 3 { "2" } else { "1" };
    dynamic.entry("min.insync.replicas".into()).or_insert_with(|| in_sync.into());
    let defaults = Defaults { image: IMAGE, size: disk, resources };
    let member = Member::of(object::KAFKA, &spec.member, &defaults)?;
    Ok(Managed { replicas, member, fixed, dynamic, cluster })
}

fn read_external(site: &Site<'_>, name: &str, secret: Option<&Secret>) -> Result<External, Blocked> {
    let read = Reader::new(site, name, secret, &["bootstrap"])?;
    let bootstrap = read.required("bootstrap")?;
    let address = |text: &str| {
        let (host, port) = text.trim().rsplit_once(':')?;
        let port = port.parse::<u16>().ok().filter(|port| *port > 0)?;
        (!host.is_empty()).then(|| (host.trim_matches(['[', ']']).to_owned(), port))
    };
    let unusable = || read.invalid("bootstrap", "is not host:port, with commas between several");
    let all: Option<Vec<_>> = bootstrap.split(',').map(address).collect();
    let (host, port) = all.and_then(|all| all.into_iter().next()).ok_or_else(unusable)?;
    let security_protocol = read.optional("securityProtocol")?.unwrap_or_else(|| "PLAINTEXT".into());
    if !["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"].contains(&security_protocol.as_str()) {
        let problem = "is none of PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL";
        return Err(read.invalid("securityProtocol", problem));
    }
    let login = match read.optional("username")? {
        Some(user) => Some((user, read.required("password")?)),
        None => None,
    };
    let sasl_mechanism = read.optional("saslMechanism")?;
    Ok(External { bootstrap, host, port, security_protocol, sasl_mechanism, login })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infra::fixture;
    use k8s_openapi::api::core::v1::PersistentVolumeClaim;
    use serde_json::json;

    fn kafka(spec: serde_json::Value, observed: &Observed) -> Result<Kafka, Blocked> {
        validate(&Site::new(&fixture::infra(spec)), observed)
    }

    fn managed(spec: serde_json::Value) -> Managed {
        match kafka(spec, &Observed::default()).unwrap() {
            Kafka::Managed(managed) => managed,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn it_runs_only_when_asked_for() {
        assert!(matches!(kafka(json!({}), &Observed::default()).unwrap(), Kafka::Managed(_)));
        let off = json!({"kafka": {"disabled": {}}});
        assert!(matches!(kafka(off, &Observed::default()).unwrap(), Kafka::Disabled));
    }

    #[test]
    fn a_setting_goes_where_it_restarts_the_least() {
        let settings = json!({"log.retention.ms": "5", "num.partitions": "2"});
        let kafka = managed(json!({"profile": "ha", "kafka": {"managed": {"settings": settings}}}));
        assert_eq!(kafka.replicas, 3);
        assert_eq!(kafka.fixed.into_iter().collect::<Vec<_>>(), [("num.partitions".into(), "2".into())]);
        let dynamic: Vec<_> = kafka.dynamic.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(dynamic, [("log.retention.ms", "5"), ("min.insync.replicas", "2")]);
        assert_eq!(managed(json!({"kafka": {"managed": {}}})).in_sync(), 1);
    }

    #[test]
    fn what_the_operator_sets_is_refused_by_name() {
        for key in ["node.id", "listeners", "listener.name.client.sasl.enabled.mechanisms", "log.dirs"] {
            let spec = json!({"kafka": {"managed": {"settings": {key: "x"}}}});
            let refused = kafka(spec, &Observed::default()).unwrap_err();
            assert_eq!(
                refused.to_string(),
                format!("spec.kafka.managed.settings.{key} is set by the operator; remove it")
            );
        }
        assert!(DYNAMIC.iter().all(|key| !OWNED.iter().any(|owned| key.starts_with(owned))));
    }

    #[test]
    fn volumes_without_their_secret_are_not_formed_anew() {
        let mut observed = Observed::default();
        observed.live.claims.insert(0, PersistentVolumeClaim::default());
        let refused = kafka(json!({"kafka": {"managed": {}}}), &observed).unwrap_err();
        assert_eq!(refused.reason(), "PasswordLost");
    }

    #[test]
    fn an_external_kafka_is_read_from_its_secret() {
        let with = |data: &[(&str, &str)]| {
            let external = Some(fixture::secret(data));
            let spec = json!({"kafka": {"external": {"secretRef": {"name": "k"}}}});
            kafka(spec, &Observed { external, ..Default::default() })
        };
        let Kafka::External(kafka) = with(&[("bootstrap", "a:9092, [::1]:9093")]).unwrap() else { panic!() };
        assert_eq!(
            (kafka.host.as_str(), kafka.port, kafka.security_protocol.as_str()),
            ("a", 9092, "PLAINTEXT")
        );
        for bad in ["a", "a:0", ":9092", "a:9092,", "a:9092,b"] {
            assert_eq!(with(&[("bootstrap", bad)]).unwrap_err().reason(), "SecretValueInvalid", "{bad}");
        }
        let half = with(&[("bootstrap", "a:9092"), ("username", "u")]);
        assert_eq!(half.unwrap_err().reason(), "SecretKeyMissing");
    }
}
