//! Runs OpenFGA: the database first, then the pods, then what is in it.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;

use super::build::{self, Connection, HTTP, Objects};
use super::client::Client;
use super::kept::InSecret;
use super::store::{self, FormError, Formed};
use super::validate::{Managed, Observed};
use super::{kept, members, migration, tenants};
use crate::apply::{Batch, Writer};
use crate::context::Context;
use crate::error::{Error, chain};
use crate::events::Note;
use crate::infra::component::State;
use crate::infra::set::Applied;
use crate::infra::tenants::Provided;
use crate::infra::{Site, footprint};
use crate::names::{object, reason};

/// What one attempt came to.
pub struct Ran {
    pub state: State,
    /// Once there is something to connect to.
    pub connection: Option<Connection>,
    /// What it holds for the tenants, once it answers.
    pub provided: Option<Result<Provided, String>>,
}

impl Ran {
    fn only(state: State) -> Self {
        Self { state, connection: None, provided: None }
    }
}

/// Applies the objects, then sees to the store, the model and the tenants.
pub async fn run(
    ctx: &Context,
    writer: &Writer,
    site: &Site<'_>,
    managed: &Managed,
    observed: &Observed,
    applied: &mut Applied,
) -> Result<Ran, Error> {
    let looked = members::look(&ctx.http, &observed.pods).await;
    applied.members = members::told(&looked);
    let url = members::serving(&looked);
    let Some(database) = &managed.database else {
        let what = format!("waiting for Postgres and its Secret {}", object::POSTGRES_OPENFGA);
        return Ok(Ran::only(if url.is_some() { State::Repairing(what) } else { State::Starting(what) }));
    };
    let kept = match &managed.kept {
        Some(kept) => kept.clone(),
        None => kept::begin(writer, site).await?,
    };
    let objects = build::objects(site, managed, database, &kept)?;
    let pending = Box::pin(apply(writer, observed, objects, url.is_some(), applied)).await;
    let Some(url) = url else {
        let state = pending.unwrap_or_else(|| settled(managed, &looked));
        return Ok(Ran::only(state));
    };
    let client = Client { http: &ctx.http, url, token: Some(&kept.token) };
    let formed = match store::form(&client, &kept, &InSecret { writer, site }).await {
        Ok(formed) => formed,
        Err(FormError::Keep(error)) => return Err(error),
        Err(FormError::Client(error)) => return Ok(Ran::only(State::Unreachable(chain(&error)))),
        Err(FormError::Undecided(undecided)) => {
            let (reason, message) = (undecided.reason(), undecided.to_string());
            return Ok(Ran::only(State::Stuck { reason, message, serving: false }));
        }
    };
    if formed.added {
        let message = format!("the authorization model {} is added to store {}", formed.model, formed.store);
        applied.notes.push(Note::normal(reason::MODEL_ADDED, message));
    }
    let state = pending.unwrap_or_else(|| settled(managed, &looked));
    let provided = Box::pin(tenants::provide(site, &client, &formed.store)).await;
    let provided = Some(provided.map_err(|error| chain(&error)));
    Ok(Ran { state, connection: Some(connection(site, &kept.token, formed)), provided })
}

fn settled(managed: &Managed, looked: &[members::Member<'_>]) -> State {
    members::state(looked, managed.replicas, &members::version(&managed.image))
}

/// How the services reach a managed OpenFGA.
fn connection(site: &Site<'_>, token: &str, formed: Formed) -> Connection {
    let host = site.host(object::OPENFGA);
    Connection {
        url: format!("http://{host}:{HTTP}"),
        host,
        port: HTTP,
        token: Some(token.to_owned()),
        store: formed.store,
        model: formed.model,
    }
}

/// Writes the objects; the Deployment only once the database is migrated for its pods. Returns what that waits for.
async fn apply(
    writer: &Writer,
    observed: &Observed,
    objects: Objects,
    serving: bool,
    applied: &mut Applied,
) -> Option<State> {
    let Objects { migration, service, budget, policy, deployment } = objects;
    applied.footprint = Some(footprint::of_deployment(&observed.pods, &deployment));
    let mut batch = Batch::default();
    batch.apply(writer, &service).await;
    batch.apply(writer, &budget).await;
    batch.apply(writer, &policy).await;
    // Two migrations at the same time would be in each other's way.
    let (ended, running): (Vec<_>, Vec<_>) =
        migration::others(&observed.jobs, &migration).into_iter().partition(|job| migration::has_ended(job));
    remove(writer, &running, &mut batch).await;
    let job = batch.apply(writer, &migration).await;
    let pods: &[Pod] = &observed.job_pods;
    let pending = migration::pending(job.as_ref().unwrap_or(&migration), pods, serving);
    if pending.is_none() {
        let now = batch.apply(writer, &deployment).await;
        applied.waiting = now.as_ref().and_then(members::rolling);
        remove(writer, &ended, &mut batch).await;
    }
    applied.absorb(&batch);
    pending
}

async fn remove(writer: &Writer, jobs: &[&Job], batch: &mut Batch) {
    for job in jobs {
        batch.note(writer.delete(*job, DeleteParams::background()).await);
    }
}
