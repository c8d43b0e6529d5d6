//! `soma memory import|add|search`.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::client::{Client, Connection};
use crate::conversation::{self, Conversation};

/// Items sent in one request: small enough for the body limit, large enough to be quick.
const BATCH: usize = 64;

/// Stores and recalls memories of a running service.
#[derive(Args, Debug)]
pub struct Memory {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Import conversations from JSON. A second import of the same file updates the same memories.
    ///
    /// The file holds one conversation or a list:
    /// {"id": "chat", "sessions": [{"session": 1, "time": "2026-05-08T13:56:00Z",
    ///   "turns": [{"id": "1", "speaker": "Ada", "role": "user", "text": "Hello"}]}]}
    /// Several conversations go to one namespace per id, unless --namespace names one for all.
    #[command(verbatim_doc_comment)]
    Import {
        /// The JSON file.
        file: PathBuf,
        /// Make the namespaces that do not exist. On a cluster prefer a MemoryNamespace, which has a quota and an owner.
        #[arg(long)]
        create_namespaces: bool,
    },
    /// Store one memory.
    Add {
        /// What to remember.
        text: String,
        /// Who said it.
        #[arg(long)]
        speaker: Option<String>,
        /// A tag; may be given several times.
        #[arg(long = "tag")]
        tags: Vec<String>,
    },
    /// Recall the memories nearest to a question.
    Search {
        /// What to look for.
        query: String,
        /// How many.
        #[arg(short = 'k', long, default_value_t = 5)]
        top_k: usize,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

impl Memory {
    /// Runs the command.
    pub async fn run(self) -> Result<()> {
        let client = self.connection.client()?;
        match self.command {
            Command::Import { file, create_namespaces } => {
                let conversations = conversation::read(&file)?;
                let one = self.connection.namespace.is_some() || conversations.len() == 1;
                for conversation in &conversations {
                    let target =
                        if one { client.clone() } else { client.in_namespace(&conversation.namespace()) };
                    if create_namespaces {
                        target.create_namespace().await?;
                    }
                    import(&target, conversation).await?;
                }
                Ok(())
            }
            Command::Add { text, speaker, tags } => {
                if text.trim().is_empty() {
                    bail!("there is nothing to remember: the text is empty");
                }
                let mut payload = json!({"content": text});
                if let Some(speaker) = speaker {
                    payload["speaker"] = json!(speaker);
                }
                if !tags.is_empty() {
                    payload["tags"] = json!(tags);
                }
                client.store(&[json!({"payload": payload})], true).await?;
                println!("stored in {}", client.namespace());
                Ok(())
            }
            Command::Search { query, top_k, json } => search(&client, &query, top_k, json).await,
        }
    }
}

/// Imports one conversation, showing progress; returns once every turn can be recalled.
pub async fn import(client: &Client, conversation: &Conversation) -> Result<()> {
    let items = conversation.items();
    let bar = ProgressBar::new(items.len() as u64);
    bar.set_style(ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len} {per_sec} {eta}")?);
    bar.set_prefix(client.namespace().to_owned());
    let started = Instant::now();
    for batch in items.chunks(BATCH) {
        client.store(batch, true).await.with_context(|| {
            format!(
                "import into {} stopped after {} of {}; run it again to go on",
                client.namespace(),
                bar.position(),
                items.len()
            )
        })?;
        bar.inc(batch.len() as u64);
    }
    bar.finish_and_clear();
    println!("{}: {} memories in {:.1} s", client.namespace(), items.len(), started.elapsed().as_secs_f64());
    Ok(())
}

/// Asks the questions a conversation comes with and prints what is recalled for each.
pub async fn ask(client: &Client, conversation: &Conversation) -> Result<()> {
    for question in &conversation.questions {
        let started = Instant::now();
        let results = client.recall(&question.question, 3).await?;
        println!("\n? {}  ({:.0} ms)", question.question, started.elapsed().as_secs_f64() * 1000.0);
        for result in &results {
            println!("{}", line(result));
        }
    }
    Ok(())
}

async fn search(client: &Client, query: &str, top_k: usize, as_json: bool) -> Result<()> {
    let started = Instant::now();
    let results = client.recall(query, top_k).await?;
    if as_json {
        println!("{}", serde_json::to_string_pretty(&results)?);
        return Ok(());
    }
    println!(
        "{} of {} in {:.0} ms",
        results.len(),
        client.namespace(),
        started.elapsed().as_secs_f64() * 1000.0
    );
    for result in &results {
        println!("{}", line(result));
    }
    Ok(())
}

/// One recalled memory as a line: score, who said it when, and what.
pub fn line(result: &Value) -> String {
    let payload = &result["payload"];
    let text = payload["content"].as_str().map_or_else(|| payload.to_string(), str::to_owned);
    let speaker = payload["speaker"].as_str().map(|s| format!("{s}: ")).unwrap_or_default();
    let time = payload["time"].as_str().map(|t| format!("  ({t})")).unwrap_or_default();
    format!("  {:.3}  {speaker}{text}{time}", result["score"].as_f64().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_shows_score_speaker_text_and_time() {
        let result =
            json!({"score": 0.41234, "payload": {"content": "Hello", "speaker": "Ada", "time": "noon"}});
        assert_eq!(line(&result), "  0.412  Ada: Hello  (noon)");
        assert_eq!(line(&json!({"score": 0.0, "payload": {"a": 1}})), "  0.000  {\"a\":1}");
    }
}
