//! Postgres: one instance the operator runs, or one that runs elsewhere.

mod backup;
mod build;
mod database;
mod passwords;
#[cfg(test)]
pub mod proof;
mod restore;
mod scram;
mod service;
mod validate;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use soma_crds::{Mode, SomaInfra};

use passwords::Credentials;
use restore::Outcome;
use service::SERVICES;
pub use validate::parse_sslmode;
use validate::{Managed, Observed, Postgres};

use super::Site;
use super::backup::{self as saves, Told};
use super::component::{Findings, Identity, Report, State};
use super::footprint;
use super::retire;
use super::roll::{Roll, Verdict};
use super::set::{self, Applied};
use crate::apply::Writer;
use crate::check::{self, Plan};
use crate::context::Context;
use crate::error::Error;
use crate::events::Note;
use crate::names::object;

const IDENTITY: Identity =
    Identity { name: object::POSTGRES, title: "Postgres", unreachable: "PostgresUnreachable" };

/// One instance: nothing else can take over, so the pod may go whenever it is ready.
struct Alone;

impl Roll for Alone {
    fn order(&self, pods: u16) -> Vec<u16> {
        (0..pods).collect()
    }

    fn can_roll(&self, _ordinal: u16) -> Verdict {
        Verdict::Yes
    }

    fn role(&self, _ordinal: u16) -> Option<&'static str> {
        Some("primary")
    }
}

pub async fn drive(ctx: &Context, writer: &Writer, site: &Site<'_>) -> Report {
    let mode = if site.infra.spec.postgres.external.is_some() { Mode::External } else { Mode::Managed };
    Box::pin(attempt(ctx, writer, site, mode))
        .await
        .unwrap_or_else(|error| IDENTITY.failed(site, mode, &error))
}

async fn attempt(ctx: &Context, writer: &Writer, site: &Site<'_>, mode: Mode) -> Result<Report, Error> {
    let observed = dereference(ctx, site).await?;
    let wanted = match validate::validate(site, &observed) {
        Ok(wanted) => wanted,
        Err(blocked) => return Ok(IDENTITY.blocked(site, mode, observed.conn.is_some(), &blocked)),
    };
    let mut refused = None;
    if let Postgres::Managed(managed) = &wanted {
        match Box::pin(restore::drive(ctx, writer, site, managed, &observed)).await? {
            Outcome::NotAsked => {}
            Outcome::Refused(reason, message) => refused = Some((reason, message)),
            Outcome::Busy(state) => return Ok(held_back(site, &observed, state, None)),
            Outcome::Done(note) => {
                let state = State::Forming("it starts on the data that was restored".into());
                return Ok(held_back(site, &observed, state, Some(note)));
            }
        }
    }
    let credentials = passwords::credentials(writer, site, &wanted).await?;
    let mut applied = Applied::default();
    let (mut set, mut saved) = (None, (None, None));
    if let Postgres::Managed(managed) = &wanted {
        let objects = build::objects(site, managed)?;
        let mut plan = Plan::default();
        plan.secret(object::POSTGRES_SECRET, &["password"]);
        objects.plan(&mut plan);
        check::sound(&plan)?;
        set = if refused.is_none() {
            Box::pin(set::apply(writer, &observed.live, objects, &mut applied)).await
        } else {
            // Its owner may be deleting the set now, to make room: an apply would make it again.
            applied.footprint = Some(footprint::of(&observed.live, &objects.set));
            observed.live.set.clone()
        };
        saved = Box::pin(save(ctx, writer, site, managed)).await?;
    }
    let backed_up = matches!(&wanted, Postgres::Managed(managed) if managed.backup.is_some());
    let state = database::ensure(ctx, site, &observed, &credentials, backed_up).await;
    if let Some(set) = &set {
        set::roll(writer, &observed.live, set, &Alone, &mut applied).await;
    }
    let published = if state.is_ready() {
        publish(writer, site, &credentials).await.map(|()| true)
    } else {
        // While the database does not answer, the last Secret stays.
        Ok(observed.conn.is_some())
    };
    let (host, port) = match &wanted {
        Postgres::Managed(_) => (site.host(object::POSTGRES), build::PORT),
        Postgres::External(external) => (external.host.clone(), external.port),
    };
    let caveat = match mode {
        Mode::Managed if backed_up => Some("one instance without automatic failover"),
        Mode::Managed => Some(
            "one instance without automatic failover, and no backups: spec.postgres.managed.backup is not set",
        ),
        Mode::External => None,
    };
    let caveat = caveat.map(str::to_owned);
    let report = IDENTITY.report(site, Findings { mode, host, port, state, applied, published, caveat });
    let (told, refusal) = saved;
    Ok(report.backed_up(told, refusal).warned(refused))
}

/// The report while nothing may start.
fn held_back(site: &Site<'_>, observed: &Observed, state: State, note: Option<Note>) -> Report {
    let applied = Applied { notes: note.into_iter().collect(), ..Applied::default() };
    let (host, published) = (site.host(object::POSTGRES), Ok(observed.conn.is_some()));
    let mode = Mode::Managed;
    IDENTITY.report(site, Findings { mode, host, port: build::PORT, state, applied, published, caveat: None })
}

/// Sees to the backups. Returns what there is to say about them, and what the API server refused.
async fn save(
    ctx: &Context,
    writer: &Writer,
    site: &Site<'_>,
    managed: &Managed,
) -> Result<(Option<Told>, Option<String>), Error> {
    let live = saves::observe(ctx, site, object::POSTGRES).await?;
    let objects = |wanted| {
        saves::objects(site, wanted, backup::task(site, managed, wanted, &ctx.addresses.image))
            .map(|objects| (wanted, objects))
    };
    let wanted = managed.backup.as_ref().map(objects).transpose()?;
    Box::pin(saves::settle(writer, &live, wanted, object::POSTGRES)).await
}

/// Writes where everybody finds Postgres, and where each service finds its own database.
async fn publish(writer: &Writer, site: &Site<'_>, credentials: &Credentials) -> Result<(), Error> {
    writer.apply(&build::connection_secret(site, credentials)?).await?;
    if let Credentials::Managed(passwords) = credentials {
        for service in SERVICES {
            let password = passwords.services.get(service.database).map_or("", String::as_str);
            writer.apply(&build::user_secret(site, service, password)?).await?;
        }
    }
    Ok(())
}

/// Reads everything Postgres needs. A failed read fails the attempt: it never counts as a change.
async fn dereference(ctx: &Context, site: &Site<'_>) -> Result<Observed, Error> {
    let namespace = &site.owner.namespace;
    let external = match &site.infra.spec.postgres.external {
        Some(external) => ctx.get(namespace, &external.secret_ref.name).await?,
        None => None,
    };
    let mut users = BTreeMap::new();
    for service in SERVICES.iter().filter(|_| external.is_none()) {
        let secret = ctx.get::<Secret>(namespace, &service.secret_name()).await?;
        users.extend(secret.map(|secret| (service.database, secret)));
    }
    Ok(Observed {
        users,
        passwords: ctx.get(namespace, object::POSTGRES_SECRET).await?,
        conn: ctx.get(namespace, object::POSTGRES_CONN).await?,
        external,
        live: set::observe(ctx, site, object::POSTGRES).await?,
    })
}

/// Deletes the volume and every Secret.
pub async fn remove_data(ctx: &Context, writer: &Writer, infra: &SomaInfra) -> Result<(), Error> {
    let users = SERVICES.iter().map(|service| service.secret_name());
    let secrets: Vec<_> =
        users.chain([object::POSTGRES_CONN, object::POSTGRES_SECRET].map(str::to_owned)).collect();
    retire::remove_data(ctx, writer, infra, object::POSTGRES, &secrets).await
}
