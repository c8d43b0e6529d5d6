//! What may be asked of a recall.

use serde_json::{Map, Value};

use crate::Error;
use crate::filter::Filter;
use crate::model::Kind;

/// Results when a recall does not say how many.
const DEFAULT_TOP_K: u32 = 5;
/// Queries one batch may hold.
pub(crate) const MAX_QUERIES: usize = 100;
/// A query may be this long; the embedder reads no more than its first few hundred words anyway.
const MAX_QUERY_BYTES: usize = 32 << 10;

/// A recall that was checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Recall {
    /// Results at most.
    pub top_k: usize,
    /// Only this kind.
    pub kind: Option<Kind>,
    /// Only what passes; applied before the best are taken.
    pub filter: Filter,
    /// Only what scores at least this, in [0, 1].
    pub min_score: f64,
}

/// A recall as a client writes it.
#[derive(Clone, Debug, Default)]
pub struct RawRecall<'a> {
    pub top_k: Option<u32>,
    pub kind: Option<Kind>,
    pub filters: Option<&'a Map<String, Value>>,
    pub min_score: Option<f64>,
    pub mode: Option<&'a str>,
    pub hybrid: Option<bool>,
    pub as_of: Option<&'a str>,
}

impl Recall {
    /// A plain recall of the best `top_k`.
    pub fn top(top_k: usize) -> Self {
        Self { top_k, kind: None, filter: Filter::default(), min_score: 0.0 }
    }

    /// Checks what a client asks for.
    pub fn parse(raw: &RawRecall<'_>, max_top_k: u32) -> Result<Self, Error> {
        let top_k = raw.top_k.unwrap_or(DEFAULT_TOP_K.min(max_top_k));
        if !(1..=max_top_k).contains(&top_k) {
            return Err(Error::invalid(
                "top_k",
                format!("top_k must be between 1 and {max_top_k}"),
                "ask for fewer results, or raise the setting maxTopK",
            ));
        }
        let min_score = raw.min_score.unwrap_or(0.0);
        if !(0.0..=1.0).contains(&min_score) {
            return Err(Error::invalid("min_score", "min_score must be between 0 and 1", "send 0.25, say"));
        }
        match raw.mode {
            None | Some("" | "strict") => {}
            Some("hybrid") => return Err(not_built("mode", "the mode `hybrid`", "ask for `strict`")),
            Some(_) => return Err(Error::invalid("mode", "no such mode", "ask for `strict`")),
        }
        if raw.hybrid == Some(true) {
            return Err(not_built("hybrid", "the mode `hybrid`", "leave `hybrid` out"));
        }
        if raw.as_of.is_some() {
            return Err(not_built("as_of", "recall of the past", "leave `as_of` out"));
        }
        let filter = raw.filters.map(Filter::parse).transpose()?.unwrap_or_default();
        Ok(Self { top_k: top_k as usize, kind: raw.kind, filter, min_score })
    }
}

fn not_built(field: &str, what: &str, remedy: &str) -> Error {
    Error::invalid(field, format!("{what} is not part of this release"), remedy)
}

/// Checks a query's text.
pub(crate) fn check_query(query: &str) -> Result<(), Error> {
    if query.trim().is_empty() {
        return Err(Error::invalid("query", "the query is empty", "say what to look for"));
    }
    if query.len() > MAX_QUERY_BYTES {
        return Err(Error::invalid("query", "the query is longer than 32 KiB", "send a shorter one"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_answered_is_refused_by_field() {
        let refused = |raw: RawRecall<'_>| match Recall::parse(&raw, 100) {
            Err(Error::Invalid { field, .. }) => field,
            other => format!("{other:?}"),
        };
        assert_eq!(refused(RawRecall { top_k: Some(0), ..Default::default() }), "top_k");
        assert_eq!(refused(RawRecall { top_k: Some(101), ..Default::default() }), "top_k");
        assert_eq!(refused(RawRecall { min_score: Some(1.5), ..Default::default() }), "min_score");
        assert_eq!(refused(RawRecall { min_score: Some(f64::NAN), ..Default::default() }), "min_score");
        assert_eq!(refused(RawRecall { mode: Some("hybrid"), ..Default::default() }), "mode");
        assert_eq!(refused(RawRecall { mode: Some("fast"), ..Default::default() }), "mode");
        assert_eq!(refused(RawRecall { hybrid: Some(true), ..Default::default() }), "hybrid");
        assert_eq!(refused(RawRecall { as_of: Some("2024"), ..Default::default() }), "as_of");
        assert_eq!(Recall::parse(&RawRecall::default(), 100).unwrap(), Recall::top(5));
        assert_eq!(Recall::parse(&RawRecall::default(), 3).unwrap().top_k, 3);
    }
}
