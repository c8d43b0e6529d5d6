use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::infra::fixture;

fn asked(backup: &Value) -> Result<Option<Backup>, Blocked> {
    let infra = fixture::infra(json!({"postgres": {"managed": {"backup": backup}}}));
    let spec = infra.spec.postgres.managed.clone().unwrap().backup;
    validate(&Site::new(&infra), object::POSTGRES, spec.as_ref())
}

#[test]
fn defaults_and_what_is_refused() {
    let backup = asked(&json!({"schedule": "30 2 * * *"})).unwrap().unwrap();
    assert_eq!((backup.keep, backup.verify, backup.volume.size.as_str()), (7, true, "5Gi"));
    assert_eq!(asked(&Value::Null).unwrap(), None);
    let error = asked(&json!({"schedule": "30 25 * * *"})).unwrap_err();
    assert_eq!(error.reason(), "ScheduleInvalid");
    assert!(
        error.to_string().starts_with("spec.postgres.managed.backup.schedule has `25` as hour"),
        "{error}"
    );
}

fn cron(last: Option<&str>) -> CronJob {
    let status = json!({"lastSuccessfulTime": last});
    let metadata = json!({"name": "postgres-backup", "creationTimestamp": "2026-03-01T00:00:00Z"});
    serde_json::from_value(json!({"metadata": metadata, "status": status})).unwrap()
}

fn job(name: &str, type_: &str, time: &str) -> Job {
    let condition = json!({"type": type_, "status": "True", "lastTransitionTime": time});
    serde_json::from_value(json!({"metadata": {"name": name}, "status": {"conditions": [condition]}}))
        .unwrap()
}

fn pod(job: &str, code: i32, message: &str) -> Pod {
    let ended = json!({"exitCode": code, "message": message, "finishedAt": "2026-03-01T02:31:00Z"});
    let status = json!({"name": "keep", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": ended}});
    let labels = json!({"batch.kubernetes.io/job-name": job});
    serde_json::from_value(json!({"metadata": {"labels": labels}, "status": {"containerStatuses": [status]}}))
        .unwrap()
}

fn told(live: &Live, now: &str) -> Told {
    let schedule = Schedule::parse("30 2 * * *").unwrap();
    seen::tell("postgres", &schedule, live, now.parse().unwrap())
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn a_good_backup_is_told_with_its_size() {
    let record = r#"{"name":"20260301T023000Z","component":"postgres","time":"2026-03-01T02:31:00Z","size":3145728,"files":{},"facts":{"version":"15"}}"#;
    let live = Live {
        cron: Some(cron(Some("2026-03-01T02:31:00Z"))),
        jobs: vec![job("a", "Complete", "2026-03-01T02:31:00Z")],
        pods: vec![pod("a", 0, record), pod("b", 0, "of another Job")],
    };
    let Told { status, warning } = told(&live, "2026-03-01T12:00:00Z");
    assert_eq!(warning, None);
    assert_eq!(status.message.as_deref(), Some("20260301T023000Z: 3.0 MiB, version 15"));
    assert_eq!(status.last_success.unwrap().0, time("2026-03-01T02:31:00Z"));
    assert_eq!(status.next.unwrap().0, time("2026-03-02T02:30:00Z"));
}

#[test]
fn a_failure_counts_until_the_next_success() {
    let failed = job("b", "Failed", "2026-03-02T02:31:00Z");
    let mut live = Live {
        cron: Some(cron(Some("2026-03-01T02:31:00Z"))),
        jobs: vec![failed],
        pods: vec![pod("b", 1, "first\npg_basebackup: error: no space left on device\n")],
    };
    let Told { status, warning } = told(&live, "2026-03-02T12:00:00Z");
    let (reason, message) = warning.unwrap();
    assert_eq!(reason, "BackupFailed");
    assert!(
        message.contains("no space left on device") && message.contains("kubectl logs job/b"),
        "{message}"
    );
    assert!(status.last_success.is_some() && status.last_failure.is_some() && live.fails());

    live.jobs.push(job("c", "Complete", "2026-03-02T13:00:00Z"));
    let Told { warning, .. } = told(&live, "2026-03-02T13:01:00Z");
    assert_eq!(warning, None);
    assert!(!live.fails());
}

#[test]
fn one_that_never_came_is_overdue() {
    let live = |last| Live { cron: Some(cron(last)), ..Default::default() };
    let reason = |live: &Live, now| told(live, now).warning.map(|(reason, _)| reason);
    assert_eq!(reason(&live(None), "2026-03-01T20:00:00Z"), None, "the first may still come");
    assert_eq!(reason(&live(None), "2026-03-02T02:31:00Z"), Some("BackupOverdue"));
    let since = Some("2026-03-05T02:33:00Z");
    assert_eq!(reason(&live(since), "2026-03-07T02:00:00Z"), None);
    assert_eq!(reason(&live(since), "2026-03-07T02:31:00Z"), Some("BackupOverdue"));
    assert_eq!(reason(&Live::default(), "2026-03-07T02:31:00Z"), None, "the CronJob was not made yet");
}
