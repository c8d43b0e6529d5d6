//! A real Vault server that tests may stop, kill and start again. It begins empty: tests initialise and unseal it.

use std::{
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::json;
use tokio::net::TcpStream;

use crate::{
    cache::{Cache, CacheError},
    gobuild::{BuildError, VAULT},
    ports::free_port,
    rundir::RunDir,
    supervise::{Launch, SuperviseError, Supervised},
};

const ATTEMPTS: u32 = 3;
const POLL: Duration = Duration::from_millis(20);

/// Why a Vault server could not be run.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The cache cannot be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The program could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// A file or port cannot be used.
    #[error("cannot prepare the server")]
    Io(#[from] io::Error),
    /// The server ended.
    #[error(transparent)]
    Server(#[from] SuperviseError),
    /// A step in the background did not end.
    #[error("the start was interrupted")]
    Interrupted(#[from] tokio::task::JoinError),
}

/// A running server with raft storage of its own; dropping it ends the server and removes the data.
#[derive(Debug)]
pub struct Vault {
    program: PathBuf,
    port: u16,
    // Dropped in this order: the server first, its data last.
    server: Option<Supervised>,
    dir: RunDir,
}

impl Vault {
    /// Starts one that is not initialised. Builds the program first when the cache does not have it, which takes
    /// minutes and says so on standard error.
    pub async fn start() -> Result<Self, VaultError> {
        let program = tokio::task::spawn_blocking(program).await??;
        let mut attempt = 1;
        loop {
            let (dir, port) = (RunDir::new("vault")?, free_port()?);
            configure(dir.path(), port)?;
            let mut vault = Self { program: program.clone(), port, server: None, dir };
            match vault.start_again().await {
                Err(VaultError::Server(SuperviseError::Ended { said, .. }))
                    if attempt < ATTEMPTS && said.contains("address already in use") =>
                {
                    attempt += 1;
                }
                result => return result.map(|()| vault),
            }
        }
    }

    /// Its base URL, without TLS; it stays the same when the server is started again.
    pub fn url(&self) -> String {
        url(self.port)
    }

    /// Kills the server with SIGKILL, as a crash would.
    pub async fn kill(&mut self) -> Result<(), VaultError> {
        self.end(Signal::SIGKILL).await
    }

    /// Shuts the server down in order.
    pub async fn stop(&mut self) -> Result<(), VaultError> {
        self.end(Signal::SIGTERM).await
    }

    /// Starts a stopped or killed server again on the same data and port, and waits until it listens. It is sealed.
    pub async fn start_again(&mut self) -> Result<(), VaultError> {
        if self.server.is_none() {
            self.server = Some(self.launch()?);
        }
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.is_err() {
            if let Some(server) = &mut self.server {
                server.check()?;
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    fn launch(&self) -> Result<Supervised, SuperviseError> {
        let dir = self.dir.path();
        Launch::new("vault", &self.program, dir.join("vault.log"))
            .args(["server".into(), "-config".into(), config(dir)])
            .folder(dir)
            .start()
    }

    async fn end(&mut self, signal: Signal) -> Result<(), VaultError> {
        if let Some(mut server) = self.server.take() {
            server.signal(signal)?;
            tokio::task::spawn_blocking(move || server.wait()).await??;
        }
        Ok(())
    }
}

fn program() -> Result<PathBuf, VaultError> {
    Ok(VAULT.ensure(&Cache::open()?)?)
}

/// Writes the configuration of a single member, which elects itself at once.
fn configure(dir: &Path, port: u16) -> Result<(), VaultError> {
    let data = dir.join("data");
    fs::create_dir(&data)?;
    let peer = format!("{}:{}", Ipv4Addr::LOCALHOST, free_port()?);
    let settings = json!({
        "disable_mlock": true,
        "api_addr": url(port),
        "cluster_addr": format!("https://{peer}"),
        "listener": {"tcp": {
            "address": format!("{}:{port}", Ipv4Addr::LOCALHOST),
            "cluster_address": peer,
            "tls_disable": true,
        }},
        "storage": {"raft": {"path": data, "node_id": "one", "performance_multiplier": "1"}},
    });
    fs::write(config(dir), settings.to_string())?;
    Ok(())
}

fn config(dir: &Path) -> PathBuf {
    dir.join("vault.json")
}

fn url(port: u16) -> String {
    format!("http://{}:{port}", Ipv4Addr::LOCALHOST)
}
