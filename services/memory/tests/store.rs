//! One contract for both stores: every case runs against an SQLite file and against a real Postgres.

#![allow(clippy::unwrap_used, clippy::panic, clippy::similar_names, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use common::{Place, Words, memory, remember, scope, spec};
use serde_json::{Value, json};
use soma_memory::embed::{EmbedError, Embedder};
use soma_memory::{Coordinate, Error, Filter, Hit, Kind, Link, Memory, Recall, Usage};
use soma_testenv::Postgres;
use sqlx::AnyPool;

#[tokio::test]
async fn sqlite_keeps_the_contract() {
    every_case(async || Place::sqlite()).await;
}

#[tokio::test]
async fn postgres_keeps_the_contract() {
    let server = Postgres::start().await.unwrap();
    every_case(async || Place::postgres(&server).await).await;
}

async fn every_case(place: impl AsyncFn() -> Place) {
    versions(&place().await).await;
    paging(&place().await).await;
    meaning(&place().await).await;
    quota_under_concurrency(&place().await).await;
    a_batch_is_all_or_nothing(&place().await).await;
    namespaces(&place().await).await;
    a_namespace_made_anew_is_empty(&place().await).await;
    links(&place().await).await;
    replicas_agree(&place().await).await;
    vectors_are_made_up_after_a_restart(&place().await).await;
    vectors_of_two_embedders_never_meet(&place().await).await;
    every_change_has_one_event(&place().await).await;
}

async fn recall(engine: &Memory, namespace: &str, query: &str, recall: &Recall) -> Vec<Hit> {
    engine.recall(&scope(namespace), &[query.to_owned()], recall).await.unwrap().remove(0)
}

fn key(key: &str) -> Coordinate {
    Coordinate::from_key(key)
}

async fn versions(place: &Place) {
    let engine = place.open().await;
    let at = scope("default");
    assert_eq!(remember(&engine, "default", "a", "one").await, 1);
    assert_eq!(remember(&engine, "default", "a", "two").await, 2);
    assert_eq!(remember(&engine, "default", "a", "two").await, 2, "the same content is no new version");
    let found = engine.get(&at, &key("a")).await.unwrap();
    assert_eq!((found.payload, found.version, found.indexed), (json!({"content": "two"}), 2, true));
    assert!(found.updated_at > found.created_at);
    assert!(engine.delete(&at, &key("a")).await.unwrap());
    assert!(!engine.delete(&at, &key("a")).await.unwrap());
    assert!(matches!(engine.get(&at, &key("a")).await, Err(Error::MemoryNotFound(_))));
    assert!(recall(&engine, "default", "two", &Recall::top(5)).await.is_empty());
    assert_eq!(remember(&engine, "default", "a", "two").await, 4, "a delete is a version too");
    engine.close().await;
}

async fn paging(place: &Place) {
    let engine = place.open().await;
    let at = scope("default");
    let items = (0..25).map(|n| memory(&n.to_string(), &json!({ "n": n }))).collect();
    engine.store(&at, items).await.unwrap();
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = engine.list(&at, None, after.as_ref(), 10).await.unwrap();
        seen.extend(page.memories.into_iter().map(|m| m.coordinate));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), 25);
    assert!(seen.is_sorted_by(|a, b| a < b), "sorted, and none twice");
    assert!(engine.list(&at, Some(Kind::Semantic), None, 10).await.unwrap().memories.is_empty());
    let counts = engine.counts(&at).await.unwrap();
    assert_eq!((counts.episodic, counts.semantic), (25, 0));
    engine.close().await;
}

async fn meaning(place: &Place) {
    let engine = place.open().await;
    remember(&engine, "default", "cat", "the cat sat on the mat").await;
    remember(&engine, "default", "dog", "a dog barked at night").await;
    let hits = recall(&engine, "default", "where sat the cat", &Recall::top(1)).await;
    assert_eq!(hits.len(), 1);
    assert_eq!(hits[0].coordinate, key("cat"));
    assert!((hits[0].score - hits[0].cosine * 0.5).abs() < 1e-9, "equal importances weigh one half");
    let only_dogs = json!({ "content": { "in": ["a dog barked at night"] } });
    let filter = Filter::parse(only_dogs.as_object().unwrap()).unwrap();
    let hits = recall(&engine, "default", "where sat the cat", &Recall { filter, ..Recall::top(1) }).await;
    assert_eq!(hits[0].coordinate, key("dog"), "filters narrow before the best are taken");
    let strict = Recall { min_score: 0.45, ..Recall::top(5) };
    assert!(recall(&engine, "default", "nothing of the sort", &strict).await.is_empty());
    engine.close().await;
}

async fn quota_under_concurrency(place: &Place) {
    let engine = place.open().await;
    engine.put_namespace("small", &spec("t", Some(10), None)).await.unwrap();
    let store = |n: usize| {
        let engine = engine.clone();
        tokio::spawn(async move {
            engine.store(&scope("small"), vec![memory(&n.to_string(), &json!({ "n": n }))]).await
        })
    };
    let tasks: Vec<_> = (0..30).map(store).collect();
    let (mut kept, mut refused) = (0, 0);
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => kept += 1,
            Err(Error::QuotaExceeded { quota: "memories", limit: 10, wanted: 11, .. }) => refused += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!((kept, refused), (10, 20));
    assert_eq!(engine.find_namespace("small").await.unwrap().usage.memories, 10);
    assert_eq!(engine.counts(&scope("small")).await.unwrap().episodic, 10);
    engine.close().await;
}

async fn a_batch_is_all_or_nothing(place: &Place) {
    let engine = place.open().await;
    engine.put_namespace("small", &spec("t", None, Some(40))).await.unwrap();
    let at = scope("small");
    let batch = |n: usize| (0..n).map(|i| memory(&i.to_string(), &json!({ "n": i }))).collect::<Vec<_>>();
    let error = engine.store(&at, batch(6)).await.unwrap_err();
    assert!(matches!(error, Error::QuotaExceeded { quota: "bytes", limit: 40, wanted: 42, .. }), "{error:?}");
    assert_eq!(engine.find_namespace("small").await.unwrap().usage, Usage { memories: 0, bytes: 0 });
    assert!(engine.list(&at, None, None, 10).await.unwrap().memories.is_empty());
    engine.store(&at, batch(5)).await.unwrap();
    assert_eq!(engine.find_namespace("small").await.unwrap().usage, Usage { memories: 5, bytes: 35 });
    engine.delete(&at, &key("0")).await.unwrap();
    assert_eq!(engine.find_namespace("small").await.unwrap().usage, Usage { memories: 4, bytes: 28 });
    engine.close().await;
}

async fn namespaces(place: &Place) {
    let engine = place.open().await;
    let made = engine.put_namespace("a", &spec("acme", Some(5), None)).await.unwrap();
    assert_eq!(engine.put_namespace("a", &spec("acme", Some(5), None)).await.unwrap(), made);
    let wider = engine.put_namespace("a", &spec("acme", None, Some(1000))).await.unwrap();
    assert_eq!((wider.quota.memories, wider.quota.bytes), (None, Some(1000)));
    let other = engine.put_namespace("a", &spec("evil", Some(1), None)).await.unwrap_err();
    assert!(matches!(other, Error::Bound { field: "tenant", .. }), "{other:?}");
    assert_eq!(engine.find_namespace("a").await.unwrap(), wider, "a refused change changes nothing");
    let mut foreign = spec("acme", None, None);
    foreign.embedding.dimension = 384;
    assert!(matches!(
        engine.put_namespace("a", &foreign).await,
        Err(Error::Bound { field: "embedding", .. })
    ));
    assert!(matches!(engine.put_namespace("b", &foreign).await, Err(Error::Invalid { .. })));
    assert!(matches!(
        engine.put_namespace("usage", &spec("t", None, None)).await,
        Err(Error::Invalid { .. })
    ));
    let names: Vec<_> = engine.namespaces().await.unwrap().into_iter().map(|n| n.name).collect();
    assert_eq!(names, ["a", "default"]);
    let claim = soma_memory::Scope::new("a", Some("evil")).unwrap();
    assert!(matches!(engine.counts(&claim).await, Err(Error::NamespaceNotFound(_))));
    let error = engine.store(&scope("nowhere"), vec![memory("k", &json!({}))]).await.unwrap_err();
    assert!(matches!(error, Error::NamespaceNotFound(_)));
    engine.close().await;
}

async fn a_namespace_made_anew_is_empty(place: &Place) {
    let engine = place.open().await;
    engine.put_namespace("a", &spec("t", None, None)).await.unwrap();
    remember(&engine, "a", "old", "an old secret").await;
    assert_eq!(recall(&engine, "a", "secret", &Recall::top(5)).await.len(), 1);
    engine.delete_namespace("a").await.unwrap();
    engine.delete_namespace("a").await.unwrap();
    assert!(matches!(engine.find_namespace("a").await, Err(Error::NamespaceNotFound(_))));
    engine.put_namespace("a", &spec("t", None, None)).await.unwrap();
    assert!(recall(&engine, "a", "secret", &Recall::top(5)).await.is_empty());
    assert_eq!(remember(&engine, "a", "old", "an old secret").await, 1);
    engine.delete_namespace("default").await.unwrap();
    assert_eq!(engine.find_namespace("default").await.unwrap().usage, Usage::default(), "it always exists");
    engine.close().await;
}

async fn links(place: &Place) {
    let engine = place.open().await;
    let at = scope("default");
    for name in ["a", "b", "c"] {
        remember(&engine, "default", name, name).await;
    }
    let link = |from: &str, to: &str, strength| Link {
        from: key(from),
        to: key(to),
        link_type: "related".into(),
        strength,
        metadata: serde_json::Map::new(),
        updated_at: 0,
    };
    engine.link(&at, &link("a", "b", 0.5)).await.unwrap();
    engine.link(&at, &link("a", "b", 0.7)).await.unwrap();
    engine.link(&at, &link("b", "c", 1.0)).await.unwrap();
    assert!(matches!(engine.link(&at, &link("a", "gone", 1.0)).await, Err(Error::MemoryNotFound(_))));
    let one = engine.neighbors(&at, &key("a"), None, 1, 10).await.unwrap();
    assert_eq!(one.iter().map(|l| (l.to.clone(), l.strength)).collect::<Vec<_>>(), [(key("b"), 0.7)]);
    let two = engine.neighbors(&at, &key("a"), None, 2, 10).await.unwrap();
    assert_eq!(two.iter().map(|l| l.to.clone()).collect::<Vec<_>>(), [key("b"), key("c")]);
    assert!(engine.neighbors(&at, &key("a"), Some("other"), 1, 10).await.unwrap().is_empty());
    engine.delete(&at, &key("b")).await.unwrap();
    assert!(engine.neighbors(&at, &key("a"), None, 2, 10).await.unwrap().is_empty());
    engine.close().await;
}

async fn replicas_agree(place: &Place) {
    let one = place.open().await;
    let two = place.open_with(Arc::new(Words), "two").await;
    remember(&one, "default", "a", "red apples").await;
    assert_eq!(recall(&two, "default", "apples", &Recall::top(5)).await.len(), 1);
    remember(&two, "default", "b", "green apples").await;
    remember(&one, "default", "a", "red pears").await;
    let query = Recall::top(5);
    let (from_one, from_two) = (
        recall(&one, "default", "green pears", &query).await,
        recall(&two, "default", "green pears", &query).await,
    );
    assert_eq!(from_one, from_two);
    assert_eq!(from_one.len(), 2);
    one.delete(&scope("default"), &key("a")).await.unwrap();
    assert_eq!(recall(&two, "default", "pears", &query).await.len(), 1);
    two.close().await;

    // A replica that starts embeds what the others have just written; they hear of it all the same.
    for round in 0..20 {
        let name = format!("late-{round}");
        let (late, ()) = tokio::join!(place.open_with(Arc::new(Words), &name), async {
            for n in 0..5 {
                remember(&one, "default", &format!("{round}-{n}"), "blue plums").await;
            }
        });
        late.close().await;
    }
    one.close().await;
}

/// Another embedder than the one the namespaces are bound to.
struct Other;

impl Embedder for Other {
    fn id(&self) -> &'static str {
        "other"
    }

    fn dimension(&self) -> usize {
        64
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError> {
        Words.embed(texts)
    }
}

async fn vectors_of_two_embedders_never_meet(place: &Place) {
    let before = place.open().await;
    before.put_namespace("a", &spec("t", None, None)).await.unwrap();
    remember(&before, "a", "k", "kept").await;
    before.close().await;
    let after = place.open_with(Arc::new(Other), "one").await;
    let stored = after.store(&scope("a"), vec![memory("l", &json!({}))]).await;
    assert!(matches!(stored, Err(Error::OtherEmbedder { .. })), "{stored:?}");
    let recalled = after.recall(&scope("a"), &["kept".to_owned()], &Recall::top(1)).await;
    assert!(matches!(recalled, Err(Error::OtherEmbedder { .. })), "{recalled:?}");
    let put = after.put_namespace("a", &spec("t", None, None)).await;
    assert!(matches!(put, Err(Error::OtherEmbedder { .. })), "{put:?}");
    let kept = after.list(&scope("a"), None, None, 10).await.unwrap().memories;
    assert_eq!(kept.len(), 1, "what is there can still be read, to be imported elsewhere");
    after.close().await;
}

/// An embedder that is down.
struct Broken;

impl Embedder for Broken {
    fn id(&self) -> &'static str {
        "words"
    }

    fn dimension(&self) -> usize {
        64
    }

    fn embed(&self, _: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError> {
        // Longer than the test waits: as if the process died before the vector was made.
        std::thread::sleep(std::time::Duration::from_millis(300));
        Words.embed(&[])
    }
}

async fn vectors_are_made_up_after_a_restart(place: &Place) {
    let first = place.open_with(Arc::new(Broken), "first").await;
    let stored =
        first.store(&scope("default"), vec![memory("k", &json!({"content": "kept"}))]).await.unwrap();
    assert!(!stored[0].indexed);
    first.close().await;
    let second = place.open_with(Arc::new(Words), "second").await;
    let mut stored = stored;
    second.wait_indexed(&scope("default"), &mut stored).await.unwrap();
    assert!(stored[0].indexed);
    assert_eq!(recall(&second, "default", "kept", &Recall::top(5)).await.len(), 1);
    second.close().await;
}

async fn every_change_has_one_event(place: &Place) {
    let engine = place.open().await;
    remember(&engine, "default", "a", "one").await;
    remember(&engine, "default", "a", "one").await;
    remember(&engine, "default", "a", "two").await;
    engine.delete(&scope("default"), &key("a")).await.unwrap();
    let refused = engine.store(&scope("nowhere"), vec![memory("b", &json!({}))]).await;
    assert!(refused.is_err());
    let pool = AnyPool::connect(&place.url).await.unwrap();
    let rows: Vec<String> =
        sqlx::query_scalar("SELECT payload FROM outbox ORDER BY seq").fetch_all(&pool).await.unwrap();
    pool.close().await;
    let events: Vec<Value> = rows.iter().map(|row| serde_json::from_str(row).unwrap()).collect();
    let kinds: Vec<_> = events.iter().map(|e| e["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["created", "updated", "deleted"]);
    for event in &events {
        assert_eq!(
            (event["namespace"].as_str(), event["id"].as_str()),
            (Some("default"), Some(key("a").as_str()))
        );
        assert!(event["timestamp"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
    }
    assert_eq!(events[1]["payload"], json!({"content": "two"}));
    assert_eq!(events[2]["payload"], Value::Null);
    engine.close().await;
}
