//! The memory service as its own process, with real stores behind it, for tests that kill things.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};
use soma_settings::{Environment, MemoryConfig, MemorySettings, PostgresEndpoint, SharedSettings, SslMode};
use soma_testenv::programs::program;
use soma_testenv::{Launch, Postgres, RunDir, Supervised, free_port};

/// The token of every service these tests start.
pub const TOKEN: &str = "a-token-for-runtime-tests";
/// Nothing these tests wait for takes this long.
const PATIENCE: Duration = Duration::from_mins(1);

/// A memory service that can be killed and started again on the same store and ports.
pub struct MemoryService {
    /// Where it serves HTTP, such as `http://127.0.0.1:40001`.
    pub url: String,
    client: Client,
    program: PathBuf,
    args: Vec<String>,
    folder: RunDir,
    process: Option<Supervised>,
}

impl MemoryService {
    /// A service on an SQLite file, not started yet.
    pub fn on_sqlite() -> anyhow::Result<Self> {
        let folder = RunDir::new("memory")?;
        let file = folder.path().join("memory.db").display().to_string();
        Self::new(folder, program("soma-memory")?, vec!["--sqlite".into(), file])
    }

    /// A service on a fresh database of a Postgres server, not started yet.
    pub async fn on_postgres(server: &Postgres) -> anyhow::Result<Self> {
        let uri = server.create_database().await?;
        let database = uri.rsplit('/').next().and_then(|end| end.split('?').next()).unwrap_or_default();
        let folder = RunDir::new("memory")?;
        let config = MemoryConfig {
            memory: soma_settings::Memory::resolve(
                Environment::Dev,
                &SharedSettings::default(),
                &MemorySettings::default(),
            )?,
            postgres: PostgresEndpoint {
                host: "127.0.0.1".into(),
                port: server.port(),
                database: database.into(),
                sslmode: SslMode::Disable,
            },
        };
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text);
        write("memory.json", &config.payload())?;
        write("username", server.user())?;
        write("password", "trusted")?;
        let path = |name: &str| folder.path().join(name).display().to_string();
        let args = vec![
            "--config".into(),
            path("memory.json"),
            "--postgres-secret-dir".into(),
            folder.path().display().to_string(),
        ];
        Self::new(folder, program("soma-memory")?, args)
    }

    /// A service on an SQLite file in a file system of `megabytes`, of which `filler` are taken by the file `filler`.
    pub fn on_small_disk(megabytes: u32, filler: u32) -> anyhow::Result<Self> {
        let folder = RunDir::new("memory")?;
        let disk = folder.path().join("disk");
        std::fs::create_dir(&disk)?;
        // The file system exists only in the process's own mount namespace: nothing is left to unmount.
        let script = format!(
            "mount -t tmpfs -o size={megabytes}m tmpfs {disk} && head -c {filler}M /dev/zero > {disk}/filler && \
             exec \"$@\"",
            disk = disk.display()
        );
        let mut args: Vec<String> = ["-rm", "sh", "-ec", &script, "sh"].map(str::to_owned).into();
        args.push(program("soma-memory")?.display().to_string());
        args.extend(["--sqlite".into(), disk.join("memory.db").display().to_string()]);
        Self::new(folder, "unshare".into(), args)
    }

    fn new(folder: RunDir, program: PathBuf, mut args: Vec<String>) -> anyhow::Result<Self> {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port)).to_string();
        let (http, grpc) = (address(free_port()?), address(free_port()?));
        let cache = soma_testenv::cache::Cache::open()?;
        let model = soma_testenv::model::ensure(&cache)?;
        args.extend(["--http".into(), http.clone(), "--grpc".into(), grpc]);
        args.extend(["--model-dir".into(), model.display().to_string()]);
        let client = client()?;
        Ok(Self { url: format!("http://{http}"), client, program, args, folder, process: None })
    }

    /// Starts the process without waiting for it.
    pub fn launch(&mut self) -> anyhow::Result<()> {
        let launch = Launch::new("soma-memory", &self.program, self.folder.path().join("log"))
            .args(&self.args)
            .env("SOMA_API_TOKEN", TOKEN);
        self.process = Some(launch.start()?);
        Ok(())
    }

    /// Starts the process and waits until it is ready.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        self.launch()?;
        self.wait_for("/readyz", 200).await
    }

    /// Waits until a route answers with a status. Fails when the process ends or after a minute.
    pub async fn wait_for(&mut self, path: &str, status: u16) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            if let Some(process) = &mut self.process {
                process.check()?;
            }
            if let Ok(response) = self.request("GET", path)?.send().await
                && response.status() == status
            {
                return Ok(());
            }
            ensure!(start.elapsed() < PATIENCE, "{path} did not answer {status} within {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Kills the process with SIGKILL.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill()?;
        }
        Ok(())
    }

    /// The process id.
    pub fn pid(&self) -> anyhow::Result<u32> {
        Ok(self.process.as_ref().context("the service is not running")?.pid())
    }

    /// A file in the service's folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where the process sees `path`, a path below the service's folder.
    pub fn inside(&self, path: &str) -> anyhow::Result<PathBuf> {
        let outside = self.file(path);
        Ok(Path::new("/proc").join(self.pid()?.to_string()).join("root").join(outside.strip_prefix("/")?))
    }

    /// A request with the token.
    pub fn request(&self, method: &str, path: &str) -> anyhow::Result<RequestBuilder> {
        let url = format!("{}{path}", self.url);
        Ok(self.client.request(method.parse()?, url).bearer_auth(TOKEN))
    }

    /// Stores a text under a key; the status and the body of the answer.
    pub async fn store(&self, key: &str, content: &str) -> anyhow::Result<(u16, Value)> {
        let body = json!({ "key": key, "payload": { "content": content } });
        answer(self.request("POST", "/store")?.json(&body)).await
    }

    /// What a batch of queries recalls first.
    pub async fn recall_first(&self, queries: &[&str]) -> anyhow::Result<Vec<String>> {
        let body = json!({ "queries": queries, "top_k": 1 });
        let (status, body) = answer(self.request("POST", "/recall_batch")?.json(&body)).await?;
        ensure!(status == 200, "recall answered {status}: {body}");
        let batches = body["batches"].as_array().context("no batches")?;
        Ok(batches.iter().map(|hits| hits[0]["content"].as_str().unwrap_or_default().to_owned()).collect())
    }
}

/// An HTTP client that gives up after a minute.
pub fn client() -> anyhow::Result<Client> {
    // Without a provider the client cannot be made, even for plain HTTP; a second installation is refused.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(Client::builder().timeout(PATIENCE).build()?)
}

/// The status and the JSON of an answer.
pub async fn answer(request: RequestBuilder) -> anyhow::Result<(u16, Value)> {
    let response = request.send().await?;
    Ok((response.status().as_u16(), response.json().await?))
}
