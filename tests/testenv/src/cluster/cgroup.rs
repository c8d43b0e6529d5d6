//! The control groups of a cluster: every process it starts is in one, which is how `down` finds them all.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const MOUNT: &str = "/sys/fs/cgroup";
const POLL: Duration = Duration::from_millis(20);
// 15 seconds: a process in an uninterruptible wait keeps its group until the kernel lets it go.
const TRIES: u32 = 750;

/// Makes `group` in every hierarchy, ready to hold processes and sub-groups.
pub fn create(group: &str) -> io::Result<()> {
    for hierarchy in hierarchies()? {
        let mut path = hierarchy.clone();
        for part in group.split('/') {
            delegate(&path)?;
            path.push(part);
            fs::create_dir_all(&path)?;
            // A version 1 cpuset starts empty and refuses processes until it is told what it may use.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                copy_from_parent(&path, file)?;
            }
        }
    }
    Ok(())
}

/// Moves this process, and so all it starts from now on, into `group`.
pub fn enter(group: &str) -> io::Result<()> {
    fs::write(tracking()?.join(group).join("cgroup.procs"), std::process::id().to_string())
}

/// Whether `group` exists in any hierarchy.
pub fn exists(group: &str) -> io::Result<bool> {
    Ok(hierarchies()?.iter().any(|hierarchy| hierarchy.join(group).exists()))
}

/// The ids of all processes in `group` and its sub-groups.
pub fn processes(group: &str) -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    for folder in tree(&tracking()?.join(group)) {
        let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    }
    Ok(found)
}

/// Kills every process in `group`, waits until all are gone, and removes the group.
pub fn destroy(group: &str) -> io::Result<()> {
    let mut tries = TRIES;
    loop {
        let left = processes(group)?;
        if left.is_empty() {
            break;
        }
        for pid in &left {
            match kill(Pid::from_raw(*pid), Signal::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
        tries =
            tries.checked_sub(1).ok_or_else(|| io::Error::other(format!("processes {left:?} do not end")))?;
        thread::sleep(POLL);
    }
    hierarchies()?.iter().try_for_each(|hierarchy| remove(&hierarchy.join(group), &mut tries))
}

fn remove(path: &Path, tries: &mut u32) -> io::Result<()> {
    for folder in tree(path).into_iter().rev() {
        while let Err(error) = fs::remove_dir(&folder) {
            match (error.raw_os_error().map(Errno::from_raw), tries.checked_sub(1)) {
                (Some(Errno::ENOENT), _) => break,
                // A group stays busy for a moment after its last process ended.
                (Some(Errno::EBUSY), Some(left)) => *tries = left,
                _ => return Err(error),
            }
            thread::sleep(POLL);
        }
    }
    Ok(())
}

/// `path` and all folders under it, parents first; nothing when it does not exist.
fn tree(path: &Path) -> Vec<PathBuf> {
    if !path.is_dir() {
        return Vec::new();
    }
    let mut all = vec![path.to_path_buf()];
    let mut next = 0;
    while next < all.len() {
        for entry in fs::read_dir(&all[next]).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                all.push(entry.path());
            }
        }
        next += 1;
    }
    all
}

/// The root of every hierarchy: one with version 2, one per controller with version 1.
fn hierarchies() -> io::Result<Vec<PathBuf>> {
    if is_v2(Path::new(MOUNT)) {
        return Ok(vec![MOUNT.into()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(MOUNT)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() && entry.path().join("cgroup.procs").exists() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// The hierarchy that tells which processes are the cluster's.
fn tracking() -> io::Result<PathBuf> {
    let mount = Path::new(MOUNT);
    if is_v2(mount) {
        return Ok(mount.into());
    }
    let pids = mount.join("pids");
    if pids.join("cgroup.procs").exists() {
        return Ok(pids);
    }
    Err(io::Error::other(format!("no control group hierarchy for pids under {MOUNT}")))
}

fn is_v2(path: &Path) -> bool {
    path.join("cgroup.controllers").exists()
}

/// Version 2 only: lets the groups below `path` use every controller it has itself.
fn delegate(path: &Path) -> io::Result<()> {
    let Ok(controllers) = fs::read_to_string(path.join("cgroup.controllers")) else { return Ok(()) };
    let wanted: String = controllers.split_whitespace().flat_map(|name| ["+", name, " "]).collect();
    if wanted.is_empty() { Ok(()) } else { fs::write(path.join("cgroup.subtree_control"), wanted.trim_end()) }
}

fn copy_from_parent(path: &Path, file: &str) -> io::Result<()> {
    let target = path.join(file);
    let parent = path.parent().map(|parent| parent.join(file));
    match parent {
        Some(parent) if parent.exists() && target.exists() && !is_v2(path) => {
            fs::write(target, fs::read_to_string(parent)?.trim())
        }
        _ => Ok(()),
    }
}
