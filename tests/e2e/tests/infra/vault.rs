//! Vault under a writer: formed once, grown, rolled, lost pod by pod and all at once, and without its key.

use std::sync::Arc;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use soma_e2e_tests::Node;
use soma_e2e_tests::checkers::vault::Checker;

fn patch(node: &Node, vault: &Value) -> Result<()> {
    node.patch_infra(&json!({"vault": {"managed": vault}}))
}

pub async fn life(node: Arc<Node>) -> Result<()> {
    let node = &*node;
    node.settled("vault", 1).await?;
    let keys = node.kubectl(&["-n", "soma-infra", "get", "secret", "vault-unseal", "-o", "json"])?;
    let keys: Value = serde_json::from_str(&keys)?;
    ensure!(keys["data"]["root-token"].is_null(), "the root token is still kept");
    let mut checker = Checker::new(node).await?;
    checker.write(node).await?;

    // Growing restarts nobody.
    let first = node.members("vault")?;
    patch(node, &json!({"replicas": 3}))?;
    node.settled("vault", 3).await?;
    ensure!(node.members("vault")?.contains(&first[0]), "growing restarted {first:?}");
    checker.write(node).await?;

    // The leader, then all at once: opened again with the same key, nothing lost.
    for lost in [&["vault-0"][..], &["vault-0", "vault-1", "vault-2"]] {
        let before = node.members("vault")?;
        node.kubectl(&[&["-n", "soma-infra", "delete", "pod", "--wait=false"], lost].concat())?;
        checker.write(node).await?;
        node.replaced("vault", lost, &before).await?;
        checker.verify(node).await?;
    }
    node.faults.survived(
        "23: a pod of Vault is deleted, then all at once",
        "opened again with the kept key, every secret there",
    );

    // A change of the template replaces every pod, one at a time, while clients write.
    let before = node.members("vault")?;
    patch(node, &json!({"resources": {"requests": {"cpu": "60m"}}}))?;
    while node.members("vault")?.iter().any(|pod| before.contains(pod)) {
        checker.write(node).await?;
        let sealed_or_gone = 3 - node.members("vault")?.len();
        ensure!(sealed_or_gone <= 1, "more than one member is gone");
    }
    node.settled("vault", 3).await?;
    checker.verify(node).await?;

    // Without the key Vault works on, and the status says what to do; with it restored all is well.
    node.kubectl(&["-n", "soma-infra", "delete", "secret", "vault-unseal"])?;
    node.until("the missing key is reported", |node| {
        let vault = node.component("vault")?;
        Ok(vault["reason"] == "UnsealKeysMissing" && vault["ready"] == true)
    })
    .await?;
    checker.write(node).await?;
    let mut restored = keys;
    restored["metadata"] =
        json!({"name": "vault-unseal", "namespace": "soma-infra", "labels": restored["metadata"]["labels"]});
    node.apply(&restored)?;
    node.settled("vault", 3).await?;
    checker.verify(node).await?;
    let acknowledged = checker.acknowledged;
    node.faults
        .survived("23: Secret vault-unseal is deleted and restored", "UnsealKeysMissing; Vault served on");

    // A key that was never kept: nothing happens before the owner says so, and then a new Vault is formed.
    let lost = json!({"data": {"unseal-key": null, "stage": "aW5pdGlhbGlzaW5n"}}).to_string();
    node.kubectl(&["-n", "soma-infra", "patch", "secret", "vault-unseal", "--type=merge", "-p", &lost])?;
    node.until("the lost key is reported", |node| Ok(node.component("vault")?["reason"] == "InitKeysLost"))
        .await?;
    checker.verify(node).await?;
    let wish = ["-n", "soma-infra", "annotate", "somainfra", "shared", "somastack.dev/wipe-vault=shared"];
    node.kubectl(&wish)?;
    node.until("the wish is granted", |node| {
        Ok(node.infra(".metadata.annotations.somastack\\.dev/wipe-vault")?.is_empty())
    })
    .await?;
    node.settled("vault", 3).await?;
    ensure!(checker.verify(node).await.is_err(), "the old Vault is still there");
    checker.acknowledged = 0;
    // The tenants are given everything anew.
    checker.write(node).await?;
    node.faults.survived(
        "1: the key of Vault was never kept",
        "InitKeysLost, a new Vault only when its owner asked for it",
    );
    println!("{acknowledged} secrets acknowledged, each of them there");
    Ok(())
}
