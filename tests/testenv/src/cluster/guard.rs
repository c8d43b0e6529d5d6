//! A cluster that belongs to a test: gone when the test drops it, and also when the test is killed.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
};

use crate::{
    cluster::{ClusterError, Place, io_error, testenv_program, up},
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

    /// Where it keeps its files, with its kubeconfig and `kubectl`.
    pub fn place(&self) -> &Place {
        &self.place
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
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
