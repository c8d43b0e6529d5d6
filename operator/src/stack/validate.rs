//! From a manifest and what it refers to, to the form the builders take. Pure.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Resource;
use soma_crds::SomaStack;
use soma_settings::{ConfigHash, Memory, MemoryConfig, PostgresEndpoint};

use super::dereference::{Observed, owner};
use super::{infra_of, revision};
use crate::infra::parse_sslmode;
use crate::names::{Owner, VERSION, object};
use crate::workload::{self, Resources};

/// A SomaStack that can be built.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub owner: Owner,
    pub owner_reference: serde_json::Value,
    pub version: String,
    /// Name of the Deployment these parts make.
    pub revision: String,
    /// The bytes the pods mount as `memory.json`.
    pub payload: String,
    pub config_hash: ConfigHash,
    pub image: String,
    pub resources: Resources,
    pub replicas: i32,
    /// `postgres-conn` to copy; `None` when the SomaInfra is in the same namespace.
    pub conn: Option<BTreeMap<String, ByteString>>,
    /// There is no token yet.
    pub needs_token: bool,
}

impl Wanted {
    /// Name of the ConfigMap with the payload.
    pub fn config_map(&self) -> String {
        format!("{}-config-{}", object::MEMORY, self.config_hash.short())
    }
}

/// What a user has to put right before anything can be built. The message ends with what to do.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Blocked {
    #[error(
        "namespace {namespace} already has the SomaStack {elder}, and a namespace holds one. Delete one of them, or move this one to another namespace"
    )]
    NamespaceTaken { namespace: String, elder: String },
    #[error(
        "SomaInfra {namespace}/{name}, which spec.infraRef names, does not exist. Create it; infraRef cannot change, so a wrong name needs a new SomaStack"
    )]
    InfraNotFound { namespace: String, name: String },
    #[error(
        "SomaInfra {namespace}/{name} has not published Secret {secret} yet. Look at `kubectl -n {namespace} describe somainfra {name}`"
    )]
    InfraNotReady { namespace: String, name: String, secret: &'static str },
    #[error(
        "Secret {namespace}/{secret}: key `{key}` is missing or cannot be used. Delete the Secret; the operator makes it again"
    )]
    ConnectionInvalid { namespace: String, secret: &'static str, key: &'static str },
    #[error(
        "Secret {namespace}/{secret} has no key `{key}`. Delete it and a new token is made, or put the token back under that key"
    )]
    TokenInvalid { namespace: String, secret: &'static str, key: &'static str },
    #[error("a setting cannot be used: {0}")]
    SettingsInvalid(String),
    #[error("spec.services.memory.resources: {0}")]
    ResourcesInvalid(String),
}

impl Blocked {
    /// The variant's name: condition and event reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NamespaceTaken { .. } => "NamespaceTaken",
            Self::InfraNotFound { .. } => "InfraNotFound",
            Self::InfraNotReady { .. } => "InfraNotReady",
            Self::ConnectionInvalid { .. } => "ConnectionInvalid",
            Self::TokenInvalid { .. } => "TokenInvalid",
            Self::SettingsInvalid(_) => "SettingsInvalid",
            Self::ResourcesInvalid(_) => "ResourcesInvalid",
        }
    }
}

pub fn validate(stack: &SomaStack, observed: &Observed) -> Result<Wanted, Blocked> {
    let owner = owner(stack);
    if let Some(elder) = &observed.elder {
        return Err(Blocked::NamespaceTaken { namespace: owner.namespace, elder: elder.clone() });
    }
    let (infra_namespace, name) = infra_of(stack);
    let namespace = infra_namespace.clone();
    if !observed.has_infra {
        return Err(Blocked::InfraNotFound { namespace, name });
    }
    let Some(conn) = &observed.conn else {
        return Err(Blocked::InfraNotReady { namespace, name, secret: object::POSTGRES_CONN });
    };
    let spec = &stack.spec;
    let memory = &spec.services.memory;
    let settings = Memory::resolve(spec.environment, &spec.settings, &memory.settings)
        .map_err(|e| Blocked::SettingsInvalid(e.to_string()))?;
    let config = MemoryConfig { memory: settings, postgres: endpoint(&namespace, conn)? };
    let version = spec.version.clone().unwrap_or_else(|| VERSION.into());
    let image = memory.image.clone().unwrap_or_else(|| format!("docker.io/somastack/memory:{version}"));
    let resources = workload::resources(memory.resources.as_ref(), &Resources::of("100m", "256Mi", "1Gi"))
        .map_err(|e| Blocked::ResourcesInvalid(e.to_string()))?;
    let payload = config.payload();
    Ok(Wanted {
        owner_reference: serde_json::json!(stack.controller_owner_ref(&())),
        revision: revision::name(object::MEMORY, &payload, &image, &resources),
        config_hash: config.hash(),
        payload,
        version,
        image,
        resources,
        replicas: memory.replicas,
        conn: (infra_namespace != owner.namespace).then(|| conn.data.clone().unwrap_or_default()),
        needs_token: needs_token(&owner.namespace, observed.token.as_ref())?,
        owner,
    })
}

/// No token is ever made while a Secret for it exists: clients may hold what is in it.
fn needs_token(namespace: &str, token: Option<&Secret>) -> Result<bool, Blocked> {
    let Some(secret) = token else { return Ok(true) };
    let holds =
        secret.data.as_ref().and_then(|d| d.get(object::API_TOKEN_KEY)).is_some_and(|t| !t.0.is_empty());
    let invalid = || Blocked::TokenInvalid {
        namespace: namespace.into(),
        secret: object::API_TOKEN,
        key: object::API_TOKEN_KEY,
    };
    if holds { Ok(false) } else { Err(invalid()) }
}

/// The part of a connection that is no secret and belongs to the configuration.
fn endpoint(namespace: &str, conn: &Secret) -> Result<PostgresEndpoint, Blocked> {
    let invalid =
        |key| Blocked::ConnectionInvalid { namespace: namespace.into(), secret: object::POSTGRES_CONN, key };
    let text = |key: &'static str| {
        let bytes = conn.data.as_ref().and_then(|data| data.get(key));
        let text = bytes.and_then(|bytes| String::from_utf8(bytes.0.clone()).ok());
        text.filter(|text| !text.is_empty()).ok_or_else(|| invalid(key))
    };
    for key in ["username", "password"] {
        text(key)?;
    }
    Ok(PostgresEndpoint {
        host: text("host")?,
        port: text("port")?.parse().map_err(|_| invalid("port"))?,
        database: text("database")?,
        sslmode: parse_sslmode(&text("sslmode")?).ok_or_else(|| invalid("sslmode"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::fixture;
    use serde_json::json;

    #[test]
    fn what_is_missing_is_named() {
        let stack = fixture::stack(json!({}));
        let good = fixture::observed();
        let reason = |observed: Observed| validate(&stack, &observed).unwrap_err();
        assert_eq!(reason(Observed { elder: Some("x".into()), ..good.clone() }).reason(), "NamespaceTaken");
        assert_eq!(reason(Observed { has_infra: false, ..good.clone() }).reason(), "InfraNotFound");
        let error = reason(Observed { conn: None, ..good.clone() });
        assert_eq!(error.reason(), "InfraNotReady");
        assert!(error.to_string().contains("kubectl -n soma-infra describe somainfra shared"));
        assert_eq!(reason(Observed { token: Some(Secret::default()), ..good }).reason(), "TokenInvalid");
    }

    #[test]
    fn labels_and_replicas_do_not_make_a_revision_and_settings_do() {
        let base = validate(&fixture::stack(json!({})), &fixture::observed()).unwrap();
        let mut labelled = fixture::stack(json!({"services": {"memory": {"replicas": 3}}}));
        labelled.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
        assert_eq!(validate(&labelled, &fixture::observed()).unwrap().revision, base.revision);
        let edited = fixture::stack(json!({"services": {"memory": {"settings": {"maxTopK": 7}}}}));
        let edited = validate(&edited, &fixture::observed()).unwrap();
        assert_ne!(edited.revision, base.revision);
        assert_ne!(edited.config_hash, base.config_hash);
    }

    #[test]
    fn a_changed_password_makes_no_revision() {
        let base = validate(&fixture::stack(json!({})), &fixture::observed()).unwrap();
        let mut observed = fixture::observed();
        let data = observed.conn.as_mut().unwrap().data.as_mut().unwrap();
        data.insert("password".into(), ByteString(b"other".to_vec()));
        let rotated = validate(&fixture::stack(json!({})), &observed).unwrap();
        assert_eq!(rotated.revision, base.revision);
        assert_ne!(rotated.conn, base.conn);
    }
}
