//! The Secret `redis-users`, which nobody owns: the passwords, and what is decided once about a managed Redis.

use k8s_openapi::api::core::v1::Secret;
use serde_json::json;
use soma_crds::RedisMode;

use crate::apply::Writer;
use crate::error::Error;
use crate::infra::{Site, secret};
use crate::names::object;

/// User of the operator and of the probes; the key of its password.
pub const OPERATOR: &str = "soma-operator";
/// User of the services; the key of its password.
pub const SERVICES: &str = "soma";
/// User of a replica at its master; it has the operator's password. Off where nothing may be copied from.
pub const REPLICA: &str = "soma-replica";
const MODE: &str = "mode";
const STAGE: &str = "stage";
const FORMING: &str = "forming";
const FORMED: &str = "formed";

/// How far a cluster has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Forming,
    /// Every slot had a master and a replica once; slots are never given away again.
    Formed,
}

/// What the Secret says.
#[derive(Clone, PartialEq, Eq)]
pub struct Users {
    pub operator: String,
    pub services: String,
    pub mode: RedisMode,
    pub stage: Stage,
}

impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Users({:?}, {:?})", self.mode, self.stage)
    }
}

/// As manifests write it.
pub fn mode_name(mode: RedisMode) -> &'static str {
    match mode {
        RedisMode::Standalone => "standalone",
        RedisMode::Cluster => "cluster",
    }
}

/// From what [`mode_name`] returns.
pub fn mode_named(name: &str) -> Option<RedisMode> {
    [RedisMode::Standalone, RedisMode::Cluster].into_iter().find(|mode| mode_name(*mode) == name)
}

impl Users {
    /// None when something is missing that cannot be made anew.
    pub fn read(from: &Secret) -> Option<Self> {
        let stage = match secret::text(from, STAGE)?.as_str() {
            FORMED => Stage::Formed,
            FORMING => Stage::Forming,
            _ => return None,
        };
        Some(Self {
            operator: secret::text(from, OPERATOR)?,
            services: secret::text(from, SERVICES)?,
            mode: mode_named(&secret::text(from, MODE)?)?,
            stage,
        })
    }
}

/// Decides about a new Redis. Of two operators the second reads what the first decided.
pub async fn begin(writer: &Writer, site: &Site<'_>, mode: RedisMode) -> Result<Users, Error> {
    let (operator, services) = (crate::random::secret(), crate::random::secret());
    let data =
        [(OPERATOR, operator.as_str()), (SERVICES, &services), (MODE, mode_name(mode)), (STAGE, FORMING)];
    let wanted = secret::build(site, object::REDIS, object::REDIS_USERS, &data)?;
    let kept = writer.create_once(&wanted).await?;
    let unreadable = || Error::UnsoundPlan(format!("Secret {} lacks a key", object::REDIS_USERS));
    Users::read(&kept).ok_or_else(unreadable)
}

/// Writes down that the slots are given: none is given again from now on.
pub async fn keep_formed(writer: &Writer, site: &Site<'_>) -> Result<(), Error> {
    let secret = secret::build(site, object::REDIS, object::REDIS_USERS, &[])?;
    writer.merge(&secret, &json!({"stringData": {STAGE: FORMED}})).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infra::fixture;

    #[test]
    fn what_cannot_be_made_anew_has_to_be_there() {
        let all = [(OPERATOR, "o"), (SERVICES, "s"), (MODE, "cluster"), (STAGE, FORMED)];
        let users = Users::read(&fixture::secret(&all)).unwrap();
        assert_eq!((users.mode, users.stage), (RedisMode::Cluster, Stage::Formed));
        for missing in 0..all.len() {
            let mut rest = all.to_vec();
            rest.remove(missing);
            assert_eq!(Users::read(&fixture::secret(&rest)), None, "{}", all[missing].0);
        }
    }
}
