//! From the CronJob, its Jobs and their pods to how the backups of a component are. Pure.

use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use soma_crds::BackupStatus;

use super::schedule::Schedule;
use crate::backup::Record;
use crate::names::object;

/// What the cluster holds of a component's backups.
#[derive(Clone, Debug, Default)]
pub struct Live {
    pub cron: Option<CronJob>,
    pub jobs: Vec<Job>,
    /// Of those Jobs.
    pub pods: Vec<Pod>,
}

/// What to tell about the backups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub status: BackupStatus,
    /// Something is wrong: reason and message.
    pub warning: Option<(&'static str, String)>,
}

impl Live {
    /// How the last finished Job ended, and whether well.
    fn last(&self, type_: &str) -> Option<(Timestamp, &Job)> {
        let ended = self.jobs.iter().filter_map(|job| Some((ended(job, type_)?, job)));
        ended.max_by_key(|(time, _)| *time)
    }

    /// The last attempt failed, and nothing was complete since.
    pub fn fails(&self) -> bool {
        let (good, bad) =
            (self.last("Complete").map(|(time, _)| time), self.last("Failed").map(|(time, _)| time));
        bad.is_some() && bad > good
    }

    /// What a container of a Job wrote as it ended.
    fn said(&self, job: &Job) -> Option<String> {
        let name = job.name_any();
        let of_job = |pod: &&Pod| pod.labels().get("batch.kubernetes.io/job-name") == Some(&name);
        let status = self.pods.iter().filter(of_job).filter_map(|pod| pod.status.as_ref());
        let containers = status.flat_map(|status| {
            let own = status.container_statuses.iter().flatten();
            own.chain(status.init_container_statuses.iter().flatten())
        });
        let ends = containers.filter_map(|container| container.state.as_ref()?.terminated.as_ref());
        let good = ended(job, "Complete").is_some();
        let mut telling: Vec<_> =
            ends.filter(|end| (end.exit_code == 0) == good && end.message.is_some()).collect();
        telling.sort_by_key(|end| end.finished_at.as_ref().map(|time| time.0));
        telling.last()?.message.clone().map(|message| message.trim().to_owned())
    }
}

fn ended(job: &Job, type_: &str) -> Option<Timestamp> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions.iter().find(|c| c.type_ == type_ && c.status == "True")?;
    condition.last_transition_time.as_ref().map(|time| time.0)
}

/// How the backups are at a time.
pub fn tell(component: &str, schedule: &Schedule, live: &Live, now: Timestamp) -> Told {
    let name = object::backup(component);
    let (good, bad) = (live.last("Complete"), live.last("Failed"));
    // The CronJob remembers it when the Job is gone.
    let remembered = live.cron.as_ref().and_then(|cron| cron.status.as_ref()?.last_successful_time.as_ref());
    let success = good.map(|(time, _)| time).max(remembered.map(|time| time.0));
    let failure = bad.map(|(time, _)| time);
    let before = |time: &Timestamp| *time < now;
    let begun =
        live.cron.as_ref().and_then(|cron| cron.metadata.creation_timestamp.as_ref()).map(|time| time.0);
    let overdue = success.or(begun).filter(before).is_some_and(|since| schedule.overdue(since, now));
    let warning = match bad {
        Some((time, job)) if Some(time) > success => {
            let why = live.said(job).unwrap_or_else(|| "its pods tell no more".to_owned());
            let last = why.lines().last().unwrap_or_default().trim();
            Some((
                "BackupFailed",
                format!(
                    "the last backup failed: {last}. `kubectl logs job/{} --all-containers` has more; when it is put right, `kubectl create job --from=cronjob/{name} {name}-now` tries again",
                    job.name_any()
                ),
            ))
        }
        _ if overdue => Some((
            "BackupOverdue",
            format!(
                "no backup was complete for twice the interval of `{}`. Look at `kubectl describe cronjob/{name}` and at its Jobs",
                schedule.text
            ),
        )),
        _ => None,
    };
    let record = good.and_then(|(_, job)| serde_json::from_str::<Record>(&live.said(job)?).ok());
    let message = match (&warning, record) {
        (Some((_, message)), _) => Some(message.clone()),
        (None, Some(record)) => Some(record.to_string()),
        (None, None) => None,
    };
    let next = schedule.next(now);
    let status = BackupStatus {
        last_success: success.map(Time),
        last_failure: failure.map(Time),
        message,
        next: next.map(Time),
    };
    Told { status, warning }
}
