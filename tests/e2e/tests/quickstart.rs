//! From `kubectl apply` to a recalled memory on a real node, and what a user does next.

use anyhow::Result;
use soma_e2e_tests::Soma;

#[tokio::test(flavor = "multi_thread")]
async fn the_quickstart_remembers_through_changes_and_losses() -> Result<()> {
    let soma = tokio::task::spawn_blocking(Soma::start).await??;

    // Stored and recalled by meaning, through the Service.
    soma.store("The spare key hangs behind the blue door.").await?;
    soma.store("Lunch is at half past twelve.").await?;
    let question = "where can I find another key?";
    let answer = "The spare key hangs behind the blue door.";
    assert_eq!(soma.recall(question).await?, answer);
    soma.until("usage in the status", |soma| {
        let usage = ["-n", "soma", "get", "memns", "default", "-o", "jsonpath={.status.usage.memories}"];
        Ok(soma.kubectl(&usage)? == "2")
    })
    .await?;

    // A label restarts nothing, and neither does another operator with the same output.
    let (infra, stack) = (soma.pods("soma-infra")?, soma.pods("soma")?);
    let operator = ["-n", "soma-system", "rollout", "restart", "deployment/soma-operator"];
    soma.kubectl(&operator)?;
    soma.kubectl(&["-n", "soma-system", "rollout", "status", "deployment/soma-operator", "--timeout=120s"])?;
    soma.kubectl(&["-n", "soma", "label", "somastack", "soma", "team=blue"])?;

    // A setting replaces the memory pods, and only those; the Service follows, and the memories are there.
    let first = soma.stack(".status.services.memory.stable.revision")?;
    let patch = r#"{"spec":{"services":{"memory":{"settings":{"maxTopK":60}}}}}"#;
    assert_eq!(soma.pods("soma")?, stack, "a label or another operator restarted a pod");
    soma.kubectl(&["-n", "soma", "patch", "somastack", "soma", "--type=merge", "-p", patch])?;
    soma.until("the new revision", |soma| {
        let stable = soma.stack(".status.services.memory.stable.revision")?;
        Ok(stable != first && soma.pods("soma")?.len() == stack.len())
    })
    .await?;
    assert_eq!(soma.stack(".status.services.memory.lastRestart.changed[*]")?, "memory.maxTopK");
    assert_eq!(soma.pods("soma-infra")?, infra, "a setting of memory restarted Postgres");
    assert_eq!(soma.recall_with_retries(question).await?, answer);

    // Any pod can be lost, those of the operator and of the name service too.
    for namespace in ["soma", "soma-infra", "soma-system", "kube-system"] {
        let pods = soma.pods(namespace)?;
        assert!(!pods.is_empty(), "no pods in {namespace}");
        for (pod, uid) in &pods {
            soma.kubectl(&["-n", namespace, "delete", "pod", pod])?;
            soma.until("another pod", |soma| {
                let now = soma.pods(namespace)?;
                Ok(now.len() == pods.len() && !now.values().any(|other| other == uid))
            })
            .await?;
            soma.kubectl(&[
                "-n",
                namespace,
                "wait",
                "--for=condition=Ready",
                "pods",
                "--all",
                "--timeout=120s",
            ])?;
            assert_eq!(soma.recall_with_retries(question).await?, answer, "after the loss of {pod}");
        }
    }
    soma.kubectl(&[
        "wait",
        "--for=condition=Ready",
        "somainfras,somastacks,memorynamespaces",
        "--all",
        "-A",
        "--timeout=180s",
    ])?;
    Ok(())
}
