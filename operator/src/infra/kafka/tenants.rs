//! What Kafka holds for each tenant: a user, its rights on topics and groups of its own prefix, its limits.

use std::collections::{BTreeMap, BTreeSet};

use soma_crds::MemoryNamespaceSpec;

use super::admin::{self, Credential};
use super::content::{Found, GROUP, PREFIXED, READ, Right, TOPIC, WRITE};
use super::quotas::{self, Limits};
use super::validate::PORT;
use super::wire::{Connection, KafkaError};
use super::{access, build};
use crate::infra::Site;
use crate::infra::tenants::{Grant, Provided, Tenant, Tenants};
use crate::names::object;

/// What users, topics and groups of tenants begin with.
const PREFIX: &str = "memns.";
/// What the names of users have before them where rights are concerned.
const USER: &str = "User:";
// `AclOperation` of Kafka.
const CREATE: i8 = 5;
const DELETE: i8 = 6;
/// Topics and partitions a tenant may make or delete per second: those of a whole cluster cost every broker memory.
const MUTATIONS_PER_SECOND: f64 = 1.0;
/// Key of the password in the tenant's Secret.
const PASSWORD: &str = "KAFKA_SASL_PASSWORD";

fn user(tenant: &Tenant) -> String {
    format!("{PREFIX}{}", tenant.external())
}

/// What the tenant's topics and groups begin with. The dot at the end keeps `a` out of what `ab` has.
fn prefix(tenant: &Tenant) -> String {
    format!("{}.", user(tenant))
}

fn rights(tenant: &Tenant) -> impl Iterator<Item = Right> {
    let (principal, name) = (format!("{USER}{}", user(tenant)), prefix(tenant));
    let all = [(TOPIC, READ), (TOPIC, WRITE), (TOPIC, CREATE), (TOPIC, DELETE), (GROUP, READ)];
    all.into_iter().map(move |(resource, operation)| Right {
        principal: principal.clone(),
        resource,
        pattern: PREFIXED,
        name: name.clone(),
        operation,
    })
}

/// Limits of a tenant, by Kafka's names.
fn limits(spec: &MemoryNamespaceSpec) -> Limits {
    let quota = spec.quota.kafka.clone().unwrap_or_default();
    let rate = |quantity: Option<soma_crds::Quantity>| {
        // Above 2^53 a limit is none in practice.
        #[expect(clippy::cast_precision_loss, reason = "a rate in bytes need not be exact")]
        quantity.and_then(|quantity| quantity.bytes()).map(|bytes| bytes as f64)
    };
    let all = [
        ("producer_byte_rate", rate(quota.produce_bytes_per_second)),
        ("consumer_byte_rate", rate(quota.consume_bytes_per_second)),
        ("controller_mutation_rate", Some(MUTATIONS_PER_SECOND)),
    ];
    all.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}

/// What to change for the tenants. What no tenant has is taken away, but never a topic: those only go with a tenant whose
/// owner wants it.
#[derive(Clone, Debug, Default, PartialEq)]
struct Changes {
    give: Vec<Right>,
    take: Vec<Right>,
    limit: BTreeMap<String, Limits>,
    forget: Vec<String>,
    delete: Vec<String>,
}

fn changes(tenants: &Tenants, found: &Found, limited: &BTreeMap<String, Limits>) -> Changes {
    let ours =
        |right: &&Right| right.principal.strip_prefix(USER).is_some_and(|user| user.starts_with(PREFIX));
    let wanted: BTreeSet<Right> = tenants.staying().flat_map(rights).collect();
    let held: BTreeSet<Right> = found.rights.iter().filter(ours).cloned().collect();
    let staying: BTreeMap<_, _> =
        tenants.staying().map(|tenant| (user(tenant), limits(&tenant.spec))).collect();
    let mut limit: BTreeMap<_, _> =
        staying.iter().filter(|(user, limits)| limited.get(*user) != Some(limits)).collect();
    let none = Limits::new();
    let strays = limited.keys().filter(|user| user.starts_with(PREFIX) && !staying.contains_key(*user));
    limit.extend(strays.map(|user| (user, &none)));
    let leaving: Vec<_> = tenants.all.iter().filter(|tenant| tenant.takes_data_along()).map(prefix).collect();
    let leaves = |topic: &&String| leaving.iter().any(|prefix| topic.starts_with(prefix));
    Changes {
        give: wanted.difference(&held).cloned().collect(),
        take: held.difference(&wanted).cloned().collect(),
        limit: limit.into_iter().map(|(user, limits)| (user.clone(), limits.clone())).collect(),
        forget: found
            .users
            .iter()
            .filter(|u| u.starts_with(PREFIX) && !staying.contains_key(*u))
            .cloned()
            .collect(),
        delete: found.topics.keys().filter(leaves).cloned().collect(),
    }
}

/// Gives each tenant what it shall have, and takes back what nobody has any more. Users go first and come last, so that
/// nobody ever acts with rights of another time.
pub async fn provide(
    site: &Site<'_>,
    broker: &mut Connection,
    controller: &mut Connection,
    found: &Found,
) -> Result<Provided, KafkaError> {
    let tenants = &site.tenants;
    let limited = quotas::describe(broker).await?;
    let changes = changes(tenants, found, &limited);
    if !changes.forget.is_empty() {
        admin::forget_users(controller, &changes.forget).await?;
    }
    if !changes.take.is_empty() {
        admin::revoke(controller, &changes.take).await?;
    }
    if !changes.delete.is_empty() {
        admin::delete_topics(controller, &changes.delete).await?;
    }
    if !changes.give.is_empty() {
        admin::grant(controller, &changes.give).await?;
    }
    if !changes.limit.is_empty() {
        quotas::alter(broker, &changes.limit, &limited).await?;
    }
    let mut provided = Provided::new();
    let mut news = Vec::new();
    for tenant in tenants.staying() {
        let (user, kept) = (user(tenant), tenant.kept(PASSWORD));
        let password = kept.unwrap_or_else(crate::random::secret);
        let hash = access::hash(&password);
        let before = tenant.given(object::KAFKA).map(|given| given.hash);
        if before.as_ref() != Some(&hash) || !found.users.contains(&user) {
            news.push((user.clone(), password.clone()));
        }
        let data = [
            ("KAFKA_BOOTSTRAP_SERVERS", format!("{}:{PORT}", site.host(object::KAFKA))),
            ("KAFKA_SECURITY_PROTOCOL", build::SECURITY_PROTOCOL.to_owned()),
            ("KAFKA_SASL_MECHANISM", build::SASL_MECHANISM.to_owned()),
            ("KAFKA_SASL_USERNAME", user),
            (PASSWORD, password),
            ("KAFKA_PREFIX", prefix(tenant)),
        ];
        provided.insert(tenant.external(), Grant { hash, data: data.into() });
    }
    if !news.is_empty() {
        // Thousands of rounds of hashing each.
        let hashing = tokio::task::spawn_blocking(move || {
            news.iter()
                .map(|(user, password)| access::credential(user, password))
                .collect::<Vec<Credential>>()
        });
        let credentials = hashing.await.map_err(|error| KafkaError::Incomplete(error.to_string()))?;
        admin::set_passwords(controller, credentials).await?;
    }
    Ok(provided)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infra::fixture;
    use serde_json::json;

    fn tenants(all: Vec<Tenant>) -> Tenants {
        Tenants { all, strays: Vec::new() }
    }

    /// What Kafka holds once these changes are made.
    fn made(tenants: &Tenants) -> (Found, BTreeMap<String, Limits>) {
        let changes = changes(tenants, &Found::default(), &BTreeMap::new());
        let users = tenants.staying().map(user).collect();
        (Found { users, rights: changes.give.into_iter().collect(), ..Found::default() }, changes.limit)
    }

    #[test]
    fn each_has_a_prefix_of_its_own_and_limits() {
        let quota = json!({"quota": {"kafka": {"produceBytesPerSecond": "1Mi"}}});
        let all = tenants(vec![fixture::tenant("a", "b", quota), fixture::tenant("a", "b-c", json!({}))]);
        let (found, limits) = made(&all);
        assert_eq!(found.rights.len(), 10);
        for right in &found.rights {
            let user = right.principal.strip_prefix("User:").unwrap();
            assert_eq!(right.name, format!("{user}."), "the dot keeps a.b out of a.b-c");
            assert_eq!(right.pattern, PREFIXED);
        }
        let mutations = ("controller_mutation_rate".to_owned(), MUTATIONS_PER_SECOND);
        let written = ("producer_byte_rate".to_owned(), 1_048_576.0);
        assert_eq!(limits["memns.a.b"], [mutations.clone(), written].into());
        assert_eq!(limits["memns.a.b-c"], [mutations].into());
        assert_eq!(changes(&all, &found, &limits), Changes::default(), "nothing is done twice");
    }

    #[test]
    fn who_goes_loses_everything_but_topics_which_go_only_when_their_owner_wants_it() {
        let mut all =
            tenants(vec![fixture::tenant("a", "b", json!({})), fixture::tenant("a", "bb", json!({}))]);
        let (mut found, limits) = made(&all);
        found.users.insert("memory".into());
        found.rights.insert(Right { principal: "User:memory".into(), ..rights(&all.all[0]).next().unwrap() });
        for topic in ["memns.a.b.one", "memns.a.bb.one", "memory.events"] {
            found.topics.insert(topic.into(), Vec::new());
        }
        all.all[0].leaving = true;
        let kept = changes(&all, &found, &limits);
        assert_eq!(kept.forget, ["memns.a.b"]);
        assert!(kept.take.len() == 5 && kept.take.iter().all(|right| right.principal == "User:memns.a.b"));
        assert_eq!(kept.limit, [("memns.a.b".to_owned(), Limits::new())].into());
        assert!(kept.give.is_empty() && kept.delete.is_empty());
        all.all[0].spec.deletion_policy = soma_crds::DeletionPolicy::Delete;
        assert_eq!(changes(&all, &found, &limits).delete, ["memns.a.b.one"]);
        assert_eq!(
            changes(&tenants(Vec::new()), &found, &limits).forget,
            ["memns.a.b", "memns.a.bb"],
            "torn out"
        );
    }
}
