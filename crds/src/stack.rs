//! SomaStack: the services of one environment.

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};
use soma_settings::{Environment, MemorySettings, SharedSettings};

use crate::shared::{self, NamespacedRef};

/// The services of one environment; one per namespace.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "somastack.dev",
    version = "v1alpha1",
    kind = "SomaStack",
    plural = "somastacks",
    shortname = "sstack",
    category = "soma",
    namespaced,
    status = "SomaStackStatus",
    derive = "PartialEq",
    doc = "The application services of one environment. One per namespace.",
    printcolumn(name = "Environment", type_ = "string", json_path = ".spec.environment"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(name = "Memory", type_ = "string", json_path = ".status.services.memory.stable.revision"),
    printcolumn(name = "Pods", type_ = "string", json_path = ".status.services.memory.pods"),
    printcolumn(name = "URL", type_ = "string", priority = 1, json_path = ".status.url"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 52").message("metadata.name must have at most 52 characters: names of its objects are made from it")
)]
#[serde(rename_all = "camelCase")]
pub struct SomaStackSpec {
    /// The SomaInfra whose components the services use. It cannot change: the memories live in its database.
    #[x_kube(validation = Rule::new("self == oldSelf").message("infraRef cannot change, because the memories live in the database of that SomaInfra; create another SomaStack"))]
    pub infra_ref: NamespacedRef,
    /// Chooses the defaults of all settings.
    #[serde(default)]
    pub environment: Environment,
    /// Release of the services, used as image tag; the operator's own release when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$"))]
    pub version: Option<String>,
    /// Settings of every service.
    #[serde(default)]
    pub settings: SharedSettings,
    /// Each service on its own.
    #[serde(default)]
    pub services: Services,
}

/// The services of a stack.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
pub struct Services {
    /// Stores and recalls memories (HTTP 9595, gRPC 50053).
    #[serde(default)]
    pub memory: MemoryService,
}

/// The memory service of a stack.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
pub struct MemoryService {
    /// Number of pods (1–20).
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 20))]
    pub replicas: i32,
    /// Container image; by default `somastack/memory` with the stack's version as tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// CPU and memory of each pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Settings of this service; they win over `spec.settings` and the environment's.
    #[serde(default)]
    pub settings: MemorySettings,
}

fn one() -> i32 {
    1
}

impl Default for MemoryService {
    fn default() -> Self {
        Self { replicas: one(), image: None, resources: None, settings: MemorySettings::default() }
    }
}

/// What the operator last saw of a SomaStack.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SomaStackStatus {
    /// Generation of the manifest this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, Available, Progressing and Degraded.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Release the services run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Address of the memory API inside the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Each service on its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<ServicesStatus>,
}

impl SomaStackStatus {
    /// The condition of a type, where present.
    pub fn condition(&self, type_: &str) -> Option<&Condition> {
        shared::find(&self.conditions, type_)
    }
}

/// The state of each service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
pub struct ServicesStatus {
    /// The memory service.
    pub memory: ServiceStatus,
}

/// The state of one service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStatus {
    /// The revision that receives traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable: Option<Revision>,
    /// The revision that will receive traffic once its pods are ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Revision>,
    /// Ready and wanted pods of the stable revision, such as `2/2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<String>,
    /// Why the pods were last replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_restart: Option<Restart>,
}

/// One revision of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Revision {
    /// Name of its Deployment, such as `memory-1a2b3c4d`.
    pub revision: String,
    /// Hash of the configuration its pods mount; the pods carry it as the label `configHash`.
    pub config_hash: String,
    /// Image its pods run.
    pub image: String,
}

/// Why the pods of a service were replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Restart {
    /// When the operator began it.
    pub time: Time,
    /// Revision the pods were moved from.
    pub from: String,
    /// Revision the pods were moved to.
    pub to: String,
    /// What changed: settings by dotted key, or `image`, or `resources`. Never a value.
    pub changed: Vec<String>,
}
