//! What the owner of a MemoryNamespace gets to know.

use soma_crds::{MemoryNamespace, MemoryNamespaceStatus, Usage};

use super::Blocked;
use super::client::Bound;
use crate::apply::Writer;
use crate::conditions::{Health, conditions, transition};
use crate::error::Error;
use crate::events::Note;
use crate::names::reason;
use crate::reconcile::{Next, Outcome};

/// The service holds the namespace as the manifest says.
pub async fn bound(writer: &Writer, memory: &MemoryNamespace, bound: &Bound) -> Result<Outcome, Error> {
    let health = Health::ready(format!("memories of tenant {} are stored and recalled", memory.spec.tenant));
    write(writer, memory, &health, Some(bound.usage)).await.map(Outcome::settled)
}

/// Somebody or something else has to come first.
pub async fn blocked(writer: &Writer, memory: &MemoryNamespace, blocked: &Blocked) -> Result<Outcome, Error> {
    let health = match blocked {
        Blocked::StackNotReady(_) => Health::progressing(false, blocked.reason(), blocked.to_string()),
        _ => Health::degraded(false, blocked.reason(), blocked.to_string()),
    };
    let usage = memory.status.as_ref().and_then(|s| s.usage);
    let notes = write(writer, memory, &health, usage).await?;
    Ok(Outcome { next: next(blocked), notes })
}

/// A deletion that waits for the service, which alone can delete memories.
pub async fn held(writer: &Writer, memory: &MemoryNamespace, blocked: &Blocked) -> Result<Outcome, Error> {
    let message = format!(
        "deletion waits until the memories can be deleted: {blocked}. To leave them, set deletionPolicy to Retain"
    );
    let health = Health::degraded(false, reason::TERMINATING, message);
    let notes = write(writer, memory, &health, memory.status.as_ref().and_then(|s| s.usage)).await?;
    Ok(Outcome { next: next(blocked), notes })
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
) -> Result<Vec<Note>, Error> {
    let before = memory.status.as_ref();
    let old = before.map(|s| s.conditions.clone()).unwrap_or_default();
    let generation = memory.metadata.generation;
    let next = MemoryNamespaceStatus {
        observed_generation: generation,
        conditions: conditions(&old, generation, health),
        usage,
    };
    writer.status(memory, before, &next).await?;
    Ok(transition(&old, health).into_iter().collect())
}
