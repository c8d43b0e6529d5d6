//! The routes of the original's first surface.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use soma_platform::problem::{Problem, ProblemBody};
use utoipa::ToSchema;

use super::Api;
use super::extract::{Json, Params};
use super::views::{
    BatchBody, Detail, RecallBody, RecallParams, StoreBody, StoredView, Wait, WaitParams, details,
};
use crate::recall::MAX_QUERIES;
use crate::{Error, Hit, NewMemory, Scope, Stored};

/// Memories one request may store.
const MAX_ITEMS: usize = 1000;

/// A stored memory.
#[derive(Serialize, ToSchema)]
pub(super) struct StoreReply {
    ok: bool,
    #[serde(flatten)]
    stored: StoredView,
}

/// Memories to store together.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BulkBody {
    /// At most 1000. All are stored, or none.
    items: Vec<StoreBody>,
}

/// Stored memories, in the order they were sent.
#[derive(Serialize, ToSchema)]
pub(super) struct BulkReply {
    stored: usize,
    results: Vec<StoredView>,
}

/// Payloads that match, best first.
#[derive(Serialize, ToSchema)]
pub(super) struct Matches {
    #[schema(value_type = Vec<Object>)]
    matches: Vec<Value>,
    /// One per match.
    details: Vec<Detail>,
}

/// One list of matches per query.
#[derive(Serialize, ToSchema)]
pub(super) struct Batches {
    #[schema(value_type = Vec<Vec<Object>>)]
    batches: Vec<Vec<Value>>,
    details: Vec<Vec<Detail>>,
}

/// Payloads with their scores.
#[derive(Serialize, ToSchema)]
pub(super) struct Results {
    results: Vec<ScoredPayload>,
}

/// A payload with its score.
#[derive(Serialize, ToSchema)]
pub(super) struct ScoredPayload {
    #[schema(value_type = Object)]
    payload: Value,
    #[serde(flatten)]
    detail: Detail,
}

/// What a namespace holds.
#[derive(Serialize, ToSchema)]
pub(super) struct Stats {
    total_memories: i64,
    episodic: i64,
    semantic: i64,
    vector_count: i64,
    /// The namespace of this request alone.
    #[schema(value_type = Object)]
    namespaces: Map<String, Value>,
}

/// Stores memories and, when asked to, waits for their vectors.
pub(super) async fn keep(
    api: &Api,
    scope: &Scope,
    items: Vec<NewMemory>,
    wait: &WaitParams,
) -> Result<Vec<Stored>, Error> {
    let mut stored = api.memory.store(scope, items).await?;
    if wait.wait == Some(Wait::Indexed) {
        api.memory.wait_indexed(scope, &mut stored).await?;
    }
    Ok(stored)
}

/// Recalls by one query.
pub(super) async fn ask(api: &Api, scope: &Scope, body: RecallBody) -> Result<Vec<Hit>, Error> {
    let recall = body.check(api.memory.settings.max_top_k)?;
    Ok(api.memory.recall(scope, &[body.query], &recall).await?.pop().unwrap_or_default())
}

/// Stores a memory.
#[utoipa::path(post, path = "/store", tag = "memory", params(WaitParams), request_body = StoreBody,
    responses((status = 200, body = StoreReply), (status = "4XX", body = ProblemBody)))]
pub(super) async fn store(
    State(api): State<Api>,
    scope: Scope,
    Params(wait): Params<WaitParams>,
    Json(body): Json<StoreBody>,
) -> Result<axum::Json<StoreReply>, Problem> {
    let stored = keep(&api, &scope, vec![body.check()?], &wait).await?;
    let one = |stored: Stored| axum::Json(StoreReply { ok: true, stored: stored.into() });
    stored
        .into_iter()
        .next()
        .map(one)
        .ok_or_else(|| Error::NamespaceNotFound(scope.namespace().to_owned()).into())
}

/// Stores many memories: all of them, or none.
#[utoipa::path(post, path = "/store_bulk", tag = "memory", params(WaitParams), request_body = BulkBody,
    responses((status = 200, body = BulkReply), (status = "4XX", body = ProblemBody)))]
pub(super) async fn store_bulk(
    State(api): State<Api>,
    scope: Scope,
    Params(wait): Params<WaitParams>,
    Json(body): Json<BulkBody>,
) -> Result<axum::Json<BulkReply>, Problem> {
    if body.items.len() > MAX_ITEMS {
        return Err(Error::invalid("items", "more than 1000 items", "send them in several requests").into());
    }
    let check = |(at, item): (usize, StoreBody)| {
        item.check().map_err(|error| match error {
            Error::Invalid { field, reason, remedy } => {
                Error::Invalid { field: format!("items[{at}].{field}"), reason, remedy }
            }
            other => other,
        })
    };
    let items = body.items.into_iter().enumerate().map(check).collect::<Result<Vec<_>, _>>()?;
    let stored = keep(&api, &scope, items, &wait).await?;
    let results: Vec<StoredView> = stored.into_iter().map(Into::into).collect();
    Ok(axum::Json(BulkReply { stored: results.len(), results }))
}

/// Recalls by meaning.
#[utoipa::path(post, path = "/recall", tag = "memory", request_body = RecallBody,
    responses((status = 200, body = Matches), (status = "4XX", body = ProblemBody)))]
pub(super) async fn recall(
    State(api): State<Api>,
    scope: Scope,
    Json(body): Json<RecallBody>,
) -> Result<axum::Json<Matches>, Problem> {
    let explain = body.explain;
    let hits = ask(&api, &scope, body.unpaged()?).await?;
    let details = details(&hits, explain);
    Ok(axum::Json(Matches { matches: hits.into_iter().map(|hit| hit.payload).collect(), details }))
}

/// Recalls by meaning, asked in the query string.
#[utoipa::path(get, path = "/recall", tag = "memory", params(RecallParams),
    responses((status = 200, body = Matches), (status = "4XX", body = ProblemBody)))]
pub(super) async fn recall_get(
    api: State<Api>,
    scope: Scope,
    Params(params): Params<RecallParams>,
) -> Result<axum::Json<Matches>, Problem> {
    recall(api, scope, Json(params.into_body()?)).await
}

/// Recalls by several queries.
#[utoipa::path(post, path = "/recall_batch", tag = "memory", request_body = BatchBody,
    responses((status = 200, body = Batches), (status = "4XX", body = ProblemBody)))]
pub(super) async fn recall_batch(
    State(api): State<Api>,
    scope: Scope,
    Json(body): Json<BatchBody>,
) -> Result<axum::Json<Batches>, Problem> {
    let body = body.unpaged()?;
    if body.queries.is_empty() || body.queries.len() > MAX_QUERIES {
        return Err(Error::invalid("queries", "not 1 to 100 queries", "send them in several requests").into());
    }
    let recall = body.check(api.memory.settings.max_top_k)?;
    let hits = api.memory.recall(&scope, &body.queries, &recall).await?;
    let details = hits.iter().map(|hits| details(hits, body.explain)).collect();
    let payloads = |hits: Vec<Hit>| hits.into_iter().map(|hit| hit.payload).collect();
    Ok(axum::Json(Batches { batches: hits.into_iter().map(payloads).collect(), details }))
}

/// Recalls by meaning, with a score beside each payload.
#[utoipa::path(post, path = "/recall_with_scores", tag = "memory", request_body = RecallBody,
    responses((status = 200, body = Results), (status = "4XX", body = ProblemBody)))]
pub(super) async fn recall_with_scores(
    State(api): State<Api>,
    scope: Scope,
    Json(body): Json<RecallBody>,
) -> Result<axum::Json<Results>, Problem> {
    let explain = body.explain;
    let hits = ask(&api, &scope, body.unpaged()?).await?;
    let details = details(&hits, explain);
    let scored = |(hit, detail): (Hit, Detail)| ScoredPayload { payload: hit.payload, detail };
    Ok(axum::Json(Results { results: hits.into_iter().zip(details).map(scored).collect() }))
}

/// How many memories the namespace holds.
#[utoipa::path(get, path = "/stats", tag = "memory",
    responses((status = 200, body = Stats), (status = "4XX", body = ProblemBody)))]
pub(super) async fn stats(State(api): State<Api>, scope: Scope) -> Result<axum::Json<Stats>, Problem> {
    let counts = api.memory.counts(&scope).await?;
    let total = counts.episodic + counts.semantic;
    let own = serde_json::json!({ "total": total, "episodic": counts.episodic, "semantic": counts.semantic });
    Ok(axum::Json(Stats {
        total_memories: total,
        episodic: counts.episodic,
        semantic: counts.semantic,
        vector_count: counts.vectors,
        namespaces: [(scope.namespace().to_owned(), own)].into_iter().collect(),
    }))
}
