//! Redis, a component of SomaInfra.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::infra::{Disabled, Member};
use crate::shared::LocalRef;

/// The cache: one of managed, external and disabled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("(has(self.managed) ? 1 : 0) + (has(self.external) ? 1 : 0) + (has(self.disabled) ? 1 : 0) == 1").message("set exactly one of managed, external and disabled, and remove the others"),
    validation = Rule::new("!(has(oldSelf.managed) && has(self.external)) && !(has(oldSelf.external) && has(self.managed))").message("the mode of a live Redis cannot change, because its keys would stay behind; create another SomaInfra and move the keys")
)]
pub struct Redis {
    /// The operator runs Redis: one member, or a cluster that it forms once and repairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed: Option<ManagedRedis>,
    /// Redis runs elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalRedis>,
    /// There is no Redis. Volumes and passwords of an earlier one stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<Disabled>,
}

impl Default for Redis {
    fn default() -> Self {
        Self { managed: Some(ManagedRedis::default()), external: None, disabled: None }
    }
}

/// A Redis the operator runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.mode) == has(oldSelf.mode) && (!has(self.mode) || self.mode == oldSelf.mode)").message("the mode of a live Redis cannot change, because its keys would stay behind; set mode back to its previous value, or create another SomaInfra and move the keys")
)]
pub struct ManagedRedis {
    /// By default `standalone` in `dev` and `cluster` in `ha`; what it was made as stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<RedisMode>,
    /// What each member runs on. Three quarters of the memory limit are for keys.
    #[serde(flatten)]
    pub member: Member,
    /// What happens when the memory for keys is used up.
    #[serde(default)]
    pub maxmemory_policy: MaxmemoryPolicy,
}

/// How many members Redis has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RedisMode {
    /// One, without a replica.
    Standalone,
    /// Six: three masters with one replica each.
    Cluster,
}

/// What happens when the memory for keys is used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum MaxmemoryPolicy {
    /// Writes are refused.
    #[default]
    Noeviction,
    /// The keys that were used longest ago go.
    AllkeysLru,
}

/// A Redis that runs elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExternalRedis {
    /// Secret in this namespace with the key `host`, and optionally `port` (6379), `username`, `password` and `mode`
    /// (`standalone` or `cluster`; standalone).
    pub secret_ref: LocalRef,
}
