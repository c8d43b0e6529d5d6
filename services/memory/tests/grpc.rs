//! The gRPC surface, against the real server and with the generated clients.

#![allow(clippy::unwrap_used, clippy::panic, clippy::similar_names, reason = "a test fails by panicking")]

mod common;

use common::{Service, TOKEN};
use soma_proto::memory_v1 as pb;
use soma_proto::memory_v1::memory_service_client::MemoryServiceClient;
use soma_proto::somafractalmemory as classic;
use soma_proto::somafractalmemory::memory_service_client::MemoryServiceClient as ClassicClient;
use tonic::transport::Channel;
use tonic::{Code, Request};
use tonic_health::pb::health_client::HealthClient;

async fn channel(service: &Service) -> Channel {
    Channel::from_shared(service.grpc.clone()).unwrap().connect().await.unwrap()
}

fn with_token<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
    request
}

fn store(coordinate: &str, content: &str) -> pb::StoreRequest {
    pb::StoreRequest {
        coordinate: Some(coordinate.into()),
        payload_json: serde_json::json!({ "content": content }).to_string(),
        wait_indexed: true,
        ..Default::default()
    }
}

#[tokio::test]
async fn what_is_stored_by_grpc_is_recalled_by_grpc_and_http() {
    let service = Service::sqlite().await;
    let mut client = MemoryServiceClient::new(channel(&service).await);
    for (at, content) in [("1,1", "the cat sat"), ("2,2", "a dog barked")] {
        let stored = client.store(with_token(store(at, content))).await.unwrap().into_inner();
        assert!(stored.indexed && stored.version == 1);
    }
    let ask = pb::RecallRequest { query: "cat".into(), top_k: 1, explain: true, ..Default::default() };
    let found = client.recall(with_token(ask)).await.unwrap().into_inner().matches;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].memory.as_ref().unwrap().coordinate, "1.0,1.0");
    assert_eq!(found[0].explanation.as_ref().unwrap().rank, 1);
    let (_, over_http) = service.get("/recall?query=cat&top_k=1").await;
    assert_eq!(over_http["details"][0]["coord"], "1.0,1.0");

    let get = pb::GetRequest { coordinate: "2,2".into() };
    let one = client.get(with_token(get)).await.unwrap().into_inner().memory.unwrap();
    assert_eq!(one.payload_json, r#"{"content":"a dog barked"}"#);
    let list = client
        .list(with_token(pb::ListRequest { limit: 1, ..Default::default() }))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((list.memories.len(), list.next_cursor.as_str()), (1, "1.0,1.0"));
    let link =
        pb::LinkRequest { from_coordinate: "1,1".into(), to_coordinate: "2,2".into(), ..Default::default() };
    assert!(client.link(with_token(link)).await.unwrap().into_inner().ok);
    let near = pb::NeighborsRequest { coordinate: "1,1".into(), ..Default::default() };
    assert_eq!(
        client.neighbors(with_token(near)).await.unwrap().into_inner().neighbors[0].link_type,
        "related"
    );
    let delete = pb::DeleteRequest { coordinate: "2,2".into() };
    assert!(client.delete(with_token(delete.clone())).await.unwrap().into_inner().deleted);
    assert!(!client.delete(with_token(delete)).await.unwrap().into_inner().deleted);
}

#[tokio::test]
async fn errors_have_their_code() {
    let service = Service::sqlite().await;
    let mut client = MemoryServiceClient::new(channel(&service).await);
    let code = |result: Result<tonic::Response<pb::StoreResponse>, tonic::Status>| result.unwrap_err().code();
    assert_eq!(code(client.store(Request::new(store("1", "x"))).await), Code::Unauthenticated);
    assert_eq!(code(client.store(with_token(store("nan", "x"))).await), Code::InvalidArgument);
    let broken = pb::StoreRequest { payload_json: "{".into(), ..Default::default() };
    assert_eq!(code(client.store(with_token(broken)).await), Code::InvalidArgument);
    let mut elsewhere = with_token(store("1", "x"));
    elsewhere.metadata_mut().insert("x-soma-namespace", "nowhere".parse().unwrap());
    assert_eq!(code(client.store(elsewhere).await), Code::NotFound);
    let huge = pb::StoreRequest { payload_json: " ".repeat(6 << 20), ..Default::default() };
    assert_eq!(code(client.store(with_token(huge)).await), Code::OutOfRange);
    let missing = client.get(with_token(pb::GetRequest { coordinate: "9".into() })).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    assert!(missing.message().starts_with("Memory not found"), "{missing}");
}

#[tokio::test]
async fn clients_of_the_original_are_served() {
    let service = Service::sqlite().await;
    let mut client = ClassicClient::new(channel(&service).await);
    let at = |values: &[f64]| Some(classic::Coordinate { values: values.to_vec() });
    for (values, content) in
        [(&[1.0, 1.0], "the cat sat"), (&[2.0, 2.0], "the cat ran"), (&[3.0, 3.0], "rain")]
    {
        let payload_json = serde_json::json!({ "content": content }).to_string();
        let memory = classic::Memory { coord: at(values), payload_json, memory_type: "semantic".into() };
        let stored = client.store(with_token(classic::StoreRequest { memory: Some(memory) })).await.unwrap();
        assert!(stored.into_inner().ok);
    }
    // A store by this contract cannot wait, so another surface does.
    service
        .post("/store?wait=indexed", &serde_json::json!({"coord": "4", "payload": {"content": "z"}}))
        .await;
    let ask = classic::RetrieveRequest { query: at(&[2.0, 2.0]), top_k: 2, ..Default::default() };
    let found = client.recall(with_token(ask)).await.unwrap().into_inner().memories;
    let places: Vec<_> = found.iter().map(|m| m.coord.as_ref().unwrap().values.clone()).collect();
    assert_eq!(places, [[2.0, 2.0], [1.0, 1.0]]);
    let nowhere = classic::RetrieveRequest { query: at(&[9.0]), ..Default::default() };
    assert_eq!(client.recall(with_token(nowhere)).await.unwrap_err().code(), Code::NotFound);
    let delete = classic::DeleteRequest { coord: at(&[1.0, 1.0]) };
    assert!(client.delete(with_token(delete)).await.unwrap().into_inner().ok);
    assert_eq!(client.health(with_token(())).await.unwrap().into_inner().status, "ok");
}

#[tokio::test]
async fn health_is_told_without_a_token() {
    let service = Service::sqlite().await;
    let mut client = HealthClient::new(channel(&service).await);
    let ask = tonic_health::pb::HealthCheckRequest { service: "soma.memory.v1.MemoryService".into() };
    assert_eq!(client.check(ask).await.unwrap().into_inner().status, 1);
}
