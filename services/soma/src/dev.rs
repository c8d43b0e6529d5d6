//! `soma dev`: the manifests of a cluster, run in one process on SQLite.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use soma_crds::{MemoryNamespace, SomaStack};
use soma_memory::embed::MiniLm;
use soma_memory::{ApiToken, Embedding, Memory, NamespaceSpec, Options, Quota, ServeOptions, Server, Target};
use soma_settings::{Environment, SharedSettings};
use tokio_util::sync::CancellationToken;

use crate::client::Client;
use crate::{conversation, manifest, memory, token};

/// Run a SomaStack and its MemoryNamespaces in one process, on SQLite.
#[derive(Args, Debug)]
pub struct Dev {
    /// A manifest, or a folder of them; may be given several times.
    #[arg(short, long = "file", value_name = "FILE", required_unless_present = "reset")]
    files: Vec<PathBuf>,
    /// Folder of the token and the data.
    #[arg(long, default_value = ".soma")]
    folder: PathBuf,
    /// Remove all data first; without --file, only that.
    #[arg(long)]
    reset: bool,
    /// HTTP address.
    #[arg(long, default_value = "127.0.0.1:9595")]
    http: SocketAddr,
    /// gRPC address.
    #[arg(long, default_value = "127.0.0.1:50053")]
    grpc: SocketAddr,
    /// Folder of the embedding model; by default the one `make dev` fetches to.
    #[arg(long, env = "SOMA_MODEL_DIR")]
    model_dir: Option<PathBuf>,
    /// Import this conversation into the namespace `default` once the service is up.
    #[arg(long, value_name = "FILE")]
    import: Option<PathBuf>,
    /// Ask the questions of the imported conversation.
    #[arg(long, requires = "import")]
    ask: bool,
}

impl Dev {
    /// Runs until Ctrl-C or SIGTERM.
    pub async fn run(self) -> Result<()> {
        let started = Instant::now();
        // Everything that can be refused is refused before anything is touched.
        let manifests = manifest::read(&self.files)?;
        let conversation = self.import.as_deref().map(conversation::read).transpose()?;
        let data = self.folder.join("data");
        if self.reset {
            remove(&data)?;
            if self.files.is_empty() {
                return Ok(());
            }
        }
        let Some(stack) = manifests.stack else {
            bail!("there is no SomaStack in these files; start from examples/quickstart/stack.yaml")
        };
        fs::create_dir_all(&data).with_context(|| format!("cannot make {}", data.display()))?;
        let token = token::read_or_create(&self.folder)?;

        let memory = open(&stack, &data, self.model_dir.as_deref()).await?;
        for namespace in &manifests.namespaces {
            provision(&memory, namespace).await?;
        }
        let options = ServeOptions { http: self.http, grpc: self.grpc, token: ApiToken::new(&token)? };
        let server = Server::bind(memory, options).await.map_err(|error| match error {
            soma_memory::ServeError::Listen { address, .. } => anyhow::Error::from(error).context(format!(
                "is another `soma dev` running? Choose a port other than {address} with --http and --grpc"
            )),
            other => other.into(),
        })?;
        let url = format!("http://{}", server.http_address);
        print_ready(&stack, &manifests.namespaces, &server, &data, started);
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(server.run(shutdown.clone()));
        let client = Client::new(&url, token.clone(), "default".into())?;
        for conversation in conversation.iter().flatten() {
            memory::import(&client, conversation).await?;
            if self.ask {
                memory::ask(&client, conversation).await?;
            }
        }
        println!("\nSOMA_API_TOKEN={token}\nserving on {}; Ctrl-C stops", client.url());
        until_stopped(shutdown, serving).await
    }
}

async fn open(stack: &SomaStack, data: &Path, model_dir: Option<&Path>) -> Result<Memory> {
    let spec = &stack.spec;
    let settings = resolve(spec.environment, &spec.settings, &spec.services.memory.settings)?;
    soma_platform::telemetry::init(if settings.log_level < soma_settings::LogLevel::Debug {
        "error"
    } else {
        "warn"
    });
    let model = model_dir.map_or_else(default_model_dir, |dir| Ok(dir.to_owned()))?;
    let threads = usize::try_from(settings.embedding_threads)?;
    let embedder = MiniLm::load(&model, threads)?;
    let target = Target::Sqlite { path: data.join("memory.db") };
    let options = Options { settings, target, embedder: Arc::new(embedder), instance: "soma-dev".into() };
    Ok(Memory::open(options).await?)
}

fn resolve(
    environment: Environment,
    shared: &SharedSettings,
    memory: &soma_settings::MemorySettings,
) -> Result<soma_settings::Memory> {
    Ok(soma_settings::Memory::resolve(environment, shared, memory)?)
}

async fn provision(memory: &Memory, namespace: &MemoryNamespace) -> Result<()> {
    let spec = &namespace.spec;
    let bytes =
        spec.quota.bytes.as_ref().and_then(soma_crds::Quantity::bytes).map(i64::try_from).transpose()?;
    let wanted = NamespaceSpec {
        tenant: spec.tenant.clone(),
        quota: Quota { memories: spec.quota.memories, bytes },
        embedding: Embedding {
            provider: spec.embedding.provider.as_str().to_owned(),
            model: spec.embedding.model.as_str().to_owned(),
            dimension: spec.embedding.dimension.into(),
        },
    };
    let name = namespace.metadata.name.as_deref().unwrap_or_default();
    memory.put_namespace(name, &wanted).await.with_context(|| format!("MemoryNamespace {name}"))?;
    Ok(())
}

/// Where `make dev` keeps the model: `$SOMA_CACHE/models/all-MiniLM-L6-v2`.
fn default_model_dir() -> Result<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = variable("SOMA_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|dir| dir.join("soma")))
        .or_else(|| variable("HOME").map(|dir| dir.join(".cache/soma")))
        .context("no HOME: name the folder of the embedding model with --model-dir")?;
    Ok(cache.join("models/all-MiniLM-L6-v2"))
}

fn remove(data: &Path) -> Result<()> {
    match fs::remove_dir_all(data) {
        Ok(()) => println!("removed {}", data.display()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("{} holds nothing", data.display());
        }
        Err(error) => return Err(error).with_context(|| format!("cannot remove {}", data.display())),
    }
    Ok(())
}

fn print_ready(
    stack: &SomaStack,
    namespaces: &[MemoryNamespace],
    server: &Server,
    data: &Path,
    started: Instant,
) {
    let names: Vec<_> = namespaces.iter().filter_map(|n| n.metadata.name.as_deref()).collect();
    println!(
        "soma {} · stack {} ({}) · ready in {:.2} s",
        env!("CARGO_PKG_VERSION"),
        stack.metadata.name.as_deref().unwrap_or_default(),
        stack.spec.environment.as_str(),
        started.elapsed().as_secs_f64()
    );
    println!("  HTTP        http://{}  (description at /openapi.json)", server.http_address);
    println!("  gRPC        {}", server.grpc_address);
    println!("  namespaces  {}", if names.is_empty() { "default".into() } else { names.join(", ") });
    println!("  data        {}\n", data.display());
}

/// Waits for Ctrl-C, SIGTERM, or a server that fails; then lets requests in flight end.
async fn until_stopped(
    shutdown: CancellationToken,
    mut serving: tokio::task::JoinHandle<Result<(), soma_memory::ServeError>>,
) -> Result<()> {
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        ended = &mut serving => return Ok(ended??),
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminated.recv() => {}
    }
    println!("stopping");
    shutdown.cancel();
    Ok(serving.await??)
}
