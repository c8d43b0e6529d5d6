//! Requests and responses as they look on the wire.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use crate::model::Record;
use crate::recall::{RawRecall, Recall};
use crate::{Coordinate, Error, Hit, Kind, NewMemory, Stored};

/// A memory to store. Without `coord` it is derived from `key`, or else from the content.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StoreBody {
    /// Numbers separated by commas.
    pub coord: Option<String>,
    /// A name of the caller's own; the same key is the same memory.
    key: Option<String>,
    /// Any object; `content` is the text that is embedded.
    #[schema(value_type = Object)]
    payload: Map<String, Value>,
    /// `episodic` (default) or `semantic`.
    #[serde(alias = "memory_type", default)]
    pub r#type: Kind,
}

impl StoreBody {
    pub fn check(self) -> Result<NewMemory, Error> {
        let coordinate = self.coord.map(|text| Coordinate::parse(&text, "coord")).transpose()?;
        NewMemory::new(coordinate, self.key.as_deref(), self.r#type, self.payload)
    }
}

/// Whether to answer only once a recall can find what was stored.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct WaitParams {
    /// `indexed`: answer only once a recall can find it.
    pub wait: Option<Wait>,
}

/// What to wait for.
#[derive(Clone, Copy, Deserialize, PartialEq, Eq, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Wait {
    /// Until a recall can find it.
    Indexed,
}

/// What was stored.
#[derive(Serialize, ToSchema)]
pub(crate) struct StoredView {
    coord: String,
    /// 1 for the first content at this coordinate, one more for each change.
    version: i64,
    /// Whether a recall can find this version already.
    indexed: bool,
}

impl From<Stored> for StoredView {
    fn from(stored: Stored) -> Self {
        Self { coord: stored.coordinate.to_string(), version: stored.version, indexed: stored.indexed }
    }
}

/// A recall as a body: the same options beside one query or beside several. (Flattening a shared struct would lose
/// the name of the field an error is about.)
macro_rules! recall_body {
    ($(#[$doc:meta])* $name:ident { $query:ident: $kind:ty }) => {
        $(#[$doc])*
        #[derive(Deserialize, ToSchema)]
        #[serde(deny_unknown_fields)]
        pub(crate) struct $name {
            /// What to look for.
            pub $query: $kind,
            /// Results at most (default 5).
            pub top_k: Option<u32>,
            /// Only memories of this type.
            #[serde(alias = "memory_type")]
            pub r#type: Option<Kind>,
            /// Field → value, list of values it must have, or an object of `in`, `nin`, `gt`, `gte`, `lt`, `lte`.
            #[schema(value_type = Option<Object>)]
            pub filters: Option<Map<String, Value>>,
            /// Leave out what scores less, in [0, 1].
            pub min_score: Option<f64>,
            /// `strict`.
            pub mode: Option<String>,
            /// Say how each score came about.
            #[serde(default)]
            pub explain: bool,
            /// Only `false` in this release.
            pub hybrid: Option<bool>,
            /// Not in this release.
            pub as_of: Option<String>,
            /// Results to skip; only on `/memories/search`.
            pub offset: Option<u32>,
        }

        impl $name {
            /// Checks the options.
            pub fn check(&self, max_top_k: u32) -> Result<Recall, Error> {
                Recall::parse(
                    &RawRecall {
                        top_k: self.top_k,
                        kind: self.r#type,
                        filters: self.filters.as_ref(),
                        min_score: self.min_score,
                        mode: self.mode.as_deref(),
                        hybrid: self.hybrid,
                        as_of: self.as_of.as_deref(),
                    },
                    max_top_k,
                )
            }

            /// Refuses an offset where results are not paged.
            pub fn unpaged(self) -> Result<Self, Error> {
                match self.offset {
                    None => Ok(self),
                    Some(_) => Err(Error::invalid("offset", "this route does not page", "use /memories/search")),
                }
            }
        }
    };
}

recall_body! {
    /// A recall by meaning.
    RecallBody { query: String }
}

recall_body! {
    /// Several recalls with one set of options; at most 100 queries.
    BatchBody { queries: Vec<String> }
}

/// A recall in a query string; `filters` is JSON.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct RecallParams {
    query: String,
    top_k: Option<u32>,
    #[serde(alias = "memory_type")]
    r#type: Option<Kind>,
    /// A JSON object.
    filters: Option<String>,
    min_score: Option<f64>,
    mode: Option<String>,
    #[serde(default)]
    explain: bool,
    hybrid: Option<bool>,
    as_of: Option<String>,
    /// Results to skip; only on `/memories/search`.
    offset: Option<u32>,
}

impl RecallParams {
    pub fn into_body(self) -> Result<RecallBody, Error> {
        let filters = self.filters.map(|text| {
            serde_json::from_str(&text).map_err(|e| {
                Error::invalid("filters", format!("not a JSON object: {e}"), "send {\"field\": value}")
            })
        });
        Ok(RecallBody {
            query: self.query,
            top_k: self.top_k,
            r#type: self.r#type,
            filters: filters.transpose()?,
            min_score: self.min_score,
            mode: self.mode,
            explain: self.explain,
            hybrid: self.hybrid,
            as_of: self.as_of,
            offset: self.offset,
        })
    }
}

/// Where a match is and how it scored.
#[derive(Serialize, ToSchema)]
pub(crate) struct Detail {
    coord: String,
    memory_type: Kind,
    version: i64,
    score: f64,
    /// RFC 3339.
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    explain: Option<Explain>,
}

/// How a score came about: score = max(0, cosine) · `importance_norm`.
#[derive(Serialize, ToSchema)]
pub(crate) struct Explain {
    cosine: f64,
    importance: f64,
    importance_norm: f64,
    rank: usize,
}

/// The details of a list of hits, in its order.
pub(crate) fn details(hits: &[Hit], explain: bool) -> Vec<Detail> {
    let detail = |(at, hit): (usize, &Hit)| Detail {
        coord: hit.coordinate.to_string(),
        memory_type: hit.kind,
        version: hit.version,
        score: hit.score,
        created_at: timestamp(hit.created_at),
        explain: explain.then_some(Explain {
            cosine: hit.cosine,
            importance: hit.importance,
            importance_norm: hit.importance_norm,
            rank: at + 1,
        }),
    };
    hits.iter().enumerate().map(detail).collect()
}

/// A memory.
#[derive(Serialize, ToSchema)]
pub(crate) struct MemoryView {
    coord: String,
    coordinate: Vec<f64>,
    #[schema(value_type = Object)]
    payload: Value,
    memory_type: Kind,
    importance: f64,
    version: i64,
    /// RFC 3339.
    created_at: String,
    /// RFC 3339.
    updated_at: String,
    /// Whether a recall can find this version.
    indexed: bool,
    /// Only in search results.
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    explain: Option<Explain>,
}

impl From<Record> for MemoryView {
    fn from(record: Record) -> Self {
        Self {
            coord: record.coordinate.to_string(),
            coordinate: record.coordinate.values(),
            payload: record.payload,
            memory_type: record.kind,
            importance: record.importance,
            version: record.version,
            created_at: timestamp(record.created_at),
            updated_at: timestamp(record.updated_at),
            indexed: record.indexed,
            score: None,
            explain: None,
        }
    }
}

/// Search results as memories, from `offset` on.
pub(crate) fn found(hits: Vec<Hit>, explain: bool, offset: usize) -> Vec<MemoryView> {
    let details = details(&hits, explain);
    let view = |(hit, detail): (Hit, Detail)| {
        let record = Record {
            coordinate: hit.coordinate,
            kind: hit.kind,
            payload: hit.payload,
            importance: hit.importance,
            version: hit.version,
            created_at: hit.created_at,
            updated_at: hit.updated_at,
            indexed: true,
        };
        MemoryView { score: Some(hit.score), explain: detail.explain, ..record.into() }
    };
    hits.into_iter().zip(details).skip(offset).map(view).collect()
}

/// Microseconds since 1970 as RFC 3339.
pub(crate) fn timestamp(micros: i64) -> String {
    jiff::Timestamp::from_microsecond(micros).unwrap_or_default().to_string()
}
