//! OPA, a component of SomaInfra.

use k8s_openapi::api::core::v1::ResourceRequirements;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::infra::Disabled;
use crate::shared::LocalRef;

/// What decides who may do what: one of managed, external and disabled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("(has(self.managed) ? 1 : 0) + (has(self.external) ? 1 : 0) + (has(self.disabled) ? 1 : 0) == 1").message("set exactly one of managed, external and disabled, and remove the others"),
    validation = Rule::new("!(has(oldSelf.managed) && has(self.external)) && !(has(oldSelf.external) && has(self.managed))").message("the mode of a live OPA cannot change, because other policies would decide from one request to the next; set disabled first")
)]
pub struct Opa {
    /// The operator runs OPA and gives it Soma's policies and those of tenants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed: Option<ManagedOpa>,
    /// OPA runs elsewhere, with Soma's policies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalOpa>,
    /// There is no OPA. The key policies are signed with stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<Disabled>,
}

impl Default for Opa {
    fn default() -> Self {
        Self { managed: Some(ManagedOpa::default()), external: None, disabled: None }
    }
}

/// An OPA the operator runs. Policies of tenants are ConfigMaps of this namespace with the label
/// `openpolicyagent.org/policy: rego`; data about tenants are those with `openpolicyagent.org/data: opa`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ManagedOpa {
    /// Pods; by default 1 in `dev` and 2 in `ha`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16))]
    pub replicas: Option<u16>,
    /// Container image with the layout of the official one; by default the release the operator was tested with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// CPU and memory of each pod; by default as the profile says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
}

/// An OPA that runs elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExternalOpa {
    /// Secret in this namespace with the key `url`, such as `http://opa.example:8181`, and optionally `token`, a bearer
    /// token.
    pub secret_ref: LocalRef,
}
