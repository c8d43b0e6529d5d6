//! What the owner of a SomaInfra gets to know.

use soma_crds::{Component, SomaInfra, SomaInfraStatus};

use super::Site;
use super::alias::Aliases;
use super::blocked::Blocked;
use super::component::Report;
use super::footprint;
use crate::apply::{Batch, Writer};
use crate::conditions::{Health, Stage, conditions, transition};
use crate::error::Error;
use crate::events::Note;
use crate::names::reason;
use crate::reconcile::{Next, Outcome};

/// The namespace belongs to another SomaInfra.
pub async fn taken(writer: &Writer, site: &Site<'_>, elder: String) -> Result<Outcome, Error> {
    let blocked = Blocked::NamespaceTaken { namespace: site.owner.namespace.clone(), elder };
    let health = Health::degraded(false, blocked.reason(), blocked.to_string());
    keep(writer, site.infra, &health).await
}

/// A deletion that has to wait for its users.
pub async fn in_use(writer: &Writer, infra: &SomaInfra, users: &[String]) -> Result<Outcome, Error> {
    let message = format!(
        "deletion waits, because these SomaStacks use it: {}. Delete them first with `kubectl delete somastack`",
        users.join(", ")
    );
    let status = infra.status.as_ref();
    let available =
        status.and_then(|s| s.condition(soma_crds::condition::AVAILABLE)).is_some_and(|c| c.status == "True");
    keep(writer, infra, &Health::degraded(available, reason::IN_USE, message)).await
}

/// A new health over the components as they were.
async fn keep(writer: &Writer, infra: &SomaInfra, health: &Health) -> Result<Outcome, Error> {
    let components = infra.status.as_ref().map(|s| s.components.clone()).unwrap_or_default();
    Ok(Outcome::settled(write(writer, infra, health, components).await?))
}

/// The aliases the components ask for, as name and host.
pub fn aliases(reports: &[Report]) -> Vec<(&str, String)> {
    reports.iter().filter_map(|r| Some((r.component.name.as_str(), r.alias.clone()?))).collect()
}

pub async fn update(
    writer: &Writer,
    site: &Site<'_>,
    reports: Vec<Report>,
    aliases: Aliases,
    batch: Batch,
) -> Result<Outcome, Error> {
    let mut health = summary(&reports);
    let refusals: Vec<_> = reports.iter().filter_map(|r| r.refusal.clone()).chain(batch.refusal()).collect();
    if let Some(refusal) = batch.refusal()
        && health.stage != Stage::Degraded
    {
        health =
            Health::degraded(health.available, "ApplyFailed", format!("an alias was refused: {refusal}"));
    }
    let next = reports.iter().map(|r| r.next).min_by_key(|next| urgency(*next)).unwrap_or(Next::Change);
    let mut notes = Vec::new();
    let mut components = Vec::new();
    for report in reports {
        notes.extend(report.notes);
        components.push(report.component);
    }
    if let (Some(note), Some(first)) = (aliases.note, components.first_mut()) {
        let said = first.message.take().map(|said| format!("{said}. "));
        first.message = Some(said.unwrap_or_default() + &note);
    }
    notes.extend(write(writer, site.infra, &health, components).await?);
    if refusals.is_empty() {
        Ok(Outcome { next, notes })
    } else {
        Err(Error::ApplyFailed(refusals.join("; ")))
    }
}

/// Soonest first.
fn urgency(next: Next) -> (u8, u64) {
    match next {
        Next::Again => (0, 0),
        Next::After(time) => (1, time.as_secs()),
        Next::Change => (2, 0),
    }
}

/// One health for all components: the worst of them, naming each that is not ready.
fn summary(reports: &[Report]) -> Health {
    let rank = |r: &&Report| match r.health.stage {
        Stage::Degraded => 0,
        Stage::Progressing => 1,
        Stage::Ready => 2,
    };
    let Some(worst) = reports.iter().min_by_key(rank) else { return Health::ready("nothing is asked for") };
    let available = reports.iter().all(|r| r.health.available);
    let all_ready = worst.health.stage == Stage::Ready;
    let telling = reports.iter().filter(|r| all_ready || r.health.stage != Stage::Ready);
    let messages: Vec<_> = telling.map(|r| r.health.message.as_str()).collect();
    let message = messages.join(if all_ready { ", " } else { ". " });
    Health { available, message, ..worst.health.clone() }
}

async fn write(
    writer: &Writer,
    infra: &SomaInfra,
    health: &Health,
    components: Vec<Component>,
) -> Result<Vec<Note>, Error> {
    let before = infra.status.as_ref();
    let old = before.map(|s| s.conditions.clone()).unwrap_or_default();
    let generation = infra.metadata.generation;
    let next = SomaInfraStatus {
        observed_generation: generation,
        conditions: conditions(&old, generation, health),
        footprint: footprint::sum(components.iter().filter_map(|c| c.footprint.as_ref())),
        components,
    };
    writer.status(infra, before, &next).await?;
    Ok(transition(&old, health).into_iter().collect())
}
