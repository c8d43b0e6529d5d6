//! What the examples back up by schedule, backed up now, and Postgres restored from it.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use soma_e2e_tests::Node;

use crate::Writers;

/// Runs the Job of a component's schedule once; the message of the status afterwards, which names the backup.
async fn now(node: &Node, component: &str, attempt: &str) -> Result<String> {
    let (cron, job) =
        (format!("--from=cronjob/{component}-backup"), format!("{attempt}-backup-of-{component}"));
    node.kubectl(&["-n", "soma-infra", "create", "job", &job, &cron])?;
    let said = |node: &Node| Ok::<_, anyhow::Error>(node.component(component)?["backup"].clone());
    let before = said(node)?["lastSuccess"].clone();
    node.until(&format!("a backup of {component}"), |node| {
        let now = said(node)?;
        ensure!(now["lastFailure"].is_null(), "{now}");
        Ok(!now["lastSuccess"].is_null() && now["lastSuccess"] != before)
    })
    .await?;
    said(node)?["message"].as_str().map(str::to_owned).context("the backup has no name")
}

/// One backup of each, while clients write.
pub async fn all(node: &Node, writers: &mut Writers<'_>) -> Result<()> {
    for component in ["etcd", "vault", "postgres"] {
        println!("{component}: {}", now(node, component, "first").await?);
        writers.write().await?;
    }
    Ok(())
}

/// The volume of Postgres is lost, and a backup put into a new one. Whatever was written before it is there.
pub async fn restore(node: &Node, writers: &mut Writers<'_>) -> Result<()> {
    let message = now(node, "postgres", "last").await?;
    let backup = message.split([' ', ',', ':']).find(|word| word.len() == 16 && word.ends_with('Z'));
    let annotation = format!("somastack.dev/restore-postgres={}", backup.context(message.clone())?);
    let annotate = ["-n", "soma-infra", "annotate", "somainfra", "shared", &annotation];
    node.kubectl(&annotate)?;
    node.until("the restore over data is refused", |node| {
        Ok(node.component("postgres")?["reason"] == "RestoreRefused")
    })
    .await?;
    writers.postgres.verify(node)?;
    let before = node.members("postgres")?;
    let lose = ["-n", "soma-infra", "delete", "statefulset/postgres", "pvc/data-postgres-0"];
    node.kubectl(&lose)?;
    node.replaced("postgres", &["postgres-0"], &before).await?;
    writers.postgres.verify(node)?;
    let infra: Value = serde_json::from_str(&node.kubectl(&[
        "-n",
        "soma-infra",
        "get",
        "somainfra",
        "shared",
        "-o",
        "json",
    ])?)?;
    ensure!(
        infra["metadata"]["annotations"]["somastack.dev/restore-postgres"].is_null(),
        "it would be restored again"
    );
    writers.postgres.write(node).await?;
    node.faults.survived(
        "the volume of Postgres is lost, and a backup restored into a new one",
        "RestoreRefused while there was data; afterwards every row that was acknowledged before the backup is there",
    );
    Ok(())
}
