//! MemoryNamespaces against the real memory service.
#![expect(clippy::unwrap_used, reason = "a test stops where something is not as it should be")]

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use soma_control_plane_tests::text;
use soma_control_plane_tests::world::World;
use soma_crds::MemoryNamespace;
use soma_testenv::programs::program;
use soma_testenv::{Launch, RunDir, Supervised, free_port};

fn memory(name: &str, spec: &Value) -> Value {
    let mut manifest = json!({
        "apiVersion": "somastack.dev/v1alpha1", "kind": "MemoryNamespace", "metadata": {"name": name, "namespace": "soma"},
        "spec": {"stackRef": {"name": "soma"}, "tenant": "acme"},
    });
    for (key, value) in spec.as_object().unwrap() {
        manifest["spec"][key] = value.clone();
    }
    manifest
}

fn is(ready: &'static str, reason: &'static str) -> impl Fn(Option<&MemoryNamespace>) -> bool {
    move |memory| {
        memory.and_then(|m| Some((m, m.status.as_ref()?.condition("Ready")?))).is_some_and(|(m, c)| {
            c.status == ready && c.reason == reason && c.observed_generation == m.metadata.generation
        })
    }
}

struct Service {
    _process: Supervised,
    _dir: RunDir,
    url: String,
    token: String,
}

impl Service {
    fn start(http: u16, token: &str) -> Self {
        // Whoever installs it first: there is only one provider in this process.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = RunDir::new("memory").unwrap();
        let model = soma_testenv::model::ensure(&soma_testenv::cache::Cache::open().unwrap()).unwrap();
        let process =
            Launch::new("soma-memory", program("soma-memory").unwrap(), dir.path().join("memory.log"))
                .args(["--sqlite", &dir.path().join("memory.db").display().to_string()])
                .args([
                    "--http",
                    &format!("127.0.0.1:{http}"),
                    "--grpc",
                    &format!("127.0.0.1:{}", free_port().unwrap()),
                ])
                .args(["--model-dir", &model.display().to_string()])
                .env("SOMA_API_TOKEN", token)
                .start()
                .unwrap();
        Self { _process: process, _dir: dir, url: format!("http://127.0.0.1:{http}"), token: token.into() }
    }

    async fn ask(&self, method: &str, path: &str, namespace: &str, body: Option<Value>) -> (u16, Value) {
        let http = reqwest::Client::new();
        let mut request = http
            .request(method.parse().unwrap(), format!("{}{path}", self.url))
            .bearer_auth(&self.token)
            .header("x-soma-namespace", namespace);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap_or_default())
    }
}

#[tokio::test]
async fn namespaces_are_bound_report_usage_and_are_deleted_by_policy() {
    let port = free_port().unwrap();
    let url = format!("http://127.0.0.1:{port}");
    let world = World::start(&["--memory-url", &url]).await.unwrap();
    let soma = &world.soma;
    let api: Api<MemoryNamespace> = Api::namespaced(soma.client(), "soma");
    soma.apply(&memory("notes", &json!({"quota": {"memories": 1}, "deletionPolicy": "Delete"}))).unwrap();
    soma.eventually(api.clone(), "notes", "StackNotFound", is("False", "StackNotFound")).await.unwrap();
    world.install().await.unwrap();
    soma.eventually(api.clone(), "notes", "ServiceUnreachable", is("False", "ServiceUnreachable"))
        .await
        .unwrap();

    let secret: Secret = Api::namespaced(soma.client(), "soma").get("soma-api-token").await.unwrap();
    let service = Service::start(port, &text(&secret, "SOMA_API_TOKEN"));
    soma.eventually(api.clone(), "notes", "Ready", is("True", "Ready")).await.unwrap();

    // Usage arrives by the service's stream; a quota is enforced and can be raised.
    let store = |n: i32| {
        Some(json!({"coord": format!("0.{n},0.2,0.3"), "payload": {"content": format!("note {n}")}}))
    };
    let (status, answer) = service.ask("POST", "/memories", "notes", store(1)).await;
    assert!(status < 300, "{status} {answer}");
    let holds = |n: i64| {
        move |m: Option<&MemoryNamespace>| {
            m.and_then(|m| m.status.as_ref()?.usage).is_some_and(|u| u.memories == n)
        }
    };
    soma.eventually(api.clone(), "notes", "one memory", holds(1)).await.unwrap();
    let (status, answer) = service.ask("POST", "/memories", "notes", store(2)).await;
    assert!((400..500).contains(&status), "over quota: {status} {answer}");
    let raised = json!({"spec": {"quota": {"memories": 5}}});
    api.patch("notes", &PatchParams::default(), &Patch::Merge(&raised)).await.unwrap();
    soma.eventually(api.clone(), "notes", "Ready", is("True", "Ready")).await.unwrap();
    let (status, answer) = service.ask("POST", "/memories", "notes", store(2)).await;
    assert!(status < 300, "{status} {answer}");

    // The service already binds `default` to tenant `default`.
    soma.apply(&memory("default", &json!({}))).unwrap();
    soma.eventually(api.clone(), "default", "BindingConflict", is("False", "BindingConflict")).await.unwrap();

    soma.apply(&memory("kept", &json!({}))).unwrap();
    soma.eventually(api.clone(), "kept", "Ready", is("True", "Ready")).await.unwrap();
    for name in ["notes", "kept"] {
        api.delete(name, &DeleteParams::default()).await.unwrap();
        soma.eventually(api.clone(), name, "gone", |m: Option<&MemoryNamespace>| m.is_none()).await.unwrap();
    }
    let (status, _) = service.ask("GET", "/v1/admin/namespaces/notes", "default", None).await;
    assert_eq!(status, 404, "deleted with its memories");
    let (status, _) = service.ask("GET", "/v1/admin/namespaces/kept", "default", None).await;
    assert_eq!(status, 200, "deletionPolicy Retain leaves it");

    // The stack is held back while a namespace lives in it, and goes afterwards.
    world.stacks.delete("soma", &DeleteParams::default()).await.unwrap();
    let held = |s: Option<&soma_crds::SomaStack>| {
        s.and_then(|s| s.status.as_ref()?.condition("Ready").cloned())
            .is_some_and(|c| c.reason == "InUse" && c.message.contains("default"))
    };
    soma.eventually(world.stacks.clone(), "soma", "InUse", held).await.unwrap();
    api.delete("default", &DeleteParams::default()).await.unwrap();
    let gone = |s: Option<&soma_crds::SomaStack>| s.is_none();
    soma.eventually(world.stacks.clone(), "soma", "gone", gone).await.unwrap();
}
