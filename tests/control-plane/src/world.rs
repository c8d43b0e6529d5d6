//! An installed Soma with an external Postgres and namespaces for a SomaInfra and a SomaStack.

use anyhow::Context as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use soma_crds::{SomaInfra, SomaStack};
use soma_testenv::Postgres;

use crate::Soma;

fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

/// The SomaInfra `shared` with nothing but a Postgres.
pub fn only_postgres(namespace: &str, postgres: &Value) -> Value {
    let off = json!({"disabled": {}});
    json!({
        "apiVersion": "somastack.dev/v1alpha1", "kind": "SomaInfra",
        "metadata": {"name": "shared", "namespace": namespace},
        "spec": {"postgres": postgres, "vault": off, "kafka": off, "etcd": off, "redis": off, "opa": off},
    })
}

/// A SomaInfra `shared` on the Postgres that Secret `pg` describes.
pub fn infra() -> Value {
    let mut infra = only_postgres("soma-infra", &json!({"external": {"secretRef": {"name": "pg"}}}));
    infra["spec"]["aliasNamespaces"] = json!(["soma"]);
    infra
}

/// A SomaStack `soma` whose memory service is configured like this.
pub fn stack(memory: &Value) -> Value {
    json!({
        "apiVersion": "somastack.dev/v1alpha1", "kind": "SomaStack",
        "metadata": {"name": "soma", "namespace": "soma"},
        "spec": {"infraRef": {"name": "shared", "namespace": "soma-infra"}, "services": {"memory": memory}},
    })
}

/// Ready has this status and reason for the newest generation.
pub fn infra_is(ready: &'static str, reason: &'static str) -> impl Fn(Option<&SomaInfra>) -> bool {
    move |infra| {
        infra.and_then(|i| Some((i, i.status.as_ref()?.condition("Ready")?))).is_some_and(|(i, c)| {
            c.status == ready && c.reason == reason && c.observed_generation == i.metadata.generation
        })
    }
}

/// Ready has this status and reason for the newest generation.
pub fn stack_is(ready: &'static str, reason: &'static str) -> impl Fn(Option<&SomaStack>) -> bool {
    move |stack| {
        stack.and_then(|s| Some((s, s.status.as_ref()?.condition("Ready")?))).is_some_and(|(s, c)| {
            c.status == ready && c.reason == reason && c.observed_generation == s.metadata.generation
        })
    }
}

/// Soma, its Postgres, and typed access to what a test looks at.
pub struct World {
    /// The cluster and the operator.
    pub soma: Soma,
    /// The external Postgres.
    pub postgres: Postgres,
    /// In `soma-infra`.
    pub infras: Api<SomaInfra>,
    /// In `soma`, as everything below.
    pub stacks: Api<SomaStack>,
    /// Revisions.
    pub deployments: Api<Deployment>,
    /// `memory`, and the alias `postgres`.
    pub services: Api<Service>,
    /// Configurations.
    pub configs: Api<ConfigMap>,
}

impl World {
    /// Starts the servers and the operator, with these arguments beside the usual ones.
    pub async fn start(arguments: &[&str]) -> anyhow::Result<Self> {
        let postgres = Postgres::start().await?;
        let soma = Soma::start(arguments).await?;
        for name in ["soma-infra", "soma"] {
            soma.apply(&namespace(name))?;
        }
        let client = soma.client();
        Ok(Self {
            infras: Api::namespaced(client.clone(), "soma-infra"),
            stacks: Api::namespaced(client.clone(), "soma"),
            deployments: Api::namespaced(client.clone(), "soma"),
            services: Api::namespaced(client.clone(), "soma"),
            configs: Api::namespaced(client, "soma"),
            soma,
            postgres,
        })
    }

    /// The Secret that describes the Postgres.
    pub fn external_secret(&self) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "pg", "namespace": "soma-infra"},
            "stringData": {
                "host": "localhost", "port": self.postgres.port().to_string(), "username": self.postgres.user(),
                "password": "unused", "database": "postgres", "sslmode": "disable",
            },
        })
    }

    /// Applies a SomaInfra and a SomaStack, pretends that the pods run, waits until both are Ready; the revision.
    pub async fn install(&self) -> anyhow::Result<String> {
        self.soma.apply(&self.external_secret())?;
        self.soma.apply(&infra())?;
        self.soma.apply(&stack(&json!({})))?;
        self.soma.eventually(self.infras.clone(), "shared", "Ready", infra_is("True", "Ready")).await?;
        let waits = |s: Option<&SomaStack>| s.and_then(|s| s.status.as_ref()?.services.clone()).is_some();
        self.soma.eventually(self.stacks.clone(), "soma", "a revision", waits).await?;
        let all = self.deployments.list(&ListParams::default()).await?.items;
        anyhow::ensure!(all.len() == 1, "{} revisions after a first install", all.len());
        let revision = all[0].name_any();
        self.soma.pretend_ready("soma", &revision).await?;
        self.soma.eventually(self.stacks.clone(), "soma", "Ready", stack_is("True", "Ready")).await?;
        Ok(revision)
    }

    /// The revision the Service selects.
    pub async fn serving(&self) -> anyhow::Result<String> {
        let selector =
            self.services.get("memory").await?.spec.and_then(|s| s.selector).context("no selector")?;
        selector.get("somastack.dev/revision").cloned().context("no revision")
    }
}
