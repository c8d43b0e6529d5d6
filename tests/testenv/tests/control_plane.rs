//! A control plane serves, counts writes, and leaves nothing behind.

use std::path::Path;

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{
    Api,
    api::{ListParams, PostParams},
};
use soma_testenv::ControlPlane;

fn alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

#[tokio::test]
async fn it_serves_counts_writes_and_is_gone_afterwards() {
    let plane = ControlPlane::start().await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(plane.client(), "default");
    let map: ConfigMap =
        serde_json::from_value(serde_json::json!({"metadata": {"name": "counted"}, "data": {"a": "1"}}))
            .unwrap();

    let mark = plane.audit().mark().unwrap();
    maps.create(&PostParams::default(), &map).await.unwrap();
    maps.get("counted").await.unwrap();
    let writes = plane.audit().writes_since(mark).unwrap();
    let ours: Vec<_> = writes.iter().filter(|write| write.user == "admin").collect();
    assert_eq!(ours.len(), 1, "{ours:?}");
    assert_eq!((ours[0].verb.as_str(), ours[0].name.as_str()), ("create", "counted"));

    // No node, so no pods; and the server answers kubectl.
    let pods: Api<Pod> = Api::all(plane.client());
    assert!(pods.list(&ListParams::default()).await.unwrap().items.is_empty());
    let said =
        soma_testenv::exec::run(plane.kubectl().args(["get", "configmap", "counted", "-o", "name"])).unwrap();
    assert_eq!(said, "configmap/counted");

    let (servers, kubeconfig) = (plane.pids(), plane.kubeconfig());
    assert!(servers.iter().all(|pid| alive(*pid)));
    drop(plane);
    assert!(servers.iter().all(|pid| !alive(*pid)));
    assert!(!kubeconfig.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_run_side_by_side() {
    let (one, two) = tokio::join!(ControlPlane::start(), ControlPlane::start());
    let (one, two) = (one.unwrap(), two.unwrap());
    let map: ConfigMap =
        serde_json::from_value(serde_json::json!({"metadata": {"name": "only-in-one"}})).unwrap();
    Api::default_namespaced(one.client()).create(&PostParams::default(), &map).await.unwrap();
    let other: Api<ConfigMap> = Api::default_namespaced(two.client());
    assert!(other.get_opt("only-in-one").await.unwrap().is_none());
}
