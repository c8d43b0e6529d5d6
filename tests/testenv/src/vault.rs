//! A real Vault server that tests may stop, kill and start again. It begins empty: tests initialise and unseal it.

use std::{
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use serde_json::json;

use crate::{
    cache::Cache,
    gobuild::VAULT,
    ports::free_port,
    server::{Program, Server, ServerError, listens},
    supervise::Launch,
};

/// A running server with raft storage of its own. It is sealed whenever it was started.
pub type Vault = Server<Setup>;

/// What is Vault's own.
#[derive(Debug)]
pub struct Setup {
    program: PathBuf,
    port: u16,
}

impl Server<Setup> {
    /// Starts one that is not initialised. Builds the program first when the cache does not have it, which takes
    /// minutes and says so on standard error.
    pub async fn start() -> Result<Self, ServerError> {
        let program = tokio::task::spawn_blocking(program).await??;
        Self::begin(async |dir: &Path| {
            let port = free_port()?;
            configure(dir, port)?;
            Ok(Setup { program: program.clone(), port })
        })
        .await
    }

    /// Its base URL, without TLS; it stays the same when the server is started again.
    pub fn url(&self) -> String {
        url(self.program().port)
    }
}

impl Program for Setup {
    const NAME: &'static str = "vault";

    fn launch(&self, dir: &Path) -> Launch {
        Launch::new(Self::NAME, &self.program, Self::log(dir))
            .args(["server".into(), "-config".into(), config(dir)])
            .folder(dir)
    }

    async fn serves(&self, _dir: &Path) -> bool {
        listens(self.port).await
    }
}

fn program() -> Result<PathBuf, ServerError> {
    Ok(VAULT.ensure(&Cache::open()?)?)
}

/// Writes the configuration of a single member, which elects itself at once.
fn configure(dir: &Path, port: u16) -> io::Result<()> {
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
    fs::write(config(dir), settings.to_string())
}

fn config(dir: &Path) -> PathBuf {
    dir.join("vault.json")
}

fn url(port: u16) -> String {
    format!("http://{}:{port}", Ipv4Addr::LOCALHOST)
}
