//! Benchmarks: each subcommand measures one promise and prints its figures.

mod cluster;
mod conversations;
mod embed;
mod memory;
mod namespaces;
mod process;

use clap::{Parser, Subcommand};

/// Measures this project's speed and memory.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// Texts embedded per second on one thread, against sentence-transformers in the same run.
    Embed(embed::Options),
    /// Store and recall over HTTP, embedding included, on SQLite and Postgres.
    Memory(memory::Options),
    /// An idle operator, what an edit restarts, and where the seconds of an installation go, on a cluster of its own.
    Cluster(cluster::Options),
    /// Many MemoryNamespaces at once with Kafka and Vault, against plain writes of the same objects, on a cluster of its own.
    Namespaces(namespaces::Options),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().bench {
        Bench::Embed(options) => embed::run(&options),
        Bench::Memory(options) => memory::run(&options),
        Bench::Cluster(options) => cluster::run(&options),
        Bench::Namespaces(options) => namespaces::run(&options),
    }
}
