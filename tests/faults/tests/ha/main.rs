//! `examples/infra-ha.yaml` on three real nodes, under a writer for every component, through what happens to machines, to
//! the API server and to the operator.

mod backup;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Deserializer, Value, json};
use soma_e2e_tests::checkers::kafka::Producer;
use soma_e2e_tests::checkers::redis::service;
use soma_e2e_tests::checkers::{etcd, postgres, redis, vault};
use soma_e2e_tests::{Node, clients};
use soma_testenv::cache::Cache;
use soma_testenv::images;

/// Every component, with the members it has in `ha`.
const MEMBERS: [(&str, usize); 7] =
    [("postgres", 1), ("vault", 3), ("kafka", 3), ("etcd", 3), ("redis", 6), ("opa", 2), ("openfga", 2)];
/// How long nobody can reach the API server.
const SILENCE: Duration = Duration::from_mins(1);

/// One client with retries for each component.
struct Writers<'a> {
    node: &'a Node,
    postgres: postgres::Checker,
    vault: vault::Checker,
    etcd: etcd::Checker,
    redis: redis::Checker,
    kafka: Producer<'a>,
}

impl<'a> Writers<'a> {
    async fn start(node: &'a Node) -> Result<Self> {
        let mut all = Self {
            node,
            postgres: postgres::Checker::default(),
            vault: vault::Checker::new(node).await?,
            etcd: etcd::Checker::new(node)?,
            redis: redis::Checker::default(),
            kafka: Producer::start(node).await?,
        };
        all.write().await?;
        Ok(all)
    }

    /// Each writes until it is acknowledged.
    async fn write(&mut self) -> Result<()> {
        self.etcd.write().await.context("etcd")?;
        self.vault.write(self.node).await.context("Vault")?;
        self.redis.write(self.node).await.context("Redis")?;
        self.postgres.write(self.node).await.context("Postgres")?;
        self.kafka.progress().await.context("Kafka")
    }

    /// Everything that was acknowledged is there.
    async fn verify(self) -> Result<()> {
        let Self { node, postgres, vault, etcd, redis, kafka } = self;
        etcd.verify().await?;
        vault.verify(node).await?;
        redis.verify(node)?;
        postgres.verify(node)?;
        let messages = kafka.verify().await?;
        println!(
            "acknowledged and there: {} rows, {} secrets, {} writes to etcd, {} keys, {messages} messages",
            postgres.acknowledged, vault.acknowledged, etcd.acknowledged, redis.acknowledged
        );
        Ok(())
    }
}

async fn settled(node: &Node) -> Result<()> {
    for (component, members) in MEMBERS {
        node.settled(component, members).await?;
    }
    Ok(())
}

/// Name, uid and restarts of every pod of the components.
fn pods(node: &Node) -> Result<Vec<String>> {
    let each = r#"jsonpath={range .items[*]}{.metadata.name} {.metadata.uid} {.status.containerStatuses[*].restartCount}{"\n"}{end}"#;
    let ours = "app.kubernetes.io/managed-by=soma-operator,!batch.kubernetes.io/job-name";
    let list = node.kubectl(&["-n", "soma-infra", "get", "pods", "-l", ours, "-o", each])?;
    Ok(list.lines().map(str::to_owned).collect())
}

/// Asks the operator for something small, and waits until it has done it for every component.
async fn operator_acts(node: &Node, friend: &str) -> Result<()> {
    let mut friends = clients();
    friends.push(json!({"podSelector": {"matchLabels": {"friend": friend}}}));
    node.patch_infra(&json!({"allowFrom": friends}))?;
    node.until("every policy names the friend", |node| {
        let policies = node.kubectl(&["-n", "soma-infra", "get", "networkpolicies", "-o", "json"])?;
        let policies: Value = serde_json::from_str(&policies)?;
        let all = policies["items"].as_array().cloned().unwrap_or_default();
        Ok(all.len() == MEMBERS.len() && all.iter().all(|policy| policy.to_string().contains(friend)))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_to_machines_and_to_the_operator_loses_nothing() -> Result<()> {
    let start = || {
        let cache = Cache::open()?;
        let images =
            [images::vault, images::kafka, images::etcd, images::redis, images::opa, images::openfga];
        let images = images.iter().map(|image| image(&cache)).collect::<Result<_, _>>()?;
        Node::start_many(3, images)
    };
    let node = tokio::task::spawn_blocking(start).await??;
    node.apply(&example(&node)?)?;
    settled(&node).await?;
    let mut writers = Writers::start(&node).await?;
    upgrade(&node, &mut writers).await?;
    backup::all(&node, &mut writers).await?;
    silence(&node, &mut writers).await?;
    every_redis(&node, &mut writers).await?;
    drain(&node, &mut writers).await?;
    lose_machine(&node, &mut writers).await?;
    backup::restore(&node, &mut writers).await?;
    writers.verify().await?;
    node.faults.survived(
        "19, 21, 22, 23: a writer for each of Kafka, Redis, etcd, Vault and Postgres through all of this",
        "everything that was acknowledged is there, no message to Kafka failed after retries",
    );
    node.faults.check("ha")
}

/// The example, with clients that are let in and so little CPU that two machines of two cores carry what three did.
fn example(node: &Node) -> Result<Value> {
    let file = soma_testenv::checkout().join("examples/infra-ha.yaml").display().to_string();
    let printed = node.kubectl(&["create", "--dry-run=client", "-o", "json", "-f", &file])?;
    let mut items = Deserializer::from_str(&printed).into_iter().collect::<Result<Vec<Value>, _>>()?;
    let infra = items.iter_mut().find(|item| item["kind"] == "SomaInfra");
    let spec = &mut infra.context("the example has no SomaInfra")?["spec"];
    spec["allowFrom"] = json!(clients());
    for (component, _) in MEMBERS {
        spec[component]["managed"]["resources"] = json!({"requests": {"cpu": "20m"}});
    }
    Ok(json!({"apiVersion": "v1", "kind": "List", "items": items}))
}

/// Another operator restarts nobody.
async fn upgrade(node: &Node, writers: &mut Writers<'_>) -> Result<()> {
    let before = pods(node)?;
    node.kubectl(&["-n", "soma-system", "set", "env", "deployment/soma-operator", "RELEASE=next"])?;
    node.kubectl(&["-n", "soma-system", "rollout", "status", "deployment/soma-operator", "--timeout=180s"])?;
    operator_acts(node, "of-the-next-release").await?;
    settled(node).await?;
    ensure!(pods(node)? == before, "another operator changed the pods {before:?} to {:?}", pods(node)?);
    writers.write().await?;
    node.faults
        .survived("25: the operator is replaced by another release", "no pod was replaced, none restarted");
    Ok(())
}

/// Nobody reaches the API server for a while.
async fn silence(node: &Node, writers: &mut Writers<'_>) -> Result<()> {
    let before = pods(node)?;
    node.pause("kube-apiserver")?;
    tokio::time::sleep(SILENCE).await;
    node.resume("kube-apiserver")?;
    operator_acts(node, "after-the-silence").await?;
    settled(node).await?;
    ensure!(pods(node)? == before, "an absent API server changed the pods {before:?} to {:?}", pods(node)?);
    writers.write().await?;
    node.faults.survived(
        "3: nobody reaches the API server for a minute",
        "no pod was replaced, none restarted; the operator went on afterwards",
    );
    Ok(())
}

/// All members of Redis end at the same moment, and come back with other addresses.
async fn every_redis(node: &Node, writers: &mut Writers<'_>) -> Result<()> {
    let ids = |node: &Node| -> Result<Vec<String>> {
        let own = |(member, _): &(String, String)| {
            redis::exec(node, member, "redis-cli --user soma-operator cluster myid")
        };
        node.members("redis")?.iter().map(own).collect()
    };
    let (before, named) = (node.members("redis")?, ids(node)?);
    let all: Vec<_> = before.iter().map(|(name, _)| name.as_str()).collect();
    let now = ["-n", "soma-infra", "delete", "pod", "--grace-period=0", "--force", "--wait=false"];
    node.kubectl(&[&now[..], &all].concat())?;
    writers.redis.write(node).await?;
    node.replaced("redis", &all, &before).await?;
    writers.redis.verify(node)?;
    ensure!(ids(node)? == named, "Redis was made anew: {named:?} became {:?}", ids(node)?);
    let told = service(node, "cluster info")?;
    ensure!(told.contains("cluster_slots_ok:16384") && told.contains("cluster_known_nodes:6"), "{told}");
    node.faults.survived(
        "21: all six pods of Redis are killed at once",
        "the same six members met again by their new addresses, 16384 slots, every key that was acknowledged is there",
    );
    Ok(())
}

/// Every machine is emptied for maintenance, one after the other.
async fn drain(node: &Node, writers: &mut Writers<'_>) -> Result<()> {
    for machine in ["node-0", "node-1", "node-2"] {
        let evict = [
            "drain",
            machine,
            "--delete-emptydir-data",
            "--ignore-daemonsets",
            "--pod-selector=app!=client",
            "--timeout=600s",
        ];
        node.kubectl(&evict).with_context(|| format!("cannot drain {machine}"))?;
        writers.write().await?;
        node.kubectl(&["uncordon", machine])?;
        settled(node).await?;
    }
    writers.write().await?;
    node.faults.survived(
        "25: every machine is drained, one after the other",
        "no budget was overridden, and the writers went on",
    );
    Ok(())
}

/// A machine is gone for good, and with it everything that ran on it; volumes can be attached elsewhere.
async fn lose_machine(node: &Node, writers: &mut Writers<'_>) -> Result<()> {
    node.lose_machine(2)?;
    node.kubectl(&["delete", "node", "node-2", "--wait=false"])?;
    writers.write().await?;
    settled(node).await?;
    writers.write().await?;
    node.faults.survived(
        "19: a machine is lost for good; its volumes can be attached elsewhere",
        "its members came back on the others",
    );
    Ok(())
}
