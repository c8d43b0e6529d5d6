//! Backups by schedule: a volume, a CronJob that fills it, and what the status says about them.

mod build;
mod schedule;
mod seen;

use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams};
use soma_crds::Profile;

pub use build::{FOLDER, Objects, Task, UID, VOLUME, begin, container, end, keep, objects, operator};
use schedule::Schedule;
pub use seen::{Live, Told};

use super::Site;
use super::blocked::Blocked;
use super::set::Volume;
use crate::apply::{Batch, Writer};
use crate::check::{self, Plan};
use crate::context::Context;
use crate::error::Error;
use crate::names::{object, selector_text};

/// Backups, validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    pub schedule: Schedule,
    pub keep: u16,
    pub volume: Volume,
    /// Restore each into a scratch instance.
    pub verify: bool,
}

/// What the manifest asks for, over the defaults.
pub fn validate(
    site: &Site<'_>,
    component: &'static str,
    spec: Option<&soma_crds::Backup>,
) -> Result<Option<Backup>, Blocked> {
    let Some(spec) = spec else { return Ok(None) };
    let default = match site.infra.spec.profile {
        Profile::Dev => "5Gi",
        Profile::Ha => "100Gi",
    };
    let schedule = Schedule::parse(&spec.schedule)
        .map_err(|error| Blocked::ScheduleInvalid { component, problem: error.to_string() })?;
    let volume = Volume {
        size: spec.storage.size.as_ref().map_or(default, |size| &size.0).to_owned(),
        class: spec.storage.storage_class_name.clone(),
    };
    Ok(Some(Backup { schedule, keep: spec.keep, volume, verify: spec.verify }))
}

/// Reads what the cluster holds. The Jobs only where there is a CronJob.
pub async fn observe(ctx: &Context, site: &Site<'_>, component: &str) -> Result<Live, Error> {
    let (namespace, name) = (&site.owner.namespace, object::backup(component));
    let Some(cron) = ctx.get::<CronJob>(namespace, &name).await? else { return Ok(Live::default()) };
    let ours = ListParams::default().labels(&selector_text(&site.owner.selector(&name)));
    let jobs = ctx.api::<Job>(namespace).list(&ours).await.map_err(Error::read("the Jobs of the backups"))?;
    let pods = ctx.api::<Pod>(namespace).list(&ours).await.map_err(Error::read("the pods of the backups"))?;
    Ok(Live { cron: Some(cron), jobs: jobs.items, pods: pods.items })
}

/// Moves the cluster to the backups that are wanted, and says how they are. A refusal is returned as text: the component
/// serves without backups.
pub async fn settle(
    writer: &Writer,
    live: &Live,
    wanted: Option<(&Backup, Objects)>,
    component: &str,
) -> Result<(Option<Told>, Option<String>), Error> {
    let mut batch = Batch::default();
    let Some((backup, objects)) = wanted else {
        if let Some(cron) = &live.cron {
            batch.note(writer.delete(cron, DeleteParams::background()).await);
        }
        return Ok((None, batch.refusal()));
    };
    let mut plan = Plan::default();
    objects.plan(&mut plan);
    check::sound(&plan)?;
    let Objects { claim, cron, secret: _ } = objects;
    Box::pin(batch.apply(writer, &claim)).await;
    Box::pin(batch.apply(writer, &cron)).await;
    let told = seen::tell(component, &backup.schedule, live, Timestamp::now());
    Ok((Some(told), batch.refusal()))
}

/// Removes the CronJob of a component that is no longer asked for; the backups stay.
pub async fn retire(ctx: &Context, writer: &Writer, site: &Site<'_>, component: &str) -> Result<(), Error> {
    let name = object::backup(component);
    ctx.remove::<CronJob>(writer, &site.owner.namespace, &name, DeleteParams::background()).await
}

/// Deletes the backups.
pub async fn remove_data(
    ctx: &Context,
    writer: &Writer,
    site: &Site<'_>,
    component: &str,
) -> Result<(), Error> {
    retire(ctx, writer, site, component).await?;
    let name = object::backup(component);
    ctx.remove::<PersistentVolumeClaim>(writer, &site.owner.namespace, &name, DeleteParams::default()).await
}

#[cfg(test)]
mod tests;
