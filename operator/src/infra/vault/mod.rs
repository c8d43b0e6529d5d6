//! Vault: members the operator runs, initialises once and unseals, or one that runs elsewhere.

mod backup;
mod build;
mod client;
mod configure;
mod form;
mod keys;
pub mod snapshot;
mod validate;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret};
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::api::DeleteParams;
use kube::{Api, ResourceExt};
use serde_json::json;
use soma_crds::{Mode, SomaInfra, Unseal};

use self::client::Client;
use self::form::{Member, Step};
use self::keys::Keys;
use self::validate::{Address, Managed, Observed, PORT, Vault};
use super::Site;
use super::component::{Findings, Identity, Report, State, publish};
use super::retire;
use super::roll::{Roll, Verdict};
use super::set::{self, Applied, Live};
use crate::apply::Writer;
use crate::check::{self, Plan};
use crate::context::Context;
use crate::error::{Error, chain};
use crate::names::{WIPE_VAULT, object};
use crate::pods;

const IDENTITY: Identity = Identity { name: object::VAULT, title: "Vault", unreachable: "VaultUnreachable" };
/// Steps of one reconcile: a first install of five members needs fewer.
const MAX_STEPS: usize = 8;

/// Nothing when Vault is not asked for.
pub async fn drive(ctx: &Context, writer: &Writer, site: &Site<'_>) -> Option<Report> {
    let external = site.infra.spec.vault.as_ref().is_some_and(|vault| vault.external.is_some());
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
    let (address, state) = match &wanted {
        Vault::Disabled => {
            retire::retire(ctx, writer, site, object::VAULT, &observed.live, observed.conn.as_ref()).await?;
            release(ctx, writer, site.infra).await?;
            return Ok(None);
        }
        Vault::External(address) => (address.clone(), probe(ctx, address).await),
        Vault::Managed(managed) => {
            let address = Address { scheme: "http".into(), host: site.host(object::VAULT), port: PORT };
            let state = Box::pin(run(ctx, writer, site, managed, &observed, &mut applied)).await?;
            let open = member(ctx, &observed.live, 0).filter(|_| state.is_ready());
            saved = Box::pin(backup::save(ctx, writer, site, managed, open.as_ref())).await?;
            (address, state)
        }
    };
    let word = if mode == Mode::External { "external" } else { "managed" };
    let secret = build::connection_secret(site, &address, word)?;
    let published = publish(writer, &state, observed.conn.as_ref(), &secret).await;
    let caveat = matches!(&wanted, Vault::Managed(m) if m.unseal == Unseal::KubernetesSecret)
        .then(|| format!("whoever reads Secret {} can open it", object::VAULT_UNSEAL));
    let Address { host, port, .. } = address;
    let report = IDENTITY.report(site, Findings { mode, host, port, state, applied, published, caveat });
    let (told, refusal) = saved;
    Ok(Some(report.backed_up(told, refusal)))
}

/// Reads everything Vault needs. A failed read fails the attempt: it never counts as a change.
async fn dereference(ctx: &Context, site: &Site<'_>) -> Result<Observed, Error> {
    let namespace = &site.owner.namespace;
    let external = match site.infra.spec.vault.as_ref().and_then(|vault| vault.external.as_ref()) {
        Some(external) => ctx.get(namespace, &external.secret_ref.name).await?,
        None => None,
    };
    Ok(Observed {
        live: set::observe(ctx, site, object::VAULT).await?,
        keys: Keys::read(ctx.get::<Secret>(namespace, object::VAULT_UNSEAL).await?.as_ref()),
        conn: ctx.get(namespace, object::VAULT_CONN).await?,
        external,
    })
}

/// A Vault elsewhere is only asked how it is.
async fn probe(ctx: &Context, address: &Address) -> State {
    match (Client { http: &ctx.http, url: address.url() }).seal_status().await {
        Err(error) => State::Unreachable(chain(&error)),
        Ok(status) if !status.initialized || status.sealed => State::Stuck {
            reason: "Sealed",
            message: format!(
                "the Vault at {} is sealed or was never initialised; open it there",
                address.url()
            ),
            serving: false,
        },
        Ok(status) => State::Ready { version: status.version },
    }
}

/// Applies the objects, then moves the members one step after another to where they are open and configured.
async fn run(
    ctx: &Context,
    writer: &Writer,
    site: &Site<'_>,
    managed: &Managed,
    observed: &Observed,
    applied: &mut Applied,
) -> Result<State, Error> {
    if observed.keys == Keys::Forming && is_wipe_asked_for(site) {
        return wipe(ctx, writer, site, &observed.live).await;
    }
    let build::Objects { account, reviewer, set } = build::objects(site, managed)?;
    let mut plan = Plan::default();
    set.plan(&mut plan);
    check::sound(&plan)?;
    writer.apply(&account).await?;
    writer.apply_in(Api::all(ctx.client.clone()), &reviewer).await?;
    let set = Box::pin(set::apply(writer, &observed.live, set, applied)).await;

    let mut keys = observed.keys.clone();
    let mut members = Vec::new();
    let mut state = State::Forming("waiting for the members to settle".into());
    for _ in 0..MAX_STEPS {
        members = look(ctx, &observed.live, managed.replicas).await;
        match form::next(managed.unseal, &keys, &members) {
            Step::Settled { version } => {
                state = State::Ready { version };
                break;
            }
            Step::Stuck { reason, message } => {
                let serving = members.iter().all(|m| matches!(m, Member::Open { .. }));
                state = State::Stuck { reason, message, serving };
                break;
            }
            Step::Wait(why) => {
                state = observed_trouble(&observed.live).map_or(State::Forming(why), State::Broken);
                break;
            }
            step => {
                if let Err(error) = perform(ctx, writer, site, &observed.live, &step, &mut keys).await? {
                    state = State::Unreachable(chain(&error));
                    break;
                }
            }
        }
    }
    if let Some(set) = &set {
        let rules = Rules { members, settled: state.is_ready() };
        if let Some(leader) = set::roll(writer, &observed.live, set, &rules, applied).await
            && let Some(client) = member(ctx, &observed.live, leader)
            && let Err(error) = configure::step_down(ctx, &client).await
        {
            applied.waiting = Some(format!("the leader cannot hand over: {}", chain(&error)));
        }
    }
    Ok(state)
}

/// The owner confirmed it with the name of the SomaInfra.
fn is_wipe_asked_for(site: &Site<'_>) -> bool {
    site.infra.annotations().get(WIPE_VAULT) == Some(&site.owner.name)
}

/// Removes a Vault that nobody can open: pods, then volumes, then the Secret that says it was begun, then the wish.
/// It goes on where an earlier attempt ended, because the Secret goes last.
async fn wipe(ctx: &Context, writer: &Writer, site: &Site<'_>, live: &Live) -> Result<State, Error> {
    if let Some(set) = &live.set {
        writer.delete(set, DeleteParams::foreground()).await?;
    }
    if live.set.is_some() || !live.pods.is_empty() {
        return Ok(State::Forming("the members of the Vault that nobody can open are being removed".into()));
    }
    for claim in live.claims.values() {
        writer.delete::<PersistentVolumeClaim>(claim, DeleteParams::default()).await?;
    }
    if !live.claims.is_empty() {
        return Ok(State::Forming("the volumes of the Vault that nobody can open are being removed".into()));
    }
    let namespace = &site.owner.namespace;
    ctx.remove::<Secret>(writer, namespace, object::VAULT_UNSEAL, DeleteParams::default()).await?;
    writer.merge(site.infra, &json!({"metadata": {"annotations": {WIPE_VAULT: null}}})).await?;
    Ok(State::Forming("a new Vault is made".into()))
}

fn observed_trouble(live: &Live) -> Option<pods::Trouble> {
    pods::trouble(live.pods.values())
}

/// One step. The outer error is of the cluster, the inner one of Vault.
async fn perform(
    ctx: &Context,
    writer: &Writer,
    site: &Site<'_>,
    live: &Live,
    step: &Step,
    keys: &mut Keys,
) -> Result<Result<(), configure::Failure>, Error> {
    match step {
        Step::Initialise(n) => {
            // Secret first: what cannot be kept must not be made.
            *keys = keys::begin(writer, site).await?;
            if *keys == Keys::Forming
                && let Some(client) = member(ctx, live, *n)
            {
                let made = match client.initialise().await {
                    Ok(made) => made,
                    Err(error) => return Ok(Err(error.into())),
                };
                keys::keep(writer, site, &made.key, &made.root).await?;
                *keys = Keys::Formed { key: made.key, root: Some(made.root) };
            }
        }
        Step::Unseal(sealed) => {
            let Keys::Formed { key, .. } = &*keys else { return Ok(Ok(())) };
            for n in sealed {
                let Some(client) = member(ctx, live, *n) else { continue };
                match client.unseal(key).await {
                    Err(error) if !error.is_joining() => return Ok(Err(error.into())),
                    _ => {}
                }
            }
        }
        Step::Configure => {
            let Keys::Formed { key, root: Some(root) } = &*keys else { return Ok(Ok(())) };
            let Some(client) = member(ctx, live, 0) else { return Ok(Ok(())) };
            if let Err(error) = configure::configure(ctx, &client, root).await {
                return Ok(Err(error));
            }
            keys::forget_root(writer, site).await?;
            *keys = Keys::Formed { key: key.clone(), root: None };
        }
        Step::Settled { .. } | Step::Wait(_) | Step::Stuck { .. } => {}
    }
    Ok(Ok(()))
}

/// The pod itself rather than the Service, which leads to open members only.
fn member<'a>(ctx: &'a Context, live: &Live, ordinal: u16) -> Option<Client<'a>> {
    let address = live.address(ordinal, PORT)?;
    Some(Client { http: &ctx.http, url: format!("http://{address}") })
}

/// Asks every member about itself.
async fn look(ctx: &Context, live: &Live, replicas: u16) -> Vec<Member> {
    join_all((0..replicas).map(|n| async move {
        let Some(client) = member(ctx, live, n) else {
            return Member::Silent("it has no address yet".into());
        };
        match client.seal_status().await {
            Err(error) => Member::Silent(chain(&error)),
            Ok(status) if !status.initialized => Member::Empty,
            Ok(status) if status.sealed => Member::Sealed,
            Ok(status) => match client.leader().await {
                Err(error) => Member::Silent(chain(&error)),
                Ok(leader) => Member::Open {
                    leads: leader.is_self,
                    has_leader: !leader.leader_address.is_empty(),
                    version: status.version,
                },
            },
        }
    }))
    .await
}

/// Standbys first, the leader last and only after it handed over; never one while another is missing.
struct Rules {
    members: Vec<Member>,
    /// They are open, configured, and agree.
    settled: bool,
}

impl Rules {
    fn leads(&self, n: u16) -> bool {
        matches!(self.members.get(usize::from(n)), Some(Member::Open { leads: true, .. }))
    }
}

impl Roll for Rules {
    fn order(&self, pods: u16) -> Vec<u16> {
        let mut all: Vec<u16> = (0..pods).rev().collect();
        all.sort_by_key(|n| self.leads(*n));
        all
    }

    fn can_roll(&self, ordinal: u16) -> Verdict {
        if !self.settled {
            return Verdict::Wait("the members are not settled".into());
        }
        if self.members.len() == 1 {
            return Verdict::Yes;
        }
        let follows = |m: &Member| matches!(m, Member::Open { has_leader: true, .. });
        match self.members.iter().zip(0_u16..).find(|(m, n)| *n != ordinal && !follows(m)) {
            Some((_, n)) => Verdict::Wait(format!("vault-{n} follows no leader")),
            None if self.leads(ordinal) => Verdict::HandOver,
            None => Verdict::Yes,
        }
    }

    fn role(&self, ordinal: u16) -> Option<&'static str> {
        match self.members.get(usize::from(ordinal))? {
            Member::Open { leads: true, .. } => Some("leader"),
            Member::Open { .. } => Some("standby"),
            Member::Sealed => Some("sealed"),
            Member::Empty | Member::Silent(_) => None,
        }
    }
}

/// Removes what has no owner to go with.
pub async fn release(ctx: &Context, writer: &Writer, infra: &SomaInfra) -> Result<(), Error> {
    let name = build::reviewer_name(&infra.namespace().unwrap_or_default());
    let bindings: Api<ClusterRoleBinding> = Api::all(ctx.client.clone());
    writer.delete_in(bindings, &name).await
}

/// Deletes the volumes and the keys.
pub async fn remove_data(ctx: &Context, writer: &Writer, infra: &SomaInfra) -> Result<(), Error> {
    retire::remove_data(ctx, writer, infra, object::VAULT, &[object::VAULT_CONN, object::VAULT_UNSEAL]).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leader_is_last_and_hands_over_and_nobody_goes_while_another_is_missing() {
        let open = |leads, has_leader| Member::Open { leads, has_leader, version: "1".into() };
        let rules = |members: Vec<Member>| Rules { members, settled: true };
        let three = rules(vec![open(false, true), open(true, true), open(false, true)]);
        assert_eq!(three.order(3), [2, 0, 1]);
        assert_eq!(three.can_roll(2), Verdict::Yes);
        assert_eq!(three.can_roll(1), Verdict::HandOver);
        assert!(matches!(Rules { settled: false, ..three }.can_roll(2), Verdict::Wait(_)));
        for missing in [Member::Sealed, Member::Empty, Member::Silent("gone".into()), open(false, false)] {
            let rules = rules(vec![open(true, true), missing, open(false, true)]);
            assert_eq!(rules.can_roll(2), Verdict::Wait("vault-1 follows no leader".into()));
            assert!(matches!(rules.can_roll(0), Verdict::Wait(_)));
        }
        assert_eq!(rules(vec![open(true, true)]).can_roll(0), Verdict::Yes, "nobody can take over");
    }
}
