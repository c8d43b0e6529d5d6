//! A producer that waits for every replica, and a consumer that looks for what was acknowledged.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::Node;

const NAMESPACE: &str = "soma-infra";
/// Where the producer writes to.
pub const TOPIC: &str = "memory.events";
/// Messages per second the producer sends.
const RATE: &str = "20";

/// A pod that sends messages until it is verified.
pub struct Producer<'a>(&'a Node);

impl<'a> Producer<'a> {
    /// Starts it and waits for its first messages.
    pub async fn start(node: &'a Node) -> Result<Self> {
        let run = format!(
            "exec /opt/kafka/bin/kafka-run-class.sh org.apache.kafka.tools.VerifiableProducer --bootstrap-server kafka:9092 --topic {TOPIC} --throughput {RATE} --acks -1 --producer.config /tmp/user.properties"
        );
        client(node, "producer", "memory", &run)?;
        node.until("the producer runs", |node| Ok(phase(node, "producer")? == "Running")).await?;
        let producer = Self(node);
        producer.progress().await?;
        Ok(producer)
    }

    /// Waits until it is told of messages it sent from now on.
    pub async fn progress(&self) -> Result<()> {
        let before = sent(self.0)?.acknowledged.len();
        self.0.until("the producer goes on", |node| Ok(sent(node)?.acknowledged.len() > before + 20)).await
    }

    /// Ends it; everything that was acknowledged is there, and nothing failed. How many messages that were.
    pub async fn verify(self) -> Result<usize> {
        let node = self.0;
        let sent = sent(node)?;
        node.kubectl(&["-n", NAMESPACE, "delete", "pod", "producer", "--wait=false"])?;
        ensure!(sent.failed == 0, "{} messages failed after retries", sent.failed);
        let consume = format!(
            "/opt/kafka/bin/kafka-console-consumer.sh --bootstrap-server kafka:9092 --consumer.config /tmp/user.properties --topic {TOPIC} --group memory.check --from-beginning --timeout-ms 20000 2>/dev/null"
        );
        client(node, "verify", "memory", &consume)?;
        let (_, there) = ended(node, "verify").await?;
        let there: BTreeSet<_> = there.lines().map(str::to_owned).collect();
        let lost: Vec<_> = sent.acknowledged.difference(&there).collect();
        ensure!(
            lost.is_empty(),
            "{} of {} acknowledged messages are lost: {lost:?}",
            lost.len(),
            sent.acknowledged.len()
        );
        Ok(sent.acknowledged.len())
    }
}

/// Runs a shell script in a pod of Kafka's image, with the password of a service.
pub fn client(node: &Node, name: &str, user: &str, script: &str) -> Result<()> {
    let image = node.kubectl(&[
        "-n",
        NAMESPACE,
        "get",
        "pod",
        "kafka-0",
        "-o",
        "jsonpath={.spec.containers[0].image}",
    ])?;
    let prepare = r#"cat > /tmp/user.properties <<END
security.protocol=SASL_PLAINTEXT
sasl.mechanism=SCRAM-SHA-512
sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required username="$USERNAME" password="$PASSWORD";
retries=2147483647
delivery.timeout.ms=300000
END
"#;
    let from = |key| json!({"secretKeyRef": {"name": format!("kafka-user-{user}"), "key": key}});
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app": "client"}},
        "spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 30,
            "automountServiceAccountToken": false, "enableServiceLinks": false,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "client", "image": image, "command": ["/bin/sh", "-ec", format!("{prepare}{script}")],
                "env": [
                    {"name": "USERNAME", "valueFrom": from("username")},
                    {"name": "PASSWORD", "valueFrom": from("password")},
                    {"name": "KAFKA_HEAP_OPTS", "value": "-Xmx64m"},
                    {"name": "LOG_DIR", "value": "/tmp"},
                ],
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    });
    node.apply(&pod)
}

fn phase(node: &Node, name: &str) -> Result<String> {
    node.kubectl(&["-n", NAMESPACE, "get", "pod", name, "-o", "jsonpath={.status.phase}"])
}

/// Waits for a pod's end; its phase and what it said.
pub async fn ended(node: &Node, name: &str) -> Result<(String, String)> {
    node.until(&format!("{name} ends"), |node| {
        Ok(["Succeeded", "Failed"].contains(&phase(node, name)?.as_str()))
    })
    .await?;
    let said = node.kubectl(&["-n", NAMESPACE, "logs", name])?;
    let phase = phase(node, name)?;
    node.kubectl(&["-n", NAMESPACE, "delete", "pod", name, "--wait=false"])?;
    Ok((phase, said))
}

/// What the producer was told.
struct Sent {
    acknowledged: BTreeSet<String>,
    failed: usize,
}

/// What it was told until now.
fn sent(node: &Node) -> Result<Sent> {
    let log = node.kubectl(&["-n", NAMESPACE, "logs", "producer"])?;
    let mut sent = Sent { acknowledged: BTreeSet::new(), failed: 0 };
    for line in log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        match line["name"].as_str() {
            Some("producer_send_success") => {
                sent.acknowledged.insert(line["value"].as_str().context("no value")?.to_owned());
            }
            Some("producer_send_error") => sent.failed += 1,
            _ => {}
        }
    }
    Ok(sent)
}
