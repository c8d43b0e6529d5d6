//! What goes with a component: its objects when it is no longer asked for, its data when the owner says so.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::DeleteParams;
use soma_crds::SomaInfra;

use super::set::{Live, headless_name, observe};
use super::{Site, backup};
use crate::apply::Writer;
use crate::context::Context;
use crate::error::Error;

/// Removes the objects of a component that is no longer asked for, and its connection Secret; volumes and other Secrets
/// stay. The set goes first and takes its pods with it.
pub async fn retire(
    ctx: &Context,
    writer: &Writer,
    site: &Site<'_>,
    component: &str,
    live: &Live,
    conn: Option<&Secret>,
) -> Result<(), Error> {
    if live.set.is_none() && conn.is_none() {
        return Ok(());
    }
    let namespace = &site.owner.namespace;
    backup::retire(ctx, writer, site, component).await?;
    ctx.remove::<StatefulSet>(writer, namespace, component, DeleteParams::foreground()).await?;
    ctx.remove::<PodDisruptionBudget>(writer, namespace, component, DeleteParams::default()).await?;
    ctx.remove::<NetworkPolicy>(writer, namespace, component, DeleteParams::default()).await?;
    for service in [component, &headless_name(component)] {
        ctx.remove::<Service>(writer, namespace, service, DeleteParams::default()).await?;
    }
    for config in &live.configs {
        writer.delete(config, DeleteParams::default()).await?;
    }
    match conn {
        Some(conn) => writer.delete(conn, DeleteParams::default()).await,
        None => Ok(()),
    }
}

/// Deletes the volumes of a component and these Secrets. The set goes first: a claim in use would stay.
pub async fn remove_data(
    ctx: &Context,
    writer: &Writer,
    infra: &SomaInfra,
    component: &str,
    secrets: &[impl AsRef<str>],
) -> Result<(), Error> {
    let site = Site::new(infra);
    let live = observe(ctx, &site, component).await?;
    retire(ctx, writer, &site, component, &live, None).await?;
    for claim in live.claims.values() {
        writer.delete::<PersistentVolumeClaim>(claim, DeleteParams::default()).await?;
    }
    backup::remove_data(ctx, writer, &site, component).await?;
    for name in secrets {
        ctx.remove::<Secret>(writer, &site.owner.namespace, name.as_ref(), DeleteParams::default()).await?;
    }
    Ok(())
}
