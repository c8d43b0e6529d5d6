//! Network policies of the native cluster: what lets packets into pods, as nftables rules of each node.
//!
//! A subset of what Kubernetes defines, and what it lacks is refused loudly: only ingress, only ports by number. Nothing
//! a package registry carries enforces policies on this kernel, and operators must be tried against real refusals.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    io::{self, Write as _},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt, StreamExt};
use k8s_openapi::{
    api::{
        core::v1::{Namespace, Pod},
        networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort},
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use kube::{
    Api, Client, Config, ResourceExt,
    config::{KubeConfigOptions, Kubeconfig},
    core::{Selector, SelectorExt},
    runtime::{
        WatchStreamExt, reflector,
        reflector::{Lookup, Store},
        watcher,
    },
};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

/// Changes within this time are one change.
const SETTLE: Duration = Duration::from_millis(50);

/// Why policies can no longer be enforced.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The kubeconfig cannot be used.
    #[error("cannot read the kubeconfig")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    /// The API server cannot be asked.
    #[error("cannot reach the API server")]
    Client(#[from] kube::Error),
    /// `nft` cannot be run.
    #[error("cannot run nft")]
    Io(#[from] io::Error),
    /// `nft` refused the rules.
    #[error("nft refused the rules: {0}")]
    Nft(String),
}

/// Enforces the policies on the pods of this node, whose addresses begin with `prefix`, until the process ends.
pub async fn enforce(kubeconfig: &Path, prefix: &str) -> Result<(), PolicyError> {
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(Kubeconfig::read_from(kubeconfig)?, &options).await?;
    let client = Client::try_from(config)?;
    let changed = Arc::new(Notify::new());
    let policies = follow::<NetworkPolicy>(&client, &changed);
    let pods = follow::<Pod>(&client, &changed);
    let namespaces = follow::<Namespace>(&client, &changed);
    let mut last = String::new();
    loop {
        changed.notified().await;
        tokio::time::sleep(SETTLE).await;
        let complete = is_complete(&policies) && is_complete(&pods) && is_complete(&namespaces);
        if !complete {
            continue;
        }
        let world = World { policies: policies.state(), pods: pods.state(), namespaces: namespaces.state() };
        let rules = world.rules(prefix);
        if rules != last {
            load(&rules)?;
            last = rules;
        }
    }
}

/// A copy of all objects of a kind, kept current; `changed` is told of every change.
fn follow<K>(client: &Client, changed: &Arc<Notify>) -> Store<K>
where
    K: kube::Resource<DynamicType = ()>
        + Lookup<DynamicType = ()>
        + Clone
        + DeserializeOwned
        + Send
        + Sync
        + std::fmt::Debug
        + 'static,
{
    let (store, writer) = reflector::store();
    let objects = watcher(Api::<K>::all(client.clone()), watcher::Config::default());
    let tell = Arc::clone(changed);
    tokio::spawn(objects.default_backoff().reflect(writer).for_each(move |change| {
        if let Err(error) = change {
            eprintln!("watching: {error}");
        }
        tell.notify_one();
        futures::future::ready(())
    }));
    store
}

fn is_complete<K>(store: &Store<K>) -> bool
where
    K: Lookup<DynamicType = ()> + Clone + 'static,
{
    store.wait_until_ready().now_or_never().is_some()
}

fn load(rules: &str) -> Result<(), PolicyError> {
    let mut nft =
        Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let Some(mut input) = nft.stdin.take() {
        input.write_all(rules.as_bytes())?;
    }
    let output = nft.wait_with_output()?;
    let said = || PolicyError::Nft(String::from_utf8_lossy(&output.stderr).into_owned());
    output.status.success().then_some(()).ok_or_else(said)
}

/// Everything the rules follow from.
struct World {
    policies: Vec<Arc<NetworkPolicy>>,
    pods: Vec<Arc<Pod>>,
    namespaces: Vec<Arc<Namespace>>,
}

impl World {
    /// One chain for every pod of this node that a policy selects. Answers pass, and so does the node itself.
    fn rules(&self, prefix: &str) -> String {
        let mut jumps = String::new();
        let mut chains = String::new();
        for pod in self.pods.iter().filter(|pod| address(pod).is_some_and(|ip| ip.starts_with(prefix))) {
            let policies: Vec<_> = self.policies.iter().filter(|policy| selects(policy, pod)).collect();
            let Some(ip) = address(pod).filter(|_| !policies.is_empty()) else { continue };
            let chain = format!("pod-{}", ip.replace('.', "-"));
            let _ = writeln!(jumps, "    ip daddr {ip} goto {chain}");
            let accepts: BTreeSet<_> = policies.iter().flat_map(|policy| self.accepts(policy)).collect();
            let accepts = accepts.iter().fold(String::new(), |all, rule| all + "    " + rule + " accept\n");
            let _ = writeln!(chains, "  chain {chain} {{\n{accepts}    counter drop\n  }}");
        }
        format!(
            "table inet soma-policy\ndelete table inet soma-policy\ntable inet soma-policy {{\n{chains}  chain forward {{\n    \
             type filter hook forward priority 10; policy accept;\n    ct state established,related accept\n    \
             ip saddr {prefix}1 accept\n{jumps}  }}\n}}\n"
        )
    }

    /// What a policy lets in, as matches of nftables.
    fn accepts(&self, policy: &NetworkPolicy) -> Vec<String> {
        let namespace = policy.metadata.namespace.clone().unwrap_or_default();
        let mut all = Vec::new();
        for rule in policy.spec.iter().flat_map(|spec| spec.ingress.iter().flatten()) {
            let sources = match &rule.from {
                Some(from) if !from.is_empty() => {
                    from.iter().filter_map(|peer| self.sources(peer, &namespace)).collect()
                }
                _ => vec![String::new()],
            };
            let ports = match &rule.ports {
                Some(ports) if !ports.is_empty() => ports.iter().filter_map(port).collect(),
                _ => vec![String::new()],
            };
            all.extend(
                sources.iter().flat_map(|from| {
                    ports.iter().map(move |port| format!("{from} {port}").trim().to_owned())
                }),
            );
        }
        all
    }

    /// Whom a peer stands for; none when nobody is there.
    fn sources(&self, peer: &NetworkPolicyPeer, own: &str) -> Option<String> {
        if let Some(block) = &peer.ip_block {
            let except =
                block.except.iter().flatten().fold(String::new(), |all, cidr| all + " ip saddr != " + cidr);
            return Some(format!("ip saddr {}{except}", block.cidr));
        }
        let there: BTreeSet<_> = self
            .pods
            .iter()
            .filter(|pod| match &peer.namespace_selector {
                None => pod.metadata.namespace.as_deref() == Some(own),
                Some(selector) => self
                    .labels_of(pod.metadata.namespace.as_deref())
                    .is_some_and(|labels| matches(selector, labels)),
            })
            .filter(|pod| peer.pod_selector.as_ref().is_none_or(|selector| matches(selector, pod.labels())))
            .filter_map(|pod| address(pod))
            .collect();
        let there: Vec<_> = there.into_iter().collect();
        (!there.is_empty()).then(|| format!("ip saddr {{ {} }}", there.join(", ")))
    }

    fn labels_of(&self, namespace: Option<&str>) -> Option<&BTreeMap<String, String>> {
        self.namespaces.iter().find(|one| one.metadata.name.as_deref() == namespace).map(|one| one.labels())
    }
}

/// The address of a pod that has one of its own.
fn address(pod: &Pod) -> Option<&str> {
    let on_host = pod.spec.as_ref()?.host_network.unwrap_or_default();
    pod.status.as_ref()?.pod_ip.as_deref().filter(|_| !on_host)
}

fn selects(policy: &NetworkPolicy, pod: &Pod) -> bool {
    let everybody = LabelSelector::default();
    let Some(spec) = policy.spec.as_ref().filter(|_| policy.metadata.namespace == pod.metadata.namespace)
    else {
        return false;
    };
    matches(spec.pod_selector.as_ref().unwrap_or(&everybody), pod.labels())
}

fn matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    Selector::try_from(selector.clone()).is_ok_and(|selector| selector.matches(labels))
}

/// A port as a match of nftables; what cannot be enforced lets nobody in.
fn port(port: &NetworkPolicyPort) -> Option<String> {
    let protocol = port.protocol.as_deref().unwrap_or("TCP").to_lowercase();
    match (&port.port, port.end_port) {
        (None, _) => Some(format!("meta l4proto {protocol}")),
        (Some(IntOrString::Int(first)), Some(last)) => Some(format!("{protocol} dport {first}-{last}")),
        (Some(IntOrString::Int(number)), None) => Some(format!("{protocol} dport {number}")),
        (Some(IntOrString::String(name)), _) => {
            eprintln!("port {name} of a policy is named, which is not enforced here: nobody is let in by it");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(namespace: &str, app: &str, ip: &str) -> Arc<Pod> {
        let pod = json!({
            "metadata": {"name": app, "namespace": namespace, "labels": {"app": app}},
            "spec": {"containers": []}, "status": {"podIP": ip},
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn world(ingress: &Value) -> World {
        let policy = json!({
            "metadata": {"name": "db", "namespace": "a"},
            "spec": {"podSelector": {"matchLabels": {"app": "db"}}, "ingress": ingress},
        });
        let namespace = |name: &str| {
            let labels = json!({"metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}}});
            Arc::new(serde_json::from_value(labels).unwrap())
        };
        World {
            policies: vec![Arc::new(serde_json::from_value(policy).unwrap())],
            pods: vec![
                pod("a", "db", "10.210.0.5"),
                pod("a", "web", "10.210.1.6"),
                pod("b", "web", "10.210.0.7"),
                pod("b", "db", "10.210.0.8"),
            ],
            namespaces: vec![namespace("a"), namespace("b")],
        }
    }

    /// The rules of the only pod of this node that is selected.
    fn chain(ingress: &Value) -> Vec<String> {
        let rules = world(ingress).rules("10.210.0.");
        let inside = rules.lines().skip_while(|line| !line.contains("chain pod-10-210-0-5")).skip(1);
        inside.take_while(|line| line.trim() != "}").map(|line| line.trim().to_owned()).collect()
    }

    #[test]
    fn only_selected_pods_of_this_node_are_closed() {
        let rules = world(&json!([])).rules("10.210.0.");
        assert_eq!(rules.matches("goto").count(), 1, "{rules}");
        assert_eq!(chain(&json!([])), ["counter drop"]);
        assert!(!world(&json!([])).rules("10.210.1.").contains("goto"));
    }

    #[test]
    fn peers_are_the_pods_they_stand_for() {
        let in_b = json!({"matchLabels": {"kubernetes.io/metadata.name": "b"}});
        let cases = [
            (json!([{}]), "accept"),
            (
                json!([{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}]}]),
                "ip saddr { 10.210.1.6 } accept",
            ),
            (json!([{"from": [{"namespaceSelector": in_b}]}]), "ip saddr { 10.210.0.7, 10.210.0.8 } accept"),
            (
                json!([{"from": [{"namespaceSelector": in_b, "podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"port": 1}]}]),
                "ip saddr { 10.210.0.7 } tcp dport 1 accept",
            ),
            (
                json!([{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}], "ports": [{"port": 1, "endPort": 9, "protocol": "UDP"}]}]),
                "ip saddr 10.0.0.0/8 ip saddr != 10.1.0.0/16 udp dport 1-9 accept",
            ),
        ];
        for (ingress, expected) in cases {
            assert_eq!(chain(&ingress), [expected, "counter drop"], "{ingress}");
        }
    }

    #[test]
    fn nobody_behind_a_peer_and_a_named_port_let_nobody_in() {
        let nobody = json!([{"from": [{"podSelector": {"matchLabels": {"app": "none"}}}]}]);
        let named = json!([{"ports": [{"port": "http"}]}]);
        assert_eq!([chain(&nobody), chain(&named)], [["counter drop"], ["counter drop"]]);
    }
}
