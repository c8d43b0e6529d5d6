//! What the owner of a MemoryNamespace gets to know.

use soma_crds::{MemoryNamespace, MemoryNamespaceStatus, Usage};

use super::Blocked;
use super::access::Access;
use super::client::Bound;
use crate::apply::Writer;
use crate::conditions::{Health, conditions, transition};
use crate::error::Error;
use crate::events::Note;
use crate::names::reason;
use crate::reconcile::{Next, Outcome};

/// The service holds the namespace as the manifest says.
pub async fn bound(
    writer: &Writer,
    memory: &MemoryNamespace,
    bound: &Bound,
    access: &Access,
) -> Result<Outcome, Error> {
    let stored = format!("memories of tenant {} are stored and recalled", memory.spec.tenant);
    let (health, secret) = match access {
        Access::Given(secret) => (Health::ready(stored), secret.clone()),
        Access::Pending(why) => {
            (Health::progressing(true, reason::AWAITING_ACCESS, format!("{stored}; {why}")), None)
        }
        Access::Taken(secret) => {
            let message = format!(
                "Secret {secret} is somebody else's, and its name is needed for what the tenant's programs connect with. Rename it"
            );
            (Health::degraded(true, reason::SECRET_TAKEN, message), None)
        }
    };
    let notes = write(writer, memory, &health, Some(bound.usage), secret).await?;
    Ok(Outcome::settled(notes))
}

/// Somebody or something else has to come first.
pub async fn blocked(writer: &Writer, memory: &MemoryNamespace, blocked: &Blocked) -> Result<Outcome, Error> {
    let health = match blocked {
        Blocked::StackNotReady(_) => Health::progressing(false, blocked.reason(), blocked.to_string()),
        _ => Health::degraded(false, blocked.reason(), blocked.to_string()),
    };
    let usage = memory.status.as_ref().and_then(|s| s.usage);
    let notes = write(writer, memory, &health, usage, secret_of(memory)).await?;
    Ok(Outcome { next: next(blocked), notes })
}

/// A deletion that waits for the service, which alone can delete memories.
pub async fn held(writer: &Writer, memory: &MemoryNamespace, blocked: &Blocked) -> Result<Outcome, Error> {
    let message = format!(
        "deletion waits until the memories can be deleted: {blocked}. To leave them, set deletionPolicy to Retain"
    );
    let notes = leaving(writer, memory, message).await?;
    Ok(Outcome { next: next(blocked), notes })
}

/// A deletion that waits until nothing is left outside of the service.
pub async fn draining(writer: &Writer, memory: &MemoryNamespace, why: &str) -> Result<Outcome, Error> {
    leaving(writer, memory, format!("deletion waits: {why}")).await.map(Outcome::settled)
}

async fn leaving(writer: &Writer, memory: &MemoryNamespace, message: String) -> Result<Vec<Note>, Error> {
    let health = Health::degraded(false, reason::TERMINATING, message);
    write(writer, memory, &health, memory.status.as_ref().and_then(|s| s.usage), secret_of(memory)).await
}

fn secret_of(memory: &MemoryNamespace) -> Option<String> {
    memory.status.as_ref()?.access_secret.clone()
}

/// Nothing in the cluster tells when a service that should answer begins to.
fn next(blocked: &Blocked) -> Next {
    match blocked {
        Blocked::ServiceUnreachable(_) | Blocked::TokenRefused => Next::Again,
        _ => Next::Change,
    }
}

async fn write(
    writer: &Writer,
    memory: &MemoryNamespace,
    health: &Health,
    usage: Option<Usage>,
    access_secret: Option<String>,
) -> Result<Vec<Note>, Error> {
    let before = memory.status.as_ref();
    let old = before.map(|s| s.conditions.clone()).unwrap_or_default();
    let generation = memory.metadata.generation;
    let next = MemoryNamespaceStatus {
        observed_generation: generation,
        conditions: conditions(&old, generation, health),
        usage,
        access_secret,
    };
    writer.status(memory, before, &next).await?;
    Ok(transition(&old, health).into_iter().collect())
}
