//! The MemoryNamespaces whose stacks use a SomaInfra: what its components give them, and what is taken back when they go.
//!
//! A component says after each reconcile for whom it holds something ([`Provided`]). What it gave is written down in one
//! Secret beside the MemoryNamespace, which its owner's programs read; a deletion waits until that Secret is gone.

mod access;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{ObjectReference, Secret};
use kube::api::ListParams;
use kube::core::DeserializeGuard;
use kube::{Api, Resource, ResourceExt};
use soma_crds::{DeletionPolicy, MemoryNamespace, MemoryNamespaceSpec, Mode, SomaInfra};

use self::access::record;
pub use self::access::{Given, LABELS, given, is_access, secret_name};
use super::component::Report;
use super::{Site, secret};
use crate::apply::Writer;
use crate::context::Context;
use crate::error::{Error, chain};
use crate::events::Note;
use crate::names::object;

/// Components that hold something for each tenant.
pub const HOLDERS: [&str; 3] = [object::KAFKA, object::VAULT, object::OPENFGA];

/// One MemoryNamespace.
#[derive(Clone, Debug)]
pub struct Tenant {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub generation: i64,
    pub spec: MemoryNamespaceSpec,
    /// It is being deleted.
    pub leaving: bool,
    /// The Secret with what it was given.
    pub secret: Option<Secret>,
}

/// What a component gave one tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// Of all that cannot be read back.
    pub hash: String,
    /// What the tenant's programs need; each key begins with the component's name.
    pub data: BTreeMap<&'static str, String>,
}

/// For whom a component holds something, by [`Tenant::external`]. Who is not in it is forgotten there.
pub type Provided = BTreeMap<String, Grant>;

impl Tenant {
    /// Name outside of the cluster: `<namespace>.<name>`. Neither of the two may have a dot, so no two share it.
    pub fn external(&self) -> String {
        format!("{}.{}", self.namespace, self.name)
    }

    /// Whether what it stored goes with it.
    pub fn takes_data_along(&self) -> bool {
        self.leaving && self.spec.deletion_policy == DeletionPolicy::Delete
    }

    /// What a component gave it, as written down.
    pub fn given(&self, component: &str) -> Option<Given> {
        given(self.secret.as_ref()?).remove(component)
    }

    /// A value of its Secret.
    pub fn kept(&self, key: &str) -> Option<String> {
        secret::text(self.secret.as_ref()?, key)
    }
}

/// The tenants of a SomaInfra, and Secrets of such that are gone.
#[derive(Clone, Debug, Default)]
pub struct Tenants {
    pub all: Vec<Tenant>,
    pub strays: Vec<Secret>,
}

impl Tenants {
    /// Those who get something.
    pub fn staying(&self) -> impl Iterator<Item = &Tenant> {
        self.all.iter().filter(|tenant| !tenant.leaving)
    }
}

/// Reads the MemoryNamespaces of these stacks, given by namespace and name, and their Secrets.
pub async fn observe(
    ctx: &Context,
    infra: &SomaInfra,
    stacks: &BTreeSet<(String, String)>,
) -> Result<Tenants, Error> {
    let namespaces: Api<DeserializeGuard<MemoryNamespace>> = Api::all(ctx.client.clone());
    let listed = namespaces.list(&ListParams::default()).await;
    let listed = listed.map_err(Error::read("the MemoryNamespaces"))?;
    let secrets: Api<Secret> = Api::all(ctx.client.clone());
    let ours = ListParams::default().labels(&access::selector(infra));
    let secrets = secrets.list(&ours).await.map_err(Error::read("the Secrets of MemoryNamespaces"))?;
    let key = |secret: &Secret| (secret.namespace().unwrap_or_default(), secret.name_any());
    let mut secrets: BTreeMap<_, _> =
        secrets.items.into_iter().map(|secret| (key(&secret), secret)).collect();
    let mut all = Vec::new();
    for memory in listed.items.into_iter().filter_map(|guard| guard.0.ok()) {
        let (namespace, name) = (memory.namespace().unwrap_or_default(), memory.name_any());
        if stacks.contains(&(namespace.clone(), memory.spec.stack_ref.name.clone())) {
            all.push(Tenant {
                secret: secrets.remove(&(namespace.clone(), secret_name(&name))),
                uid: memory.uid().unwrap_or_default(),
                generation: memory.metadata.generation.unwrap_or_default(),
                leaving: memory.metadata.deletion_timestamp.is_some(),
                spec: memory.spec,
                namespace,
                name,
            });
        }
    }
    Ok(Tenants { all, strays: secrets.into_values().collect() })
}

/// Writes down what the components hold. What a namespace refuses is told there; whether anything was refused.
pub async fn settle(ctx: &Context, writer: &Writer, site: &Site<'_>, reports: &[Report]) -> bool {
    let held = |component: &&'static str| {
        let report = reports.iter().find(|report| report.component.name == **component);
        // What is not managed holds nothing that the operator gave.
        let managed = report.filter(|report| report.component.mode == Mode::Managed);
        (*component, managed.map_or_else(|| Some(Provided::new()), |report| report.provided.clone()))
    };
    let holders: Vec<_> = HOLDERS.iter().map(held).collect();
    let refused = record(writer, site, &site.tenants, &holders).await;
    for (tenant, error) in &refused {
        let about = ObjectReference {
            api_version: Some(MemoryNamespace::api_version(&()).into_owned()),
            kind: Some(MemoryNamespace::kind(&()).into_owned()),
            namespace: Some(tenant.namespace.clone()),
            name: Some(tenant.name.clone()),
            uid: Some(tenant.uid.clone()),
            ..ObjectReference::default()
        };
        ctx.events.publish(&about, &Note::warning(error.reason(), chain(error))).await;
    }
    !refused.is_empty()
}
