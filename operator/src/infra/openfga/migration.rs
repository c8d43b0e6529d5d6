//! How far the migration of the database has come. Pure.

use k8s_openapi::api::batch::v1::{Job, JobCondition};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::infra::component::State;
use crate::pods;

/// The label by which pods know their Job.
const JOB_NAME: &str = "batch.kubernetes.io/job-name";

fn holds<'a>(job: &'a Job, type_: &str) -> Option<&'a JobCondition> {
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().find(|c| c.type_ == type_ && c.status == "True")
}

/// It does no more, well or not.
pub fn has_ended(job: &Job) -> bool {
    ["Complete", "Failed"].iter().any(|type_| holds(job, type_).is_some())
}

/// The migrations that are not the one wanted.
pub fn others<'a>(jobs: &'a [Job], wanted: &Job) -> Vec<&'a Job> {
    jobs.iter().filter(|job| job.metadata.name != wanted.metadata.name).collect()
}

/// None when it is done, else what it waits for; `serving` says whether pods of an earlier release serve meanwhile.
pub fn pending(job: &Job, pods: &[Pod], serving: bool) -> Option<State> {
    if holds(job, "Complete").is_some() {
        return None;
    }
    let name = job.name_any();
    if let Some(failed) = holds(job, "Failed") {
        let message = format!(
            "the migration of OpenFGA's database failed: {}. Put right what `kubectl logs job/{name}` says and delete the Job, which is then made again",
            failed.message.as_deref().unwrap_or("no message")
        );
        return Some(State::Stuck { reason: "MigrationFailed", message, serving });
    }
    let own = pods.iter().filter(|pod| pod.labels().get(JOB_NAME) == Some(&name));
    if let Some(trouble) = pods::trouble(own) {
        let message = format!("the migration of OpenFGA's database does not get on: {}", trouble.message);
        return Some(State::Stuck { reason: trouble.reason, message, serving });
    }
    let what = format!("waiting for Job {name}, which migrates the database");
    Some(if serving { State::Repairing(what) } else { State::Starting(what) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn job(conditions: &Value) -> Job {
        serde_json::from_value(json!({"metadata": {"name": "m"}, "status": {"conditions": conditions}}))
            .unwrap()
    }

    #[test]
    fn pods_wait_until_the_migration_succeeded() {
        let of =
            |type_: &str, status: &str| job(&json!([{"type": type_, "status": status, "message": "why"}]));
        assert!(pending(&of("Complete", "True"), &[], true).is_none());
        assert!(has_ended(&of("Failed", "True")) && !has_ended(&of("Complete", "False")));
        for job in [of("Complete", "False"), of("SuccessCriteriaMet", "True"), job(&Value::Null)] {
            assert!(matches!(pending(&job, &[], false), Some(State::Starting(_))));
            assert!(matches!(pending(&job, &[], true), Some(State::Repairing(_))));
        }
        let failed = pending(&of("Failed", "True"), &[], true);
        assert!(
            matches!(&failed, Some(State::Stuck { reason: "MigrationFailed", message, serving: true }) if message.contains("failed: why")),
            "{failed:?}"
        );
    }

    #[test]
    fn what_keeps_it_from_ending_is_quoted() {
        let crash = |job: &str| -> Pod {
            serde_json::from_value(json!({
                "metadata": {"name": "p", "labels": {JOB_NAME: job}},
                "status": {"containerStatuses": [{
                    "name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 3,
                    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                    "lastState": {"terminated": {"exitCode": 1, "message": "password authentication failed"}},
                }]},
            }))
            .unwrap()
        };
        let running = job(&Value::Null);
        assert!(matches!(pending(&running, &[crash("other")], false), Some(State::Starting(_))));
        let stuck = pending(&running, &[crash("m")], false);
        assert!(
            matches!(&stuck, Some(State::Stuck { reason: "CrashLoop", message, .. }) if message.contains("password authentication failed")),
            "{stuck:?}"
        );
    }
}
