//! Writes what was built. Services and Secrets come before the pods that use them.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret, Service};
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::json;
use soma_crds::{Quantity, SomaInfra};

use super::build::{self, Connection, ManagedObjects, Objects};
use super::database::Database;
use super::dereference::{self, Observed};
use super::passwords::Credentials;
use super::roll::{self, Verdict, View};
use super::validate::{External, Wanted};
use crate::apply::{Batch, Child, Writer};
use crate::context::Context;
use crate::error::Error;
use crate::events::Note;
use crate::names::{object, reason};

/// What applying came to.
#[derive(Default)]
pub struct Applied {
    pub notes: Vec<Note>,
    /// The pod runs an older template, and why it stays for now.
    pub waiting: Option<String>,
    pub refusal: Option<String>,
}

pub async fn apply(writer: &Writer, wanted: &Wanted, observed: &Observed, objects: Objects) -> Applied {
    let Objects { managed, aliases } = objects;
    let mut batch = Batch::default();
    let mut applied = Applied::default();
    for alias in &aliases {
        batch.apply(writer, alias).await;
    }
    for stray in strays(wanted, observed) {
        batch.note(writer.delete(stray, DeleteParams::default()).await);
    }
    if let Some(ManagedObjects { headless, service, budget, set }) = managed {
        batch.apply(writer, &headless).await;
        batch.apply(writer, &service).await;
        batch.apply(writer, &budget).await;
        if !grow(writer, observed, &set, &mut batch, &mut applied).await
            && let Some(live) = batch.apply(writer, &set).await
        {
            roll(writer, observed, &live, &mut batch, &mut applied).await;
        }
    }
    applied.notes.extend(batch.repaired.iter().map(|what| {
        Note::normal(reason::DRIFT_REPAIRED, format!("{what} was changed by somebody and is put back"))
    }));
    applied.refusal = batch.refusal();
    applied
}

/// Aliases made earlier that are no longer asked for.
fn strays<'a>(wanted: &Wanted, observed: &'a Observed) -> impl Iterator<Item = &'a Service> {
    let keep = wanted.aliases.as_ref().map(|a| a.namespaces.clone()).unwrap_or_default();
    observed
        .own_aliases
        .iter()
        .filter(move |service| !keep.contains(&service.namespace().unwrap_or_default()))
}

/// A claim template cannot change, so a volume grows in two steps: the claim itself, then the set is deleted without
/// its pods and made again. Returns true while the set must not be applied.
async fn grow(
    writer: &Writer,
    observed: &Observed,
    set: &StatefulSet,
    batch: &mut Batch,
    applied: &mut Applied,
) -> bool {
    let Some(live) = &observed.set else { return false };
    if live.metadata.deletion_timestamp.is_some() {
        return true;
    }
    let (have, want) = (template_size(live), template_size(set));
    if bytes(have.as_ref()) == bytes(want.as_ref()) {
        return false;
    }
    if let (Some(claim), Some(size)) = (&observed.claim, &want)
        && bytes(claim_size(claim).as_ref()) < bytes(Some(size))
    {
        let patch = json!({"spec": {"resources": {"requests": {"storage": size}}}});
        if batch.note(writer.merge(claim, &patch).await).is_none() {
            return true;
        }
    }
    applied.notes.push(Note::normal(
        reason::VOLUME_GROWS,
        format!("the volume grows to {}; the pod keeps running", want.unwrap_or_default()),
    ));
    batch.note(writer.delete(live, DeleteParams::orphan()).await);
    true
}

fn template_size(set: &StatefulSet) -> Option<String> {
    claim_size(set.spec.as_ref()?.volume_claim_templates.as_ref()?.first()?)
}

fn claim_size(claim: &PersistentVolumeClaim) -> Option<String> {
    let requests = claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
    requests.get("storage").map(|q| q.0.clone())
}

fn bytes(size: Option<&String>) -> Option<u64> {
    Quantity(size?.clone()).bytes()
}

async fn roll(
    writer: &Writer,
    observed: &Observed,
    set: &StatefulSet,
    batch: &mut Batch,
    applied: &mut Applied,
) {
    match roll::can_roll(&View::new(set, observed.pod.as_ref())) {
        Verdict::Yes(why) => {
            if let Some(pod) = &observed.pod
                && batch.note(writer.delete(pod, DeleteParams::default()).await).is_some()
            {
                applied.notes.push(Note::normal(
                    reason::POD_ROLLED,
                    format!("pod {} is replaced: {why}", pod.name_any()),
                ));
            }
        }
        Verdict::Wait(why) => applied.waiting = Some(why.into()),
        Verdict::Never(why) => applied.waiting = Some(why),
        Verdict::Current => {}
    }
}

/// Publishes `postgres-conn` once the database answers. While it does not, the last one stays.
pub async fn publish(
    writer: &Writer,
    wanted: &Wanted,
    observed: &Observed,
    credentials: &Credentials,
    database: &Database,
) -> Result<bool, Error> {
    if !matches!(database, Database::Ready { .. }) {
        return Ok(observed.conn.is_some());
    }
    let host = format!("{}.{}.svc.cluster.local", object::POSTGRES, wanted.owner.namespace);
    let connection = match credentials {
        Credentials::Managed(passwords) => Connection {
            host: &host,
            port: 5432,
            database: object::MEMORY_DATABASE,
            username: object::MEMORY_DATABASE,
            password: &passwords.memory,
            sslmode: "prefer",
            mode: "managed",
        },
        Credentials::External(External { host, port, database, username, password, sslmode }) => Connection {
            host,
            port: *port,
            database,
            username,
            password,
            sslmode: sslmode.as_str(),
            mode: "external",
        },
    };
    writer.apply(&build::connection_secret(&wanted.owner, &connection)?).await.map(|_| true)
}

pub async fn remove_aliases(ctx: &Context, writer: &Writer, infra: &SomaInfra) -> Result<(), Error> {
    for alias in dereference::own_aliases(ctx, infra).await? {
        writer.delete(&alias, DeleteParams::default()).await?;
    }
    Ok(())
}

/// Deletes the volume and every Secret. The set goes first and takes its pod with it: a claim in use would stay.
pub async fn remove_data(ctx: &Context, writer: &Writer, infra: &SomaInfra) -> Result<(), Error> {
    let namespace = infra.namespace().unwrap_or_default();
    remove::<StatefulSet>(ctx, writer, &namespace, object::POSTGRES, DeleteParams::foreground()).await?;
    remove::<PersistentVolumeClaim>(ctx, writer, &namespace, object::POSTGRES_CLAIM, DeleteParams::default())
        .await?;
    remove::<Secret>(ctx, writer, &namespace, object::POSTGRES_CONN, DeleteParams::default()).await?;
    remove::<Secret>(ctx, writer, &namespace, object::POSTGRES_SECRET, DeleteParams::default()).await
}

async fn remove<K: Child>(
    ctx: &Context,
    writer: &Writer,
    namespace: &str,
    name: &str,
    params: DeleteParams,
) -> Result<(), Error> {
    let what = format!("{} {namespace}/{name}", K::kind(&()));
    match ctx.api::<K>(namespace).get_opt(name).await.map_err(Error::read(what))? {
        Some(object) => writer.delete(&object, params).await,
        None => Ok(()),
    }
}
