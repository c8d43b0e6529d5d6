//! Administration: provisioning namespaces and watching what they hold.

use std::collections::HashMap;
use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures::Stream;
use serde::Serialize;
use soma_platform::problem::{Problem, ProblemBody};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::ToSchema;

use super::Api;
use super::extract::{Json, Name};
use crate::{Namespace, NamespaceSpec, Usage};

/// How often usage is compared; a namespace is reported at most this often.
const USAGE_PERIOD: Duration = Duration::from_secs(1);

/// Every namespace.
#[derive(Serialize, ToSchema)]
pub(super) struct ListReply {
    namespaces: Vec<Namespace>,
}

/// One event of the stream of usage.
#[derive(Serialize, ToSchema)]
pub(super) struct UsageEvent {
    name: String,
    usage: Usage,
}

/// Makes a namespace, or changes its quota.
#[utoipa::path(put, path = "/v1/admin/namespaces/{name}", tag = "admin", params(("name" = String, Path)),
    request_body = NamespaceSpec,
    responses((status = 200, body = Namespace), (status = "4XX", body = ProblemBody)))]
pub(super) async fn put(
    State(api): State<Api>,
    Name(name): Name,
    Json(spec): Json<NamespaceSpec>,
) -> Result<axum::Json<Namespace>, Problem> {
    Ok(axum::Json(api.memory.put_namespace(&name, &spec).await?))
}

/// One namespace.
#[utoipa::path(get, path = "/v1/admin/namespaces/{name}", tag = "admin", params(("name" = String, Path)),
    responses((status = 200, body = Namespace), (status = "4XX", body = ProblemBody)))]
pub(super) async fn get(State(api): State<Api>, Name(name): Name) -> Result<axum::Json<Namespace>, Problem> {
    Ok(axum::Json(api.memory.find_namespace(&name).await?))
}

/// Every namespace.
#[utoipa::path(get, path = "/v1/admin/namespaces", tag = "admin",
    responses((status = 200, body = ListReply), (status = "4XX", body = ProblemBody)))]
pub(super) async fn list(State(api): State<Api>) -> Result<axum::Json<ListReply>, Problem> {
    Ok(axum::Json(ListReply { namespaces: api.memory.namespaces().await? }))
}

/// Deletes a namespace with all its memories; absent already is as good.
#[utoipa::path(delete, path = "/v1/admin/namespaces/{name}", tag = "admin", params(("name" = String, Path)),
    responses((status = 204), (status = "4XX", body = ProblemBody)))]
pub(super) async fn delete(State(api): State<Api>, Name(name): Name) -> Result<StatusCode, Problem> {
    api.memory.delete_namespace(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What every namespace holds: all of them at first, then those that change.
#[utoipa::path(get, path = "/v1/admin/namespaces/usage", tag = "admin",
    responses((status = 200, body = UsageEvent, content_type = "text/event-stream"),
        (status = "4XX", body = ProblemBody)))]
pub(super) async fn usage(
    State(api): State<Api>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let first = api.memory.namespaces().await?;
    let (sender, receiver) = mpsc::channel(64);
    tokio::spawn(async move {
        tokio::select! {
            () = report(&api, first, &sender) => {}
            () = sender.closed() => {}
            () = api.draining.cancelled() => {}
        }
    });
    Ok(Sse::new(ReceiverStream::new(receiver)).keep_alive(KeepAlive::default()))
}

/// Sends what changed, until the receiver is gone. Namespaces of other replicas change too, so the store is asked.
async fn report(api: &Api, mut namespaces: Vec<Namespace>, sender: &mpsc::Sender<Result<Event, Infallible>>) {
    let mut known: HashMap<String, Usage> = HashMap::new();
    loop {
        for Namespace { name, usage, .. } in namespaces {
            if known.insert(name.clone(), usage) == Some(usage) {
                continue;
            }
            let Ok(event) = Event::default().json_data(UsageEvent { name, usage }) else { return };
            if sender.send(Ok(event)).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(USAGE_PERIOD).await;
        // While the database is away nothing can change; the stream stays open.
        namespaces = api.memory.namespaces().await.unwrap_or_default();
    }
}
