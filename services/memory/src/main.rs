//! The memory service: reads its configuration, opens the engine and serves until it is told to stop.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Parser;
use soma_memory::embed::MiniLm;
use soma_memory::{ApiToken, Memory, Options, ServeOptions, Server, Target};
use soma_settings::{Environment, MemoryConfig, MemorySettings, PostgresEndpoint, SharedSettings};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Durable memory, recalled by meaning.
///
/// The API token comes from `SOMA_API_TOKEN_FILE` or `SOMA_API_TOKEN`; the Postgres user and password from the
/// directory `SOMA_POSTGRES_SECRET_DIR`.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// The configuration the operator writes: settings and the Postgres endpoint.
    #[arg(long, required_unless_present = "sqlite", conflicts_with = "sqlite")]
    config: Option<PathBuf>,
    /// Without a configuration: keep memories in this file, with default settings.
    #[arg(long)]
    sqlite: Option<PathBuf>,
    /// Where to serve HTTP.
    #[arg(long, default_value = "0.0.0.0:9595")]
    http: SocketAddr,
    /// Where to serve gRPC.
    #[arg(long, default_value = "0.0.0.0:50053")]
    grpc: SocketAddr,
    /// The embedding model: config.json, tokenizer.json and model.safetensors.
    #[arg(long, env = "SOMA_MODEL_DIR", default_value = "/models/all-MiniLM-L6-v2")]
    model_dir: PathBuf,
    /// Where the files `username` and `password` of Postgres are.
    #[arg(long, env = "SOMA_POSTGRES_SECRET_DIR", default_value = "/etc/soma/postgres")]
    postgres_secret_dir: PathBuf,
    /// Names this process among replicas on one database.
    #[arg(long, env = "HOSTNAME", default_value = "local")]
    instance: String,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    // Requests wait for the database and the embedder's own threads: two workers are plenty.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run(args))
}

async fn run(args: Args) -> anyhow::Result<()> {
    let (settings, target) = match (&args.config, args.sqlite) {
        (Some(path), _) => {
            let text =
                std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            let config = MemoryConfig::parse(&text).with_context(|| format!("in {}", path.display()))?;
            let target =
                postgres(config.postgres, args.postgres_secret_dir, config.memory.database_connections);
            (config.memory, target)
        }
        (None, Some(path)) => {
            let layers = (SharedSettings::default(), MemorySettings::default());
            let settings = soma_settings::Memory::resolve(Environment::Dev, &layers.0, &layers.1)?;
            (settings, Target::Sqlite { path })
        }
        (None, None) => anyhow::bail!("name a configuration with --config, or a file with --sqlite"),
    };
    soma_platform::telemetry::init(settings.log_level.as_str());
    let token = ApiToken::from_env(|name| std::env::var(name).ok())?;
    let threads = settings.embedding_threads as usize;
    let embedder = Arc::new(MiniLm::load(&args.model_dir, threads)?);
    let memory = Memory::open(Options { settings, target, embedder, instance: args.instance }).await?;
    let options = ServeOptions { http: args.http, grpc: args.grpc, token };
    let server = Server::bind(memory, options).await?;
    let shutdown = CancellationToken::new();
    tokio::spawn(stop_on_signal(shutdown.clone())?);
    server.run(shutdown).await?;
    Ok(())
}

fn postgres(endpoint: PostgresEndpoint, credentials: PathBuf, connections: u32) -> Target {
    let PostgresEndpoint { host, port, database, sslmode } = endpoint;
    Target::Postgres { host, port, database, sslmode: sslmode.as_str(), credentials, connections }
}

/// SIGTERM is how Kubernetes stops a pod, SIGINT how a person does.
fn stop_on_signal(shutdown: CancellationToken) -> std::io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        shutdown.cancel();
    })
}
