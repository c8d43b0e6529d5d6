//! OpenFGA, a component of SomaInfra.

use k8s_openapi::api::core::v1::ResourceRequirements;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::infra::{Disabled, Profile};
use crate::shared::LocalRef;

/// What knows who is related to what: one of managed, external and disabled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("(has(self.managed) ? 1 : 0) + (has(self.external) ? 1 : 0) + (has(self.disabled) ? 1 : 0) == 1").message("set exactly one of managed, external and disabled, and remove the others"),
    validation = Rule::new("!(has(oldSelf.managed) && has(self.external)) && !(has(oldSelf.external) && has(self.managed))").message("the mode of a live OpenFGA cannot change, because its relations would stay behind; create another SomaInfra and move the relations")
)]
pub struct OpenFga {
    /// The operator runs OpenFGA on the database `openfga` of Postgres, and gives it Soma's store and model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed: Option<ManagedOpenFga>,
    /// OpenFGA runs elsewhere, with Soma's store and model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalOpenFga>,
    /// There is no OpenFGA. The database and the token of an earlier one stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<Disabled>,
}

impl OpenFga {
    /// What an absent block stands for.
    pub fn of(profile: Profile) -> Self {
        let (managed, disabled) = match profile {
            Profile::Dev => (None, Some(Disabled {})),
            Profile::Ha => (Some(ManagedOpenFga::default()), None),
        };
        Self { managed, external: None, disabled }
    }
}

/// An OpenFGA the operator runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ManagedOpenFga {
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

/// An OpenFGA that runs elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExternalOpenFga {
    /// Secret in this namespace with the key `url`, such as `http://openfga.example:8080`, and optionally `token`, a bearer
    /// token.
    pub secret_ref: LocalRef,
}
