//! The gRPC surface: the same engine as HTTP, with the same token, namespaces and errors.

mod classic;
mod memory;

use axum::Router;
use serde_json::{Map, Value};
use soma_platform::auth::ApiToken;
use soma_platform::problem::Problem;
use soma_platform::telemetry;
use soma_proto::memory_v1::memory_service_server::MemoryServiceServer;
use soma_proto::somafractalmemory::memory_service_server::MemoryServiceServer as ClassicServer;
use tonic::metadata::MetadataMap;
use tonic::service::{Routes, interceptor::InterceptedService};
use tonic::{Request, Status};

use crate::{Error, Memory, Scope};

/// All services; health and reflection need no token.
pub(crate) async fn routes(
    memory: &Memory,
    token: &ApiToken,
) -> Result<Routes, tonic_reflection::server::Error> {
    let limit = memory.settings.max_request_body_mb as usize * 1024 * 1024;
    let check = |token: ApiToken| {
        move |request: Request<()>| {
            let header = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
            token.verify(header)?;
            Ok::<_, Status>(request)
        }
    };
    let service = MemoryServiceServer::new(memory::Service(memory.clone())).max_decoding_message_size(limit);
    let classic = ClassicServer::new(classic::Service(memory.clone())).max_decoding_message_size(limit);
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<MemoryServiceServer<memory::Service>>().await;
    reporter.set_serving::<ClassicServer<classic::Service>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(soma_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let router: Router = Routes::new(health)
        .add_service(reflection)
        .add_service(InterceptedService::new(service, check(token.clone())))
        .add_service(InterceptedService::new(classic, check(token.clone())))
        .into_axum_router()
        .layer(axum::middleware::from_fn(telemetry::trace));
    Ok(Routes::from(router))
}

fn scope(metadata: &MetadataMap) -> Result<Scope, Status> {
    let text = |name: &'static str| match metadata.get(name).map(|value| value.to_str()) {
        None => Ok(None),
        Some(Ok(text)) => Ok(Some(text)),
        Some(Err(_)) => Err(Status::invalid_argument(format!("{name}: not ASCII"))),
    };
    let namespace = text("x-soma-namespace")?.unwrap_or(Scope::DEFAULT);
    Scope::new(namespace, text("x-soma-tenant")?).map_err(status)
}

fn status(error: Error) -> Status {
    Problem::from(error).into()
}

/// A JSON object in a text field; empty is `None`.
fn object(text: &str, field: &str) -> Result<Option<Map<String, Value>>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    serde_json::from_str(text).map(Some).map_err(|error| {
        status(Error::invalid(field, format!("not a JSON object: {error}"), "send {\"content\": \"…\"}"))
    })
}
