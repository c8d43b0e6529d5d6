//! The routes of the original's second surface.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use soma_platform::problem::{Problem, ProblemBody};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::classic::{ask, keep};
use super::extract::{At, Json, Params};
use super::views::{MemoryView, RecallBody, RecallParams, StoreBody, WaitParams, found};
use crate::{Coordinate, Error, Kind, Scope};

/// Memories on a page when the request does not say.
const PAGE: u32 = 50;
/// Memories on a page at most.
const MAX_PAGE: u32 = 500;

/// A stored memory.
#[derive(Serialize, ToSchema)]
pub(super) struct CreateReply {
    /// As sent, or as derived.
    coord: String,
    memory_type: Kind,
    ok: bool,
    version: i64,
    indexed: bool,
}

/// One memory.
#[derive(Serialize, ToSchema)]
pub(super) struct MemoryReply {
    memory: MemoryView,
}

/// Whether there was something to delete.
#[derive(Serialize, ToSchema)]
pub(super) struct DeleteReply {
    coord: String,
    deleted: bool,
}

/// Memories that match, best first.
#[derive(Serialize, ToSchema)]
pub(super) struct SearchReply {
    memories: Vec<MemoryView>,
}

/// A page of memories.
#[derive(Serialize, ToSchema)]
pub(super) struct ListReply {
    memories: Vec<MemoryView>,
    /// Send it as `cursor` for the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// Which page.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListParams {
    /// Memories at most, 1 to 500 (default 50).
    limit: Option<u32>,
    /// `next` of the page before.
    cursor: Option<String>,
    #[serde(alias = "type")]
    memory_type: Option<Kind>,
}

/// Stores a memory.
#[utoipa::path(post, path = "/memories", tag = "memory", params(WaitParams), request_body = StoreBody,
    responses((status = 200, body = CreateReply), (status = "4XX", body = ProblemBody)))]
pub(super) async fn create(
    State(api): State<Api>,
    scope: Scope,
    Params(wait): Params<WaitParams>,
    Json(body): Json<StoreBody>,
) -> Result<axum::Json<CreateReply>, Problem> {
    let (sent, memory_type) = (body.coord.clone(), body.r#type);
    let stored = keep(&api, &scope, vec![body.check()?], &wait).await?;
    let one =
        stored.into_iter().next().ok_or_else(|| Error::NamespaceNotFound(scope.namespace().to_owned()))?;
    Ok(axum::Json(CreateReply {
        coord: sent.unwrap_or_else(|| one.coordinate.to_string()),
        memory_type,
        ok: true,
        version: one.version,
        indexed: one.indexed,
    }))
}

/// Lists memories, in the order of their coordinates' text.
#[utoipa::path(get, path = "/memories", tag = "memory", params(ListParams),
    responses((status = 200, body = ListReply), (status = "4XX", body = ProblemBody)))]
pub(super) async fn list(
    State(api): State<Api>,
    scope: Scope,
    Params(params): Params<ListParams>,
) -> Result<axum::Json<ListReply>, Problem> {
    let limit = params.limit.unwrap_or(PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(Error::invalid("limit", "not between 1 and 500", "ask for a smaller page").into());
    }
    let after = params.cursor.map(|text| Coordinate::parse(&text, "cursor")).transpose()?;
    let page = api.memory.list(&scope, params.memory_type, after.as_ref(), limit as usize).await?;
    Ok(axum::Json(ListReply {
        memories: page.memories.into_iter().map(Into::into).collect(),
        next: page.next.map(|coordinate| coordinate.to_string()),
    }))
}

/// One memory.
#[utoipa::path(get, path = "/memories/{coord}", tag = "memory", params(("coord" = String, Path)),
    responses((status = 200, body = MemoryReply), (status = "4XX", body = ProblemBody)))]
pub(super) async fn get(
    State(api): State<Api>,
    scope: Scope,
    At(coordinate): At,
) -> Result<axum::Json<MemoryReply>, Problem> {
    let record = api.memory.get(&scope, &coordinate).await?;
    Ok(axum::Json(MemoryReply { memory: record.into() }))
}

/// Forgets a memory and its links.
#[utoipa::path(delete, path = "/memories/{coord}", tag = "memory", params(("coord" = String, Path)),
    responses((status = 200, body = DeleteReply), (status = "4XX", body = ProblemBody)))]
pub(super) async fn delete(
    State(api): State<Api>,
    scope: Scope,
    At(coordinate): At,
) -> Result<axum::Json<DeleteReply>, Problem> {
    let deleted = api.memory.delete(&scope, &coordinate).await?;
    Ok(axum::Json(DeleteReply { coord: coordinate.to_string(), deleted }))
}

/// Recalls by meaning, a page at a time.
#[utoipa::path(post, path = "/memories/search", tag = "memory", request_body = RecallBody,
    responses((status = 200, body = SearchReply), (status = "4XX", body = ProblemBody)))]
pub(super) async fn search(
    State(api): State<Api>,
    scope: Scope,
    Json(mut body): Json<RecallBody>,
) -> Result<axum::Json<SearchReply>, Problem> {
    let (explain, offset) = (body.explain, body.offset.unwrap_or(0));
    // The best of all come first, so a later page is the end of a longer list.
    body.top_k = Some(body.top_k.unwrap_or(5).saturating_add(offset));
    let hits = ask(&api, &scope, body).await?;
    Ok(axum::Json(SearchReply { memories: found(hits, explain, offset as usize) }))
}

/// Recalls by meaning, asked in the query string.
#[utoipa::path(get, path = "/memories/search", tag = "memory", params(RecallParams),
    responses((status = 200, body = SearchReply), (status = "4XX", body = ProblemBody)))]
pub(super) async fn search_get(
    api: State<Api>,
    scope: Scope,
    Params(params): Params<RecallParams>,
) -> Result<axum::Json<SearchReply>, Problem> {
    search(api, scope, Json(params.into_body()?)).await
}
