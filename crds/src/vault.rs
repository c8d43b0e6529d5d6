//! Vault, a component of SomaInfra.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backup::Backup;
use crate::infra::{Disabled, Member};
use crate::shared::LocalRef;

/// The store of secrets: one of managed, external and disabled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("(has(self.managed) ? 1 : 0) + (has(self.external) ? 1 : 0) + (has(self.disabled) ? 1 : 0) == 1").message("set exactly one of managed, external and disabled, and remove the others"),
    validation = Rule::new("!(has(oldSelf.managed) && has(self.external)) && !(has(oldSelf.external) && has(self.managed))").message("the mode of a live Vault cannot change, because its secrets would stay behind; create another SomaInfra and move the secrets")
)]
pub struct Vault {
    /// The operator runs Vault on integrated storage, initialises it once, and unseals it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed: Option<ManagedVault>,
    /// Vault runs elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalVault>,
    /// There is no Vault. Volumes and keys of an earlier one stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<Disabled>,
}

impl Default for Vault {
    fn default() -> Self {
        Self { managed: Some(ManagedVault::default()), external: None, disabled: None }
    }
}

/// A Vault the operator runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("!has(self.replicas) || self.replicas in [1, 3, 5]").message("replicas must be 1, 3 or 5: an even number survives no more losses than the odd one below it"),
    validation = Rule::new("!has(oldSelf.replicas) || (has(self.replicas) && self.replicas >= oldSelf.replicas)").message("Vault cannot shrink; set replicas to at least its previous value")
)]
pub struct ManagedVault {
    /// Members: 1, 3 or 5; by default 1 in `dev` and 3 in `ha`. It can grow, not shrink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u16>,
    /// What each of them runs on.
    #[serde(flatten)]
    pub member: Member,
    /// Backups by schedule; none when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<Backup>,
    /// Who opens Vault after a restart.
    #[serde(default)]
    pub unseal: Unseal,
}

/// Who opens Vault after a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Unseal {
    /// The operator, with a key it keeps in the Secret `vault-unseal`. Whoever reads that Secret can open Vault:
    /// for development, or where Secrets are encrypted and well guarded.
    #[default]
    KubernetesSecret,
    /// People: they initialise Vault and unseal every member themselves. The status says which are sealed.
    Manual,
}

/// A Vault that runs elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExternalVault {
    /// Secret in this namespace with the key `host`, and optionally `port` (8200) and `scheme` (https).
    pub secret_ref: LocalRef,
}
