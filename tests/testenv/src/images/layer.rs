//! One layer of an image: a tar of files, the same bytes for the same inputs.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use crate::{
    cache::{Cache, fingerprint},
    images::ImageError,
};

/// What stands at a path of the layer.
#[derive(Clone, Debug)]
enum Entry {
    Folder { mode: u32, owner: u64 },
    File { source: PathBuf, mode: u32 },
    Text { text: String, mode: u32 },
    Link { target: String },
}

/// The files of a layer, by their path in the image.
#[derive(Clone, Debug, Default)]
pub struct Layer {
    entries: BTreeMap<String, Entry>,
}

/// A layer's tar in the cache.
#[derive(Clone, Debug)]
pub struct Built {
    /// The tar, uncompressed.
    pub path: PathBuf,
    /// Its SHA-256, in hexadecimal.
    pub digest: String,
}

impl Layer {
    /// A folder with permissions `mode` owned by user and group `owner`.
    #[must_use]
    pub fn folder(mut self, path: &str, mode: u32, owner: u64) -> Self {
        self.insert(path, Entry::Folder { mode, owner });
        self
    }

    /// A file with the content of `source`, which is followed when it is a link.
    #[must_use]
    pub fn file(mut self, path: &str, source: &Path, mode: u32) -> Self {
        self.insert(path, Entry::File { source: source.to_path_buf(), mode });
        self
    }

    /// A file with the content `text`.
    #[must_use]
    pub fn text(mut self, path: &str, text: &str, mode: u32) -> Self {
        self.insert(path, Entry::Text { text: text.to_owned(), mode });
        self
    }

    /// A symbolic link to `target`.
    #[must_use]
    pub fn link(mut self, path: &str, target: &str) -> Self {
        self.insert(path, Entry::Link { target: target.to_owned() });
        self
    }

    /// Every file under the folder `source` for which `keep` holds, at the same place under `path`.
    pub fn tree(
        mut self,
        path: &str,
        source: &Path,
        keep: impl Fn(&Path) -> bool,
    ) -> Result<Self, ImageError> {
        let mut folders = vec![(path.to_owned(), source.to_path_buf())];
        while let Some((inside, folder)) = folders.pop() {
            let error = |source| ImageError::Input { path: folder.clone(), source };
            for entry in fs::read_dir(&folder).map_err(error)? {
                let entry = entry.map_err(error)?;
                let (from, to) = (entry.path(), format!("{inside}/{}", entry.file_name().to_string_lossy()));
                if !keep(&from) {
                    continue;
                }
                let metadata = fs::metadata(&from).map_err(error)?;
                if metadata.is_dir() {
                    folders.push((to, from));
                } else {
                    self = self.file(&to, &from, metadata.permissions().mode() & 0o755);
                }
            }
        }
        Ok(self)
    }

    /// The layer's tar, written first when the cache does not have it. `label` only names the file.
    pub fn build(&self, cache: &Cache, label: &str) -> Result<Built, ImageError> {
        let key = self.key()?;
        let path = cache.ensure(&format!("layers/{label}-{key}.tar"), |path| self.write(path))?;
        let digest_path = cache.ensure(&format!("layers/{label}-{key}.sha256"), |target| {
            let digest = digest_of(&path)?;
            fs::write(target, digest).map_err(ImageError::Write)
        })?;
        let digest = fs::read_to_string(&digest_path);
        Ok(Built { digest: digest.map_err(|source| ImageError::Input { path: digest_path, source })?, path })
    }

    fn insert(&mut self, path: &str, entry: Entry) {
        let path = path.trim_matches('/');
        let mut parent = Path::new(path).parent();
        while let Some(folder) = parent.filter(|folder| !folder.as_os_str().is_empty()) {
            let default = Entry::Folder { mode: 0o755, owner: 0 };
            self.entries.entry(folder.to_string_lossy().into_owned()).or_insert(default);
            parent = folder.parent();
        }
        self.entries.insert(path.to_owned(), entry);
    }

    /// Files count by path, size and time of change, as in `make`: reading them all would take seconds each time.
    fn key(&self) -> Result<String, ImageError> {
        let mut parts = Vec::with_capacity(self.entries.len());
        for (path, entry) in &self.entries {
            parts.push(match entry {
                Entry::File { source, mode } => {
                    let metadata = fs::metadata(source);
                    let metadata = metadata
                        .map_err(|error| ImageError::Input { path: source.clone(), source: error })?;
                    let (size, seconds, nanos) = (metadata.len(), metadata.mtime(), metadata.mtime_nsec());
                    format!("{path} file {} {mode:o} {size} {seconds} {nanos}", source.display())
                }
                other => format!("{path} {other:?}"),
            });
        }
        Ok(fingerprint(parts.iter().map(String::as_bytes)))
    }

    fn write(&self, path: &Path) -> Result<(), ImageError> {
        let file = fs::File::create(path).map_err(ImageError::Write)?;
        let mut tar = tar::Builder::new(io::BufWriter::new(file));
        for (name, entry) in &self.entries {
            append(&mut tar, name, entry)?;
        }
        let mut writer = tar.into_inner().map_err(ImageError::Write)?;
        io::Write::flush(&mut writer).map_err(ImageError::Write)
    }
}

fn append<W: io::Write>(tar: &mut tar::Builder<W>, name: &str, entry: &Entry) -> Result<(), ImageError> {
    let mut header = tar::Header::new_gnu();
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    let written = match entry {
        Entry::Folder { mode, owner } => {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(*mode);
            header.set_uid(*owner);
            header.set_gid(*owner);
            tar.append_data(&mut header, format!("{name}/"), io::empty())
        }
        Entry::File { source, mode } => {
            let error = |error| ImageError::Input { path: source.clone(), source: error };
            let file = fs::File::open(source).map_err(error)?;
            header.set_mode(*mode);
            header.set_size(file.metadata().map_err(error)?.len());
            tar.append_data(&mut header, name, file)
        }
        Entry::Text { text, mode } => {
            header.set_mode(*mode);
            header.set_size(text.len() as u64);
            tar.append_data(&mut header, name, text.as_bytes())
        }
        Entry::Link { target } => {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_mode(0o777);
            tar.append_link(&mut header, name, target)
        }
    };
    written.map_err(ImageError::Write)
}

fn digest_of(path: &Path) -> Result<String, ImageError> {
    let error = |source| ImageError::Input { path: path.into(), source };
    let mut file = fs::File::open(path).map_err(error)?;
    let mut hash = Sha256::new();
    io::copy(&mut file, &mut hash).map_err(error)?;
    Ok(HEXLOWER.encode(&hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_inputs_give_the_same_bytes_and_parents_come_first() {
        let folder = tempfile::tempdir().unwrap();
        let layer =
            Layer::default().text("/etc/a/b", "x", 0o644).link("/etc/l", "a/b").folder("/tmp", 0o1777, 0);
        let digests: Vec<String> = ["one", "two"]
            .map(|name| layer.build(&Cache::at(folder.path().join(name)), "test").unwrap().digest)
            .into();
        assert_eq!(digests[0], digests[1]);

        let tar = layer.build(&Cache::at(folder.path().join("one")), "test").unwrap().path;
        let mut archive = tar::Archive::new(fs::File::open(tar).unwrap());
        let names: Vec<String> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(names, ["etc/", "etc/a/", "etc/a/b", "etc/l", "tmp/"]);
    }

    #[test]
    fn a_changed_file_changes_the_key() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("f");
        fs::write(&file, "1").unwrap();
        let before = Layer::default().file("/f", &file, 0o644).key().unwrap();
        fs::write(&file, "22").unwrap();
        assert_ne!(before, Layer::default().file("/f", &file, 0o644).key().unwrap());
    }
}
