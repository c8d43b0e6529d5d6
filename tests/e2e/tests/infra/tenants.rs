//! A MemoryNamespace across the components: what its programs may do, what they may not, and what is left when it goes.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use soma_e2e_tests::checkers::tenant::{NAMESPACE, access, apply};
use soma_e2e_tests::checkers::vault::Checker;
use soma_e2e_tests::{Node, client};

/// Makes a topic of its own, writes and reads there, and is kept out of everything else.
const OWN: &str = r#"
for stranger in memory.events stranger memns.tenants.notes2.one; do
  said=$("$K/kafka-topics.sh" $AS --create --topic "$stranger" --partitions 1 2>&1 || true)
  echo "$said" | grep -qi authoriz
  said=$("$K/kafka-console-consumer.sh" --bootstrap-server "$KAFKA_BOOTSTRAP_SERVERS" --consumer.config /tmp/p --topic "$stranger" --group "${KAFKA_PREFIX}g" --timeout-ms 20000 2>&1 || true)
  echo "$said" | grep -qi authoriz
done
"$K/kafka-topics.sh" $AS --create --if-not-exists --topic "${KAFKA_PREFIX}one" --partitions 1
echo hello | "$K/kafka-console-producer.sh" --bootstrap-server "$KAFKA_BOOTSTRAP_SERVERS" --producer.config /tmp/p --topic "${KAFKA_PREFIX}one"
"$K/kafka-console-consumer.sh" --bootstrap-server "$KAFKA_BOOTSTRAP_SERVERS" --consumer.config /tmp/p --topic "${KAFKA_PREFIX}one" --group "${KAFKA_PREFIX}g" --from-beginning --max-messages 1 --timeout-ms 60000 | grep -q hello
"#;
/// Nobody knows it any more.
const GONE: &str = r#"
said=$("$K/kafka-topics.sh" $AS --list 2>&1 || true)
echo "$said" | grep -qi "authentication failed"
"#;

/// Runs a script as a program of the tenant, until it succeeds: brokers come and go meanwhile.
async fn program(node: &Node, name: &str, given: &BTreeMap<String, String>, script: &str) -> Result<()> {
    let image = [
        "-n",
        "soma-infra",
        "get",
        "statefulset",
        "kafka",
        "-o",
        "jsonpath={.spec.template.spec.containers[0].image}",
    ];
    let image = node.kubectl(&image)?;
    let prepare = r#"cat > /tmp/p <<END
security.protocol=$KAFKA_SECURITY_PROTOCOL
sasl.mechanism=$KAFKA_SASL_MECHANISM
sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required username="$KAFKA_SASL_USERNAME" password="$KAFKA_SASL_PASSWORD";
END
K=/opt/kafka/bin
AS="--bootstrap-server $KAFKA_BOOTSTRAP_SERVERS --command-config /tmp/p"
"#;
    let mut env: Vec<_> = given.iter().map(|(key, value)| json!({"name": key, "value": value})).collect();
    env.extend([
        json!({"name": "KAFKA_HEAP_OPTS", "value": "-Xmx64m"}),
        json!({"name": "LOG_DIR", "value": "/tmp"}),
    ]);
    node.apply(&json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"somastack.dev/memory-namespace": name}},
        "spec": {
            "restartPolicy": "OnFailure", "automountServiceAccountToken": false, "enableServiceLinks": false,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "program", "image": image, "command": ["/bin/sh", "-exc", format!("{prepare}{script}")], "env": env,
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    }))?;
    let phase = ["-n", NAMESPACE, "get", "pod", name, "-o", "jsonpath={.status.phase}"];
    let ended =
        node.until(&format!("the program of {name}"), |node| Ok(node.kubectl(&phase)? == "Succeeded")).await;
    if ended.is_err() {
        println!("{}", node.kubectl(&["-n", NAMESPACE, "logs", name, "--previous"]).unwrap_or_default());
    }
    node.kubectl(&["-n", NAMESPACE, "delete", "pod", name, "--wait=false"])?;
    ended
}

/// Whether OPA lets a tenant read a MemoryNamespace that it says is its own.
async fn may_read(node: &Node, tenant: &str, memory: &str) -> Result<Value> {
    let service = ["-n", "soma-infra", "get", "service", "opa", "-o", "jsonpath={.spec.clusterIP}"];
    let url = format!("http://{}:8181/v1/data/soma/policy/allow", node.kubectl(&service)?);
    let input = json!({
        "subject": {"id": "u", "tenant": tenant, "scopes": ["memory.*"], "roles": []}, "action": "memory.read",
        "resource": {"type": "memory_namespace", "id": format!("{NAMESPACE}.{memory}"), "tenant": tenant}, "context": {},
    });
    let answer = client()?.post(url).json(&json!({"input": input})).send().await?;
    Ok(answer.json::<Value>().await?["result"].clone())
}

pub async fn life(node: Arc<Node>) -> Result<()> {
    let node = &*node;
    let quota = json!({"kafka": {"produceBytesPerSecond": "1Mi"}});
    apply(node, "notes", json!({"tenant": "acme", "quota": quota, "deletionPolicy": "Delete"}))?;
    apply(node, "notes2", json!({"tenant": "other", "access": [{"serviceAccount": "default"}]}))?;
    let (notes, notes2) = (access(node, "notes").await?, access(node, "notes2").await?);
    program(node, "notes", &notes, OWN).await?;

    // Each in its own folder of Vault, as its own service accounts.
    node.kubectl(&["-n", NAMESPACE, "create", "serviceaccount", "notes"])?;
    let (one, mut two) = (Checker::of(node, "notes").await?, Checker::of(node, "notes2").await?);
    two.write(node).await?;
    ensure!(one.login(node, "default").await.is_err(), "a stranger of the namespace got a token");
    let token = loop {
        // Vault may be away: another life takes its pods.
        match one.login(node, "notes").await {
            Ok(token) => break token,
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(500)).await,
        }
    };
    let refused = two.read(&token, "0").await.map_err(|error| error.to_string());
    ensure!(refused.is_err(), "acme reads what other wrote: {refused:?}");

    // Whose memories they are, the operator knows.
    let mut decided = Value::Null;
    for _ in 0..120 {
        decided = may_read(node, "other", "notes").await.unwrap_or_default();
        if decided["allow"] == false {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
    ensure!(decided["reasons"] == json!(["the memory namespace is another tenant's"]), "{decided}");
    node.faults.survived(
        "R13: a tenant's programs try what is another tenant's",
        "refused by Kafka, Vault and OPA; their own topics and secrets work",
    );

    // It goes whole, also when the operator ends in the middle, and the other stays.
    node.kubectl(&["-n", NAMESPACE, "delete", "memorynamespace", "notes", "--wait=false"])?;
    node.kill_operator()?;
    node.kubectl(&["-n", NAMESPACE, "wait", "--for=delete", "memorynamespace/notes", "--timeout=300s"])?;
    let secrets = node.kubectl(&["-n", NAMESPACE, "get", "secrets", "-o", "name"])?;
    ensure!(!secrets.contains("notes-access") && secrets.contains("notes2-access"), "{secrets}");
    program(node, "notes", &notes, GONE).await?;
    ensure!(one.login(node, "notes").await.is_err(), "Vault still knows the tenant");
    program(node, "notes2", &notes2, &OWN.replace("notes2.one", "notes.one")).await?;
    node.faults.survived(
        "a MemoryNamespace is deleted and the operator is killed",
        "nothing of it is left in Kafka and Vault, the other tenant's works on",
    );
    Ok(())
}
