//! SomaStack: from a manifest to a memory service that receives traffic.

mod apply;
mod build;
mod dereference;
mod release;
mod revision;
mod status;
mod validate;

#[cfg(test)]
pub mod fixture;

use kube::ResourceExt;
use soma_crds::SomaStack;

use crate::context::Context;
use crate::error::Error;
use crate::events::Note;
use crate::names::{manager, reason};
use crate::reconcile::{Kind, Outcome, Release};

/// Namespace and name of the SomaInfra a stack refers to.
pub fn infra_of(stack: &SomaStack) -> (String, String) {
    let reference = &stack.spec.infra_ref;
    let own = || stack.namespace().unwrap_or_default();
    (reference.namespace.clone().unwrap_or_else(own), reference.name.clone())
}

impl Kind for SomaStack {
    const KIND: &'static str = "SomaStack";
    const MANAGER: &'static str = manager::STACK;

    async fn drive(ctx: &Context, stack: &SomaStack) -> Result<Outcome, Error> {
        let writer = ctx.writer(Self::MANAGER);
        let observed = dereference::dereference(ctx, stack).await?;
        let wanted = match validate::validate(stack, &observed) {
            Ok(wanted) => wanted,
            Err(blocked) => return status::blocked(&writer, stack, &observed, &blocked).await,
        };
        let revisions = observed.revisions();
        let release =
            release::next(&wanted.revision, wanted.replicas, observed.serving().as_deref(), &revisions);
        let objects = build::objects(&wanted, &release)?;
        build::check(&objects)?;
        let applied = apply::apply(&writer, &observed, &release, objects).await;
        status::update(&writer, stack, &wanted, &observed, &release, applied).await
    }

    async fn release(ctx: &Context, stack: &SomaStack) -> Result<Release, Error> {
        let users = dereference::users(ctx, stack).await?;
        if !users.is_empty() {
            let writer = ctx.writer(Self::MANAGER);
            return status::in_use(&writer, stack, &users).await.map(Release::Held);
        }
        ctx.followers.stop(&stack.namespace().unwrap_or_default(), &stack.name_any());
        // Everything but the token has an owner reference and goes with the stack.
        Ok(Release::Done(vec![Note::normal(
            reason::DATA_KEPT,
            "the memories stay in the database of the SomaInfra, and Secret soma-api-token stays, so that a new SomaStack in this namespace keeps its clients",
        )]))
    }
}
