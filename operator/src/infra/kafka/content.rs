//! What Kafka shall hold: topics, users and their rights, settings that change while it runs. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::admin::Scope;

/// Names and values of settings.
pub type Settings = BTreeMap<String, String>;

/// What the name of a topic for messages that cannot be processed ends with.
const DEAD_LETTERS: &str = ".dlq";
const DAY_MS: u64 = 24 * 60 * 60 * 1000;
// `ResourceType`, `PatternType` and `AclOperation` of Kafka.
pub const TOPIC: i8 = 2;
pub const GROUP: i8 = 3;
const LITERAL: i8 = 3;
pub const PREFIXED: i8 = 4;
pub const READ: i8 = 3;
pub const WRITE: i8 = 4;

/// A partition and the brokers it is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    pub index: i32,
    pub replicas: Vec<u16>,
    pub in_sync: Vec<u16>,
}

/// Settings and their new values; none takes one back.
pub type Alterations = Vec<(String, Option<String>)>;

/// A topic as it shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    pub name: String,
    pub partitions: i32,
    pub settings: Settings,
}

/// One thing a user may do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// Such as `User:memory`.
    pub principal: String,
    pub resource: i8,
    pub pattern: i8,
    pub name: String,
    pub operation: i8,
}

/// The topics of the services, each with its own for messages that cannot be processed.
///
/// Times follow Kafka's default of seven days, except where somebody has to look at messages later.
pub fn topics() -> Vec<Topic> {
    let topic = |name: &str, partitions, settings: &[(&str, String)]| Topic {
        name: name.to_owned(),
        partitions,
        settings: settings.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect(),
    };
    let days = |days: u64| ("retention.ms", (days * DAY_MS).to_string());
    let mut all = Vec::new();
    for (name, partitions, settings) in [
        ("conversation.inbound", 3, vec![]),
        ("conversation.outbound", 3, vec![]),
        ("tool.requests", 3, vec![]),
        ("tool.results", 3, vec![]),
        ("memory.wal", 3, vec![]),
        ("memory.events", 3, vec![]),
        ("config.updates", 1, vec![("cleanup.policy", "compact".to_owned())]),
    ] {
        all.push(topic(name, partitions, &settings));
        all.push(topic(&dead_letters(name), 1, &[days(30)]));
    }
    all.push(topic("agent.audit", 3, &[days(90)]));
    all
}

fn dead_letters(topic: &str) -> String {
    format!("{topic}{DEAD_LETTERS}")
}

/// A service, the topics it reads (and whose dead letters it writes), and those it writes.
struct Service(&'static str, &'static [&'static str], &'static [&'static str]);

/// Who reads and writes what, as the data flows: gateway, worker, tools, memory; the relay publishes outboxes.
const SERVICES: [Service; 7] = [
    Service(
        "gateway",
        &["conversation.outbound", "config.updates"],
        &["conversation.inbound", "tool.requests", "config.updates", "agent.audit"],
    ),
    Service(
        "worker",
        &["conversation.inbound", "tool.results", "config.updates"],
        &["conversation.outbound", "tool.requests", "memory.wal", "agent.audit"],
    ),
    Service("tools", &["tool.requests", "config.updates"], &["tool.results", "agent.audit"]),
    Service(
        "relay",
        &["memory.wal"],
        &["conversation.inbound", "conversation.outbound", "tool.requests", "memory.wal"],
    ),
    Service("brain", &["memory.events", "config.updates"], &["agent.audit"]),
    Service("memory", &["memory.events", "memory.wal", "config.updates"], &["memory.events"]),
    Service("hub", &["conversation.outbound", "config.updates"], &["agent.audit"]),
];

/// The services that have a user of their name.
pub fn users() -> impl Iterator<Item = &'static str> {
    SERVICES.iter().map(|service| service.0)
}

/// The least each service needs. Its consumer groups begin with its name and a dot.
pub fn rights() -> BTreeSet<Right> {
    let mut rights = BTreeSet::new();
    for Service(user, reads, writes) in SERVICES {
        let mut give = |resource, pattern, name: &str, operation| {
            let (principal, name) = (format!("User:{user}"), name.to_owned());
            rights.insert(Right { principal, resource, pattern, name, operation });
        };
        give(GROUP, PREFIXED, &format!("{user}."), READ);
        for topic in reads {
            give(TOPIC, LITERAL, topic, READ);
            give(TOPIC, LITERAL, &dead_letters(topic), WRITE);
        }
        for topic in writes {
            give(TOPIC, LITERAL, topic, WRITE);
        }
    }
    // Operators look at dead letters and send them again through the gateway.
    for name in topics().into_iter().map(|topic| topic.name).filter(|name| name.ends_with(DEAD_LETTERS)) {
        let principal = "User:gateway".to_owned();
        rights.insert(Right { principal, resource: TOPIC, pattern: LITERAL, name, operation: READ });
    }
    rights
}

/// What Kafka holds.
#[derive(Clone, Debug, Default)]
pub struct Found {
    pub topics: BTreeMap<String, Vec<Partition>>,
    /// What is set on each topic that is asked for and exists.
    pub topic_settings: BTreeMap<String, Settings>,
    /// What is set on all brokers alike, while they run.
    pub broker_settings: Settings,
    /// Who can log in.
    pub users: BTreeSet<String>,
    pub rights: BTreeSet<Right>,
}

/// What Kafka shall hold.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub topics: Vec<Topic>,
    pub rights: BTreeSet<Right>,
    pub broker_settings: Settings,
    /// Brokers each partition is on.
    pub replicas: u16,
    /// Brokers there are.
    pub brokers: u16,
}

/// A partition that shall be on more brokers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    pub topic: String,
    pub index: i32,
    pub brokers: Vec<u16>,
}

/// What to change, in this order. Nothing is ever taken away but a setting of all brokers that nobody asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub create: Vec<Topic>,
    pub partitions: Vec<(String, i32)>,
    pub moves: Vec<Move>,
    pub settings: Vec<(Scope, Alterations)>,
    pub rights: Vec<Right>,
}

/// The difference between what Kafka shall hold and what it holds.
pub fn changes(wanted: &Wanted, found: &Found) -> Changes {
    let mut changes = Changes::default();
    for topic in &wanted.topics {
        let Some(partitions) = found.topics.get(&topic.name) else {
            changes.create.push(topic.clone());
            continue;
        };
        if i32::try_from(partitions.len()).is_ok_and(|count| count < topic.partitions) {
            changes.partitions.push((topic.name.clone(), topic.partitions));
        }
        let empty = Settings::new();
        let set = found.topic_settings.get(&topic.name).unwrap_or(&empty);
        let differ = differing(&topic.settings, set);
        if !differ.is_empty() {
            changes.settings.push((Scope::Topic(topic.name.clone()), differ));
        }
    }
    let ours = |name: &str| name.starts_with("__") || wanted.topics.iter().any(|topic| topic.name == name);
    for (name, partitions) in found.topics.iter().filter(|(name, _)| ours(name)) {
        for partition in partitions.iter().filter(|p| p.replicas.len() < usize::from(wanted.replicas)) {
            let brokers = spread(partition, wanted.replicas, wanted.brokers);
            changes.moves.push(Move { topic: name.clone(), index: partition.index, brokers });
        }
    }
    let mut brokers = differing(&wanted.broker_settings, &found.broker_settings);
    let left = found.broker_settings.keys().filter(|key| !wanted.broker_settings.contains_key(*key));
    brokers.extend(left.map(|key| (key.clone(), None)));
    if !brokers.is_empty() {
        changes.settings.push((Scope::AllBrokers, brokers));
    }
    changes.rights = wanted.rights.difference(&found.rights).cloned().collect();
    changes
}

fn differing(wanted: &Settings, found: &Settings) -> Alterations {
    let differ = wanted.iter().filter(|(key, value)| found.get(*key) != Some(value));
    differ.map(|(key, value)| (key.clone(), Some(value.clone()))).collect()
}

/// The brokers a partition is on, and as many more as are missing, from one on that depends on its number.
fn spread(partition: &Partition, replicas: u16, brokers: u16) -> Vec<u16> {
    let mut on = partition.replicas.clone();
    let first = u16::try_from(partition.index).unwrap_or(0) % brokers.max(1);
    for broker in (first..brokers).chain(0..first) {
        if on.len() < usize::from(replicas) && !on.contains(&broker) {
            on.push(broker);
        }
    }
    on
}

/// How many partitions have a replica that is not in sync.
pub fn behind(found: &Found) -> usize {
    let partitions = found.topics.values().flatten();
    partitions.filter(|partition| partition.in_sync.len() < partition.replicas.len()).count()
}

/// Why a broker may not go now: a partition that would have fewer brokers in sync than a write needs. A partition on no
/// more brokers than that cannot be kept writable anyway and holds nobody back.
pub fn held_by(found: &Found, broker: u16, default_in_sync: u16) -> Option<String> {
    for (topic, partitions) in &found.topics {
        let set =
            found.topic_settings.get(topic).and_then(|set| set.get("min.insync.replicas")?.parse().ok());
        let needed = usize::from(set.unwrap_or(default_in_sync));
        let stuck = partitions
            .iter()
            .find(|p| p.in_sync.contains(&broker) && p.in_sync.len() <= needed && p.replicas.len() > needed);
        if let Some(partition) = stuck {
            return Some(format!(
                "partition {topic}-{} has only {} of {} replicas in sync",
                partition.index,
                partition.in_sync.len(),
                partition.replicas.len()
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(index: i32, replicas: &[u16], in_sync: &[u16]) -> Partition {
        Partition { index, replicas: replicas.to_vec(), in_sync: in_sync.to_vec() }
    }

    fn wanted(brokers: u16) -> Wanted {
        let topic = Topic { name: "t".into(), partitions: 2, settings: settings(&[("retention.ms", "1")]) };
        Wanted {
            topics: vec![topic],
            rights: BTreeSet::new(),
            broker_settings: settings(&[("min.insync.replicas", "1")]),
            replicas: brokers.min(3),
            brokers,
        }
    }

    fn settings(all: &[(&str, &str)]) -> Settings {
        all.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn found(partitions: Vec<Partition>) -> Found {
        Found {
            topics: [("t".to_owned(), partitions)].into(),
            topic_settings: [("t".to_owned(), settings(&[("retention.ms", "1"), ("by.hand", "x")]))].into(),
            broker_settings: settings(&[("min.insync.replicas", "1")]),
            ..Default::default()
        }
    }

    #[test]
    fn nothing_is_changed_twice() {
        let two = vec![partition(0, &[0], &[0]), partition(1, &[0], &[0])];
        assert_eq!(changes(&wanted(1), &found(two)), Changes::default(), "what people set on a topic stays");
    }

    #[test]
    fn what_is_missing_is_made() {
        let made = changes(&wanted(1), &Found::default());
        assert_eq!(made.create, wanted(1).topics);
        assert_eq!(
            made.settings,
            [(Scope::AllBrokers, vec![("min.insync.replicas".into(), Some("1".into()))])]
        );
        let mut less = found(vec![partition(0, &[0], &[0])]);
        less.topic_settings.clear();
        less.broker_settings.insert("log.retention.ms".into(), "5".into());
        let made = changes(&wanted(1), &less);
        assert_eq!(made.partitions, [("t".to_owned(), 2)]);
        assert_eq!(
            made.settings,
            [
                (Scope::Topic("t".into()), vec![("retention.ms".into(), Some("1".into()))]),
                (Scope::AllBrokers, vec![("log.retention.ms".into(), None)]),
            ]
        );
    }

    #[test]
    fn a_partition_spreads_when_brokers_come() {
        let two = vec![partition(0, &[0], &[0]), partition(1, &[0], &[0])];
        let mut more = found(two);
        more.topics.insert("__consumer_offsets".into(), vec![partition(4, &[0], &[0])]);
        more.topics.insert("of.somebody".into(), vec![partition(0, &[0], &[0])]);
        let made = changes(&wanted(3), &more);
        let moves = |topic: &str, index| Move { topic: topic.into(), index, brokers: vec![0, 1, 2] };
        assert_eq!(
            made.moves,
            [moves("__consumer_offsets", 4), moves("t", 0), moves("t", 1)],
            "and a topic of somebody else stays where it is"
        );
        let wide = found(vec![partition(0, &[0, 1, 2], &[0]), partition(1, &[0, 1, 2], &[0])]);
        assert!(changes(&wanted(3), &wide).moves.is_empty(), "it is on its way already");
    }

    #[test]
    fn a_partition_with_a_replica_that_lags_is_counted() {
        let lags = found(vec![partition(0, &[0, 1, 2], &[0, 1]), partition(1, &[0], &[0])]);
        assert_eq!((behind(&lags), behind(&Found::default())), (1, 0));
    }

    #[test]
    fn a_broker_goes_only_when_writes_go_on() {
        let held = |replicas: &[u16], in_sync: &[u16], broker, needed| {
            held_by(&found(vec![partition(0, replicas, in_sync)]), broker, needed)
        };
        assert_eq!(held(&[0, 1, 2], &[0, 1, 2], 1, 2), None);
        assert!(held(&[0, 1, 2], &[0, 1], 1, 2).unwrap().contains("t-0 has only 2 of 3"));
        assert_eq!(held(&[0, 1, 2], &[0, 1], 2, 2), None, "it is not in sync: nothing depends on it");
        assert_eq!(held(&[1], &[1], 1, 2), None, "on one broker only: waiting would be forever");
        assert_eq!(
            held(&[0, 1], &[0, 1], 1, 2),
            None,
            "as many replicas as a write needs: waiting would be forever"
        );
        let mut own = found(vec![partition(0, &[0, 1, 2], &[0, 1])]);
        own.topic_settings.insert("t".into(), settings(&[("min.insync.replicas", "1")]));
        assert_eq!(held_by(&own, 1, 2), None, "its own setting counts");
    }

    #[test]
    fn every_topic_has_dead_letters_and_every_service_a_reader_of_what_is_written() {
        let topics = topics();
        let names: BTreeSet<_> = topics.iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names.len(), 15);
        for Service(user, reads, writes) in SERVICES {
            for topic in reads.iter().chain(writes) {
                assert!(names.contains(topic), "{user}: {topic}");
            }
        }
        let may = |user: &str, name: &str, operation| {
            rights().contains(&Right {
                principal: format!("User:{user}"),
                resource: TOPIC,
                pattern: LITERAL,
                name: name.into(),
                operation,
            })
        };
        assert!(may("tools", "tool.requests", READ) && may("tools", "tool.requests.dlq", WRITE));
        assert!(!may("tools", "conversation.inbound", READ) && !may("memory", "agent.audit", READ));
    }
}
