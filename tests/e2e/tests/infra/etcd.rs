//! etcd under a writer: formed once, grown, rolled, lost pod by pod, all at once, with a volume, and with its majority.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::ByteString;
use reqwest::Client;
use serde_json::{Value, json};
use soma_e2e_tests::{Node, client};

/// What a client of etcd sees, and what was acknowledged to it.
struct Checker {
    http: Client,
    url: String,
    password: String,
    acknowledged: usize,
}

fn bytes(text: &str) -> Value {
    json!(ByteString(text.as_bytes().to_vec()))
}

impl Checker {
    /// From the Secret the operator publishes; through the Service's address, because names of the cluster are not known here.
    fn new(node: &Node) -> Result<Self> {
        let secret = node.kubectl(&["-n", "soma-infra", "get", "secret", "etcd-conn", "-o", "json"])?;
        let data: std::collections::BTreeMap<String, ByteString> =
            serde_json::from_value(serde_json::from_str::<Value>(&secret)?["data"].clone())?;
        let text = |key: &str| -> Result<String> {
            Ok(String::from_utf8(data.get(key).with_context(|| format!("no {key}"))?.0.clone())?)
        };
        ensure!(text("username")? == "soma" && text("prefix")? == "/soma/");
        ensure!(text("endpoints")? == "http://etcd.soma-infra.svc.cluster.local:2379");
        let service = ["-n", "soma-infra", "get", "service", "etcd", "-o", "jsonpath={.spec.clusterIP}"];
        let url = format!("http://{}:{}", node.kubectl(&service)?, text("port")?);
        Ok(Self { http: client()?, url, password: text("password")?, acknowledged: 0 })
    }

    async fn call(&self, path: &str, token: &str, body: &Value) -> Result<Value> {
        let request = self.http.post(format!("{}/v3/{path}", self.url)).json(body);
        let answer = request.timeout(Duration::from_secs(5)).header("Authorization", token).send().await?;
        let status = answer.status();
        let body: Value = answer.json().await.unwrap_or_default();
        ensure!(status.is_success(), "{path}: {status}: {body}");
        Ok(body)
    }

    async fn login(&self) -> Result<String> {
        let body = json!({"name": "soma", "password": self.password});
        let request = self.http.post(format!("{}/v3/auth/authenticate", self.url)).json(&body);
        let answer: Value = request.timeout(Duration::from_secs(5)).send().await?.json().await?;
        answer["token"].as_str().map(str::to_owned).with_context(|| format!("no token: {answer}"))
    }

    /// Writes until it is acknowledged, as a client with retries does.
    async fn write(&mut self) -> Result<()> {
        let mut last = None;
        for _ in 0..120 {
            let attempt = async {
                let token = self.login().await?;
                let n = self.acknowledged;
                let body = json!({"key": bytes(&format!("/soma/{n}")), "value": bytes(&n.to_string())});
                self.call("kv/put", &token, &body).await
            };
            match attempt.await {
                Ok(_) => {
                    self.acknowledged += 1;
                    return Ok(());
                }
                Err(error) => last = Some(error),
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Err(last.context("never tried")?)
    }

    /// Reads back everything that was acknowledged.
    async fn verify(&self) -> Result<()> {
        let token = self.login().await?;
        for n in 0..self.acknowledged {
            let body = json!({"key": bytes(&format!("/soma/{n}"))});
            let read = self.call("kv/range", &token, &body).await?;
            ensure!(read["kvs"][0]["value"] == bytes(&n.to_string()), "key {n} is {read}");
        }
        Ok(())
    }
}

fn managed(node: &Node, etcd: &Value) -> Result<()> {
    node.patch_infra(&json!({"etcd": {"managed": etcd}}))
}

pub async fn life(node: Arc<Node>) -> Result<()> {
    let node = &*node;
    node.settled("etcd", 1).await?;
    let mut checker = Checker::new(node)?;
    checker.write().await?;
    let token = checker.login().await?;
    let other = json!({"key": bytes("/other"), "value": bytes("x")});
    ensure!(checker.call("kv/put", &token, &other).await.is_err(), "soma may write everywhere");

    // Growing restarts nobody and changes nothing for clients.
    let first = node.members("etcd")?;
    managed(node, &json!({"replicas": 3}))?;
    node.settled("etcd", 3).await?;
    ensure!(node.members("etcd")?.contains(&first[0]), "growing restarted {first:?}");
    checker.write().await?;

    // One pod, then all at once.
    for lost in [&["etcd-0"][..], &["etcd-0", "etcd-1", "etcd-2"]] {
        let before = node.members("etcd")?;
        node.kubectl(&[&["-n", "soma-infra", "delete", "pod", "--wait=false"][..], lost].concat())?;
        checker.write().await?;
        node.replaced("etcd", lost, &before).await?;
        checker.verify().await?;
    }

    // A volume and its pod, with the operator killed then: the member is replaced, the others go on.
    let before = node.members("etcd")?;
    let lost = ["-n", "soma-infra", "delete", "pvc/data-etcd-1", "pod/etcd-1", "--wait=false"];
    node.kubectl(&lost)?;
    node.kill_operator()?;
    checker.write().await?;
    node.replaced("etcd", &["etcd-1"], &before).await?;
    node.faults.survived(
        "22: a pod of etcd and its volume are deleted, and the operator is killed",
        "replaced by a new member, first without a vote",
    );
    let now = node.members("etcd")?;
    ensure!(before.iter().filter(|pod| now.contains(pod)).count() == 2, "{before:?} became {now:?}");
    checker.write().await?;
    checker.verify().await?;

    // A change of the template replaces every pod, one at a time, while clients write.
    let before = node.members("etcd")?;
    managed(node, &json!({"resources": {"requests": {"cpu": "60m"}}}))?;
    while node.members("etcd")?.iter().any(|pod| before.contains(pod)) {
        checker.write().await?;
        ensure!(node.members("etcd")?.len() >= 2, "more than one member is gone");
    }
    node.settled("etcd", 3).await?;
    checker.verify().await?;

    // Two volumes of three: nothing is done by itself, and the status says what to do.
    let lost = ["pvc/data-etcd-1", "pvc/data-etcd-2", "pod/etcd-1", "pod/etcd-2"];
    node.kubectl(&[&["-n", "soma-infra", "delete", "--wait=false"][..], &lost].concat())?;
    node.until("the lost majority is reported", |node| {
        let etcd = node.component("etcd")?;
        Ok(etcd["reason"] == "QuorumLost" && etcd["ready"] == false)
    })
    .await?;
    node.faults
        .survived("22: two of three volumes of etcd are deleted", "QuorumLost, nothing was done by itself");
    node.faults
        .survived("22: a writer through all but the last of this", "no write that was acknowledged is lost");
    println!("{} writes acknowledged, each of them read back", checker.acknowledged);
    Ok(())
}
