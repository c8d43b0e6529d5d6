//! A pod that nobody named may not connect to a component; one that the manifest names may.

use std::sync::Arc;

use anyhow::{Result, ensure};
use serde_json::json;
use soma_e2e_tests::{Node, clients};

const NAMESPACE: &str = "elsewhere";

/// Whether a pod of another namespace reaches Redis; what Redis says to a client without a password is an answer, too.
fn reaches(node: &Node) -> bool {
    let ask = "timeout 3 redis-cli -h redis.soma-infra.svc.cluster.local ping 2>&1 || true";
    let said = node.kubectl(&["-n", NAMESPACE, "exec", "stranger", "--", "/bin/sh", "-c", ask]);
    said.is_ok_and(|said| said.contains("NOAUTH"))
}

pub async fn life(node: Arc<Node>) -> Result<()> {
    let node = &*node;
    node.kubectl(&["create", "namespace", NAMESPACE])?;
    node.settled("redis", 1).await?;
    let image = "jsonpath={.spec.template.spec.containers[0].image}";
    let image = node.kubectl(&["-n", "soma-infra", "get", "statefulset", "redis", "-o", image])?;
    node.apply(&json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "stranger", "namespace": NAMESPACE},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "redis", "image": image, "imagePullPolicy": "IfNotPresent", "command": ["sleep", "3600"]}],
        },
    }))?;
    node.kubectl(&["-n", NAMESPACE, "wait", "--for=condition=Ready", "pod/stranger", "--timeout=120s"])?;
    ensure!(!reaches(node), "a stranger reaches Redis");
    let whole = json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": NAMESPACE}}});
    let mut friends = clients();
    friends.push(whole);
    node.patch_infra(&json!({"allowFrom": friends}))?;
    node.until("a friend reaches Redis", |node| Ok(reaches(node))).await?;
    node.patch_infra(&json!({"allowFrom": clients()}))?;
    node.until("a stranger is kept out again", |node| Ok(!reaches(node))).await
}
