//! Writes to etcd that are counted when they are acknowledged.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::ByteString;
use reqwest::Client;
use serde_json::{Value, json};

use crate::{Node, client};

/// What a client of etcd sees, and what was acknowledged to it.
pub struct Checker {
    http: Client,
    url: String,
    password: String,
    /// Writes that were acknowledged.
    pub acknowledged: usize,
}

/// As etcd wants keys and values.
pub fn bytes(text: &str) -> Value {
    json!(ByteString(text.as_bytes().to_vec()))
}

impl Checker {
    /// From the Secret the operator publishes; through the Service's address, because names of the cluster are not known here.
    pub fn new(node: &Node) -> Result<Self> {
        let secret = node.kubectl(&["-n", "soma-infra", "get", "secret", "etcd-conn", "-o", "json"])?;
        let data: std::collections::BTreeMap<String, ByteString> =
            serde_json::from_value(serde_json::from_str::<Value>(&secret)?["data"].clone())?;
        let text = |key: &str| -> Result<String> {
            Ok(String::from_utf8(data.get(key).with_context(|| format!("no {key}"))?.0.clone())?)
        };
        ensure!(text("username")? == "soma" && text("prefix")? == "/soma/");
        ensure!(text("endpoints")? == "http://etcd.soma-infra.svc.cluster.local:2379");
        let service = ["-n", "soma-infra", "get", "service", "etcd", "-o", "jsonpath={.spec.clusterIP}"];
        let url = format!("http://{}:{}", node.kubectl(&service)?, text("port")?);
        Ok(Self { http: client()?, url, password: text("password")?, acknowledged: 0 })
    }

    /// Asks etcd something, as the holder of a token.
    pub async fn call(&self, path: &str, token: &str, body: &Value) -> Result<Value> {
        let request = self.http.post(format!("{}/v3/{path}", self.url)).json(body);
        let answer = request.timeout(Duration::from_secs(5)).header("Authorization", token).send().await?;
        let status = answer.status();
        let body: Value = answer.json().await.unwrap_or_default();
        ensure!(status.is_success(), "{path}: {status}: {body}");
        Ok(body)
    }

    /// A token of the services' user.
    pub async fn login(&self) -> Result<String> {
        let body = json!({"name": "soma", "password": self.password});
        let request = self.http.post(format!("{}/v3/auth/authenticate", self.url)).json(&body);
        let answer: Value = request.timeout(Duration::from_secs(5)).send().await?.json().await?;
        answer["token"].as_str().map(str::to_owned).with_context(|| format!("no token: {answer}"))
    }

    /// Writes until it is acknowledged, as a client with retries does.
    pub async fn write(&mut self) -> Result<()> {
        let mut last = None;
        for _ in 0..120 {
            let attempt = async {
                let token = self.login().await?;
                let n = self.acknowledged;
                let body = json!({"key": bytes(&format!("/soma/{n}")), "value": bytes(&n.to_string())});
                self.call("kv/put", &token, &body).await
            };
            match attempt.await {
                Ok(_) => {
                    self.acknowledged += 1;
                    return Ok(());
                }
                Err(error) => last = Some(error),
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Err(last.context("never tried")?)
    }

    /// Reads back everything that was acknowledged.
    pub async fn verify(&self) -> Result<()> {
        let token = self.login().await?;
        for n in 0..self.acknowledged {
            let body = json!({"key": bytes(&format!("/soma/{n}"))});
            let read = self.call("kv/range", &token, &body).await?;
            ensure!(read["kvs"][0]["value"] == bytes(&n.to_string()), "key {n} is {read}");
        }
        Ok(())
    }
}
