//! `soma-operator backup`: what the Jobs of the backups run. See `infra::backup` for the Jobs themselves.

mod folder;

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use k8s_openapi::jiff::Timestamp;

pub use folder::{Folder, FolderError, LONGEST, Record};

use crate::infra::{etcd_snapshot, vault_snapshot};

/// Takes a backup, or completes one that another program took.
#[derive(Subcommand)]
pub enum Command {
    /// Make a folder for a backup that another program takes.
    Begin {
        #[command(flatten)]
        place: Place,
        /// File to write the path of the folder to.
        #[arg(long)]
        note: PathBuf,
    },
    /// Complete a backup that another program took, and remove the oldest.
    Keep {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        end: End,
        /// File with the path of the folder.
        #[arg(long)]
        note: PathBuf,
    },
    /// Take a snapshot of etcd.
    Etcd {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        end: End,
        /// Base URL of etcd.
        #[arg(long)]
        url: String,
        /// File with the password of `root`: etcd gives a snapshot to nobody else.
        #[arg(long)]
        password_file: PathBuf,
    },
    /// Take a snapshot of Vault.
    Vault {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        end: End,
        /// Base URL of Vault.
        #[arg(long)]
        url: String,
        /// Role of Vault's Kubernetes authentication to log in with.
        #[arg(long)]
        role: String,
        /// File with a token of the service account.
        #[arg(long)]
        token_file: PathBuf,
    },
}

/// Where the backups are.
#[derive(Args)]
pub struct Place {
    /// Folder with the backups.
    #[arg(long)]
    folder: PathBuf,
    /// The component they are of.
    #[arg(long)]
    component: String,
}

/// What happens once a backup is complete.
#[derive(Args)]
pub struct End {
    /// How many stay.
    #[arg(long)]
    keep: u16,
    /// File to write the record to, besides the backup itself.
    #[arg(long)]
    report: Option<PathBuf>,
}

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error("cannot take a snapshot of etcd")]
    Etcd(#[from] etcd_snapshot::SnapshotError),
    #[error("cannot take a snapshot of Vault")]
    Vault(#[from] vault_snapshot::SnapshotError),
    #[error("cannot make an HTTP client")]
    Http(#[source] reqwest::Error),
}

/// Runs one of the commands.
pub async fn run(command: Command) -> Result<(), BackupError> {
    let http = reqwest::Client::builder().build().map_err(BackupError::Http)?;
    match command {
        Command::Begin { place, note } => {
            let folder = place.folder();
            let partial = folder.begin(Timestamp::now())?;
            let text = partial.to_string_lossy();
            fs::write(&note, text.as_bytes()).map_err(|error| folder.failed("write", &note, error))?;
            Ok(())
        }
        Command::Keep { place, end, note } => {
            let folder = place.folder();
            let partial = read(&folder, &note)?;
            end.keep(&folder, Path::new(&partial))
        }
        Command::Etcd { place, end, url, password_file } => {
            let folder = place.folder();
            let password = read(&folder, &password_file)?;
            let partial = folder.begin(Timestamp::now())?;
            let taken = etcd_snapshot::take(&http, &url, &password, &partial).await;
            end.complete(&folder, &partial, taken.map_err(BackupError::from))
        }
        Command::Vault { place, end, url, role, token_file } => {
            let folder = place.folder();
            let jwt = read(&folder, &token_file)?;
            let partial = folder.begin(Timestamp::now())?;
            let taken = vault_snapshot::take(&http, &url, &role, &jwt, &partial).await;
            end.complete(&folder, &partial, taken.map_err(BackupError::from))
        }
    }
}

impl Place {
    fn folder(&self) -> Folder<'_> {
        Folder { path: &self.folder, component: &self.component }
    }
}

impl End {
    fn keep(&self, folder: &Folder<'_>, partial: &Path) -> Result<(), BackupError> {
        let record = folder.keep(partial, self.keep, Timestamp::now())?;
        let text = serde_json::to_string(&record).unwrap_or_default();
        println!("{text}");
        if let Some(report) = &self.report {
            fs::write(report, text).map_err(|error| folder.failed("write", report, error))?;
        }
        Ok(())
    }

    /// Completes a backup that was taken; one that was not leaves nothing behind.
    fn complete(
        &self,
        folder: &Folder<'_>,
        partial: &Path,
        taken: Result<(), BackupError>,
    ) -> Result<(), BackupError> {
        match taken.and_then(|()| self.keep(folder, partial)) {
            Err(error) => {
                // The first failure is the one to tell.
                let _ = folder.drop(partial);
                Err(error)
            }
            done => done,
        }
    }
}

fn read(folder: &Folder<'_>, path: &Path) -> Result<String, FolderError> {
    let text = fs::read_to_string(path).map_err(|error| folder.failed("read", path, error))?;
    Ok(text.trim().to_owned())
}
