//! A Vault server is initialised and unsealed by hand, comes back sealed with its secrets, and leaves nothing behind.

use std::time::Duration;

use reqwest::{Client, Method};
use serde_json::{Value, json};
use soma_testenv::Vault;

const PATIENCE: Duration = Duration::from_mins(1);

struct Caller {
    http: Client,
    url: String,
    token: String,
}

impl Caller {
    /// The answer, or what a refusal said.
    async fn call(&self, method: Method, path: &str, body: &Value) -> Result<Value, String> {
        let request = self.http.request(method, format!("{}/v1/{path}", self.url)).json(body);
        let answer = request.header("X-Vault-Token", &self.token).send().await;
        let answer = answer.map_err(|error| error.to_string())?;
        let accepted = answer.status().is_success();
        let text = answer.text().await.map_err(|error| error.to_string())?;
        if accepted { Ok(serde_json::from_str(&text).unwrap_or_default()) } else { Err(text) }
    }

    /// Calls until it is accepted: a Vault that was just unsealed has no leader yet, a new engine upgrades its storage.
    async fn insist(&self, method: Method, path: &str, body: &Value) -> Value {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            match self.call(method.clone(), path, body).await {
                Ok(answer) => return answer,
                Err(said) => assert!(tokio::time::Instant::now() < deadline, "{path}: {said}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn sealed(&self) -> bool {
        self.insist(Method::GET, "sys/seal-status", &Value::Null).await["sealed"] == true
    }
}

#[tokio::test]
async fn secrets_survive_a_restart_and_the_seal_closes_again() {
    // A second call finds the provider installed, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut vault = Vault::start().await.unwrap();
    let mut caller = Caller { http: Client::new(), url: vault.url(), token: String::new() };
    let fresh = caller.call(Method::GET, "sys/init", &Value::Null).await.unwrap();
    assert_eq!(fresh["initialized"], false);

    let shares = json!({"secret_shares": 1, "secret_threshold": 1});
    let keys = caller.call(Method::PUT, "sys/init", &shares).await.unwrap();
    assert!(caller.sealed().await);
    caller.token = keys["root_token"].as_str().unwrap().to_owned();
    let key = json!({"key": keys["keys_base64"][0]});
    caller.insist(Method::PUT, "sys/unseal", &key).await;

    let engine = json!({"type": "kv", "options": {"version": "2"}});
    caller.insist(Method::POST, "sys/mounts/secret", &engine).await;
    caller.insist(Method::POST, "secret/data/kept", &json!({"data": {"n": 7}})).await;
    // The minimal build has no other way in for pods.
    caller.insist(Method::POST, "sys/auth/kubernetes", &json!({"type": "kubernetes"})).await;

    vault.stop().await.unwrap();
    assert!(caller.call(Method::GET, "sys/init", &Value::Null).await.is_err());
    vault.start_again().await.unwrap();
    assert!(caller.sealed().await);
    assert!(caller.call(Method::GET, "secret/data/kept", &Value::Null).await.is_err());
    caller.insist(Method::PUT, "sys/unseal", &key).await;
    let kept = caller.insist(Method::GET, "secret/data/kept", &Value::Null).await;
    assert_eq!(kept["data"]["data"]["n"], 7);
    let methods = caller.insist(Method::GET, "sys/auth", &Value::Null).await;
    assert_eq!(methods["data"]["kubernetes/"]["type"], "kubernetes");

    drop(vault);
    assert!(caller.call(Method::GET, "sys/init", &Value::Null).await.is_err());
}
