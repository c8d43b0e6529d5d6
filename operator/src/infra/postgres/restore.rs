//! How a backup becomes the data of a new volume: by a Job, before there is a set. Data that exists is never touched.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::json;

use super::build::{DATA, UID};
use super::validate::{Managed, Observed};
use crate::apply::Writer;
use crate::check::{self, Plan};
use crate::context::Context;
use crate::error::Error;
use crate::events::Note;
use crate::infra::Site;
use crate::infra::backup::{self, FOLDER, VOLUME};
use crate::infra::component::State;
use crate::infra::set;
use crate::names::{RESTORE_POSTGRES, object, reason};
use crate::workload::{Resources, pod_security, typed};

/// What runs in the image of the server itself.
pub const RESTORE: &str = include_str!("restore.sh");
/// Name of the Job.
const JOB: &str = "postgres-restore";
/// Seconds a Job that ended is kept for people to read.
const KEPT: u32 = 86_400;

/// What comes of the wish.
pub enum Outcome {
    /// Nobody asked.
    NotAsked,
    /// It cannot be done here; Postgres goes on as it is.
    Refused(&'static str, String),
    /// Postgres must not be started yet.
    Busy(State),
    /// It is done, and Postgres starts when everything is looked at again.
    Done(Note),
}

/// How far the Job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    None,
    Running,
    Complete,
    Failed,
}

/// The next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It runs on data.
    Refuse,
    /// There is data, perhaps about to go: nothing may start on it meanwhile.
    Occupied,
    /// Without the superuser's password nobody could use the data.
    Password,
    /// There are no backups on this cluster.
    NoBackups,
    /// Make the Job, then the volume.
    Begin,
    /// A Job of another wish, or for a volume that is gone, goes first.
    Remove,
    Fail,
    Finish,
}

/// What a restore would meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Data {
    None,
    Volume,
    /// Postgres was started on it.
    Set,
}

/// What is known when a restore is asked for.
#[derive(Clone, Copy, Debug)]
struct Known {
    data: Data,
    /// What it cannot be done without: `Password` or `NoBackups`.
    missing: Option<Step>,
    /// The Job is for the backup that is asked for.
    same: bool,
    progress: Progress,
}

fn next(known: Known) -> Step {
    let Known { data, missing, same, progress } = known;
    match (data, progress) {
        (Data::Set, _) => Step::Refuse,
        // The Job is made before the volume, so a volume without a Job is somebody's data.
        (Data::Volume, Progress::None) => Step::Occupied,
        (Data::None, Progress::None) => missing.unwrap_or(Step::Begin),
        (Data::Volume, Progress::Complete) if same => Step::Finish,
        // It restored another backup, or into a volume that is gone.
        (_, Progress::Complete) => Step::Remove,
        _ if !same => Step::Remove,
        (_, Progress::Failed) => Step::Fail,
        (_, Progress::Running) => missing.unwrap_or(Step::Begin),
    }
}

/// Takes one step towards the backup that the annotation names.
pub async fn drive(
    ctx: &Context,
    writer: &Writer,
    site: &Site<'_>,
    managed: &Managed,
    observed: &Observed,
) -> Result<Outcome, Error> {
    let Some(name) = site.infra.annotations().get(RESTORE_POSTGRES) else { return Ok(Outcome::NotAsked) };
    let namespace = &site.owner.namespace;
    let job = ctx.get::<Job>(namespace, JOB).await?;
    let backups = object::backup(object::POSTGRES);
    let has_backups = ctx.get::<PersistentVolumeClaim>(namespace, &backups).await?.is_some();
    let known = Known {
        data: match &observed.live {
            live if live.set.is_some() => Data::Set,
            live if live.claims.contains_key(&0) => Data::Volume,
            _ => Data::None,
        },
        missing: match &managed.kept {
            None => Some(Step::Password),
            Some(_) if !has_backups => Some(Step::NoBackups),
            Some(_) => None,
        },
        same: job.as_ref().is_some_and(|job| job.annotations().get(RESTORE_POSTGRES) == Some(name)),
        progress: job.as_ref().map_or(Progress::None, progress),
    };
    let busy = |what: String| Ok(Outcome::Busy(State::Forming(what)));
    let stuck = |reason, message| Ok(Outcome::Busy(State::Stuck { reason, message, serving: false }));
    let claim = set::claim_name(object::POSTGRES, 0);
    match next(known) {
        Step::Refuse => Ok(Outcome::Refused(
            "RestoreRefused",
            format!(
                "backup {name} is not restored, because there is data, and a restore never overwrites any. Take the annotation {RESTORE_POSTGRES} away; or, to give the data up, run `kubectl -n {namespace} delete statefulset/postgres pvc/{claim}`"
            ),
        )),
        Step::Occupied => stuck(
            "RestoreRefused",
            format!(
                "backup {name} waits until the volume claim {namespace}/{claim} is gone, because a restore never overwrites data. Delete it to give its data up, or take the annotation {RESTORE_POSTGRES} away to start on it"
            ),
        ),
        Step::Password => stuck(
            "PasswordLost",
            format!(
                "backup {name} can only be opened with the passwords it was taken with. Restore Secret {namespace}/{} first",
                object::POSTGRES_SECRET
            ),
        ),
        Step::NoBackups => stuck(
            "RestoreFailed",
            format!(
                "there is no volume claim {namespace}/{backups} with backups. Restore the claim, or take the annotation {RESTORE_POSTGRES} away"
            ),
        ),
        Step::Begin => {
            let (wanted, volume) = (job_of(site, managed, name)?, claim_of(site, managed)?);
            let mut plan = Plan::default();
            plan.job(&wanted);
            plan.claim(&volume);
            check::sound(&plan)?;
            writer.create_once(&wanted).await?;
            writer.create_once(&volume).await?;
            busy(format!("backup {name} is being restored"))
        }
        Step::Remove => {
            if let Some(job) = &job {
                writer.delete(job, DeleteParams::foreground()).await?;
            }
            busy("the Job of an earlier restore is being removed".into())
        }
        Step::Fail => stuck(
            "RestoreFailed",
            format!(
                "backup {name} could not be restored; `kubectl -n {namespace} logs job/{JOB}` says why. Delete the Job to try again, or name another backup"
            ),
        ),
        Step::Finish => {
            let wish = json!({"metadata": {"annotations": {RESTORE_POSTGRES: null}}});
            writer.merge(site.infra, &wish).await?;
            Ok(Outcome::Done(Note::normal(reason::RESTORED, format!("backup {name} is restored"))))
        }
    }
}

fn progress(job: &Job) -> Progress {
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_ref());
    let is = |type_: &str| conditions.into_iter().flatten().any(|c| c.type_ == type_ && c.status == "True");
    if is("Complete") {
        Progress::Complete
    } else if is("Failed") {
        Progress::Failed
    } else {
        Progress::Running
    }
}

/// As the set would make it.
fn claim_of(site: &Site<'_>, managed: &Managed) -> Result<PersistentVolumeClaim, Error> {
    let mut claim = set::claim(&managed.member.volume);
    claim["metadata"] =
        json!({"name": set::claim_name(object::POSTGRES, 0), "namespace": site.owner.namespace});
    typed(&claim)
}

fn job_of(site: &Site<'_>, managed: &Managed, name: &str) -> Result<Job, Error> {
    let mounts = [(VOLUME, FOLDER), (set::VOLUME, "/var/lib/postgresql/data"), ("tmp", "/tmp")];
    let resources = Resources::of("100m", "256Mi", "512Mi");
    let command = ["/bin/sh", "-c", RESTORE];
    let mut container = backup::container("restore", &managed.member.image, &command, &resources, &mounts);
    container["env"] = json!([
        {"name": "BACKUP", "value": name},
        {"name": "FOLDER", "value": FOLDER},
        {"name": "DATA", "value": DATA},
    ]);
    let mut metadata = site.metadata(JOB, JOB);
    metadata["annotations"] = json!({RESTORE_POSTGRES: name});
    typed(&json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": metadata,
        "spec": {
            "backoffLimit": 2,
            "ttlSecondsAfterFinished": KEPT,
            "template": {"metadata": {"labels": site.owner.labels(JOB)}, "spec": {
                "restartPolicy": "Never",
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                "securityContext": pod_security(UID),
                "containers": [container],
                "volumes": [
                    {"name": VOLUME, "persistentVolumeClaim": {"claimName": object::backup(object::POSTGRES)}},
                    {"name": set::VOLUME, "persistentVolumeClaim": {"claimName": set::claim_name(object::POSTGRES, 0)}},
                    {"name": "tmp", "emptyDir": {}},
                ],
            }},
        },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infra::fixture;
    use crate::infra::postgres::validate::{Postgres, validate};

    #[test]
    fn data_is_never_overwritten_and_every_crash_converges() {
        use Progress::{Complete, Failed, Running};
        let fresh = Known { data: Data::None, missing: None, same: false, progress: Progress::None };
        assert_eq!(next(fresh), Step::Begin);
        let begun = Known { same: true, progress: Running, ..fresh };
        assert_eq!(next(begun), Step::Begin, "ended before the volume was made");
        assert_eq!(next(Known { data: Data::Volume, ..begun }), Step::Begin, "it waits");
        let complete = Known { data: Data::Volume, progress: Complete, ..begun };
        assert_eq!(next(complete), Step::Finish);
        assert_eq!(next(Known { progress: Failed, ..complete }), Step::Fail);

        assert_eq!(next(Known { data: Data::Volume, ..fresh }), Step::Occupied);
        for progress in [Progress::None, Running, Complete, Failed] {
            assert_eq!(next(Known { data: Data::Set, progress, ..complete }), Step::Refuse, "it runs");
        }
        for missing in [Step::Password, Step::NoBackups] {
            assert_eq!(next(Known { missing: Some(missing), ..fresh }), missing);
        }
        assert_eq!(next(Known { data: Data::None, ..complete }), Step::Remove, "that volume is gone");
        for progress in [Running, Complete, Failed] {
            assert_eq!(next(Known { same: false, progress, ..complete }), Step::Remove, "another wish");
        }
    }

    #[test]
    fn the_job_is_sound_and_the_volume_is_the_set_s() {
        let infra = fixture::managed();
        let site = Site::new(&infra);
        let Ok(Postgres::Managed(managed)) = validate(&site, &Observed::default()) else { panic!() };
        let mut plan = Plan::default();
        plan.job(&job_of(&site, &managed, "20260301T023000Z").unwrap());
        check::sound(&plan).unwrap();
        let claim = claim_of(&site, &managed).unwrap();
        assert_eq!(claim.name_any(), "data-postgres-0");
        let set = crate::infra::postgres::build::objects(&site, &managed).unwrap().set.spec.unwrap();
        assert_eq!(claim.spec, set.volume_claim_templates.unwrap()[0].spec);
    }
}
