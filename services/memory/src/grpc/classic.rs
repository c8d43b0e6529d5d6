//! `somafractalmemory.MemoryService`: the wire format of the original.

use soma_proto::somafractalmemory as pb;
use soma_proto::somafractalmemory::memory_service_server::MemoryService;
use tonic::{Request, Response, Status};

use super::{object, scope, status};
use crate::model::meaning;
use crate::recall::RawRecall;
use crate::{Coordinate, Error, Kind, Memory, NewMemory, Recall, Scope};

/// The service.
pub(super) struct Service(pub Memory);

impl Service {
    /// The memory at a coordinate, then those nearest to it in meaning.
    async fn around(&self, scope: &Scope, body: &pb::RetrieveRequest) -> Result<Vec<pb::Memory>, Error> {
        let at = coordinate(body.query.as_ref())?;
        let top_k = match body.top_k {
            0 => None,
            // Out of range either way: refused below by its name.
            n => Some(u32::try_from(n).unwrap_or(0)),
        };
        let kind = Kind::parse(&body.memory_type, "memory_type")?;
        let raw = RawRecall { top_k, kind, ..Default::default() };
        let recall = Recall::parse(&raw, self.0.settings.max_top_k)?;
        let here = self.0.get(scope, &at).await?;
        let text = meaning(&here.payload);
        // One more than asked for: the memory itself is among them.
        let hits =
            self.0.recall(scope, &[text], &Recall { top_k: recall.top_k + 1, ..recall.clone() }).await?;
        let others = hits.into_iter().flatten().filter(|hit| hit.coordinate != at);
        let others = others.map(|hit| memory(&hit.coordinate, &hit.payload, hit.kind));
        let first = kind.is_none_or(|kind| kind == here.kind);
        let first = first.then(|| memory(&at, &here.payload, here.kind));
        Ok(first.into_iter().chain(others).take(recall.top_k).collect())
    }
}

#[tonic::async_trait]
impl MemoryService for Service {
    async fn store(&self, request: Request<pb::StoreRequest>) -> Result<Response<pb::StoreResponse>, Status> {
        let scope = scope(request.metadata())?;
        let body = request.into_inner().memory.unwrap_or_default();
        let payload = object(&body.payload_json, "payload_json")?.unwrap_or_default();
        let at =
            body.coord.as_ref().map(|c| Coordinate::new(&c.values, "coord")).transpose().map_err(status)?;
        let kind = Kind::parse(&body.memory_type, "memory_type").map_err(status)?.unwrap_or_default();
        let memory = NewMemory::new(at, None, kind, payload).map_err(status)?;
        let id = memory.coordinate().to_string();
        self.0.store(&scope, vec![memory]).await.map_err(status)?;
        Ok(Response::new(pb::StoreResponse { ok: true, id }))
    }

    async fn recall(
        &self,
        request: Request<pb::RetrieveRequest>,
    ) -> Result<Response<pb::RecallResult>, Status> {
        let scope = scope(request.metadata())?;
        let memories = self.around(&scope, request.get_ref()).await.map_err(status)?;
        Ok(Response::new(pb::RecallResult { memories }))
    }

    async fn delete(
        &self,
        request: Request<pb::DeleteRequest>,
    ) -> Result<Response<pb::DeleteResponse>, Status> {
        let scope = scope(request.metadata())?;
        let at = coordinate(request.get_ref().coord.as_ref()).map_err(status)?;
        let ok = self.0.delete(&scope, &at).await.map_err(status)?;
        Ok(Response::new(pb::DeleteResponse { ok }))
    }

    async fn health(&self, _: Request<()>) -> Result<Response<pb::HealthResponse>, Status> {
        let up = self.0.dependencies().await.iter().all(|dependency| dependency.failure.is_none());
        Ok(Response::new(pb::HealthResponse { status: if up { "ok" } else { "degraded" }.to_owned() }))
    }
}

fn coordinate(coord: Option<&pb::Coordinate>) -> Result<Coordinate, Error> {
    Coordinate::new(coord.map_or(&[], |c| &c.values), "coord")
}

fn memory(at: &Coordinate, payload: &serde_json::Value, kind: Kind) -> pb::Memory {
    pb::Memory {
        coord: Some(pb::Coordinate { values: at.values() }),
        payload_json: payload.to_string(),
        memory_type: kind.as_str().to_owned(),
    }
}
