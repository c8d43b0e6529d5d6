//! What the operator costs when nothing happens, and what an edit restarts, on a cluster of its own.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::Value;
use soma_testenv::cache::Cache;
use soma_testenv::cluster::{Place, TestCluster, install};
use soma_testenv::exec::run as exec;
use soma_testenv::images;
use soma_testenv::progress::Progress;

use crate::process::{cpu_seconds, resident_megabytes};

/// The user the operator's pod acts as.
const OPERATOR: &str = "system:serviceaccount:soma-system:soma-operator";

/// What to measure.
#[derive(Args)]
pub struct Options {
    /// Seconds to watch an idle cluster.
    #[arg(long, default_value_t = 60)]
    idle: u64,
}

/// Starts a cluster, measures, and removes it.
pub fn run(options: &Options) -> Result<()> {
    let cache = Cache::open()?;
    let mut all = images::system(&cache)?;
    all.extend(images::services(&cache)?);
    let started = Instant::now();
    let cluster = TestCluster::start(1, &all)?;
    println!("bare cluster, images loaded, DNS ready: {:.1} s", started.elapsed().as_secs_f64());
    let place = cluster.place();
    let mut progress = Progress::default();
    install(place, &mut progress)?;
    println!("from the first apply to every object Ready:\n{}", progress.table());
    idle(place, options.idle)?;
    restarts(place)
}

/// The operator's process.
pub fn operator(place: &Place) -> Result<String> {
    let pods = ["-n", "soma-system", "get", "pods", "-o", "jsonpath={.items[0].metadata.uid}"];
    process_of(&kubectl(place, &pods)?, "soma-operator")
}

/// Writes by the operator and its own cost while every object is Ready.
pub fn idle(place: &Place, seconds: u64) -> Result<()> {
    let process = operator(place)?;
    let (mark, cpu) = (place.audit().mark()?, cpu_seconds(&process)?);
    std::thread::sleep(Duration::from_secs(seconds));
    let used = cpu_seconds(&process)? - cpu;
    let ours: Vec<_> = place.audit().writes_since(mark)?.into_iter().filter(|w| w.user == OPERATOR).collect();
    let (leases, writes): (Vec<_>, Vec<_>) = ours.into_iter().partition(|w| w.resource == "leases");
    println!(
        "idle for {seconds} s: {} API writes (and {} renewals of the leader's Lease), {:.2} % of a core, {:.1} MB resident",
        writes.len(),
        leases.len(),
        100.0 * used / Duration::from_secs(seconds).as_secs_f64(),
        resident_megabytes(&process)?
    );
    for write in &writes {
        println!("  {} {} {}/{}", write.verb, write.resource, write.namespace, write.name);
    }
    Ok(())
}

/// Pods replaced by a label, by another operator process with the same output, and by one setting.
fn restarts(place: &Place) -> Result<()> {
    let before = pods(place)?;
    kubectl(place, &["-n", "soma", "label", "somastack", "soma", "bench=label"])?;
    kubectl(place, &["-n", "soma-system", "rollout", "restart", "deployment/soma-operator"])?;
    kubectl(
        place,
        &["-n", "soma-system", "rollout", "status", "deployment/soma-operator", "--timeout=120s"],
    )?;
    let edit = r#"{"spec":{"services":{"memory":{"settings":{"maxTopK":61}}}}}"#;
    let unchanged = pods(place)?;
    println!("a label and a new operator process: {} pods replaced", replaced(&before, &unchanged).len());
    let begun = Instant::now();
    kubectl(place, &["-n", "soma", "patch", "somastack", "soma", "--type=merge", "-p", edit])?;
    let settled = || -> Result<bool> {
        let now = pods(place)?;
        Ok(now.len() == unchanged.len()
            && replaced(&unchanged, &now).iter().any(|pod| pod.starts_with("soma/memory-")))
    };
    while !settled()? {
        ensure!(begun.elapsed() < Duration::from_mins(3), "the edit never settled");
        std::thread::sleep(Duration::from_millis(200));
    }
    println!(
        "an edit of one memory setting, {:.1} s: replaced {}",
        begun.elapsed().as_secs_f64(),
        replaced(&unchanged, &pods(place)?).join(", ")
    );
    Ok(())
}

/// Uids of the pods of Soma that are not on their way out, by namespace and name.
fn pods(place: &Place) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for namespace in ["soma", "soma-infra"] {
        let list: Value =
            serde_json::from_str(&kubectl(place, &["-n", namespace, "get", "pods", "-o", "json"])?)?;
        for pod in list["items"].as_array().into_iter().flatten() {
            let meta = &pod["metadata"];
            if meta["deletionTimestamp"].is_null() {
                let name = format!("{namespace}/{}", meta["name"].as_str().unwrap_or_default());
                found.insert(name, meta["uid"].as_str().unwrap_or_default().to_owned());
            }
        }
    }
    Ok(found)
}

fn replaced(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<String> {
    let old: Vec<_> = before.values().collect();
    after.iter().filter(|(_, uid)| !old.contains(uid)).map(|(name, _)| name.clone()).collect()
}

/// The process of a program in a pod: the pod's uid is in the path of its control group.
fn process_of(pod: &str, program: &str) -> Result<String> {
    let read =
        |pid: &str, file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    std::fs::read_dir("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.bytes().all(|b| b.is_ascii_digit()))
        .find(|pid| read(pid, "comm").trim() == program && read(pid, "cgroup").contains(pod))
        .with_context(|| format!("no process {program} of pod {pod} on this machine"))
}

pub fn kubectl(place: &Place, arguments: &[&str]) -> Result<String> {
    Ok(exec(place.kubectl().args(arguments))?)
}
