//! Routes that need no token.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use soma_platform::health;
use soma_platform::problem::ProblemBody;
use utoipa::ToSchema;

use super::Api;

/// The service runs.
#[derive(Serialize, ToSchema)]
pub(super) struct Live {
    status: &'static str,
    service: &'static str,
    version: &'static str,
}

fn live() -> Json<Live> {
    Json(Live { status: "ok", service: "soma-memory", version: env!("CARGO_PKG_VERSION") })
}

/// What this is.
#[utoipa::path(get, path = "/", tag = "service", responses((status = 200, body = Live)))]
pub(super) async fn root() -> Json<Live> {
    live()
}

/// Whether the process runs.
#[utoipa::path(get, path = "/healthz", tag = "service", responses((status = 200, body = Live)))]
pub(super) async fn healthz() -> Json<Live> {
    live()
}

/// Whether the process runs.
#[utoipa::path(get, path = "/ping", tag = "service", responses((status = 200, body = Live)))]
pub(super) async fn ping() -> Json<Live> {
    live()
}

/// Which of the original's stores work. All of them live in the one database.
#[derive(Serialize, ToSchema)]
pub(super) struct Stores {
    kv_store: bool,
    vector_store: bool,
    graph_store: bool,
}

/// Whether the stores work, always 200: `/readyz` is the one to act on.
#[utoipa::path(get, path = "/health", tag = "service", responses((status = 200, body = Stores)))]
pub(super) async fn health(State(api): State<Api>) -> Json<Stores> {
    let up = api.memory.dependencies().await.iter().all(|dependency| dependency.failure.is_none());
    Json(Stores { kv_store: up, vector_store: up, graph_store: up })
}

/// Whether requests can be answered; names what is missing.
#[utoipa::path(get, path = "/readyz", tag = "service",
    responses((status = 200, body = Object), (status = 503, body = ProblemBody)))]
pub(super) async fn readyz(State(api): State<Api>) -> Response {
    health::ready(&api.memory.dependencies().await, api.draining.is_cancelled())
}

/// Metrics for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "service", responses((status = 200, body = String)))]
pub(super) async fn metrics(State(api): State<Api>) -> Response {
    soma_platform::metrics::render(&api.memory.metrics.registry)
}
