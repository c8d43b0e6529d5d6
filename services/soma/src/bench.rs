//! `soma bench recall`: how many of the turns that answer a question are recalled, and how fast.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use crate::client::{Client, Connection};
use crate::conversation::{self, Question};

/// Measures a running service.
#[derive(Args, Debug)]
pub struct Bench {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Ask every question of a file of imported conversations; print turn-level R@5, R@10 and latencies.
    ///
    /// R@k is the share of a question's evidence turns among the k best, averaged over the questions that have evidence.
    Recall {
        /// The file that was imported with `soma memory import`.
        file: PathBuf,
    },
}

/// What was measured over a set of questions.
#[derive(Debug, Default)]
struct Tally {
    questions: usize,
    at5: f64,
    at10: f64,
    latencies: Vec<Duration>,
}

#[expect(clippy::cast_precision_loss, reason = "counts of questions and turns are small")]
impl Tally {
    fn add(&mut self, evidence: &HashSet<&str>, turns: &[String], latency: Duration) {
        let share = |k: usize| {
            let found: HashSet<_> =
                turns.iter().take(k).map(String::as_str).filter(|t| evidence.contains(t)).collect();
            found.len() as f64 / evidence.len() as f64
        };
        self.questions += 1;
        self.at5 += share(5);
        self.at10 += share(10);
        self.latencies.push(latency);
    }

    fn merge(&mut self, other: Self) {
        self.questions += other.questions;
        self.at5 += other.at5;
        self.at10 += other.at10;
        self.latencies.extend(other.latencies);
    }

    fn row(&mut self, name: &str) -> String {
        self.latencies.sort_unstable();
        let percentile = |p: usize| {
            self.latencies
                .get((self.latencies.len() * p / 100).min(self.latencies.len().saturating_sub(1)))
                .map_or(0.0, |d| d.as_secs_f64() * 1000.0)
        };
        let percent = |sum: f64| 100.0 * sum / self.questions.max(1) as f64;
        format!(
            "{name:<16} {:>9} {:>6.1} {:>6.1} {:>8.1} {:>8.1}",
            self.questions,
            percent(self.at5),
            percent(self.at10),
            percentile(50),
            percentile(99)
        )
    }
}

impl Bench {
    /// Runs the command.
    pub async fn run(self) -> Result<()> {
        let Command::Recall { file } = self.command;
        let client = self.connection.client()?;
        let conversations = conversation::read(&file)?;
        let one = self.connection.namespace.is_some() || conversations.len() == 1;
        println!(
            "{:<16} {:>9} {:>6} {:>6} {:>8} {:>8}",
            "namespace", "questions", "R@5", "R@10", "p50 ms", "p99 ms"
        );
        let mut all = Tally::default();
        for conversation in &conversations {
            let target = if one { client.clone() } else { client.in_namespace(&conversation.namespace()) };
            let mut tally = ask(&target, &conversation.questions).await?;
            println!("{}", tally.row(target.namespace()));
            all.merge(tally);
        }
        if all.questions == 0 {
            bail!("{} has no question with evidence", file.display());
        }
        println!("{}", all.row("all (strict)"));
        Ok(())
    }
}

async fn ask(client: &Client, questions: &[Question]) -> Result<Tally> {
    let mut tally = Tally::default();
    for question in questions.iter().filter(|q| !q.evidence.is_empty()) {
        let started = Instant::now();
        let results = client.recall(&question.question, 10).await?;
        let latency = started.elapsed();
        let turns: Vec<_> =
            results.iter().filter_map(|r| r["payload"]["turn"].as_str().map(str::to_owned)).collect();
        tally.add(&question.evidence.iter().map(String::as_str).collect(), &turns, latency);
    }
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recall_is_the_share_of_evidence_among_the_best() {
        let mut tally = Tally::default();
        let turns: Vec<_> = (1..=10).map(|n| n.to_string()).collect();
        tally.add(&["2", "9"].into(), &turns, Duration::from_millis(3));
        tally.add(&["1"].into(), &turns, Duration::from_millis(5));
        assert!((tally.at5 - 1.5).abs() < 1e-9 && (tally.at10 - 2.0).abs() < 1e-9);
        assert_eq!(
            tally.row("x").split_whitespace().collect::<Vec<_>>(),
            ["x", "2", "75.0", "100.0", "5.0", "5.0"]
        );
    }
}
