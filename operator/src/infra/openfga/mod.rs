//! OpenFGA: replicas the operator runs on a database of Postgres, or one that runs elsewhere.

mod build;
mod client;
mod external;
mod kept;
mod members;
mod migration;
mod model;
#[cfg(test)]
mod proof;
mod run;
mod store;
mod tenants;
mod validate;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DeleteParams, ListParams};
use soma_crds::{Mode, SomaInfra};

use self::build::HTTP;
use self::run::Ran;
use self::validate::{Observed, OpenFga};
use super::Site;
use super::component::{Findings, Identity, Report, publish};
use super::set::Applied;
use crate::apply::{Child, Writer};
use crate::context::Context;
use crate::error::Error;
use crate::names::{object, selector_text};

const IDENTITY: Identity =
    Identity { name: object::OPENFGA, title: "OpenFGA", unreachable: "OpenFgaUnreachable" };

/// Nothing when OpenFGA is not asked for.
pub async fn drive(ctx: &Context, writer: &Writer, site: &Site<'_>) -> Option<Report> {
    let external = validate::spec(site).external.is_some();
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
    let (host, port, Ran { state, connection, provided }) = match wanted {
        OpenFga::Disabled => {
            retire(ctx, writer, site, &observed).await?;
            return Ok(None);
        }
        OpenFga::External(openfga) => {
            let (state, connection) = external::probe(&ctx.http, &openfga).await;
            (openfga.host, openfga.port, Ran { state, connection, provided: None })
        }
        OpenFga::Managed(managed) => {
            let ran = Box::pin(run::run(ctx, writer, site, &managed, &observed, &mut applied)).await?;
            (site.host(object::OPENFGA), HTTP, ran)
        }
    };
    let published = match connection {
        Some(connection) => {
            let secret = build::connection_secret(site, mode, &connection)?;
            publish(writer, &state, observed.conn.as_ref(), &secret).await
        }
        None => Ok(observed.conn.is_some()),
    };
    let findings = Findings { mode, host, port, state, applied, published, caveat: None };
    Ok(Some(IDENTITY.report(site, findings).looked_at_again().providing(provided)))
}

/// Reads everything OpenFGA needs. A failed read fails the attempt: it never counts as a change.
async fn dereference(ctx: &Context, site: &Site<'_>) -> Result<Observed, Error> {
    let namespace = &site.owner.namespace;
    let external = match &validate::spec(site).external {
        Some(external) => ctx.get(namespace, &external.secret_ref.name).await?,
        None => None,
    };
    let postgres = site.infra.spec.postgres.external.as_ref();
    let database = postgres.map_or(object::POSTGRES_OPENFGA, |external| &external.secret_ref.name);
    let ours = selector_text(&site.owner.selector(object::OPENFGA));
    let migrations = selector_text(&site.owner.selector(object::OPENFGA_MIGRATE));
    Ok(Observed {
        deployment: ctx.get(namespace, object::OPENFGA).await?,
        pods: list(ctx, namespace, &ours).await?,
        jobs: list(ctx, namespace, &migrations).await?,
        job_pods: list(ctx, namespace, &migrations).await?,
        kept: ctx.get(namespace, object::OPENFGA_STORE).await?,
        conn: ctx.get(namespace, object::OPENFGA_CONN).await?,
        database: ctx.get(namespace, database).await?,
        external,
    })
}

async fn list<K: Child>(ctx: &Context, namespace: &str, labels: &str) -> Result<Vec<K>, Error> {
    let listed = ctx.api::<K>(namespace).list(&ListParams::default().labels(labels)).await;
    Ok(listed.map_err(Error::read(format!("the {}s of namespace {namespace}", K::kind(&()))))?.items)
}

/// Removes the objects of an OpenFGA that is no longer asked for, and its connection Secret; token and database stay.
async fn retire(ctx: &Context, writer: &Writer, site: &Site<'_>, observed: &Observed) -> Result<(), Error> {
    if observed.deployment.is_none() && observed.jobs.is_empty() && observed.conn.is_none() {
        return Ok(());
    }
    let namespace = &site.owner.namespace;
    ctx.remove::<Deployment>(writer, namespace, object::OPENFGA, DeleteParams::foreground()).await?;
    ctx.remove::<PodDisruptionBudget>(writer, namespace, object::OPENFGA, DeleteParams::default()).await?;
    ctx.remove::<NetworkPolicy>(writer, namespace, object::OPENFGA, DeleteParams::default()).await?;
    ctx.remove::<Service>(writer, namespace, object::OPENFGA, DeleteParams::default()).await?;
    for job in &observed.jobs {
        writer.delete(job, DeleteParams::background()).await?;
    }
    match &observed.conn {
        Some(conn) => writer.delete(conn, DeleteParams::default()).await,
        None => Ok(()),
    }
}

/// Deletes the token and what says where OpenFGA is; its database goes with the volume of a managed Postgres.
pub async fn remove_data(ctx: &Context, writer: &Writer, infra: &SomaInfra) -> Result<(), Error> {
    let site = Site::new(infra);
    retire(ctx, writer, &site, &dereference(ctx, &site).await?).await?;
    for name in [object::OPENFGA_CONN, object::OPENFGA_STORE] {
        ctx.remove::<Secret>(writer, &site.owner.namespace, name, DeleteParams::default()).await?;
    }
    Ok(())
}
