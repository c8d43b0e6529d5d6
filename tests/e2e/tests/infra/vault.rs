//! Vault under a writer: formed once, grown, rolled, lost pod by pod and all at once, and without its key.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use soma_e2e_tests::{Node, client};

/// What a client of Vault sees, and what was acknowledged to it.
struct Checker {
    http: Client,
    url: String,
    acknowledged: usize,
}

impl Checker {
    async fn call(&self, method: Method, path: &str, token: &str, body: &Value) -> Result<Value> {
        let request = self.http.request(method, format!("{}/v1/{path}", self.url)).json(body);
        let answer = request.header("X-Vault-Token", token).send().await?;
        let status = answer.status();
        let body: Value = answer.json().await.unwrap_or_default();
        ensure!(status.is_success(), "{path}: {status}: {body}");
        Ok(body)
    }

    async fn login(&self, node: &Node, namespace: &str, account: &str, role: &str) -> Result<String> {
        let jwt = node.kubectl(&["-n", namespace, "create", "token", account, "--audience=vault"])?;
        let body = json!({"role": role, "jwt": jwt.trim()});
        let answer = self.call(Method::POST, "auth/kubernetes/login", "", &body).await?;
        answer["auth"]["client_token"].as_str().map(str::to_owned).context("no token")
    }

    /// A role for the account `default`, made with no more than the operator's own rights.
    async fn allow_default(&self, node: &Node) -> Result<()> {
        let operator = self.login(node, "soma-system", "soma-operator", "soma-operator").await?;
        let policy =
            json!({"policy": r#"path "secret/data/soma/*" { capabilities = ["create", "update", "read"] }"#});
        self.call(Method::POST, "sys/policies/acl/soma-check", &operator, &policy).await?;
        let role = json!({
            "bound_service_account_names": ["default"], "bound_service_account_namespaces": ["soma-infra"],
            "audience": "vault", "token_policies": ["soma-check"],
        });
        self.call(Method::POST, "auth/kubernetes/role/soma-check", &operator, &role).await?;
        let wrong = self.call(Method::GET, "secret/data/soma/0", &operator, &Value::Null).await;
        ensure!(wrong.is_err(), "the operator can read the secrets of tenants");
        Ok(())
    }

    /// Writes until it is acknowledged, as a client with retries does.
    async fn write(&mut self, node: &Node) -> Result<()> {
        let mut last = None;
        for _ in 0..120 {
            let attempt = async {
                let token = self.login(node, "soma-infra", "default", "soma-check").await?;
                let path = format!("secret/data/soma/{}", self.acknowledged);
                self.call(Method::POST, &path, &token, &json!({"data": {"n": self.acknowledged}})).await
            };
            match attempt.await {
                Ok(_) => {
                    self.acknowledged += 1;
                    return Ok(());
                }
                Err(error) => last = Some(error),
            }
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        }
        Err(last.context("never tried")?)
    }

    /// Reads back everything that was acknowledged.
    async fn verify(&self, node: &Node) -> Result<()> {
        let token = self.login(node, "soma-infra", "default", "soma-check").await?;
        for n in 0..self.acknowledged {
            let read = self.call(Method::GET, &format!("secret/data/soma/{n}"), &token, &Value::Null).await?;
            ensure!(read["data"]["data"]["n"] == n, "secret {n} is {read}");
        }
        Ok(())
    }
}

fn patch(node: &Node, vault: &Value) -> Result<()> {
    node.patch_infra(&json!({"vault": {"managed": vault}}))
}

pub async fn life(node: Arc<Node>) -> Result<()> {
    let node = &*node;
    node.settled("vault", 1).await?;
    let keys = node.kubectl(&["-n", "soma-infra", "get", "secret", "vault-unseal", "-o", "json"])?;
    let keys: Value = serde_json::from_str(&keys)?;
    ensure!(keys["data"]["root-token"].is_null(), "the root token is still kept");
    let service = ["-n", "soma-infra", "get", "service", "vault", "-o", "jsonpath={.spec.clusterIP}"];
    let url = format!("http://{}:8200", node.kubectl(&service)?);
    let mut checker = Checker { http: client()?, url, acknowledged: 0 };
    checker.allow_default(node).await?;
    checker.write(node).await?;

    // Growing restarts nobody.
    let first = node.members("vault")?;
    patch(node, &json!({"replicas": 3}))?;
    node.settled("vault", 3).await?;
    ensure!(node.members("vault")?.contains(&first[0]), "growing restarted {first:?}");
    checker.write(node).await?;

    // The leader, then all at once: opened again with the same key, nothing lost.
    for lost in [&["vault-0"][..], &["vault-0", "vault-1", "vault-2"]] {
        let before = node.members("vault")?;
        node.kubectl(&[&["-n", "soma-infra", "delete", "pod", "--wait=false"], lost].concat())?;
        checker.write(node).await?;
        node.replaced("vault", lost, &before).await?;
        checker.verify(node).await?;
    }
    node.faults.survived(
        "23: a pod of Vault is deleted, then all at once",
        "opened again with the kept key, every secret there",
    );

    // A change of the template replaces every pod, one at a time, while clients write.
    let before = node.members("vault")?;
    patch(node, &json!({"resources": {"requests": {"cpu": "60m"}}}))?;
    while node.members("vault")?.iter().any(|pod| before.contains(pod)) {
        checker.write(node).await?;
        let sealed_or_gone = 3 - node.members("vault")?.len();
        ensure!(sealed_or_gone <= 1, "more than one member is gone");
    }
    node.settled("vault", 3).await?;
    checker.verify(node).await?;

    // Without the key Vault works on, and the status says what to do; with it restored all is well.
    node.kubectl(&["-n", "soma-infra", "delete", "secret", "vault-unseal"])?;
    node.until("the missing key is reported", |node| {
        let vault = node.component("vault")?;
        Ok(vault["reason"] == "UnsealKeysMissing" && vault["ready"] == true)
    })
    .await?;
    checker.write(node).await?;
    let mut restored = keys;
    restored["metadata"] =
        json!({"name": "vault-unseal", "namespace": "soma-infra", "labels": restored["metadata"]["labels"]});
    node.apply(&restored)?;
    node.settled("vault", 3).await?;
    checker.verify(node).await?;
    let acknowledged = checker.acknowledged;
    node.faults
        .survived("23: Secret vault-unseal is deleted and restored", "UnsealKeysMissing; Vault served on");

    // A key that was never kept: nothing happens before the owner says so, and then a new Vault is formed.
    let lost = json!({"data": {"unseal-key": null, "stage": "aW5pdGlhbGlzaW5n"}}).to_string();
    node.kubectl(&["-n", "soma-infra", "patch", "secret", "vault-unseal", "--type=merge", "-p", &lost])?;
    node.until("the lost key is reported", |node| Ok(node.component("vault")?["reason"] == "InitKeysLost"))
        .await?;
    checker.verify(node).await?;
    let wish = ["-n", "soma-infra", "annotate", "somainfra", "shared", "somastack.dev/wipe-vault=shared"];
    node.kubectl(&wish)?;
    node.until("the wish is granted", |node| {
        Ok(node.infra(".metadata.annotations.somastack\\.dev/wipe-vault")?.is_empty())
    })
    .await?;
    node.settled("vault", 3).await?;
    ensure!(checker.verify(node).await.is_err(), "the old Vault is still there");
    checker.acknowledged = 0;
    checker.allow_default(node).await?;
    checker.write(node).await?;
    node.faults.survived(
        "1: the key of Vault was never kept",
        "InitKeysLost, a new Vault only when its owner asked for it",
    );
    println!("{acknowledged} secrets acknowledged, each of them there");
    Ok(())
}
