//! What the owner of a SomaStack gets to know.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use serde_json::Value;
use soma_crds::{Restart, Revision, ServiceStatus, ServicesStatus, SomaStack, SomaStackStatus, condition};
use soma_settings::changed_keys;

use super::apply::Applied;
use super::dereference::Observed;
use super::release::Release;
use super::validate::{Blocked, Wanted};
use crate::apply::Writer;
use crate::conditions::{Health, conditions, transition};
use crate::drift;
use crate::error::Error;
use crate::events::Note;
use crate::names::{label, object, reason};
use crate::pods::{self, Trouble};
use crate::reconcile::Outcome;

/// Nothing can be built: what serves keeps serving.
pub async fn blocked(
    writer: &Writer,
    stack: &SomaStack,
    observed: &Observed,
    blocked: &Blocked,
) -> Result<Outcome, Error> {
    let serves = observed.elder.is_none()
        && observed.serving().is_some_and(|serving| ready_pods(observed, &serving) > 0);
    let kept = if serves { ". The pods that run keep serving" } else { "" };
    let health = Health::degraded(serves, blocked.reason(), format!("{blocked}{kept}"));
    keep(writer, stack, &health).await
}

/// A deletion that has to wait for its users.
pub async fn in_use(writer: &Writer, stack: &SomaStack, users: &[String]) -> Result<Outcome, Error> {
    let message = format!(
        "deletion waits, because these MemoryNamespaces live in it: {}. Delete them first with `kubectl delete memorynamespace`",
        users.join(", ")
    );
    let available = stack
        .status
        .as_ref()
        .and_then(|s| s.condition(condition::AVAILABLE))
        .is_some_and(|c| c.status == "True");
    keep(writer, stack, &Health::degraded(available, reason::IN_USE, message)).await
}

/// Writes conditions and leaves the rest of the status as it is.
async fn keep(writer: &Writer, stack: &SomaStack, health: &Health) -> Result<Outcome, Error> {
    let before = stack.status.clone().unwrap_or_default();
    let notes = write(writer, stack, health, before).await?;
    Ok(Outcome::settled(notes))
}

pub async fn update(
    writer: &Writer,
    stack: &SomaStack,
    wanted: &Wanted,
    observed: &Observed,
    release: &Release,
    applied: Applied,
) -> Result<Outcome, Error> {
    let Applied { mut notes, refusal } = applied;
    let before = stack.status.clone().unwrap_or_default();
    let was = before.services.as_ref().map(|s| s.memory.clone()).unwrap_or_default();
    let stable = revision_of(observed, wanted, &release.serving);
    let restart = was.stable.as_ref().filter(|old| old.revision != stable.revision).map(|old| Restart {
        time: Time(Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default()),
        from: old.revision.clone(),
        to: stable.revision.clone(),
        changed: changes(observed, wanted, &old.revision),
    });
    if let Some(Restart { from, to, changed, .. }) = &restart {
        let message = format!("{to} serves instead of {from}; changed: {}", changed.join(", "));
        notes.push(Note::normal(reason::REVISION_SERVES, message));
    }
    let health = health(wanted, observed, release, refusal.as_deref());
    let memory = ServiceStatus {
        pods: Some(format!("{}/{}", ready_pods(observed, &release.serving), wanted.replicas)),
        next: release.next.as_ref().map(|next| revision_of(observed, wanted, next)),
        last_restart: restart.or(was.last_restart),
        stable: Some(stable),
    };
    let next = SomaStackStatus {
        version: Some(wanted.version.clone()),
        url: Some(format!("http://{}.{}.svc.cluster.local:9595", object::MEMORY, wanted.owner.namespace)),
        services: Some(ServicesStatus { memory }),
        ..before
    };
    notes.extend(write(writer, stack, &health, next).await?);
    match refusal {
        Some(refusal) => Err(Error::ApplyFailed(refusal)),
        None => Ok(Outcome::settled(notes)),
    }
}

fn health(wanted: &Wanted, observed: &Observed, release: &Release, refusal: Option<&str>) -> Health {
    let serving = &release.serving;
    let available = ready_pods(observed, serving) > 0;
    if let Some(refusal) = refusal {
        let message = format!(
            "the API server refused: {refusal}. It is tried again; lift the quota or policy that refuses it"
        );
        return Health::degraded(available, "ApplyFailed", message);
    }
    let trouble = trouble(observed, &wanted.revision);
    match (&release.next, trouble) {
        (Some(next), Some(Trouble { reason, message })) => Health::degraded(
            available,
            reason,
            format!("{next} does not start and {serving} keeps serving: {message}"),
        ),
        (Some(next), None) => {
            let changed = changes(observed, wanted, serving).join(", ");
            let message = format!("{next} starts and {serving} serves until it is ready; changed: {changed}");
            Health::progressing(available, reason::ROLLING_OUT, message)
        }
        (None, _) if ready_pods(observed, serving) >= wanted.replicas => {
            Health::ready(format!("{serving} serves"))
        }
        (None, Some(Trouble { reason, message })) => Health::degraded(available, reason, message),
        (None, None) => Health::progressing(
            available,
            reason::STARTING,
            format!("waiting for the pods of {serving} to become ready"),
        ),
    }
}

/// Why the pods of a revision do not become ready: a pod's own trouble, or pods that may not be made at all.
fn trouble(observed: &Observed, revision: &str) -> Option<Trouble> {
    pods::trouble(observed.pods_of(revision)).or_else(|| {
        let status = observed.deployment(revision)?.status.as_ref()?;
        let failure =
            status.conditions.iter().flatten().find(|c| c.type_ == "ReplicaFailure" && c.status == "True")?;
        let why = failure.message.clone().unwrap_or_default();
        Some(Trouble {
            reason: "PodsRefused",
            message: format!(
                "pods of {revision} cannot be made: {why}. Lift the quota or policy that refuses them"
            ),
        })
    })
}

fn ready_pods(observed: &Observed, revision: &str) -> i32 {
    observed.revisions().iter().find(|r| r.name == revision).map_or(0, |r| r.ready)
}

fn revision_of(observed: &Observed, wanted: &Wanted, name: &str) -> Revision {
    let wanted_hash = wanted.config_hash.to_string();
    let (config_hash, image) = match observed.deployment(name) {
        Some(deployment) if name != wanted.revision => (
            deployment.labels().get(label::CONFIG_HASH).cloned().unwrap_or_default(),
            container(deployment).map(|c| text(&c["image"])).unwrap_or_default(),
        ),
        _ => (wanted_hash, wanted.image.clone()),
    };
    Revision { revision: name.into(), config_hash, image }
}

/// What makes the wanted revision differ from an older one: dotted keys, never values.
fn changes(observed: &Observed, wanted: &Wanted, old: &str) -> Vec<String> {
    let Some(deployment) = observed.deployment(old) else { return vec!["unknown".into()] };
    let config =
        config_map_of(deployment).and_then(|name| observed.config_maps.iter().find(|m| m.name_any() == name));
    let payload = config.and_then(|m| m.data.as_ref()?.get("memory.json"));
    let parse = |text: &str| serde_json::from_str::<Value>(text).ok();
    let mut changed = match (payload.and_then(|p| parse(p)), parse(&wanted.payload)) {
        (Some(before), Some(after)) => changed_keys(&before, &after),
        _ => vec!["configuration".into()],
    };
    let container = container(deployment).unwrap_or_default();
    if container["image"] != wanted.image.as_str() {
        changed.push("image".into());
    }
    let resources = wanted.resources.json();
    if !(drift::covers(&resources, &container["resources"])
        && drift::covers(&container["resources"], &resources))
    {
        changed.push("resources".into());
    }
    if changed.is_empty() {
        changed.push("template".into());
    }
    changed
}

/// The memory container of a Deployment, as JSON.
fn container(deployment: &Deployment) -> Option<Value> {
    let spec = serde_json::to_value(deployment.spec.as_ref()?.template.spec.as_ref()?).ok()?;
    spec["containers"].as_array()?.iter().find(|c| c["name"] == object::MEMORY).cloned()
}

/// The ConfigMap a Deployment mounts.
pub fn config_map_of(deployment: &Deployment) -> Option<String> {
    let volumes = deployment.spec.as_ref()?.template.spec.as_ref()?.volumes.as_ref()?;
    let sources = volumes.iter().filter_map(|v| v.projected.as_ref()?.sources.as_ref()).flatten();
    sources.filter_map(|s| s.config_map.as_ref()).map(|m| m.name.clone()).next()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

async fn write(
    writer: &Writer,
    stack: &SomaStack,
    health: &Health,
    mut next: SomaStackStatus,
) -> Result<Vec<Note>, Error> {
    let before = stack.status.as_ref();
    let old = before.map(|s| s.conditions.clone()).unwrap_or_default();
    next.observed_generation = stack.metadata.generation;
    next.conditions = conditions(&old, stack.metadata.generation, health);
    writer.status(stack, before, &next).await?;
    Ok(transition(&old, health).into_iter().collect())
}
