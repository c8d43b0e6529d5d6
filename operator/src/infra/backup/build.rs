//! The volume for a component's backups, and the CronJob that takes them. Pure.

use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use serde_json::{Value, json};

use super::Backup;
use crate::backup::LONGEST;
use crate::check::Plan;
use crate::error::Error;
use crate::infra::Site;
use crate::names::object;
use crate::workload::{Resources, container_security, pod_security, typed};

/// Where the volume with the backups is mounted, and its name in a pod.
pub const FOLDER: &str = "/backups";
pub const VOLUME: &str = "backups";
/// Where the steps of a Job tell each other what they work on.
const NOTE: &str = "/run/soma/partial";
/// What a container tells, for the status.
const REPORT: &str = "/dev/termination-log";

/// User of the operator's image.
pub const UID: i64 = 10_001;

/// What a Job runs.
pub struct Task {
    pub component: &'static str,
    /// Who it runs as.
    pub uid: i64,
    /// Containers that run before, one after another.
    pub before: Vec<Value>,
    pub container: Value,
    /// Volumes besides that of the backups.
    pub volumes: Vec<Value>,
    /// The Secret one of them is filled from, and the key: it exists before there is anything to back up.
    pub secret: Option<(&'static str, &'static str)>,
    /// Account whose token is mounted; none for most.
    pub account: Option<&'static str>,
}

/// The objects. Destructured without `..` where they are applied.
pub struct Objects {
    /// No owner: it stays like the volumes of the component.
    pub claim: PersistentVolumeClaim,
    pub cron: CronJob,
    /// What the Jobs mount, which others made.
    pub secret: Option<(&'static str, &'static str)>,
}

pub fn objects(site: &Site<'_>, backup: &Backup, task: Task) -> Result<Objects, Error> {
    let name = object::backup(task.component);
    let labels = site.owner.labels(&name);
    let mut claim = json!({
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": backup.volume.size}},
    });
    if let Some(class) = &backup.volume.class {
        claim["storageClassName"] = class.as_str().into();
    }
    Ok(Objects {
        secret: task.secret,
        claim: typed(&json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": site.owner.namespace, "labels": labels},
            "spec": claim,
        }))?,
        cron: typed(&json!({
            "apiVersion": "batch/v1", "kind": "CronJob", "metadata": site.metadata(&name, &name),
            "spec": {
                "schedule": backup.schedule.text,
                "timeZone": "Etc/UTC",
                // Two at a time would only slow each other down.
                "concurrencyPolicy": "Forbid",
                "startingDeadlineSeconds": 3600,
                "successfulJobsHistoryLimit": 3,
                "failedJobsHistoryLimit": 3,
                "jobTemplate": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "backoffLimit": 2,
                        "activeDeadlineSeconds": LONGEST.as_secs(),
                        "template": {"metadata": {"labels": labels}, "spec": pod(task, &name)},
                    },
                },
            },
        }))?,
    })
}

fn pod(task: Task, claim: &str) -> Value {
    let Task { component: _, uid, before, container, volumes, secret: _, account } = task;
    let own = json!({"name": VOLUME, "persistentVolumeClaim": {"claimName": claim}});
    let volumes: Vec<_> = [own].into_iter().chain(volumes).collect();
    let mut pod = json!({
        "restartPolicy": "Never",
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "securityContext": pod_security(uid),
        "containers": [container],
        "volumes": volumes,
    });
    if !before.is_empty() {
        pod["initContainers"] = before.into();
    }
    if let Some(account) = account {
        pod["serviceAccountName"] = account.into();
    }
    pod
}

/// What all containers of a Job have in common.
pub fn container(
    name: &str,
    image: &str,
    command: &[&str],
    resources: &Resources,
    mounts: &[(&str, &str)],
) -> Value {
    let mounts: Vec<_> = mounts.iter().map(|(name, path)| json!({"name": name, "mountPath": path})).collect();
    json!({
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": command,
        "securityContext": container_security(),
        "resources": resources.json(),
        // The last lines of what failed are the message of the status.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    })
}

/// A container that runs `soma-operator backup`.
pub fn operator(
    image: &str,
    component: &str,
    command: &str,
    args: &[&str],
    mounts: &[(&str, &str)],
) -> Value {
    let place =
        ["/usr/local/bin/soma-operator", "backup", command, "--folder", FOLDER, "--component", component];
    let all: Vec<_> = place.iter().chain(args).copied().collect();
    let mounts: Vec<_> = [(VOLUME, FOLDER)].iter().chain(mounts).copied().collect();
    container(command, image, &all, &Resources::of("50m", "64Mi", "256Mi"), &mounts)
}

/// The container that makes the folder another one fills.
pub fn begin(image: &str, component: &str, run: &str) -> Value {
    operator(image, component, "begin", &["--note", NOTE], &[(run, "/run/soma")])
}

/// The container that completes what another one took.
pub fn keep(image: &str, component: &str, run: &str, keep: u16) -> Value {
    let keep = keep.to_string();
    let args = ["--keep", &keep, "--note", NOTE, "--report", REPORT];
    operator(image, component, "keep", &args, &[(run, "/run/soma")])
}

/// How a container that takes and completes a backup ends.
pub fn end(keep: &str) -> [&str; 4] {
    ["--keep", keep, "--report", REPORT]
}

impl Objects {
    /// Adds them to a plan, for its lints.
    pub fn plan(&self, plan: &mut Plan) {
        let Self { claim, cron, secret } = self;
        if let Some((name, key)) = secret {
            plan.secret(name, &[key]);
        }
        plan.claim(claim);
        plan.cron_job(cron);
    }
}
