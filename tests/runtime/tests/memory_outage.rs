//! The store goes away, or fills up: clear answers, nothing lost, recovery without a restart.

#![allow(clippy::unwrap_used, clippy::panic, clippy::similar_names, reason = "a test fails by panicking")]

use serde_json::{Value, json};
use soma_runtime_tests::{MemoryService, answer};
use soma_testenv::Postgres;

#[tokio::test]
async fn postgres_stops_and_comes_back() {
    let mut server = Postgres::start().await.unwrap();
    let mut service = MemoryService::on_postgres(&server).await.unwrap();
    service.start().await.unwrap();
    let pid = service.pid().unwrap();
    assert_eq!(service.store("before", "the kettle is blue").await.unwrap().0, 200);

    server.stop().await.unwrap();
    let body = json!({"key": "during", "payload": {"content": "lost"}});
    let response = service.request("POST", "/store").unwrap().json(&body).send().await.unwrap();
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
    let problem: Value = response.json().await.unwrap();
    assert_eq!(problem["detail"], "the database is unavailable");
    for path in ["/recall?query=kettle", "/memories/1,2", "/v1/admin/namespaces"] {
        assert_eq!(answer(service.request("GET", path).unwrap()).await.unwrap().0, 503, "{path}");
    }
    let (status, ready) = answer(service.request("GET", "/readyz").unwrap()).await.unwrap();
    assert_eq!(status, 503);
    assert!(ready["detail"].as_str().unwrap().starts_with("postgres: "), "{ready}");
    assert_eq!(answer(service.request("GET", "/healthz").unwrap()).await.unwrap().0, 200);

    server.start_again().await.unwrap();
    service.wait_for("/readyz", 200).await.unwrap();
    let after = answer(
        service
            .request("POST", "/store?wait=indexed")
            .unwrap()
            .json(&json!({"payload": {"content": "after"}})),
    );
    assert_eq!(after.await.unwrap().0, 200);
    assert_eq!(service.recall_first(&["what colour is the kettle"]).await.unwrap(), ["the kettle is blue"]);
    let (_, stats) = answer(service.request("GET", "/stats").unwrap()).await.unwrap();
    assert_eq!(stats["total_memories"], 2, "what was refused was not kept");
    assert_eq!(service.pid().unwrap(), pid, "no restart");
}

#[tokio::test]
async fn the_service_starts_before_its_database() {
    let mut server = Postgres::start().await.unwrap();
    let mut service = MemoryService::on_postgres(&server).await.unwrap();
    server.kill().await.unwrap();
    service.launch().unwrap();
    service.wait_for("/healthz", 200).await.unwrap();
    service.wait_for("/readyz", 503).await.unwrap();
    let pid = service.pid().unwrap();
    server.start_again().await.unwrap();
    service.wait_for("/readyz", 200).await.unwrap();
    assert_eq!(service.store("k", "hello").await.unwrap().0, 200);
    assert_eq!(service.pid().unwrap(), pid, "no restart");
}

#[tokio::test]
async fn refused_credentials_are_read_again() {
    let server = Postgres::start().await.unwrap();
    let mut service = MemoryService::on_postgres(&server).await.unwrap();
    std::fs::write(service.file("username"), "a_role_that_does_not_exist").unwrap();
    service.launch().unwrap();
    service.wait_for("/readyz", 503).await.unwrap();
    let pid = service.pid().unwrap();
    std::fs::write(service.file("username"), server.user()).unwrap();
    service.wait_for("/readyz", 200).await.unwrap();
    assert_eq!(service.store("k", "hello").await.unwrap().0, 200);
    assert_eq!(service.pid().unwrap(), pid, "no restart");
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_loses_nothing() {
    let mut service = MemoryService::on_small_disk(24, 12).unwrap();
    service.start().await.unwrap();
    let padding = "x".repeat(400_000);
    let mut kept = Vec::new();
    let problem = loop {
        let key = format!("memory {}", kept.len());
        let body = json!({"key": key, "payload": {"content": key, "padding": padding}});
        let (status, reply) = answer(service.request("POST", "/store").unwrap().json(&body)).await.unwrap();
        if status != 200 {
            assert_eq!(status, 507, "{reply}");
            break reply;
        }
        kept.push((key, reply["coord"].as_str().unwrap().to_owned()));
        assert!(kept.len() < 100, "the disk never filled up");
    };
    assert_eq!(problem["title"], "storage full");
    assert!(!kept.is_empty());
    for (key, coord) in &kept {
        let (status, found) =
            answer(service.request("GET", &format!("/memories/{coord}")).unwrap()).await.unwrap();
        assert_eq!((status, found["memory"]["payload"]["content"].as_str()), (200, Some(key.as_str())));
    }
    std::fs::remove_file(service.inside("disk/filler").unwrap()).unwrap();
    let (status, reply) = service.store("after", "there is space again").await.unwrap();
    assert_eq!(status, 200, "{reply}");
    let (_, stats) = answer(service.request("GET", "/stats").unwrap()).await.unwrap();
    assert_eq!(stats["total_memories"], kept.len() + 1, "what was refused was not kept");
}
