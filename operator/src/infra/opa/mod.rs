//! OPA: replicas the operator runs and gives its policies, or one that runs elsewhere.

mod build;
mod bundle;
mod core;
mod engine;
mod external;
mod members;
#[cfg(test)]
mod proof;
mod publish;
mod rego;
mod run;
mod sign;
mod tenants;
mod validate;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DeleteParams, ListParams};
use soma_crds::{Mode, SomaInfra};

pub use self::build::BYTES;
pub use self::sign::TOKEN;
use self::validate::{Observed, Opa};
use super::Site;
use super::component::{Findings, Identity, Report, publish};
use super::set::Applied;
use crate::apply::{Child, Writer};
use crate::context::Context;
use crate::error::Error;
use crate::names::{label, object, selector_text};

const IDENTITY: Identity = Identity { name: object::OPA, title: "OPA", unreachable: "OpaUnreachable" };

/// What selects the ConfigMaps of tenants.
pub const GIVEN: [(&str, &str); 2] = [(label::POLICY, "rego"), (label::POLICY_DATA, "opa")];

/// Nothing when OPA is not asked for.
pub async fn drive(ctx: &Context, writer: &Writer, site: &Site<'_>) -> Option<Report> {
    let external = site.infra.spec.opa.as_ref().is_some_and(|opa| opa.external.is_some());
    IDENTITY.attempt(site, external, |mode| attempt(ctx, writer, site, mode)).await
}

async fn attempt(
    ctx: &Context,
    writer: &Writer,
    site: &Site<'_>,
    mode: Mode,
) -> Result<Option<Report>, Error> {
    let observed = dereference(ctx, site).await?;
    let wanted = match validate::validate(site, &observed) {
        Ok(wanted) => wanted,
        Err(blocked) => return Ok(Some(IDENTITY.blocked(site, mode, observed.conn.is_some(), &blocked))),
    };
    let mut applied = Applied::default();
    let (connection, (state, caveat)) = match wanted {
        Opa::Disabled => {
            retire(ctx, writer, site, &observed).await?;
            return Ok(None);
        }
        Opa::External(connection) => {
            let state = external::probe(&ctx.http, &connection).await;
            (connection, (state, None))
        }
        Opa::Managed(managed) => {
            let ran = Box::pin(run::run(ctx, writer, site, &managed, &observed, &mut applied)).await?;
            (build::connection(site), ran)
        }
    };
    let secret = build::connection_secret(site, mode, &connection)?;
    let published = publish(writer, &state, observed.conn.as_ref(), &secret).await;
    let (host, port) = (connection.host, connection.port);
    let findings = Findings { mode, host, port, state, applied, published, caveat };
    Ok(Some(IDENTITY.report(site, findings).looked_at_again()))
}

/// Reads everything OPA needs. A failed read fails the attempt: it never counts as a change.
async fn dereference(ctx: &Context, site: &Site<'_>) -> Result<Observed, Error> {
    let namespace = &site.owner.namespace;
    let spec = site.infra.spec.opa.clone().unwrap_or_default();
    let external = match &spec.external {
        Some(external) => ctx.get(namespace, &external.secret_ref.name).await?,
        None => None,
    };
    let ours = selector_text(&site.owner.selector(object::OPA));
    let mut given: Vec<ConfigMap> = Vec::new();
    if spec.managed.is_some() {
        for (key, value) in GIVEN {
            let more = list::<ConfigMap>(ctx, namespace, &format!("{key}={value}")).await?;
            given.extend(more.into_iter().filter(|map| map.metadata.deletion_timestamp.is_none()));
        }
        given.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        given.dedup_by(|a, b| a.metadata.name == b.metadata.name);
    }
    Ok(Observed {
        deployment: ctx.get(namespace, object::OPA).await?,
        pods: list(ctx, namespace, &ours).await?,
        configs: list(ctx, namespace, &ours).await?,
        bundle: ctx.get(namespace, object::OPA_BUNDLE).await?,
        signing: ctx.get(namespace, object::OPA_SIGNING).await?,
        conn: ctx.get(namespace, object::OPA_CONN).await?,
        external,
        given,
    })
}

async fn list<K: Child>(ctx: &Context, namespace: &str, labels: &str) -> Result<Vec<K>, Error> {
    let listed = ctx.api::<K>(namespace).list(&ListParams::default().labels(labels)).await;
    Ok(listed.map_err(Error::read(format!("the {}s of namespace {namespace}", K::kind(&()))))?.items)
}

/// Removes the objects of an OPA that is no longer asked for, and its connection Secret; the key stays.
async fn retire(ctx: &Context, writer: &Writer, site: &Site<'_>, observed: &Observed) -> Result<(), Error> {
    if observed.deployment.is_none() && observed.conn.is_none() {
        return Ok(());
    }
    let namespace = &site.owner.namespace;
    ctx.remove::<Deployment>(writer, namespace, object::OPA, DeleteParams::foreground()).await?;
    ctx.remove::<PodDisruptionBudget>(writer, namespace, object::OPA, DeleteParams::default()).await?;
    ctx.remove::<NetworkPolicy>(writer, namespace, object::OPA, DeleteParams::default()).await?;
    ctx.remove::<Service>(writer, namespace, object::OPA, DeleteParams::default()).await?;
    for config in &observed.configs {
        writer.delete(config, DeleteParams::default()).await?;
    }
    match &observed.conn {
        Some(conn) => writer.delete(conn, DeleteParams::default()).await,
        None => Ok(()),
    }
}

/// Deletes the key and what says where OPA is; the rest goes with the SomaInfra.
pub async fn remove_data(ctx: &Context, writer: &Writer, infra: &SomaInfra) -> Result<(), Error> {
    let site = Site::new(infra);
    retire(ctx, writer, &site, &dereference(ctx, &site).await?).await?;
    for name in [object::OPA_CONN, object::OPA_SIGNING] {
        ctx.remove::<Secret>(writer, &site.owner.namespace, name, DeleteParams::default()).await?;
    }
    Ok(())
}
