//! A folder per started server, removed with it; folders of processes that were killed are swept by the next run.

use std::{
    env, fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    process,
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
};

static SWEPT: Once = Once::new();
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A temporary folder owned by this process.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// A new folder whose name starts with `name`, readable by this user and passable by others.
    pub fn new(name: &str) -> io::Result<Self> {
        let base = base();
        fs::create_dir_all(&base)?;
        fs::set_permissions(&base, fs::Permissions::from_mode(0o711))?;
        SWEPT.call_once(|| sweep(&base));
        let path =
            base.join(owner(process::id())?).join(format!("{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        fs::DirBuilder::new().recursive(true).mode(0o711).create(&path)?;
        Ok(Self { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        // What cannot be removed now is swept by the next run.
        let _ = fs::remove_dir_all(&self.path);
        if let Some(parent) = self.path.parent() {
            let _ = fs::remove_dir(parent);
        }
    }
}

fn base() -> PathBuf {
    env::temp_dir().join(format!("soma-testenv-{}", nix::unistd::geteuid()))
}

/// A process by id and start time: a reused id has another start time.
fn owner(pid: u32) -> io::Result<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The program's name is in parentheses and may hold spaces; the start time is the 20th field after it.
    let begun =
        stat.rsplit_once(')').and_then(|(_, fields)| fields.split_whitespace().nth(19)).unwrap_or_default();
    Ok(format!("{pid}-{begun}"))
}

fn sweep(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let alive = name
            .split_once('-')
            .and_then(|(pid, _)| pid.parse().ok())
            .and_then(|pid| owner(pid).ok())
            .is_some_and(|current| current == name);
        if !alive {
            // Another run may sweep the same folder at the same time.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_folder_is_gone_and_a_dead_owners_is_swept() {
        let kept = RunDir::new("kept").unwrap();
        let path = RunDir::new("dropped").unwrap().path().to_path_buf();
        assert!(!path.exists());

        let base = tempfile::tempdir().unwrap();
        let dead = base.path().join("1-0");
        let ours = base.path().join(owner(process::id()).unwrap());
        fs::create_dir(&dead).unwrap();
        fs::create_dir(&ours).unwrap();
        sweep(base.path());
        assert!(!dead.exists());
        assert!(ours.exists());
        assert!(kept.path().exists());
    }
}
