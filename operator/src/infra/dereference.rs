//! Who else lives in the namespace of a SomaInfra, and who uses it.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Secret;
use kube::api::ListParams;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::{Api, ResourceExt};
use soma_crds::{SomaInfra, SomaStack};

use crate::context::Context;
use crate::error::Error;
use crate::names::{label, object};
use crate::reconcile::Kind;

/// The older of two SomaInfra in one namespace has it: their objects would carry the same names.
pub async fn elder(ctx: &Context, infra: &SomaInfra) -> Result<Option<String>, Error> {
    let namespace = infra.namespace().unwrap_or_default();
    let conn = ctx.get::<Secret>(&namespace, object::POSTGRES_CONN).await?;
    let all = ctx.api::<SomaInfra>(&namespace).list_metadata(&ListParams::default()).await;
    let all = all.map_err(Error::read("the SomaInfras of the namespace"))?;
    Ok(elder_among(infra, &all.items, conn.as_ref()))
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

/// Namespace and name of the SomaStacks that refer to a SomaInfra.
pub async fn users(ctx: &Context, infra: &SomaInfra) -> Result<BTreeSet<(String, String)>, Error> {
    let stacks: Api<DeserializeGuard<SomaStack>> = Api::all(ctx.client.clone());
    let listed = stacks.list(&ListParams::default()).await.map_err(Error::read("the SomaStacks"))?;
    let refers = |stack: &SomaStack| {
        let (namespace, name) = crate::stack::infra_of(stack);
        name == infra.name_any() && Some(namespace) == infra.namespace()
    };
    let stacks = listed.items.into_iter().filter_map(|guard| guard.0.ok()).filter(refers);
    Ok(stacks.map(|stack| (stack.namespace().unwrap_or_default(), stack.name_any())).collect())
}
