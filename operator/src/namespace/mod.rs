//! MemoryNamespace: from a manifest to a namespace in the memory service.

mod access;
pub mod client;
pub mod followers;
mod status;

use k8s_openapi::api::core::v1::Secret;
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
        let Some(stack) = stack(ctx, memory).await? else {
            let missing = Blocked::StackNotFound(memory.spec.stack_ref.name.clone());
            return status::blocked(&writer, memory, &missing).await;
        };
        let admin = match admin(ctx, &stack).await? {
            Ok(admin) => admin,
            Err(blocked) => return status::blocked(&writer, memory, &blocked).await,
        };
        let wanted = match client::wanted(memory) {
            Ok(wanted) => wanted,
            Err(blocked) => return status::blocked(&writer, memory, &blocked).await,
        };
        ctx.followers.follow(&admin);
        match admin.put(&memory.name_any(), &wanted).await {
            Ok(bound) => {
                let access = access::observe(ctx, memory, &stack).await?.access(memory);
                status::bound(&writer, memory, &bound, &access).await
            }
            Err(answer) => status::blocked(&writer, memory, &answer.into()).await,
        }
    }

    async fn release(ctx: &Context, memory: &MemoryNamespace) -> Result<Release, Error> {
        let writer = ctx.writer(Self::MANAGER);
        let stack = stack(ctx, memory).await?;
        let note = match memory.spec.deletion_policy {
            DeletionPolicy::Retain => Note::normal(
                reason::DATA_KEPT,
                "the memories stay, as deletionPolicy Retain says; a MemoryNamespace of the same name takes them up again",
            ),
            DeletionPolicy::Delete => match delete(ctx, memory, stack.as_ref()).await? {
                Ok(()) => Note::normal(
                    reason::DATA_DELETED,
                    "the memories are deleted, as deletionPolicy Delete says",
                ),
                // Without the stack nobody can delete them, and an object must not hang for ever.
                Err(blocked @ Blocked::StackNotFound(_)) => Note::warning(
                    reason::DATA_KEPT,
                    format!("the memories could not be deleted and stay in the database: {blocked}"),
                ),
                Err(blocked) => return status::held(&writer, memory, &blocked).await.map(Release::Held),
            },
        };
        if let Some(stack) = stack
            && let Some(why) = access::observe(ctx, memory, &stack).await?.left()
        {
            return status::draining(&writer, memory, &why).await.map(Release::Held);
        }
        Ok(Release::Done(vec![note]))
    }
}

/// Deletes the memories.
async fn delete(
    ctx: &Context,
    memory: &MemoryNamespace,
    stack: Option<&SomaStack>,
) -> Result<Result<(), Blocked>, Error> {
    let Some(stack) = stack else {
        return Ok(Err(Blocked::StackNotFound(memory.spec.stack_ref.name.clone())));
    };
    match admin(ctx, stack).await? {
        Ok(admin) => Ok(admin.delete(&memory.name_any()).await.map_err(Blocked::from)),
        Err(blocked) => Ok(Err(blocked)),
    }
}

/// The stack a MemoryNamespace refers to.
async fn stack(ctx: &Context, memory: &MemoryNamespace) -> Result<Option<SomaStack>, Error> {
    let (namespace, name) = (memory.namespace().unwrap_or_default(), &memory.spec.stack_ref.name);
    let stack = ctx.get::<SomaStack>(&namespace, name).await?;
    if stack.is_none() {
        ctx.followers.stop(&namespace, name);
    }
    Ok(stack)
}

/// The admin API of a stack.
async fn admin(ctx: &Context, stack: &SomaStack) -> Result<Result<Admin, Blocked>, Error> {
    let (namespace, name) = (stack.namespace().unwrap_or_default(), stack.name_any());
    let secret = ctx.get::<Secret>(&namespace, object::API_TOKEN).await?;
    let token = secret.and_then(|s| s.data?.remove(object::API_TOKEN_KEY));
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
