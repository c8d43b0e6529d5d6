//! A Redis server keeps what it acknowledged, refuses strangers, forms a cluster, and leaves nothing behind.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail it as the test itself would")]

use std::time::Duration;

use soma_testenv::Redis;
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(30);

/// Asks until the answer has `text` in it.
async fn insist(redis: &Redis, args: &[&str], text: &str) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let said = redis.cli(args).await.unwrap();
        if said.contains(text) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "no {text} in {said}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn keys_survive_a_kill_and_a_restart_and_strangers_are_refused() {
    let mut redis = Redis::start().await.unwrap();
    redis.cli(&["SET", "kept", "7"]).await.unwrap();
    redis.kill().await.unwrap();
    assert!(redis.cli(&["PING"]).await.is_err());
    redis.start_again().await.unwrap();
    assert_eq!(redis.cli(&["INCR", "kept"]).await.unwrap(), "8");
    redis.stop().await.unwrap();
    redis.start_again().await.unwrap();
    assert_eq!(redis.cli(&["GET", "kept"]).await.unwrap(), "8");

    let refused = redis.cli(&["-a", "guess", "GET", "kept"]).await;
    assert!(refused.unwrap_err().to_string().contains("NOAUTH"));
    let url = redis.url();
    assert_eq!(redis.cli(&["-u", &url, "GET", "kept"]).await.unwrap(), "8");
    let other = Redis::start().await.unwrap();
    assert_ne!(redis.password(), other.password());

    let port = redis.port();
    drop(redis);
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
}

#[tokio::test]
async fn nodes_form_a_cluster_and_find_each_other_again() {
    let mut one = Redis::start_node("shared").await.unwrap();
    let two = Redis::start_node("shared").await.unwrap();
    assert!(one.cli(&["SET", "kept", "7"]).await.unwrap_err().to_string().contains("CLUSTERDOWN"));
    one.cli(&["CLUSTER", "ADDSLOTSRANGE", "0", "8191"]).await.unwrap();
    two.cli(&["CLUSTER", "ADDSLOTSRANGE", "8192", "16383"]).await.unwrap();
    let (port, bus) = (two.port().to_string(), two.bus_port().unwrap().to_string());
    one.cli(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]).await.unwrap();
    insist(&two, &["CLUSTER", "INFO"], "cluster_state:ok").await;
    insist(&one, &["CLUSTER", "INFO"], "cluster_state:ok").await;
    // Either node takes a key, if need be by telling the client of the other.
    one.cli(&["-c", "SET", "kept", "7"]).await.unwrap();
    assert_eq!(two.cli(&["-c", "GET", "kept"]).await.unwrap(), "7");

    one.kill().await.unwrap();
    insist(&two, &["CLUSTER", "INFO"], "cluster_state:fail").await;
    one.start_again().await.unwrap();
    insist(&one, &["CLUSTER", "INFO"], "cluster_state:ok").await;
    insist(&two, &["CLUSTER", "INFO"], "cluster_state:ok").await;
    assert_eq!(two.cli(&["-c", "GET", "kept"]).await.unwrap(), "7");
}
