//! A real Redis server that tests may stop, kill and start again.

use std::{
    fmt::Write as _,
    fs,
    hash::{BuildHasher, Hasher, RandomState},
    io,
    path::Path,
    process::Command,
};

use crate::{
    exec::{self, ExecError, on_path},
    packages::{FOR_REDIS, install_command},
    ports::free_port,
    server::{Program, Server, ServerError},
    supervise::Launch,
};

const SERVER: &str = "redis-server";

/// A running server that writes every change to its append-only file, so that a killed server loses nothing it
/// acknowledged. Clients give a password, as the user `default`.
pub type Redis = Server<Setup>;

/// What is Redis' own.
#[derive(Debug)]
pub struct Setup {
    port: u16,
    bus_port: Option<u16>,
    password: String,
}

impl Server<Setup> {
    /// Starts a server by itself with a random password.
    pub async fn start() -> Result<Self, ServerError> {
        Self::start_with(random_password(), false).await
    }

    /// Starts a server in cluster mode that knows no other and has no slots yet. The members of a cluster share their
    /// password.
    pub async fn start_node(password: &str) -> Result<Self, ServerError> {
        Self::start_with(password.to_owned(), true).await
    }

    /// The URL for clients, with the password and without TLS; it stays the same when the server is started again.
    pub fn url(&self) -> String {
        format!("redis://default:{}@127.0.0.1:{}", self.password(), self.port())
    }

    /// The port for clients on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.program().port
    }

    /// The port for other members, when in cluster mode: the third argument of `CLUSTER MEET`.
    pub fn bus_port(&self) -> Option<u16> {
        self.program().bus_port
    }

    /// The password of the user `default`, which may do everything.
    pub fn password(&self) -> &str {
        &self.program().password
    }

    /// Runs `redis-cli` with the password and returns what it prints; a refusal is an error.
    pub async fn cli(&self, args: &[&str]) -> Result<String, ServerError> {
        Ok(self.program().cli(args).await??)
    }

    async fn start_with(password: String, cluster: bool) -> Result<Self, ServerError> {
        if !on_path(SERVER) {
            let remedy = install_command(&FOR_REDIS.map(|needed| needed.package));
            return Err(ServerError::NotInstalled { name: "Redis", remedy });
        }
        Self::begin(async |dir: &Path| {
            let bus_port = if cluster { Some(free_port()?) } else { None };
            let setup = Setup { port: free_port()?, bus_port, password: password.clone() };
            setup.configure(dir)?;
            Ok(setup)
        })
        .await
    }
}

impl Setup {
    fn configure(&self, dir: &Path) -> io::Result<()> {
        let Self { port, bus_port, password } = self;
        let data = dir.join("data");
        fs::create_dir(&data)?;
        let mut settings = format!(
            "bind 127.0.0.1\nport {port}\ndir \"{}\"\nrequirepass {password}\nmasterauth {password}\nappendonly yes\nsave \"\"\n",
            data.display()
        );
        if let Some(bus_port) = bus_port {
            // Writing to a string cannot fail.
            let _ = write!(
                settings,
                "cluster-enabled yes\ncluster-port {bus_port}\ncluster-config-file nodes.conf\ncluster-node-timeout 2000\n"
            );
        }
        fs::write(dir.join("redis.conf"), settings)
    }

    async fn cli(&self, args: &[&str]) -> Result<Result<String, ExecError>, tokio::task::JoinError> {
        let mut command = Command::new("redis-cli");
        command.args(["-e", "-h", "127.0.0.1", "-p", &self.port.to_string()]).args(args);
        command.env("REDISCLI_AUTH", &self.password);
        tokio::task::spawn_blocking(move || exec::run(&mut command)).await
    }
}

impl Program for Setup {
    const NAME: &'static str = "redis";

    fn launch(&self, dir: &Path) -> Launch {
        Launch::new(Self::NAME, SERVER, Self::log(dir)).args([dir.join("redis.conf")]).folder(dir)
    }

    async fn serves(&self, _dir: &Path) -> bool {
        self.cli(&["PING"]).await.is_ok_and(|answer| answer.is_ok_and(|said| said == "PONG"))
    }
}

fn random_password() -> String {
    // Seeded by the system for every process.
    [0, 1].map(|_| format!("{:016x}", RandomState::new().build_hasher().finish())).concat()
}
