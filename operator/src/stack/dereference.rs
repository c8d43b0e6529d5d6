//! Reads everything a SomaStack refers to or owns. A failed read fails the attempt: it never counts as a change.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use kube::api::ListParams;
use kube::core::DeserializeGuard;
use soma_crds::{MemoryNamespace, SomaInfra, SomaStack};

use super::{infra_of, release};
use crate::apply::Child;
use crate::context::Context;
use crate::error::Error;
use crate::infra::elder_among;
use crate::names::{Owner, label, object, selector_text};
use crate::reconcile::Kind;

/// What the cluster holds for a SomaStack.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Name of an older SomaStack in the same namespace.
    pub elder: Option<String>,
    /// The SomaInfra exists.
    pub has_infra: bool,
    /// `postgres-conn` in the namespace of the SomaInfra.
    pub conn: Option<Secret>,
    pub token: Option<Secret>,
    pub deployments: Vec<Deployment>,
    pub config_maps: Vec<ConfigMap>,
    pub pods: Vec<Pod>,
    pub service: Option<Service>,
    pub budget: Option<PodDisruptionBudget>,
}

pub async fn dereference(ctx: &Context, stack: &SomaStack) -> Result<Observed, Error> {
    let namespace = stack.namespace().unwrap_or_default();
    let (infra_namespace, infra) = infra_of(stack);
    let labels = selector_text(&owner(stack).selector(object::MEMORY));
    let siblings = ctx.api::<SomaStack>(&namespace).list_metadata(&ListParams::default()).await;
    let siblings = siblings.map_err(Error::read("the SomaStacks of the namespace"))?;
    let has_infra = ctx.api::<SomaInfra>(&infra_namespace).get_metadata_opt(&infra).await;
    let service = ctx.get::<Service>(&namespace, object::MEMORY).await?;
    Ok(Observed {
        elder: elder_among(stack, &siblings.items, service.as_ref()),
        has_infra: has_infra.map_err(Error::read(format!("SomaInfra {infra_namespace}/{infra}")))?.is_some(),
        conn: ctx.get(&infra_namespace, object::POSTGRES_CONN).await?,
        token: ctx.get(&namespace, object::API_TOKEN).await?,
        deployments: list(ctx, &namespace, &labels).await?,
        config_maps: list(ctx, &namespace, &labels).await?,
        pods: list(ctx, &namespace, &labels).await?,
        service,
        budget: ctx.get(&namespace, object::MEMORY).await?,
    })
}

pub fn owner(stack: &SomaStack) -> Owner {
    Owner { kind: SomaStack::KIND, namespace: stack.namespace().unwrap_or_default(), name: stack.name_any() }
}

async fn list<K: Child>(ctx: &Context, namespace: &str, labels: &str) -> Result<Vec<K>, Error> {
    let what = format!("the {}s of namespace {namespace}", K::kind(&()));
    let listed = ctx.api::<K>(namespace).list(&ListParams::default().labels(labels)).await;
    Ok(listed.map_err(Error::read(what))?.items)
}

/// The MemoryNamespaces that refer to a stack.
pub async fn users(ctx: &Context, stack: &SomaStack) -> Result<Vec<String>, Error> {
    let api = kube::Api::<DeserializeGuard<MemoryNamespace>>::namespaced(
        ctx.client.clone(),
        &stack.namespace().unwrap_or_default(),
    );
    let listed = api.list(&ListParams::default()).await.map_err(Error::read("the MemoryNamespaces"))?;
    let refers = |memory: &MemoryNamespace| memory.spec.stack_ref.name == stack.name_any();
    let mut users: Vec<_> = listed
        .items
        .into_iter()
        .filter_map(|guard| guard.0.ok())
        .filter(refers)
        .map(|m| m.name_any())
        .collect();
    users.sort();
    Ok(users)
}

impl Observed {
    /// The revision the Service selects.
    pub fn serving(&self) -> Option<String> {
        let selector = self.service.as_ref()?.spec.as_ref()?.selector.as_ref()?;
        selector.get(label::REVISION).cloned()
    }

    /// The Deployment of a revision.
    pub fn deployment(&self, revision: &str) -> Option<&Deployment> {
        self.deployments.iter().find(|d| d.name_any() == revision)
    }

    /// The revisions there are, as the release logic sees them.
    pub fn revisions(&self) -> Vec<release::Revision> {
        self.deployments.iter().filter(|d| d.metadata.deletion_timestamp.is_none()).map(revision).collect()
    }

    /// The pods of a revision.
    pub fn pods_of<'a>(&'a self, revision: &'a str) -> impl Iterator<Item = &'a Pod> {
        self.pods.iter().filter(move |pod| pod.labels().get(label::REVISION).is_some_and(|r| r == revision))
    }
}

fn revision(deployment: &Deployment) -> release::Revision {
    let status = deployment.status.clone().unwrap_or_default();
    // Counts of an older template or scale say nothing about this one.
    let is_current = status.observed_generation == deployment.metadata.generation;
    let ready = status.ready_replicas.unwrap_or(0).min(status.updated_replicas.unwrap_or(0));
    release::Revision {
        name: deployment.name_any(),
        replicas: deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0),
        ready: if is_current { ready } else { 0 },
        created: deployment.creation_timestamp().map_or(0, |t| t.0.as_second()),
    }
}
