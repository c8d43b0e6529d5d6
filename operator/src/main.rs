//! The Soma operator: reconciles SomaInfra, SomaStack and MemoryNamespace.

mod apply;
mod backup;
mod bundles;
mod check;
mod conditions;
mod context;
mod controllers;
mod drift;
mod error;
mod events;
mod health;
mod infra;
mod leader;
mod metrics;
mod names;
mod namespace;
mod pods;
mod random;
mod rbac;
mod reconcile;
mod stack;
mod workload;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use futures::FutureExt;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing_subscriber::EnvFilter;

use crate::context::{Addresses, Backoff, Context};
use crate::controllers::Stop;
use crate::events::Publisher;
use crate::health::Health;
use crate::leader::{Ended, LeaseArgs};
use crate::metrics::Metrics;
use crate::namespace::followers::Followers;

#[derive(Parser)]
#[command(name = "soma-operator", version, about = "Reconciles SomaInfra, SomaStack and MemoryNamespace")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the operator.
    Run(Box<RunArgs>),
    /// Print the roles the operator needs, as YAML.
    Rbac,
    /// Take a backup; for the Jobs the operator makes.
    #[command(subcommand)]
    Backup(backup::Command),
}

#[derive(Args)]
struct RunArgs {
    /// Address of /healthz, /readyz and /metrics.
    #[arg(long, env = "SOMA_HTTP_ADDR", default_value = "0.0.0.0:8081")]
    http_addr: SocketAddr,
    /// Address of /bundles, from which OPA gets its policies.
    #[arg(long, env = "SOMA_BUNDLE_ADDR", default_value = "0.0.0.0:8082")]
    bundle_addr: SocketAddr,
    /// Base URL of that address, as OPA's pods reach it. By default port 8082 of the Service `soma-operator` in the operator's own namespace.
    #[arg(long, env = "SOMA_BUNDLE_URL")]
    bundle_url: Option<String>,
    /// Base URL of a stack's memory service; `{namespace}` stands for the stack's namespace.
    #[arg(long, env = "SOMA_MEMORY_URL", default_value = "http://memory.{namespace}.svc:9595")]
    memory_url: String,
    /// host:port of a managed Postgres, as the operator reaches it; `{namespace}` stands for the SomaInfra's namespace.
    /// By default the address of its pod.
    #[arg(long, env = "SOMA_POSTGRES_ADDRESS")]
    postgres_address: Option<String>,
    /// The image of this operator; the Jobs that take backups run it too. By default the one of the operator's own pod.
    #[arg(long, env = "SOMA_OPERATOR_IMAGE")]
    image: Option<String>,
    #[command(flatten)]
    lease: LeaseArgs,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Rbac => {
            print!("{}", rbac::manifests());
            Ok(())
        }
        Command::Backup(command) => {
            // As below.
            let _ = rustls::crypto::ring::default_provider().install_default();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            // In one line: the last one is what the status tells.
            runtime.block_on(backup::run(command)).map_err(|error| anyhow::anyhow!(error::chain(&error)))
        }
        Command::Run(args) => {
            let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
            tracing_subscriber::fmt().json().flatten_event(true).with_env_filter(filter).init();
            // A second provider in the process is impossible here, and the first one is as good.
            let _ = rustls::crypto::ring::default_provider().install_default();
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            runtime.block_on(run(*args))
        }
    }
}

/// The image of the pod this process runs in; outside a cluster the one published with this release.
async fn own_image(client: &Client, own: &LeaseArgs) -> anyhow::Result<String> {
    let published = || format!("docker.io/somastack/operator:{}", names::VERSION);
    let Some(name) = &own.identity else { return Ok(published()) };
    let pods: Api<Pod> = Api::namespaced(client.clone(), &own.lease_namespace);
    let pod = pods.get_opt(name).await;
    let pod =
        pod.with_context(|| format!("cannot read this operator's own pod {}/{name}", own.lease_namespace))?;
    let spec = pod.and_then(|pod| pod.spec);
    let container = spec.and_then(|spec| spec.containers.into_iter().find(|each| each.name == "operator"));
    Ok(container.and_then(|container| container.image).unwrap_or_else(published))
}

async fn run(args: RunArgs) -> anyhow::Result<()> {
    let stop = stop_signal()?;
    let client = Client::try_default().await.context("cannot reach a Kubernetes API server")?;
    let identity =
        args.lease.identity.clone().unwrap_or_else(|| format!("soma-operator-{}", random::secret()));
    let metrics = Metrics::default();
    let health = Health::new(metrics.clone());
    let election = args.lease.election(client.clone(), &identity)?;
    let server = tokio::spawn(health::serve(args.http_addr, health.clone(), stop.clone()));
    // Without the lease, too: OPA may ask any replica.
    let listener = TcpListener::bind(args.bundle_addr).await;
    let listener =
        listener.with_context(|| format!("cannot listen on --bundle-addr {}", args.bundle_addr))?;
    let bundles = tokio::spawn(bundles::serve(listener, client.clone(), stop.clone()));
    let image = match args.image {
        Some(image) => image,
        None => own_image(&client, &args.lease).await?,
    };
    let own = || format!("http://soma-operator.{}.svc:8082", args.lease.lease_namespace);
    let bundle_url = args.bundle_url.unwrap_or_else(own);
    let (triggers, triggered) = mpsc::unbounded_channel();
    let ctx = Arc::new(Context {
        events: Publisher::new(client.clone(), &identity),
        http: reqwest::Client::builder().build().context("cannot make an HTTP client")?,
        metrics: metrics.clone(),
        addresses: Addresses {
            memory: args.memory_url,
            postgres: args.postgres_address,
            image,
            bundles: bundle_url,
        },
        backoff: Backoff::default(),
        followers: Followers::new(triggers),
        client: client.clone(),
        namespace: args.lease.lease_namespace,
    });
    // Before the lease: a standby is ready too, so that a rolling update of it can end.
    tokio::select! {
        found = health.await_definitions(client) => found.context("cannot read custom resource definitions")?,
        () = stop.clone() => return server.await?.context("cannot serve health and metrics"),
    }
    let work = controllers::run(ctx, triggered, stop.clone());
    let ended = Box::pin(leader::lead(election, &metrics, stop.clone(), work)).await;
    anyhow::ensure!(ended == Ended::Stopped, "the lease is lost; another operator may hold it");
    server.await?.context("cannot serve health and metrics")?;
    bundles.await?.context("cannot serve bundles of policies")
}

/// Ends at SIGTERM or SIGINT.
fn stop_signal() -> anyhow::Result<Stop> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let either = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
    };
    Ok(either.boxed().shared())
}
