//! SomaInfra: from a manifest to components that answer, and a Secret per component that says where.

mod alias;
mod backup;
mod blocked;
mod component;
mod dereference;
mod etcd;
mod footprint;
mod grow;
mod kafka;
mod network;
mod opa;
mod openfga;
mod postgres;
mod redis;
mod retire;
mod roll;
mod secret;
mod set;
mod status;
pub mod tenants;
mod vault;

#[cfg(test)]
pub mod fixture;

use kube::{Resource, ResourceExt};
use serde_json::{Value, json};
use soma_crds::{DeletionPolicy, SomaInfra};

pub use etcd::snapshot as etcd_snapshot;
pub use vault::snapshot as vault_snapshot;

pub use dereference::elder_among;
use network::Guests;
pub use opa::{BYTES as BUNDLE_BYTES, GIVEN as POLICIES_GIVEN, TOKEN as BUNDLE_TOKEN};
pub use postgres::parse_sslmode;
pub use set::CLAIM_PREFIX;

use self::tenants::Tenants;
use crate::apply::Batch;
use crate::context::Context;
use crate::error::Error;
use crate::events::Note;
use crate::names::{Owner, manager, reason};
use crate::reconcile::{Kind, Next, Outcome, Release};

/// The SomaInfra that components are made for.
pub struct Site<'a> {
    pub infra: &'a SomaInfra,
    pub owner: Owner,
    pub guests: Guests,
    pub tenants: Tenants,
}

impl<'a> Site<'a> {
    pub fn new(infra: &'a SomaInfra) -> Self {
        let (namespace, name) = (infra.namespace().unwrap_or_default(), infra.name_any());
        let owner = Owner { kind: SomaInfra::KIND, name, namespace };
        Self { infra, owner, guests: Guests::default(), tenants: Tenants::default() }
    }

    /// Metadata of an object that goes when the SomaInfra goes.
    pub fn metadata(&self, component: &str, name: &str) -> Value {
        json!({
            "name": name,
            "namespace": self.owner.namespace,
            "labels": self.owner.labels(component),
            "ownerReferences": [self.infra.controller_owner_ref(&())],
        })
    }

    /// DNS name of a component's Service.
    pub fn host(&self, component: &str) -> String {
        format!("{component}.{}.svc.cluster.local", self.owner.namespace)
    }
}

impl Kind for SomaInfra {
    const KIND: &'static str = "SomaInfra";
    const MANAGER: &'static str = manager::INFRA;

    async fn drive(ctx: &Context, infra: &SomaInfra) -> Result<Outcome, Error> {
        let writer = ctx.writer(Self::MANAGER);
        let mut site = Site::new(infra);
        if let Some(elder) = dereference::elder(ctx, infra).await? {
            return status::taken(&writer, &site, elder).await;
        }
        let stacks = dereference::users(ctx, infra).await?;
        site.guests = Guests {
            operator: ctx.namespace.clone(),
            stacks: stacks.iter().map(|(namespace, _)| namespace.clone()).collect(),
        };
        site.tenants = tenants::observe(ctx, infra, &stacks).await?;
        let observed = alias::observe(ctx, infra).await?;
        // At a time: one that answers slowly holds back nobody.
        let (postgres, vault, kafka, etcd, redis, opa, openfga) = futures::join!(
            Box::pin(postgres::drive(ctx, &writer, &site)),
            Box::pin(vault::drive(ctx, &writer, &site)),
            Box::pin(kafka::drive(ctx, &writer, &site)),
            Box::pin(etcd::drive(ctx, &writer, &site)),
            Box::pin(redis::drive(ctx, &writer, &site)),
            Box::pin(opa::drive(ctx, &writer, &site)),
            Box::pin(openfga::drive(ctx, &writer, &site)),
        );
        let reports: Vec<_> =
            [Some(postgres), vault, kafka, etcd, redis, opa, openfga].into_iter().flatten().collect();
        let refused = tenants::settle(ctx, &writer, &site, &reports).await;
        let aliases = alias::build(&site, &status::aliases(&reports), &observed)?;
        let mut batch = Batch::default();
        alias::apply(&writer, &aliases, &observed, &mut batch).await;
        let outcome = status::update(&writer, &site, reports, aliases, batch).await?;
        Ok(if refused { Outcome { next: Next::Again, ..outcome } } else { outcome })
    }

    async fn release(ctx: &Context, infra: &SomaInfra) -> Result<Release, Error> {
        let writer = ctx.writer(Self::MANAGER);
        let users = dereference::users(ctx, infra).await?;
        if !users.is_empty() {
            let users: Vec<_> = users.iter().map(|(namespace, name)| format!("{namespace}/{name}")).collect();
            return status::in_use(&writer, infra, &users).await.map(Release::Held);
        }
        alias::remove(ctx, &writer, infra).await?;
        vault::release(ctx, &writer, infra).await?;
        let note = match infra.spec.deletion_policy {
            DeletionPolicy::Retain => Note::normal(
                reason::DATA_KEPT,
                "volumes and Secrets stay, as deletionPolicy Retain says; a SomaInfra of the same name in this namespace takes them up again",
            ),
            DeletionPolicy::Delete => {
                postgres::remove_data(ctx, &writer, infra).await?;
                vault::remove_data(ctx, &writer, infra).await?;
                kafka::remove_data(ctx, &writer, infra).await?;
                etcd::remove_data(ctx, &writer, infra).await?;
                redis::remove_data(ctx, &writer, infra).await?;
                Box::pin(opa::remove_data(ctx, &writer, infra)).await?;
                Box::pin(openfga::remove_data(ctx, &writer, infra)).await?;
                Note::normal(
                    reason::DATA_DELETED,
                    "volumes and Secrets are deleted, as deletionPolicy Delete says",
                )
            }
        };
        Ok(Release::Done(vec![note]))
    }
}
