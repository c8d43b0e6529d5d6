//! From a manifest and what it refers to, to the form the builders take. Pure.

use k8s_openapi::api::core::v1::Secret;
use soma_crds::{ManagedRedis, MaxmemoryPolicy, Profile, RedisMode};

use super::form;
use super::users::{Users, mode_name, mode_named};
use crate::drift;
use crate::infra::Site;
use crate::infra::blocked::Blocked;
use crate::infra::secret::Reader;
use crate::infra::set::{self, Defaults, Live, Member};
use crate::names::object;
use crate::workload::Resources;

/// Port of clients.
pub const PORT: u16 = 6379;
/// The release the operator was tested with.
const IMAGE: &str = "docker.io/library/redis:7.0";

/// What the cluster holds for Redis.
#[derive(Debug, Default)]
pub struct Observed {
    pub live: Live,
    /// `redis-users`.
    pub users: Option<Secret>,
    /// `redis-conn`.
    pub conn: Option<Secret>,
    /// The Secret an external Redis is described by.
    pub external: Option<Secret>,
}

/// Redis, in one of its modes.
#[derive(Clone, Debug)]
pub enum Redis {
    Managed(Managed),
    External(Connection),
    Disabled,
}

/// A Redis the operator runs.
#[derive(Clone, Debug)]
pub struct Managed {
    pub mode: RedisMode,
    pub member: Member,
    /// Bytes for keys.
    pub maxmemory: u64,
    pub policy: MaxmemoryPolicy,
    /// What was decided when it was made; none before.
    pub users: Option<Users>,
}

impl Managed {
    /// Pods to run.
    pub fn replicas(&self) -> u16 {
        match self.mode {
            RedisMode::Standalone => 1,
            RedisMode::Cluster => form::MEMBERS,
        }
    }
}

/// How clients reach a Redis.
#[derive(Clone, PartialEq, Eq)]
pub struct Connection {
    pub host: String,
    pub port: u16,
    pub username: Option<String>,
    pub password: Option<String>,
    pub mode: RedisMode,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

pub fn validate(site: &Site<'_>, observed: &Observed) -> Result<Redis, Blocked> {
    let spec = site.infra.spec.redis.clone().unwrap_or_default();
    if let Some(external) = &spec.external {
        let name = &external.secret_ref.name;
        return read_external(site, name, observed.external.as_ref()).map(Redis::External);
    }
    let managed = spec.managed.as_ref();
    managed.map_or(Ok(Redis::Disabled), |managed| read_managed(site, managed, observed).map(Redis::Managed))
}

fn read_managed(site: &Site<'_>, spec: &ManagedRedis, observed: &Observed) -> Result<Managed, Blocked> {
    let (mode, disk, resources) = match site.infra.spec.profile {
        Profile::Dev => (RedisMode::Standalone, "1Gi", Resources::of("50m", "64Mi", "256Mi")),
        Profile::Ha => (RedisMode::Cluster, "20Gi", Resources::of("250m", "1Gi", "1Gi")),
    };
    let users = observed.users.as_ref().and_then(Users::read);
    if users.is_none() && (observed.live.has_volume() || observed.users.is_some()) {
        return Err(Blocked::PasswordLost {
            namespace: site.owner.namespace.clone(),
            component: object::REDIS,
            name: object::REDIS_USERS,
            claim: set::claim_name(object::REDIS, 0),
        });
    }
    let fixed = users.as_ref().map(|users| users.mode);
    if let (Some(asked), Some(fixed)) = (spec.mode, fixed)
        && asked != fixed
    {
        return Err(Blocked::ModeFixed {
            component: object::REDIS,
            name: object::REDIS_USERS,
            asked: mode_name(asked),
            made: mode_name(fixed),
        });
    }
    // A profile that changes makes no cluster of what stands alone, nor the reverse.
    let mode = fixed.or(spec.mode).unwrap_or(mode);
    let member = Member::of(object::REDIS, &spec.member, &Defaults { image: IMAGE, size: disk, resources })?;
    let maxmemory = maxmemory(&member.resources);
    Ok(Managed { mode, member, maxmemory, policy: spec.maxmemory_policy, users })
}

/// Three quarters of what a pod may have: the rest is for connections, and for the copy a rewrite of the log makes.
fn maxmemory(resources: &Resources) -> u64 {
    let limit = resources.limits.get("memory").and_then(|limit| drift::amount(limit));
    // An amount is in thousandths.
    limit.and_then(|amount| u64::try_from(amount / 1000 / 4 * 3).ok()).unwrap_or_default()
}

fn read_external(site: &Site<'_>, name: &str, secret: Option<&Secret>) -> Result<Connection, Blocked> {
    let read = Reader::new(site, name, secret, &["host"])?;
    let mode = match read.optional("mode")? {
        None => RedisMode::Standalone,
        Some(mode) => {
            mode_named(&mode).ok_or_else(|| read.invalid("mode", "is neither standalone nor cluster"))?
        }
    };
    let username = read.optional("username")?;
    let password =
        if username.is_some() { Some(read.required("password")?) } else { read.optional("password")? };
    Ok(Connection { host: read.required("host")?, port: read.port(PORT)?, username, password, mode })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infra::fixture;
    use k8s_openapi::api::core::v1::PersistentVolumeClaim;
    use serde_json::json;

    fn redis(spec: serde_json::Value, observed: &Observed) -> Result<Redis, Blocked> {
        validate(&Site::new(&fixture::infra(spec)), observed)
    }

    fn managed(spec: serde_json::Value, observed: &Observed) -> Managed {
        match redis(spec, observed).unwrap() {
            Redis::Managed(managed) => managed,
            other => panic!("{other:?}"),
        }
    }

    fn made_as(mode: &str) -> Observed {
        let data = [("soma-operator", "o"), ("soma", "s"), ("mode", mode), ("stage", "formed")];
        Observed { users: Some(fixture::secret(&data)), ..Default::default() }
    }

    #[test]
    fn it_runs_unless_it_is_disabled() {
        let off = json!({"redis": {"disabled": {}}});
        assert!(matches!(redis(off, &Observed::default()).unwrap(), Redis::Disabled));
        assert!(matches!(redis(json!({}), &Observed::default()).unwrap(), Redis::Managed(_)));
    }

    #[test]
    fn the_profile_decides_the_mode_once() {
        let (dev, ha) =
            (json!({"redis": {"managed": {}}}), json!({"profile": "ha", "redis": {"managed": {}}}));
        let none = Observed::default();
        assert_eq!(managed(dev.clone(), &none).replicas(), 1);
        assert_eq!(managed(ha.clone(), &none).replicas(), 6);
        assert_eq!(managed(dev, &made_as("cluster")).replicas(), 6);
        assert_eq!(managed(ha, &made_as("standalone")).replicas(), 1);
        let asked = json!({"redis": {"managed": {"mode": "cluster"}}});
        assert_eq!(managed(asked.clone(), &none).mode, RedisMode::Cluster);
        assert_eq!(redis(asked, &made_as("standalone")).unwrap_err().reason(), "ModeFixed");
    }

    #[test]
    fn keys_get_three_quarters_of_the_memory() {
        let sized = |limit: &str| {
            let resources = json!({"limits": {"memory": limit}});
            managed(json!({"redis": {"managed": {"resources": resources}}}), &Observed::default()).maxmemory
        };
        assert_eq!((sized("1Gi"), sized("400M")), (768 << 20, 300_000_000));
    }

    #[test]
    fn volumes_without_their_secret_are_not_formed_anew() {
        let mut observed = Observed::default();
        observed.live.claims.insert(0, PersistentVolumeClaim::default());
        let refused = redis(json!({"redis": {"managed": {}}}), &observed).unwrap_err();
        assert_eq!(refused.reason(), "PasswordLost");
    }

    #[test]
    fn an_external_redis_is_read_from_its_secret() {
        let with = |data: &[(&str, &str)]| {
            let observed = Observed { external: Some(fixture::secret(data)), ..Default::default() };
            redis(json!({"redis": {"external": {"secretRef": {"name": "r"}}}}), &observed)
        };
        let Redis::External(redis) = with(&[("host", "h"), ("password", "p")]).unwrap() else { panic!() };
        assert_eq!((redis.port, redis.mode, redis.username), (6379, RedisMode::Standalone, None));
        for wrong in [("mode", "sentinel"), ("port", "0")] {
            assert_eq!(with(&[("host", "h"), wrong]).unwrap_err().reason(), "SecretValueInvalid");
        }
        let half = with(&[("host", "h"), ("username", "u")]);
        assert_eq!(half.unwrap_err().reason(), "SecretKeyMissing");
    }
}
