//! The hash over a payload, and what changed between two payloads.

use std::collections::BTreeSet;
use std::fmt;

use data_encoding::HEXLOWER;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// SHA-256 over the canonical bytes of a payload, cut to 128 bits, with the version of the rule in front.
/// It fits a label value (63 characters).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConfigHash(String);

impl ConfigHash {
    /// Hashes bytes. Never hash a struct's memory or its `Debug` form: both change with a library.
    pub fn of(payload: &str) -> Self {
        let digest = Sha256::digest(payload.as_bytes());
        Self(HEXLOWER.encode(&digest[..16]))
    }

    /// The eight characters used in object names, such as `memory-config-1a2b3c4d`.
    pub fn short(&self) -> &str {
        &self.0[..8]
    }
}

impl fmt::Display for ConfigHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v1-{}", self.0)
    }
}

/// JSON with keys sorted at every level and no white space, whatever order the value holds them in.
pub fn canonical_json(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<_> = map.iter().collect();
            keys.sort_by_key(|(key, _)| *key);
            let body: Vec<_> = keys
                .into_iter()
                .map(|(k, v)| format!("{}:{}", Value::from(k.as_str()), canonical_json(v)))
                .collect();
            format!("{{{}}}", body.join(","))
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(canonical_json).collect::<Vec<_>>().join(","))
        }
        scalar => scalar.to_string(),
    }
}

/// The dotted keys whose values differ between two payloads, sorted. Values are never part of the answer.
pub fn changed_keys(before: &Value, after: &Value) -> Vec<String> {
    fn walk(path: &str, a: Option<&Value>, b: Option<&Value>, out: &mut Vec<String>) {
        if a == b {
            return;
        }
        let (am, bm) = (a.and_then(Value::as_object), b.and_then(Value::as_object));
        if am.is_none() && bm.is_none() {
            out.push(path.to_owned());
            return;
        }
        let keys: BTreeSet<_> = am.into_iter().chain(bm).flat_map(|m| m.keys()).collect();
        for key in keys {
            let next = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            walk(&next, am.and_then(|m| m.get(key)), bm.and_then(|m| m.get(key)), out);
        }
    }
    let mut out = Vec::new();
    walk("", Some(before), Some(after), &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_are_sorted_at_every_level() {
        let value: Value = serde_json::from_str(r#"{"b":[{"d":1,"c":"x\"y"}],"a":null}"#).unwrap();
        assert_eq!(canonical_json(&value), r#"{"a":null,"b":[{"c":"x\"y","d":1}]}"#);
    }

    #[test]
    fn changed_keys_name_leaves_on_either_side() {
        let before = json!({"memory": {"maxTopK": 5, "gone": 1}, "same": [1]});
        let after = json!({"memory": {"maxTopK": 6}, "same": [1], "new": true});
        assert_eq!(changed_keys(&before, &after), ["memory.gone", "memory.maxTopK", "new"]);
        assert!(changed_keys(&before, &before).is_empty());
    }
}
