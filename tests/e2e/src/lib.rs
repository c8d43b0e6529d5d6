//! What the end-to-end tests share: a cluster with Soma on it, and a client of its memory service.

pub mod checkers;
mod faults;

use std::collections::BTreeMap;
use std::ops::Deref;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use soma_testenv::cache::Cache;
use soma_testenv::cluster::{Installed, TestCluster, install, install_operator};
use soma_testenv::exec::run;
use soma_testenv::images::{self, Image};
use soma_testenv::progress::Progress;

pub use faults::Faults;

/// How often a condition that has to come is looked at, and how many times.
const LOOK: (Duration, u32) = (Duration::from_millis(500), 360);

/// A cluster with the operator on it; gone when dropped.
pub struct Node {
    cluster: TestCluster,
    /// What the test survived.
    pub faults: Faults,
}

impl Node {
    /// Builds the images, these ones too, starts the cluster and installs the operator.
    pub fn start(more: Vec<Image>) -> Result<Self> {
        Self::start_many(1, more)
    }

    /// As [`Self::start`], with this many machines.
    pub fn start_many(machines: u8, more: Vec<Image>) -> Result<Self> {
        let node = Self::bare(machines, more)?;
        install_operator(node.cluster.place())?;
        Ok(node)
    }

    fn bare(machines: u8, more: Vec<Image>) -> Result<Self> {
        let cache = Cache::open()?;
        let mut all = images::system(&cache)?;
        all.extend(images::services(&cache)?);
        all.extend(more);
        Ok(Self { cluster: TestCluster::start(machines, &all)?, faults: Faults::default() })
    }

    /// Stops a program of the control plane until it is resumed: connections stay open, and nobody answers.
    pub fn pause(&self, program: &str) -> Result<()> {
        Ok(self.cluster.pause(program)?)
    }

    /// Lets a program of the control plane go on.
    pub fn resume(&self, program: &str) -> Result<()> {
        Ok(self.cluster.resume(program)?)
    }

    /// A machine and everything on it is gone, without a warning.
    pub fn lose_machine(&self, number: u8) -> Result<()> {
        Ok(self.cluster.lose_machine(number)?)
    }

    /// Runs `kubectl` and returns what it prints.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        Ok(run(self.cluster.place().kubectl().args(arguments))?)
    }

    /// Names and uids of the pods of a namespace that are not on their way out.
    pub fn pods(&self, namespace: &str) -> Result<BTreeMap<String, String>> {
        self.pods_with(namespace, "")
    }

    fn pods_with(&self, namespace: &str, labels: &str) -> Result<BTreeMap<String, String>> {
        let list = self.kubectl(&["-n", namespace, "get", "pods", "-l", labels, "-o", "json"])?;
        let list: Value = serde_json::from_str(&list)?;
        let pods = list["items"].as_array().cloned().unwrap_or_default();
        Ok(pods
            .iter()
            .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
            .map(|pod| (text(&pod["metadata"]["name"]), text(&pod["metadata"]["uid"])))
            .collect())
    }

    /// Applies an object.
    pub fn apply(&self, object: &Value) -> Result<()> {
        let folder = soma_testenv::RunDir::new("object")?;
        let path = folder.path().join("object.json");
        std::fs::write(&path, object.to_string())?;
        self.kubectl(&["apply", "-f", &path.display().to_string()]).map(drop)
    }

    /// Merges into the `spec` of the SomaInfra.
    pub fn patch_infra(&self, spec: &Value) -> Result<()> {
        let patch = json!({"spec": spec}).to_string();
        self.kubectl(&["-n", "soma-infra", "patch", "somainfra", "shared", "--type=merge", "-p", &patch])
            .map(drop)
    }

    /// What the status of the SomaInfra says of a component; null when it speaks of an older manifest.
    pub fn component(&self, name: &str) -> Result<Value> {
        let infra = self.kubectl(&["-n", "soma-infra", "get", "somainfra", "shared", "-o", "json"])?;
        let infra: Value = serde_json::from_str(&infra)?;
        let status = &infra["status"];
        if status["observedGeneration"] != infra["metadata"]["generation"] {
            return Ok(Value::Null);
        }
        let components = status["components"].as_array().cloned().unwrap_or_default();
        Ok(components.into_iter().find(|component| component["name"] == name).unwrap_or_default())
    }

    /// Kills the operator without a warning, as a crash would; another one takes over when its lease runs out.
    pub fn kill_operator(&self) -> Result<()> {
        let now = ["--grace-period=0", "--force", "--wait=false"];
        self.kubectl(&[&["-n", "soma-system", "delete", "pod", "--all"][..], &now].concat()).map(drop)
    }

    /// Names and uids of a component's members.
    pub fn members(&self, component: &str) -> Result<Vec<(String, String)>> {
        Ok(self.pods_with("soma-infra", &members(component))?.into_iter().collect())
    }

    /// Waits until a component is as its manifest asks and has this many members, which are all ready.
    pub async fn settled(&self, component: &str, count: usize) -> Result<()> {
        // The status alone may be of a moment before a loss was noticed.
        let ready = r#"jsonpath={range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}"#;
        self.until(&format!("{component} with {count} members"), |node| {
            let labels = members(component);
            let pods = node.kubectl(&["-n", "soma-infra", "get", "pods", "-l", &labels, "-o", ready])?;
            Ok(node.component(component)?["reason"] == "Ready"
                && node.members(component)?.len() == count
                && pods.lines().filter(|pod| *pod == "True").count() == count)
        })
        .await
    }

    /// Waits until none of these members is the one it was before, and then until all is well again.
    pub async fn replaced(&self, component: &str, lost: &[&str], before: &[(String, String)]) -> Result<()> {
        self.until("other pods", |node| {
            let now = node.members(component)?;
            Ok(!before.iter().any(|old| lost.contains(&old.0.as_str()) && now.contains(old)))
        })
        .await?;
        self.settled(component, before.len()).await
    }

    /// Looks until `there` is true.
    pub async fn until(&self, what: &str, there: impl Fn(&Self) -> Result<bool>) -> Result<()> {
        for _ in 0..LOOK.1 {
            if there(self)? {
                return Ok(());
            }
            tokio::time::sleep(LOOK.0).await;
        }
        bail!("never came: {what}\n{}", self.kubectl(&["get", "soma,pods", "-A", "-o", "wide"])?)
    }

    /// One field of the SomaStack, by JSON path.
    pub fn stack(&self, path: &str) -> Result<String> {
        self.kubectl(&["-n", "soma", "get", "somastack", "soma", "-o", &format!("jsonpath={{{path}}}")])
    }

    /// One field of the SomaInfra, by JSON path.
    pub fn infra(&self, path: &str) -> Result<String> {
        let path = format!("jsonpath={{{path}}}");
        self.kubectl(&["-n", "soma-infra", "get", "somainfra", "shared", "-o", &path])
    }
}

/// A [`Node`] with `examples/quickstart` on it.
pub struct Soma {
    node: Node,
    installed: Installed,
    http: reqwest::Client,
}

impl Deref for Soma {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

impl Soma {
    /// Installs everything and waits until every object is ready.
    pub fn start() -> Result<Self> {
        let node = Node::bare(1, Vec::new())?;
        let installed = install(node.cluster.place(), &mut Progress::default())?;
        Ok(Self { node, installed, http: client()? })
    }

    /// Sends a request to the memory service through its Service; the status and the JSON of the answer.
    pub async fn ask(&self, path: &str, body: &Value) -> Result<(u16, Value)> {
        let url = format!("http://{}:9595{path}", self.installed.address);
        let request = self.http.post(url).bearer_auth(&self.installed.token).json(body);
        let response = request.send().await?;
        let status = response.status().as_u16();
        Ok((status, serde_json::from_str(&response.text().await?).unwrap_or_default()))
    }

    /// Stores one memory; it can be recalled when this returns.
    pub async fn store(&self, text: &str) -> Result<()> {
        let (status, answer) =
            self.ask("/memories?wait=indexed", &json!({"payload": {"content": text}})).await?;
        anyhow::ensure!(status < 300, "{status}: {answer}");
        Ok(())
    }

    /// The text of the memory nearest to a question.
    pub async fn recall(&self, question: &str) -> Result<String> {
        let (status, answer) = self.ask("/recall", &json!({"query": question, "top_k": 1})).await?;
        anyhow::ensure!(status < 300, "{status}: {answer}");
        Ok(text(&answer["matches"][0]["content"]))
    }

    /// Recalls until the service answers again, as a client with retries does.
    pub async fn recall_with_retries(&self, question: &str) -> Result<String> {
        let mut last = None;
        for _ in 0..LOOK.1 {
            match self.recall(question).await {
                Ok(found) => return Ok(found),
                Err(error) => last = Some(error),
            }
            tokio::time::sleep(LOOK.0).await;
        }
        Err(last.context("never asked")?)
    }
}

/// Whom a SomaInfra has to let in for the tests: their pods, and this machine.
pub fn clients() -> Vec<Value> {
    vec![
        json!({"podSelector": {"matchLabels": {"app": "client"}}}),
        json!({"ipBlock": {"cidr": soma_testenv::cluster::MACHINES}}),
    ]
}

/// An HTTP client that gives up after half a minute.
pub fn client() -> Result<reqwest::Client> {
    // A second call finds the provider installed, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(reqwest::Client::builder().timeout(Duration::from_secs(30)).build()?)
}

/// Labels of a component's members, which its Jobs do not have.
fn members(component: &str) -> String {
    format!("app.kubernetes.io/name={component},!batch.kubernetes.io/job-name")
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
