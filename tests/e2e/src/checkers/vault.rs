//! Secrets in Vault that are counted when they are acknowledged.

use anyhow::{Context, Result, ensure};
use reqwest::{Client, Method};
use serde_json::{Value, json};

use super::tenant;
use crate::{Node, client};

/// What a tenant's program sees of Vault, and what was acknowledged to it.
pub struct Checker {
    http: Client,
    url: String,
    role: String,
    prefix: String,
    /// Secrets that were acknowledged.
    pub acknowledged: usize,
}

/// The tenant whose secrets are written, and the account its program has.
const TENANT: &str = "vault-check";
const ACCOUNT: &str = "default";

impl Checker {
    /// Of the SomaInfra's Vault, as a tenant of its own.
    pub async fn new(node: &Node) -> Result<Self> {
        let spec = json!({"tenant": "check", "access": [{"serviceAccount": ACCOUNT}]});
        tenant::apply(node, TENANT, spec)?;
        Self::of(node, TENANT).await
    }

    /// As the program of a tenant.
    pub async fn of(node: &Node, name: &str) -> Result<Self> {
        let service = ["-n", "soma-infra", "get", "service", "vault", "-o", "jsonpath={.spec.clusterIP}"];
        let url = format!("http://{}:8200", node.kubectl(&service)?);
        let access = tenant::access(node, name).await?;
        let given = |key: &str| access.get(key).cloned().with_context(|| format!("no {key} in {access:?}"));
        let (role, prefix) = (given("VAULT_ROLE")?, given("VAULT_PREFIX")?);
        Ok(Self { http: client()?, url, role, prefix, acknowledged: 0 })
    }

    async fn call(&self, method: Method, path: &str, token: &str, body: &Value) -> Result<Value> {
        let request = self.http.request(method, format!("{}/v1/{path}", self.url)).json(body);
        let answer = request.header("X-Vault-Token", token).send().await?;
        let status = answer.status();
        let body: Value = answer.json().await.unwrap_or_default();
        ensure!(status.is_success(), "{path}: {status}: {body}");
        Ok(body)
    }

    /// A token of the tenant, for a service account of its namespace.
    pub async fn login(&self, node: &Node, account: &str) -> Result<String> {
        let jwt = node.kubectl(&["-n", tenant::NAMESPACE, "create", "token", account, "--audience=vault"])?;
        let body = json!({"role": self.role, "jwt": jwt.trim()});
        let answer = self.call(Method::POST, "auth/kubernetes/login", "", &body).await?;
        answer["auth"]["client_token"].as_str().map(str::to_owned).context("no token")
    }

    /// Reads a secret below the tenant's folder.
    pub async fn read(&self, token: &str, name: &str) -> Result<Value> {
        self.call(Method::GET, &format!("{}/{name}", self.prefix), token, &Value::Null).await
    }

    /// Writes until it is acknowledged, as a client with retries does.
    pub async fn write(&mut self, node: &Node) -> Result<()> {
        let mut last = None;
        for _ in 0..120 {
            let attempt = async {
                let token = self.login(node, ACCOUNT).await?;
                let path = format!("{}/{}", self.prefix, self.acknowledged);
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
        let token = self.login(node, ACCOUNT).await?;
        for n in 0..self.acknowledged {
            let read = self.read(&token, &n.to_string()).await?;
            ensure!(read["data"]["data"]["n"] == n, "secret {n} is {read}");
        }
        Ok(())
    }
}
