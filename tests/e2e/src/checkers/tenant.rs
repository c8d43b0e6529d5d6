//! Tenants: a SomaStack in a namespace of its own, and MemoryNamespaces beside it.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::Node;

/// Where the stack and the tenants' programs are.
pub const NAMESPACE: &str = "tenants";

/// Applies a MemoryNamespace with this spec beside its stack, and the stack and the namespace before.
pub fn apply(node: &Node, name: &str, mut spec: Value) -> Result<()> {
    spec["stackRef"] = json!({"name": "soma"});
    let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    let object = |kind: &str, name: &str, spec: Value| json!({"apiVersion": "somastack.dev/v1alpha1", "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec});
    let infra = json!({"infraRef": {"name": "shared", "namespace": "soma-infra"}, "environment": "dev"});
    node.apply(&json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}},
        object("SomaStack", "soma", infra),
        object("MemoryNamespace", name, spec),
    ]}))
}

/// What the tenant's programs are given, once the MemoryNamespace is ready.
pub async fn access(node: &Node, name: &str) -> Result<BTreeMap<String, String>> {
    node.until(&format!("MemoryNamespace {name} is ready"), |node| Ok(reason(node, name)? == "Ready"))
        .await?;
    let secret = format!("{name}-access");
    let all =
        r#"go-template={{range $key, $value := .data}}{{$key}}={{$value | base64decode}}{{"\n"}}{{end}}"#;
    let data = node.kubectl(&["-n", NAMESPACE, "get", "secret", &secret, "-o", all])?;
    data.lines()
        .map(|line| line.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned())))
        .collect::<Option<_>>()
        .context("a Secret with something else in it")
}

/// Why the MemoryNamespace is, or is not, ready.
pub fn reason(node: &Node, name: &str) -> Result<String> {
    let path = r#"jsonpath={.status.conditions[?(@.type=="Ready")].reason}"#;
    node.kubectl(&["-n", NAMESPACE, "get", "memorynamespace", name, "-o", path])
}
