//! Secrets in Vault that are counted when they are acknowledged.

use anyhow::{Context, Result, ensure};
use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::{Node, client};

/// What a client of Vault sees, and what was acknowledged to it.
pub struct Checker {
    http: Client,
    url: String,
    /// Secrets that were acknowledged.
    pub acknowledged: usize,
}

impl Checker {
    /// Of the SomaInfra's Vault, with a role of its own.
    pub async fn new(node: &Node) -> Result<Self> {
        let service = ["-n", "soma-infra", "get", "service", "vault", "-o", "jsonpath={.spec.clusterIP}"];
        let url = format!("http://{}:8200", node.kubectl(&service)?);
        let checker = Self { http: client()?, url, acknowledged: 0 };
        checker.allow_default(node).await?;
        Ok(checker)
    }

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
    pub async fn allow_default(&self, node: &Node) -> Result<()> {
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
    pub async fn write(&mut self, node: &Node) -> Result<()> {
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
    pub async fn verify(&self, node: &Node) -> Result<()> {
        let token = self.login(node, "soma-infra", "default", "soma-check").await?;
        for n in 0..self.acknowledged {
            let read = self.call(Method::GET, &format!("secret/data/soma/{n}"), &token, &Value::Null).await?;
            ensure!(read["data"]["data"]["n"] == n, "secret {n} is {read}");
        }
        Ok(())
    }
}
