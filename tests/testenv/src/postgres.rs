//! A real PostgreSQL server that tests may stop, kill and start again.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use nix::{sys::signal::Signal, unistd::User};

use crate::{
    exec::{self, ExecError},
    ports::free_port,
    rundir::RunDir,
    supervise::{Launch, SuperviseError, Supervised},
};

const ADMIN: &str = "soma";
const ATTEMPTS: u32 = 3;
const POLL: Duration = Duration::from_millis(20);

/// Why a PostgreSQL server could not be run.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// The server's programs are not installed.
    #[error(
        "no PostgreSQL server found: install it with `apt-get install -y postgresql-15`, or set SOMA_POSTGRES_BIN to its bin folder"
    )]
    NotInstalled,
    /// PostgreSQL refuses to run as root and there is no other user to run it as.
    #[error("PostgreSQL does not run as root, and neither user `postgres` nor `nobody` exists")]
    NoUser,
    /// A file or port cannot be used.
    #[error("cannot prepare the server")]
    Io(#[from] io::Error),
    /// The data folder cannot be given to the server's user.
    #[error("cannot give the data folder away")]
    Owner(#[from] nix::Error),
    /// `initdb` or `psql` failed.
    #[error(transparent)]
    Program(#[from] ExecError),
    /// The server ended.
    #[error(transparent)]
    Server(#[from] SuperviseError),
    /// A step in the background did not end.
    #[error("the start was interrupted")]
    Interrupted(#[from] tokio::task::JoinError),
}

/// A running server with its own data folder; dropping it ends the server and removes the data.
#[derive(Debug)]
pub struct Postgres {
    bin: PathBuf,
    user: Option<String>,
    port: u16,
    durable: bool,
    databases: AtomicU32,
    server: Option<Supervised>,
    dir: RunDir,
}

impl Postgres {
    /// Starts a server that does not flush to disk: a killed server loses nothing, a lost machine would.
    pub async fn start() -> Result<Self, PostgresError> {
        Self::start_with(false).await
    }

    /// Starts a server with PostgreSQL's own durability, for measurements.
    pub async fn start_durable() -> Result<Self, PostgresError> {
        Self::start_with(true).await
    }

    /// A connection URI for the database `postgres`, with all rights.
    pub fn uri(&self) -> String {
        self.uri_of("postgres")
    }

    /// The TCP port on 127.0.0.1; it stays the same when the server is started again.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The name of the superuser; connections from this machine need no password.
    pub fn user(&self) -> &'static str {
        ADMIN
    }

    /// Makes an empty database and returns its connection URI, so that tests can share one server.
    pub async fn create_database(&self) -> Result<String, PostgresError> {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.psql(&format!("CREATE DATABASE {name}")).await?;
        Ok(self.uri_of(&name))
    }

    /// Runs one SQL statement as the superuser and returns what `psql` prints, unaligned and without headers.
    pub async fn psql(&self, sql: &str) -> Result<String, PostgresError> {
        let mut command = Command::new(self.bin.join("psql"));
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &self.uri(), "-c", sql]);
        Ok(tokio::task::spawn_blocking(move || exec::run(&mut command)).await??)
    }

    /// Kills the server and its sessions with SIGKILL, as a crash would.
    pub async fn kill(&mut self) -> Result<(), PostgresError> {
        self.end(Signal::SIGKILL).await
    }

    /// Shuts the server down in order; open sessions are closed.
    pub async fn stop(&mut self) -> Result<(), PostgresError> {
        self.end(Signal::SIGINT).await
    }

    /// Starts a stopped or killed server again on the same data and port, and waits until it accepts queries.
    pub async fn start_again(&mut self) -> Result<(), PostgresError> {
        if self.server.is_none() {
            self.server = Some(self.launch()?);
        }
        self.wait_ready().await
    }

    async fn start_with(durable: bool) -> Result<Self, PostgresError> {
        let bin = find_programs().ok_or(PostgresError::NotInstalled)?;
        let user = unprivileged_user()?;
        let mut attempt = 1;
        loop {
            let dir = prepare(&bin, user.as_ref()).await?;
            let user = user.as_ref().map(|user| user.name.clone());
            let port = free_port()?;
            let databases = AtomicU32::new(0);
            let mut postgres = Self { bin: bin.clone(), user, port, durable, databases, server: None, dir };
            match postgres.start_again().await {
                Err(PostgresError::Server(SuperviseError::Ended { said, .. }))
                    if attempt < ATTEMPTS && said.contains("Address already in use") =>
                {
                    attempt += 1;
                }
                result => return result.map(|()| postgres),
            }
        }
    }

    fn launch(&self) -> Result<Supervised, SuperviseError> {
        let dir = self.dir.path();
        let mut settings = vec![
            format!("port={}", self.port),
            "listen_addresses=127.0.0.1".to_owned(),
            "unix_socket_directories=".to_owned(),
            "max_connections=200".to_owned(),
        ];
        if !self.durable {
            settings
                .extend(["fsync=off", "full_page_writes=off", "synchronous_commit=off"].map(str::to_owned));
        }
        Launch::new("postgres", self.bin.join("postgres"), dir.join("postgres.log"))
            .args([std::ffi::OsString::from("-D"), data(dir).into()])
            .args(settings.into_iter().flat_map(|setting| ["-c".to_owned(), setting]))
            .user(self.user.as_deref())
            .folder(&data(dir))
            .start()
    }

    async fn wait_ready(&mut self) -> Result<(), PostgresError> {
        while self.psql("SELECT 1").await.is_err() {
            if let Some(server) = &mut self.server {
                server.check()?;
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    async fn end(&mut self, signal: Signal) -> Result<(), PostgresError> {
        if let Some(mut server) = self.server.take() {
            server.signal(signal)?;
            tokio::task::spawn_blocking(move || server.wait()).await??;
        }
        Ok(())
    }

    fn uri_of(&self, database: &str) -> String {
        format!("postgres://{ADMIN}@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            // PostgreSQL's immediate shutdown: it ends its children and frees shared memory, which SIGKILL would leave.
            if server.signal(Signal::SIGQUIT).is_ok() {
                // Whatever is left is killed when the process handle is dropped.
                let _ = server.wait();
            }
        }
    }
}

fn data(dir: &Path) -> PathBuf {
    dir.join("data")
}

/// A folder with a fresh data folder in it, owned by `user`.
async fn prepare(bin: &Path, user: Option<&User>) -> Result<RunDir, PostgresError> {
    let dir = RunDir::new("postgres")?;
    let (data, log) = (data(dir.path()), dir.path().join("postgres.log"));
    fs::create_dir(&data)?;
    fs::File::create(&log)?;
    if let Some(user) = user {
        for path in [&data, &log] {
            nix::unistd::chown(path, Some(user.uid), Some(user.gid))?;
        }
    }
    let mut initdb = match user {
        None => Command::new(bin.join("initdb")),
        Some(user) => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", &user.name, "--regid", &user.name, "--init-groups", "--"]);
            command.arg(bin.join("initdb"));
            command
        }
    };
    initdb
        .current_dir(&data)
        .args(["--username", ADMIN, "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--pgdata"])
        .arg(&data);
    tokio::task::spawn_blocking(move || exec::run(&mut initdb)).await??;
    Ok(dir)
}

/// The folder of the newest installed server's programs.
pub(crate) fn find_programs() -> Option<PathBuf> {
    if let Some(bin) = std::env::var_os("SOMA_POSTGRES_BIN") {
        return Some(PathBuf::from(bin));
    }
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, bin)| bin.join("initdb").is_file())
        .collect();
    versions.sort();
    versions.pop().map(|(_, bin)| bin)
}

/// The user to run the server as: none when this process is not root.
fn unprivileged_user() -> Result<Option<User>, PostgresError> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        if let Some(user) = User::from_name(name)? {
            return Ok(Some(user));
        }
    }
    Err(PostgresError::NoUser)
}
