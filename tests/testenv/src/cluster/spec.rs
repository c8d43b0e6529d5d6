//! What one native cluster is called and which addresses it uses; everything follows from its folder and its slot.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::cache::fingerprint;

/// How many clusters one machine can hold.
pub const SLOTS: u8 = 16;

/// The addresses of the nodes of all clusters, and of the host as they see it.
pub const MACHINES: &str = "10.201.0.0/16";

/// Where a node sees its own folder.
pub const NODE_DIR: &str = "/run/soma";
/// Where a node sees the cluster's folder.
pub const CLUSTER_DIR: &str = "/run/cluster";
/// Where a node sees the folder of all volumes.
pub const VOLUMES_DIR: &str = "/run/volumes";
/// The node's container runtime, as its own programs see it.
pub const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";

/// One native cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Its state: `.soma/cluster` of a checkout, or a test's own folder.
    pub dir: PathBuf,
    /// Tells this cluster's links and control groups from another's; derived from `dir`.
    pub id: String,
    /// Chooses the address ranges, from 0 to [`SLOTS`].
    pub slot: u8,
    /// How many nodes it has; the first one also runs the control plane.
    pub nodes: u8,
}

impl Spec {
    /// The cluster of `dir`, an absolute path.
    pub fn new(dir: &Path, slot: u8, nodes: u8) -> Self {
        Self { dir: dir.to_path_buf(), id: id_of(dir), slot, nodes }
    }

    /// The cluster recorded in `dir`, if `up` got far enough to record one.
    pub fn load(dir: &Path) -> io::Result<Option<Self>> {
        match fs::read(dir.join("spec.json")) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).map(Some)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Records the cluster in its folder.
    pub fn save(&self) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        fs::write(self.dir.join("spec.json"), serde_json::to_vec_pretty(self)?)
    }

    /// The bridge all nodes hang on, a link of the host.
    pub fn bridge(&self) -> String {
        format!("soma-{}", self.id)
    }

    /// The host's end of a node's link.
    pub fn veth(&self, node: u8) -> String {
        format!("soma-{}-{node}", self.id)
    }

    /// The control group all processes of the cluster live under.
    pub fn cgroup(&self) -> String {
        cgroup_of(&self.dir)
    }

    /// A node's name in Kubernetes.
    pub fn node_name(&self, node: u8) -> String {
        format!("node-{node}")
    }

    /// A node's folder on the host.
    pub fn node_dir(&self, node: u8) -> PathBuf {
        self.dir.join(self.node_name(node))
    }

    /// The host's address on the bridge.
    pub fn gateway(&self) -> String {
        format!("10.201.{}.1", self.slot)
    }

    /// A node's address on the bridge.
    pub fn node_address(&self, node: u8) -> String {
        format!("10.201.{}.{}", self.slot, 10 + node)
    }

    /// The address range of a node's pods.
    pub fn node_pods(&self, node: u8) -> String {
        format!("{}0/24", self.node_prefix(node))
    }

    /// What the addresses of a node's pods begin with.
    pub fn node_prefix(&self, node: u8) -> String {
        format!("10.{}.{node}.", 210 + self.slot)
    }

    /// The address range of all pods.
    pub fn pods(&self) -> String {
        format!("10.{}.0.0/16", 210 + self.slot)
    }

    /// The address range of Services.
    pub fn services(&self) -> String {
        format!("10.96.{}.0/24", self.slot)
    }

    /// The address of the Service `kubernetes`.
    pub fn api_service(&self) -> String {
        format!("10.96.{}.1", self.slot)
    }

    /// The address of the cluster's DNS.
    pub fn dns(&self) -> String {
        format!("10.96.{}.10", self.slot)
    }

    /// The API server's URL, reachable from the host and from every node.
    pub fn api_url(&self) -> String {
        format!("https://{}:6443", self.node_address(0))
    }

    /// The first parts of all addresses it uses, to find out whether a slot is free.
    pub fn address_prefixes(&self) -> [String; 3] {
        let slot = self.slot;
        [format!("10.201.{slot}."), format!("10.{}.", 210 + slot), format!("10.96.{slot}.")]
    }
}

/// The control group of the cluster of `dir`; it needs no record, so that `down` finds a half-made cluster too.
pub fn cgroup_of(dir: &Path) -> String {
    format!("soma-{}", id_of(dir))
}

/// The bridge of the cluster of `dir`.
pub fn bridge_of(dir: &Path) -> String {
    format!("soma-{}", id_of(dir))
}

/// Six hexadecimal digits: link names have room for 15 characters.
fn id_of(dir: &Path) -> String {
    fingerprint([dir.as_os_str().as_encoded_bytes()])[..6].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_of_two_checkouts_share_no_name_and_no_address() {
        let (a, b) =
            (Spec::new(Path::new("/a/.soma/cluster"), 0, 3), Spec::new(Path::new("/b/.soma/cluster"), 1, 3));
        assert_ne!(a.bridge(), b.bridge());
        assert_ne!(a.cgroup(), b.cgroup());
        for prefix in a.address_prefixes() {
            for address in [b.gateway(), b.node_address(2), b.node_pods(2), b.dns()] {
                assert!(!address.starts_with(&prefix), "{address} is in {prefix}");
            }
        }
    }

    #[test]
    fn the_first_cluster_has_the_customary_dns_address() {
        assert_eq!(Spec::new(Path::new("/a"), 0, 1).dns(), "10.96.0.10");
    }

    #[test]
    fn link_names_fit_the_kernels_limit() {
        assert!(Spec::new(Path::new("/a"), 15, 99).veth(99).len() <= 15);
    }
}
