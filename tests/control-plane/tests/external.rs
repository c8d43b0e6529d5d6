//! `examples/infra-external.yaml` with real servers that run outside of the cluster.
#![expect(clippy::unwrap_used, reason = "a test stops where something is not as it should be")]

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use serde_json::{Value, json};
use soma_control_plane_tests::{Soma, text};
use soma_crds::SomaInfra;
use soma_testenv::{Etcd, Kafka, Opa, OpenFga, Postgres, Redis, Vault};

/// The servers, and the Secrets that say where they are.
struct Outside {
    postgres: Postgres,
    vault: Vault,
    kafka: Kafka,
    etcd: Etcd,
    redis: Redis,
    opa: Opa,
    openfga: OpenFga,
}

impl Outside {
    async fn start() -> Self {
        let (postgres, vault) = (Postgres::start().await.unwrap(), Vault::start().await.unwrap());
        let (kafka, etcd) = (Kafka::start().await.unwrap(), Etcd::start().await.unwrap());
        postgres.psql("CREATE ROLE outsider LOGIN PASSWORD 'geheim'").await.unwrap();
        postgres.psql("CREATE DATABASE somamemory OWNER outsider").await.unwrap();
        let redis = Redis::start().await.unwrap();
        let policies = soma_testenv::checkout().join("config/policies/soma.rego");
        let policies = std::fs::read_to_string(policies).unwrap();
        let opa = Opa::start_with(&json!({"status": {"prometheus": true}}), &[("soma.rego", &policies)])
            .await
            .unwrap();
        let openfga = OpenFga::start("geheim").await.unwrap();
        Self { postgres, vault, kafka, etcd, redis, opa, openfga }
    }

    fn secrets(&self) -> [Value; 7] {
        let secret = |name: &str, data: Value| {
            json!({
                "apiVersion": "v1", "kind": "Secret",
                "metadata": {"name": format!("{name}-external"), "namespace": "soma-infra"}, "stringData": data,
            })
        };
        let vault = self.vault.url().trim_start_matches("http://").to_owned();
        let (host, port) = vault.split_once(':').unwrap();
        [
            secret(
                "postgres",
                json!({
                    "host": "127.0.0.1", "port": self.postgres.port().to_string(), "username": "outsider", "password": "geheim",
                }),
            ),
            secret("vault", json!({"host": host, "port": port, "scheme": "http"})),
            secret(
                "kafka",
                json!({
                    "bootstrap": self.kafka.bootstrap(), "securityProtocol": "SASL_PLAINTEXT", "saslMechanism": "SCRAM-SHA-512",
                    "username": self.kafka.user(), "password": self.kafka.password(),
                }),
            ),
            secret("etcd", json!({"endpoints": self.etcd.url()})),
            secret(
                "redis",
                json!({"host": "127.0.0.1", "port": self.redis.port().to_string(), "password": self.redis.password()}),
            ),
            secret("opa", json!({"url": self.opa.url()})),
            secret("openfga", json!({"url": self.openfga.url(), "token": self.openfga.token()})),
        ]
    }

    /// Makes Soma's store in OpenFGA, with its model; returns the ids of both.
    async fn fill_openfga(&self) -> [String; 2] {
        let http = reqwest::Client::new();
        let post = async |path: String, body: &Value| -> Value {
            let asked = http.post(format!("{}/stores{path}", self.openfga.url()));
            let answer = asked.bearer_auth(self.openfga.token()).json(body).send().await.unwrap();
            answer.error_for_status().unwrap().json().await.unwrap()
        };
        let model = soma_testenv::checkout().join("config/authorization/model.json");
        let model: Value = serde_json::from_str(&std::fs::read_to_string(model).unwrap()).unwrap();
        let store = post(String::new(), &json!({"name": "soma"})).await;
        let store = store["id"].as_str().unwrap().to_owned();
        let written = post(format!("/{store}/authorization-models"), &model).await;
        [store, written["authorization_model_id"].as_str().unwrap().to_owned()]
    }

    /// Initialises Vault with one key and opens it.
    async fn open_vault(&self) {
        let http = reqwest::Client::new();
        let put = async |path: &str, body: &Value| -> Value {
            let answer =
                http.put(format!("{}/v1/sys/{path}", self.vault.url())).json(body).send().await.unwrap();
            answer.error_for_status().unwrap().json().await.unwrap()
        };
        let keys = put("init", &json!({"secret_shares": 1, "secret_threshold": 1})).await;
        put("unseal", &json!({"key": keys["keys"][0]})).await;
    }
}

/// Reason of a component, by the status.
fn reason(infra: &SomaInfra, name: &str) -> Option<String> {
    infra.status.as_ref()?.components.iter().find(|c| c.name == name)?.reason.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_may_run_elsewhere() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut outside = Outside::start().await;
    let soma = Soma::start(&[]).await.unwrap();
    let infras: Api<SomaInfra> = Api::namespaced(soma.client(), "soma-infra");
    let is = async |component: &str, wanted: &str| {
        let holds = |infra: Option<&SomaInfra>| {
            infra.is_some_and(|infra| reason(infra, component).as_deref() == Some(wanted))
        };
        soma.eventually(infras.clone(), "shared", &format!("{component} {wanted}"), holds).await.unwrap();
    };
    soma.kubectl(&["create", "namespace", "soma-infra"]).unwrap();
    let example = soma_testenv::checkout().join("examples/infra-external.yaml").display().to_string();
    soma.kubectl(&["apply", "-f", &example]).unwrap();
    for component in ["postgres", "vault", "kafka", "etcd", "redis", "opa", "openfga"] {
        is(component, "SecretMissing").await;
    }
    for secret in outside.secrets() {
        soma.apply(&secret).unwrap();
    }
    for component in ["postgres", "kafka", "etcd", "redis", "opa"] {
        is(component, "Ready").await;
    }
    is("vault", "Sealed").await;
    outside.open_vault().await;
    let look_again = |component: &str, text: &str| {
        let name = format!("{component}-external");
        let note = format!("looked={text}");
        soma.kubectl(&["-n", "soma-infra", "annotate", "--overwrite", "secret", &name, &note]).unwrap();
    };
    look_again("vault", "1");
    is("vault", "Ready").await;
    is("openfga", "StoreMissing").await;
    let [store, model] = outside.fill_openfga().await;
    look_again("openfga", "1");
    is("openfga", "Ready").await;

    // Whatever the mode, what a SomaStack reads is in one place.
    let secrets: Api<Secret> = Api::namespaced(soma.client(), "soma-infra");
    let conn = async |component: &str, key: &str| {
        text(&secrets.get(&format!("{component}-conn")).await.unwrap(), key)
    };
    assert_eq!(conn("kafka", "bootstrap").await, outside.kafka.bootstrap());
    assert_eq!(conn("vault", "address").await, outside.vault.url());
    assert_eq!(conn("etcd", "endpoints").await, outside.etcd.url());
    assert_eq!(conn("postgres", "host").await, "127.0.0.1");
    for component in ["postgres", "vault", "kafka", "etcd", "opa", "openfga"] {
        assert_eq!(conn(component, "mode").await, "external", "{component}");
    }
    assert_eq!(conn("redis", "port").await, outside.redis.port().to_string());
    assert_eq!(conn("opa", "url").await, outside.opa.url());
    assert_eq!(conn("opa", "decision").await, "/v1/data/soma/policy/allow");
    assert_eq!(conn("openfga", "url").await, outside.openfga.url());
    assert_eq!([conn("openfga", "store").await, conn("openfga", "model").await], [store, model]);

    // One that goes away is named, and the last address stays; so is its return.
    outside.kafka.kill().await.unwrap();
    outside.etcd.kill().await.unwrap();
    outside.opa.kill().await.unwrap();
    look_again("kafka", "2");
    is("kafka", "KafkaUnreachable").await;
    is("etcd", "EtcdUnreachable").await;
    is("opa", "OpaUnreachable").await;
    assert_eq!(conn("kafka", "bootstrap").await, outside.kafka.bootstrap());
    outside.kafka.start_again().await.unwrap();
    outside.etcd.start_again().await.unwrap();
    outside.opa.start_again().await.unwrap();
    is("kafka", "Ready").await;
    is("etcd", "Ready").await;
    is("opa", "Ready").await;
}
