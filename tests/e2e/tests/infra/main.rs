//! `examples/infra-dev.yaml` on a real node, then each component through its life at the same time: formed once, grown,
//! rolled, lost pod by pod, all at once, and with its disk.

mod etcd;
mod kafka;
mod opa;
mod openfga;
mod redis;
mod strangers;
mod tenants;
mod vault;

use std::sync::Arc;

use anyhow::Result;
use serde_json::json;
use soma_e2e_tests::{Node, clients};
use soma_testenv::cache::Cache;
use soma_testenv::images;
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread")]
async fn every_component_lives_and_keeps_what_was_acknowledged() -> Result<()> {
    let start = || {
        let cache = Cache::open()?;
        Node::start(vec![
            images::vault(&cache)?,
            images::kafka(&cache)?,
            images::etcd(&cache)?,
            images::redis(&cache)?,
            images::opa(&cache)?,
            images::openfga(&cache)?,
        ])
    };
    let node = Arc::new(tokio::task::spawn_blocking(start).await??);
    let example = soma_testenv::checkout().join("examples/infra-dev.yaml");
    node.kubectl(&["apply", "-f", &example.display().to_string()])?;
    node.patch_infra(&json!({"allowFrom": clients(), "openfga": {"managed": {}}}))?;
    let mut lives = JoinSet::new();
    lives.spawn(vault::life(Arc::clone(&node)));
    lives.spawn(etcd::life(Arc::clone(&node)));
    lives.spawn(redis::life(Arc::clone(&node)));
    lives.spawn(strangers::life(Arc::clone(&node)));
    lives.spawn(opa::life(Arc::clone(&node)));
    lives.spawn(openfga::life(Arc::clone(&node)));
    lives.spawn(kafka::life(Arc::clone(&node)));
    lives.spawn(tenants::life(Arc::clone(&node)));
    while let Some(ended) = lives.join_next().await {
        ended??;
    }
    node.faults.check("infra")
}
