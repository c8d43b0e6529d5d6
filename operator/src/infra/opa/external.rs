//! An OPA elsewhere: whether it decides, and denies what nobody permitted.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::build::DECISION;
use super::members;
use super::validate::Connection;
use crate::error::chain;
use crate::infra::component::State;

/// Longest time one question may take.
const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
struct Answer {
    result: Option<Value>,
}

pub async fn probe(http: &reqwest::Client, opa: &Connection) -> State {
    let result = match decide(http, opa, &json!({})).await {
        Ok(result) => result,
        Err(error) => return State::Unreachable(chain(&error)),
    };
    let stuck = |reason, message: String| State::Stuck { reason, message, serving: false };
    match result.as_ref().map(|result| &result["allow"]) {
        Some(Value::Bool(false)) => {
            // Only what it tells everybody; its own policies may keep the rest from us.
            let status = members::ask(http, &opa.url, opa.token.as_deref()).await;
            State::Ready { version: status.map_or_else(|_| "elsewhere".into(), |status| status.version) }
        }
        Some(Value::Bool(true)) => stuck(
            "PolicyAllowsAnything",
            format!(
                "OPA at {} allows a request of nobody for nothing. Load config/policies/soma.rego of this release into it",
                opa.url
            ),
        ),
        _ => stuck(
            "DecisionMissing",
            format!(
                "OPA at {} has no decision at {DECISION}. Load config/policies/soma.rego of this release into it",
                opa.url
            ),
        ),
    }
}

/// Asks for a decision; nothing when there is none.
pub async fn decide(
    http: &reqwest::Client,
    opa: &Connection,
    input: &Value,
) -> Result<Option<Value>, reqwest::Error> {
    let mut request =
        http.post(format!("{}{DECISION}", opa.url)).timeout(TIMEOUT).json(&json!({"input": input}));
    if let Some(token) = &opa.token {
        request = request.bearer_auth(token);
    }
    let answer: Answer = request.send().await?.error_for_status()?.json().await?;
    Ok(answer.result)
}
