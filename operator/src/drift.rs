//! Does a live object still hold everything we intend? Pure.
//!
//! The API server adds defaults and other controllers add fields, so the intent is a subset of what lives.
//! Lists are compared as server-side apply merges them: by key where their items have one, else as a whole.

use serde_json::{Map, Value};

/// Keys by which Kubernetes merges lists of objects, in the order they are tried.
const MERGE_KEYS: [&str; 6] = ["name", "mountPath", "containerPort", "port", "uid", "topologyKey"];
/// Maps that server-side apply replaces as a whole: an extra key in them is drift.
const ATOMIC_MAPS: [&str; 4] = ["selector", "matchLabels", "data", "nodeSelector"];
/// Fields whose strings are amounts: `1024Mi` comes back as `1Gi`.
const AMOUNTS: [&str; 4] = ["cpu", "memory", "storage", "ephemeral-storage"];

/// Whether every field of `intent` has its value in `live`.
pub fn covers(intent: &Value, live: &Value) -> bool {
    field_covers("", intent, live)
}

fn field_covers(key: &str, intent: &Value, live: &Value) -> bool {
    match (intent, live) {
        (Value::Object(a), Value::Object(b)) => {
            let whole = ATOMIC_MAPS.contains(&key) && b.values().all(Value::is_string);
            (!whole || a.len() == b.len()) && map_covers(a, b)
        }
        (Value::Array(a), Value::Array(b)) => list_covers(a, b),
        (Value::String(a), Value::String(b)) => {
            a == b || (AMOUNTS.contains(&key) && amount(a).is_some() && amount(a) == amount(b))
        }
        _ => intent == live,
    }
}

fn map_covers(intent: &Map<String, Value>, live: &Map<String, Value>) -> bool {
    intent.iter().all(|(key, value)| match live.get(key) {
        Some(found) => field_covers(key, value, found),
        // The API server drops empty values.
        None => is_empty(value),
    })
}

fn list_covers(intent: &[Value], live: &[Value]) -> bool {
    let key = MERGE_KEYS
        .into_iter()
        .find(|key| !intent.is_empty() && intent.iter().all(|item| item.get(key).is_some()));
    let Some(key) = key else {
        return intent.len() == live.len() && intent.iter().zip(live).all(|(a, b)| field_covers("", a, b));
    };
    intent
        .iter()
        .all(|item| live.iter().any(|found| found.get(key) == item.get(key) && field_covers("", item, found)))
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// An amount in thousandths of its unit, so that `500m` equals `0.5`.
pub fn amount(text: &str) -> Option<i128> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: i128 = match &text[digits.len()..] {
        "m" => 1,
        "" => 1000,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "T" => 1_000_000_000_000_000,
        "Ki" => 1000 << 10,
        "Mi" => 1000 << 20,
        "Gi" => 1000 << 30,
        "Ti" => 1000 << 40,
        _ => return None,
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let number = format!("{whole}{fraction}").parse::<i128>().ok()?;
    Some(number.checked_mul(factor)? / scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_and_other_peoples_fields_are_no_drift() {
        let intent = json!({"spec": {"containers": [{"name": "a", "image": "x", "ports": [{"containerPort": 80}]}], "volumes": []}});
        let live = json!({"spec": {"containers": [
            {"name": "sidecar", "image": "y"},
            {"name": "a", "image": "x", "ports": [{"containerPort": 80, "protocol": "TCP"}], "imagePullPolicy": "Always"},
        ]}, "status": {}});
        assert!(covers(&intent, &live));
    }

    #[test]
    fn a_changed_or_missing_value_is_drift() {
        let intent = json!({"spec": {"replicas": 1, "containers": [{"name": "a", "args": ["x", "y"]}]}});
        for live in [
            json!({"spec": {"replicas": 2, "containers": [{"name": "a", "args": ["x", "y"]}]}}),
            json!({"spec": {"replicas": 1, "containers": [{"name": "a", "args": ["y", "x"]}]}}),
            json!({"spec": {"replicas": 1, "containers": [{"name": "b", "args": ["x", "y"]}]}}),
            json!({"spec": {"containers": [{"name": "a", "args": ["x", "y"]}]}}),
        ] {
            assert!(!covers(&intent, &live), "{live}");
        }
    }

    #[test]
    fn an_extra_key_in_a_selector_or_in_data_is_drift() {
        assert!(!covers(&json!({"selector": {"a": "1"}}), &json!({"selector": {"a": "1", "b": "2"}})));
        assert!(!covers(&json!({"data": {"a": "1"}}), &json!({"data": {"a": "1", "b": "2"}})));
        assert!(covers(&json!({"labels": {"a": "1"}}), &json!({"labels": {"a": "1", "b": "2"}})));
    }

    #[test]
    fn amounts_are_compared_by_value() {
        assert!(covers(&json!({"memory": "1024Mi", "cpu": "0.5"}), &json!({"memory": "1Gi", "cpu": "500m"})));
        assert!(!covers(&json!({"memory": "1Gi"}), &json!({"memory": "1G"})));
        assert!(!covers(&json!({"host": "1k"}), &json!({"host": "1000"})), "only amounts");
    }
}
