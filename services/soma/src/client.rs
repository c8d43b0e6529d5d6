//! The HTTP client of the `soma memory` and `soma bench` commands.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

/// Where the memory service is, and who asks.
#[derive(Args, Clone, Debug)]
pub struct Connection {
    /// Address of the memory service.
    #[arg(long, env = "SOMA_URL", default_value = "http://127.0.0.1:9595", global = true)]
    pub url: String,
    /// Bearer token; by default the one `soma dev` keeps in .soma/token.
    #[arg(long, env = "SOMA_API_TOKEN", hide_env_values = true, global = true)]
    pub token: Option<String>,
    /// Memory namespace.
    #[arg(short, long, env = "SOMA_NAMESPACE", global = true)]
    pub namespace: Option<String>,
}

/// A connection to one namespace of a memory service.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    token: String,
    namespace: String,
}

impl Connection {
    /// A client for the chosen namespace, `default` when none was chosen.
    pub fn client(&self) -> Result<Client> {
        let token = match &self.token {
            Some(token) => token.clone(),
            None => crate::token::read(Path::new(".soma"))?.ok_or_else(|| {
                anyhow!(
                    "no token: set SOMA_API_TOKEN, or run from the folder where `soma dev` keeps .soma/token"
                )
            })?,
        };
        Client::new(&self.url, token, self.namespace.clone().unwrap_or_else(|| "default".into()))
    }
}

impl Client {
    /// A client of the service at `url`.
    pub fn new(url: &str, token: String, namespace: String) -> Result<Self> {
        let http = reqwest::Client::builder().timeout(Duration::from_mins(1)).build()?;
        Ok(Self { http, url: url.trim_end_matches('/').to_owned(), token, namespace })
    }

    /// Address of the service.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The same connection, another namespace.
    pub fn in_namespace(&self, namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), ..self.clone() }
    }

    /// The namespace this client speaks to.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Stores items of `/store_bulk`, all or none. With `wait`, returns once they can be recalled.
    pub async fn store(&self, items: &[Value], wait: bool) -> Result<()> {
        let path = if wait { "/store_bulk?wait=indexed" } else { "/store_bulk" };
        self.send(Method::POST, path, Some(&json!({"items": items}))).await.map(|_| ())
    }

    /// Recalls the memories nearest to a query, best first: `{"payload", "score", …}` each.
    pub async fn recall(&self, query: &str, top_k: usize) -> Result<Vec<Value>> {
        let body = json!({"query": query, "top_k": top_k, "mode": "strict"});
        let mut answer = self.send(Method::POST, "/recall_with_scores", Some(&body)).await?;
        match answer["results"].take() {
            Value::Array(results) => Ok(results),
            _ => bail!("{} answered without results; is it a Soma memory service?", self.url),
        }
    }

    /// Makes the namespace exist, without a quota.
    pub async fn create_namespace(&self) -> Result<()> {
        let embedding = json!({"provider": "local", "model": "all-MiniLM-L6-v2", "dimension": 384});
        let body = json!({"tenant": "default", "quota": {}, "embedding": embedding});
        self.send(Method::PUT, &format!("/v1/admin/namespaces/{}", self.namespace), Some(&body))
            .await
            .map(|_| ())
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let mut request: RequestBuilder = self
            .http
            .request(method, format!("{}{path}", self.url))
            .bearer_auth(&self.token)
            .header("x-soma-namespace", &self.namespace);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.with_context(|| {
            format!("no answer from {}; start it with `soma dev`, or name another with --url", self.url)
        })?;
        let status = response.status();
        let text = response.text().await?;
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        if status.is_success() { Ok(value) } else { Err(refusal(status, &value, &text)) }
    }
}

fn refusal(status: StatusCode, problem: &Value, text: &str) -> anyhow::Error {
    let detail = problem["detail"].as_str().unwrap_or(text);
    match problem["remedy"].as_str() {
        Some(remedy) => anyhow!("{status}: {detail}\n  {remedy}"),
        None => anyhow!("{status}: {detail}"),
    }
}
