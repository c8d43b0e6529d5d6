//! etcd: members the operator runs, forms once, replaces and adds to, or one that runs elsewhere.

mod admission;
mod auth;
mod backup;
mod build;
mod client;
mod defragment;
mod form;
mod marker;
mod place;
#[cfg(test)]
mod proof;
mod protocol;
mod rules;
mod run;
mod seen;
pub mod snapshot;
mod validate;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Secret;
use soma_crds::{Mode, SomaInfra};

use self::client::{Client, EtcdError};
use self::marker::Marker;
use self::validate::{Connection, Etcd, Managed, Observed};
use super::Site;
use super::backup::{self as saves, Told};
use super::component::{Findings, Identity, Report, State, publish};
use super::retire;
use super::set::{self, Applied};
use crate::apply::Writer;
use crate::context::Context;
use crate::error::{Error, chain};
use crate::names::object;

const IDENTITY: Identity = Identity { name: object::ETCD, title: "etcd", unreachable: "EtcdUnreachable" };
/// Nothing when etcd is not asked for.
pub async fn drive(ctx: &Context, writer: &Writer, site: &Site<'_>) -> Option<Report> {
    let external = site.infra.spec.etcd.as_ref().is_some_and(|etcd| etcd.external.is_some());
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
    let mut saved = (None, None);
    let (connection, state) = match wanted {
        Etcd::Disabled => {
            retire::retire(ctx, writer, site, object::ETCD, &observed.live, observed.conn.as_ref()).await?;
            return Ok(None);
        }
        Etcd::External(connection) => {
            let state = probe(ctx, &connection).await;
            (connection, state)
        }
        Etcd::Managed(managed) => {
            let (state, password) =
                Box::pin(run::run(ctx, writer, site, &managed, &observed, &mut applied)).await?;
            saved = Box::pin(save(ctx, writer, site, &managed)).await?;
            (build::connection(site, &password), state)
        }
    };
    let word = if mode == Mode::External { "external" } else { "managed" };
    let secret = build::connection_secret(site, &connection, word)?;
    let published = publish(writer, &state, observed.conn.as_ref(), &secret).await;
    let Connection { host, port, .. } = connection;
    let findings = Findings { mode, host, port, state, applied, published, caveat: None };
    let (told, refusal) = saved;
    Ok(Some(IDENTITY.report(site, findings).looked_at_again().backed_up(told, refusal)))
}

/// Sees to the backups. Returns what there is to say about them, and what the API server refused.
async fn save(
    ctx: &Context,
    writer: &Writer,
    site: &Site<'_>,
    managed: &Managed,
) -> Result<(Option<Told>, Option<String>), Error> {
    let live = saves::observe(ctx, site, object::ETCD).await?;
    let objects = |wanted| {
        saves::objects(site, wanted, backup::task(site, wanted, &ctx.addresses.image))
            .map(|objects| (wanted, objects))
    };
    let wanted = managed.backup.as_ref().map(objects).transpose()?;
    Box::pin(saves::settle(writer, &live, wanted, object::ETCD)).await
}

/// Reads everything etcd needs. A failed read fails the attempt: it never counts as a change.
async fn dereference(ctx: &Context, site: &Site<'_>) -> Result<Observed, Error> {
    let namespace = &site.owner.namespace;
    let external = match site.infra.spec.etcd.as_ref().and_then(|etcd| etcd.external.as_ref()) {
        Some(external) => ctx.get(namespace, &external.secret_ref.name).await?,
        None => None,
    };
    Ok(Observed {
        live: set::observe(ctx, site, object::ETCD).await?,
        marker: Marker::read(ctx.get::<Secret>(namespace, object::ETCD_CLUSTER).await?.as_ref()),
        conn: ctx.get(namespace, object::ETCD_CONN).await?,
        external,
    })
}

/// An etcd elsewhere is only asked how it is, at each of its endpoints.
async fn probe(ctx: &Context, etcd: &Connection) -> State {
    let asked = join_all(etcd.endpoints.iter().map(|url| ask(ctx, etcd, url))).await;
    let version = asked.iter().find_map(|asked| asked.as_ref().ok().cloned());
    let silent =
        etcd.endpoints.iter().zip(&asked).find_map(|(url, asked)| Some((url, asked.as_ref().err()?)));
    match (version, silent) {
        (Some(version), None) => State::Ready { version },
        (Some(_), Some((url, error))) => State::Stuck {
            reason: IDENTITY.unreachable,
            message: format!(
                "the endpoint {url} does not answer, others do: {}. Start it, or take it out of the key `endpoints`",
                chain(error)
            ),
            serving: true,
        },
        (None, silent) => State::Unreachable(silent.map_or_else(String::new, |(_, error)| chain(error))),
    }
}

/// The version at one endpoint.
async fn ask(ctx: &Context, etcd: &Connection, url: &str) -> Result<String, EtcdError> {
    let client = Client { http: &ctx.http, url };
    let token = match &etcd.login {
        Some((username, password)) => match client.authenticate(username, password).await {
            Err(error) if error.is_without_authentication() => None,
            other => Some(other?),
        },
        None => None,
    };
    let status = client.status(token.as_deref()).await?;
    if status.leader == 0 { Err(EtcdError::NoMember) } else { Ok(status.version) }
}

/// Deletes the volumes and the passwords.
pub async fn remove_data(ctx: &Context, writer: &Writer, infra: &SomaInfra) -> Result<(), Error> {
    retire::remove_data(ctx, writer, infra, object::ETCD, &[object::ETCD_CONN, object::ETCD_CLUSTER]).await
}
