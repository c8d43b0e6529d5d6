//! A real OpenFGA server that tests may stop, kill and start again.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    cache::Cache,
    exec,
    gobuild::OPENFGA,
    ports::free_port,
    server::{Program, Server, ServerError, is_ok},
    supervise::Launch,
};

/// A running server. In memory it forgets everything when it stops; on Postgres nothing.
pub type OpenFga = Server<Setup>;

/// What is OpenFGA's own.
#[derive(Debug)]
pub struct Setup {
    program: PathBuf,
    http: u16,
    grpc: u16,
    token: String,
    settings: Vec<(String, String)>,
}

impl Server<Setup> {
    /// Starts a server that keeps everything in memory and lets in who gives `token`. Builds the program first when the
    /// cache does not have it, which takes minutes and says so on standard error.
    pub async fn start(token: &str) -> Result<Self, ServerError> {
        Self::start_with(token, &[]).await
    }

    /// Starts a server with settings as OpenFGA's environment has them. Those of a Postgres database
    /// (`OPENFGA_DATASTORE_…`) are the ones that [`Self::migrate`] has prepared it with.
    pub async fn start_with(token: &str, settings: &[(String, String)]) -> Result<Self, ServerError> {
        let program = tokio::task::spawn_blocking(program).await??;
        Self::begin(async |_: &Path| {
            Ok(Setup {
                program: program.clone(),
                http: free_port()?,
                grpc: free_port()?,
                token: token.to_owned(),
                settings: settings.to_vec(),
            })
        })
        .await
    }

    /// Brings the tables of the database that `settings` name up to what this release of OpenFGA needs.
    pub async fn migrate(settings: &[(String, String)]) -> Result<(), ServerError> {
        let settings = settings.to_vec();
        let migrate = move || {
            let mut command = Command::new(program()?);
            exec::run(command.arg("migrate").envs(settings))?;
            Ok(())
        };
        tokio::task::spawn_blocking(migrate).await?
    }

    /// Its base URL, without TLS; it stays the same when the server is started again.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.program().http)
    }

    /// What clients give as bearer token.
    pub fn token(&self) -> &str {
        &self.program().token
    }
}

impl Program for Setup {
    const NAME: &'static str = "openfga";

    fn launch(&self, dir: &Path) -> Launch {
        let launch = Launch::new(Self::NAME, &self.program, Self::log(dir))
            .args(["run"])
            .env("OPENFGA_DATASTORE_ENGINE", "memory")
            .env("OPENFGA_PLAYGROUND_ENABLED", "false")
            .env("OPENFGA_METRICS_ENABLED", "false")
            .folder(dir);
        let launch = self.settings.iter().fold(launch, |launch, (name, value)| launch.env(name, value));
        launch
            .env("OPENFGA_HTTP_ADDR", format!("127.0.0.1:{}", self.http))
            .env("OPENFGA_GRPC_ADDR", format!("127.0.0.1:{}", self.grpc))
            .env("OPENFGA_AUTHN_METHOD", "preshared")
            .env("OPENFGA_AUTHN_PRESHARED_KEYS", &self.token)
    }

    async fn serves(&self, _dir: &Path) -> bool {
        is_ok(self.http, "/healthz").await
    }
}

fn program() -> Result<PathBuf, ServerError> {
    Ok(OPENFGA.ensure(&Cache::open()?)?)
}
