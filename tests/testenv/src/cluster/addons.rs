//! What a bare cluster needs before workloads: DNS and a storage class.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use crate::{
    cluster::{ClusterError, Place, Spec, io_error},
    exec::{self, ExecError},
    images::COREDNS,
};

const DNS: &str = include_str!("../../../../kind/addons/dns.yaml");
const STORAGE: &str = include_str!("../../../../kind/addons/storage.yaml");

/// Applies both; the API server may still be starting.
pub fn apply(place: &Place, spec: &Spec) -> Result<(), ClusterError> {
    while exec::run(place.kubectl().args(["get", "--raw", "/readyz"])).is_err() {
        if crate::cluster::cgroup::processes(&spec.cgroup())
            .map_err(io_error("look for the nodes"))?
            .is_empty()
        {
            return Err(io_error("reach the API server")(std::io::Error::other(
                "every process of the cluster ended",
            )));
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let dns = DNS.replace("DNS_ADDRESS", &spec.dns()).replace("COREDNS_IMAGE", COREDNS);
    apply_text(place, &format!("{STORAGE}---\n{dns}"))
}

/// Waits, by watching, until every node and the DNS are ready.
pub fn wait(place: &Place, spec: &Spec) -> Result<(), ClusterError> {
    for node in 0..spec.nodes {
        let node = format!("node/{}", spec.node_name(node));
        kubectl(place, &["wait", "--for=create", &node, "--timeout=120s"])?;
        kubectl(place, &["wait", "--for=condition=Ready", &node, "--timeout=120s"])?;
    }
    kubectl(place, &["-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=120s"])?;
    Ok(())
}

/// Runs `kubectl` against the cluster of `place`.
pub(crate) fn kubectl(place: &Place, arguments: &[&str]) -> Result<String, ExecError> {
    exec::run(place.kubectl().args(arguments))
}

fn apply_text(place: &Place, manifests: &str) -> Result<(), ClusterError> {
    let mut command: Command = place.kubectl();
    command.args(["apply", "--server-side", "--force-conflicts", "-f", "-"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(io_error("start kubectl"))?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(manifests.as_bytes()).map_err(io_error("speak to kubectl"))?;
    }
    let output = child.wait_with_output().map_err(io_error("wait for kubectl"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(io_error("apply the cluster's own manifests")(std::io::Error::other(said)))
}
