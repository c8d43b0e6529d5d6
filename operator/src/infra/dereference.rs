//! Reads everything a SomaInfra refers to or owns. A failed read fails the attempt: it never counts as a change.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim, Pod, Secret, Service};
use kube::api::ListParams;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::{Api, ResourceExt};
use soma_crds::{SomaInfra, SomaStack};

use crate::apply::Child;
use crate::context::Context;
use crate::error::Error;
use crate::names::{children_of, label, object};
use crate::reconcile::Kind;

/// What the cluster holds for a SomaInfra.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Name of an older SomaInfra in the same namespace.
    pub elder: Option<String>,
    /// `postgres-superuser`.
    pub passwords: Option<Secret>,
    /// `postgres-conn`.
    pub conn: Option<Secret>,
    /// The Secret an external Postgres is described by.
    pub external: Option<Secret>,
    pub claim: Option<PersistentVolumeClaim>,
    pub set: Option<StatefulSet>,
    pub pod: Option<Pod>,
    /// What stands at the alias' name in each alias namespace; absent when the namespace is.
    pub aliases: BTreeMap<String, Option<Service>>,
    /// Aliases this SomaInfra made, wherever they are.
    pub own_aliases: Vec<Service>,
}

pub async fn dereference(ctx: &Context, infra: &SomaInfra) -> Result<Observed, Error> {
    let namespace = infra.namespace().unwrap_or_default();
    let external = match &infra.spec.postgres.external {
        Some(external) => get(ctx, &namespace, &external.secret_ref.name).await?,
        None => None,
    };
    let conn = get::<Secret>(ctx, &namespace, object::POSTGRES_CONN).await?;
    Ok(Observed {
        elder: elder(ctx, infra, conn.as_ref()).await?,
        passwords: get(ctx, &namespace, object::POSTGRES_SECRET).await?,
        conn,
        external,
        claim: get(ctx, &namespace, object::POSTGRES_CLAIM).await?,
        set: get(ctx, &namespace, object::POSTGRES).await?,
        pod: get(ctx, &namespace, object::POSTGRES_POD).await?,
        aliases: aliases(ctx, infra).await?,
        own_aliases: own_aliases(ctx, infra).await?,
    })
}

async fn get<K: Child>(ctx: &Context, namespace: &str, name: &str) -> Result<Option<K>, Error> {
    let what = format!("{} {namespace}/{name}", K::kind(&()));
    ctx.api::<K>(namespace).get_opt(name).await.map_err(Error::read(what))
}

/// The older of two SomaInfra in one namespace has it: their objects would carry the same names.
async fn elder(ctx: &Context, infra: &SomaInfra, conn: Option<&Secret>) -> Result<Option<String>, Error> {
    let all = ctx
        .api::<SomaInfra>(&infra.namespace().unwrap_or_default())
        .list_metadata(&ListParams::default())
        .await
        .map_err(Error::read("the SomaInfras of the namespace"))?;
    Ok(elder_among(infra, &all.items, conn))
}

/// Name of the object that has the namespace instead of `object`: the one that `child` belongs to, as long as it is
/// there, or else the oldest. The name decides between two of one second.
pub fn elder_among<K: Kind>(
    object: &K,
    all: &[PartialObjectMeta<K>],
    child: Option<&impl ResourceExt>,
) -> Option<String> {
    let holder = child.and_then(|child| child.labels().get(label::INSTANCE));
    if let Some(holder) = holder.filter(|holder| all.iter().any(|one| one.name_any() == **holder)) {
        return (*holder != object.name_any()).then(|| holder.clone());
    }
    let own = (object.creation_timestamp().map(|t| t.0), object.name_any());
    let older = all.iter().map(|other| (other.creation_timestamp().map(|t| t.0), other.name_any()));
    older.filter(|other| *other < own).min().map(|(_, name)| name)
}

async fn aliases(ctx: &Context, infra: &SomaInfra) -> Result<BTreeMap<String, Option<Service>>, Error> {
    let namespaces: Api<Namespace> = Api::all(ctx.client.clone());
    let mut found = BTreeMap::new();
    for alias in &infra.spec.alias_namespaces {
        let namespace =
            namespaces.get_metadata_opt(alias).await.map_err(Error::read(format!("Namespace {alias}")))?;
        if namespace.is_some_and(|n| n.metadata.deletion_timestamp.is_none()) {
            found.insert(alias.clone(), get(ctx, alias, object::POSTGRES).await?);
        }
    }
    Ok(found)
}

/// The aliases a SomaInfra made.
pub async fn own_aliases(ctx: &Context, infra: &SomaInfra) -> Result<Vec<Service>, Error> {
    let selector = format!(
        "{},{}=alias,{}={},{}={}",
        children_of(SomaInfra::KIND),
        label::ROLE,
        label::INSTANCE,
        infra.name_any(),
        label::OWNER_NAMESPACE,
        infra.namespace().unwrap_or_default(),
    );
    let services: Api<Service> = Api::all(ctx.client.clone());
    let listed = services
        .list(&ListParams::default().labels(&selector))
        .await
        .map_err(Error::read("alias Services"))?;
    Ok(listed.items)
}

/// The SomaStacks that refer to a SomaInfra, as `namespace/name`.
pub async fn users(ctx: &Context, infra: &SomaInfra) -> Result<Vec<String>, Error> {
    let stacks: Api<DeserializeGuard<SomaStack>> = Api::all(ctx.client.clone());
    let listed = stacks.list(&ListParams::default()).await.map_err(Error::read("the SomaStacks"))?;
    let mut users: Vec<_> = listed
        .items
        .into_iter()
        .filter_map(|guard| guard.0.ok())
        .filter(|stack| {
            let (namespace, name) = crate::stack::infra_of(stack);
            name == infra.name_any() && Some(namespace) == infra.namespace()
        })
        .map(|stack| format!("{}/{}", stack.namespace().unwrap_or_default(), stack.name_any()))
        .collect();
    users.sort();
    Ok(users)
}
