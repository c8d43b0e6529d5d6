//! Redis: one member or a cluster of six that the operator runs, or one that runs elsewhere.

mod build;
mod client;
mod form;
#[cfg(test)]
mod proof;
mod protocol;
mod run;
mod seen;
#[cfg(test)]
mod table;
mod users;
mod validate;

use soma_crds::{Mode, SomaInfra};

use self::client::{Client, ClientError};
use self::validate::{Connection, Observed, Redis};
use super::Site;
use super::component::{Findings, Identity, Report, State, publish};
use super::retire;
use super::set::{self, Applied};
use crate::apply::Writer;
use crate::context::Context;
use crate::error::{Error, chain};
use crate::names::object;

const IDENTITY: Identity = Identity { name: object::REDIS, title: "Redis", unreachable: "RedisUnreachable" };

/// Nothing when Redis is not asked for.
pub async fn drive(ctx: &Context, writer: &Writer, site: &Site<'_>) -> Option<Report> {
    let external = site.infra.spec.redis.as_ref().is_some_and(|redis| redis.external.is_some());
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
    let (connection, state) = match wanted {
        Redis::Disabled => {
            retire::retire(ctx, writer, site, object::REDIS, &observed.live, observed.conn.as_ref()).await?;
            return Ok(None);
        }
        Redis::External(connection) => {
            let asked = probe(&connection).await;
            (
                connection,
                asked.map_or_else(|e| State::Unreachable(chain(&e)), |version| State::Ready { version }),
            )
        }
        Redis::Managed(managed) => {
            let (state, users) =
                Box::pin(run::run(writer, site, &managed, &observed.live, &mut applied)).await?;
            (build::connection(site, &users), state)
        }
    };
    let secret = build::connection_secret(site, &connection)?;
    let published = publish(writer, &state, observed.conn.as_ref(), &secret).await;
    let Connection { host, port, .. } = connection;
    let findings = Findings { mode, host, port, state, applied, published, caveat: None };
    Ok(Some(IDENTITY.report(site, findings).looked_at_again()))
}

/// Reads everything Redis needs. A failed read fails the attempt: it never counts as a change.
async fn dereference(ctx: &Context, site: &Site<'_>) -> Result<Observed, Error> {
    let namespace = &site.owner.namespace;
    let external = match site.infra.spec.redis.as_ref().and_then(|redis| redis.external.as_ref()) {
        Some(external) => ctx.get(namespace, &external.secret_ref.name).await?,
        None => None,
    };
    Ok(Observed {
        live: set::observe(ctx, site, object::REDIS).await?,
        users: ctx.get(namespace, object::REDIS_USERS).await?,
        conn: ctx.get(namespace, object::REDIS_CONN).await?,
        external,
    })
}

/// A Redis elsewhere is only asked whether it answers.
async fn probe(redis: &Connection) -> Result<String, ClientError> {
    let address = (redis.host.clone(), redis.port);
    Client::login(address, redis.username.as_deref(), redis.password.as_deref()).await?.version().await
}

/// Deletes the volumes and the passwords.
pub async fn remove_data(ctx: &Context, writer: &Writer, infra: &SomaInfra) -> Result<(), Error> {
    retire::remove_data(ctx, writer, infra, object::REDIS, &[object::REDIS_CONN, object::REDIS_USERS]).await
}
