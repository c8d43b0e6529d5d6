//! Live and ready: whether the process runs, and whether what it depends on does.

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::problem::{Code, Problem};

/// Something the service cannot work without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dependency {
    /// Its name, as `/readyz` spells it.
    pub name: &'static str,
    /// Why it cannot be used, or `None` when it can.
    pub failure: Option<String>,
}

/// The answer of `/readyz`: 200, or a 503 problem that names every dependency that is down.
pub fn ready(dependencies: &[Dependency], draining: bool) -> Response {
    if draining {
        return Problem::new(Code::Unavailable, "the service is stopping")
            .remedy("send the request to another replica")
            .into_response();
    }
    let down: Vec<_> = dependencies
        .iter()
        .filter_map(|d| d.failure.as_ref().map(|failure| format!("{}: {failure}", d.name)))
        .collect();
    if down.is_empty() {
        let names: Vec<_> = dependencies.iter().map(|d| d.name).collect();
        return Json(json!({ "status": "ok", "dependencies": names })).into_response();
    }
    Problem::new(Code::Unavailable, down.join("; "))
        .remedy("the service recovers by itself once what is named here answers again")
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::StatusCode;

    #[tokio::test]
    async fn a_dependency_that_is_down_is_named() {
        let up = Dependency { name: "embedder", failure: None };
        let down = Dependency { name: "postgres", failure: Some("connection refused".into()) };
        assert_eq!(ready(std::slice::from_ref(&up), false).status(), StatusCode::OK);
        assert_eq!(ready(std::slice::from_ref(&up), true).status(), StatusCode::SERVICE_UNAVAILABLE);
        let response = ready(&[up, down], false);
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        let body = axum::body::to_bytes(response.into_body(), 4096).await.unwrap();
        let text = String::from_utf8_lossy(&body);
        assert!(text.contains("postgres: connection refused") && !text.contains("embedder"), "{text}");
    }
}
