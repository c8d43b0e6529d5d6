//! A real server of the Open Policy Agent that tests may stop, kill and start again.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{
    cache::Cache,
    gobuild::OPA,
    ports::free_port,
    server::{Program, Server, ServerError, is_ok},
    supervise::Launch,
};

/// A running server. It keeps policies in memory; over a restart it has those of its files, and of bundles that its
/// configuration persists.
pub type Opa = Server<Setup>;

/// What is OPA's own.
#[derive(Debug)]
pub struct Setup {
    program: PathBuf,
    port: u16,
    guarded: bool,
}

impl Server<Setup> {
    /// Starts a server with a configuration as OPA's documentation has it, and waits until it answers; whether it has
    /// its bundles yet is what `/health?bundles` tells. Bundles with `persist` are kept as long as the server.
    /// Builds the program first when the cache does not have it, which says so on standard error.
    pub async fn start(config: &Value) -> Result<Self, ServerError> {
        Self::start_with(config, &[]).await
    }

    /// Starts a server that also reads `files`, by name and text: policies (`.rego`) and data (`.json`, `.yaml`).
    pub async fn start_with(config: &Value, files: &[(&str, &str)]) -> Result<Self, ServerError> {
        Self::start_as(config, files, false).await
    }

    /// Starts a server whose API asks the policy `system.authz`, which is one of `files`.
    pub async fn start_guarded(config: &Value, files: &[(&str, &str)]) -> Result<Self, ServerError> {
        Self::start_as(config, files, true).await
    }

    async fn start_as(config: &Value, files: &[(&str, &str)], guarded: bool) -> Result<Self, ServerError> {
        let program = tokio::task::spawn_blocking(program).await??;
        Self::begin(async |dir: &Path| {
            fs::write(config_file(dir), config.to_string())?;
            fs::create_dir(policies(dir))?;
            for (name, text) in files {
                fs::write(policies(dir).join(name), text)?;
            }
            Ok(Setup { program: program.clone(), port: free_port()?, guarded })
        })
        .await
    }

    /// Its base URL, without TLS; it stays the same when the server is started again.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.program().port)
    }
}

impl Program for Setup {
    const NAME: &'static str = "opa";

    fn launch(&self, dir: &Path) -> Launch {
        Launch::new(Self::NAME, &self.program, Self::log(dir))
            .args(["run", "--server", "--skip-version-check"])
            .args(self.guarded.then_some("--authorization=basic"))
            .args([format!("--addr=127.0.0.1:{}", self.port)])
            .args(["--config-file".into(), config_file(dir), policies(dir)])
            .folder(dir)
    }

    async fn serves(&self, _dir: &Path) -> bool {
        is_ok(self.port, "/health").await
    }
}

fn program() -> Result<PathBuf, ServerError> {
    Ok(OPA.ensure(&Cache::open()?)?)
}

fn config_file(dir: &Path) -> PathBuf {
    dir.join("opa-config.json")
}

fn policies(dir: &Path) -> PathBuf {
    dir.join("policies")
}
