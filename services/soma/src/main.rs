//! `soma`: runs Soma on a laptop, and talks to a running one.

mod bench;
mod client;
mod conversation;
mod dev;
mod infra;
mod manifest;
mod memory;
mod token;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

/// An agent platform with durable memory.
#[derive(Parser, Debug)]
#[command(name = "soma", version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run a SomaStack and its MemoryNamespaces in one process, on SQLite.
    Dev(dev::Dev),
    /// Store and recall memories of a running service.
    Memory(memory::Memory),
    /// Measure a running service.
    Bench(bench::Bench),
    /// Look at the infrastructure of a cluster.
    Infra(infra::Infra),
    /// Print the release.
    Version,
    /// Print a completion script, e.g. `soma completion bash > /etc/bash_completion.d/soma`.
    Completion {
        /// The shell to complete for.
        shell: Shell,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Version => println!("soma {}", env!("CARGO_PKG_VERSION")),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "soma", &mut script);
            std::io::stdout().write_all(&script)?;
        }
        Command::Dev(dev) => block_on(dev.run())?,
        Command::Memory(memory) => block_on(memory.run())?,
        Command::Infra(infra) => block_on(infra.run())?,
        Command::Bench(bench) => block_on(bench.run())?,
    }
    Ok(())
}

fn block_on(work: impl Future<Output = Result<()>>) -> Result<()> {
    // Every TLS connection of the process uses ring; a second call finds it installed, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
