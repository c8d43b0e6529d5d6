//! SomaInfra: the infrastructure the services of an environment share.

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::api::networking::v1::NetworkPolicyPeer;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::backup::{Backup, BackupStatus};
use crate::etcd::Etcd;
use crate::kafka::Kafka;
use crate::opa::Opa;
use crate::openfga::OpenFga;
use crate::redis::Redis;
use crate::shared::{self, DeletionPolicy, LocalRef, Quantity};
use crate::vault::Vault;

/// Shared infrastructure, once per environment.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "somastack.dev",
    version = "v1alpha1",
    kind = "SomaInfra",
    plural = "somainfras",
    shortname = "sinfra",
    category = "soma",
    namespaced,
    status = "SomaInfraStatus",
    derive = "PartialEq",
    doc = "Shared infrastructure of one environment. A SomaStack in any namespace refers to it.",
    printcolumn(name = "Profile", type_ = "string", json_path = ".spec.profile"),
    printcolumn(name = "Postgres", type_ = "string", json_path = ".status.components[?(@.name==\"postgres\")].mode"),
    printcolumn(name = "Endpoint", type_ = "string", priority = 1, json_path = ".status.components[?(@.name==\"postgres\")].endpoint"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("has(self.spec.vault) == has(oldSelf.spec.vault) || !has((has(self.spec.vault) ? self : oldSelf).spec.vault.external)").message("the mode of a live Vault cannot change, and an absent `vault` is managed; create another SomaInfra"),
    validation = Rule::new("has(self.spec.kafka) == has(oldSelf.spec.kafka) || !has((has(self.spec.kafka) ? self : oldSelf).spec.kafka.external)").message("the mode of a live Kafka cannot change, and an absent `kafka` is managed; create another SomaInfra"),
    validation = Rule::new("has(self.spec.etcd) == has(oldSelf.spec.etcd) || !has((has(self.spec.etcd) ? self : oldSelf).spec.etcd.external)").message("the mode of a live etcd cannot change, and an absent `etcd` is managed; create another SomaInfra"),
    validation = Rule::new("has(self.spec.redis) == has(oldSelf.spec.redis) || !has((has(self.spec.redis) ? self : oldSelf).spec.redis.external)").message("the mode of a live Redis cannot change, and an absent `redis` is managed; create another SomaInfra"),
    validation = Rule::new("has(self.spec.opa) == has(oldSelf.spec.opa) || !has((has(self.spec.opa) ? self : oldSelf).spec.opa.external)").message("the mode of a live OPA cannot change, and an absent `opa` is managed; set disabled first"),
    validation = Rule::new("has(self.spec.openfga) == has(oldSelf.spec.openfga) || (has(self.spec.openfga) ? oldSelf : self).spec.profile != 'ha' || !has((has(self.spec.openfga) ? self : oldSelf).spec.openfga.external)").message("the mode of a live OpenFGA cannot change, and in `profile: ha` an absent `openfga` is managed; create another SomaInfra"),
    validation = Rule::new("self.metadata.name.size() <= 52").message("metadata.name must have at most 52 characters: names of its objects are made from it")
)]
#[serde(rename_all = "camelCase")]
pub struct SomaInfraSpec {
    /// Sizes and counts a component gets when it does not say otherwise: `dev` is small, `ha` is for production. Either runs
    /// every component that is not `disabled` or `external`, except that `dev` runs no OpenFGA unless it is asked for.
    #[serde(default)]
    pub profile: Profile,
    /// The relational database. Exactly one of `managed` and `external`; managed when absent.
    #[serde(default)]
    pub postgres: Postgres,
    /// The store of secrets. Exactly one of `managed`, `external` and `disabled`; managed when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vault: Option<Vault>,
    /// The log of events. Exactly one of `managed`, `external` and `disabled`; managed when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kafka: Option<Kafka>,
    /// The store of flags. Exactly one of `managed`, `external` and `disabled`; managed when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etcd: Option<Etcd>,
    /// The cache. Exactly one of `managed`, `external` and `disabled`; managed when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis: Option<Redis>,
    /// What decides who may do what. Exactly one of `managed`, `external` and `disabled`; managed when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opa: Option<Opa>,
    /// What knows who is related to what. Exactly one of `managed`, `external` and `disabled`; when absent it is managed in
    /// `ha` and does not run in `dev`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub openfga: Option<OpenFga>,
    /// Namespaces in which the components' short names resolve, such as `postgres.soma.svc.cluster.local` for `soma`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        inner(regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"), length(max = 63))
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub alias_namespaces: Vec<String>,
    /// Further pods or addresses that may connect to the components, written as in a NetworkPolicy. The operator and the pods
    /// of the SomaStacks that refer to this object always may, everybody else may not, where the network enforces policies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = Rule::new("self.all(peer, has(peer.podSelector) || has(peer.namespaceSelector) || has(peer.ipBlock))").message("an entry of allowFrom needs podSelector, namespaceSelector or ipBlock; any pod of the cluster is `namespaceSelector: {}`"))]
    pub allow_from: Vec<NetworkPolicyPeer>,
    /// What a deletion does with volumes and passwords: `Retain` keeps them. Deletion waits while a SomaStack refers to this object.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

/// Sets the defaults of every component.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// One replica each, small.
    #[default]
    Dev,
    /// Sized for production.
    Ha,
}

/// The relational database: one of managed and external.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("has(self.managed) != has(self.external)").message("set exactly one of managed and external, and remove the other"),
    validation = Rule::new("has(self.managed) == has(oldSelf.managed)").message("the mode of a live Postgres cannot change, because its data would stay behind; create another SomaInfra and move the data")
)]
pub struct Postgres {
    /// The operator runs Postgres: one instance, no automatic failover.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed: Option<ManagedPostgres>,
    /// Postgres runs elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalPostgres>,
}

impl Default for Postgres {
    fn default() -> Self {
        Self { managed: Some(ManagedPostgres::default()), external: None }
    }
}

/// A Postgres the operator runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
pub struct ManagedPostgres {
    /// What it runs on.
    #[serde(flatten)]
    pub member: Member,
    /// Backups by schedule; none when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<Backup>,
}

/// What each member of a stateful component runs on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
pub struct Member {
    /// Container image with the layout of the official one; by default the release the operator was tested with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// The volume of each member.
    #[serde(default)]
    pub storage: Storage,
    /// CPU and memory of each pod; by default as the profile says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
}

/// A component that does not run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Disabled {}

/// The volume of a stateful component.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(oldSelf.size) || (has(self.size) && quantity(self.size).compareTo(quantity(oldSelf.size)) >= 0)").message("a volume can grow but not shrink; set size to at least its previous value"),
    validation = Rule::new("has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)").message("storageClassName cannot change once the volume exists; set it back to its previous value")
)]
pub struct Storage {
    /// Size, such as 20Gi; by default 1Gi in `dev` and 20Gi in `ha`. It can grow later, not shrink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Quantity>,
    /// Storage class; the cluster's default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
}

/// A Postgres that runs elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExternalPostgres {
    /// Secret in this namespace with the keys `host`, `username` and `password`, and optionally `port` (5432),
    /// `database` (somamemory) and `sslmode` (prefer).
    pub secret_ref: LocalRef,
}

/// What the operator last saw of a SomaInfra.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SomaInfraStatus {
    /// Generation of the manifest this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, Available, Progressing and Degraded.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// One entry per component.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub components: Vec<Component>,
    /// What all components the operator runs cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub footprint: Option<Footprint>,
}

impl SomaInfraStatus {
    /// The condition of a type, where present.
    pub fn condition(&self, type_: &str) -> Option<&Condition> {
        shared::find(&self.conditions, type_)
    }
}

/// What the operator last saw of one component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct Component {
    /// Name of the component, such as `postgres`.
    pub name: String,
    /// Who runs it.
    pub mode: Mode,
    /// It answers.
    pub ready: bool,
    /// `Ready`, or why it is not as the manifest asks: one of the reasons of the conditions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Version it reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Host and port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// What it waits for, and what to know about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// One entry per pod, where the operator runs it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub members: Vec<MemberStatus>,
    /// What it costs, where the operator runs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub footprint: Option<Footprint>,
    /// Its backups, where it has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupStatus>,
}

/// What pods ask of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct Footprint {
    /// Of the pods and volumes there are.
    pub now: Cost,
    /// Of those there will be once everything is as the manifest asks.
    pub planned: Cost,
}

/// Requests of pods and volumes, added up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct Cost {
    /// Number of pods.
    pub pods: u32,
    /// Cores, such as `1350m`.
    pub cpu: String,
    /// Bytes, such as `2560Mi`.
    pub memory: String,
    /// Bytes of all volumes, such as `3Gi`.
    pub storage: String,
}

/// What the operator last saw of one member of a component.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct MemberStatus {
    /// Name of its pod.
    pub name: String,
    /// Its pod is ready.
    pub ready: bool,
    /// What it is among the others, by their own protocol, such as `leader`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Why it is not ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Who runs a component.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The operator.
    Managed,
    /// Somebody else; the operator only connects.
    External,
}
