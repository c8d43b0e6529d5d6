//! The metrics of the memory service.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use soma_platform::metrics::{HttpMetrics, latency, registry};

/// Only namespaces that exist are counted, so the label's values are bounded.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NamespaceLabel {
    namespace: String,
}

/// Counters and timings. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    /// What `/metrics` shows.
    pub registry: Arc<Registry>,
    /// Of the HTTP surface.
    pub http: HttpMetrics,
    stores: Family<NamespaceLabel, Counter>,
    recalls: Family<NamespaceLabel, Counter>,
    store_latency: Histogram,
    recall_latency: Histogram,
    backlog: Gauge,
}

impl Metrics {
    /// Makes them, for one instance of the service.
    pub fn new(instance: &str) -> Self {
        let mut registry = registry("memory", instance, env!("CARGO_PKG_VERSION"));
        let http = HttpMetrics::register(&mut registry);
        let (stores, recalls) = (Family::default(), Family::default());
        let (store_latency, recall_latency, backlog) = (latency(), latency(), Gauge::default());
        registry.register("soma_memory_store", "Memories stored", stores.clone());
        registry.register(
            "soma_memory_store_latency_seconds",
            "Time from a batch to its acknowledgement",
            store_latency.clone(),
        );
        registry.register("soma_memory_recall", "Queries answered", recalls.clone());
        registry.register(
            "soma_memory_recall_latency_seconds",
            "Time to answer, embedding included",
            recall_latency.clone(),
        );
        registry.register("soma_memory_index_backlog", "Memories without a vector yet", backlog.clone());
        let registry = Arc::new(registry);
        Self { registry, http, stores, recalls, store_latency, recall_latency, backlog }
    }

    pub(crate) fn stored(&self, namespace: &str, count: usize, took: Duration) {
        self.stores.get_or_create(&label(namespace)).inc_by(count as u64);
        self.store_latency.observe(took.as_secs_f64());
    }

    pub(crate) fn recalled(&self, namespace: &str, count: usize, took: Duration) {
        self.recalls.get_or_create(&label(namespace)).inc_by(count as u64);
        self.recall_latency.observe(took.as_secs_f64());
    }

    pub(crate) fn set_backlog(&self, memories: i64) {
        self.backlog.set(memories);
    }
}

fn label(namespace: &str) -> NamespaceLabel {
    NamespaceLabel { namespace: namespace.to_owned() }
}
