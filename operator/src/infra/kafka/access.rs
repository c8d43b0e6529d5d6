//! The users of the services and their passwords.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

use rand::Rng;
use ring::pbkdf2;
use soma_settings::ConfigHash;

use super::admin::{self, Credential};
use super::cluster::{self, Cluster};
use super::wire::{Connection, KafkaError};
use super::{build, content};
use crate::apply::Writer;
use crate::context::Context;
use crate::error::Error;
use crate::infra::{Site, secret};

/// Rounds of hashing: the least Kafka takes for SCRAM. The passwords are random, so more would guard nothing.
const ITERATIONS: u32 = 4096;
/// Bytes of a hash of SHA-512, and of the salt.
const LENGTH: usize = 64;

/// The password of each service, by its Secret. One that is not there is made; one that somebody changed counts.
pub async fn passwords(
    ctx: &Context,
    writer: &Writer,
    site: &Site<'_>,
) -> Result<BTreeMap<&'static str, String>, Error> {
    let mut all = BTreeMap::new();
    for user in content::users() {
        let name = build::user_secret_name(user);
        let found = ctx.get::<k8s_openapi::api::core::v1::Secret>(&site.owner.namespace, &name).await?;
        let kept = match found {
            Some(found) if secret::text(&found, "password").is_some() => found,
            Some(_) => {
                // Nothing but Kafka keeps this password, and Kafka takes a new one.
                let fresh = build::user_secret(site, user, &crate::random::secret())?;
                writer.apply(&fresh).await?.0
            }
            None => writer.create_once(&build::user_secret(site, user, &crate::random::secret())?).await?,
        };
        all.extend(secret::text(&kept, "password").map(|password| (user, password)));
    }
    Ok(all)
}

/// Gives Kafka the passwords it does not have yet, then writes down which it has: a crash in between gives them again.
pub async fn give(
    writer: &Writer,
    site: &Site<'_>,
    controller: &mut Connection,
    cluster: &Cluster,
    known: &BTreeSet<String>,
    passwords: &BTreeMap<&'static str, String>,
) -> Result<Result<(), KafkaError>, Error> {
    let news = passwords.iter().filter(|(user, password)| {
        !known.contains(**user) || cluster.given.get(**user) != Some(&hash(password))
    });
    let news: BTreeMap<_, _> = news.collect();
    if news.is_empty() {
        return Ok(Ok(()));
    }
    let credentials = news.iter().map(|(user, password)| credential(user, password)).collect();
    if let Err(error) = admin::set_passwords(controller, credentials).await {
        return Ok(Err(error));
    }
    let given = news.iter().map(|(user, password)| ((**user).to_owned(), hash(password))).collect();
    cluster::keep_given(writer, site, &given).await.map(Ok)
}

/// What is written down of a password that was given.
pub fn hash(password: &str) -> String {
    ConfigHash::of(password).short().to_owned()
}

/// What Kafka keeps of a password, as RFC 5802 derives it.
pub fn credential(user: &str, password: &str) -> Credential {
    let mut salt = vec![0; LENGTH];
    rand::rng().fill(&mut salt[..]);
    let mut salted_password = vec![0; LENGTH];
    let rounds = NonZeroU32::new(ITERATIONS).unwrap_or(NonZeroU32::MIN);
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA512, rounds, &salt, password.as_bytes(), &mut salted_password);
    let iterations = i32::try_from(ITERATIONS).unwrap_or(i32::MAX);
    Credential { user: user.to_owned(), salt, iterations, salted_password }
}
