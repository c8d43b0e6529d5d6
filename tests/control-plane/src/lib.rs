//! The operator as a process, against a real API server, with exactly the rights `config/rbac` gives it.

pub mod world;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::wait::{Condition, await_condition};
use kube::{Client, ResourceExt};
use nix::sys::signal::Signal;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use soma_testenv::programs::program;
use soma_testenv::{ControlPlane, Launch, RunDir, Supervised, Write, free_port};

/// Longest time any single expectation may take before the test fails.
const PATIENCE: Duration = Duration::from_mins(1);
/// The user the operator acts as.
pub const OPERATOR: &str = "system:serviceaccount:soma-system:soma-operator";

/// A control plane with Soma installed, and the operator running beside it.
pub struct Soma {
    operator: Option<Supervised>,
    address: String,
    arguments: Vec<String>,
    dir: RunDir,
    /// The cluster.
    pub plane: ControlPlane,
}

impl Soma {
    /// Installs `config/default` and starts the operator with these arguments beside the usual ones.
    pub async fn start(arguments: &[&str]) -> anyhow::Result<Self> {
        let plane = ControlPlane::start().await?;
        let dir = RunDir::new("operator")?;
        let default = soma_testenv::checkout().join("config/default");
        run(plane.kubectl().args(["apply", "--server-side", "-k"]).arg(default))?;
        let token = run(plane.kubectl().args(["create", "token", "-n", "soma-system", "soma-operator"]))?;
        write_kubeconfig(&plane.kubeconfig(), token.trim(), &dir.path().join("kubeconfig"))?;
        let arguments = arguments.iter().map(|a| (*a).to_owned()).collect();
        let mut soma = Self { operator: None, address: String::new(), arguments, dir, plane };
        soma.start_operator()?;
        Ok(soma)
    }

    /// Starts the operator; it must not run already.
    pub fn start_operator(&mut self) -> anyhow::Result<()> {
        ensure!(self.operator.is_none(), "the operator runs already");
        self.address = format!("127.0.0.1:{}", free_port()?);
        self.operator = Some(self.launch("operator-under-test", &self.address)?);
        Ok(())
    }

    /// Starts a candidate for the lease beside the operator.
    pub fn start_candidate(&self, identity: &str) -> anyhow::Result<Supervised> {
        self.launch(identity, &format!("127.0.0.1:{}", free_port()?))
    }

    fn launch(&self, identity: &str, address: &str) -> anyhow::Result<Supervised> {
        let launch =
            Launch::new(identity, program("soma-operator")?, self.dir.path().join(format!("{identity}.log")))
                .args([
                    "run",
                    "--http-addr",
                    address,
                    "--bundle-addr",
                    "127.0.0.1:0",
                    "--lease-seconds",
                    "3",
                    "--renew-seconds",
                    "2",
                    "--retry-seconds",
                    "1",
                ])
                .args(self.arguments.clone())
                .env("KUBECONFIG", self.dir.path().join("kubeconfig"))
                .env("POD_NAME", identity);
        Ok(launch.start()?)
    }

    /// The operator's process, for signals.
    pub fn operator(&mut self) -> anyhow::Result<&mut Supervised> {
        self.operator.as_mut().context("the operator does not run")
    }

    /// Waits until this operator process has reconciled each kind at least this often.
    pub async fn reconciled(&self, kinds: &[(&str, u64)]) -> anyhow::Result<()> {
        let enough = |metrics: &str| {
            kinds.iter().all(|(kind, times)| {
                let line = format!("soma_operator_reconciles_total{{kind=\"{kind}\",outcome=\"ok\"}} ");
                metrics
                    .lines()
                    .find_map(|l| l.strip_prefix(line.as_str()))
                    .and_then(|n| n.parse().ok())
                    .unwrap_or(0)
                    >= *times
            })
        };
        let wait = async {
            while !self.metrics().await.is_ok_and(|text| enough(&text)) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.context("the operator did not reconcile")
    }

    /// What `/metrics` answers.
    pub async fn metrics(&self) -> anyhow::Result<String> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(&self.address).await?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    /// SIGTERM, and waits for the end: what it was writing is written.
    pub fn stop_operator(&mut self) -> anyhow::Result<()> {
        let mut operator = self.operator.take().context("the operator does not run")?;
        operator.signal(Signal::SIGTERM)?;
        let status = operator.wait()?;
        ensure!(status.success(), "the operator did not stop cleanly: {status}");
        Ok(())
    }

    /// SIGKILL.
    pub fn kill_operator(&mut self) -> anyhow::Result<()> {
        let mut operator = self.operator.take().context("the operator does not run")?;
        operator.kill()?;
        Ok(())
    }

    /// The operator's log file.
    pub fn log(&self) -> PathBuf {
        self.dir.path().join("operator-under-test.log")
    }

    /// A client with all rights.
    pub fn client(&self) -> Client {
        self.plane.client()
    }

    /// Creates or changes an object given as JSON, as `kubectl apply` would.
    pub fn apply(&self, manifest: &Value) -> anyhow::Result<()> {
        let path = self.dir.path().join(format!("manifest-{}.json", uuid()));
        std::fs::write(&path, manifest.to_string())?;
        run(self.plane.kubectl().args(["apply", "--server-side", "--force-conflicts", "-f"]).arg(&path))
            .map(|_| ())
    }

    /// Runs kubectl and returns what it prints.
    pub fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        run(self.plane.kubectl().args(arguments))
    }

    /// Waits, by a watch, until an object fulfils a condition; says what it was when it never does.
    pub async fn eventually<K>(
        &self,
        api: Api<K>,
        name: &str,
        what: &str,
        holds: impl Condition<K>,
    ) -> anyhow::Result<Option<K>>
    where
        K: kube::Resource + Clone + std::fmt::Debug + Send + DeserializeOwned + serde::Serialize + 'static,
    {
        let waiting = Box::pin(await_condition(api.clone(), name, holds));
        if let Ok(found) = tokio::time::timeout(PATIENCE, waiting).await {
            return Ok(found?);
        }
        let last =
            api.get_opt(name).await?.map(|object| serde_json::to_string_pretty(&object)).transpose()?;
        let last = last.unwrap_or_else(|| "absent".into());
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let tail: Vec<_> = log.lines().rev().take(15).collect();
        bail!("{name} never became: {what}\n{last}\noperator, newest first:\n{}", tail.join("\n"))
    }

    /// Writes of the operator since a mark of the audit log, without those that keep its lease.
    pub fn operator_writes(&self, mark: u64) -> anyhow::Result<Vec<Write>> {
        let writes = self.plane.audit().writes_since(mark)?;
        Ok(writes.into_iter().filter(|w| w.user == OPERATOR && w.resource != "leases").collect())
    }

    /// Does what a node would do: reports all pods of a Deployment as ready.
    pub async fn pretend_ready(&self, namespace: &str, name: &str) -> anyhow::Result<()> {
        let api: Api<Deployment> = Api::namespaced(self.client(), namespace);
        let seen = |d: Option<&Deployment>| {
            d.is_some_and(|d| d.status.as_ref().and_then(|s| s.observed_generation) == d.metadata.generation)
        };
        let deployment =
            self.eventually(api.clone(), name, "seen by its controller", seen).await?.context("absent")?;
        let pods: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(self.client(), namespace);
        let wanted = deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0);
        let selector = format!("somastack.dev/revision={name}");
        loop {
            let list = pods.list(&kube::api::ListParams::default().labels(&selector)).await?;
            let live: Vec<_> =
                list.items.iter().filter(|p| p.metadata.deletion_timestamp.is_none()).collect();
            if live.len() == usize::try_from(wanted)? {
                for pod in live {
                    let now = k8s_openapi::jiff::Timestamp::now().to_string();
                    let condition =
                        |type_: &str| json!({"type": type_, "status": "True", "lastTransitionTime": now});
                    let status = json!({"status": {"phase": "Running", "conditions": [condition("Ready"), condition("ContainersReady")]}});
                    pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&status))
                        .await?;
                }
                return Ok(());
            }
            tokio::task::yield_now().await;
        }
    }
}

/// The text under a key of a Secret.
pub fn text(secret: &Secret, key: &str) -> String {
    let bytes = secret.data.as_ref().and_then(|data| data.get(key));
    bytes.map(|b| String::from_utf8_lossy(&b.0).into_owned()).unwrap_or_default()
}

/// Status and reason of a condition in any of the kinds, such as `True Ready`.
pub fn condition(object: &Value, type_: &str) -> String {
    let all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = all.iter().find(|c| c["type"] == type_);
    found
        .map(|c| format!("{} {}", c["status"].as_str().unwrap_or(""), c["reason"].as_str().unwrap_or("")))
        .unwrap_or_default()
}

/// Message of a condition.
pub fn message(object: &Value, type_: &str) -> String {
    let all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found =
        all.iter().find(|c| c["type"] == type_).and_then(|c| c["message"].as_str().map(str::to_owned));
    found.unwrap_or_default()
}

fn uuid() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos())
}

fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output()?;
    ensure!(output.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// The administrator's kubeconfig with another user: the operator's service account.
fn write_kubeconfig(admin: &Path, token: &str, path: &Path) -> anyhow::Result<()> {
    let mut config: Value = serde_saphyr::from_str(&std::fs::read_to_string(admin)?)?;
    config["users"][0]["user"] = json!({"token": token});
    std::fs::write(path, config.to_string())?;
    Ok(())
}
