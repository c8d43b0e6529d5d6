//! The programs that make a node: what runs on it, in which order, with which arguments.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::cluster::spec::{CLUSTER_DIR, CONTAINERD_SOCKET, NODE_DIR, Spec, VOLUMES_DIR};

/// A program of a node, as the node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its name, which is also its log's.
    pub name: &'static str,
    /// What to execute.
    pub path: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// A socket that must exist before it starts.
    pub after: Option<&'static Path>,
}

impl Program {
    fn new<I: IntoIterator<Item: Into<String>>>(name: &'static str, path: &str, args: I) -> Self {
        let args = args.into_iter().map(Into::into).collect();
        Self { name, path: path.into(), args, after: None }
    }

    fn kube(name: &'static str, args: Vec<String>) -> Self {
        Self::new(name, &format!("{CLUSTER_DIR}/bin/kube"), std::iter::once(name.to_owned()).chain(args))
    }

    /// The command that starts it.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.args(&self.args);
        command
    }
}

/// The programs of `node`, in the order they start.
pub fn of_node(spec: &Spec, node: u8) -> Vec<Program> {
    let mut all = vec![containerd()];
    if node == 0 {
        all.extend([etcd(), apiserver(spec), controller_manager(spec), scheduler(), volumes()]);
    }
    all.extend([kubelet(spec, node), proxy(spec, node), policy(spec, node)]);
    all
}

fn pki(file: &str) -> String {
    format!("{CLUSTER_DIR}/pki/{file}")
}

fn containerd() -> Program {
    Program::new("containerd", "containerd", [format!("--config={NODE_DIR}/containerd.toml")])
}

fn etcd() -> Program {
    let args = [
        "--name=soma",
        &format!("--data-dir={NODE_DIR}/etcd"),
        "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--initial-advertise-peer-urls=http://127.0.0.1:2380",
        "--initial-cluster=soma=http://127.0.0.1:2380",
        // The state goes with `down`; a crash of the machine may cost it too.
        "--unsafe-no-fsync",
        "--log-level=warn",
    ];
    Program::new("etcd", &format!("{CLUSTER_DIR}/bin/etcd"), args)
}

fn apiserver(spec: &Spec) -> Program {
    let address = spec.node_address(0);
    Program::kube(
        "kube-apiserver",
        vec![
            "--etcd-servers=http://127.0.0.1:2379".into(),
            format!("--bind-address={address}"),
            format!("--advertise-address={address}"),
            "--secure-port=6443".into(),
            format!("--service-cluster-ip-range={}", spec.services()),
            format!("--tls-cert-file={}", pki("apiserver.crt")),
            format!("--tls-private-key-file={}", pki("apiserver.key")),
            format!("--client-ca-file={}", pki("ca.crt")),
            format!("--service-account-key-file={}", pki("sa.pub")),
            format!("--service-account-signing-key-file={}", pki("sa.key")),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            "--authorization-mode=Node,RBAC".into(),
            "--enable-admission-plugins=NodeRestriction".into(),
            "--allow-privileged=true".into(),
            format!("--kubelet-client-certificate={}", pki("admin.crt")),
            format!("--kubelet-client-key={}", pki("admin.key")),
            format!("--kubelet-certificate-authority={}", pki("ca.crt")),
            // Node names are in no DNS the API server asks.
            "--kubelet-preferred-address-types=InternalIP".into(),
            format!("--audit-policy-file={CLUSTER_DIR}/audit-policy.yaml"),
            format!("--audit-log-path={CLUSTER_DIR}/audit.log"),
        ],
    )
}

fn controller_manager(spec: &Spec) -> Program {
    Program::kube(
        "kube-controller-manager",
        vec![
            format!("--kubeconfig={}", pki("controller-manager.kubeconfig")),
            format!("--service-account-private-key-file={}", pki("sa.key")),
            format!("--root-ca-file={}", pki("ca.crt")),
            format!("--cluster-signing-cert-file={}", pki("ca.crt")),
            format!("--cluster-signing-key-file={}", pki("ca.key")),
            format!("--cluster-cidr={}", spec.pods()),
            // Looked for under /usr otherwise, where the host's own may be.
            format!("--flex-volume-plugin-dir={NODE_DIR}/volume-plugins"),
            "--use-service-account-credentials".into(),
            "--allocate-node-cidrs=false".into(),
            "--leader-elect=false".into(),
            "--bind-address=127.0.0.1".into(),
        ],
    )
}

fn scheduler() -> Program {
    Program::kube(
        "kube-scheduler",
        vec![
            format!("--kubeconfig={}", pki("scheduler.kubeconfig")),
            "--leader-elect=false".into(),
            "--bind-address=127.0.0.1".into(),
        ],
    )
}

fn volumes() -> Program {
    let kubeconfig = format!("--kubeconfig={}", pki("volumes.kubeconfig"));
    let args = ["volumes".to_owned(), kubeconfig, format!("--folder={VOLUMES_DIR}")];
    Program::new("volumes", &format!("{CLUSTER_DIR}/bin/testenv"), args)
}

fn kubelet(spec: &Spec, node: u8) -> Program {
    let args = vec![
        format!("--config={NODE_DIR}/kubelet.json"),
        format!("--kubeconfig={NODE_DIR}/kubelet.kubeconfig"),
        format!("--hostname-override={}", spec.node_name(node)),
        format!("--node-ip={}", spec.node_address(node)),
    ];
    Program { after: Some(Path::new(CONTAINERD_SOCKET)), ..Program::kube("kubelet", args) }
}

fn proxy(spec: &Spec, node: u8) -> Program {
    Program::kube(
        "kube-proxy",
        vec![
            format!("--kubeconfig={}", pki("proxy.kubeconfig")),
            format!("--hostname-override={}", spec.node_name(node)),
            format!("--cluster-cidr={}", spec.pods()),
            "--proxy-mode=nftables".into(),
            // The size of the connection table is the host's, not the node's to set.
            "--conntrack-max-per-core=0".into(),
        ],
    )
}

fn policy(spec: &Spec, node: u8) -> Program {
    let kubeconfig = format!("--kubeconfig={}", pki("volumes.kubeconfig"));
    let args = ["policy".to_owned(), kubeconfig, format!("--prefix={}", spec.node_prefix(node))];
    Program::new("policy", &format!("{CLUSTER_DIR}/bin/testenv"), args)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_node_runs_the_control_plane() {
        let spec = Spec::new(Path::new("/a"), 0, 2);
        let names = |node| of_node(&spec, node).iter().map(|program| program.name).collect::<Vec<_>>();
        assert!(names(0).contains(&"kube-apiserver") && names(0).contains(&"volumes"));
        assert_eq!(names(1), ["containerd", "kubelet", "kube-proxy", "policy"]);
    }
}
