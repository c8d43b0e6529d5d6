//! A real PostgreSQL server that tests may stop, kill and start again.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use nix::{sys::signal::Signal, unistd::User};

use crate::{
    exec,
    packages::install_command,
    ports::free_port,
    server::{Program, Server, ServerError},
    supervise::Launch,
};

const ADMIN: &str = "soma";

/// A running server with its own data folder.
pub type Postgres = Server<Setup>;

/// What is PostgreSQL's own.
#[derive(Debug)]
pub struct Setup {
    bin: PathBuf,
    user: Option<String>,
    port: u16,
    durable: bool,
    databases: AtomicU32,
}

impl Server<Setup> {
    /// Starts a server that does not flush to disk: a killed server loses nothing, a lost machine would.
    pub async fn start() -> Result<Self, ServerError> {
        Self::start_with(false).await
    }

    /// Starts a server with PostgreSQL's own durability, for measurements.
    pub async fn start_durable() -> Result<Self, ServerError> {
        Self::start_with(true).await
    }

    /// A connection URI for the database `postgres`, with all rights.
    pub fn uri(&self) -> String {
        self.program().uri("postgres")
    }

    /// The TCP port on 127.0.0.1; it stays the same when the server is started again.
    pub fn port(&self) -> u16 {
        self.program().port
    }

    /// The name of the superuser; connections from this machine need no password.
    pub fn user(&self) -> &'static str {
        ADMIN
    }

    /// Makes an empty database and returns its connection URI, so that tests can share one server.
    pub async fn create_database(&self) -> Result<String, ServerError> {
        let name = format!("test_{}", self.program().databases.fetch_add(1, Ordering::Relaxed));
        self.psql(&format!("CREATE DATABASE {name}")).await?;
        Ok(self.program().uri(&name))
    }

    /// Runs one SQL statement as the superuser and returns what `psql` prints, unaligned and without headers.
    pub async fn psql(&self, sql: &str) -> Result<String, ServerError> {
        self.program().psql(sql).await
    }

    async fn start_with(durable: bool) -> Result<Self, ServerError> {
        let bin = find_programs().ok_or_else(|| ServerError::NotInstalled {
            name: "PostgreSQL",
            remedy: format!(
                "{}, or set SOMA_POSTGRES_BIN to its bin folder",
                install_command(&["postgresql-15"])
            ),
        })?;
        let user = unprivileged_user()?;
        Self::begin(async |dir: &Path| {
            prepare(dir, &bin, user.as_ref()).await?;
            Ok(Setup {
                bin: bin.clone(),
                user: user.as_ref().map(|user| user.name.clone()),
                port: free_port()?,
                durable,
                databases: AtomicU32::new(0),
            })
        })
        .await
    }
}

impl Setup {
    fn uri(&self, database: &str) -> String {
        format!("postgres://{ADMIN}@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    async fn psql(&self, sql: &str) -> Result<String, ServerError> {
        let mut command = Command::new(self.bin.join("psql"));
        let database = self.uri("postgres");
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &database, "-c", sql]);
        Ok(tokio::task::spawn_blocking(move || exec::run(&mut command)).await??)
    }
}

impl Program for Setup {
    const NAME: &'static str = "postgres";
    // Open sessions are closed.
    const STOP: Signal = Signal::SIGINT;
    // PostgreSQL's immediate shutdown: it ends its children and frees shared memory, which SIGKILL would leave.
    const DROP: Signal = Signal::SIGQUIT;
    // Sessions of a killed server end by themselves, a moment after it, and hold its shared memory until then.
    const TOO_EARLY: Option<&'static str> = Some("is still in use");

    fn launch(&self, dir: &Path) -> Launch {
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
        Launch::new(Self::NAME, self.bin.join("postgres"), Self::log(dir))
            .args([std::ffi::OsString::from("-D"), data(dir).into()])
            .args(settings.into_iter().flat_map(|setting| ["-c".to_owned(), setting]))
            .user(self.user.as_deref())
            .folder(&data(dir))
    }

    async fn serves(&self, _dir: &Path) -> bool {
        self.psql("SELECT 1").await.is_ok()
    }
}

fn data(dir: &Path) -> PathBuf {
    dir.join("data")
}

/// Makes a fresh data folder in `dir`, owned by `user`.
async fn prepare(dir: &Path, bin: &Path, user: Option<&User>) -> Result<(), ServerError> {
    let data = data(dir);
    fs::create_dir(&data)?;
    let mut initdb = match user {
        None => Command::new(bin.join("initdb")),
        Some(user) => {
            nix::unistd::chown(&data, Some(user.uid), Some(user.gid))?;
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
    Ok(())
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
fn unprivileged_user() -> Result<Option<User>, ServerError> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        if let Some(user) = User::from_name(name)? {
            return Ok(Some(user));
        }
    }
    Err(ServerError::NoUser)
}
