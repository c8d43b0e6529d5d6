//! What a batch of memories changes: decided without a database.

use std::collections::HashMap;

use serde_json::{Value, json};
use soma_platform::outbox::Event;
use uuid::Uuid;

use crate::model::{Kind, Namespace, NewMemory, Stored, Usage, parse_stored};
use crate::{Coordinate, Error};

/// The topic of every event about a memory.
const TOPIC: &str = "memory.events";

/// What is at a coordinate already.
pub(super) struct Existing {
    pub version: i64,
    pub deleted: bool,
    pub pending: bool,
    pub kind: Kind,
    pub payload: String,
    pub created_at: i64,
}

/// A row to write.
pub(super) struct Write {
    pub memory: NewMemory,
    pub version: i64,
    pub created_at: i64,
}

/// What a batch does to a namespace.
pub(super) struct Plan {
    pub writes: Vec<Write>,
    pub events: Vec<Event>,
    pub usage: Usage,
    /// One per item of the batch, in its order.
    pub stored: Vec<Stored>,
}

/// Decides versions, events and usage. Content that is there already changes nothing; of several items at one
/// coordinate the last one counts.
pub(super) fn plan(
    namespace: &Namespace,
    existing: &HashMap<String, Existing>,
    items: Vec<NewMemory>,
    now: i64,
) -> Result<Plan, Error> {
    let order: Vec<_> = items.iter().map(|item| item.coordinate.clone()).collect();
    let mut last: HashMap<Coordinate, NewMemory> = HashMap::with_capacity(items.len());
    for item in items {
        last.insert(item.coordinate.clone(), item);
    }
    let mut plan =
        Plan { writes: Vec::new(), events: Vec::new(), usage: namespace.usage, stored: Vec::new() };
    let mut done: HashMap<Coordinate, Stored> = HashMap::with_capacity(last.len());
    for coordinate in &order {
        if let Some(memory) = last.remove(coordinate) {
            let stored = plan.add(namespace, existing.get(coordinate.as_str()), memory, now)?;
            done.insert(coordinate.clone(), stored);
        }
    }
    plan.stored = order.iter().filter_map(|coordinate| done.get(coordinate).cloned()).collect();
    plan.check_quota(namespace)?;
    Ok(plan)
}

impl Plan {
    fn add(
        &mut self,
        namespace: &Namespace,
        existing: Option<&Existing>,
        memory: NewMemory,
        now: i64,
    ) -> Result<Stored, Error> {
        let live = existing.filter(|row| !row.deleted);
        if let Some(row) = live
            && row.payload == memory.payload
            && row.kind == memory.kind
        {
            return Ok(Stored { coordinate: memory.coordinate, version: row.version, indexed: !row.pending });
        }
        let version = existing.map_or(0, |row| row.version) + 1;
        self.usage.memories += i64::from(live.is_none());
        self.usage.bytes += length(&memory.payload) - live.map_or(0, |row| length(&row.payload));
        let payload = parse_stored(&memory.payload, "payload")?;
        let kind = if live.is_some() { "updated" } else { "created" };
        let mut event = event(namespace, &memory.coordinate, version, kind, &payload, now);
        if let Value::Object(body) = &mut event.payload {
            body.insert("importance".into(), json!(memory.importance));
        }
        self.events.push(event);
        let stored = Stored { coordinate: memory.coordinate.clone(), version, indexed: false };
        self.writes.push(Write { memory, version, created_at: live.map_or(now, |row| row.created_at) });
        Ok(stored)
    }

    /// A batch that shrinks the namespace is allowed even above the quota.
    fn check_quota(&self, namespace: &Namespace) -> Result<(), Error> {
        let limits = [
            ("memories", namespace.quota.memories, namespace.usage.memories, self.usage.memories),
            ("bytes", namespace.quota.bytes, namespace.usage.bytes, self.usage.bytes),
        ];
        for (quota, limit, before, wanted) in limits {
            if let Some(limit) = limit
                && wanted > limit
                && wanted > before
            {
                return Err(Error::QuotaExceeded { namespace: namespace.name.clone(), quota, limit, wanted });
            }
        }
        Ok(())
    }
}

/// The event that a memory changed. Its id follows from the namespace, the coordinate and the version alone.
pub(super) fn event(
    namespace: &Namespace,
    coordinate: &Coordinate,
    version: i64,
    kind: &'static str,
    payload: &Value,
    now: i64,
) -> Event {
    let scope = Uuid::parse_str(&namespace.uid).unwrap_or_default();
    let id = Uuid::new_v5(&scope, format!("{coordinate}@{version}").as_bytes());
    let timestamp = jiff::Timestamp::from_microsecond(now).unwrap_or_default().to_string();
    let payload = json!({
        "event_id": id, "id": coordinate.as_str(), "namespace": namespace.name,
        "type": kind, "timestamp": timestamp, "payload": payload,
    });
    Event { id, topic: TOPIC, key: namespace.name.clone(), payload, created_at: now }
}

/// What the quota in bytes counts.
pub(super) fn length(payload: &str) -> i64 {
    i64::try_from(payload.len()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Embedding, Quota};

    fn namespace(memories: Option<i64>, bytes: Option<i64>) -> Namespace {
        Namespace {
            name: "n".into(),
            tenant: "t".into(),
            quota: Quota { memories, bytes },
            embedding: Embedding { provider: "local".into(), model: "m".into(), dimension: 4 },
            usage: Usage { memories: 1, bytes: 9 },
            uid: "6ba7b810-9dad-11d1-80b4-00c04fd430c8".into(),
            clock: 7,
        }
    }

    fn item(coordinate: &str, content: &str) -> NewMemory {
        let coordinate = Coordinate::parse(coordinate, "coord").unwrap();
        let map = [("c".to_owned(), json!(content))].into_iter().collect();
        NewMemory::new(Some(coordinate), None, Kind::Episodic, map).unwrap()
    }

    fn existing(content: &str, deleted: bool) -> HashMap<String, Existing> {
        let payload = item("1", content).payload;
        let row =
            Existing { version: 3, deleted, pending: false, kind: Kind::Episodic, payload, created_at: 5 };
        [("1.0".to_owned(), row)].into()
    }

    #[test]
    fn unchanged_content_writes_nothing() {
        let plan = plan(&namespace(None, None), &existing("x", false), vec![item("1", "x")], 9).unwrap();
        assert!(plan.writes.is_empty() && plan.events.is_empty());
        assert_eq!((plan.stored[0].version, plan.stored[0].indexed), (3, true));
        assert_eq!(plan.usage, namespace(None, None).usage);
    }

    #[test]
    fn an_update_keeps_its_birth_and_a_memory_after_a_delete_does_not() {
        let update = plan(&namespace(None, None), &existing("x", false), vec![item("1", "yy")], 9).unwrap();
        assert_eq!((update.writes[0].version, update.writes[0].created_at), (4, 5));
        assert_eq!(update.usage, Usage { memories: 1, bytes: 10 });
        assert_eq!(update.events[0].payload["type"], "updated");
        let again = plan(&namespace(None, None), &existing("", true), vec![item("1", "x")], 9).unwrap();
        assert_eq!((again.writes[0].version, again.writes[0].created_at), (4, 9));
        assert_eq!(again.usage.memories, 2);
        assert_eq!(again.events[0].payload["type"], "created");
    }

    #[test]
    fn the_last_of_several_at_one_coordinate_counts() {
        let items = vec![item("1", "a"), item("2", "b"), item("1.0", "c")];
        let plan = plan(&namespace(None, None), &HashMap::new(), items, 9).unwrap();
        assert_eq!(plan.writes.len(), 2);
        assert_eq!(plan.stored.len(), 3);
        assert_eq!(plan.usage.memories, 3);
        assert!(plan.writes.iter().any(|w| w.memory.payload.contains("\"c\":\"c\"")));
    }

    #[test]
    fn event_ids_depend_on_the_content_of_the_change_alone() {
        let once = |now| plan(&namespace(None, None), &HashMap::new(), vec![item("1", "a")], now).unwrap();
        assert_eq!(once(1).events[0].id, once(2).events[0].id);
        let next = plan(&namespace(None, None), &existing("x", false), vec![item("1", "a")], 1).unwrap();
        assert_ne!(once(1).events[0].id, next.events[0].id);
    }

    #[test]
    fn a_batch_over_quota_is_refused_whole_and_one_that_shrinks_is_not() {
        let over = plan(&namespace(Some(1), None), &HashMap::new(), vec![item("1", "a")], 1);
        assert!(matches!(over, Err(Error::QuotaExceeded { quota: "memories", limit: 1, wanted: 2, .. })));
        let over = plan(&namespace(None, Some(10)), &HashMap::new(), vec![item("1", "a")], 1);
        assert!(matches!(over, Err(Error::QuotaExceeded { quota: "bytes", .. })));
        assert!(
            plan(&namespace(Some(0), Some(1)), &existing("long", false), vec![item("1", "a")], 1).is_ok()
        );
    }
}
