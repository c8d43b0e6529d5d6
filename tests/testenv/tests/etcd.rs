//! An etcd server keeps what it acknowledged, its commands fit it, and it leaves nothing behind.

use serde_json::Value;
use soma_testenv::Etcd;

#[tokio::test]
async fn keys_survive_a_kill_and_a_snapshot_holds_them() {
    let mut etcd = Etcd::start().await.unwrap();
    etcd.ctl(&["put", "kept", "7"]).await.unwrap();

    etcd.kill().await.unwrap();
    assert!(etcd.ctl(&["--command-timeout=1s", "get", "kept"]).await.is_err());
    etcd.start_again().await.unwrap();
    etcd.ctl(&["put", "more", "8"]).await.unwrap();
    etcd.stop().await.unwrap();
    etcd.start_again().await.unwrap();
    assert_eq!(etcd.ctl(&["get", "--print-value-only", "kept"]).await.unwrap(), "7");
    assert_eq!(etcd.ctl(&["get", "--print-value-only", "more"]).await.unwrap(), "8");

    etcd.ctl(&["snapshot", "save", "snapshot.db"]).await.unwrap();
    let status = etcd.utl(&["snapshot", "status", "snapshot.db", "--write-out=json"]).await.unwrap();
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["revision"], 3, "{status}");
    etcd.utl(&["snapshot", "restore", "snapshot.db", "--data-dir=restored"]).await.unwrap();
    assert!(etcd.utl(&["snapshot", "status", "restored/none.db"]).await.is_err());

    let url = etcd.url();
    let http = reqwest_client();
    assert!(http.get(format!("{url}/health")).send().await.is_ok());
    drop(etcd);
    assert!(http.get(format!("{url}/health")).send().await.is_err());
}

fn reqwest_client() -> reqwest::Client {
    // A second call finds the provider installed, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}
