//! The operator is killed at random points of first installs: every one ends the same, with one password.
#![expect(clippy::unwrap_used, reason = "a test stops where something is not as it should be")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use soma_control_plane_tests::world::only_postgres;
use soma_control_plane_tests::{OPERATOR, Soma, text};
use soma_crds::{SomaInfra, SomaStack};
use soma_testenv::Postgres;

const INSTALLS: usize = 20;

fn manifests(namespace: &str) -> [Value; 3] {
    [
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}),
        only_postgres(namespace, &json!({"managed": {}})),
        json!({
            "apiVersion": "somastack.dev/v1alpha1", "kind": "SomaStack",
            "metadata": {"name": "soma", "namespace": namespace}, "spec": {"infraRef": {"name": "shared"}},
        }),
    ]
}

/// Does what a node would do for the Postgres pod.
async fn start_postgres_pod(soma: &Soma, namespace: &str) {
    let pods: Api<Pod> = Api::namespaced(soma.client(), namespace);
    soma.eventually(pods.clone(), "postgres-0", "created", |p: Option<&Pod>| p.is_some()).await.unwrap();
    let condition = |type_: &str| json!({"type": type_, "status": "True"});
    let status = json!({"status": {"phase": "Running", "conditions": [condition("Ready"), condition("ContainersReady")]}});
    pods.patch_status("postgres-0", &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
}

async fn wait_ready(soma: &Soma, namespace: &str) {
    let infras: Api<SomaInfra> = Api::namespaced(soma.client(), namespace);
    let ready = |i: Option<&SomaInfra>| {
        i.and_then(|i| i.status.as_ref()?.condition("Ready").cloned()).is_some_and(|c| c.status == "True")
    };
    soma.eventually(infras, "shared", "Ready", ready).await.unwrap();
    let stacks: Api<SomaStack> = Api::namespaced(soma.client(), namespace);
    let stable = |s: Option<&SomaStack>| {
        s.and_then(|s| s.status.as_ref()?.services.as_ref()?.memory.stable.clone()).is_some()
    };
    let stack = soma.eventually(stacks.clone(), "soma", "a revision", stable).await.unwrap().unwrap();
    let revision = stack.status.unwrap().services.unwrap().memory.stable.unwrap().revision;
    soma.pretend_ready(namespace, &revision).await.unwrap();
    let ready = |s: Option<&SomaStack>| {
        s.and_then(|s| s.status.as_ref()?.condition("Ready").cloned()).is_some_and(|c| c.status == "True")
    };
    soma.eventually(stacks, "soma", "Ready", ready).await.unwrap();
}

/// Every object of a namespace with what was applied to it; two installs in one state give the same.
async fn end_state(soma: &Soma, namespace: &str) -> BTreeMap<String, String> {
    let client = soma.client();
    let ours = ListParams::default().labels("app.kubernetes.io/managed-by=soma-operator");
    let names = content_names(soma, namespace).await;
    let neutral = |text: String| {
        names.iter().fold(text, |text, (name, stands_for)| text.replace(name.as_str(), stands_for))
    };
    let mut state = BTreeMap::new();
    macro_rules! collect {
        ($kind:ty) => {
            for object in Api::<$kind>::namespaced(client.clone(), namespace).list(&ours).await.unwrap().items {
                let mut value = serde_json::to_value(&object).unwrap();
                let kept = json!({"spec": value["spec"].take(), "labels": value["metadata"]["labels"].take(), "config": value["data"].take()});
                let name = format!("{} {}", stringify!($kind), object.name_any());
                state.insert(neutral(name), neutral(normal(kept).to_string()));
            }
        };
    }
    collect!(StatefulSet);
    collect!(Deployment);
    collect!(Service);
    collect!(ConfigMap);
    for secret in Api::<Secret>::namespaced(client.clone(), namespace).list(&ours).await.unwrap().items {
        let keys: Vec<_> =
            secret.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.is_empty())).collect();
        state.insert(format!("Secret {}", secret.name_any()), format!("{keys:?}"));
    }
    state
}

/// Names that differ between two installs because they are made from their content, which holds the namespace.
async fn content_names(soma: &Soma, namespace: &str) -> Vec<(String, &'static str)> {
    let ours = ListParams::default().labels("app.kubernetes.io/name=memory");
    let deployments =
        Api::<Deployment>::namespaced(soma.client(), namespace).list(&ours).await.unwrap().items;
    assert_eq!(deployments.len(), 1, "one revision");
    let hash = deployments[0].labels()["configHash"].clone();
    vec![
        (deployments[0].name_any(), "REVISION"),
        (hash.clone(), "HASH"),
        (format!("memory-config-{}", &hash[3..11]), "CONFIG"),
        (namespace.to_owned(), "NAMESPACE"),
    ]
}

/// Addresses are given by the cluster.
fn normal(mut value: Value) -> Value {
    if let Some(spec) = value["spec"].as_object_mut() {
        spec.remove("clusterIP");
        spec.remove("clusterIPs");
    }
    value
}

/// A spread of delays, different in every run, printed when the test fails.
fn random_delays() -> Vec<Duration> {
    let seed = u64::from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos()) | 1;
    println!("seed {seed}");
    let mut state = seed;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        Duration::from_millis(state % 400)
    };
    (0..INSTALLS).map(|_| next()).collect()
}

#[tokio::test]
async fn an_operator_killed_anywhere_in_a_first_install_ends_in_the_same_state() {
    let postgres = Postgres::start().await.unwrap();
    postgres.psql("CREATE ROLE postgres SUPERUSER LOGIN").await.unwrap();
    let address = format!("127.0.0.1:{}", postgres.port());
    let mut soma = Soma::start(&["--postgres-address", &address]).await.unwrap();
    let mark = soma.plane.audit().mark().unwrap();
    let mut reference = None;
    for (index, delay) in random_delays().into_iter().enumerate() {
        let namespace = format!("install-{index}");
        for manifest in manifests(&namespace) {
            soma.apply(&manifest).unwrap();
        }
        // The first install is the fault-free one the others are compared with.
        if index > 0 {
            tokio::time::sleep(delay).await;
            soma.kill_operator().unwrap();
            soma.start_operator().unwrap();
        }
        start_postgres_pod(&soma, &namespace).await;
        if index % 2 == 1 {
            tokio::time::sleep(delay / 2).await;
            soma.kill_operator().unwrap();
            soma.start_operator().unwrap();
        }
        wait_ready(&soma, &namespace).await;
        let state = end_state(&soma, &namespace).await;
        assert_eq!(
            &state,
            reference.get_or_insert_with(|| state.clone()),
            "{namespace} after a kill at {delay:?}"
        );
        let conn: Secret = Api::namespaced(soma.client(), &namespace).get("postgres-conn").await.unwrap();
        let made: Secret =
            Api::namespaced(soma.client(), &namespace).get("postgres-superuser").await.unwrap();
        assert_eq!(text(&conn, "password"), text(&made, "somamemory"));
    }
    let writes = soma.plane.audit().writes_since(mark).unwrap();
    for name in ["postgres-superuser", "soma-api-token"] {
        let of_secret =
            writes.iter().filter(|w| w.user == OPERATOR && w.resource == "secrets" && w.name == name);
        let (made, other): (Vec<_>, Vec<_>) =
            of_secret.filter(|w| w.code < 300).partition(|w| w.verb == "create");
        // One that was made while the operator was killed may have nobody to be answered to.
        let once: BTreeSet<_> = made.iter().map(|w| &w.namespace).collect();
        assert!(
            made.len() == once.len() && once.len() <= INSTALLS,
            "{name} is made once per install: {made:?}"
        );
        assert!(other.is_empty(), "{name} is never changed: {other:?}");
    }
}
