//! `/healthz`: the process is up. `/readyz`: its kinds are installed, or what is missing. `/metrics`.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::runtime::wait::{self, conditions};
use kube::{Api, Client};
use tokio::net::TcpListener;

use crate::controllers::Stop;
use crate::metrics::Metrics;

/// The definitions the controllers need.
pub const DEFINITIONS: [&str; 3] =
    ["somainfras.somastack.dev", "somastacks.somastack.dev", "memorynamespaces.somastack.dev"];

/// What readiness waits for.
#[derive(Clone)]
pub struct Health {
    missing: Arc<Mutex<BTreeSet<&'static str>>>,
    metrics: Metrics,
}

impl Health {
    pub fn new(metrics: Metrics) -> Self {
        Self { missing: Arc::new(Mutex::new(DEFINITIONS.into())), metrics }
    }

    /// Waits until every definition is established. A cluster without them is no reason to restart.
    pub async fn await_definitions(&self, client: Client) -> Result<(), wait::Error> {
        for name in DEFINITIONS {
            let api: Api<CustomResourceDefinition> = Api::all(client.clone());
            wait::await_condition(api, name, conditions::is_crd_established()).await?;
            self.missing.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
            tracing::info!(definition = name, "established");
        }
        Ok(())
    }

    fn missing(&self) -> Vec<&'static str> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}

/// Serves until `stop`.
pub async fn serve(address: SocketAddr, health: Health, stop: Stop) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    tracing::info!(address = %listener.local_addr()?, "serves health and metrics");
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(health);
    axum::serve(listener, router).with_graceful_shutdown(stop).await
}

async fn ready(State(health): State<Health>) -> Response {
    let missing = health.missing();
    if missing.is_empty() {
        return "ok\n".into_response();
    }
    let body = format!("waiting for custom resource definitions: {}\n", missing.join(", "));
    (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
}

async fn metrics(State(health): State<Health>) -> Response {
    let kind = [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")];
    match health.metrics.render() {
        Ok(text) => (kind, text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
