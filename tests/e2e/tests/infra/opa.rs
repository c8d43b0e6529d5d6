//! OPA under someone who asks all the time: other policies without a restart, a bad one refused alone, pods lost, the
//! operator gone.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use soma_e2e_tests::{Node, client};

/// Asks as services do, through the Service's address.
struct Asker {
    http: Client,
    url: String,
    answers: usize,
}

fn request(action: &str) -> Value {
    json!({"input": {
        "subject": {"id": "u", "tenant": "acme", "scopes": ["memory.*"], "roles": []},
        "action": action, "resource": {"type": "memory", "id": "m", "tenant": "acme"}, "context": {},
    }})
}

impl Asker {
    fn new(node: &Node) -> Result<Self> {
        let conn = |key: &str| {
            let path = format!("go-template={{{{.data.{key} | base64decode}}}}");
            node.kubectl(&["-n", "soma-infra", "get", "secret", "opa-conn", "-o", &path])
        };
        ensure!(conn("url")? == "http://opa.soma-infra.svc.cluster.local:8181" && conn("mode")? == "managed");
        let service = ["-n", "soma-infra", "get", "service", "opa", "-o", "jsonpath={.spec.clusterIP}"];
        let url = format!("http://{}:8181{}", node.kubectl(&service)?, conn("decision")?);
        Ok(Self { http: client()?, url, answers: 0 })
    }

    /// Asks until there is an answer, as a client with retries does.
    async fn ask(&mut self, action: &str) -> Result<bool> {
        let mut last = None;
        for _ in 0..60 {
            let request = self.http.post(&self.url).timeout(Duration::from_secs(2)).json(&request(action));
            let answer = async { request.send().await?.error_for_status()?.json::<Value>().await };
            match answer.await {
                Ok(answer) => {
                    self.answers += 1;
                    return answer["result"]["allow"]
                        .as_bool()
                        .with_context(|| format!("no decision: {answer}"));
                }
                Err(error) => last = Some(error),
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Err(last.context("never asked")?.into())
    }
}

fn policy(node: &Node, text: &str) -> Result<()> {
    node.apply(&json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "acme", "namespace": "soma-infra", "labels": {"openpolicyagent.org/policy": "rego"}},
        "data": {"acme.rego": text},
    }))
}

fn message(node: &Node) -> Result<String> {
    Ok(node.component("opa")?["message"].as_str().unwrap_or_default().to_owned())
}

pub async fn life(node: Arc<Node>) -> Result<()> {
    let node = &*node;
    node.settled("opa", 1).await?;
    let mut asker = Asker::new(node)?;
    ensure!(asker.ask("memory.delete").await? && !asker.ask("settings.read").await?);
    let put = asker.http.put(asker.url.replace("/v1/data/soma/policy/allow", "/v1/policies/x"));
    ensure!(put.body("package x").send().await?.status() == StatusCode::UNAUTHORIZED, "anybody may write");

    // Growing restarts nobody, and two replicas say which policies they have.
    let first = node.members("opa")?;
    node.patch_infra(&json!({"opa": {"managed": {"replicas": 2}}}))?;
    node.settled("opa", 2).await?;
    let before = node.members("opa")?;
    ensure!(before.contains(&first[0]), "growing restarted {first:?}");
    // The status says nothing of a manifest that has just changed.
    let mut old = Value::Null;
    while !old.is_string() {
        old = node.component("opa")?["members"][1]["role"].clone();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    // Another policy.
    policy(
        node,
        "package tenant_policies.acme\n\ndeny contains \"acme deletes nothing\" if input.action == \"memory.delete\"\n",
    )?;
    node.until("the other policies in every replica", |node| {
        let opa = node.component("opa")?;
        Ok(opa["members"][1]["role"] != old && opa["reason"] == "Ready")
    })
    .await?;
    for _ in 0..20 {
        ensure!(!asker.ask("memory.delete").await? && asker.ask("memory.read").await?);
    }

    // One that does not compile: the last good one decides on.
    policy(node, "package tenant_policies.acme\n\ndeny contains if\n")?;
    node.until("the refusal is told", |node| {
        let told = message(node)?.contains("ConfigMap acme: tenant_policies/acme/acme.rego:3");
        Ok(told && node.component("opa")?["ready"] == true)
    })
    .await?;
    ensure!(!asker.ask("memory.delete").await?, "a policy that does not compile took another away");
    policy(node, "package soma.policy\n\nallow := {\"allow\": true}\n")?;
    node.until("the refusal is told", |node| Ok(message(node)?.contains("the package is soma.policy")))
        .await?;
    ensure!(!asker.ask("settings.read").await?, "a tenant widened the policies");
    ensure!(node.members("opa")? == before, "a policy restarted a pod");
    node.faults.survived(
        "policies of tenants that do not compile, or reach out of their tenant",
        "each refused alone by name and line, the last good ones decide, no pod is restarted",
    );

    // One pod, then both, with the operator killed then.
    let lost: Vec<_> = before.iter().map(|(name, _)| name.as_str()).collect();
    node.kubectl(&["-n", "soma-infra", "delete", "pod", "--wait=false", lost[0]])?;
    ensure!(!asker.ask("memory.delete").await?);
    node.replaced("opa", &lost[..1], &before).await?;
    let before = node.members("opa")?;
    let lost: Vec<_> = before.iter().map(|(name, _)| name.as_str()).collect();
    node.kubectl(&[&["-n", "soma-infra", "delete", "pod", "--wait=false"][..], &lost].concat())?;
    node.kill_operator()?;
    node.replaced("opa", &lost, &before).await?;
    ensure!(!asker.ask("memory.delete").await? && asker.ask("memory.read").await?);
    node.faults.survived(
        "1: all pods of OPA are deleted at once, and the operator is killed",
        "they came back with the last good policies; nothing was allowed in between",
    );

    node.kubectl(&["-n", "soma-infra", "delete", "configmap", "acme"])?;
    node.until("the tenant's policy is gone", |node| {
        let opa = node.component("opa")?;
        Ok(opa["reason"] == "Ready" && opa["message"].is_null())
    })
    .await?;
    ensure!(asker.ask("memory.delete").await?);
    println!("{} decisions asked for", asker.answers);
    Ok(())
}
