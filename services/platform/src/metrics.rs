//! Prometheus metrics of the HTTP surface, and the registry a service adds its own to.

use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Upper bounds in seconds: from an in-memory answer to the request timeout.
const LATENCY_BUCKETS: [f64; 13] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

/// A histogram of seconds.
pub type Latency = fn() -> Histogram;

/// A histogram with the buckets every latency of Soma uses.
pub fn latency() -> Histogram {
    Histogram::new(LATENCY_BUCKETS)
}

/// A registry whose metrics all carry `service`, `instance` and `version`.
pub fn registry(service: &'static str, instance: &str, version: &'static str) -> Registry {
    let labels = [("service", service), ("instance", instance), ("version", version)];
    Registry::with_labels(labels.map(|(name, value)| (name.into(), value.to_owned().into())).into_iter())
}

/// The registry in Prometheus' text format.
pub fn render(registry: &Registry) -> Response {
    let mut body = String::new();
    if let Err(error) = text::encode(&mut body, registry) {
        tracing::error!(%error, "metrics cannot be encoded");
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], body).into_response()
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    endpoint: String,
    method: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResponseLabels {
    endpoint: String,
    method: String,
    status: u16,
}

/// The metrics every HTTP service has. The label `endpoint` is the route's template, never the raw path.
#[derive(Clone, Debug)]
pub struct HttpMetrics {
    requests: Family<RequestLabels, Counter>,
    responses: Family<ResponseLabels, Counter>,
    latency: Family<RequestLabels, Histogram, Latency>,
    not_found: Counter,
}

impl HttpMetrics {
    /// Makes them and adds them to a registry.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            responses: Family::default(),
            latency: Family::new_with_constructor(latency as Latency),
            not_found: Counter::default(),
        };
        registry.register("api_requests", "Requests received", metrics.requests.clone());
        registry.register("api_responses", "Responses sent", metrics.responses.clone());
        registry.register(
            "api_request_latency_seconds",
            "Time from request to response",
            metrics.latency.clone(),
        );
        registry.register("http_404_requests", "Requests answered 404", metrics.not_found.clone());
        metrics
    }
}

/// Counts and times a request.
pub async fn track(State(metrics): State<HttpMetrics>, request: Request, next: Next) -> Response {
    let endpoint =
        request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str).to_owned();
    let method = match request.method().as_str() {
        known @ ("GET" | "POST" | "PUT" | "DELETE" | "HEAD" | "OPTIONS") => known.to_owned(),
        _ => "other".to_owned(),
    };
    let labels = RequestLabels { endpoint: endpoint.clone(), method: method.clone() };
    metrics.requests.get_or_create(&labels).inc();
    let start = Instant::now();
    let response = next.run(request).await;
    metrics.latency.get_or_create(&labels).observe(start.elapsed().as_secs_f64());
    let status = response.status().as_u16();
    metrics.responses.get_or_create(&ResponseLabels { endpoint, method, status }).inc();
    if status == 404 {
        metrics.not_found.inc();
    }
    response
}
