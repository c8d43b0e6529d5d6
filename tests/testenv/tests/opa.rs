//! An OPA server decides by policies from files and from bundles, also after a kill, and leaves nothing behind.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail it as the test itself would")]

use std::{fs, process::Command, time::Duration};

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use soma_testenv::{Opa, RunDir, cache::Cache, exec, gobuild};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};

const POLICY: &str = "package soma\nallow if input.user == data.users[_]\n";
const USERS: &str = r#"{"users": ["ann"]}"#;
const PATIENCE: Duration = Duration::from_secs(30);

fn client() -> Client {
    // A second call finds the provider installed, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::new()
}

/// Whether `user` is allowed; null where there is no such policy.
async fn decide(http: &Client, opa: &Opa, user: &str) -> Result<Value, reqwest::Error> {
    let question = json!({"input": {"user": user}}).to_string();
    let answer = http.post(format!("{}/v1/data/soma/allow", opa.url())).body(question).send().await?;
    let answer: Value = serde_json::from_str(&answer.text().await?).unwrap();
    Ok(answer["result"].clone())
}

async fn wait_for_bundles(http: &Client, opa: &Opa) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while http.get(format!("{}/health?bundles", opa.url())).send().await.unwrap().status() != StatusCode::OK {
        assert!(tokio::time::Instant::now() < deadline, "the bundle was not activated");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A bundle of the policy and the users.
fn bundle() -> Vec<u8> {
    let dir = RunDir::new("bundle").unwrap();
    fs::write(dir.path().join("soma.rego"), POLICY).unwrap();
    fs::write(dir.path().join("data.json"), USERS).unwrap();
    let program = gobuild::OPA.ensure(&Cache::open().unwrap()).unwrap();
    let mut build = Command::new(program);
    build.args(["build", "--bundle", ".", "--output", "bundle.tar.gz"]).current_dir(dir.path());
    exec::run(&mut build).unwrap();
    fs::read(dir.path().join("bundle.tar.gz")).unwrap()
}

/// Answers every request with `body`, until it is aborted.
async fn serve(body: Vec<u8>) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serving = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            // The head of a GET, of which only that it came matters.
            let mut head = [0; 4096];
            if stream.read(&mut head).await.is_ok_and(|length| length > 0) {
                let start =
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                // Whoever asked may be gone.
                let _ = stream.write_all(&[start.as_bytes(), &body].concat()).await;
            }
        }
    });
    (url, serving)
}

#[tokio::test]
async fn policies_from_files_are_there_after_a_kill() {
    let http = client();
    let files = [("soma.rego", POLICY), ("users.json", USERS)];
    let mut opa = Opa::start_with(&json!({}), &files).await.unwrap();
    assert_eq!(decide(&http, &opa, "ann").await.unwrap(), true);
    assert_eq!(decide(&http, &opa, "bob").await.unwrap(), Value::Null);
    opa.kill().await.unwrap();
    assert!(decide(&http, &opa, "ann").await.is_err());
    opa.start_again().await.unwrap();
    assert_eq!(decide(&http, &opa, "ann").await.unwrap(), true);
    let url = opa.url();
    drop(opa);
    assert!(http.get(format!("{url}/health")).send().await.is_err());
}

#[tokio::test]
async fn a_kept_bundle_outlives_its_server() {
    let http = client();
    let (url, serving) = serve(bundle()).await;
    let config = json!({
        "services": {"bundles": {"url": url}},
        "bundles": {"soma": {"service": "bundles", "resource": "bundle.tar.gz", "persist": true}},
    });
    let mut opa = Opa::start(&config).await.unwrap();
    wait_for_bundles(&http, &opa).await;
    assert_eq!(decide(&http, &opa, "ann").await.unwrap(), true);

    serving.abort();
    assert!(serving.await.unwrap_err().is_cancelled());
    assert!(http.get(&url).send().await.is_err());
    opa.kill().await.unwrap();
    opa.start_again().await.unwrap();
    wait_for_bundles(&http, &opa).await;
    assert_eq!(decide(&http, &opa, "ann").await.unwrap(), true);
    assert_eq!(decide(&http, &opa, "bob").await.unwrap(), Value::Null);
    opa.stop().await.unwrap();
    opa.start_again().await.unwrap();
}

#[tokio::test]
async fn a_wrong_configuration_is_reported() {
    let unknown = json!({"bundles": {"soma": {"service": "nobody"}}});
    let error = Opa::start(&unknown).await.unwrap_err();
    assert!(error.to_string().contains("nobody"), "{error}");
}
