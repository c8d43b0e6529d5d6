//! The folder with the backups of a component. One that is not complete ends in `.partial`; one that counts has a record.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use k8s_openapi::jiff::civil::DateTime;
use k8s_openapi::jiff::tz::TimeZone;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

/// Longest time a backup may take; what is not complete after it never will be. Also a Job's deadline.
pub const LONGEST: SignedDuration = SignedDuration::from_hours(12);
const PARTIAL: &str = ".partial";
const RECORD: &str = "record.json";
/// A name is the time it was begun, so that names sort by time.
const NAME: &str = "%Y%m%dT%H%M%SZ";
/// Facts about a backup that another program found, a line `key=value` each.
const FACTS: &str = "facts";

/// A backup that cannot be made or kept.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error(
        "the volume with the backups is full, and everything before this one is still there. Raise spec.{component}.managed.backup.storage.size, or lower spec.{component}.managed.backup.keep and delete an old one"
    )]
    Full { component: String },
    #[error("cannot {what} {}", path.display())]
    File {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is no name of a backup that was begun; begin one with `soma-operator backup begin`", .0.display())]
    NotBegun(PathBuf),
    #[error("the backup holds no file")]
    Empty,
}

/// What is known about a backup, kept beside its files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub name: String,
    pub component: String,
    /// When it was complete.
    pub time: Timestamp,
    /// Bytes of all files.
    pub size: u64,
    /// By name.
    pub files: BTreeMap<String, Content>,
    /// What else is known, such as the version it was taken from and what was checked.
    pub facts: BTreeMap<String, String>,
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    pub size: u64,
    pub sha256: String,
}

impl fmt::Display for Record {
    #[expect(clippy::cast_precision_loss, reason = "one digit after the point is shown")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:.1} MiB", self.name, self.size as f64 / f64::from(1 << 20))?;
        self.facts.iter().try_for_each(|(key, value)| write!(f, ", {key} {value}"))
    }
}

/// A component's backups.
pub struct Folder<'a> {
    pub path: &'a Path,
    /// Such as `postgres`.
    pub component: &'a str,
}

impl Folder<'_> {
    /// Makes a folder for a new backup, and removes what earlier attempts left that ended without a word.
    pub fn begin(&self, now: Timestamp) -> Result<PathBuf, FolderError> {
        for name in self.names()? {
            let begun = begun(name.trim_end_matches(PARTIAL));
            let stale = begun.is_some_and(|begun| now.duration_since(begun) > LONGEST);
            if stale && !self.path.join(&name).join(RECORD).exists() {
                let path = self.path.join(name);
                fs::remove_dir_all(&path).map_err(|error| self.failed("remove", &path, error))?;
            }
        }
        let path = self.path.join(format!("{}{PARTIAL}", now.strftime(NAME)));
        fs::create_dir(&path).map_err(|error| self.failed("make", &path, error))?;
        Ok(path)
    }

    /// Completes a backup: every byte is on the disk before it gets its name. Then the oldest go, of those that are
    /// complete, until `keep` are left.
    pub fn keep(&self, partial: &Path, keep: u16, now: Timestamp) -> Result<Record, FolderError> {
        let name = partial.file_name().and_then(|name| name.to_str()?.strip_suffix(PARTIAL));
        let name = name.filter(|name| begun(name).is_some());
        let name = name.ok_or_else(|| FolderError::NotBegun(partial.into()))?.to_owned();
        let mut facts = BTreeMap::new();
        let found = partial.join(FACTS);
        if found.exists() {
            let text = fs::read_to_string(&found).map_err(|error| self.failed("read", &found, error))?;
            let fact =
                |line: &str| line.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
            facts.extend(text.lines().filter_map(fact));
            fs::remove_file(&found).map_err(|error| self.failed("remove", &found, error))?;
        }
        let files = self.contents(partial)?;
        let size = files.values().map(|content| content.size).sum();
        if size == 0 {
            return Err(FolderError::Empty);
        }
        let record = Record {
            name: name.clone(),
            component: self.component.to_owned(),
            time: now,
            size,
            files,
            facts,
        };
        let path = partial.join(RECORD);
        let text = serde_json::to_string(&record).unwrap_or_default();
        fs::write(&path, text).map_err(|error| self.failed("write", &path, error))?;
        self.flush(&path)?;
        self.flush(partial)?;
        let whole = self.path.join(&name);
        fs::rename(partial, &whole).map_err(|error| self.failed("complete", &whole, error))?;
        self.flush(self.path)?;
        self.prune(keep)?;
        Ok(record)
    }

    /// Removes an attempt that failed, so that its bytes do not stand in the way of the next.
    pub fn drop(&self, partial: &Path) -> Result<(), FolderError> {
        fs::remove_dir_all(partial).map_err(|error| self.failed("remove", partial, error))
    }

    fn prune(&self, keep: u16) -> Result<(), FolderError> {
        let complete = |name: &String| begun(name).is_some() && self.path.join(name).join(RECORD).exists();
        let all: Vec<_> = self.names()?.into_iter().filter(complete).collect();
        for name in superfluous(&all, keep) {
            let path = self.path.join(name);
            // Without its record it does not count any more, however far the rest gets.
            let record = path.join(RECORD);
            fs::remove_file(&record).map_err(|error| self.failed("remove", &record, error))?;
            fs::remove_dir_all(&path).map_err(|error| self.failed("remove", &path, error))?;
        }
        Ok(())
    }

    /// In order.
    fn names(&self) -> Result<Vec<String>, FolderError> {
        let entries = fs::read_dir(self.path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let entries = entries.map_err(|error| self.failed("list", self.path, error))?;
        let mut names: Vec<_> =
            entries.iter().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        Ok(names)
    }

    /// Hashes and flushes every file.
    fn contents(&self, partial: &Path) -> Result<BTreeMap<String, Content>, FolderError> {
        let inside = Folder { path: partial, component: self.component };
        let mut files = BTreeMap::new();
        for name in inside.names()? {
            let path = partial.join(&name);
            let content = hash(&path).map_err(|error| self.failed("read", &path, error))?;
            self.flush(&path)?;
            files.insert(name, content);
        }
        Ok(files)
    }

    fn flush(&self, path: &Path) -> Result<(), FolderError> {
        File::open(path).and_then(|file| file.sync_all()).map_err(|error| self.failed("flush", path, error))
    }

    pub fn failed(&self, what: &'static str, path: &Path, source: io::Error) -> FolderError {
        if source.kind() == io::ErrorKind::StorageFull || source.kind() == io::ErrorKind::QuotaExceeded {
            return FolderError::Full { component: self.component.to_owned() };
        }
        FolderError::File { what, path: path.to_owned(), source }
    }
}

/// When a backup of this name was begun.
fn begun(name: &str) -> Option<Timestamp> {
    let time = DateTime::strptime(NAME, name).ok()?;
    time.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

/// Of names in order, those that are too many. The newest is never among them.
fn superfluous(names: &[String], keep: u16) -> &[String] {
    &names[..names.len().saturating_sub(usize::from(keep.max(1)))]
}

fn hash(path: &Path) -> io::Result<Content> {
    let (mut file, mut context, mut size) = (File::open(path)?, Context::new(&SHA256), 0);
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(Content { size, sha256: HEXLOWER.encode(context.finish().as_ref()) });
        }
        context.update(&buffer[..count]);
        size += count as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn names(path: &Path) -> Vec<String> {
        Folder { path, component: "etcd" }.names().unwrap()
    }

    #[test]
    fn the_newest_is_never_too_many() {
        let names: Vec<_> = ["a", "b", "c"].map(str::to_owned).into();
        for (keep, gone) in [(0, 2), (1, 2), (2, 1), (3, 0), (9, 0)] {
            assert_eq!(superfluous(&names, keep).len(), gone, "{keep}");
        }
        assert!(superfluous(&[], 1).is_empty());
    }

    #[test]
    fn a_backup_counts_once_it_is_complete_and_the_oldest_goes_only_then() {
        let dir = soma_testenv::RunDir::new("backup").unwrap();
        let folder = Folder { path: dir.path(), component: "etcd" };
        for hour in 1..=3 {
            let now = time(&format!("2026-03-01T0{hour}:00:00Z"));
            let partial = folder.begin(now).unwrap();
            assert!(folder.begin(now).is_err(), "two at a time need two names");
            fs::write(partial.join("snapshot.db"), "data").unwrap();
            fs::write(partial.join(FACTS), "version=1\nrevision=7\n").unwrap();
            let record = folder.keep(&partial, 2, now).unwrap();
            assert_eq!(record.to_string(), format!("20260301T0{hour}0000Z: 0.0 MiB, revision 7, version 1"));
            let kept = fs::read_to_string(dir.path().join(&record.name).join(RECORD)).unwrap();
            assert_eq!(serde_json::from_str::<Record>(&kept).unwrap(), record);
        }
        assert_eq!(names(dir.path()), ["20260301T020000Z", "20260301T030000Z"]);

        // One that fails removes nothing but itself; one that ended without a word goes when it can no longer run.
        let failed = folder.begin(time("2026-03-01T04:00:00Z")).unwrap();
        assert!(matches!(folder.keep(&failed, 1, time("2026-03-01T04:00:01Z")), Err(FolderError::Empty)));
        folder.begin(time("2026-03-01T05:00:00Z")).unwrap();
        assert_eq!(names(dir.path()).len(), 4);
        let last = folder.begin(time("2026-03-01T16:30:00Z")).unwrap();
        assert_eq!(names(dir.path()).len(), 4, "the one of 4 o'clock is gone, the one of 5 may still run");
        folder.drop(&last).unwrap();
        fs::create_dir(dir.path().join("lost+found")).unwrap();
        folder.begin(time("2026-03-05T00:00:00Z")).unwrap();
        assert_eq!(
            names(dir.path()),
            ["20260301T020000Z", "20260301T030000Z", "20260305T000000Z.partial", "lost+found"]
        );
    }

    #[test]
    fn a_full_volume_says_what_to_do() {
        let folder = Folder { path: Path::new("/b"), component: "vault" };
        let error = folder.failed("write", Path::new("/b/x"), io::ErrorKind::StorageFull.into());
        assert!(error.to_string().contains("Raise spec.vault.managed.backup.storage.size"), "{error}");
    }
}
