//! The part of OpenFGA's HTTP API the operator uses.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Longest time one question may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The most OpenFGA gives at once, of stores and of models.
const PAGE: u8 = 50;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("OpenFGA cannot be asked")]
    Http(#[from] reqwest::Error),
    #[error("OpenFGA refuses the token ({0})")]
    Token(String),
    #[error("OpenFGA answers {status}: {said}")]
    Refused { status: StatusCode, said: String },
}

/// A store as OpenFGA lists it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Store {
    pub id: String,
    pub name: String,
}

#[derive(Deserialize)]
struct Stores {
    stores: Vec<Store>,
    #[serde(default)]
    continuation_token: String,
}

#[derive(Deserialize)]
struct Models {
    authorization_models: Vec<Value>,
    #[serde(default)]
    continuation_token: String,
}

#[derive(Deserialize)]
struct Written {
    authorization_model_id: String,
}

#[derive(Default, Deserialize)]
struct Health {
    #[serde(default)]
    status: String,
}

#[derive(Default, Deserialize)]
struct Problem {
    #[serde(default)]
    message: String,
}

/// One server, given by its base URL.
pub struct Client<'a> {
    pub http: &'a reqwest::Client,
    pub url: String,
    pub token: Option<&'a str>,
}

impl Client<'_> {
    /// Whether it serves, which includes its database and that its tables are new enough. Asks for no token.
    pub async fn serves(&self) -> Result<(), ClientError> {
        let health: Health = self.ask(Method::GET, "/healthz", &[], None).await?;
        if health.status == "SERVING" {
            return Ok(());
        }
        Err(ClientError::Refused { status: StatusCode::OK, said: format!("status {}", health.status) })
    }

    /// Every store of a name. Releases that cannot look by name give all of them.
    pub async fn stores(&self, name: &str) -> Result<Vec<Store>, ClientError> {
        let (mut found, mut from) = (Vec::new(), String::new());
        loop {
            let query = [("name", name), ("page_size", &PAGE.to_string()), ("continuation_token", &from)];
            let page: Stores = self.ask(Method::GET, "/stores", &query, None).await?;
            found.extend(page.stores.into_iter().filter(|store| store.name == name));
            if page.continuation_token.is_empty() {
                return Ok(found);
            }
            from = page.continuation_token;
        }
    }

    pub async fn create_store(&self, name: &str) -> Result<Store, ClientError> {
        self.ask(Method::POST, "/stores", &[], Some(&json!({"name": name}))).await
    }

    /// The model written last.
    pub async fn latest_model(&self, store: &str) -> Result<Option<Value>, ClientError> {
        let page: Models = self.ask(Method::GET, &models(store), &[("page_size", "1")], None).await?;
        Ok(page.authorization_models.into_iter().next())
    }

    /// The newest model of which `is` holds.
    pub async fn find_model(
        &self,
        store: &str,
        is: impl Fn(&Value) -> bool,
    ) -> Result<Option<Value>, ClientError> {
        let mut from = String::new();
        loop {
            let query = [("page_size", &*PAGE.to_string()), ("continuation_token", &from)];
            let page: Models = self.ask(Method::GET, &models(store), &query, None).await?;
            let found = page.authorization_models.into_iter().find(&is);
            if found.is_some() || page.continuation_token.is_empty() {
                return Ok(found);
            }
            from = page.continuation_token;
        }
    }

    /// Adds a model and returns its id; those there are stay.
    pub async fn write_model(&self, store: &str, model: &Value) -> Result<String, ClientError> {
        let written: Written = self.ask(Method::POST, &models(store), &[], Some(model)).await?;
        Ok(written.authorization_model_id)
    }

    /// Asks one thing of it.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<T, ClientError> {
        // Ids and names of ours need no encoding; what OpenFGA gives to go on with may.
        let encode = crate::infra::secret::percent_encode;
        let query: Vec<_> = query.iter().map(|(key, value)| format!("{key}={}", encode(value))).collect();
        let url = format!("{}{path}?{}", self.url, query.join("&"));
        let mut request = self.http.request(method, url).timeout(TIMEOUT);
        if let Some(token) = self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer.json().await?);
        }
        let problem: Problem = answer.json().await.unwrap_or_default();
        Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ClientError::Token(problem.message),
            status => ClientError::Refused { status, said: problem.message },
        })
    }
}

fn models(store: &str) -> String {
    format!("/stores/{store}/authorization-models")
}
