//! The searchable form of one namespace: derived from its rows, and disposable.

use std::collections::BinaryHeap;
use std::collections::HashMap;

use serde_json::Value;

use super::importance::{Normaliser, Sample};
use super::scan::{Scored, dot, top_k};
use crate::filter::Filter;
use crate::model::{Kind, parse_stored};
use crate::store::{IndexRow, Position};
use crate::{Coordinate, Error};

/// One memory, without its vector.
struct Entry {
    coordinate: Box<str>,
    hash: u64,
    kind: Kind,
    payload: Box<str>,
    importance: f64,
    version: i64,
    created_at: i64,
    updated_at: i64,
}

/// A question to an index.
pub struct Query<'a> {
    /// The query's vector, of length 1.
    pub vector: &'a [f32],
    /// Results at most.
    pub top_k: usize,
    /// Only this kind.
    pub kind: Option<Kind>,
    /// Only what passes.
    pub filter: &'a Filter,
    /// Only what scores at least this.
    pub min_score: f64,
}

/// A memory found.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    /// Where it is.
    pub coordinate: Coordinate,
    /// Its kind.
    pub kind: Kind,
    /// What was stored.
    pub payload: Value,
    /// Raw importance.
    pub importance: f64,
    /// Its version.
    pub version: i64,
    /// Microseconds since 1970.
    pub created_at: i64,
    /// Microseconds since 1970.
    pub updated_at: i64,
    /// max(0, cosine) · `importance_norm`.
    pub score: f64,
    /// The cosine of query and memory.
    pub cosine: f64,
    /// The weight of its importance, in [0, 1].
    pub importance_norm: f64,
}

/// Rows, their vectors in one block, and the weights of their importance.
pub struct NamespaceIndex {
    pub uid: String,
    pub position: Position,
    dimension: usize,
    entries: Vec<Entry>,
    vectors: Vec<f32>,
    norms: Vec<f32>,
    rows: HashMap<Box<str>, usize>,
    payload_bytes: usize,
}

impl NamespaceIndex {
    /// An index of nothing, for the namespace with this uid.
    pub fn new(uid: String, dimension: usize) -> Self {
        Self {
            uid,
            position: Position::default(),
            dimension,
            entries: Vec::new(),
            vectors: Vec::new(),
            norms: Vec::new(),
            rows: HashMap::new(),
            payload_bytes: 0,
        }
    }

    /// Takes changes over, in the order of the clock.
    pub fn apply(&mut self, changes: Vec<IndexRow>) {
        for change in changes {
            self.position = Position { clock: change.clock, coordinate: change.coordinate.clone() };
            self.remove(&change.coordinate);
            if change.vector.as_ref().is_some_and(|v| v.len() == self.dimension) {
                self.insert(change);
            }
        }
    }

    fn insert(&mut self, change: IndexRow) {
        let Some(vector) = change.vector else { return };
        self.vectors.extend_from_slice(&vector);
        self.payload_bytes += change.payload.len();
        let coordinate: Box<str> = change.coordinate.into();
        self.rows.insert(coordinate.clone(), self.entries.len());
        self.entries.push(Entry {
            hash: fnv1a(coordinate.as_bytes()),
            coordinate,
            kind: change.kind,
            payload: change.payload.into(),
            importance: change.importance,
            version: change.version,
            created_at: change.created_at,
            updated_at: change.updated_at,
        });
    }

    fn remove(&mut self, coordinate: &str) {
        let Some(row) = self.rows.remove(coordinate) else { return };
        let last = self.entries.len() - 1;
        let removed = self.entries.swap_remove(row);
        self.payload_bytes -= removed.payload.len();
        self.vectors.copy_within(last * self.dimension.., row * self.dimension);
        self.vectors.truncate(last * self.dimension);
        if let Some(moved) = self.entries.get(row) {
            self.rows.insert(moved.coordinate.clone(), row);
        }
    }

    /// Weighs the importance of every row anew. Call after the last [`Self::apply`] of a refresh.
    pub fn weigh(&mut self) {
        let mut sample = Sample::default();
        let (mut min, mut max) = (f64::INFINITY, f64::NEG_INFINITY);
        for entry in &self.entries {
            sample.offer(entry.hash, entry.importance);
            (min, max) = (min.min(entry.importance), max.max(entry.importance));
        }
        let normaliser = Normaliser::choose(sample.values(), min, max);
        #[expect(clippy::cast_possible_truncation, reason = "a weight in [0, 1]")]
        let weight = |entry: &Entry| normaliser.norm(entry.importance) as f32;
        self.norms.clear();
        self.norms.extend(self.entries.iter().map(weight));
    }

    /// Memory held, in bytes, near enough for a budget.
    pub fn bytes(&self) -> usize {
        let entry = size_of::<Entry>() + 2 * 64 + size_of::<f32>();
        self.vectors.capacity() * size_of::<f32>() + self.payload_bytes + self.entries.capacity() * entry
    }

    /// The best memories, best first. Exact: every row that passes is scored.
    pub fn search(&self, query: &Query<'_>) -> Result<Vec<Hit>, Error> {
        let scored = self.entries.iter().enumerate().filter_map(|(row, entry)| {
            let passes = query.kind.is_none_or(|kind| kind == entry.kind);
            let score =
                passes.then(|| self.cosine(row, query.vector).max(0.0) * f64::from(self.norms[row]))?;
            (score >= query.min_score).then_some(Scored { score, coordinate: &entry.coordinate, row })
        });
        if query.filter.is_empty() {
            return top_k(scored, query.top_k).into_iter().map(|s| self.hit(&s, query.vector)).collect();
        }
        // Payloads are read best first until enough have passed: the same result as filtering all of them before.
        let mut best_first: BinaryHeap<_> = scored.collect();
        let mut hits = Vec::new();
        while hits.len() < query.top_k
            && let Some(next) = best_first.pop()
        {
            let hit = self.hit(&next, query.vector)?;
            if query.filter.matches(&hit.payload, hit.created_at, hit.updated_at) {
                hits.push(hit);
            }
        }
        Ok(hits)
    }

    fn cosine(&self, row: usize, query: &[f32]) -> f64 {
        // Both have length 1.
        f64::from(dot(&self.vectors[row * self.dimension..(row + 1) * self.dimension], query))
    }

    fn hit(&self, scored: &Scored<'_>, query: &[f32]) -> Result<Hit, Error> {
        let entry = &self.entries[scored.row];
        Ok(Hit {
            coordinate: Coordinate::stored(entry.coordinate.to_string()),
            kind: entry.kind,
            payload: parse_stored(&entry.payload, "payload")?,
            importance: entry.importance,
            version: entry.version,
            created_at: entry.created_at,
            updated_at: entry.updated_at,
            score: scored.score,
            cosine: self.cosine(scored.row, query),
            importance_norm: f64::from(self.norms[scored.row]),
        })
    }
}

/// FNV-1a: a hash that is the same in every build, as a sample shared by replicas needs.
fn fnv1a(bytes: &[u8]) -> u64 {
    let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    // One more multiplication spreads the last bytes into the high bits that the order depends on.
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, mix).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
#[path = "namespace_tests.rs"]
mod tests;
