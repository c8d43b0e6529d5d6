//! The HTTP surface: the original's October routes, its later `/memories` and `/graph` routes, and administration.

mod admin;
mod classic;
mod extract;
mod graph;
mod health;
mod memories;
mod views;

use std::sync::LazyLock;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use soma_platform::auth::ApiToken;
use soma_platform::problem::Problem;
use soma_platform::{http, metrics, telemetry};
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::Memory;

/// A request must have arrived and been answered within this time.
const TIME_LIMIT: Duration = Duration::from_secs(30);

/// What every handler can ask for.
#[derive(Clone)]
pub(crate) struct Api {
    pub memory: Memory,
    /// Cancelled when the service is asked to stop.
    pub draining: CancellationToken,
}

/// The application, with authentication, limits, metrics and traces.
pub(crate) fn router(api: Api, token: ApiToken) -> Router {
    let http_metrics = api.memory.metrics.http.clone();
    let protected = protected().route_layer(middleware::from_fn_with_state(token, require_token));
    let (router, _) = public().merge(protected).split_for_parts();
    router
        .fallback(http::not_found)
        .method_not_allowed_fallback(http::method_not_allowed)
        .with_state(api)
        .layer(CatchPanicLayer::custom(http::panicked))
        .layer(middleware::from_fn_with_state(TIME_LIMIT, http::time_limit))
        .layer(middleware::from_fn_with_state(http_metrics, metrics::track))
        .layer(middleware::from_fn(telemetry::trace))
}

/// The description of every route, as `/openapi.json` serves it.
pub fn openapi() -> OpenApi {
    let mut api = public().merge(protected()).into_openapi();
    api.info = utoipa::openapi::InfoBuilder::new()
        .title("Soma memory service")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Durable memory, recalled by meaning. Every route but the health routes, `/metrics` and this one takes \
             `Authorization: Bearer <SOMA_API_TOKEN>`; the namespace is the header `X-Soma-Namespace`. Errors are \
             problem JSON (RFC 9457).",
        ))
        .build();
    api
}

fn public() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(health::root))
        .routes(routes!(health::health))
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(health::ping))
        .routes(routes!(health::metrics))
        .routes(routes!(describe))
}

fn protected() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(classic::store))
        .routes(routes!(classic::store_bulk))
        .routes(routes!(classic::recall, classic::recall_get))
        .routes(routes!(classic::recall_batch))
        .routes(routes!(classic::recall_with_scores))
        .routes(routes!(classic::stats))
        .routes(routes!(memories::create, memories::list))
        .routes(routes!(memories::search, memories::search_get))
        .routes(routes!(memories::get, memories::delete))
        .routes(routes!(graph::link_classic))
        .routes(routes!(graph::neighbors_classic))
        .routes(routes!(graph::link))
        .routes(routes!(graph::neighbors))
        .routes(routes!(admin::list))
        .routes(routes!(admin::usage))
        .routes(routes!(admin::put, admin::get, admin::delete))
}

/// This description.
#[utoipa::path(get, path = "/openapi.json", tag = "service", responses((status = 200, body = Object)))]
async fn describe() -> Response {
    static TEXT: LazyLock<String> = LazyLock::new(|| openapi().to_json().unwrap_or_default());
    ([(header::CONTENT_TYPE, "application/json")], TEXT.as_str()).into_response()
}

async fn require_token(
    State(token): State<ApiToken>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let header = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    token.verify(header)?;
    Ok(next.run(request).await)
}
