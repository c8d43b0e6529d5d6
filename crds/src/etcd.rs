//! etcd, a component of SomaInfra.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::backup::Backup;
use crate::infra::{Disabled, Member};
use crate::shared::LocalRef;

/// The store of flags: one of managed, external and disabled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("(has(self.managed) ? 1 : 0) + (has(self.external) ? 1 : 0) + (has(self.disabled) ? 1 : 0) == 1").message("set exactly one of managed, external and disabled, and remove the others"),
    validation = Rule::new("!(has(oldSelf.managed) && has(self.external)) && !(has(oldSelf.external) && has(self.managed))").message("the mode of a live etcd cannot change, because its keys would stay behind; create another SomaInfra and move the keys")
)]
pub struct Etcd {
    /// The operator runs etcd: forms it once, replaces a member whose volume is lost, and lets it grow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed: Option<ManagedEtcd>,
    /// etcd runs elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalEtcd>,
    /// There is no etcd. Volumes and passwords of an earlier one stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<Disabled>,
}

impl Default for Etcd {
    fn default() -> Self {
        Self { managed: Some(ManagedEtcd::default()), external: None, disabled: None }
    }
}

/// An etcd the operator runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("!has(self.replicas) || self.replicas in [1, 3, 5]").message("replicas must be 1, 3 or 5: an even number survives no more losses than the odd one below it"),
    validation = Rule::new("!has(oldSelf.replicas) || (has(self.replicas) && self.replicas >= oldSelf.replicas)").message("etcd cannot shrink; set replicas to at least its previous value")
)]
pub struct ManagedEtcd {
    /// Members: 1, 3 or 5; by default 1 in `dev` and 3 in `ha`. It can grow, not shrink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u16>,
    /// What each of them runs on. A quarter of the volume, and at most 8 GiB, is etcd's quota.
    #[serde(flatten)]
    pub member: Member,
    /// Backups by schedule; none when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<Backup>,
}

/// An etcd that runs elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExternalEtcd {
    /// Secret in this namespace with the key `endpoints` (`http(s)://host:port`, separated by commas), and optionally
    /// `username` and `password`.
    pub secret_ref: LocalRef,
}
