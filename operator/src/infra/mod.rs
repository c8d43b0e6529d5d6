//! SomaInfra: from a manifest to a Postgres that answers and a Secret that says where.

mod apply;
mod build;
mod database;
mod dereference;
mod passwords;
mod roll;
mod status;
mod validate;

#[cfg(test)]
pub mod fixture;

use soma_crds::{DeletionPolicy, SomaInfra};

pub use dereference::elder_among;
pub use validate::parse_sslmode;

use crate::context::Context;
use crate::error::Error;
use crate::events::Note;
use crate::names::{manager, reason};
use crate::reconcile::{Kind, Outcome, Release};

impl Kind for SomaInfra {
    const KIND: &'static str = "SomaInfra";
    const MANAGER: &'static str = manager::INFRA;

    async fn drive(ctx: &Context, infra: &SomaInfra) -> Result<Outcome, Error> {
        let writer = ctx.writer(Self::MANAGER);
        let observed = Box::pin(dereference::dereference(ctx, infra)).await?;
        let wanted = match validate::validate(infra, &observed) {
            Ok(wanted) => wanted,
            Err(blocked) => return status::blocked(&writer, infra, &observed, &blocked).await,
        };
        let credentials = passwords::credentials(&writer, &wanted).await?;
        let objects = build::objects(&wanted)?;
        build::check(&objects)?;
        let applied = Box::pin(apply::apply(&writer, &wanted, &observed, objects)).await;
        let database = database::ensure(ctx, &wanted, &observed, &credentials).await;
        let published = apply::publish(&writer, &wanted, &observed, &credentials, &database).await;
        status::update(&writer, infra, &wanted, &observed, applied, &database, published).await
    }

    async fn release(ctx: &Context, infra: &SomaInfra) -> Result<Release, Error> {
        let writer = ctx.writer(Self::MANAGER);
        let users = dereference::users(ctx, infra).await?;
        if !users.is_empty() {
            return status::in_use(&writer, infra, &users).await.map(Release::Held);
        }
        apply::remove_aliases(ctx, &writer, infra).await?;
        let note = match infra.spec.deletion_policy {
            DeletionPolicy::Retain => Note::normal(
                reason::DATA_KEPT,
                "the Postgres volume and its Secrets stay, as deletionPolicy Retain says; a SomaInfra of the same name in this namespace takes them up again",
            ),
            DeletionPolicy::Delete => {
                apply::remove_data(ctx, &writer, infra).await?;
                Note::normal(
                    reason::DATA_DELETED,
                    "the Postgres volume and its Secrets are deleted, as deletionPolicy Delete says",
                )
            }
        };
        Ok(Release::Done(vec![note]))
    }
}
