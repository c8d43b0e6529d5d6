//! How long many MemoryNamespaces that are made at once take to be ready, with Kafka and Vault in it, against a client that
//! only writes the same objects.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use serde_json::{Value, json};
use soma_testenv::RunDir;
use soma_testenv::cache::Cache;
use soma_testenv::cluster::{Place, TestCluster, install};
use soma_testenv::images;
use soma_testenv::progress::Progress;

use crate::cluster::{idle, kubectl, operator};
use crate::process::resident_megabytes;

/// What to measure.
#[derive(Args)]
pub struct Options {
    /// How many MemoryNamespaces.
    #[arg(long, default_value_t = 1000)]
    namespaces: u16,
    /// Seconds to watch afterwards, when nothing happens any more.
    #[arg(long, default_value_t = 60)]
    idle: u64,
}

/// Longest time for all of them.
const PATIENCE: Duration = Duration::from_mins(15);

/// Starts a cluster, measures, and removes it.
pub fn run(options: &Options) -> Result<()> {
    let cache = Cache::open()?;
    let mut all = images::system(&cache)?;
    all.extend(images::services(&cache)?);
    all.extend([images::kafka(&cache)?, images::vault(&cache)?]);
    let cluster = TestCluster::start(1, &all)?;
    let place = cluster.place();
    install(place, &mut Progress::default())?;
    let more = json!({"spec": {"kafka": {"disabled": null, "managed": {}}, "vault": {"disabled": null, "managed": {}}}});
    let wish = ["-n", "soma-infra", "patch", "somainfra", "shared", "--type=merge", "-p", &more.to_string()];
    kubectl(place, &wish)?;
    for component in ["kafka", "vault"] {
        let path = format!("jsonpath={{.status.components[?(@.name==\"{component}\")].reason}}");
        until(&format!("{component} is ready"), || {
            Ok(kubectl(place, &["-n", "soma-infra", "get", "somainfra", "shared", "-o", &path])? == "Ready")
        })?;
    }
    println!("{} MemoryNamespaces, one node, Kafka and Vault with one member each", options.namespaces);
    let plain = plain(place, options.namespaces)?;
    println!("a client that writes them and their Secrets, nobody else acting: {plain:.1} s");
    let took = ready(place, options.namespaces)?;
    println!("until every one is Ready: {took:.1} s, {:.2}× of that", took / plain);
    println!("the operator: {:.1} MB resident", resident_megabytes(&operator(place)?)?);
    idle(place, options.idle)
}

/// Seconds a client takes that writes these objects while the operator is away.
fn plain(place: &Place, count: u16) -> Result<f64> {
    scale(place, 0)?;
    kubectl(place, &["create", "namespace", "plain"])?;
    let secret = |n: u16| {
        // As large as what a tenant is given.
        let data: Value = (0..9)
            .map(|key| (format!("KEY_{key}"), json!("x".repeat(48))))
            .collect::<serde_json::Map<_, _>>()
            .into();
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": format!("m{n}-access"), "namespace": "plain"}, "stringData": data})
    };
    let all: Vec<_> = (0..count).flat_map(|n| [memory("plain", n), secret(n)]).collect();
    let begun = Instant::now();
    create(place, &all)?;
    let took = begun.elapsed().as_secs_f64();
    kubectl(place, &["delete", "namespace", "plain"])?;
    scale(place, 1)?;
    Ok(took)
}

/// Seconds from the first write until the last is ready.
fn ready(place: &Place, count: u16) -> Result<f64> {
    let begun = Instant::now();
    let all: Vec<_> = (0..count).map(|n| memory("soma", n)).collect();
    create(place, &all)?;
    let conditions =
        r#"jsonpath={range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}"#;
    until("every MemoryNamespace is ready", || {
        let all = kubectl(place, &["-n", "soma", "get", "memorynamespaces", "-o", conditions])?;
        Ok(all.lines().filter(|status| *status == "True").count() >= usize::from(count) + 2)
    })?;
    Ok(begun.elapsed().as_secs_f64())
}

fn memory(namespace: &str, n: u16) -> Value {
    json!({
        "apiVersion": "somastack.dev/v1alpha1", "kind": "MemoryNamespace",
        "metadata": {"name": format!("m{n}"), "namespace": namespace},
        "spec": {"stackRef": {"name": "soma"}, "tenant": format!("t{}", n % 100)},
    })
}

/// Writes objects one after the other, as `kubectl create` does.
fn create(place: &Place, items: &[Value]) -> Result<()> {
    let folder = RunDir::new("objects")?;
    let path = folder.path().join("objects.json");
    std::fs::write(&path, json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string())?;
    kubectl(place, &["create", "-f", &display(&path)]).map(drop)
}

fn display(path: &Path) -> String {
    path.display().to_string()
}

fn scale(place: &Place, replicas: u8) -> Result<()> {
    let replicas = format!("--replicas={replicas}");
    kubectl(place, &["-n", "soma-system", "scale", "deployment/soma-operator", &replicas])?;
    kubectl(place, &["-n", "soma-system", "rollout", "status", "deployment/soma-operator", "--timeout=120s"])
        .map(drop)
}

fn until(what: &str, there: impl Fn() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !there()? {
        ensure!(begun.elapsed() < PATIENCE, "never came: {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}
