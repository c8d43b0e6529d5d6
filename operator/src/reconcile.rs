//! What the reconciles of all kinds have in common: a fresh read, the finalizer, events, metrics, backoff.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::api::Api;
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use serde_json::json;

use crate::apply::Child;
use crate::context::Context;
use crate::error::{Error, chain};
use crate::events::Note;
use crate::names::FINALIZER;

/// When to look again without a trigger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// A watch tells.
    Change,
    /// No watch tells: after this time.
    After(Duration),
    /// Something outside the cluster does not answer: soon, then more and more rarely.
    Again,
}

/// What a reconcile came to.
pub struct Outcome {
    pub next: Next,
    pub notes: Vec<Note>,
}

impl Outcome {
    /// Nothing to do until something changes.
    pub fn settled(notes: Vec<Note>) -> Self {
        Self { next: Next::Change, notes }
    }
}

/// Whether a deleted object may go.
pub enum Release {
    /// Everything outside of it is cleaned up.
    Done(Vec<Note>),
    /// It has to wait for a change elsewhere.
    Held(Outcome),
}

/// One of the three kinds.
pub trait Kind: Child + 'static {
    /// Name of the kind.
    const KIND: &'static str;
    /// Its field manager.
    const MANAGER: &'static str;

    /// Moves the cluster towards what the manifest says.
    fn drive(ctx: &Context, object: &Self) -> impl Future<Output = Result<Outcome, Error>> + Send;

    /// Cleans up after a deletion.
    fn release(ctx: &Context, object: &Self) -> impl Future<Output = Result<Release, Error>> + Send;
}

/// Reconciles one object. Reads it afresh: a cached copy may lag behind our own last write.
pub async fn reconcile<K: Kind>(
    cached: Arc<DeserializeGuard<K>>,
    ctx: Arc<Context>,
) -> Result<Action, Error> {
    let started = Instant::now();
    let (name, namespace) = (cached.name_any(), cached.namespace().unwrap_or_default());
    let result = attempt::<K>(&ctx, &namespace, &name).await;
    let outcome = result.as_ref().map_or_else(Error::reason, |_| "ok");
    ctx.metrics.reconciled(K::KIND, outcome, started.elapsed());
    let about = cached.object_ref(&());
    match result {
        Ok(outcome) => {
            for note in &outcome.notes {
                tracing::info!(kind = K::KIND, namespace, name, reason = note.reason, "{}", note.message);
                ctx.events.publish(&about, note).await;
            }
            let key = key::<K>(&namespace, &name);
            if outcome.next != Next::Again {
                ctx.backoff.reset(&key);
            }
            Ok(match outcome.next {
                Next::Change => Action::await_change(),
                Next::After(time) => Action::requeue(time),
                Next::Again => Action::requeue(ctx.backoff.next(&key)),
            })
        }
        Err(error) => {
            ctx.events.publish(&about, &Note::warning(error.reason(), chain(&error))).await;
            Err(error)
        }
    }
}

/// When to try again after a failure.
#[expect(clippy::needless_pass_by_value, reason = "the controller calls it with owned pointers")]
pub fn retry<K: Kind>(object: Arc<DeserializeGuard<K>>, _error: &Error, ctx: Arc<Context>) -> Action {
    Action::requeue(ctx.backoff.next(&key::<K>(&object.namespace().unwrap_or_default(), &object.name_any())))
}

async fn attempt<K: Kind>(ctx: &Context, namespace: &str, name: &str) -> Result<Outcome, Error> {
    let api: Api<DeserializeGuard<K>> = Api::namespaced(ctx.client.clone(), namespace);
    let what = format!("{} {namespace}/{name}", K::KIND);
    let Some(DeserializeGuard(object)) = api.get_opt(name).await.map_err(Error::read(what))? else {
        return Ok(Outcome::settled(Vec::new()));
    };
    let object = object.map_err(|invalid| Error::InvalidObject(invalid.error))?;
    let has_finalizer = object.finalizers().iter().any(|f| f == FINALIZER);
    match (object.meta().deletion_timestamp.is_some(), has_finalizer) {
        (true, false) => Ok(Outcome::settled(Vec::new())),
        (true, true) => match K::release(ctx, &object).await? {
            Release::Held(outcome) => Ok(outcome),
            Release::Done(notes) => {
                set_finalizer(ctx, &object, false).await?;
                Ok(Outcome::settled(notes))
            }
        },
        (false, has_finalizer) => {
            if !has_finalizer {
                set_finalizer(ctx, &object, true).await?;
            }
            K::drive(ctx, &object).await
        }
    }
}

/// Adds or removes our finalizer. Bound to the version that was read, so that nobody else's finalizer gets lost.
async fn set_finalizer<K: Kind>(ctx: &Context, object: &K, present: bool) -> Result<(), Error> {
    let mut finalizers: Vec<_> = object.finalizers().iter().filter(|f| *f != FINALIZER).cloned().collect();
    if present {
        finalizers.push(FINALIZER.to_owned());
    }
    let patch = json!({"metadata": {"resourceVersion": object.resource_version(), "finalizers": finalizers}});
    ctx.writer(K::MANAGER).merge(object, &patch).await.map(|_| ())
}

fn key<K: Kind>(namespace: &str, name: &str) -> String {
    format!("{}/{namespace}/{name}", K::KIND)
}

/// Reference to an object of a kind, as its controller keeps it.
pub fn reference<K: Kind>(namespace: &str, name: &str) -> ObjectRef<DeserializeGuard<K>> {
    ObjectRef::new(name).within(namespace)
}
