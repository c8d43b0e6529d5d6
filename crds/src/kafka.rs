//! Kafka, a component of SomaInfra.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::infra::{Disabled, Member};
use crate::shared::LocalRef;

/// The log of events: one of managed, external and disabled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("(has(self.managed) ? 1 : 0) + (has(self.external) ? 1 : 0) + (has(self.disabled) ? 1 : 0) == 1").message("set exactly one of managed, external and disabled, and remove the others"),
    validation = Rule::new("!(has(oldSelf.managed) && has(self.external)) && !(has(oldSelf.external) && has(self.managed))").message("the mode of a live Kafka cannot change, because its messages would stay behind; create another SomaInfra and move them")
)]
pub struct Kafka {
    /// The operator runs Kafka: every member is broker and controller in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed: Option<ManagedKafka>,
    /// Kafka runs elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalKafka>,
    /// There is no Kafka. Volumes and passwords of an earlier one stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<Disabled>,
}

impl Default for Kafka {
    fn default() -> Self {
        Self { managed: Some(ManagedKafka::default()), external: None, disabled: None }
    }
}

/// A Kafka the operator runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("!has(self.replicas) || self.replicas in [1, 3]").message("replicas must be 1 or 3: two members survive no more losses than one"),
    validation = Rule::new("!has(oldSelf.replicas) || (has(self.replicas) && self.replicas >= oldSelf.replicas)").message("Kafka cannot shrink, because partitions would lose their replicas; set replicas to at least its previous value")
)]
pub struct ManagedKafka {
    /// Members: 1 or 3; by default 1 in `dev` and 3 in `ha`. It can grow, not shrink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u16>,
    /// What each of them runs on.
    #[serde(flatten)]
    pub member: Member,
    /// Settings of the brokers by Kafka's names, such as `log.retention.ms: "86400000"`. Those that Kafka can change while
    /// it runs are changed so; others replace the pods one by one. Listeners, identity and security are the operator's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub settings: BTreeMap<String, SettingValue>,
}

/// The value of a setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct SettingValue(
    /// One line of text.
    #[schemars(length(max = 1024), regex(pattern = r"^[^\n\r]*$"))]
    pub String,
);

/// A Kafka that runs elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExternalKafka {
    /// Secret in this namespace with the key `bootstrap` (`host:port`, with commas between several), and optionally
    /// `securityProtocol` (PLAINTEXT), `saslMechanism`, `username` and `password`.
    pub secret_ref: LocalRef,
}
