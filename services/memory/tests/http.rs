//! The HTTP surface, against the real server.

#![allow(clippy::unwrap_used, clippy::panic, clippy::similar_names, reason = "a test fails by panicking")]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Service, TOKEN, answer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn the_first_surface_stores_and_recalls() {
    let service = Service::sqlite().await;
    let body = json!({"coord": "1, 2,3", "payload": {"content": "the cat sat on the mat"}});
    let (status, stored) = service.post("/store?wait=indexed", &body).await;
    assert_eq!(
        (status, &stored),
        (200, &json!({"ok": true, "coord": "1.0,2.0,3.0", "version": 1, "indexed": true}))
    );
    let items = json!({"items": [
        {"key": "k1", "payload": {"content": "a dog barked", "speaker": "Ana"}, "type": "semantic"},
        {"payload": {"content": "rain fell all night", "speaker": "Ben"}},
    ]});
    let (status, bulk) = service.post("/store_bulk?wait=indexed", &items).await;
    assert_eq!((status, bulk["stored"].as_u64()), (200, Some(2)));
    assert_eq!(
        service.post("/store_bulk", &items).await.1["results"],
        bulk["results"],
        "importing again changes nothing"
    );

    let (_, found) = service.post("/recall", &json!({"query": "the cat", "top_k": 1, "explain": true})).await;
    assert_eq!(found["matches"], json!([{"content": "the cat sat on the mat"}]));
    let detail = &found["details"][0];
    assert_eq!((detail["coord"].as_str(), detail["version"].as_i64()), (Some("1.0,2.0,3.0"), Some(1)));
    assert_eq!(detail["explain"]["importance_norm"], 0.5);
    let (_, asked) = service.get("/recall?query=the%20cat&top_k=1").await;
    assert_eq!(asked["matches"], found["matches"]);
    assert!(asked["details"][0].get("explain").is_none());
    let (_, filtered) = service.get(r#"/recall?query=cat&filters={"speaker":"Ben"}"#).await;
    assert_eq!(filtered["matches"][0]["speaker"], "Ben");
    let (_, batch) = service.post("/recall_batch", &json!({"queries": ["cat", "dog"], "top_k": 1})).await;
    assert_eq!(batch["batches"][1][0]["content"], "a dog barked");
    let (_, scored) = service.post("/recall_with_scores", &json!({"query": "dog", "type": "semantic"})).await;
    assert_eq!(scored["results"].as_array().unwrap().len(), 1);
    assert!(scored["results"][0]["score"].as_f64().unwrap() > 0.0);
    let (_, stats) = service.get("/stats").await;
    assert_eq!(
        (&stats["total_memories"], &stats["semantic"], &stats["vector_count"]),
        (&json!(3), &json!(1), &json!(3))
    );

    let link = json!({"from_coord": "1,2,3", "to_coord": bulk["results"][0]["coord"], "weight": 2.0});
    assert_eq!(service.post("/link", &link).await, (200, json!({"ok": true})));
    let (_, near) = service.get("/neighbors?coord=1,2,3").await;
    assert_eq!(near["neighbors"][0][1]["weight"], 2.0);
}

#[tokio::test]
async fn the_second_surface_stores_lists_searches_and_forgets() {
    let service = Service::sqlite().await;
    for (coord, content) in [("1,1", "red apples"), ("2,2", "green pears"), ("3,3", "blue plums")] {
        let body = json!({"coord": coord, "payload": {"content": content}, "memory_type": "semantic"});
        let (status, made) = service.post("/memories?wait=indexed", &body).await;
        assert_eq!(status, 200);
        assert_eq!(
            (&made["coord"], &made["memory_type"], &made["ok"]),
            (&json!(coord), &json!("semantic"), &json!(true))
        );
    }
    let (_, one) = service.get("/memories/2.0,2").await;
    assert_eq!(one["memory"]["payload"], json!({"content": "green pears"}));
    assert_eq!(one["memory"]["coordinate"], json!([2.0, 2.0]));
    let (_, first) = service.get("/memories?limit=2").await;
    assert_eq!(first["memories"].as_array().unwrap().len(), 2);
    let next = first["next"].as_str().unwrap();
    let (_, rest) = service.get(&format!("/memories?limit=2&cursor={next}")).await;
    assert_eq!(rest["memories"].as_array().unwrap().len(), 1);
    assert!(rest.get("next").is_none());
    let (_, posted) = service.post("/memories/search", &json!({"query": "apples", "top_k": 2})).await;
    let (_, asked) = service.get("/memories/search?query=apples&top_k=2").await;
    assert_eq!(posted, asked, "the route with a coordinate does not shadow it");
    assert_eq!(posted["memories"][0]["coord"], "1.0,1.0");
    let (_, second) = service.get("/memories/search?query=apples&top_k=1&offset=1").await;
    assert_eq!(second["memories"][0], posted["memories"][1]);
    let link =
        json!({"from_coord": "1,1", "to_coord": "2,2", "link_type": "next", "metadata": {"why": "test"}});
    assert_eq!(service.post("/graph/link", &link).await.0, 200);
    let (_, near) = service.get("/graph/neighbors?coord=1,1&link_type=next").await;
    assert_eq!(near["neighbors"][0]["metadata"], json!({"why": "test"}));
    let (_, gone) = answer(service.request("DELETE", "/memories/2,2")).await;
    assert_eq!(gone, json!({"coord": "2.0,2.0", "deleted": true}));
    assert_eq!(answer(service.request("DELETE", "/memories/2,2")).await.1["deleted"], false);
    let (status, problem) = service.get("/memories/2,2").await;
    assert_eq!((status, problem["detail"].as_str()), (404, Some("Memory not found")));
}

#[tokio::test]
async fn only_the_token_opens_and_health_needs_none() {
    let service = Service::sqlite().await;
    let url = |path: &str| format!("{}{path}", service.http);
    for path in ["/", "/health", "/healthz", "/readyz", "/ping", "/openapi.json", "/metrics"] {
        let response = service.client.get(url(path)).send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
    }
    for path in ["/stats", "/memories", "/v1/admin/namespaces", "/v1/admin/namespaces/usage"] {
        let (status, problem) = answer(service.client.get(url(path))).await;
        assert_eq!((status, problem["detail"].as_str()), (401, Some("Missing bearer token")), "{path}");
        let (status, problem) = answer(service.client.get(url(path)).bearer_auth("wrong")).await;
        assert_eq!((status, problem["detail"].as_str()), (403, Some("Invalid token")), "{path}");
    }
    let (status, _) =
        answer(service.client.post(url("/store")).bearer_auth(format!("{TOKEN}x")).body("{")).await;
    assert_eq!(status, 403, "the body of a stranger is not looked at");
}

#[tokio::test]
async fn bad_requests_are_refused_by_field_and_never_with_5xx() {
    let service = Service::sqlite().await;
    let deep = (0..70).fold(json!(1), |inner, _| json!([inner]));
    let cases = [
        ("/store", json!({}), 422, "payload"),
        ("/store", json!({"payload": 7}), 422, "payload"),
        ("/store", json!({"payload": {}, "embedding": [0.1]}), 422, "embedding"),
        ("/store", json!({"payload": {}, "type": "other"}), 422, "type"),
        ("/store", json!({"payload": {}, "coord": "NaN,1"}), 422, "coord"),
        ("/store", json!({"payload": {}, "coord": "Infinity"}), 422, "coord"),
        ("/store", json!({"payload": {}, "coord": ""}), 422, "coord"),
        ("/store", json!({"payload": {}, "key": ""}), 422, "key"),
        ("/store", json!({"payload": {"deep": deep}}), 422, "payload"),
        ("/store", json!({"payload": {"importance": "high"}}), 422, "payload.importance"),
        ("/store?wait=forever", json!({"payload": {}}), 422, "wait"),
        (
            "/store_bulk",
            json!({"items": [{"payload": {}}, {"payload": {}, "coord": "x"}]}),
            422,
            "items[1].coord",
        ),
        ("/store_bulk", json!({"items": [{"payload": []}]}), 422, "items[0].payload"),
        ("/recall", json!({"query": ""}), 422, "query"),
        ("/recall", json!({"query": "?!"}), 422, "query"),
        ("/recall", json!({"query": 1}), 422, "query"),
        ("/recall", json!({"query": "x".repeat(40_000)}), 422, "query"),
        ("/recall", json!({"query": "x", "top_k": 0}), 422, "top_k"),
        ("/recall", json!({"query": "x", "top_k": -1}), 422, "top_k"),
        ("/recall", json!({"query": "x", "top_k": 1_000_000}), 422, "top_k"),
        ("/recall", json!({"query": "x", "mode": "hybrid"}), 422, "mode"),
        ("/recall", json!({"query": "x", "hybrid": true}), 422, "hybrid"),
        ("/recall", json!({"query": "x", "as_of": "2024-01-01T00:00:00Z"}), 422, "as_of"),
        ("/recall", json!({"query": "x", "min_score": 2}), 422, "min_score"),
        ("/recall", json!({"query": "x", "filters": []}), 422, "filters"),
        ("/recall", json!({"query": "x", "filters": {"a": {"like": 1}}}), 422, "filters.a.like"),
        ("/recall", json!({"query": "x", "offset": 1}), 422, "offset"),
        ("/recall_batch", json!({"queries": []}), 422, "queries"),
        ("/recall_batch", json!({"queries": ["a", ""]}), 422, "query"),
        ("/link", json!({"from_coord": "1", "to_coord": "1"}), 422, "to_coord"),
        ("/graph/link", json!({"from_coord": "1", "to_coord": "2", "link_type": ""}), 422, "link_type"),
    ];
    for (path, body, status, field) in cases {
        let (got, problem) = service.post(path, &body).await;
        assert_eq!((got, problem["field"].as_str()), (status, Some(field)), "{path}: {problem}");
    }
    for path in [
        "/recall?query=x&filters=nope",
        "/recall?query=x&top_k=many",
        "/recall",
        "/memories?limit=0",
        "/memories?cursor=x",
    ] {
        assert_eq!(service.get(path).await.0, 422, "{path}");
    }
    assert_eq!(service.get("/memories/not-a-number").await.0, 400);
    assert_eq!(service.get("/memories/%ff%fe").await.0, 400);
    assert_eq!(service.get("/nowhere").await.0, 404);
    assert_eq!(service.get("/store").await.0, 405);
    assert_eq!(service.post("/link", &json!({"from_coord": "1", "to_coord": "2"})).await.0, 404);
}

#[tokio::test]
async fn bodies_that_cannot_be_read_are_refused() {
    let service = Service::sqlite().await;
    let deeper = format!(r#"{{"payload":{{"a":{}1{}}}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    let bodies: [&[u8]; 7] = [
        b"",
        b"{",
        b"nonsense",
        b"\xff\xfe\x00",
        b"{\"payload\":{\"a\":\"\xff\"}}",
        b"{\"payload\":{\"a\":NaN}}",
        deeper.as_bytes(),
    ];
    for body in bodies {
        let (status, problem) = answer(service.request("POST", "/store").body(body.to_vec())).await;
        assert_eq!(status, 400, "{problem}");
    }
    let (_, problem) = answer(service.request("POST", "/store").body(deeper)).await;
    assert_eq!(problem["field"], "payload");
    let (status, _) = answer(service.request("POST", "/store").body(r#"{"payload":{"a":1e999}}"#)).await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_without_being_read() {
    let service = Service::sqlite().await;
    let (status, problem) = answer(service.request("POST", "/store").body(vec![b' '; 6 << 20])).await;
    assert_eq!((status, problem["detail"].as_str()), (413, Some("the body is larger than 5 MiB")));
    // Without a length: 100 MiB in chunks. The server stops reading and closes; how far the client got shows that.
    let sent = std::sync::Arc::new(AtomicUsize::new(0));
    let counter = sent.clone();
    let chunks = (0..100).map(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
        Ok::<_, std::io::Error>(vec![b' '; 1 << 20])
    });
    let body = reqwest::Body::wrap_stream(futures::stream::iter(chunks));
    match service.request("POST", "/store").body(body).send().await {
        Ok(response) => assert_eq!(response.status(), 413),
        // The connection was closed while the client was still sending.
        Err(error) => assert!(error.is_request() || error.is_body(), "{error:?}"),
    }
    assert!(sent.load(Ordering::Relaxed) < 50, "read {} MiB", sent.load(Ordering::Relaxed));
    assert_eq!(service.get("/stats").await.0, 200, "it goes on serving");
}

#[tokio::test]
async fn namespaces_are_provisioned_kept_apart_and_limited() {
    let service = Service::sqlite().await;
    let embedding = json!({"provider": "local", "model": "words", "dimension": 64});
    let spec = json!({"tenant": "acme", "quota": {"memories": 1, "bytes": null}, "embedding": embedding});
    let put = |name: &str, body: &Value| {
        answer(service.request("PUT", &format!("/v1/admin/namespaces/{name}")).json(body))
    };
    let (status, made) = put("acme-notes", &spec).await;
    assert_eq!(status, 200);
    assert_eq!(
        made,
        json!({"name": "acme-notes", "tenant": "acme", "quota": {"memories": 1, "bytes": null},
            "embedding": embedding, "usage": {"memories": 0, "bytes": 0}})
    );
    assert_eq!(put("acme-notes", &spec).await.1, made);
    let mut stolen = spec.clone();
    stolen["tenant"] = json!("evil");
    assert_eq!(put("acme-notes", &stolen).await.0, 409);
    assert_eq!(put("Upper", &spec).await.0, 422);
    let store = |content: &str| {
        let body = json!({"payload": {"content": content}});
        answer(
            service
                .request("POST", "/store?wait=indexed")
                .header("X-Soma-Namespace", "acme-notes")
                .json(&body),
        )
    };
    assert_eq!(store("a secret plan").await.0, 200);
    let (status, problem) = store("one too many").await;
    assert_eq!(
        (status, problem["field"].as_str(), problem["title"].as_str()),
        (403, Some("quota.memories"), Some("quota exceeded"))
    );
    let (_, elsewhere) = service.post("/recall", &json!({"query": "secret plan"})).await;
    assert_eq!(elsewhere["matches"], json!([]), "another namespace does not see it");
    let recall = |namespace: &str, tenant: &str| {
        let request = service.request("GET", "/recall?query=secret").header("X-Soma-Namespace", namespace);
        answer(request.header("X-Soma-Tenant", tenant))
    };
    assert_eq!(recall("acme-notes", "acme").await.1["matches"].as_array().unwrap().len(), 1);
    let (status, problem) = recall("acme-notes", "evil").await;
    assert_eq!((status, problem["field"].as_str()), (404, Some("X-Soma-Namespace")));
    assert_eq!(recall("nowhere", "acme").await.0, 404);
    assert_eq!(recall("Not A Name", "acme").await.0, 422);
    let (_, list) = service.get("/v1/admin/namespaces").await;
    assert_eq!(list["namespaces"][0]["usage"]["memories"], 1);
    for _ in 0..2 {
        let gone = service.request("DELETE", "/v1/admin/namespaces/acme-notes").send().await.unwrap();
        assert_eq!(gone.status(), 204);
    }
    assert_eq!(service.get("/v1/admin/namespaces/acme-notes").await.0, 404);
}

#[tokio::test]
async fn usage_is_streamed_as_it_changes() {
    let service = Service::sqlite().await;
    let mut stream = service.request("GET", "/v1/admin/namespaces/usage").send().await.unwrap();
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    let mut seen = String::new();
    while !seen.contains(r#"{"name":"default","usage":{"memories":0,"bytes":0}}"#) {
        seen += &String::from_utf8_lossy(&stream.chunk().await.unwrap().unwrap());
    }
    service.post("/store", &json!({"payload": {"a": 1}})).await;
    while !seen.contains(r#"{"name":"default","usage":{"memories":1,"bytes":7}}"#) {
        seen += &String::from_utf8_lossy(&stream.chunk().await.unwrap().unwrap());
    }
}

#[tokio::test]
async fn metrics_count_routes_by_template() {
    let service = Service::sqlite().await;
    service.post("/store?wait=indexed", &json!({"payload": {"content": "x"}})).await;
    service.get("/recall?query=x").await;
    service.get("/memories/1,2").await;
    service.get("/nowhere/at/all").await;
    let text =
        service.client.get(format!("{}/metrics", service.http)).send().await.unwrap().text().await.unwrap();
    for line in [
        r#"soma_memory_store_total{service="memory",instance="one",version="0.1.0",namespace="default"} 1"#,
        r#"soma_memory_recall_total{service="memory",instance="one",version="0.1.0",namespace="default"} 1"#,
        r#"endpoint="/memories/{coord}",method="GET",status="404"} 1"#,
        r#"endpoint="unmatched",method="GET",status="404"} 1"#,
        "http_404_requests_total{",
        "api_request_latency_seconds_bucket{",
        "soma_memory_index_backlog{",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("nowhere") && !text.contains("1,2"), "no raw path becomes a label");
}

#[tokio::test]
async fn every_route_is_described_and_every_description_is_served() {
    let service = Service::sqlite().await;
    let (_, described) = service.get("/openapi.json").await;
    let mut served = 0;
    for (path, methods) in described["paths"].as_object().unwrap() {
        let concrete = path.replace("{coord}", "1,2").replace("{name}", "default");
        for method in ["get", "post", "put", "delete", "patch"] {
            let request = service.request(&method.to_uppercase(), &concrete).send().await.unwrap();
            let (status, known) = (request.status().as_u16(), methods.get(method).is_some());
            assert_eq!(status != 405, known, "{method} {path} answers {status}");
            served += usize::from(known);
            if known && path.starts_with("/memories/{coord}") {
                assert!(status == 404 || status == 200);
            }
        }
    }
    assert_eq!(served, 29, "a route was added or lost: is it in the description?");
}

#[tokio::test]
async fn a_stop_is_announced_and_lets_requests_end() {
    let mut service = Service::sqlite().await;
    assert_eq!(service.get("/readyz").await.0, 200);
    service.stop();
    let (status, problem) = service.get("/readyz").await;
    assert_eq!((status, problem["detail"].as_str()), (503, Some("the service is stopping")));
    (&mut service.running).await.unwrap();
    assert!(service.client.get(format!("{}/healthz", service.http)).send().await.is_err());
}

#[tokio::test]
async fn a_client_that_never_ends_its_header_is_let_go() {
    let service = Service::sqlite().await;
    let address = service.http.trim_start_matches("http://");
    let (mut silent, mut slow) = (
        tokio::net::TcpStream::connect(address).await.unwrap(),
        tokio::net::TcpStream::connect(address).await.unwrap(),
    );
    slow.write_all(b"POST /store HTTP/1.1\r\nHost: x\r\nX-Slow: ").await.unwrap();
    let mut rest = Vec::new();
    silent.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty(), "a connection that said nothing gets no answer");
    slow.read_to_end(&mut rest).await.unwrap();
    assert_eq!(service.get("/stats").await.0, 200);
}
