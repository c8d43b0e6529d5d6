//! Publishes the policies and runs what serves them.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::api::DeleteParams;

use super::build::{self, Objects};
use super::members;
use super::publish::{self, Last, PublishError, Published};
use super::sign::Signing;
use super::tenants::Given;
use super::validate::{Managed, Observed};
use crate::apply::{Batch, Change, Writer};
use crate::context::Context;
use crate::error::Error;
use crate::events::Note;
use crate::infra::component::State;
use crate::infra::set::{self, Applied};
use crate::infra::{Site, footprint};
use crate::names::{object, reason};

/// Returns the state, and what to know besides.
pub async fn run(
    ctx: &Context,
    writer: &Writer,
    site: &Site<'_>,
    managed: &Managed,
    observed: &Observed,
    applied: &mut Applied,
) -> Result<(State, Option<String>), Error> {
    let signing = match &managed.signing {
        Some(signing) => signing.clone(),
        None => begin(writer, site).await?,
    };
    let last = observed.bundle.as_ref().and_then(|map| Last::read(map, &signing));
    let published = match next(last.as_ref(), &observed.given, &signing).await? {
        Ok(published) => {
            let refused = serde_json::json!(published.refused).to_string();
            let map = build::bundle_map(site, &published.bundle, &published.inputs, &refused)?;
            publish(writer, &map, &published, last.as_ref(), applied).await?;
            Ok(published)
        }
        Err(error) => Err(error),
    };
    let objects = build::objects(site, managed, &signing, &ctx.addresses.bundles)?;
    Box::pin(apply(writer, observed, objects, applied)).await;
    // What is active counts, also where nothing new could be published.
    let active = published.as_ref().ok().or(last.as_ref().map(|last| &last.published));
    let revision = active.map(|active| active.bundle.revision.as_str()).unwrap_or_default();
    let caveat = active.and_then(|active| publish::caveat(&active.refused));
    let looked = members::look(&ctx.http, &observed.pods).await;
    applied.members = members::told(&looked, revision);
    let state = members::state(&looked, managed.replicas, revision);
    let serving = state.serves();
    Ok(match published {
        Ok(_) => (state, caveat),
        Err(error) => (State::Stuck { reason: error.reason(), message: error.message(), serving }, caveat),
    })
}

/// Makes the key, once: pods that trust it must find it for as long as they live.
async fn begin(writer: &Writer, site: &Site<'_>) -> Result<Signing, Error> {
    let made = writer.create_once(&Signing::generate().secret(site)?).await?;
    Signing::read(&made).map_err(|(key, problem)| {
        Error::ApplyFailed(format!("Secret {}: key `{key}` {problem}", object::OPA_SIGNING))
    })
}

/// Compiling and testing takes a processor for a while, which others need meanwhile.
async fn next(
    last: Option<&Last>,
    given: &[ConfigMap],
    signing: &Signing,
) -> Result<Result<Published, PublishError>, Error> {
    let given: Vec<_> = given.iter().map(Given::read).collect();
    let (last, signing) = (last.cloned(), signing.clone());
    let made = tokio::task::spawn_blocking(move || publish::next(last.as_ref(), &given, &signing)).await;
    made.map_err(|error| Error::UnsoundPlan(format!("the policies cannot be compiled: {error}")))
}

async fn publish(
    writer: &Writer,
    map: &ConfigMap,
    published: &Published,
    last: Option<&Last>,
    applied: &mut Applied,
) -> Result<(), Error> {
    let (_, change) = writer.apply(map).await?;
    let before = last.map(|last| &last.published);
    if change != Change::Unchanged && before.is_none_or(|b| b.bundle.revision != published.bundle.revision) {
        let message = format!("the policies of revision {} are published", published.bundle.revision);
        applied.notes.push(Note::normal(reason::POLICY_PUBLISHED, message));
    }
    let news =
        published.refused.iter().filter(|(map, why)| before.is_none_or(|b| b.refused.get(*map) != Some(why)));
    applied.notes.extend(news.map(|(_, why)| Note::warning(reason::POLICY_REFUSED, why.clone())));
    Ok(())
}

/// Writes the objects: what pods mount and are reached by comes before the pods.
async fn apply(writer: &Writer, observed: &Observed, objects: Objects, applied: &mut Applied) {
    let Objects { config, service, budget, policy, deployment } = objects;
    applied.footprint = Some(footprint::of_deployment(&observed.pods, &deployment));
    let mut batch = Batch::default();
    batch.apply(writer, &config).await;
    batch.apply(writer, &service).await;
    batch.apply(writer, &budget).await;
    batch.apply(writer, &policy).await;
    let now = batch.apply(writer, &deployment).await;
    applied.waiting = now.as_ref().and_then(members::rolling);
    let strays = observed.configs.iter().filter(|map| map.name_any() != object::OPA_BUNDLE);
    for stray in strays.filter(|map| set::is_stray(map, Some(&config), observed.pods.iter())) {
        batch.note(writer.delete(stray, DeleteParams::default()).await);
    }
    applied.absorb(&batch);
}
