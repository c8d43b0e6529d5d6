//! Prometheus metrics of the operator. Label sets are closed: kinds, outcomes, verbs.

use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reconcile {
    kind: &'static str,
    /// `ok` or the name of the error's variant.
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Write {
    /// Kind of the object written.
    kind: String,
    verb: &'static str,
}

/// All metrics. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    reconciles: Family<Reconcile, Counter>,
    durations: Family<Kind, Histogram>,
    writes: Family<Write, Counter>,
    leader: Gauge,
    registry: std::sync::Arc<Registry>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("soma_operator");
        let reconciles = Family::default();
        let durations = Family::new_with_constructor(duration_histogram as fn() -> Histogram);
        let writes = Family::default();
        let leader = Gauge::default();
        registry.register("reconciles", "Reconciles by kind and outcome", reconciles.clone());
        registry.register("reconcile_duration_seconds", "Time one reconcile took", durations.clone());
        registry.register("api_writes", "Writes to the Kubernetes API by kind and verb", writes.clone());
        registry.register("leader", "1 while this process holds the lease", leader.clone());
        Self { reconciles, durations, writes, leader, registry: std::sync::Arc::new(registry) }
    }
}

/// 1 ms to about 16 s.
fn duration_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

impl Metrics {
    pub fn reconciled(&self, kind: &'static str, outcome: &'static str, took: Duration) {
        self.reconciles.get_or_create(&Reconcile { kind, outcome }).inc();
        self.durations.get_or_create(&Kind { kind }).observe(took.as_secs_f64());
    }

    pub fn wrote(&self, kind: &str, verb: &'static str) {
        self.writes.get_or_create(&Write { kind: kind.into(), verb }).inc();
    }

    pub fn set_leader(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    pub fn is_leader(&self) -> bool {
        self.leader.get() == 1
    }

    /// OpenMetrics text.
    pub fn render(&self) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }
}
