//! Manifests and surroundings for tests.
#![expect(clippy::needless_pass_by_value, reason = "a literal reads better without a reference")]

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;
use soma_crds::SomaInfra;

use super::tenants::Tenant;

pub fn infra(spec: serde_json::Value) -> SomaInfra {
    serde_json::from_value(json!({
        "apiVersion": "somastack.dev/v1alpha1", "kind": "SomaInfra",
        "metadata": {"name": "shared", "namespace": "soma-infra", "uid": "u1", "generation": 1},
        "spec": spec,
    }))
    .unwrap()
}

pub fn managed() -> SomaInfra {
    infra(json!({"aliasNamespaces": ["soma"]}))
}

pub fn secret(data: &[(&str, &str)]) -> Secret {
    let data = data.iter().map(|(k, v)| ((*k).to_owned(), ByteString(v.as_bytes().to_vec()))).collect();
    Secret { data: Some(data), ..Default::default() }
}

pub fn external() -> SomaInfra {
    infra(json!({"aliasNamespaces": ["soma"], "postgres": {"external": {"secretRef": {"name": "pg"}}}}))
}

/// A MemoryNamespace of tenant acme that nothing was given yet; `spec` beside what is always there.
pub fn tenant(namespace: &str, name: &str, mut spec: serde_json::Value) -> Tenant {
    spec["stackRef"] = json!({"name": "soma"});
    spec["tenant"] = json!("acme");
    Tenant {
        namespace: namespace.into(),
        name: name.into(),
        uid: "u2".into(),
        generation: 1,
        spec: serde_json::from_value(spec).unwrap(),
        leaving: false,
        secret: None,
    }
}
