//! The few calls of Vault's HTTP API the operator makes. The same for HashiCorp Vault and OpenBao.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

/// Longest time one call may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time an initialisation may take: giving up on it would lose its answer for good.
const INITIALISE: Duration = Duration::from_mins(5);

/// Longest time a snapshot may take, with everything that follows from it; as a Job may.
const LONGEST: Duration = Duration::from_hours(12);
const SNAPSHOT: &str = "sys/storage/raft/snapshot";

/// One member, or the Service in front of them.
pub struct Client<'a> {
    pub http: &'a reqwest::Client,
    /// Base URL, such as `http://10.0.0.7:8200`.
    pub url: String,
}

/// An answer that is not what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    #[error("no answer from {url}")]
    Unreachable {
        url: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("Vault refused to {what} ({status}): {said}")]
    Refused { what: &'static str, status: StatusCode, said: String },
    #[error("Vault's answer to `{what}` cannot be read")]
    Unreadable {
        what: &'static str,
        #[source]
        source: reqwest::Error,
    },
}

impl VaultError {
    /// A member was asked to open before it has joined the others and knows what the key opens. It answers with an
    /// internal error of its cipher.
    pub fn is_joining(&self) -> bool {
        matches!(self, Self::Refused { said, .. } if said.contains("invalid key size 0"))
    }

    /// The token is not, or no longer, good for this.
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == StatusCode::FORBIDDEN)
    }
}

/// Why Vault refused.
#[derive(Deserialize, Default)]
struct Problem {
    #[serde(default)]
    errors: Vec<String>,
}

/// `sys/seal-status`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct SealStatus {
    pub initialized: bool,
    pub sealed: bool,
    pub version: String,
}

/// `sys/leader`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub struct Leader {
    pub is_self: bool,
    #[serde(default)]
    pub leader_address: String,
}

/// What an initialisation answers, once and never again.
pub struct Initialised {
    pub key: String,
    pub root: String,
}

impl Client<'_> {
    pub async fn seal_status(&self) -> Result<SealStatus, VaultError> {
        self.call(Method::GET, "sys/seal-status", None, None, "read its seal status").await
    }

    pub async fn leader(&self) -> Result<Leader, VaultError> {
        self.call(Method::GET, "sys/leader", None, None, "name its leader").await
    }

    /// Initialises Vault with one key: splitting it would not make one Secret any safer.
    pub async fn initialise(&self) -> Result<Initialised, VaultError> {
        #[derive(Deserialize)]
        struct Answer {
            keys_base64: [String; 1],
            root_token: String,
        }
        let body = json!({"secret_shares": 1, "secret_threshold": 1});
        let answer: Answer = self.call(Method::PUT, "sys/init", None, Some(body), "initialise").await?;
        let [key] = answer.keys_base64;
        Ok(Initialised { key, root: answer.root_token })
    }

    pub async fn unseal(&self, key: &str) -> Result<SealStatus, VaultError> {
        self.call(Method::PUT, "sys/unseal", None, Some(json!({"key": key})), "unseal").await
    }

    /// A token for the bearer of a Kubernetes token.
    pub async fn login(&self, role: &str, jwt: &str) -> Result<String, VaultError> {
        #[derive(Deserialize)]
        struct Answer {
            auth: Auth,
        }
        #[derive(Deserialize)]
        struct Auth {
            client_token: String,
        }
        let body = json!({"role": role, "jwt": jwt});
        let answer: Answer =
            self.call(Method::POST, "auth/kubernetes/login", None, Some(body), "log the operator in").await?;
        Ok(answer.auth.client_token)
    }

    /// Reads a path with a token.
    pub async fn read(&self, token: &str, path: &str, what: &'static str) -> Result<Value, VaultError> {
        self.call(Method::GET, path, Some(token), None, what).await
    }

    /// Writes to a path with a token; the answer, where there is one, is dropped.
    pub async fn write(
        &self,
        token: &str,
        path: &str,
        body: Value,
        what: &'static str,
    ) -> Result<(), VaultError> {
        self.send(Method::POST, path, Some(token), Some(body), what).await.map(|_| ())
    }

    /// The stream of a snapshot, however long it takes.
    pub async fn snapshot(&self, token: &str) -> Result<reqwest::Response, VaultError> {
        self.send(Method::GET, SNAPSHOT, Some(token), None, "give a snapshot").await
    }

    async fn call<T: for<'de> Deserialize<'de>>(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<Value>,
        what: &'static str,
    ) -> Result<T, VaultError> {
        let answer = self.send(method, path, token, body, what).await?;
        answer.json().await.map_err(|source| VaultError::Unreadable { what, source })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<Value>,
        what: &'static str,
    ) -> Result<reqwest::Response, VaultError> {
        let timeout = match path {
            "sys/init" => INITIALISE,
            SNAPSHOT => LONGEST,
            _ => TIMEOUT,
        };
        let mut request = self.http.request(method, format!("{}/v1/{path}", self.url)).timeout(timeout);
        if let Some(token) = token {
            request = request.header("X-Vault-Token", token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let unreachable = |source| VaultError::Unreachable { url: self.url.clone(), source };
        let answer = request.send().await.map_err(unreachable)?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let problem: Problem = answer.json().await.unwrap_or_default();
        Err(VaultError::Refused { what, status, said: problem.errors.join("; ").trim().to_owned() })
    }
}
