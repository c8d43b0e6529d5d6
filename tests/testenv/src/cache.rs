//! The cache of what takes long to make: built programs, the embedding model, image layers.
//!
//! Every entry's name carries its version or the hash of its inputs, so an entry never goes stale; it is made under
//! a file lock and renamed into place, so that a reader sees all of it or nothing.

use std::{
    env,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

/// Why the cache cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Neither `SOMA_CACHE` nor `XDG_CACHE_HOME` nor `HOME` is set.
    #[error("no cache folder: set SOMA_CACHE, XDG_CACHE_HOME or HOME")]
    NoHome,
    /// A file of the cache cannot be read or written.
    #[error("cannot use {path} in the cache")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The cache folder: `SOMA_CACHE`, or `soma` in the user's cache folder.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The cache named by the environment.
    pub fn open() -> Result<Self, CacheError> {
        let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        variable("SOMA_CACHE")
            .or_else(|| variable("XDG_CACHE_HOME").map(|home| home.join("soma")))
            .or_else(|| variable("HOME").map(|home| home.join(".cache/soma")))
            .map(Self::at)
            .ok_or(CacheError::NoHome)
    }

    /// A cache in `root`.
    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// The path of an entry, whether it exists or not.
    pub fn path(&self, entry: &str) -> PathBuf {
        self.root.join(entry)
    }

    /// The path of `entry`, which `make` writes to the path it is given when it is not there yet. Two processes
    /// that ask at once make it once.
    pub fn ensure<E: From<CacheError>>(
        &self,
        entry: &str,
        make: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<PathBuf, E> {
        let path = self.path(entry);
        if path.exists() {
            return Ok(path);
        }
        let _lock = self.lock(entry)?;
        if path.exists() {
            return Ok(path);
        }
        let partial = path
            .with_file_name(format!("{}.partial", path.file_name().unwrap_or_default().to_string_lossy()));
        remove(&partial)?;
        if let Err(error) = make(&partial) {
            remove(&partial)?;
            return Err(error);
        }
        fs::rename(&partial, &path).map_err(|source| CacheError::Io { path: path.clone(), source })?;
        Ok(path)
    }

    fn lock(&self, entry: &str) -> Result<File, CacheError> {
        let path = self.root.join("locks").join(entry.replace('/', "_"));
        let target = self.path(entry);
        let folders = [path.parent(), target.parent()];
        for folder in folders.into_iter().flatten() {
            fs::create_dir_all(folder).map_err(|source| CacheError::Io { path: folder.into(), source })?;
        }
        let io = |source| CacheError::Io { path: path.clone(), source };
        let file = File::create(&path).map_err(io)?;
        file.lock().map_err(io)?;
        Ok(file)
    }
}

/// The first 12 hexadecimal digits of the SHA-256 over `parts`, each preceded by its length.
pub fn fingerprint<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    HEXLOWER.encode(&hash.finalize())[..12].to_owned()
}

fn remove(path: &Path) -> Result<(), CacheError> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(CacheError::Io { path: path.into(), source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn two_that_ask_at_once_make_an_entry_once() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().into());
        let made = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    cache.ensure("bin/x-1", |path| {
                        made.fetch_add(1, Ordering::SeqCst);
                        fs::write(path, "whole")
                            .map_err(|source| CacheError::Io { path: path.into(), source })
                    })
                });
            }
        });
        assert_eq!(made.load(Ordering::SeqCst), 1);
        assert_eq!(fs::read_to_string(cache.path("bin/x-1")).unwrap(), "whole");
    }

    #[test]
    fn a_failed_make_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().into());
        let result = cache.ensure("bin/x-1", |path| {
            fs::write(path, "half").unwrap();
            Err(CacheError::NoHome)
        });
        assert!(result.is_err());
        assert_eq!(fs::read_dir(folder.path().join("bin")).unwrap().count(), 0);
    }

    #[test]
    fn parts_are_told_apart_by_their_length() {
        assert_ne!(fingerprint([b"ab".as_slice(), b"c"]), fingerprint([b"a".as_slice(), b"bc"]));
    }
}
