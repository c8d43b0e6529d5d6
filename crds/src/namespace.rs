//! MemoryNamespace: one tenant's isolated memory.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::shared::{self, DeletionPolicy, LocalRef, Quantity};

/// One tenant's isolated memory; its name is the value of the header `X-Soma-Namespace`.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "somastack.dev",
    version = "v1alpha1",
    kind = "MemoryNamespace",
    plural = "memorynamespaces",
    shortname = "memns",
    category = "soma",
    namespaced,
    status = "MemoryNamespaceStatus",
    derive = "PartialEq",
    doc = "One tenant's isolated memory. Its name is the value of the header X-Soma-Namespace.",
    printcolumn(name = "Stack", type_ = "string", json_path = ".spec.stackRef.name"),
    printcolumn(name = "Tenant", type_ = "string", json_path = ".spec.tenant"),
    printcolumn(name = "Memories", type_ = "integer", json_path = ".status.usage.memories"),
    printcolumn(name = "Bytes", type_ = "integer", json_path = ".status.usage.bytes"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 63 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')").message("metadata.name is sent as the header X-Soma-Namespace: use at most 63 lower-case letters, digits and dashes, with no dot")
)]
#[serde(rename_all = "camelCase")]
pub struct MemoryNamespaceSpec {
    /// The SomaStack, in the same namespace, whose memory service holds these memories. It cannot change.
    #[x_kube(validation = Rule::new("self == oldSelf").message("stackRef cannot change, because the memories live in that stack; create another MemoryNamespace and import them"))]
    pub stack_ref: LocalRef,
    /// Who the memories belong to: a DNS label, so that no two tenants can share one external name. It cannot change.
    #[x_kube(
        validation = Rule::new("self == oldSelf").message("tenant cannot change; create another MemoryNamespace for the other tenant"),
        validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')").message("tenant must be lower-case letters, digits and dashes, so that two tenants never map to one name")
    )]
    #[schemars(length(min = 1, max = 63))]
    pub tenant: String,
    /// How much may be stored. What is absent is not limited.
    #[serde(default)]
    pub quota: Quota,
    /// How text becomes a vector. It cannot change: vectors of two models cannot be compared.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("embedding cannot change once bound, because vectors of two models cannot be compared; create another MemoryNamespace and import the memories"))]
    pub embedding: Embedding,
    /// Which service accounts of this namespace Vault takes for this tenant; by default the one that has the name of the
    /// MemoryNamespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub access: Vec<Access>,
    /// What a deletion does with the memories, the tenant's topics in Kafka and its secrets in Vault: `Retain` keeps them.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

/// Somebody who acts for a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Access {
    /// Name of a ServiceAccount in the namespace of the MemoryNamespace.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')").message("serviceAccount must be the name of a ServiceAccount: lower-case letters, digits, dashes and dots"))]
    pub service_account: String,
}

/// How much a namespace may hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct Quota {
    /// Memories at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub memories: Option<i64>,
    /// Bytes of payload at most, such as 512Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Quantity>,
    /// How fast the tenant's own user of Kafka may write and read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kafka: Option<KafkaQuota>,
}

/// Limits of a user of Kafka. Every broker counts for itself, and slows down who exceeds them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct KafkaQuota {
    /// Bytes written per second and broker at most, such as 1Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub produce_bytes_per_second: Option<Quantity>,
    /// Bytes read per second and broker at most, such as 1Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consume_bytes_per_second: Option<Quantity>,
}

/// The model that turns text into vectors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("self.dimension == 384").message("all-MiniLM-L6-v2 has 384 dimensions; set dimension to 384 or leave it out"))]
pub struct Embedding {
    /// Where the model runs.
    #[serde(default)]
    pub provider: Provider,
    /// Which model.
    #[serde(default)]
    pub model: Model,
    /// Length of its vectors.
    #[serde(default = "minilm_dimension")]
    pub dimension: i32,
}

fn minilm_dimension() -> i32 {
    384
}

impl Default for Embedding {
    fn default() -> Self {
        Self { provider: Provider::Local, model: Model::AllMiniLmL6V2, dimension: minilm_dimension() }
    }
}

/// Where an embedding model runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// Inside the memory service.
    #[default]
    Local,
}

/// Embedding models the memory service carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Model {
    /// sentence-transformers/all-MiniLM-L6-v2, 384 dimensions.
    #[default]
    #[serde(rename = "all-MiniLM-L6-v2")]
    AllMiniLmL6V2,
}

impl Model {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AllMiniLmL6V2 => "all-MiniLM-L6-v2",
        }
    }
}

impl Provider {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
        }
    }
}

/// What the operator last saw of a MemoryNamespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemoryNamespaceStatus {
    /// Generation of the manifest this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, Available, Progressing and Degraded.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// How much it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// The Secret, in this namespace, by which the tenant's own programs reach Kafka and Vault; absent where the SomaInfra
    /// manages neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_secret: Option<String>,
}

impl MemoryNamespaceStatus {
    /// The condition of a type, where present.
    pub fn condition(&self, type_: &str) -> Option<&Condition> {
        shared::find(&self.conditions, type_)
    }
}

/// How much a namespace holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct Usage {
    /// Memories.
    pub memories: i64,
    /// Bytes of payload.
    pub bytes: i64,
}
