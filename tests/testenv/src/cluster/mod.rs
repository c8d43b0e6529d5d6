//! The native cluster: real Kubernetes nodes on this machine without Docker, made by [`up`] and removed by [`down`].

pub mod addons;
mod cgroup;
mod files;
mod guard;
mod install;
pub mod kind;
mod load;
mod network;
pub mod node;
pub mod policy;
mod programs;
mod spec;
pub mod volumes;

pub use guard::TestCluster;
pub use install::{InstallError, Installed, install, install_operator};
pub use kind::KindError;
pub use spec::{MACHINES, Spec};

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    AuditLog,
    cache::{Cache, CacheError},
    checkout,
    control_plane::AUDIT_POLICY,
    exec::{ExecError, run},
    gobuild::{BuildError, ETCD, KUBE},
    images::{COREDNS, Image, ImageError, PAUSE},
    packages::{self, FOR_CLUSTER, FOR_TESTS, PackageError},
    pki::PkiError,
    programs::{ProgramError, program},
    progress::Progress,
};

/// Why a cluster could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// Namespaces and mounts need root.
    #[error(
        "the native cluster needs root for namespaces and mounts: run it again with sudo, or install Docker and kind"
    )]
    NotRoot,
    /// A Debian package is missing.
    #[error(transparent)]
    Packages(#[from] PackageError),
    /// The cache cannot be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A program could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// Credentials could not be made.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// Links could not be made or removed.
    #[error(transparent)]
    Network(#[from] network::NetworkError),
    /// A node could not be started.
    #[error(transparent)]
    Node(#[from] node::NodeError),
    /// An image could not be made or loaded.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A program failed.
    #[error(transparent)]
    Program(#[from] ExecError),
    /// A program of the workspace cannot be had.
    #[error(transparent)]
    Own(#[from] ProgramError),
    /// kind failed.
    #[error(transparent)]
    Kind(#[from] KindError),
    /// A file of the cluster cannot be used.
    #[error("cannot {doing}")]
    Io {
        /// What was attempted.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

fn io_error(doing: &'static str) -> impl FnOnce(io::Error) -> ClusterError {
    move |source| ClusterError::Io { doing, source }
}

/// Where a cluster keeps its files.
#[derive(Clone, Debug)]
pub struct Place {
    /// The folder that holds `cluster/`, `bin/` and `kubeconfig`: `.soma` of the checkout, or a test's own.
    pub root: PathBuf,
}

impl Place {
    /// The place of the checkout's own cluster.
    pub fn of_checkout() -> Self {
        Self { root: checkout().join(".soma") }
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.root.join("kubeconfig")
    }

    /// The folder with a `kubectl` that fits the cluster.
    pub fn bin(&self) -> PathBuf {
        self.root.join("bin")
    }

    /// A `kubectl` command for the cluster.
    pub fn kubectl(&self) -> Command {
        let mut command = Command::new(self.bin().join("kubectl"));
        command.env("KUBECONFIG", self.kubeconfig());
        command
    }

    /// The API server's audit log.
    pub fn audit(&self) -> AuditLog {
        AuditLog::new(self.cluster().join("audit.log"))
    }

    fn cluster(&self) -> PathBuf {
        self.root.join("cluster")
    }
}

/// Makes the bare cluster of `place` with `nodes` nodes, its DNS and its volumes, and loads `images` into every node.
/// A cluster that runs already is kept; one that was only half made is removed and made anew.
pub fn up(place: &Place, nodes: u8, images: &[Image], progress: &mut Progress) -> Result<(), ClusterError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(ClusterError::NotRoot);
    }
    let _only_one = lock(&place.root, "up.lock")?;
    let spec = match running(place, nodes)? {
        Some(spec) => {
            eprintln!("          the cluster runs already, with {} node(s)", spec.nodes);
            spec
        }
        None => create(place, nodes, progress)?,
    };
    // The cluster's own images first: the DNS starts while the others are loaded.
    let (own, others): (Vec<_>, Vec<_>) =
        images.iter().partition(|image| [PAUSE, COREDNS].contains(&image.reference.as_str()));
    progress.step("load the cluster's images", || load::load(&spec, &own))?;
    progress.step("cluster DNS and storage class", || addons::apply(place, &spec))?;
    progress.step("load the other images", || load::load(&spec, &others))?;
    progress.step("nodes and DNS ready", || addons::wait(place, &spec))
}

/// Removes the cluster of `place`: processes, mounts, namespaces, links, control groups and files. One that is half
/// made, or not there at all, is no error.
pub fn down(place: &Place) -> Result<(), ClusterError> {
    if !place.root.exists() {
        return Ok(());
    }
    let dir = absolute(&place.cluster())?;
    if cgroup::exists(&spec::cgroup_of(&dir)).map_err(io_error("look for the cluster's control groups"))? {
        if !nix::unistd::geteuid().is_root() {
            return Err(ClusterError::NotRoot);
        }
        cgroup::destroy(&spec::cgroup_of(&dir)).map_err(io_error("end the cluster's processes"))?;
        network::remove(&spec::bridge_of(&dir))?;
    }
    for path in [dir, place.kubeconfig(), place.bin()] {
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("remove the cluster's files")(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The cluster of `place` if all of it runs and it has `nodes` nodes; nodes that died mean it must be made anew.
fn running(place: &Place, nodes: u8) -> Result<Option<Spec>, ClusterError> {
    let dir = absolute(&place.cluster())?;
    let spec = Spec::load(&dir).map_err(io_error("read the cluster's record"))?;
    let Some(spec) = spec else { return Ok(None) };
    if spec.nodes != nodes {
        eprintln!("          the cluster with {} node(s) is replaced by one with {nodes}", spec.nodes);
        return Ok(None);
    }
    let alive = cgroup::processes(&spec.cgroup()).map_err(io_error("look for the cluster's processes"))?;
    let has_init = |node| node::init_pid(&spec, node).is_some_and(|pid| alive.contains(&pid.cast_signed()));
    let answers = || run(place.kubectl().args(["get", "--raw", "/readyz"])).is_ok();
    Ok(((0..spec.nodes).all(has_init) && answers()).then_some(spec))
}

fn create(place: &Place, nodes: u8, progress: &mut Progress) -> Result<Spec, ClusterError> {
    down(place)?;
    let cache = Cache::open()?;
    progress.step("programs", || -> Result<(), ClusterError> {
        packages::ensure(&FOR_TESTS)?;
        packages::ensure(&FOR_CLUSTER)?;
        KUBE.ensure(&cache)?;
        ETCD.ensure(&cache)?;
        Ok(())
    })?;
    let spec = progress.step("network and credentials", || prepare(place, nodes, &cache))?;
    progress.step("start the nodes", || -> Result<(), ClusterError> {
        for node in 0..nodes {
            cgroup::create(&format!("{}/{}/programs", spec.cgroup(), spec.node_name(node)))
                .map_err(io_error("make the control groups"))?;
            node::start(&spec, node)?;
        }
        Ok(())
    })?;
    Ok(spec)
}

/// Reserves names and addresses, and writes every file the nodes need.
fn prepare(place: &Place, nodes: u8, cache: &Cache) -> Result<Spec, ClusterError> {
    let dir = absolute(&place.cluster())?;
    // The group is made first: it is what tells `down` that there is something to remove.
    cgroup::create(&spec::cgroup_of(&dir)).map_err(io_error("make the control groups"))?;
    let spec = {
        let _one_at_a_time = lock(&std::env::temp_dir(), "soma-cluster.lock")?;
        let mut spec = Spec::new(&dir, 0, nodes);
        spec.slot = network::free_slot(&spec)?;
        network::create_bridge(&spec)?;
        spec
    };
    spec.save().map_err(io_error("record the cluster"))?;
    files::write(&spec, &place.kubeconfig())?;
    fs::write(dir.join("audit-policy.yaml"), AUDIT_POLICY).map_err(io_error("write the audit policy"))?;
    // The nodes' own copies: rebuilding or cleaning up later does not reach a running cluster.
    let bin = dir.join("bin");
    for (source, target) in [
        (KUBE.ensure(cache)?, bin.join("kube")),
        (ETCD.ensure(cache)?, bin.join("etcd")),
        (testenv_program()?, bin.join("testenv")),
        (bin.join("kube"), place.bin().join("kubectl")),
    ] {
        copy(&source, &target).map_err(io_error("copy the nodes' programs"))?;
    }
    Ok(spec)
}

/// The `testenv` program: this one or, when a test calls the library, the one cargo builds.
fn testenv_program() -> Result<PathBuf, ClusterError> {
    let own = std::env::current_exe().map_err(io_error("find this program"))?;
    if own.file_name().is_some_and(|name| name == "testenv") {
        return Ok(own);
    }
    Ok(program("testenv")?)
}

fn copy(source: &Path, target: &Path) -> io::Result<()> {
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder)?;
    }
    // A link is free where both are on one file system.
    fs::hard_link(source, target).or_else(|_| fs::copy(source, target).map(drop))
}

fn lock(folder: &Path, name: &str) -> Result<File, ClusterError> {
    fs::create_dir_all(folder).map_err(io_error("make the cluster's folder"))?;
    let file = File::create(folder.join(name)).map_err(io_error("lock the cluster"))?;
    file.lock().map_err(io_error("lock the cluster"))?;
    Ok(file)
}

fn absolute(path: &Path) -> Result<PathBuf, ClusterError> {
    fs::canonicalize(path)
        .or_else(|_| match (path.parent().map(fs::canonicalize), path.file_name()) {
            (Some(Ok(parent)), Some(name)) => Ok(parent.join(name)),
            _ => std::path::absolute(path),
        })
        .map_err(io_error("find the cluster's folder"))
}
