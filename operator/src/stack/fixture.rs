//! Manifests and surroundings for tests.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;
use soma_crds::SomaStack;

use super::dereference::Observed;

/// A stack with this spec beside its `infraRef`.
pub fn stack(mut spec: serde_json::Value) -> SomaStack {
    spec["infraRef"] = json!({"name": "shared", "namespace": "soma-infra"});
    serde_json::from_value(json!({
        "apiVersion": "somastack.dev/v1alpha1", "kind": "SomaStack",
        "metadata": {"name": "soma", "namespace": "soma", "uid": "u2", "generation": 1},
        "spec": spec,
    }))
    .unwrap()
}

/// A cluster whose SomaInfra is ready.
pub fn observed() -> Observed {
    let data = [
        ("host", "postgres.soma-infra.svc.cluster.local"),
        ("port", "5432"),
        ("database", "somamemory"),
        ("username", "somamemory"),
        ("password", "p"),
        ("sslmode", "prefer"),
    ];
    let data = data.iter().map(|(k, v)| ((*k).to_owned(), ByteString(v.as_bytes().to_vec()))).collect();
    Observed {
        has_infra: true,
        conn: Some(Secret { data: Some(data), ..Default::default() }),
        ..Default::default()
    }
}
