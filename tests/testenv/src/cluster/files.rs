//! The configuration files of a cluster: credentials, and what containerd, the kubelet and the CNI plugins read.

use std::{fs, io, path::Path};

use serde_json::json;

use crate::{
    cluster::spec::{CLUSTER_DIR, CONTAINERD_SOCKET, NODE_DIR, Spec},
    images::PAUSE,
    pki::{self, Authority, PkiError},
};

/// Writes the cluster's credentials and every node's configuration, and the administrator's kubeconfig to `admin`.
pub fn write(spec: &Spec, admin: &Path) -> Result<(), PkiError> {
    let authority = Authority::new(&spec.bridge())?;
    write_control_plane(spec, &authority, admin)?;
    for node in 0..spec.nodes {
        write_node(spec, &authority, node)?;
    }
    Ok(())
}

fn write_control_plane(spec: &Spec, authority: &Authority, admin: &Path) -> Result<(), PkiError> {
    let pki = spec.dir.join("pki");
    fs::create_dir_all(&pki)?;
    fs::create_dir_all(spec.dir.join("volumes"))?;
    fs::write(pki.join("ca.crt"), authority.pem())?;
    pki::write_private(&pki.join("ca.key"), &authority.key_pem())?;
    pki::write_service_account_keys(&pki)?;
    let mut hosts =
        vec![spec.node_address(0), spec.api_service(), "127.0.0.1".to_owned(), "localhost".to_owned()];
    hosts.extend(
        [
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ]
        .map(str::to_owned),
    );
    authority.issue("kube-apiserver", None, &hosts)?.write(&pki, "apiserver")?;
    let administrator = authority.issue("admin", Some("system:masters"), &[])?;
    administrator.write(&pki, "admin")?;
    authority.write_kubeconfig(admin, &spec.api_url(), &administrator)?;
    let users = [
        ("controller-manager", "system:kube-controller-manager", None),
        ("scheduler", "system:kube-scheduler", None),
        ("proxy", "system:kube-proxy", None),
        ("volumes", "volume-provisioner", Some("system:masters")),
    ];
    for (file, user, group) in users {
        let credentials = authority.issue(user, group, &[])?;
        authority.write_kubeconfig(&pki.join(format!("{file}.kubeconfig")), &spec.api_url(), &credentials)?;
    }
    Ok(())
}

fn write_node(spec: &Spec, authority: &Authority, node: u8) -> Result<(), PkiError> {
    let (dir, name) = (spec.node_dir(node), spec.node_name(node));
    for folder in ["cni", "log", "var-lib", "var-log", "containerd"] {
        fs::create_dir_all(dir.join(folder))?;
    }
    let hosts = [name.clone(), spec.node_address(node)];
    let credentials = authority.issue(&format!("system:node:{name}"), Some("system:nodes"), &hosts)?;
    credentials.write(&dir, "kubelet")?;
    authority.write_kubeconfig(&dir.join("kubelet.kubeconfig"), &spec.api_url(), &credentials)?;
    fs::write(dir.join("kubelet.json"), to_json(&kubelet(spec, node))?)?;
    fs::write(dir.join("containerd.toml"), containerd())?;
    fs::write(dir.join("cni/10-soma.conflist"), to_json(&cni(spec, node))?)?;
    // The kubelet insists on a file; pods ask the cluster's DNS and nothing else.
    fs::write(dir.join("resolv.conf"), "")?;
    Ok(())
}

fn to_json(value: &serde_json::Value) -> io::Result<Vec<u8>> {
    Ok(serde_json::to_vec_pretty(value)?)
}

fn kubelet(spec: &Spec, node: u8) -> serde_json::Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": format!("{CLUSTER_DIR}/pki/ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": format!("{NODE_DIR}/kubelet.crt"),
        "tlsPrivateKeyFile": format!("{NODE_DIR}/kubelet.key"),
        "containerRuntimeEndpoint": format!("unix://{CONTAINERD_SOCKET}"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{}/{}", spec.cgroup(), spec.node_name(node)),
        "enforceNodeAllocatable": [],
        "clusterDNS": [spec.dns()],
        "clusterDomain": "cluster.local",
        "resolvConf": format!("{NODE_DIR}/resolv.conf"),
        "volumePluginDir": format!("{NODE_DIR}/volume-plugins"),
        "failSwapOn": false,
        "serializeImagePulls": false,
        // A developer's disk is often nearly full; images cannot be fetched again, so none is ever removed.
        "evictionHard": {},
        "imageGCHighThresholdPercent": 100,
    })
}

fn containerd() -> String {
    format!(
        r#"version = 2
root = "{NODE_DIR}/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{NODE_DIR}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{NODE_DIR}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"#
    )
}

fn cni(spec: &Spec, node: u8) -> serde_json::Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "soma",
        "plugins": [{
            "type": "bridge",
            "bridge": "pods",
            "isGateway": true,
            "ipMasq": false,
            "hairpinMode": true,
            "ipam": {
                "type": "host-local",
                "dataDir": format!("{NODE_DIR}/addresses"),
                "ranges": [[{"subnet": spec.node_pods(node)}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }],
    })
}
