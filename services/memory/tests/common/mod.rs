//! What the suites share: an embedder that needs no model, and engines and servers that clean up.
#![allow(dead_code, reason = "each suite uses a part of it")]

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use soma_memory::embed::{EmbedError, Embedder};
use soma_memory::{
    ApiToken, Embedding, Kind, Memory, NamespaceSpec, NewMemory, Options, Quota, Scope, ServeOptions, Server,
    Target,
};
use soma_settings::{Environment, MemorySettings, SharedSettings};
use soma_testenv::Postgres;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const TOKEN: &str = "a-token-for-tests-only";

/// A bag of words: texts that share words are near each other.
pub struct Words;

impl Embedder for Words {
    fn id(&self) -> &'static str {
        "words"
    }

    fn dimension(&self) -> usize {
        64
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError> {
        let embed = |text: &&str| {
            let mut vector = vec![0.0; 64];
            for word in text.to_lowercase().split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()) {
                let hash = word.bytes().fold(7_usize, |h, b| h.wrapping_mul(31).wrapping_add(usize::from(b)));
                vector[hash % 64] += 1.0;
            }
            vector
        };
        Ok(texts.iter().map(embed).collect())
    }
}

pub fn settings() -> soma_settings::Memory {
    soma_settings::Memory::resolve(Environment::Dev, &SharedSettings::default(), &MemorySettings::default())
        .unwrap()
}

/// A database of one test, and what keeps it alive.
pub struct Place {
    pub target: Target,
    pub url: String,
    dir: TempDir,
}

impl Place {
    pub fn sqlite() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memory.db");
        let url = format!("sqlite://{}", path.display());
        Self { target: Target::Sqlite { path }, url, dir }
    }

    pub async fn postgres(server: &Postgres) -> Self {
        let url = server.create_database().await.unwrap();
        let database = url.rsplit('/').next().unwrap().split('?').next().unwrap().to_owned();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("username"), server.user()).unwrap();
        std::fs::write(dir.path().join("password"), "trusted").unwrap();
        let target = Target::Postgres {
            host: "127.0.0.1".into(),
            port: server.port(),
            database,
            sslmode: "disable",
            credentials: dir.path().to_owned(),
            connections: 8,
        };
        Self { target, url, dir }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub async fn open(&self) -> Memory {
        self.open_with(Arc::new(Words), "one").await
    }

    pub async fn open_with(&self, embedder: Arc<dyn Embedder>, instance: &str) -> Memory {
        let options = Options {
            settings: settings(),
            target: self.target.clone(),
            embedder,
            instance: instance.into(),
        };
        Memory::open(options).await.unwrap()
    }
}

pub fn spec(tenant: &str, memories: Option<i64>, bytes: Option<i64>) -> NamespaceSpec {
    NamespaceSpec {
        tenant: tenant.into(),
        quota: Quota { memories, bytes },
        embedding: Embedding { provider: "local".into(), model: "words".into(), dimension: 64 },
    }
}

pub fn scope(name: &str) -> Scope {
    Scope::new(name, None).unwrap()
}

pub fn memory(key: &str, payload: &Value) -> NewMemory {
    NewMemory::new(None, Some(key), Kind::Episodic, payload.as_object().unwrap().clone()).unwrap()
}

/// Stores one text under a key and waits until it can be found.
pub async fn remember(engine: &Memory, namespace: &str, key: &str, content: &str) -> i64 {
    let scope = scope(namespace);
    let mut stored = engine.store(&scope, vec![memory(key, &json!({ "content": content }))]).await.unwrap();
    engine.wait_indexed(&scope, &mut stored).await.unwrap();
    assert!(stored[0].indexed, "{key} was not indexed");
    stored[0].version
}

/// A real server on free ports; it stops when dropped.
pub struct Service {
    pub http: String,
    pub grpc: String,
    pub client: reqwest::Client,
    shutdown: CancellationToken,
    pub running: JoinHandle<()>,
    _place: Place,
}

impl Service {
    pub async fn sqlite() -> Self {
        Self::start(Place::sqlite()).await
    }

    pub async fn start(place: Place) -> Self {
        let engine = place.open().await;
        let any = "127.0.0.1:0".parse().unwrap();
        let options = ServeOptions { http: any, grpc: any, token: ApiToken::new(TOKEN).unwrap() };
        let server = Server::bind(engine, options).await.unwrap();
        let (http, grpc) = (server.http_address, server.grpc_address);
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let running = tokio::spawn(async move { server.run(stop).await.unwrap() });
        // Without a provider the client cannot be made, even for plain HTTP; a second installation is refused.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::new();
        Self {
            http: format!("http://{http}"),
            grpc: format!("http://{grpc}"),
            client,
            shutdown,
            running,
            _place: place,
        }
    }

    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = method.parse().unwrap();
        self.client.request(method, format!("{}{path}", self.http)).bearer_auth(TOKEN)
    }

    pub async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        answer(self.request("POST", path).json(body)).await
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        answer(self.request("GET", path)).await
    }

    pub fn stop(&self) {
        self.shutdown.cancel();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// Status and body; an error must be problem JSON, whatever went wrong.
pub async fn answer(request: reqwest::RequestBuilder) -> (u16, Value) {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let kind =
        response.headers().get("content-type").map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
    let text = response.text().await.unwrap();
    let body: Value = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() };
    if status >= 400 {
        assert_eq!(kind, "application/problem+json", "{status}: {text}");
        assert_eq!(body["status"], status);
        assert!(
            body["detail"].is_string() && body["title"].is_string() && body["type"].is_string(),
            "{text}"
        );
        assert!(body["remedy"].is_string(), "an error says what to do: {text}");
    }
    (status, body)
}
