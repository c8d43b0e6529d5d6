//! The policies, their bundle and its server on a real OPA.

use std::time::Duration;

use futures::FutureExt;
use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};
use soma_testenv::Opa;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::bundle::Bundle;
use super::core;
use super::engine::Policies;
use super::external::{decide, probe};
use super::members::{Status, ask};
use super::publish;
use super::rego::File;
use super::sign::Signing;
use super::tenants::tests::{NO_DELETE, map};
use super::validate::Connection;
use super::{build, bundle};
use crate::bundles::{Served, Shelf, router};
use crate::infra::component::State;

/// An OPA, and the server it gets its policies from.
struct Ground {
    http: reqwest::Client,
    signing: Signing,
    shelf: watch::Sender<Shelf>,
    /// Base URL of the bundle server.
    bundles: String,
    opa: Opa,
}

fn key() -> (String, String) {
    ("soma-infra".into(), "shared".into())
}

impl Ground {
    async fn new() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let signing = Signing::fixed();
        let (shelf, receiver) = watch::channel(Shelf::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let bundles = format!("http://{}", listener.local_addr().unwrap());
        let never = futures::future::pending().boxed().shared();
        tokio::spawn(axum::serve(listener, router(receiver, never)).into_future());
        let config =
            build::config("bundles/soma-infra/shared", &bundles, &signing, "policies/token", "state")
                .unwrap();
        let files = [("authz.rego", core::AUTHZ), ("token", signing.token.as_str())];
        let opa = Opa::start_guarded(&config, &files).await.unwrap();
        Self { http: reqwest::Client::new(), signing, shelf, bundles, opa }
    }

    fn serve(&self, bytes: Vec<u8>) {
        self.shelf.send_modify(|shelf| {
            shelf.insert(key(), Served::new(bytes, self.signing.token.clone()));
        });
    }

    fn publish(&self, given: &[super::tenants::Given]) -> Bundle {
        let published = publish::next(None, given, &self.signing).unwrap();
        assert_eq!(published.refused, [].into());
        self.serve(published.bundle.bytes.clone());
        published.bundle
    }

    fn connection(&self) -> Connection {
        Connection { url: self.opa.url(), host: "127.0.0.1".into(), port: 0, token: None }
    }

    async fn status(&self) -> Status {
        ask(&self.http, &self.opa.url(), None).await.unwrap()
    }

    async fn until(&self, what: &str, holds: impl Fn(&Status) -> bool) -> Status {
        for _ in 0..300 {
            let status = self.status().await;
            if holds(&status) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{what}: {:?}", self.status().await)
    }

    async fn active(&self, bundle: &Bundle) {
        self.until("the revision is active", |s| s.revision.as_ref() == Some(&bundle.revision)).await;
    }

    async fn decide(&self, input: &Value) -> Value {
        decide(&self.http, &self.connection(), input).await.unwrap().unwrap()
    }

    async fn call(&self, method: Method, path: &str) -> StatusCode {
        let request = self.http.request(method, format!("{}{path}", self.opa.url()));
        request.body("{}").send().await.unwrap().status()
    }
}

fn request(action: &str) -> Value {
    json!({
        "subject": {"id": "u1", "tenant": "acme", "scopes": ["memory.*", "conversation.send", "tool.execute"], "roles": []},
        "action": action,
        "resource": {"type": "memory", "id": "m1", "tenant": "acme", "attributes": {}},
        "context": {"request_id": "r", "method": "POST", "path": "/", "ip": "10.0.0.1", "persona_id": "p"},
    })
}

#[tokio::test]
async fn a_policy_becomes_active_without_a_restart_and_only_the_operators_does() {
    let mut ground = Ground::new().await;
    // Without policies it is alive, and nothing is allowed.
    assert_eq!(ground.call(Method::GET, "/health").await, StatusCode::OK);
    assert_ne!(ground.call(Method::GET, "/health?bundles").await, StatusCode::OK);
    assert!(decide(&ground.http, &ground.connection(), &request("memory.read")).await.unwrap().is_none());
    assert!(matches!(
        probe(&ground.http, &ground.connection()).await,
        State::Stuck { reason: "DecisionMissing", .. }
    ));

    let first = ground.publish(&[]);
    ground.active(&first).await;
    assert_eq!(ground.call(Method::GET, "/health?bundles").await, StatusCode::OK);
    let allowed = json!({"allow": true, "reasons": [], "obligations": {}});
    assert_eq!(ground.decide(&request("memory.delete")).await, allowed);
    let denied = ground.decide(&request("settings.update")).await;
    assert_eq!(denied, json!({"allow": false, "reasons": ["no scope covers the action"], "obligations": {}}));
    let ready = probe(&ground.http, &ground.connection()).await;
    assert!(matches!(&ready, State::Ready { version } if version == "1.22.0"), "{ready:?}");

    // Long before the next poll: OPA waits at the server.
    let started = std::time::Instant::now();
    let odd = r#"{"obligations": {"note": "\u2028 <&> \u0007 ü 1.50 \""}, "data": {"n": [1.5, 1e30, -0.0, 12345678901234567890]}}"#;
    let second = ground.publish(&[
        map("one", &[("p.rego", NO_DELETE)]),
        map("two", &[("a/b \"ü.json", "{}"), ("acme.json", odd)]),
    ]);
    ground.active(&second).await;
    println!("active after {:?}", started.elapsed());
    let denied = ground.decide(&request("memory.delete")).await;
    assert_eq!(denied["reasons"], json!(["acme deletes nothing"]));
    assert_eq!(ground.decide(&request("memory.read")).await["allow"], true);

    // Signed by another key.
    let foreign = bundle::pack(&[].into(), &Signing::generate()).unwrap();
    ground.serve(foreign.bytes);
    let status = ground.until("a foreign bundle is refused", |status| status.trouble.is_some()).await;
    assert_eq!(status.revision.as_ref(), Some(&second.revision), "{status:?}");
    println!("{:?}", status.trouble);
    assert_eq!(ground.decide(&request("memory.delete")).await["allow"], false);

    // Nobody changes anything but through the operator.
    for (method, path) in [
        (Method::PUT, "/v1/policies/x"),
        (Method::GET, "/v1/policies"),
        (Method::DELETE, "/v1/policies/bundles/soma/soma/soma.rego"),
        (Method::PUT, "/v1/data/tenants/acme"),
        (Method::PATCH, "/v1/data/soma/policy/allow"),
        (Method::GET, "/v1/data"),
        (Method::GET, "/v1/config"),
        (Method::POST, "/v1/query"),
        (Method::POST, "/v1/compile"),
        (Method::POST, "/"),
    ] {
        assert_eq!(ground.call(method.clone(), path).await, StatusCode::UNAUTHORIZED, "{method} {path}");
    }

    // It comes back with what it had, also while the operator is away.
    ground.shelf.send_modify(Shelf::clear);
    ground.opa.kill().await.unwrap();
    ground.opa.start_again().await.unwrap();
    ground.active(&second).await;
    assert_eq!(ground.decide(&request("memory.delete")).await["allow"], false);
    assert_eq!(ground.decide(&request("memory.read")).await["allow"], true);
}

#[tokio::test]
async fn a_bundle_is_for_who_has_the_token() {
    let ground = Ground::new().await;
    let bundle = ground.publish(&[]);
    let get = |path: &str, token: &str, etag: &str| {
        let url = format!("{}/bundles/{path}", ground.bundles);
        let request = ground.http.get(url).bearer_auth(token).header(header::IF_NONE_MATCH, etag);
        async move { request.send().await.unwrap() }
    };
    let whole = get("soma-infra/shared", &ground.signing.token, "").await;
    assert_eq!(whole.status(), StatusCode::OK);
    let etag = whole.headers()[header::ETAG].to_str().unwrap().to_owned();
    assert_eq!(whole.bytes().await.unwrap(), bundle.bytes);
    assert_eq!(
        get("soma-infra/shared", &ground.signing.token, &etag).await.status(),
        StatusCode::NOT_MODIFIED
    );
    for wrong in ["", "x", &ground.signing.token[1..]] {
        let refused = get("soma-infra/shared", wrong, &etag).await;
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
        assert!(refused.text().await.unwrap().contains("opa-signing"));
    }
    assert_eq!(get("soma-infra/other", &ground.signing.token, "").await.status(), StatusCode::NOT_FOUND);
    assert_eq!(get("other/shared", &ground.signing.token, "").await.status(), StatusCode::NOT_FOUND);
}

/// Everything that can be odd about an input, one at a time.
fn inputs() -> Vec<Value> {
    let odd = [
        json!(null),
        json!(true),
        json!(1),
        json!(1.5),
        json!(""),
        json!("x"),
        json!([]),
        json!(["memory.*", 1, null, "*"]),
        json!({}),
        json!({"admin": "admin"}),
    ];
    let paths = [
        "",
        "/subject",
        "/subject/id",
        "/subject/tenant",
        "/subject/scopes",
        "/subject/roles",
        "/action",
        "/resource",
        "/resource/id",
        "/resource/tenant",
    ];
    let mut inputs = Vec::new();
    for action in [
        "memory.read",
        "memory.delete",
        "memory.burn",
        "conversation.send",
        "tool.execute",
        "settings.read",
        "settings.update",
        "tool.catalog.update",
        "llm.invoke",
        "audit.read",
        "constitution.load",
        "admin.users",
        "admin.",
        "admin",
    ] {
        inputs.push(request(action));
        let mut admin = request(action);
        admin["subject"]["roles"] = json!(["admin"]);
        admin["subject"]["scopes"] = json!(["admin.*", action]);
        inputs.push(admin.clone());
        admin["resource"]["tenant"] = json!("other");
        inputs.push(admin);
    }
    for tenant in ["suspended", "bound", "odd \"name", "policed"] {
        for action in ["memory.read", "memory.delete", "tool.execute"] {
            let mut one = request(action);
            one["subject"]["tenant"] = json!(tenant);
            one["resource"]["tenant"] = json!(tenant);
            inputs.push(one.clone());
            one["resource"]["id"] = json!("shell");
            inputs.push(one);
        }
    }
    for action in ["memory.read", "tool.execute", "admin.users"] {
        for path in paths {
            for value in &odd {
                let mut one = request(action);
                *one.pointer_mut(path).unwrap() = value.clone();
                inputs.push(one);
            }
            let Some((parent, field)) = path.rsplit_once('/') else { continue };
            let mut one = request(action);
            one.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(field);
            inputs.push(one);
        }
    }
    inputs
}

/// What decides on a laptop is what decides on a cluster.
#[tokio::test]
async fn the_embedded_engine_decides_as_opa_does() {
    let ground = Ground::new().await;
    let policy = "package tenant_policies.policed\n\ndeny contains reason if {\n\tsome tool in {\"shell\", \"m1\"}\n\tinput.resource.id == tool\n\treason := sprintf(\"no %s, %d\", [tool, count(input.subject.scopes)])\n}\n\ndeny contains \"night\" if not regex.match(`^memory\\.`, input.action)\n";
    let documents = [
        ("suspended.json", r#"{"suspended": true, "obligations": {"a": 1}}"#),
        (
            "bound.json",
            r#"{"denied_actions": ["memory.delete"], "denied_tools": ["shell"], "obligations": {"redact": ["email"], "n": 1.5}}"#,
        ),
        ("odd \"name.json", r#"{"obligations": {"x": null}}"#),
    ];
    let bundle = ground.publish(&[map("data", &documents), map("policy", &[("p.rego", policy)])]);
    ground.active(&bundle).await;
    let (_, sources) = bundle::unpack(&bundle.bytes, &ground.signing).unwrap();
    let tenants: std::collections::BTreeMap<_, _> =
        sources.values().flat_map(|source| &source.data).collect();
    let mut files = core::files();
    files.push(File { path: "p.rego".into(), text: policy.into() });
    let mut embedded = Policies::load(&files, &json!({"tenants": tenants})).unwrap();
    let inputs = inputs();
    let mut allowed = 0;
    for input in &inputs {
        let here = embedded.ask("data.soma.policy.allow", input).unwrap().unwrap();
        assert_eq!(here, ground.decide(input).await, "{input}");
        allowed += usize::from(here["allow"] == true);
    }
    println!("{} inputs, {allowed} allowed", inputs.len());
    assert!(allowed > 10 && inputs.len() > 300, "{allowed} of {}", inputs.len());
}
