//! What a memory, a namespace and a link are.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use soma_settings::canonical_json;
use utoipa::ToSchema;

use crate::{Coordinate, Error};

/// A payload may be nested this deep.
const MAX_DEPTH: usize = 64;

/// The kind of a memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Something that happened.
    #[default]
    Episodic,
    /// Something that is so.
    Semantic,
}

impl Kind {
    /// The wire name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Episodic => "episodic",
            Self::Semantic => "semantic",
        }
    }

    /// Reads the wire name; the empty text is `None`. `field` is named in the error.
    pub fn parse(text: &str, field: &str) -> Result<Option<Self>, Error> {
        match text {
            "" => Ok(None),
            "episodic" => Ok(Some(Self::Episodic)),
            "semantic" => Ok(Some(Self::Semantic)),
            _ => Err(Error::invalid(field, "no such memory type", "send `episodic` or `semantic`")),
        }
    }

    pub(crate) fn stored(text: &str) -> Self {
        if text == "semantic" { Self::Semantic } else { Self::Episodic }
    }
}

/// A memory to be stored.
#[derive(Clone, Debug, PartialEq)]
pub struct NewMemory {
    pub(crate) coordinate: Coordinate,
    pub(crate) kind: Kind,
    /// Canonical JSON: its length is what the quota counts, its equality decides whether a store changes anything.
    pub(crate) payload: String,
    pub(crate) importance: f64,
}

impl NewMemory {
    /// Checks a payload. Without a coordinate, one is derived from `key`, or else from the payload itself, so
    /// that importing the same content twice keeps one memory.
    ///
    /// `importance` in the payload weighs the memory against others of its namespace (default 1).
    pub fn new(
        coordinate: Option<Coordinate>,
        key: Option<&str>,
        kind: Kind,
        payload: Map<String, Value>,
    ) -> Result<Self, Error> {
        let refuse = |field: &str, reason: &str, remedy: &str| Err(Error::invalid(field, reason, remedy));
        let importance = match payload.get("importance") {
            None => 1.0,
            Some(value) => match value.as_f64() {
                Some(number) if number.abs() <= 1e12 => number,
                _ => {
                    return refuse(
                        "payload.importance",
                        "importance must be a number",
                        "send a number within ±1e12",
                    );
                }
            },
        };
        let payload = Value::Object(payload);
        if deeper_than(&payload, MAX_DEPTH) {
            return refuse("payload", "the payload is nested deeper than 64 levels", "flatten it");
        }
        if key.is_some_and(str::is_empty) {
            return refuse("key", "the key is empty", "leave it out, or name the memory");
        }
        let payload = canonical_json(&payload);
        let coordinate = coordinate.unwrap_or_else(|| {
            key.map_or_else(
                || Coordinate::from_key(&format!("{}::{payload}", kind.as_str())),
                Coordinate::from_key,
            )
        });
        Ok(Self { coordinate, kind, payload, importance })
    }

    /// Where it will be.
    pub fn coordinate(&self) -> &Coordinate {
        &self.coordinate
    }
}

fn deeper_than(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(items) => levels == 0 || items.iter().any(|v| deeper_than(v, levels - 1)),
        Value::Object(map) => levels == 0 || map.values().any(|v| deeper_than(v, levels - 1)),
        _ => false,
    }
}

/// A memory as the store holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Its identity.
    pub coordinate: Coordinate,
    /// Its kind.
    pub kind: Kind,
    /// What was stored.
    pub payload: Value,
    /// Raw importance.
    pub importance: f64,
    /// 1 for the first content at this coordinate, one more for each change.
    pub version: i64,
    /// Microseconds since 1970.
    pub created_at: i64,
    /// Microseconds since 1970.
    pub updated_at: i64,
    /// Whether a recall can find this version.
    pub indexed: bool,
}

/// What a store did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Where the memory is.
    pub coordinate: Coordinate,
    /// Its version.
    pub version: i64,
    /// Whether a recall can find this version already.
    pub indexed: bool,
}

/// The text that stands for a stored payload's meaning.
pub(crate) fn text_to_embed(payload: &str) -> Result<String, Error> {
    parse_stored(payload, "payload").map(|value| meaning(&value))
}

/// The text that stands for a payload's meaning: `content` when it is text, after its `speaker` where one is named (a
/// question often names who said it), otherwise the whole payload.
pub(crate) fn meaning(payload: &Value) -> String {
    match (payload["speaker"].as_str(), payload["content"].as_str()) {
        (Some(speaker), Some(content)) => format!("{speaker}: {content}"),
        (None, Some(content)) => content.to_owned(),
        _ => canonical_json(payload),
    }
}

pub(crate) fn parse_stored(text: &str, what: &'static str) -> Result<Value, Error> {
    serde_json::from_str(text).map_err(|source| Error::Damaged { what, source })
}

/// How much a namespace may hold; an absent limit is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// Memories at most.
    #[serde(default)]
    #[schema(minimum = 0)]
    pub memories: Option<i64>,
    /// Bytes of canonical payload at most.
    #[serde(default)]
    #[schema(minimum = 0)]
    pub bytes: Option<i64>,
}

/// What a namespace holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// Memories.
    pub memories: i64,
    /// Bytes of canonical payload.
    pub bytes: i64,
}

/// Where a namespace's vectors come from. Fixed once bound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Embedding {
    /// `local`: the model runs in this process.
    pub provider: String,
    /// The embedder's name.
    pub model: String,
    /// Components of a vector.
    pub dimension: i64,
}

/// What a namespace shall be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NamespaceSpec {
    /// Who owns it. Fixed once bound.
    pub tenant: String,
    /// Its limits.
    #[serde(default)]
    pub quota: Quota,
    /// Its embedder.
    pub embedding: Embedding,
}

/// A namespace as the store holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Who owns it.
    pub tenant: String,
    /// Its limits.
    pub quota: Quota,
    /// Its embedder.
    pub embedding: Embedding,
    /// What it holds.
    pub usage: Usage,
    /// Distinguishes it from an earlier namespace of the same name.
    #[serde(skip)]
    pub(crate) uid: String,
    /// Grows with every commit.
    #[serde(skip)]
    pub(crate) clock: i64,
}

/// A directed link.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// Where it starts.
    pub from: Coordinate,
    /// Where it ends.
    pub to: Coordinate,
    /// What it means, such as `related`.
    pub link_type: String,
    /// How strong it is.
    pub strength: f64,
    /// Anything else.
    pub metadata: Map<String, Value>,
    /// Microseconds since 1970; set by the store.
    pub updated_at: i64,
}

/// A namespace and, when the caller claims one, the tenant it must belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    pub(crate) namespace: String,
    pub(crate) tenant: Option<String>,
}

impl Scope {
    /// The namespace that always exists.
    pub const DEFAULT: &'static str = "default";

    /// Checks a namespace's name: a DNS label.
    pub fn new(namespace: &str, tenant: Option<&str>) -> Result<Self, Error> {
        check_name(namespace)?;
        Ok(Self { namespace: namespace.to_owned(), tenant: tenant.map(str::to_owned) })
    }

    /// The name.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }
}

pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = name.as_bytes();
    let edges = [bytes.first(), bytes.last()].into_iter().all(|b| b.is_some_and(|b| alphanumeric(*b)));
    if edges && name.len() <= 63 && bytes.iter().all(|b| alphanumeric(*b) || *b == b'-') {
        return Ok(());
    }
    Err(Error::invalid(
        "X-Soma-Namespace",
        "a namespace's name is a DNS label",
        "use 1 to 63 lower-case letters, digits and inner dashes",
    ))
}

/// Checks what a namespace shall be.
pub(crate) fn check_namespace(name: &str, spec: &NamespaceSpec) -> Result<(), Error> {
    check_name(name)?;
    // `/v1/admin/namespaces/usage` is the stream of all usage.
    if name == "usage" {
        return Err(Error::invalid("name", "the name `usage` is reserved", "choose another name"));
    }
    if spec.tenant.is_empty() || spec.tenant.len() > 253 || spec.tenant.chars().any(char::is_control) {
        return Err(Error::invalid("tenant", "not a tenant's name", "use 1 to 253 printable characters"));
    }
    for (field, limit) in [("quota.memories", spec.quota.memories), ("quota.bytes", spec.quota.bytes)] {
        if limit.is_some_and(|limit| limit < 0) {
            return Err(Error::invalid(
                field,
                "a quota cannot be negative",
                "send 0 or more, or null for no limit",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn memory(payload: Value, key: Option<&str>) -> Result<NewMemory, Error> {
        let Value::Object(map) = payload else { unreachable!("tests pass objects") };
        NewMemory::new(None, key, Kind::Episodic, map)
    }

    #[test]
    fn the_same_content_is_the_same_memory_and_a_key_outweighs_content() {
        let one = memory(json!({"content": "x", "n": 1}), None).unwrap();
        assert_eq!(one.coordinate, memory(json!({"n": 1, "content": "x"}), None).unwrap().coordinate);
        assert_ne!(one.coordinate, memory(json!({"content": "y", "n": 1}), None).unwrap().coordinate);
        assert_eq!(memory(json!({"a": 1}), Some("k1")).unwrap().coordinate, Coordinate::from_key("k1"));
    }

    #[test]
    fn a_payload_too_deep_or_too_odd_is_refused_by_field() {
        let nested = |levels| (0..levels).fold(json!(1), |inner, _| json!({ "a": inner }));
        assert!(memory(nested(64), None).is_ok());
        let error = memory(nested(65), None).unwrap_err();
        assert!(matches!(error, Error::Invalid { ref field, .. } if field == "payload"));
        for importance in [json!("high"), json!(1e300), json!(null)] {
            let error = memory(json!({ "importance": importance }), None).unwrap_err();
            assert!(matches!(error, Error::Invalid { ref field, .. } if field == "payload.importance"));
        }
    }

    #[test]
    fn names_are_dns_labels() {
        for good in ["a", "default", "conv-26", &"a".repeat(63)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a b", "ü", "a\0", &"a".repeat(64)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn speaker_and_content_are_embedded_when_they_are_text() {
        assert_eq!(text_to_embed(r#"{"content":"hello","x":1}"#).unwrap(), "hello");
        assert_eq!(text_to_embed(r#"{"content":"hello","speaker":"Ada"}"#).unwrap(), "Ada: hello");
        assert_eq!(text_to_embed(r#"{"content":7}"#).unwrap(), r#"{"content":7}"#);
    }
}
