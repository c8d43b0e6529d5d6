//! OpenFGA with a relation in it: a pod lost, the operator gone, and the same answers from the one store.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use soma_e2e_tests::{Node, client};

/// Asks as services do, through the Service's address, about the store and the model of `openfga-conn`.
struct Asker {
    http: Client,
    url: String,
    token: String,
    store: String,
    model: String,
}

fn conn(node: &Node, key: &str) -> Result<String> {
    let path = format!("go-template={{{{.data.{key} | base64decode}}}}");
    node.kubectl(&["-n", "soma-infra", "get", "secret", "openfga-conn", "-o", &path])
}

impl Asker {
    fn new(node: &Node) -> Result<Self> {
        let (url, mode) = (conn(node, "url")?, conn(node, "mode")?);
        ensure!(
            url == "http://openfga.soma-infra.svc.cluster.local:8080" && mode == "managed",
            "{url} {mode}"
        );
        let service = ["-n", "soma-infra", "get", "service", "openfga", "-o", "jsonpath={.spec.clusterIP}"];
        Ok(Self {
            http: client()?,
            url: format!("http://{}:8080/stores", node.kubectl(&service)?),
            token: conn(node, "token")?,
            store: conn(node, "store")?,
            model: conn(node, "model")?,
        })
    }

    /// Asks until there is an answer, as a client with retries does.
    async fn ask(&self, path: &str, body: Option<Value>) -> Result<Value> {
        let url = format!("{}{path}", self.url);
        let mut last = None;
        for _ in 0..120 {
            let request = match &body {
                Some(body) => self.http.post(&url).json(body),
                None => self.http.get(&url),
            };
            let request = request.bearer_auth(&self.token).timeout(Duration::from_secs(2));
            match async { request.send().await?.error_for_status()?.json().await }.await {
                Ok(answer) => return Ok(answer),
                Err(error) => last = Some(error),
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Err(last.context("never asked")?.into())
    }

    async fn own(&self) -> Result<()> {
        let owner = json!({"user": "user:ann", "relation": "owner", "object": "tenant:acme"});
        let body = json!({"writes": {"tuple_keys": [owner]}, "authorization_model_id": self.model});
        self.ask(&format!("/{}/write", self.store), Some(body)).await.map(drop)
    }

    async fn is_member(&self, user: &str) -> Result<bool> {
        let key = json!({"user": user, "relation": "member", "object": "tenant:acme"});
        let body = json!({"tuple_key": key, "authorization_model_id": self.model});
        let answer = self.ask(&format!("/{}/check", self.store), Some(body)).await?;
        answer["allowed"].as_bool().with_context(|| format!("no decision: {answer}"))
    }

    /// Who owns the tenant is a member of it, somebody else is none, and there is one store with one model.
    async fn is_as_ever(&self, node: &Node) -> Result<()> {
        ensure!(self.is_member("user:ann").await? && !self.is_member("user:eve").await?);
        let ids = |list: &Value| -> Vec<String> {
            let all = list.as_array().into_iter().flatten();
            all.filter_map(|one| one["id"].as_str()).map(str::to_owned).collect()
        };
        let stores = ids(&self.ask("", None).await?["stores"]);
        ensure!(stores == [self.store.as_str()], "the stores are {stores:?}");
        let models = self.ask(&format!("/{}/authorization-models", self.store), None).await?;
        let models = ids(&models["authorization_models"]);
        ensure!(models == [self.model.as_str()], "the models are {models:?}");
        ensure!([conn(node, "store")?, conn(node, "model")?] == [&*self.store, &*self.model]);
        Ok(())
    }
}

pub async fn life(node: Arc<Node>) -> Result<()> {
    let node = &*node;
    node.settled("openfga", 1).await?;
    let asker = Asker::new(node)?;
    ensure!(asker.http.get(&asker.url).send().await?.status() == StatusCode::UNAUTHORIZED, "anybody may ask");
    asker.own().await?;
    asker.is_as_ever(node).await?;

    let before = node.members("openfga")?;
    let lost = before[0].0.as_str();
    node.kubectl(&[
        "-n",
        "soma-infra",
        "delete",
        "pod",
        "--grace-period=0",
        "--force",
        "--wait=false",
        lost,
    ])?;
    asker.is_as_ever(node).await?;
    node.replaced("openfga", &[lost], &before).await?;
    asker.is_as_ever(node).await?;

    // The next operator finds what the first one made, and restarts nobody when it adds a replica.
    let before = node.members("openfga")?;
    node.kill_operator()?;
    node.patch_infra(&json!({"openfga": {"managed": {"replicas": 2}}}))?;
    node.settled("openfga", 2).await?;
    ensure!(node.members("openfga")?.contains(&before[0]), "growing restarted {before:?}");
    asker.is_as_ever(node).await?;
    node.faults.survived(
        "1: a pod of OpenFGA is killed, then the operator while it grows",
        "the same relations from the same store and model; no second store was made",
    );
    Ok(())
}
