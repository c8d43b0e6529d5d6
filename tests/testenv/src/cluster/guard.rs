//! A cluster that belongs to a test: gone when the test drops it, and also when the test is killed.

use std::{
    fs::{self, File},
    io,
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    cluster::{ClusterError, Place, Spec, cgroup, io_error, node, testenv_program, up},
    images::Image,
    progress::Progress,
    rundir::RunDir,
};

/// A native cluster in a folder of its own.
///
/// A second process, in a process group of its own, waits on a pipe from this one. When the pipe closes, because the
/// value was dropped or because this process died, it removes the cluster.
pub struct TestCluster {
    place: Place,
    remover: Child,
    // Removed last, after the cluster in it.
    _dir: RunDir,
}

impl TestCluster {
    /// Makes a bare cluster with `nodes` nodes and loads `images`.
    pub fn start(nodes: u8, images: &[Image]) -> Result<Self, ClusterError> {
        let dir = RunDir::new("cluster").map_err(io_error("make the cluster's folder"))?;
        let place = Place { root: dir.path().to_path_buf() };
        let log = File::create(dir.path().join("down.log")).map_err(io_error("make the cluster's folder"))?;
        let mut remover = Command::new(testenv_program()?);
        remover.args(["down", "--when-closed", "--dir"]).arg(&place.root);
        remover.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        let remover = remover.spawn().map_err(io_error("start the cluster's remover"))?;
        let cluster = Self { place, remover, _dir: dir };
        up(&cluster.place, nodes, images, &mut Progress::default())?;
        Ok(cluster)
    }

    /// Stops a program of the control plane, such as `kube-apiserver`, until it is resumed.
    pub fn pause(&self, program: &str) -> Result<(), ClusterError> {
        self.signal(program, Signal::SIGSTOP)
    }

    /// Lets a program that was stopped go on.
    pub fn resume(&self, program: &str) -> Result<(), ClusterError> {
        self.signal(program, Signal::SIGCONT)
    }

    fn signal(&self, program: &str, signal: Signal) -> Result<(), ClusterError> {
        let group = format!("{}/{}/programs", self.spec()?.cgroup(), self.spec()?.node_name(0));
        let all = cgroup::processes(&group).map_err(io_error("look for the cluster's processes"))?;
        let runs = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|word| word == program.as_bytes())
        };
        let pid = all.into_iter().find(runs);
        let pid =
            pid.ok_or_else(|| io_error("signal a program")(io::Error::other(format!("no {program} runs"))))?;
        kill(Pid::from_raw(pid), signal).map_err(|error| io_error("signal a program")(error.into()))
    }

    /// A node and everything on it is gone, without a warning.
    pub fn lose_machine(&self, number: u8) -> Result<(), ClusterError> {
        let init = node::init_pid(&self.spec()?, number);
        let gone = || io_error("end a node")(io::Error::other(format!("node {number} does not run")));
        let pid = Pid::from_raw(init.ok_or_else(gone)?.cast_signed());
        kill(pid, Signal::SIGKILL).map_err(|error| io_error("end a node")(error.into()))
    }

    fn spec(&self) -> Result<Spec, ClusterError> {
        let spec = Spec::load(&super::absolute(&self.place.cluster())?)
            .map_err(io_error("read the cluster's record"))?;
        spec.ok_or_else(|| io_error("read the cluster's record")(io::Error::other("it has none")))
    }

    /// Where it keeps its files, with its kubeconfig and `kubectl`.
    pub fn place(&self) -> &Place {
        &self.place
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        // What ended on the nodes, before the folders are gone.
        for node in fs::read_dir(self.place.cluster()).into_iter().flatten().flatten() {
            let log = fs::read_to_string(node.path().join("log/node.log")).unwrap_or_default();
            if !log.is_empty() {
                eprintln!("{}:\n{log}", node.file_name().display());
            }
        }
        drop(self.remover.stdin.take());
        match self.remover.wait() {
            Ok(status) if status.success() => {}
            other => {
                let said = fs::read_to_string(self.place.root.join("down.log")).unwrap_or_default();
                eprintln!("the test's cluster was not removed: {other:?}: {said}");
            }
        }
    }
}
