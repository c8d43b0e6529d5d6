//! The memory service's admin API.

use std::time::Duration;

use reqwest::{RequestBuilder, Response, StatusCode};
use serde::{Deserialize, Serialize};
use soma_crds::MemoryNamespace;

use super::Blocked;
use crate::error::chain;

/// Longest time one request may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The admin API of one stack.
#[derive(Clone)]
pub struct Admin {
    pub http: reqwest::Client,
    /// Namespace and name of the SomaStack.
    pub namespace: String,
    pub stack: String,
    pub url: String,
    pub token: String,
}

/// What a namespace in the service is to be.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Wanted {
    pub tenant: String,
    pub quota: Quota,
    pub embedding: Embedding,
}

/// `None` is unlimited.
#[derive(Clone, Copy, Debug, Serialize, PartialEq, Eq)]
pub struct Quota {
    pub memories: Option<i64>,
    /// Bytes of payload.
    pub bytes: Option<i64>,
}

#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Embedding {
    pub provider: &'static str,
    pub model: &'static str,
    pub dimension: i32,
}

/// What the service answers about a namespace.
#[derive(Clone, Debug, Deserialize)]
pub struct Bound {
    pub usage: soma_crds::Usage,
}

/// An answer that is not what was asked for.
#[derive(Debug)]
pub enum Answer {
    Unreachable(String),
    Unauthorised,
    Conflict(String),
    Refused(String),
}

/// RFC 9457 problem, as far as it matters here.
#[derive(Deserialize, Default)]
struct Problem {
    #[serde(default)]
    title: String,
    #[serde(default)]
    detail: String,
}

/// The body for a manifest.
pub fn wanted(memory: &MemoryNamespace) -> Result<Wanted, Blocked> {
    let spec = &memory.spec;
    let bytes = match &spec.quota.bytes {
        None => None,
        Some(quantity) => {
            let bytes = quantity.bytes().and_then(|bytes| i64::try_from(bytes).ok());
            Some(bytes.ok_or(Blocked::QuotaTooLarge)?)
        }
    };
    Ok(Wanted {
        tenant: spec.tenant.clone(),
        quota: Quota { memories: spec.quota.memories, bytes },
        embedding: Embedding {
            provider: spec.embedding.provider.as_str(),
            model: spec.embedding.model.as_str(),
            dimension: spec.embedding.dimension,
        },
    })
}

impl Admin {
    fn at(&self, method: reqwest::Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}/v1/admin/namespaces{path}", self.url)).bearer_auth(&self.token)
    }

    /// Makes a namespace, or changes its quota. Repeating it changes nothing.
    pub async fn put(&self, name: &str, wanted: &Wanted) -> Result<Bound, Answer> {
        let request = self.at(reqwest::Method::PUT, &format!("/{name}")).timeout(TIMEOUT).json(wanted);
        let response = send(request).await?;
        response
            .json()
            .await
            .map_err(|error| Answer::Unreachable(format!("it answered something else: {}", chain(&error))))
    }

    /// Deletes a namespace with its memories; one that is absent is fine.
    pub async fn delete(&self, name: &str) -> Result<(), Answer> {
        send(self.at(reqwest::Method::DELETE, &format!("/{name}")).timeout(TIMEOUT)).await.map(|_| ())
    }

    /// The stream of usage changes. It has no end, so it has no time limit either.
    pub async fn usage(&self) -> Result<Response, Answer> {
        send(self.at(reqwest::Method::GET, "/usage").header("accept", "text/event-stream")).await
    }
}

async fn send(request: RequestBuilder) -> Result<Response, Answer> {
    let response = request.send().await.map_err(|error| Answer::Unreachable(chain(&error.without_url())))?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let problem: Problem = response.json().await.unwrap_or_default();
    let said = if problem.detail.is_empty() { problem.title } else { problem.detail };
    let said = if said.is_empty() { status.to_string() } else { said };
    Err(match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Answer::Unauthorised,
        StatusCode::CONFLICT => Answer::Conflict(said),
        status if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS => {
            Answer::Refused(said)
        }
        _ => Answer::Unreachable(said),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_manifest_becomes_the_body_of_the_request() {
        let memory: MemoryNamespace = serde_json::from_value(json!({
            "apiVersion": "somastack.dev/v1alpha1", "kind": "MemoryNamespace", "metadata": {"name": "notes"},
            "spec": {"stackRef": {"name": "soma"}, "tenant": "acme", "quota": {"bytes": "1Mi"}},
        }))
        .unwrap();
        assert_eq!(
            serde_json::to_value(wanted(&memory).unwrap()).unwrap(),
            json!({
                "tenant": "acme",
                "quota": {"memories": null, "bytes": 1_048_576},
                "embedding": {"provider": "local", "model": "all-MiniLM-L6-v2", "dimension": 384},
            })
        );
    }
}
