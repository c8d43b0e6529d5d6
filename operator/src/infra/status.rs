//! What the owner of a SomaInfra gets to know.

use std::time::Duration;

use soma_crds::{Component, Mode, SomaInfra, SomaInfraStatus};

use super::apply::Applied;
use super::database::Database;
use super::dereference::Observed;
use super::validate::{Blocked, Postgres, Wanted};
use crate::apply::Writer;
use crate::conditions::{Health, Stage, conditions, transition};
use crate::error::Error;
use crate::events::Note;
use crate::names::{object, reason};
use crate::reconcile::{Next, Outcome};

/// Nothing in the cluster tells when a database elsewhere goes away or comes back, so it is asked. The answer is
/// written only when it differs.
const EXTERNAL_PROBE: Duration = Duration::from_mins(1);

/// Nothing can be built: the last good state stays.
pub async fn blocked(
    writer: &Writer,
    infra: &SomaInfra,
    observed: &Observed,
    blocked: &Blocked,
) -> Result<Outcome, Error> {
    let health = Health::degraded(
        observed.conn.is_some() && observed.elder.is_none(),
        blocked.reason(),
        blocked.to_string(),
    );
    let components = infra.status.as_ref().map(|s| s.components.clone()).unwrap_or_default();
    let notes = write(writer, infra, &health, components).await?;
    Ok(Outcome::settled(notes))
}

/// A deletion that has to wait for its users.
pub async fn in_use(writer: &Writer, infra: &SomaInfra, users: &[String]) -> Result<Outcome, Error> {
    let message = format!(
        "deletion waits, because these SomaStacks use it: {}. Delete them first with `kubectl delete somastack`",
        users.join(", ")
    );
    let available = infra
        .status
        .as_ref()
        .and_then(|s| s.condition(soma_crds::condition::AVAILABLE))
        .is_some_and(|c| c.status == "True");
    let health = Health::degraded(available, reason::IN_USE, message);
    let components = infra.status.as_ref().map(|s| s.components.clone()).unwrap_or_default();
    let notes = write(writer, infra, &health, components).await?;
    Ok(Outcome::settled(notes))
}

pub async fn update(
    writer: &Writer,
    infra: &SomaInfra,
    wanted: &Wanted,
    observed: &Observed,
    applied: Applied,
    database: &Database,
    published: Result<bool, Error>,
) -> Result<Outcome, Error> {
    let Applied { mut notes, waiting, refusal } = applied;
    let refusal = refusal.or_else(|| published.as_ref().err().map(|error| crate::error::chain(error)));
    let available = matches!(published, Ok(true)) && matches!(database, Database::Ready { .. });
    let health = health(available, database, waiting.as_deref(), refusal.as_deref());
    let component = component(infra, wanted, observed, database, &health);
    notes.extend(write(writer, infra, &health, vec![component]).await?);
    if let Some(refusal) = refusal {
        return Err(Error::ApplyFailed(refusal));
    }
    let next = match (&wanted.postgres, database) {
        (_, Database::Unreachable(_)) => Next::Again,
        (Postgres::External(_), _) => Next::After(EXTERNAL_PROBE),
        (Postgres::Managed(_), _) => Next::Change,
    };
    Ok(Outcome { next, notes })
}

fn health(available: bool, database: &Database, waiting: Option<&str>, refusal: Option<&str>) -> Health {
    if let Some(refusal) = refusal {
        let message = format!(
            "the API server refused: {refusal}. It is tried again; lift the quota or policy that refuses it"
        );
        return Health::degraded(available, "ApplyFailed", message);
    }
    match (database, waiting) {
        (Database::Ready { .. }, Some(waiting)) => Health::progressing(
            available,
            reason::ROLLING_OUT,
            format!("Postgres answers on an older template: {waiting}"),
        ),
        (Database::Ready { version }, None) => Health::ready(format!("Postgres {version} answers")),
        (Database::Starting(what), _) => Health::progressing(available, reason::STARTING, what.clone()),
        (Database::Broken(trouble), _) => {
            Health::degraded(available, trouble.reason, trouble.message.clone())
        }
        (Database::Unreachable(why), _) => Health::degraded(
            available,
            "PostgresUnreachable",
            format!(
                "Postgres does not answer: {why}. Check that it runs, that its address, user and password are right, and that network policies let the operator connect"
            ),
        ),
    }
}

fn component(
    infra: &SomaInfra,
    wanted: &Wanted,
    observed: &Observed,
    database: &Database,
    health: &Health,
) -> Component {
    let before = infra.status.as_ref().and_then(|s| s.components.first());
    let (mode, endpoint) = match &wanted.postgres {
        Postgres::Managed(_) => {
            (Mode::Managed, format!("{}.{}.svc.cluster.local:5432", object::POSTGRES, wanted.owner.namespace))
        }
        Postgres::External(external) => (Mode::External, format!("{}:{}", external.host, external.port)),
    };
    let version = match database {
        Database::Ready { version } => Some(version.clone()),
        _ => before.and_then(|c| c.version.clone()),
    };
    let single = matches!(mode, Mode::Managed).then_some("one instance without automatic failover");
    let news = (health.stage != Stage::Ready).then_some(health.message.as_str());
    let parts: Vec<_> = news.into_iter().chain(single).chain(wanted.alias_note.as_deref()).collect();
    Component {
        name: object::POSTGRES.into(),
        mode,
        ready: matches!(database, Database::Ready { .. }) && (observed.conn.is_some() || health.available),
        version,
        endpoint: Some(endpoint),
        message: (!parts.is_empty()).then(|| parts.join(". ")),
    }
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
        components,
    };
    writer.status(infra, before, &next).await?;
    Ok(transition(&old, health).into_iter().collect())
}
