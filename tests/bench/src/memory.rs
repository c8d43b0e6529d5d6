//! Store and recall over HTTP, query embedding included, on both stores.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Args;
use serde_json::{Value, json};
use soma_memory::embed::{EmbedError, Embedder, MiniLm};
use soma_memory::{ApiToken, Kind, Memory, NewMemory, Scope, ServeOptions, Server, Target};
use soma_settings::{Environment, MemorySettings, SharedSettings};
use soma_testenv::{Postgres, RunDir};
use tokio_util::sync::CancellationToken;

const TOKEN: &str = "a-token-for-benchmarks";
/// Begins the text of a memory that only fills the store.
const FILLER: &str = "filler ";

/// What to measure.
#[derive(Args)]
pub struct Options {
    /// Memories in the store while it is measured.
    #[arg(long, num_args = 1.., default_values_t = [10_000, 100_000])]
    memories: Vec<usize>,
    /// Requests of each kind.
    #[arg(long, default_value_t = 200)]
    requests: usize,
}

/// The real model for everything that is measured; a cheap spread of vectors for what only fills the store.
struct Filling(MiniLm);

impl Embedder for Filling {
    fn id(&self) -> &str {
        self.0.id()
    }

    fn dimension(&self) -> usize {
        self.0.dimension()
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError> {
        if texts.iter().all(|text| text.starts_with(FILLER)) {
            return Ok(texts.iter().map(|text| spread(text, self.dimension())).collect());
        }
        self.0.embed(texts)
    }
}

/// Numbers in [−1, 1] that depend on the text alone.
fn spread(text: &str, dimension: usize) -> Vec<f32> {
    let number = |n: usize| {
        let mut hasher = DefaultHasher::new();
        (text, n).hash(&mut hasher);
        let [a, b, ..] = hasher.finish().to_le_bytes();
        f32::from(i16::from_le_bytes([a, b])) / f32::from(i16::MAX)
    };
    (0..dimension).map(number).collect()
}

/// Measures and prints one row per store and size.
pub fn run(options: &Options) -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let _ = rustls::crypto::ring::default_provider().install_default();
        println!("| store | memories | store p50 | store p99 | recall p50 | recall p99 |");
        println!("|---|---|---|---|---|---|");
        for &memories in &options.memories {
            let folder = RunDir::new("bench")?;
            let target = Target::Sqlite { path: folder.path().join("memory.db") };
            measure("SQLite", target, memories, options.requests).await?;
            let server = Postgres::start_durable().await?;
            let target = postgres(&server, &folder).await?;
            measure("Postgres", target, memories, options.requests).await?;
        }
        Ok(())
    })
}

async fn postgres(server: &Postgres, folder: &RunDir) -> anyhow::Result<Target> {
    let uri = server.create_database().await?;
    let database =
        uri.rsplit('/').next().and_then(|end| end.split('?').next()).context("no database name")?;
    std::fs::write(folder.path().join("username"), server.user())?;
    std::fs::write(folder.path().join("password"), "trusted")?;
    Ok(Target::Postgres {
        host: "127.0.0.1".into(),
        port: server.port(),
        database: database.into(),
        sslmode: "disable",
        credentials: folder.path().to_owned(),
        connections: 10,
    })
}

async fn measure(name: &str, target: Target, memories: usize, requests: usize) -> anyhow::Result<()> {
    let model = soma_testenv::model::ensure(&soma_testenv::cache::Cache::open()?)?;
    let layers = (SharedSettings::default(), MemorySettings::default());
    let engine = Memory::open(soma_memory::Options {
        settings: soma_settings::Memory::resolve(Environment::Prod, &layers.0, &layers.1)?,
        target,
        embedder: Arc::new(Filling(MiniLm::load(&model, 1)?)),
        instance: "bench".into(),
    })
    .await?;
    fill(&engine, memories).await?;
    let any = "127.0.0.1:0".parse()?;
    let options = ServeOptions { http: any, grpc: any, token: ApiToken::new(TOKEN)? };
    let server = Server::bind(engine, options).await?;
    let url = format!("http://{}", server.http_address);
    let stop = CancellationToken::new();
    let running = tokio::spawn(server.run(stop.clone()));
    let store =
        |n| json!({ "payload": { "content": format!("note {n}: the ferry to the island leaves at nine") } });
    let recall = |n| json!({ "query": format!("when does ferry number {n} leave"), "top_k": 10 });
    // One recall loads the index; a running service has it already.
    time(&format!("{url}/recall"), 1, recall).await?;
    let recalls = time(&format!("{url}/recall"), requests, recall).await?;
    let stores = time(&format!("{url}/store"), requests, store).await?;
    stop.cancel();
    running.await??;
    let cell = |times: &[Duration], q: usize| {
        format!("{:.1} ms", times[(times.len() - 1) * q / 100].as_secs_f64() * 1e3)
    };
    println!(
        "| {name} | {memories} | {} | {} | {} | {} |",
        cell(&stores, 50),
        cell(&stores, 99),
        cell(&recalls, 50),
        cell(&recalls, 99)
    );
    Ok(())
}

async fn fill(engine: &Memory, memories: usize) -> anyhow::Result<()> {
    let scope = Scope::new(Scope::DEFAULT, None)?;
    let numbers: Vec<_> = (0..memories).collect();
    for chunk in numbers.chunks(1000) {
        let item = |n: &usize| {
            let payload = json!({ "content": format!("{FILLER}{n}"), "turn": n });
            let Value::Object(payload) = payload else { anyhow::bail!("not an object") };
            Ok(NewMemory::new(None, None, Kind::Episodic, payload)?)
        };
        engine.store(&scope, chunk.iter().map(item).collect::<anyhow::Result<_>>()?).await?;
    }
    while engine.counts(&scope).await?.vectors < i64::try_from(memories)? {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

/// The times of requests one after another, sorted.
async fn time(url: &str, requests: usize, body: impl Fn(usize) -> Value) -> anyhow::Result<Vec<Duration>> {
    let client = reqwest::Client::new();
    let mut times = Vec::with_capacity(requests);
    for n in 0..requests {
        let request = client.post(url).bearer_auth(TOKEN).json(&body(n));
        let start = Instant::now();
        let response = request.send().await?;
        ensure!(response.status() == 200, "{url} answered {}", response.status());
        response.bytes().await?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    Ok(times)
}
