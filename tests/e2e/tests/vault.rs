//! A Vault through its life on a real node: formed once, grown, rolled, lost pod by pod and all at once.

use anyhow::{Context, Result, ensure};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use soma_e2e_tests::{Node, client};
use soma_testenv::cache::Cache;
use soma_testenv::images;

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

fn vault_pods(node: &Node) -> Result<Vec<(String, String)>> {
    Ok(node.pods("soma-infra")?.into_iter().filter(|(name, _)| name.starts_with("vault-")).collect())
}

async fn ready(node: &Node, members: usize) -> Result<()> {
    node.until(&format!("{members} members and Ready"), |node| {
        let generation = node.infra(".metadata.generation")?;
        let seen = node.infra(".status.conditions[?(@.type==\"Ready\")].observedGeneration")?;
        let ready = node.infra(".status.conditions[?(@.type==\"Ready\")].status")?;
        Ok(ready == "True" && seen == generation && vault_pods(node)?.len() == members)
    })
    .await
}

fn patch(node: &Node, vault: &Value) -> Result<()> {
    let patch = json!({"spec": {"vault": {"managed": vault}}}).to_string();
    node.kubectl(&["-n", "soma-infra", "patch", "somainfra", "shared", "--type=merge", "-p", &patch])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_is_formed_once_and_survives_its_pods() -> Result<()> {
    let node = tokio::task::spawn_blocking(|| Node::start(vec![images::vault(&Cache::open()?)?])).await??;
    let example = soma_testenv::checkout().join("examples/infra-dev.yaml");
    node.kubectl(&["apply", "-f", &example.display().to_string()])?;
    // The other components have tests of their own.
    let alone = json!({"spec": {"etcd": null}}).to_string();
    node.kubectl(&["-n", "soma-infra", "patch", "somainfra", "shared", "--type=merge", "-p", &alone])?;
    ready(&node, 1).await?;
    let keys = node.kubectl(&["-n", "soma-infra", "get", "secret", "vault-unseal", "-o", "json"])?;
    let keys: Value = serde_json::from_str(&keys)?;
    ensure!(keys["data"]["root-token"].is_null(), "the root token is still kept");
    let service = ["-n", "soma-infra", "get", "service", "vault", "-o", "jsonpath={.spec.clusterIP}"];
    let url = format!("http://{}:8200", node.kubectl(&service)?);
    let mut checker = Checker { http: client()?, url, acknowledged: 0 };
    checker.allow_default(&node).await?;
    checker.write(&node).await?;

    // Growing restarts nobody.
    let first = vault_pods(&node)?;
    patch(&node, &json!({"replicas": 3}))?;
    ready(&node, 3).await?;
    ensure!(vault_pods(&node)?.contains(&first[0]), "growing restarted {first:?}");
    checker.write(&node).await?;

    // The leader, then all at once: opened again with the same key, nothing lost.
    for lost in [&["vault-0"][..], &["vault-0", "vault-1", "vault-2"]] {
        let before = vault_pods(&node)?;
        node.kubectl(&[&["-n", "soma-infra", "delete", "pod", "--wait=false"], lost].concat())?;
        checker.write(&node).await?;
        node.until("other pods", |node| {
            let now = vault_pods(node)?;
            let gone = |name: &str| !before.iter().any(|old| old.0 == name && now.contains(old));
            Ok(lost.iter().all(|name| gone(name)))
        })
        .await?;
        ready(&node, 3).await?;
        checker.verify(&node).await?;
    }

    // A change of the template replaces every pod, one at a time, while clients write.
    let before = vault_pods(&node)?;
    patch(&node, &json!({"resources": {"requests": {"cpu": "60m"}}}))?;
    while vault_pods(&node)?.iter().any(|pod| before.contains(pod)) {
        checker.write(&node).await?;
        let sealed_or_gone = 3 - vault_pods(&node)?.len();
        ensure!(sealed_or_gone <= 1, "more than one member is gone");
    }
    ready(&node, 3).await?;
    checker.verify(&node).await?;

    // Without the key Vault works on, and the status says what to do; with it restored all is well.
    node.kubectl(&["-n", "soma-infra", "delete", "secret", "vault-unseal"])?;
    node.until("the missing key is reported", |node| {
        Ok(node.infra(".status.conditions[?(@.type==\"Degraded\")].reason")? == "UnsealKeysMissing"
            && node.infra(".status.conditions[?(@.type==\"Available\")].status")? == "True")
    })
    .await?;
    checker.write(&node).await?;
    let mut restored = keys;
    restored["metadata"] =
        json!({"name": "vault-unseal", "namespace": "soma-infra", "labels": restored["metadata"]["labels"]});
    let file = soma_testenv::RunDir::new("restored")?;
    let path = file.path().join("secret.json");
    std::fs::write(&path, restored.to_string())?;
    node.kubectl(&["apply", "-f", &path.display().to_string()])?;
    ready(&node, 3).await?;
    checker.verify(&node).await?;
    let acknowledged = checker.acknowledged;

    // A key that was never kept: nothing happens before the owner says so, and then a new Vault is formed.
    let lost = json!({"data": {"unseal-key": null, "stage": "aW5pdGlhbGlzaW5n"}}).to_string();
    node.kubectl(&["-n", "soma-infra", "patch", "secret", "vault-unseal", "--type=merge", "-p", &lost])?;
    node.until("the lost key is reported", |node| {
        Ok(node.infra(".status.conditions[?(@.type==\"Degraded\")].reason")? == "InitKeysLost")
    })
    .await?;
    checker.verify(&node).await?;
    let wish = ["-n", "soma-infra", "annotate", "somainfra", "shared", "somastack.dev/wipe-vault=shared"];
    node.kubectl(&wish)?;
    node.until("the wish is granted", |node| {
        Ok(node.infra(".metadata.annotations.somastack\\.dev/wipe-vault")?.is_empty())
    })
    .await?;
    ready(&node, 3).await?;
    ensure!(checker.verify(&node).await.is_err(), "the old Vault is still there");
    checker.acknowledged = 0;
    checker.allow_default(&node).await?;
    checker.write(&node).await?;
    println!("{acknowledged} secrets acknowledged, each of them there");
    Ok(())
}
