//! A Kafka server keeps what it acknowledged, knows its users, and leaves nothing behind.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail it as the test itself would")]

use std::path::Path;

use soma_testenv::{Kafka, ServerError};

/// Runs a script with `words`, and the file `known` as the option `config`.
async fn run(
    kafka: &Kafka,
    script: &str,
    words: &str,
    (config, known): (&str, &Path),
    input: &str,
) -> Result<String, ServerError> {
    let (server, known) = (kafka.bootstrap(), known.display().to_string());
    let mut args: Vec<&str> = words.split(' ').collect();
    args.extend(["--bootstrap-server", &server, config, &known]);
    kafka.script(script, &args, input).await
}

async fn produce(kafka: &Kafka, line: &str) {
    let known = kafka.client_properties();
    let words = "--topic kept --producer-property acks=all";
    run(kafka, "kafka-console-producer.sh", words, ("--producer.config", &known), line).await.unwrap();
}

#[tokio::test]
async fn lines_survive_a_kill_and_a_restart_and_strangers_are_refused() {
    let mut kafka = Kafka::start().await.unwrap();
    let known = kafka.client_properties();
    let create = "--create --topic kept --partitions 1 --replication-factor 1";
    run(&kafka, "kafka-topics.sh", create, ("--command-config", &known), "").await.unwrap();

    produce(&kafka, "one\n").await;
    kafka.kill().await.unwrap();
    kafka.start_again().await.unwrap();
    produce(&kafka, "two\n").await;
    kafka.stop().await.unwrap();
    kafka.start_again().await.unwrap();
    let words = "--topic kept --from-beginning --max-messages 2 --timeout-ms 60000";
    let read = run(&kafka, "kafka-console-consumer.sh", words, ("--consumer.config", &known), "").await;
    assert_eq!(read.unwrap(), "one\ntwo");

    let stranger = known.with_file_name("stranger.properties");
    std::fs::write(&stranger, std::fs::read_to_string(&known).unwrap().replace(kafka.password(), "guess"))
        .unwrap();
    let refused = run(&kafka, "kafka-topics.sh", "--list", ("--command-config", &stranger), "").await;
    assert!(refused.unwrap_err().to_string().contains("SaslAuthenticationException"));

    drop(kafka);
    assert!(!known.exists());
}
