//! Kafka under a producer that waits for every replica, from one member to three and through every loss.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use soma_e2e_tests::Node;
use soma_e2e_tests::checkers::kafka::{Producer, TOPIC, client, ended};

const NAMESPACE: &str = "soma-infra";

fn patch(node: &Node, kafka: &Value) -> Result<()> {
    node.patch_infra(&json!({"kafka": {"managed": kafka}}))
}

/// Runs one of Kafka's commands as the operator's user.
fn command(node: &Node, name: &str, arguments: &[&str]) -> Result<String> {
    let script = format!("/opt/kafka/bin/{name}");
    let admin =
        ["--bootstrap-server", "localhost:9091", "--command-config", "/etc/soma/kafka/admin.properties"];
    node.kubectl(&[&["-n", NAMESPACE, "exec", "kafka-0", "--", &script][..], &admin, arguments].concat())
}

/// Ids of the disks that vote.
fn voters(node: &Node) -> Result<BTreeSet<String>> {
    let told = command(node, "kafka-metadata-quorum.sh", &["describe", "--replication"])?;
    let votes = told.lines().filter(|line| line.contains("Leader") || line.contains("Follower"));
    Ok(votes.filter_map(|line| line.split_whitespace().nth(1).map(str::to_owned)).collect())
}

fn active_controller(node: &Node) -> Result<String> {
    let told = command(node, "kafka-metadata-quorum.sh", &["describe", "--replication"])?;
    let leader = told.lines().find(|line| line.contains("Leader")).context("no leader")?;
    Ok(format!("kafka-{}", leader.split_whitespace().next().unwrap_or_default()))
}

pub async fn life(node: Arc<Node>) -> Result<()> {
    let node = &*node;
    node.settled("kafka", 1).await?;
    access(node).await?;
    let producer = Producer::start(node).await?;

    // Growing, with the operator killed in the middle: every member votes, and every partition is on all of them.
    patch(node, &json!({"replicas": 3}))?;
    node.until("new members", |node| Ok(node.members("kafka")?.len() == 3)).await?;
    node.kill_operator()?;
    node.settled("kafka", 3).await?;
    node.until("every member votes", |node| Ok(voters(node).is_ok_and(|all| all.len() == 3))).await?;
    node.until("three replicas in sync", |node| {
        let told = command(node, "kafka-topics.sh", &["--describe", "--under-replicated-partitions"])?;
        let all = command(node, "kafka-topics.sh", &["--describe", "--topic", TOPIC])?;
        Ok(told.trim().is_empty() && all.contains("ReplicationFactor: 3"))
    })
    .await?;
    node.faults.survived(
        "1: Kafka grows from one member to three and the operator is killed",
        "all three vote, every partition of the services is on all three",
    );
    settings(node).await?;
    losses(node, &producer).await?;

    // A change of the template replaces every pod, one at a time, while the producer goes on. A topic that cannot be kept
    // writable holds nobody back.
    let alone = [
        "--create",
        "--topic",
        "of.somebody",
        "--replication-factor",
        "1",
        "--config",
        "min.insync.replicas=2",
    ];
    command(node, "kafka-topics.sh", &alone)?;
    let before = node.members("kafka")?;
    patch(node, &json!({"resources": {"requests": {"cpu": "110m"}}}))?;
    while node.members("kafka")?.iter().any(|pod| before.contains(pod)) {
        ensure!(node.members("kafka")?.len() >= 2, "more than one member is gone");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    node.settled("kafka", 3).await?;
    producer.progress().await?;
    node.faults.survived(
        "20: Kafka rolls beside a topic with one replica of which two shall be in sync",
        "every pod was replaced, never two at once",
    );

    // The cluster goes on with the Secret deleted by mistake and restored, and says so in between.
    let running = node.members("kafka")?;
    let kept = node.kubectl(&["-n", NAMESPACE, "get", "secret", "kafka-cluster", "-o", "json"])?;
    node.kubectl(&["-n", NAMESPACE, "delete", "secret", "kafka-cluster"])?;
    node.until("the missing Secret is reported", |node| {
        Ok(node.component("kafka")?["reason"] == "PasswordLost")
    })
    .await?;
    let mut kept: Value = serde_json::from_str(&kept)?;
    kept["metadata"] =
        json!({"name": "kafka-cluster", "namespace": NAMESPACE, "labels": kept["metadata"]["labels"]});
    node.apply(&kept)?;
    node.settled("kafka", 3).await?;
    producer.progress().await?;
    ensure!(node.members("kafka")? == running, "a missing Secret restarted a pod");
    node.faults.survived(
        "8: Secret kafka-cluster is deleted and restored",
        "PasswordLost; messages went on, no pod was restarted",
    );
    let count = producer.verify().await?;
    println!("{count} messages acknowledged, each of them there");
    node.faults.survived(
        "19, 20: a producer that waits for all replicas through all of this",
        "no message that was acknowledged is lost, none failed after retries",
    );
    Ok(())
}

/// Each service may do what its table says, with the password its Secret says.
async fn access(node: &Node) -> Result<()> {
    let produce = |topic| {
        format!(
            "echo hello | /opt/kafka/bin/kafka-console-producer.sh --bootstrap-server kafka:9092 --producer.config /tmp/user.properties --topic {topic} 2>&1 | tee /tmp/said; ! grep -q ERROR /tmp/said"
        )
    };
    client(node, "may", "gateway", &produce("conversation.inbound"))?;
    let consume = "/opt/kafka/bin/kafka-console-consumer.sh --bootstrap-server kafka:9092 --consumer.config /tmp/user.properties --topic conversation.inbound --group worker.main --from-beginning --max-messages 1 --timeout-ms 60000 2>&1";
    client(node, "reads", "worker", consume)?;
    client(node, "may-not", "gateway", &produce("tool.results"))?;
    let (phase, said) = ended(node, "may").await?;
    ensure!(phase == "Succeeded", "{said}");
    let (phase, said) = ended(node, "reads").await?;
    ensure!(phase == "Succeeded" && said.contains("hello"), "{said}");
    let (phase, said) = ended(node, "may-not").await?;
    ensure!(phase == "Failed" && said.contains("TopicAuthorizationException"), "{said}");

    // A password that somebody sets in the Secret is the one that counts.
    let given = |node: &Node| {
        let path = "jsonpath={.data.given-gateway}";
        node.kubectl(&["-n", NAMESPACE, "get", "secret", "kafka-cluster", "-o", path])
    };
    let before = given(node)?;
    let secret = json!({"stringData": {"password": "chosen-by-somebody"}}).to_string();
    node.kubectl(&["-n", NAMESPACE, "patch", "secret", "kafka-user-gateway", "--type=merge", "-p", &secret])?;
    node.until("the password is given to Kafka", |node| Ok(given(node)? != before)).await?;
    client(
        node,
        "changed",
        "gateway",
        &format!("until {}; do sleep 1; done", produce("conversation.inbound")),
    )?;
    let (phase, said) = ended(node, "changed").await?;
    ensure!(phase == "Succeeded", "{said}");
    Ok(())
}

/// A setting Kafka can change while it runs restarts nobody; one it refuses is named.
async fn settings(node: &Node) -> Result<()> {
    let before = node.members("kafka")?;
    patch(node, &json!({"settings": {"log.retention.ms": "soon"}}))?;
    node.until("the setting is refused", |node| Ok(node.component("kafka")?["reason"] == "KafkaRefused"))
        .await?;
    let message = node.component("kafka")?["message"].to_string();
    ensure!(message.contains("log.retention.ms"), "{message}");
    patch(node, &json!({"settings": {"log.retention.ms": "172800000"}}))?;
    node.settled("kafka", 3).await?;
    let set =
        command(node, "kafka-configs.sh", &["--describe", "--entity-type", "brokers", "--entity-default"])?;
    ensure!(set.contains("log.retention.ms=172800000"), "{set}");
    ensure!(node.members("kafka")? == before, "a setting restarted a pod");
    Ok(())
}

/// The active controller, a disk with its pod, then all pods at once.
async fn losses(node: &Node, producer: &Producer<'_>) -> Result<()> {
    let delete = |kind: &str, names: &[&str]| {
        node.kubectl(&[&["-n", NAMESPACE, "delete", kind, "--wait=false"][..], names].concat())
    };
    let before = node.members("kafka")?;
    let leader = active_controller(node)?;
    delete("pod", &[&leader])?;
    node.replaced("kafka", &[&leader], &before).await?;
    producer.progress().await?;
    node.faults.survived("20: the pod of Kafka's active controller is deleted", "another one took over");

    let (before, disks) = (node.members("kafka")?, voters(node)?);
    delete("pvc", &["data-kafka-1"])?;
    delete("pod", &["kafka-1"])?;
    node.replaced("kafka", &["kafka-1"], &before).await?;
    // The status may still be of the moment before the old disk was missed.
    node.until("the new disk votes", |node| {
        // While the quorum changes, the command may meet a member that has just lost the lead.
        Ok(voters(node).is_ok_and(|now| now.len() == 3 && now.difference(&disks).count() == 1))
    })
    .await?;
    node.settled("kafka", 3).await?;
    producer.progress().await?;
    node.faults.survived(
        "19: a pod of Kafka and its volume are deleted",
        "the same node with a new disk: the vote of the old one was taken away, the new one votes",
    );

    let before = node.members("kafka")?;
    let all = ["kafka-0", "kafka-1", "kafka-2"];
    delete("pod", &all)?;
    node.replaced("kafka", &all, &before).await?;
    producer.progress().await?;
    node.faults.survived("19: all pods of Kafka are deleted at once", "the quorum came back");
    Ok(())
}
