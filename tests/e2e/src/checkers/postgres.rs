//! Rows that are counted when they are acknowledged.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::Node;

/// Runs SQL in the pod as the owner of the server.
fn sql(node: &Node, statement: &str) -> Result<String> {
    let psql =
        ["psql", "-h", "/var/run/postgresql", "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-Atqc", statement];
    node.kubectl(&[&["-n", "soma-infra", "exec", "postgres-0", "--"][..], &psql].concat())
}

/// A client with retries.
#[derive(Default)]
pub struct Checker {
    /// Rows that were acknowledged.
    pub acknowledged: usize,
}

impl Checker {
    /// Writes until it is acknowledged.
    pub async fn write(&mut self, node: &Node) -> Result<()> {
        let n = self.acknowledged;
        let insert = format!(
            "create table if not exists checked (n int primary key); insert into checked values ({n}) on conflict do nothing"
        );
        for _ in 0..240 {
            if sql(node, &insert).is_ok() {
                self.acknowledged += 1;
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        sql(node, &insert).map(drop)
    }

    /// Every row that was acknowledged is there.
    pub fn verify(&self, node: &Node) -> Result<()> {
        let there = sql(node, "select count(*) from checked")?;
        ensure!(
            there.trim() == self.acknowledged.to_string(),
            "{there} of {} rows are there",
            self.acknowledged
        );
        Ok(())
    }
}
