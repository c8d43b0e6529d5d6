//! Links between memories, in both of the original's forms.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use soma_platform::problem::{Problem, ProblemBody};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::extract::{Json, Params};
use super::views::timestamp;
use crate::{Coordinate, Error, Link, Scope};

/// Steps along links a request may ask for.
const MAX_HOPS: u32 = 5;
/// Neighbours a request may ask for.
const MAX_NEIGHBORS: u32 = 1000;

/// A link, as the first surface spells it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ClassicLink {
    from_coord: String,
    to_coord: String,
    /// Default `related`.
    r#type: Option<String>,
    /// Default 1.
    weight: Option<f64>,
}

/// A link.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LinkBody {
    from_coord: String,
    to_coord: String,
    /// Default `related`.
    link_type: Option<String>,
    /// Default 1.
    strength: Option<f64>,
    /// Anything else.
    #[serde(default)]
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
}

/// Done.
#[derive(Serialize, ToSchema)]
pub(super) struct Done {
    ok: bool,
}

/// The link that was made.
#[derive(Serialize, ToSchema)]
pub(super) struct LinkReply {
    from_coord: String,
    to_coord: String,
    link_type: String,
    strength: f64,
    ok: bool,
}

/// Whose neighbours.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ClassicNeighborsParams {
    coord: String,
    link_type: Option<String>,
    /// 1 to 1000 (default 1000).
    limit: Option<u32>,
}

/// Whose neighbours, how far, and which page.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct NeighborsParams {
    coord: String,
    /// Steps along links, 1 to 5 (default 1).
    k_hop: Option<u32>,
    /// 1 to 1000 (default 10).
    limit: Option<u32>,
    offset: Option<u32>,
    link_type: Option<String>,
}

/// Pairs of a coordinate and what its link holds.
#[derive(Serialize, ToSchema)]
pub(super) struct ClassicNeighbors {
    #[schema(value_type = Vec<Vec<Object>>)]
    neighbors: Vec<(Vec<f64>, Value)>,
}

/// Neighbours, strongest first.
#[derive(Serialize, ToSchema)]
pub(super) struct NeighborsReply {
    coord: String,
    neighbors: Vec<NeighborView>,
}

/// A neighbour.
#[derive(Serialize, ToSchema)]
pub(super) struct NeighborView {
    coordinate: Vec<f64>,
    coord: String,
    link_type: String,
    strength: f64,
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
}

impl LinkBody {
    fn check(self) -> Result<Link, Error> {
        Ok(Link {
            from: Coordinate::parse(&self.from_coord, "from_coord")?,
            to: Coordinate::parse(&self.to_coord, "to_coord")?,
            link_type: self.link_type.unwrap_or_else(|| "related".to_owned()),
            strength: self.strength.unwrap_or(1.0),
            metadata: self.metadata,
            updated_at: 0,
        })
    }
}

/// Links one memory to another.
#[utoipa::path(post, path = "/link", tag = "graph", request_body = ClassicLink,
    responses((status = 200, body = Done), (status = "4XX", body = ProblemBody)))]
pub(super) async fn link_classic(
    State(api): State<Api>,
    scope: Scope,
    Json(body): Json<ClassicLink>,
) -> Result<axum::Json<Done>, Problem> {
    let ClassicLink { from_coord, to_coord, r#type, weight } = body;
    let body = LinkBody { from_coord, to_coord, link_type: r#type, strength: weight, metadata: Map::new() };
    api.memory.link(&scope, &body.check()?).await?;
    Ok(axum::Json(Done { ok: true }))
}

/// The memories a memory is linked to.
#[utoipa::path(get, path = "/neighbors", tag = "graph", params(ClassicNeighborsParams),
    responses((status = 200, body = ClassicNeighbors), (status = "4XX", body = ProblemBody)))]
pub(super) async fn neighbors_classic(
    State(api): State<Api>,
    scope: Scope,
    Params(params): Params<ClassicNeighborsParams>,
) -> Result<axum::Json<ClassicNeighbors>, Problem> {
    let from = Coordinate::parse(&params.coord, "coord")?;
    let limit = bounded(params.limit, MAX_NEIGHBORS, MAX_NEIGHBORS, "limit")?;
    let links = api.memory.neighbors(&scope, &from, params.link_type.as_deref(), 1, limit).await?;
    let pair = |link: Link| {
        let edge = serde_json::json!({
            "to": link.to.values(), "type": link.link_type, "weight": link.strength,
            "timestamp": timestamp(link.updated_at),
        });
        (link.to.values(), edge)
    };
    Ok(axum::Json(ClassicNeighbors { neighbors: links.into_iter().map(pair).collect() }))
}

/// Links one memory to another; the same link again replaces its strength and metadata.
#[utoipa::path(post, path = "/graph/link", tag = "graph", request_body = LinkBody,
    responses((status = 200, body = LinkReply), (status = "4XX", body = ProblemBody)))]
pub(super) async fn link(
    State(api): State<Api>,
    scope: Scope,
    Json(body): Json<LinkBody>,
) -> Result<axum::Json<LinkReply>, Problem> {
    let (from_coord, to_coord) = (body.from_coord.clone(), body.to_coord.clone());
    let link = body.check()?;
    api.memory.link(&scope, &link).await?;
    let Link { link_type, strength, .. } = link;
    Ok(axum::Json(LinkReply { from_coord, to_coord, link_type, strength, ok: true }))
}

/// The memories reached along links.
#[utoipa::path(get, path = "/graph/neighbors", tag = "graph", params(NeighborsParams),
    responses((status = 200, body = NeighborsReply), (status = "4XX", body = ProblemBody)))]
pub(super) async fn neighbors(
    State(api): State<Api>,
    scope: Scope,
    Params(params): Params<NeighborsParams>,
) -> Result<axum::Json<NeighborsReply>, Problem> {
    let from = Coordinate::parse(&params.coord, "coord")?;
    let hops = bounded(params.k_hop, 1, MAX_HOPS, "k_hop")?;
    let limit = bounded(params.limit, 10, MAX_NEIGHBORS, "limit")?;
    let offset = params.offset.unwrap_or(0).min(MAX_NEIGHBORS) as usize;
    let links =
        api.memory.neighbors(&scope, &from, params.link_type.as_deref(), hops, offset + limit).await?;
    let view = |link: Link| NeighborView {
        coordinate: link.to.values(),
        coord: link.to.to_string(),
        link_type: link.link_type,
        strength: link.strength,
        metadata: link.metadata,
    };
    let neighbors = links.into_iter().skip(offset).map(view).collect();
    Ok(axum::Json(NeighborsReply { coord: params.coord, neighbors }))
}

fn bounded(value: Option<u32>, default: u32, max: u32, field: &str) -> Result<usize, Error> {
    match value.unwrap_or(default) {
        value if (1..=max).contains(&value) => Ok(value as usize),
        _ => Err(Error::invalid(field, format!("not between 1 and {max}"), "send a number in that range")),
    }
}
