//! etcd under a writer: formed once, grown, rolled, lost pod by pod, all at once, with a volume, and with its majority.

use std::sync::Arc;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use soma_e2e_tests::Node;
use soma_e2e_tests::checkers::etcd::{Checker, bytes};

fn managed(node: &Node, etcd: &Value) -> Result<()> {
    node.patch_infra(&json!({"etcd": {"managed": etcd}}))
}

pub async fn life(node: Arc<Node>) -> Result<()> {
    let node = &*node;
    node.settled("etcd", 1).await?;
    let mut checker = Checker::new(node)?;
    checker.write().await?;
    let token = checker.login().await?;
    let other = json!({"key": bytes("/other"), "value": bytes("x")});
    ensure!(checker.call("kv/put", &token, &other).await.is_err(), "soma may write everywhere");

    // Growing restarts nobody and changes nothing for clients.
    let first = node.members("etcd")?;
    managed(node, &json!({"replicas": 3}))?;
    node.settled("etcd", 3).await?;
    ensure!(node.members("etcd")?.contains(&first[0]), "growing restarted {first:?}");
    checker.write().await?;

    // One pod, then all at once.
    for lost in [&["etcd-0"][..], &["etcd-0", "etcd-1", "etcd-2"]] {
        let before = node.members("etcd")?;
        node.kubectl(&[&["-n", "soma-infra", "delete", "pod", "--wait=false"][..], lost].concat())?;
        checker.write().await?;
        node.replaced("etcd", lost, &before).await?;
        checker.verify().await?;
    }

    // A volume and its pod, with the operator killed then: the member is replaced, the others go on.
    let before = node.members("etcd")?;
    let lost = ["-n", "soma-infra", "delete", "pvc/data-etcd-1", "pod/etcd-1", "--wait=false"];
    node.kubectl(&lost)?;
    node.kill_operator()?;
    checker.write().await?;
    node.replaced("etcd", &["etcd-1"], &before).await?;
    node.faults.survived(
        "22: a pod of etcd and its volume are deleted, and the operator is killed",
        "replaced by a new member, first without a vote",
    );
    let now = node.members("etcd")?;
    ensure!(before.iter().filter(|pod| now.contains(pod)).count() == 2, "{before:?} became {now:?}");
    checker.write().await?;
    checker.verify().await?;

    // A change of the template replaces every pod, one at a time, while clients write.
    let before = node.members("etcd")?;
    managed(node, &json!({"resources": {"requests": {"cpu": "60m"}}}))?;
    while node.members("etcd")?.iter().any(|pod| before.contains(pod)) {
        checker.write().await?;
        ensure!(node.members("etcd")?.len() >= 2, "more than one member is gone");
    }
    node.settled("etcd", 3).await?;
    checker.verify().await?;

    // Two volumes of three: nothing is done by itself, and the status says what to do.
    let lost = ["pvc/data-etcd-1", "pvc/data-etcd-2", "pod/etcd-1", "pod/etcd-2"];
    node.kubectl(&[&["-n", "soma-infra", "delete", "--wait=false"][..], &lost].concat())?;
    node.until("the lost majority is reported", |node| {
        let etcd = node.component("etcd")?;
        Ok(etcd["reason"] == "QuorumLost" && etcd["ready"] == false)
    })
    .await?;
    node.faults
        .survived("22: two of three volumes of etcd are deleted", "QuorumLost, nothing was done by itself");
    node.faults
        .survived("22: a writer through all but the last of this", "no write that was acknowledged is lost");
    println!("{} writes acknowledged, each of them read back", checker.acknowledged);
    Ok(())
}
