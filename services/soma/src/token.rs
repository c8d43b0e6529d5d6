//! The bearer token a laptop keeps in `.soma/token`.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use data_encoding::HEXLOWER;

/// The token kept in a folder, where there is one.
pub fn read(folder: &Path) -> Result<Option<String>> {
    let path = folder.join("token");
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim().to_owned()).filter(|token| !token.is_empty())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// The token kept in a folder, made at the first call: 256 random bits, readable by its owner only.
pub fn read_or_create(folder: &Path) -> Result<String> {
    if let Some(token) = read(folder)? {
        return Ok(token);
    }
    let mut bytes = [0_u8; 32];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .context("no randomness")?;
    let token = HEXLOWER.encode(&bytes);
    let path = folder.join("token");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    writeln!(file, "{token}")?;
    file.sync_all()?;
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_token_is_made_once_and_is_private() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()).unwrap(), None);
        let token = read_or_create(folder.path()).unwrap();
        assert_eq!(token.len(), 64);
        assert_eq!(read_or_create(folder.path()).unwrap(), token);
        let mode = std::fs::metadata(folder.path().join("token")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
