//! `kill -9` of the memory service, fifty times under load: what was acknowledged is recalled afterwards.

#![allow(clippy::unwrap_used, clippy::panic, clippy::similar_names, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use soma_runtime_tests::{MemoryService, TOKEN};
use soma_testenv::Postgres;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

const KILLS: usize = 50;
const WRITERS: usize = 4;

#[tokio::test]
async fn on_sqlite_every_acknowledged_memory_survives_fifty_kills() {
    survives(MemoryService::on_sqlite().unwrap()).await;
}

#[tokio::test]
async fn on_postgres_every_acknowledged_memory_survives_fifty_kills() {
    let server = Postgres::start().await.unwrap();
    survives(MemoryService::on_postgres(&server).await.unwrap()).await;
}

/// What the writers were told is safe.
#[derive(Default)]
struct Acknowledged {
    contents: Mutex<BTreeSet<String>>,
    count: AtomicUsize,
}

async fn survives(mut service: MemoryService) {
    let acknowledged = Arc::new(Acknowledged::default());
    for round in 0..KILLS {
        service.start().await.unwrap();
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            writers.spawn(write(service.url.clone(), round, writer, acknowledged.clone()));
        }
        // From 1 to 37 acknowledgements, in an order that looks like chance and is the same in every run.
        let enough = acknowledged.count.load(Ordering::SeqCst) + 1 + (round * 23) % 37;
        while acknowledged.count.load(Ordering::SeqCst) < enough {
            tokio::task::yield_now().await;
        }
        service.kill().unwrap();
        while writers.join_next().await.is_some() {}
    }
    service.start().await.unwrap();
    let contents: Vec<String> = acknowledged.contents.lock().await.iter().cloned().collect();
    assert!(contents.len() > KILLS);
    wait_until_indexed(&service).await;
    for chunk in contents.chunks(50) {
        let queries: Vec<_> = chunk.iter().map(String::as_str).collect();
        assert_eq!(
            service.recall_first(&queries).await.unwrap(),
            chunk,
            "an acknowledged memory is not recalled"
        );
    }
    println!("{KILLS} kills, {} acknowledged memories, all recalled", contents.len());
}

/// Stores one text after another until the service is gone.
async fn write(url: String, round: usize, writer: usize, acknowledged: Arc<Acknowledged>) {
    let client = soma_runtime_tests::client().unwrap();
    for n in 0.. {
        // Spelt out, so that texts differ in more than a number.
        let content = format!(
            "note {n} of writer {writer} in round {round}: {}",
            words(round * 1000 + n * 10 + writer)
        );
        let body = json!({ "key": content, "payload": { "content": content } });
        let sent = client.post(format!("{url}/store")).bearer_auth(TOKEN).json(&body).send().await;
        let Ok(response) = sent else { return };
        assert!(response.status() == 200, "{}", response.status());
        let Ok(body) = response.json::<serde_json::Value>().await else { return };
        assert_eq!(body["version"], 1, "a memory was stored twice");
        acknowledged.contents.lock().await.insert(content);
        acknowledged.count.fetch_add(1, Ordering::SeqCst);
    }
}

fn words(mut n: usize) -> String {
    const WORDS: [&str; 10] =
        ["rain", "kite", "oven", "harbour", "violin", "ladder", "tulip", "engine", "letter", "snow"];
    let mut text = Vec::new();
    while n > 0 {
        text.push(WORDS[n % 10]);
        n /= 10;
    }
    text.join(" ")
}

/// Until no memory waits for its vector.
async fn wait_until_indexed(service: &MemoryService) {
    loop {
        let (_, stats) = soma_runtime_tests::answer(service.request("GET", "/stats").unwrap()).await.unwrap();
        if stats["total_memories"] == stats["vector_count"] {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}
