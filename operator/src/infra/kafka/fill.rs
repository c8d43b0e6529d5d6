//! Moves what Kafka holds to what it shall hold.

use super::cluster::{self, Cluster};
use super::content::{self, Found, Wanted};
use super::validate::Managed;
use super::wire::{Connection, KafkaError};
use super::{access, admin, build, tenants};
use crate::apply::Writer;
use crate::context::Context;
use crate::error::{Error, chain};
use crate::infra::Site;
use crate::infra::set::Live;
use crate::infra::tenants::Provided;
use crate::pods;

/// What was found, and for whom there is something.
pub struct Filled {
    pub found: Found,
    pub provided: Result<Provided, String>,
}

/// Sees that Kafka holds what the services and the tenants need, and returns what it holds.
pub async fn fill(
    ctx: &Context,
    writer: &Writer,
    site: &Site<'_>,
    managed: &Managed,
    cluster: &Cluster,
    live: &Live,
    controller: &mut Connection,
) -> Result<Result<Filled, KafkaError>, Error> {
    let passwords = access::passwords(ctx, writer, site).await?;
    let (id, found, mut broker) = match Box::pin(change(managed, &cluster.password, live, controller)).await {
        Ok(done) => done,
        Err(error) => return Ok(Err(error)),
    };
    // What the disks say wins: a new disk is formatted with it.
    if id != cluster.id {
        cluster::keep_id(writer, site, &id).await?;
    }
    if let Err(error) = access::give(writer, site, controller, cluster, &found.users, &passwords).await? {
        return Ok(Err(error));
    }
    let provided = tenants::provide(site, &mut broker, controller, &found).await;
    Ok(Ok(Filled { found, provided: provided.map_err(|error| chain(&error)) }))
}

/// Reads what Kafka holds and changes what differs from what it shall hold. Returns the cluster's id, what was read, and a
/// connection to a broker.
async fn change(
    managed: &Managed,
    password: &str,
    live: &Live,
    controller: &mut Connection,
) -> Result<(String, Found, Connection), KafkaError> {
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
    Ok((id, found, broker))
}
