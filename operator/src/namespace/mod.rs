//! MemoryNamespace: from a manifest to a namespace in the memory service.

pub mod client;
pub mod followers;
mod status;

use kube::ResourceExt;
use soma_crds::{DeletionPolicy, MemoryNamespace, SomaStack, condition};

use crate::context::Context;
use crate::error::Error;
use crate::events::Note;
use crate::names::{manager, object, reason};
use crate::reconcile::{Kind, Outcome, Release};
use client::{Admin, Answer};

/// What stands between a MemoryNamespace and its service. The message ends with what to do.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Blocked {
    #[error(
        "SomaStack {0}, which spec.stackRef names, does not exist in this namespace. Create it; stackRef cannot change, so a wrong name needs a new MemoryNamespace"
    )]
    StackNotFound(String),
    #[error("SomaStack {0} does not serve yet. Look at `kubectl describe somastack {0}`")]
    StackNotReady(String),
    #[error(
        "the memory service does not answer: {0}. Look at `kubectl get pods -l app.kubernetes.io/name=memory`"
    )]
    ServiceUnreachable(String),
    #[error(
        "the memory service does not take the token in Secret soma-api-token; it was changed while the service ran. Restart the service with `kubectl delete pod -l app.kubernetes.io/name=memory`"
    )]
    TokenRefused,
    #[error(
        "the namespace is bound to another embedding or tenant: {0}. Create a MemoryNamespace of another name"
    )]
    BindingConflict(String),
    #[error("the memory service refuses the namespace: {0}. Put the spec right")]
    Refused(String),
    #[error("spec.quota.bytes is larger than the memory service can count; lower it")]
    QuotaTooLarge,
}

impl Blocked {
    /// The variant's name: condition and event reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::StackNotFound(_) => "StackNotFound",
            Self::StackNotReady(_) => "StackNotReady",
            Self::ServiceUnreachable(_) => "ServiceUnreachable",
            Self::TokenRefused => "TokenRefused",
            Self::BindingConflict(_) => "BindingConflict",
            Self::Refused(_) => "Refused",
            Self::QuotaTooLarge => "QuotaTooLarge",
        }
    }
}

impl Kind for MemoryNamespace {
    const KIND: &'static str = "MemoryNamespace";
    const MANAGER: &'static str = manager::NAMESPACE;

    async fn drive(ctx: &Context, memory: &MemoryNamespace) -> Result<Outcome, Error> {
        let writer = ctx.writer(Self::MANAGER);
        let admin = match admin(ctx, memory).await? {
            Ok(admin) => admin,
            Err(blocked) => return status::blocked(&writer, memory, &blocked).await,
        };
        let wanted = match client::wanted(memory) {
            Ok(wanted) => wanted,
            Err(blocked) => return status::blocked(&writer, memory, &blocked).await,
        };
        ctx.followers.follow(&admin);
        match admin.put(&memory.name_any(), &wanted).await {
            Ok(bound) => status::bound(&writer, memory, &bound).await,
            Err(answer) => status::blocked(&writer, memory, &answer.into()).await,
        }
    }

    async fn release(ctx: &Context, memory: &MemoryNamespace) -> Result<Release, Error> {
        if memory.spec.deletion_policy == DeletionPolicy::Retain {
            let note = "the memories stay, as deletionPolicy Retain says; a MemoryNamespace of the same name takes them up again";
            return Ok(Release::Done(vec![Note::normal(reason::DATA_KEPT, note)]));
        }
        let admin = match admin(ctx, memory).await? {
            Ok(admin) => admin,
            // Without the service nobody can delete them, and an object must not hang for ever.
            Err(blocked @ Blocked::StackNotFound(_)) => {
                let note = format!("the memories could not be deleted and stay in the database: {blocked}");
                return Ok(Release::Done(vec![Note::warning(reason::DATA_KEPT, note)]));
            }
            Err(blocked) => {
                return status::held(&ctx.writer(Self::MANAGER), memory, &blocked).await.map(Release::Held);
            }
        };
        match admin.delete(&memory.name_any()).await {
            Ok(()) => Ok(Release::Done(vec![Note::normal(
                reason::DATA_DELETED,
                "the memories are deleted, as deletionPolicy Delete says",
            )])),
            Err(answer) => {
                status::held(&ctx.writer(Self::MANAGER), memory, &answer.into()).await.map(Release::Held)
            }
        }
    }
}

/// The admin API of the stack a MemoryNamespace refers to.
async fn admin(ctx: &Context, memory: &MemoryNamespace) -> Result<Result<Admin, Blocked>, Error> {
    let (namespace, name) = (memory.namespace().unwrap_or_default(), memory.spec.stack_ref.name.clone());
    let what = format!("SomaStack {namespace}/{name}");
    let stack = ctx.api::<SomaStack>(&namespace).get_opt(&name).await.map_err(Error::read(what))?;
    let Some(stack) = stack else {
        ctx.followers.stop(&namespace, &name);
        return Ok(Err(Blocked::StackNotFound(name)));
    };
    let what = format!("Secret {namespace}/{}", object::API_TOKEN);
    let secret = ctx.api::<k8s_openapi::api::core::v1::Secret>(&namespace).get_opt(object::API_TOKEN).await;
    let token = secret.map_err(Error::read(what))?.and_then(|s| s.data?.remove(object::API_TOKEN_KEY));
    let serves = stack
        .status
        .as_ref()
        .and_then(|s| s.condition(condition::AVAILABLE))
        .is_some_and(|c| c.status == "True");
    match token.and_then(|token| String::from_utf8(token.0).ok()) {
        Some(token) if serves => {
            let url = ctx.addresses.memory_of(&namespace);
            Ok(Ok(Admin { http: ctx.http.clone(), namespace, stack: name, url, token }))
        }
        // The namespace is going away as a whole and the stack's Secrets went first.
        None if stack.metadata.deletion_timestamp.is_some() => Ok(Err(Blocked::StackNotFound(name))),
        _ => Ok(Err(Blocked::StackNotReady(name))),
    }
}

impl From<Answer> for Blocked {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Unreachable(why) => Self::ServiceUnreachable(why),
            Answer::Unauthorised => Self::TokenRefused,
            Answer::Conflict(why) => Self::BindingConflict(why),
            Answer::Refused(why) => Self::Refused(why),
        }
    }
}
