//! Kafka: members the operator runs, each broker and controller in one, or a Kafka that runs elsewhere.

mod access;
mod admin;
mod build;
mod cluster;
mod content;
mod quorum;
mod validate;
mod voters;
mod wire;

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use soma_crds::{Mode, SomaInfra, condition};

use self::cluster::Cluster;
use self::content::{Found, Wanted};
use self::quorum::{Quorum, Stage, Step};
use self::validate::{External, Kafka, Managed, Observed, PORT};
use self::wire::{Connection, KafkaError};
use super::Site;
use super::component::{Findings, Identity, Report, State, publish};
use super::retire;
use super::roll::{Roll, Verdict};
use super::set::{self, Applied, Live};
use crate::apply::Writer;
use crate::check::{self, Plan};
use crate::context::Context;
use crate::error::{Error, chain};
use crate::names::object;
use crate::pods;

const IDENTITY: Identity = Identity { name: object::KAFKA, title: "Kafka", unreachable: "KafkaUnreachable" };
/// Steps of one reconcile: replacing every disk of three members needs fewer.
const MAX_STEPS: usize = 8;

/// Nothing when Kafka is not asked for.
pub async fn drive(ctx: &Context, writer: &Writer, site: &Site<'_>) -> Option<Report> {
    let external = site.infra.spec.kafka.as_ref().is_some_and(|kafka| kafka.external.is_some());
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
    let (host, port, state, conn) = match &wanted {
        Kafka::Disabled => {
            retire::retire(ctx, writer, site, object::KAFKA, &observed.live, observed.conn.as_ref()).await?;
            return Ok(None);
        }
        Kafka::External(external) => {
            let conn = build::external_secret(site, external)?;
            (external.host.clone(), external.port, probe(external).await, conn)
        }
        Kafka::Managed(managed) => {
            let state = Box::pin(run(ctx, writer, site, managed, &observed.live, &mut applied)).await?;
            (site.host(object::KAFKA), PORT, state, build::connection_secret(site)?)
        }
    };
    let published = publish(writer, &state, observed.conn.as_ref(), &conn).await;
    let findings = Findings { mode, host, port, state, applied, published, caveat: None };
    Ok(Some(IDENTITY.report(site, findings).looked_at_again()))
}

/// Reads everything Kafka needs. A failed read fails the attempt: it never counts as a change.
async fn dereference(ctx: &Context, site: &Site<'_>) -> Result<Observed, Error> {
    let namespace = &site.owner.namespace;
    let external = match site.infra.spec.kafka.as_ref().and_then(|kafka| kafka.external.as_ref()) {
        Some(external) => ctx.get(namespace, &external.secret_ref.name).await?,
        None => None,
    };
    Ok(Observed {
        live: set::observe(ctx, site, object::KAFKA).await?,
        cluster: ctx.get(namespace, object::KAFKA_CLUSTER).await?,
        conn: ctx.get(namespace, object::KAFKA_CONN).await?,
        external,
    })
}

/// A Kafka elsewhere is only asked whether it answers; with TLS, whether something listens.
async fn probe(kafka: &External) -> State {
    let mut last = State::Unreachable("no address".into());
    for address in kafka.bootstrap.split(',').map(str::trim) {
        let answer = if kafka.security_protocol.ends_with("SSL") {
            wire::connect(address).await.map(drop)
        } else {
            Connection::open(address).await.map(drop)
        };
        match answer {
            Ok(()) => return State::Ready { version: "external".into() },
            Err(error) => last = State::Unreachable(chain(&error)),
        }
    }
    last
}

/// Applies the objects, then moves the quorum one step after another to where every member has a vote, then sees to
/// what Kafka holds, and replaces at most one pod.
async fn run(
    ctx: &Context,
    writer: &Writer,
    site: &Site<'_>,
    managed: &Managed,
    live: &Live,
    applied: &mut Applied,
) -> Result<State, Error> {
    let objects = build::objects(site, managed)?;
    let mut plan = Plan::default();
    objects.plan(&mut plan);
    check::sound(&plan)?;
    let cluster = match &managed.cluster {
        Some(cluster) => cluster.clone(),
        None => cluster::begin(writer, site, managed.replicas).await?,
    };
    let set = Box::pin(set::apply(writer, live, objects, applied)).await;
    let mut settled = None;
    let state = match Box::pin(settle(writer, site, managed, &cluster, live)).await? {
        Err(state) => state,
        Ok((quorum, mut controller)) => {
            match Box::pin(fill(ctx, writer, site, managed, &cluster, live, &mut controller)).await? {
                Err(error) => refused(error),
                Ok(found) => {
                    let behind = content::behind(&found);
                    settled = Some((quorum, found));
                    match behind {
                        0 => State::Ready { version: version(live) },
                        n => State::Repairing(format!(
                            "waiting for the replicas of {n} partitions to catch up"
                        )),
                    }
                }
            }
        }
    };
    if let Some(set) = &set {
        let rules = Rules { settled, in_sync: managed.in_sync(), replicas: managed.replicas };
        set::roll(writer, live, set, &rules, applied).await;
    }
    Ok(state)
}

/// Kafka works, but does not take what it was told to.
fn refused(error: KafkaError) -> State {
    match error {
        KafkaError::Refused { .. } => {
            State::Stuck { reason: "KafkaRefused", message: error.to_string(), serving: true }
        }
        KafkaError::Incomplete(what) => State::Repairing(what),
        other => State::Unreachable(chain(&other)),
    }
}

/// Moves the quorum; returns it with a connection to the active controller, or why it is not settled.
async fn settle(
    writer: &Writer,
    site: &Site<'_>,
    managed: &Managed,
    cluster: &Cluster,
    live: &Live,
) -> Result<Result<(Quorum, Connection), State>, Error> {
    let mut stage = cluster.stage.clone();
    for _ in 0..MAX_STEPS {
        let (quorum, controller) = match active_controller(live, &cluster.password).await {
            Ok(Some((quorum, controller))) => (Some(quorum), Some(controller)),
            Ok(None) => (None, None),
            Err(error) => return Ok(Err(State::Unreachable(chain(&error)))),
        };
        let mute = mute_for(site).min(running(live, managed.replicas));
        let step = quorum::next(&stage, managed.replicas, quorum.as_ref(), mute);
        let (Some(quorum), Some(mut controller)) = (quorum, controller) else {
            return Ok(Err(waiting(step, live)));
        };
        let done = match step {
            Step::Settled => return Ok(Ok((quorum, controller))),
            Step::Keep => {
                cluster::keep_formed(writer, site).await?;
                stage = Stage::Formed;
                Ok(())
            }
            Step::Remove(n, disk) => voters::remove(&mut controller, n, disk).await,
            Step::Add(n, disk) => {
                let host = build::member_host(site, n);
                voters::add(&mut controller, n, disk, &host, build::CONTROLLER_PORT).await
            }
            other => return Ok(Err(waiting(other, live))),
        };
        if let Err(error) = done {
            return Ok(Err(State::Repairing(format!(
                "the quorum changes: {}; it is tried again",
                chain(&error)
            ))));
        }
    }
    Ok(Err(State::Repairing("the quorum changes".into())))
}

/// What a step that only waits means for the component.
fn waiting(step: Step, live: &Live) -> State {
    let trouble = pods::trouble(live.pods.values());
    match (step, trouble) {
        (Step::Stuck { reason, message }, _) => State::Stuck { reason, message, serving: false },
        (Step::Wait(_), Some(pods::Trouble { reason, message })) => {
            State::Stuck { reason, message, serving: true }
        }
        (Step::Wait(why), None) => State::Repairing(why),
        (_, Some(trouble)) => State::Broken(trouble),
        (Step::Elect(why), None) => State::Forming(why),
        _ => State::Forming("waiting for the members to elect an active controller".into()),
    }
}

/// Asks the members until one is the active controller. None when no member that answers is; an error when one refuses.
async fn active_controller(live: &Live, password: &str) -> Result<Option<(Quorum, Connection)>, KafkaError> {
    let mut refusal = None;
    let runs = |pod: &Pod| pod.metadata.deletion_timestamp.is_none() && started(pod).is_some();
    for n in live.pods.iter().filter(|(_, pod)| runs(pod)).map(|(n, _)| *n) {
        let Some(address) = live.address(n, build::CONTROLLER_PORT) else { continue };
        let answer = async {
            let mut connection = Connection::login(&address, build::USER, password).await?;
            Ok((voters::quorum(&mut connection).await?, connection))
        };
        match answer.await {
            Ok((Some(quorum), connection)) => return Ok(Some((quorum, connection))),
            Err(error @ KafkaError::Refused { .. }) => refusal = Some(error),
            Ok((None, _)) | Err(_) => {}
        }
    }
    refusal.map_or(Ok(None), Err)
}

/// When the container of a pod was started, while it runs.
fn started(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    Some(statuses.first()?.state.as_ref()?.running.as_ref()?.started_at.as_ref()?.0)
}

/// How long all members run together; no time while one does not.
fn running(live: &Live, replicas: u16) -> Duration {
    let since = |n| {
        let pod = live.pods.get(&n).filter(|pod| pod.metadata.deletion_timestamp.is_none())?;
        Some(Timestamp::now().duration_since(started(pod)?).unsigned_abs())
    };
    (0..replicas).map(|n| since(n).unwrap_or_default()).min().unwrap_or_default()
}

/// How long the SomaInfra has not been available.
fn mute_for(site: &Site<'_>) -> Duration {
    let status = site.infra.status.as_ref();
    let available = status.and_then(|status| status.condition(condition::AVAILABLE));
    let since = available.filter(|c| c.status == "False").map(|c| c.last_transition_time.0);
    since.map_or(Duration::ZERO, |since| Timestamp::now().duration_since(since).unsigned_abs())
}

/// The release the members run, by the tag of their image.
fn version(live: &Live) -> String {
    let spec = live.pods.values().find_map(|pod| pod.spec.as_ref()?.containers.first()?.image.clone());
    let image = spec.unwrap_or_default();
    let tag = image.rsplit_once(':').map(|(_, tag)| tag).filter(|tag| !tag.contains('/'));
    tag.map_or_else(|| image.clone(), str::to_owned)
}

/// Sees that Kafka holds what the services need, and returns what it holds.
async fn fill(
    ctx: &Context,
    writer: &Writer,
    site: &Site<'_>,
    managed: &Managed,
    cluster: &Cluster,
    live: &Live,
    controller: &mut Connection,
) -> Result<Result<Found, KafkaError>, Error> {
    let passwords = access::passwords(ctx, writer, site).await?;
    let (id, found) = match Box::pin(change(managed, &cluster.password, live, controller)).await {
        Ok(done) => done,
        Err(error) => return Ok(Err(error)),
    };
    // What the disks say wins: a new disk is formatted with it.
    if id != cluster.id {
        cluster::keep_id(writer, site, &id).await?;
    }
    let given = access::give(writer, site, controller, cluster, &found.users, &passwords).await?;
    Ok(given.map(|()| found))
}

/// Reads what Kafka holds and changes what differs from what it shall hold. Returns the cluster's id, and what was read.
async fn change(
    managed: &Managed,
    password: &str,
    live: &Live,
    controller: &mut Connection,
) -> Result<(String, Found), KafkaError> {
    let (id, brokers) = admin::brokers(controller).await?;
    if let Some(n) = (0..managed.replicas).find(|n| !brokers.iter().any(|b| b.id == *n && !b.fenced)) {
        return Err(KafkaError::Incomplete(format!("waiting for broker kafka-{n} to take part")));
    }
    let ready = live.pods.iter().find(|(_, pod)| pods::is_ready(pod)).map(|(n, _)| *n);
    let address = ready.and_then(|n| live.address(n, build::INTERNAL_PORT));
    let Some(address) = address else {
        return Err(KafkaError::Incomplete("waiting for a pod to become ready".into()));
    };
    let mut broker = Connection::login(&address, build::USER, password).await?;
    let topics = admin::topics(&mut broker).await?;
    let (topic_settings, broker_settings) = admin::settings(&mut broker, topics.keys()).await?;
    let (users, rights) = (admin::users(&mut broker).await?, admin::rights(controller).await?);
    let found = Found { topics, topic_settings, broker_settings, users, rights };
    let wanted = Wanted {
        topics: content::topics(),
        rights: content::rights(),
        broker_settings: managed.dynamic.clone(),
        replicas: managed.copies(),
        brokers: managed.replicas,
    };
    let changes = content::changes(&wanted, &found);
    if !changes.create.is_empty() {
        admin::create_topics(controller, &changes.create, managed.copies()).await?;
    }
    if !changes.partitions.is_empty() {
        admin::create_partitions(controller, &changes.partitions).await?;
    }
    if !changes.moves.is_empty() {
        admin::reassign(controller, &changes.moves).await?;
    }
    for (scope, settings) in &changes.settings {
        admin::alter_settings(&mut broker, scope, settings).await?;
    }
    if !changes.rights.is_empty() {
        admin::grant(controller, &changes.rights).await?;
    }
    if !changes.moves.is_empty() {
        let count = changes.moves.len();
        return Err(KafkaError::Incomplete(format!("{count} partitions are copied to more brokers")));
    }
    Ok((id, found))
}

/// The active controller last; nobody while the others have no majority or a partition would stop taking writes.
struct Rules {
    /// None until every member has a vote and Kafka holds what it shall hold.
    settled: Option<(Quorum, Found)>,
    in_sync: u16,
    replicas: u16,
}

impl Roll for Rules {
    fn order(&self, pods: u16) -> Vec<u16> {
        let leader = self.settled.as_ref().map(|(quorum, _)| quorum.leader);
        let mut all: Vec<u16> = (0..pods).rev().collect();
        all.sort_by_key(|n| leader == Some(*n));
        all
    }

    fn can_roll(&self, ordinal: u16) -> Verdict {
        let Some((quorum, found)) = &self.settled else {
            return Verdict::Wait("the members do not agree yet".into());
        };
        if self.replicas == 1 {
            return Verdict::Yes;
        }
        if !quorum::survives_without(quorum, ordinal) {
            return Verdict::Wait("the other controllers would have no majority that follows".into());
        }
        content::held_by(found, ordinal, self.in_sync).map_or(Verdict::Yes, Verdict::Wait)
    }

    fn role(&self, ordinal: u16) -> Option<&'static str> {
        let (quorum, _) = self.settled.as_ref()?;
        Some(if quorum.leader == ordinal { "active controller" } else { "controller" })
    }
}

/// Deletes the volumes and the passwords.
pub async fn remove_data(ctx: &Context, writer: &Writer, infra: &SomaInfra) -> Result<(), Error> {
    let users = content::users().map(build::user_secret_name);
    let secrets: Vec<_> =
        users.chain([object::KAFKA_CONN, object::KAFKA_CLUSTER].map(str::to_owned)).collect();
    retire::remove_data(ctx, writer, infra, object::KAFKA, &secrets).await
}
