//! Writes to Redis that are counted when they are acknowledged.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::Node;

const NAMESPACE: &str = "soma-infra";
/// `redis-cli` as the services' user, that follows the members of a cluster to each other.
const CLI: &str = "REDISCLI_AUTH=$SOMA_PASSWORD redis-cli -c -e --user soma";

/// Runs a script in a member; `redis-cli` in it is the operator's.
pub fn exec(node: &Node, member: &str, script: &str) -> Result<String> {
    node.kubectl(&["-n", NAMESPACE, "exec", member, "--", "/bin/sh", "-ec", script])
}

/// Runs `redis-cli` as the services do, on any member that runs.
pub fn service(node: &Node, call: &str) -> Result<String> {
    let members = node.members("redis")?;
    let mut last = None;
    for (member, _) in &members {
        match exec(node, member, &format!("{CLI} {call}")) {
            Ok(said) => return Ok(said),
            Err(error) => last = Some(error),
        }
    }
    Err(last.context("Redis has no member")?)
}

/// A client with retries.
#[derive(Default)]
pub struct Checker {
    /// Keys that were acknowledged.
    pub acknowledged: usize,
}

impl Checker {
    /// Writes twenty keys, each until it is acknowledged, as a client with retries does.
    pub async fn write(&mut self, node: &Node) -> Result<()> {
        let last = self.acknowledged + 20;
        for _ in 0..600 {
            for (member, _) in node.members("redis")? {
                let first = self.acknowledged + 1;
                let script =
                    format!("for n in $(seq {first} {last}); do {CLI} set write-$n $n || break; done");
                let said = exec(node, &member, &script).unwrap_or_default();
                self.acknowledged += said.lines().filter(|line| *line == "OK").count();
                if self.acknowledged == last {
                    return Ok(());
                }
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        anyhow::bail!("only {} writes were acknowledged", self.acknowledged)
    }

    /// Everything that was acknowledged is there.
    pub fn verify(&self, node: &Node) -> Result<()> {
        let mut there = BTreeSet::new();
        for (member, _) in node.members("redis")? {
            let keys = exec(node, &member, &format!("{CLI} --scan --pattern 'write-*'"))?;
            there.extend(keys.lines().map(str::to_owned));
        }
        let written = (1..=self.acknowledged).map(|n| format!("write-{n}"));
        let lost: Vec<_> = written.filter(|key| !there.contains(key)).collect();
        ensure!(lost.is_empty(), "{} of {} writes are lost: {lost:?}", lost.len(), self.acknowledged);
        Ok(())
    }
}
