//! A real etcd server, a cluster of one, that tests may stop, kill and start again.

use std::{
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    cache::Cache,
    exec,
    gobuild::{ETCD, ETCDCTL},
    ports::free_port,
    server::{Program, Server, ServerError, is_ok},
    supervise::Launch,
};

/// A running server with data of its own, which it does not flush to disk: a killed server loses nothing, a lost machine
/// would. It begins empty, without users.
pub type Etcd = Server<Setup>;

/// What is etcd's own.
#[derive(Debug)]
pub struct Setup {
    program: PathBuf,
    commands: PathBuf,
    ports: Ports,
}

/// Where an etcd server listens on 127.0.0.1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    /// For clients.
    pub client: u16,
    /// For other members.
    pub peer: u16,
}

impl Server<Setup> {
    /// Starts a server and waits until it serves. Builds the programs first when the cache does not have them.
    pub async fn start() -> Result<Self, ServerError> {
        let (program, commands) = tokio::task::spawn_blocking(|| {
            let cache = Cache::open()?;
            Ok::<_, ServerError>((ETCD.ensure(&cache)?, ETCDCTL.ensure(&cache)?))
        })
        .await??;
        Self::begin(async |_: &Path| {
            let ports = Ports::free()?;
            Ok(Setup { program: program.clone(), commands: commands.clone(), ports })
        })
        .await
    }

    /// The URL for clients, without TLS; it stays the same when the server is started again.
    pub fn url(&self) -> String {
        url(self.program().ports.client)
    }

    /// Runs `etcdctl` on this server, in a folder that goes with it, and returns what it prints.
    pub async fn ctl(&self, args: &[&str]) -> Result<String, ServerError> {
        self.run("etcdctl", args).await
    }

    /// Runs `etcdutl`, which works on files, in the folder of [`Server::ctl`], and returns what it prints.
    pub async fn utl(&self, args: &[&str]) -> Result<String, ServerError> {
        self.run("etcdutl", args).await
    }

    async fn run(&self, name: &str, args: &[&str]) -> Result<String, ServerError> {
        let mut command = Command::new(&self.program().commands);
        command.arg0(name).args(args).env("ETCDCTL_ENDPOINTS", self.url()).current_dir(self.dir());
        Ok(tokio::task::spawn_blocking(move || exec::run(&mut command)).await??)
    }
}

impl Program for Setup {
    const NAME: &'static str = "etcd";

    fn launch(&self, dir: &Path) -> Launch {
        launch(&self.program, dir, self.ports)
    }

    async fn serves(&self, _dir: &Path) -> bool {
        is_ok(self.ports.client, "/readyz").await
    }
}

impl Ports {
    /// Two that nothing listens on.
    pub(crate) fn free() -> std::io::Result<Self> {
        Ok(Self { client: free_port()?, peer: free_port()? })
    }
}

/// How a cluster of one is started with its data and its log in `dir`.
pub(crate) fn launch(program: &Path, dir: &Path, ports: Ports) -> Launch {
    let (client, peer) = (url(ports.client), url(ports.peer));
    Launch::new("etcd", program, Setup::log(dir))
        .args(["--name=test", "--unsafe-no-fsync", "--logger=zap", "--log-level=warn"])
        .args([format!("--data-dir={}", dir.join("etcd").display())])
        .args([format!("--listen-client-urls={client}"), format!("--advertise-client-urls={client}")])
        .args([format!("--listen-peer-urls={peer}"), format!("--initial-advertise-peer-urls={peer}")])
        .args([format!("--initial-cluster=test={peer}")])
}

/// The URL of a port of an etcd server.
pub(crate) fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}
