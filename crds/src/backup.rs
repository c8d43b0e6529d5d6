//! Backups of a component that the operator runs.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::infra::Storage;

/// When a component is backed up, and where to: a volume of its own, `<component>-backup`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
pub struct Backup {
    /// Five fields as `cron` has them, in UTC, such as `30 2 * * *`: minute, hour, day of the month, month, day of the week.
    #[schemars(
        regex(
            pattern = r"^(\*|[0-9]+(-[0-9]+)?)(/[0-9]+)?(,(\*|[0-9]+(-[0-9]+)?)(/[0-9]+)?)*( (\*|[0-9]+(-[0-9]+)?)(/[0-9]+)?(,(\*|[0-9]+(-[0-9]+)?)(/[0-9]+)?)*){4}$"
        ),
        length(max = 128)
    )]
    pub schedule: String,
    /// How many good backups stay; older ones are deleted after a new one is complete.
    #[serde(default = "keep")]
    #[schemars(range(min = 1, max = 1000))]
    pub keep: u16,
    /// The volume for the backups; by default 5Gi in `dev` and 100Gi in `ha`.
    #[serde(default)]
    pub storage: Storage,
    /// Whether each backup is restored into a scratch instance, which has to start and answer, before it counts. Postgres only:
    /// backups of etcd and Vault are checked by their hashes, whatever this says.
    #[serde(default = "verify")]
    pub verify: bool,
}

fn keep() -> u16 {
    7
}

fn verify() -> bool {
    true
}

/// What the operator last saw of a component's backups.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupStatus {
    /// When the last good backup was complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success: Option<Time>,
    /// When the last attempt failed for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<Time>,
    /// Name and size of the last good backup, or why the last attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When the next one is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Time>,
}
