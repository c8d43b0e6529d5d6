//! `soma.memory.v1.MemoryService`.

use soma_proto::memory_v1 as pb;
use soma_proto::memory_v1::memory_service_server::MemoryService;
use tonic::{Request, Response, Status};

use super::{object, scope, status};
use crate::model::Record;
use crate::recall::RawRecall;
use crate::{Coordinate, Error, Hit, Kind, Link, Memory, NewMemory, Recall};

/// Memories on a page at most, and neighbours.
const MAX_PAGE: u32 = 500;

/// The service.
pub(super) struct Service(pub Memory);

#[tonic::async_trait]
impl MemoryService for Service {
    async fn store(&self, request: Request<pb::StoreRequest>) -> Result<Response<pb::StoreResponse>, Status> {
        let scope = scope(request.metadata())?;
        let body = request.into_inner();
        let coordinate =
            body.coordinate.map(|text| Coordinate::parse(&text, "coordinate")).transpose().map_err(status)?;
        let kind = Kind::parse(&body.memory_type, "memory_type").map_err(status)?.unwrap_or_default();
        let payload = object(&body.payload_json, "payload_json")?.unwrap_or_default();
        let memory = NewMemory::new(coordinate, body.key.as_deref(), kind, payload).map_err(status)?;
        let mut stored = self.0.store(&scope, vec![memory]).await.map_err(status)?;
        if body.wait_indexed {
            self.0.wait_indexed(&scope, &mut stored).await.map_err(status)?;
        }
        let one = stored.pop().ok_or_else(|| Status::internal("nothing was stored"))?;
        Ok(Response::new(pb::StoreResponse {
            coordinate: one.coordinate.to_string(),
            version: one.version,
            indexed: one.indexed,
        }))
    }

    async fn recall(
        &self,
        request: Request<pb::RecallRequest>,
    ) -> Result<Response<pb::RecallResponse>, Status> {
        let scope = scope(request.metadata())?;
        let body = request.into_inner();
        let filters = object(&body.filters_json, "filters_json")?;
        let raw = RawRecall {
            top_k: (body.top_k != 0).then_some(body.top_k),
            kind: Kind::parse(&body.memory_type, "memory_type").map_err(status)?,
            filters: filters.as_ref(),
            min_score: body.min_score,
            mode: Some(&body.mode),
            ..Default::default()
        };
        let recall = Recall::parse(&raw, self.0.settings.max_top_k).map_err(status)?;
        let hits = self.0.recall(&scope, &[body.query], &recall).await.map_err(status)?;
        let matches = hits.into_iter().flatten().zip(1..).map(|(hit, rank)| found(hit, rank, body.explain));
        Ok(Response::new(pb::RecallResponse { matches: matches.collect() }))
    }

    async fn get(&self, request: Request<pb::GetRequest>) -> Result<Response<pb::GetResponse>, Status> {
        let scope = scope(request.metadata())?;
        let coordinate = Coordinate::parse(&request.get_ref().coordinate, "coordinate").map_err(status)?;
        let record = self.0.get(&scope, &coordinate).await.map_err(status)?;
        Ok(Response::new(pb::GetResponse { memory: Some(view(&record)) }))
    }

    async fn list(&self, request: Request<pb::ListRequest>) -> Result<Response<pb::ListResponse>, Status> {
        let scope = scope(request.metadata())?;
        let body = request.into_inner();
        let limit = page(body.limit, 50, "limit")?;
        let kind = Kind::parse(&body.memory_type, "memory_type").map_err(status)?;
        let after = (!body.cursor.is_empty()).then(|| Coordinate::parse(&body.cursor, "cursor"));
        let after = after.transpose().map_err(status)?;
        let page = self.0.list(&scope, kind, after.as_ref(), limit).await.map_err(status)?;
        Ok(Response::new(pb::ListResponse {
            memories: page.memories.into_iter().map(|record| view(&record)).collect(),
            next_cursor: page.next.map(|c| c.to_string()).unwrap_or_default(),
        }))
    }

    async fn delete(
        &self,
        request: Request<pb::DeleteRequest>,
    ) -> Result<Response<pb::DeleteResponse>, Status> {
        let scope = scope(request.metadata())?;
        let coordinate = Coordinate::parse(&request.get_ref().coordinate, "coordinate").map_err(status)?;
        let deleted = self.0.delete(&scope, &coordinate).await.map_err(status)?;
        Ok(Response::new(pb::DeleteResponse { deleted }))
    }

    async fn link(&self, request: Request<pb::LinkRequest>) -> Result<Response<pb::LinkResponse>, Status> {
        let scope = scope(request.metadata())?;
        let body = request.into_inner();
        let link = Link {
            from: Coordinate::parse(&body.from_coordinate, "from_coordinate").map_err(status)?,
            to: Coordinate::parse(&body.to_coordinate, "to_coordinate").map_err(status)?,
            link_type: if body.link_type.is_empty() { "related".to_owned() } else { body.link_type },
            strength: body.strength.unwrap_or(1.0),
            metadata: object(&body.metadata_json, "metadata_json")?.unwrap_or_default(),
            updated_at: 0,
        };
        self.0.link(&scope, &link).await.map_err(status)?;
        Ok(Response::new(pb::LinkResponse { ok: true }))
    }

    async fn neighbors(
        &self,
        request: Request<pb::NeighborsRequest>,
    ) -> Result<Response<pb::NeighborsResponse>, Status> {
        let scope = scope(request.metadata())?;
        let body = request.into_inner();
        let from = Coordinate::parse(&body.coordinate, "coordinate").map_err(status)?;
        let limit = page(body.limit, 10, "limit")?;
        let hops = page(body.hops, 1, "hops")?.min(5);
        let offset = body.offset.min(MAX_PAGE) as usize;
        let link_type = (!body.link_type.is_empty()).then_some(body.link_type.as_str());
        let links = self.0.neighbors(&scope, &from, link_type, hops, offset + limit).await.map_err(status)?;
        let neighbor = |link: Link| pb::Neighbor {
            coordinate: link.to.to_string(),
            link_type: link.link_type,
            strength: link.strength,
        };
        let neighbors = links.into_iter().skip(offset).map(neighbor).collect();
        Ok(Response::new(pb::NeighborsResponse { neighbors }))
    }
}

fn page(value: u32, default: u32, field: &str) -> Result<usize, Status> {
    match if value == 0 { default } else { value } {
        value if value <= MAX_PAGE => Ok(value as usize),
        _ => Err(status(Error::invalid(field, format!("more than {MAX_PAGE}"), "send less"))),
    }
}

fn found(hit: Hit, rank: u32, explain: bool) -> pb::Match {
    let explanation =
        explain.then_some(pb::Explanation { cosine: hit.cosine, importance_norm: hit.importance_norm, rank });
    let score = hit.score;
    let record = Record {
        coordinate: hit.coordinate,
        kind: hit.kind,
        payload: hit.payload,
        importance: hit.importance,
        version: hit.version,
        created_at: hit.created_at,
        updated_at: hit.updated_at,
        indexed: true,
    };
    pb::Match { memory: Some(view(&record)), score, explanation }
}

fn view(record: &Record) -> pb::Memory {
    let time = |micros| jiff::Timestamp::from_microsecond(micros).unwrap_or_default().to_string();
    pb::Memory {
        coordinate: record.coordinate.to_string(),
        memory_type: record.kind.as_str().to_owned(),
        payload_json: record.payload.to_string(),
        version: record.version,
        importance: record.importance,
        created_at: time(record.created_at),
        updated_at: time(record.updated_at),
        indexed: record.indexed,
    }
}
