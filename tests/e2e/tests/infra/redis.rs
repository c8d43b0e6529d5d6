//! Redis by itself, under a writer: lost with its pod, rolled, and without its Secret.

use std::sync::Arc;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use soma_e2e_tests::Node;
use soma_e2e_tests::checkers::redis::{self, Checker, service};

const NAMESPACE: &str = "soma-infra";

/// Runs a script in the only pod; `redis-cli` in it is the operator's.
fn exec(node: &Node, script: &str) -> Result<String> {
    redis::exec(node, "redis-0", script)
}

fn patch(node: &Node, redis: &Value) -> Result<()> {
    node.patch_infra(&json!({"redis": {"managed": redis}}))
}

pub async fn life(node: Arc<Node>) -> Result<()> {
    let node = &*node;
    let mut checker = Checker::default();
    node.settled("redis", 1).await?;
    let conn = |key: &str| {
        let path = format!("go-template={{{{.data.{key} | base64decode}}}}");
        node.kubectl(&["-n", NAMESPACE, "get", "secret", "redis-conn", "-o", &path])
    };
    ensure!(conn("mode")? == "standalone" && conn("username")? == "soma");
    let url = format!("redis://soma:{}@redis.soma-infra.svc.cluster.local:6379", conn("password")?);
    ensure!(conn("url")? == url, "redis-conn has another url");
    ensure!(service(node, "flushall").is_err(), "services may remove everything");
    ensure!(exec(node, "REDISCLI_AUTH= redis-cli -e ping").is_err(), "anybody may ask");
    checker.write(node).await?;

    let before = node.members("redis")?;
    node.kubectl(&["-n", NAMESPACE, "delete", "pod", "redis-0", "--wait=false"])?;
    checker.write(node).await?;
    node.replaced("redis", &["redis-0"], &before).await?;
    checker.verify(node)?;

    node.faults
        .survived("21: the pod of the only Redis is deleted", "every write that was acknowledged is there");

    // Changes of the template and of the configuration replace the pod.
    for change in
        [json!({"resources": {"requests": {"cpu": "60m"}}}), json!({"maxmemoryPolicy": "allkeysLru"})]
    {
        let before = node.members("redis")?;
        patch(node, &change)?;
        checker.write(node).await?;
        node.replaced("redis", &["redis-0"], &before).await?;
        checker.verify(node)?;
    }
    let policy = exec(node, "redis-cli --user soma-operator config get maxmemory-policy")?;
    ensure!(policy.contains("allkeys-lru"), "{policy}");

    let refused = patch(node, &json!({"mode": "cluster"})).map_err(|error| format!("{error:#}"));
    ensure!(refused.is_err_and(|said| said.contains("the mode of a live Redis cannot change")));

    secret(node).await?;
    checker.write(node).await?;
    checker.verify(node)?;
    node.faults.survived(
        "8: Secret redis-users is deleted and restored",
        "PasswordLost; every write that was acknowledged is there",
    );
    println!("{} writes acknowledged, each of them there", checker.acknowledged);
    Ok(())
}

/// It goes on with the Secret deleted by mistake and restored, and says so in between.
async fn secret(node: &Node) -> Result<()> {
    let kept = node.kubectl(&["-n", NAMESPACE, "get", "secret", "redis-users", "-o", "json"])?;
    node.kubectl(&["-n", NAMESPACE, "delete", "secret", "redis-users"])?;
    node.until("the missing Secret is reported", |node| {
        Ok(node.component("redis")?["reason"] == "PasswordLost")
    })
    .await?;
    let mut kept: Value = serde_json::from_str(&kept)?;
    kept["metadata"] =
        json!({"name": "redis-users", "namespace": NAMESPACE, "labels": kept["metadata"]["labels"]});
    node.apply(&kept)?;
    node.settled("redis", 1).await
}
