//! Serving HTTP/1.1 with limits a hostile client cannot get around, and a graceful stop.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::problem::{Code, Problem};

/// How long a client may take to send the head of a request, also of the first one on a connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long requests in flight may take after the stop was asked for.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);
/// Connections held at once; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 1024;

/// Serves until `shutdown`, then lets requests in flight end.
pub async fn serve(listener: TcpListener, app: Router, shutdown: CancellationToken) {
    let graceful = GracefulShutdown::new();
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, most likely: accepting again at once would spin.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // Small answers must not wait for the client's delayed acknowledgement.
        let _ = stream.set_nodelay(true);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(64 * 1024)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app.clone()));
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended early");
            }
            drop(slot);
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN_TIMEOUT, graceful.shutdown()).await.is_err() {
        tracing::warn!(seconds = DRAIN_TIMEOUT.as_secs(), "requests still in flight were dropped");
    }
}

/// Answers 408 when a request is not answered in time: its body came too slowly, or the work took too long.
pub async fn time_limit(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::new(Code::Timeout, format!("not answered within {} s", limit.as_secs()))
            .remedy("send a smaller request, or send it faster")
            .into_response(),
    }
}

/// The answer to a route nobody serves.
#[expect(clippy::unused_async, reason = "handlers are async")]
pub async fn not_found() -> Problem {
    Problem::new(Code::NotFound, "Not Found").remedy("GET /openapi.json lists every route")
}

/// The answer to a method a route does not serve.
#[expect(clippy::unused_async, reason = "handlers are async")]
pub async fn method_not_allowed() -> Problem {
    Problem::new(Code::MethodNotAllowed, "Method Not Allowed")
        .remedy("GET /openapi.json lists the methods of every route")
}

/// A handler that panicked: a problem for the client, and the panic in the log.
#[expect(clippy::needless_pass_by_value, reason = "the signature is tower-http's")]
pub fn panicked(payload: Box<dyn std::any::Any + Send + 'static>) -> Response {
    let what = payload.downcast_ref::<String>().map(String::as_str);
    let what = what.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("unknown");
    tracing::error!(panic = what, "a handler panicked");
    Problem::new(Code::Internal, "the service failed to answer this request").into_response()
}
