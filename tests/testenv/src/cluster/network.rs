//! The links, addresses and routes that join the nodes with each other and with the host.
//!
//! Nodes hang on one bridge. Every node and the host have a route to each node's pods; the host sends Service
//! addresses to the first node, whose kube-proxy turns them into pods. The host's own settings stay untouched.

use std::process::Command;

use crate::{
    cluster::spec::{SLOTS, Spec},
    exec::{ExecError, run},
};

/// Why the network could not be made.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// `ip` failed.
    #[error(transparent)]
    Ip(#[from] ExecError),
    /// Every slot's addresses are in use.
    #[error(
        "no free address ranges for another cluster: {SLOTS} are in use or overlap with routes of this machine"
    )]
    NoSlot,
}

/// The first slot whose addresses no route of this machine covers.
pub fn free_slot(spec: &Spec) -> Result<u8, NetworkError> {
    let routes = run(Command::new("ip").args(["-o", "-4", "route", "show", "table", "all"]))?;
    (0..SLOTS)
        .find(|slot| is_free(&Spec { slot: *slot, ..spec.clone() }, &routes))
        .ok_or(NetworkError::NoSlot)
}

fn is_free(spec: &Spec, routes: &str) -> bool {
    let prefixes = spec.address_prefixes();
    !routes.split_whitespace().any(|word| prefixes.iter().any(|prefix| word.starts_with(prefix.as_str())))
}

/// Makes the bridge and gives the host its address on it.
pub fn create_bridge(spec: &Spec) -> Result<(), NetworkError> {
    let bridge = spec.bridge();
    ip(&["link", "add", &bridge, "type", "bridge"])?;
    ip(&["address", "add", &format!("{}/24", spec.gateway()), "dev", &bridge])?;
    ip(&["link", "set", &bridge, "up"])
}

/// Joins `node`, whose network namespace is that of process `pid`, and gives it its addresses and routes.
pub fn join(spec: &Spec, node: u8, pid: u32) -> Result<(), NetworkError> {
    let (veth, bridge, address, pid) =
        (spec.veth(node), spec.bridge(), spec.node_address(node), pid.to_string());
    ip(&["link", "add", &veth, "type", "veth", "peer", "name", "eth0", "netns", &pid])?;
    ip(&["link", "set", &veth, "master", &bridge, "up"])?;
    ip(&["route", "add", &spec.node_pods(node), "via", &address])?;
    if node == 0 {
        ip(&["route", "add", &spec.services(), "via", &address])?;
    }
    let inside = |arguments: &[&str]| inside(&pid, arguments);
    inside(&["ip", "link", "set", "lo", "up"])?;
    inside(&["ip", "address", "add", &format!("{address}/24"), "dev", "eth0"])?;
    inside(&["ip", "link", "set", "eth0", "up"])?;
    // Programs on the node reach Services only if a route lets the packet leave before kube-proxy rewrites it.
    inside(&["ip", "route", "add", &spec.services(), "via", &spec.gateway()])?;
    // Nothing leads out of the cluster; saying so at once beats a timeout.
    inside(&["ip", "route", "add", "unreachable", "default"])?;
    for other in (0..spec.nodes).filter(|other| *other != node) {
        inside(&["ip", "route", "add", &spec.node_pods(other), "via", &spec.node_address(other)])?;
    }
    inside(&["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])
}

/// Removes the bridge called `bridge` and every node's link; what does not exist is no error.
pub fn remove(bridge: &str) -> Result<(), NetworkError> {
    let links = run(Command::new("ip").args(["-o", "link", "show"]))?;
    for link in links_of(bridge, &links) {
        // A node's link goes with its namespace, maybe right now.
        if let Err(error) = ip(&["link", "delete", link]) {
            let still = run(Command::new("ip").args(["-o", "link", "show"]))?;
            if links_of(bridge, &still).any(|other| other == link) {
                return Err(error);
            }
        }
    }
    Ok(())
}

/// The cluster's links in the output of `ip -o link`, the nodes' first.
fn links_of<'a>(bridge: &'a str, links: &'a str) -> impl Iterator<Item = &'a str> {
    let names = links.lines().filter_map(|line| line.split(": ").nth(1)?.split('@').next());
    let nodes =
        names.clone().filter(move |name| name.strip_prefix(bridge).is_some_and(|rest| rest.starts_with('-')));
    nodes.chain(names.filter(move |name| *name == bridge))
}

fn ip(arguments: &[&str]) -> Result<(), NetworkError> {
    run(Command::new("ip").args(arguments))?;
    Ok(())
}

fn inside(pid: &str, arguments: &[&str]) -> Result<(), NetworkError> {
    run(Command::new("nsenter").args(["--target", pid, "--net", "--"]).args(arguments))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_slot_is_taken_when_a_route_covers_any_of_its_ranges() {
        let spec = Spec::new(Path::new("/a"), 1, 1);
        assert!(is_free(&spec, "default via 192.0.2.1 dev eth0\n10.96.0.0/24 via 10.201.0.10 dev soma-0"));
        assert!(!is_free(&spec, "10.96.1.0/24 via 10.1.2.3 dev eth0"));
        assert!(!is_free(&spec, "10.211.4.0/24 dev eth0"));
    }

    #[test]
    fn only_the_clusters_own_links_are_found_and_the_bridge_last() {
        let text = "1: lo: <UP>\n5: soma-aaaaaa: <UP>\n6: soma-aaaaaa-0@if2: <UP>\n7: soma-bbbbbb: <UP>\n8: eth0: <UP>";
        assert_eq!(links_of("soma-aaaaaa", text).collect::<Vec<_>>(), ["soma-aaaaaa-0", "soma-aaaaaa"]);
    }
}
