//! What is decided once about a managed Kafka, kept in the Secret `kafka-cluster`, which nobody owns.

use std::collections::BTreeMap;

use data_encoding::BASE64URL_NOPAD;
use k8s_openapi::api::core::v1::Secret;
use rand::Rng;
use serde_json::json;
use uuid::Uuid;

use super::build;
use super::quorum::Stage;
use crate::apply::Writer;
use crate::error::Error;
use crate::infra::{Site, secret};
use crate::names::object;

/// Id of the cluster, which every disk carries.
pub const ID: &str = "cluster-id";
/// Password of the members and of the operator among themselves.
pub const PASSWORD: &str = "password";
/// The first members, `id@host:port:directory` with commas; there until the cluster is formed.
pub const FIRST: &str = "initial-controllers";
const STAGE: &str = "stage";
const FORMING: &str = "forming";
const FORMED: &str = "formed";
/// What the hash of a password that Kafka was given is kept under, before the name of its user.
const GIVEN: &str = "given-";

/// What the Secret says.
#[derive(Clone, PartialEq, Eq)]
pub struct Cluster {
    pub id: String,
    pub password: String,
    pub stage: Stage,
    /// Hash of the password Kafka was last given, by user.
    pub given: BTreeMap<String, String>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cluster({}, {:?})", self.id, self.stage)
    }
}

impl Cluster {
    /// None when something is missing that cannot be made anew.
    pub fn read(from: &Secret) -> Option<Self> {
        let stage = match secret::text(from, STAGE)?.as_str() {
            FORMED => Stage::Formed,
            FORMING => Stage::Forming(first_members(&secret::text(from, FIRST)?)?),
            _ => return None,
        };
        let keys = from.data.iter().flatten().map(|(key, _)| key);
        let given = keys
            .filter_map(|key| Some((key.strip_prefix(GIVEN)?.to_owned(), secret::text(from, key)?)))
            .collect();
        Some(Self { id: secret::text(from, ID)?, password: secret::text(from, PASSWORD)?, stage, given })
    }
}

/// An id as Kafka writes it: 16 bytes, of which the text does not begin with a dash, which its commands would take for
/// an option (KAFKA-15754).
fn random_id() -> Uuid {
    loop {
        let id = Uuid::from_u128(rand::rng().random());
        if !encode(id).starts_with('-') {
            return id;
        }
    }
}

fn encode(id: Uuid) -> String {
    BASE64URL_NOPAD.encode(id.as_bytes())
}

fn first_members(text: &str) -> Option<Vec<(u16, Uuid)>> {
    let one = |member: &str| {
        let (id, rest) = member.split_once('@')?;
        let (_, directory) = rest.rsplit_once(':')?;
        let bytes = BASE64URL_NOPAD.decode(directory.as_bytes()).ok()?;
        Some((id.parse().ok()?, Uuid::from_slice(&bytes).ok()?))
    };
    text.split(',').map(one).collect()
}

/// Decides about a new cluster. Of two operators the second reads what the first decided.
pub async fn begin(writer: &Writer, site: &Site<'_>, replicas: u16) -> Result<Cluster, Error> {
    let member = |n: u16| {
        let host = build::member_host(site, n);
        format!("{n}@{host}:{}:{}", build::CONTROLLER_PORT, encode(random_id()))
    };
    let first: Vec<_> = (0..replicas).map(member).collect();
    let data = [
        (ID, encode(random_id())),
        (PASSWORD, crate::random::secret()),
        (STAGE, FORMING.to_owned()),
        (FIRST, first.join(",")),
    ];
    let data = data.each_ref().map(|(key, value)| (*key, value.as_str()));
    let wanted = secret::build(site, object::KAFKA, object::KAFKA_CLUSTER, &data)?;
    let kept = writer.create_once(&wanted).await?;
    let unreadable = || Error::UnsoundPlan(format!("Secret {} lacks a key", object::KAFKA_CLUSTER));
    Cluster::read(&kept).ok_or_else(unreadable)
}

async fn merge(writer: &Writer, site: &Site<'_>, patch: &serde_json::Value) -> Result<(), Error> {
    let secret = secret::build(site, object::KAFKA, object::KAFKA_CLUSTER, &[])?;
    writer.merge(&secret, patch).await.map(drop)
}

/// Writes down that the cluster is formed: no empty disk is formatted as a first member from now on.
pub async fn keep_formed(writer: &Writer, site: &Site<'_>) -> Result<(), Error> {
    merge(writer, site, &json!({"stringData": {STAGE: FORMED}, "data": {FIRST: null}})).await
}

/// Writes down the id the disks carry.
pub async fn keep_id(writer: &Writer, site: &Site<'_>, id: &str) -> Result<(), Error> {
    merge(writer, site, &json!({"stringData": {ID: id}})).await
}

/// Writes down which passwords Kafka was given, as hashes by user.
pub async fn keep_given(
    writer: &Writer,
    site: &Site<'_>,
    given: &BTreeMap<String, String>,
) -> Result<(), Error> {
    let data: BTreeMap<_, _> = given.iter().map(|(user, hash)| (format!("{GIVEN}{user}"), hash)).collect();
    merge(writer, site, &json!({"stringData": data})).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infra::fixture;

    #[test]
    fn what_cannot_be_made_anew_has_to_be_there() {
        let directory = random_id();
        let first = format!("0@kafka-0.kafka-headless:9093:{}", encode(directory));
        let all =
            [(ID, "i"), (PASSWORD, "p"), (STAGE, FORMING), (FIRST, first.as_str()), ("given-memory", "h")];
        let cluster = Cluster::read(&fixture::secret(&all)).unwrap();
        assert_eq!(cluster.stage, Stage::Forming(vec![(0, directory)]));
        assert_eq!(cluster.given["memory"], "h");
        for missing in 0..4 {
            let mut rest = all.to_vec();
            rest.remove(missing);
            assert_eq!(Cluster::read(&fixture::secret(&rest)), None, "{}", all[missing].0);
        }
        let formed = fixture::secret(&[(ID, "i"), (PASSWORD, "p"), (STAGE, FORMED)]);
        assert_eq!(Cluster::read(&formed).unwrap().stage, Stage::Formed);
    }

    #[test]
    fn ids_are_what_kafka_takes() {
        for _ in 0..1000 {
            let text = encode(random_id());
            assert!(text.len() == 22 && !text.starts_with('-'), "{text}");
        }
    }
}
