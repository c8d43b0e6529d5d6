//! From a manifest and what it refers to, to the form the builders take. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ResourceRequirements, Secret};
use kube::{Resource, ResourceExt};
use soma_crds::{ManagedPostgres, Profile, SomaInfra};
use soma_settings::SslMode;

use super::dereference::Observed;
use crate::names::{MANAGED_BY, Owner, label, object};
use crate::reconcile::Kind;
use crate::workload::{self, Resources};

/// A SomaInfra that can be built.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub owner: Owner,
    pub owner_reference: serde_json::Value,
    pub postgres: Postgres,
    /// Namespaces in which the alias is made, and the host it stands for.
    pub aliases: Option<Aliases>,
    /// What to know about aliases that are not made.
    pub alias_note: Option<String>,
}

/// Where aliases go and what they stand for.
#[derive(Clone, Debug)]
pub struct Aliases {
    pub target: String,
    pub namespaces: Vec<String>,
}

/// Postgres, in one of its modes.
#[derive(Clone, Debug)]
pub enum Postgres {
    Managed(Managed),
    External(External),
}

/// A Postgres the operator runs.
#[derive(Clone, Debug)]
pub struct Managed {
    pub image: String,
    pub size: String,
    pub storage_class: Option<String>,
    pub resources: Resources,
    /// The passwords made earlier; `None` before the first install.
    pub passwords: Option<Passwords>,
}

/// The two passwords of a managed Postgres.
#[derive(Clone, PartialEq, Eq)]
pub struct Passwords {
    pub superuser: String,
    pub memory: String,
}

impl std::fmt::Debug for Passwords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Passwords(..)")
    }
}

/// How to reach a Postgres that runs elsewhere.
#[derive(Clone, PartialEq, Eq)]
pub struct External {
    pub host: String,
    pub port: u16,
    pub database: String,
    pub username: String,
    pub password: String,
    pub sslmode: SslMode,
}

impl std::fmt::Debug for External {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "External({}:{}/{})", self.host, self.port, self.database)
    }
}

/// What a user has to put right before anything can be built. The message ends with what to do.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Blocked {
    #[error(
        "namespace {namespace} already has the SomaInfra {elder}, and their objects would carry the same names. Delete one of them, or move this one to another namespace"
    )]
    NamespaceTaken { namespace: String, elder: String },
    #[error(
        "Secret {namespace}/{name} does not exist. Create it with `kubectl -n {namespace} create secret generic {name} --from-literal=host=HOST --from-literal=username=USER --from-literal=password=PASSWORD`"
    )]
    SecretMissing { namespace: String, name: String },
    #[error(
        "Secret {namespace}/{name} has no key `{key}`. Add it with `kubectl -n {namespace} patch secret {name} --type merge -p '{{\"stringData\":{{\"{key}\":\"VALUE\"}}}}'`"
    )]
    SecretKeyMissing { namespace: String, name: String, key: &'static str },
    #[error(
        "key `{key}` of Secret {namespace}/{name} {problem}. Set it with `kubectl -n {namespace} patch secret {name} --type merge -p '{{\"stringData\":{{\"{key}\":\"VALUE\"}}}}'`"
    )]
    SecretValueInvalid { namespace: String, name: String, key: &'static str, problem: &'static str },
    #[error(
        "the volume {claim} exists but Secret {namespace}/{name} with its password does not, or lacks a key; a new password would not open the database. Restore the Secret from a backup, or, to begin with an empty database, delete the volume with `kubectl -n {namespace} delete statefulset/postgres pvc/{claim}`"
    )]
    PasswordLost { namespace: String, name: &'static str, claim: &'static str },
    #[error("spec.postgres.managed.resources: {0}")]
    ResourcesInvalid(String),
}

impl Blocked {
    /// The variant's name: condition and event reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NamespaceTaken { .. } => "NamespaceTaken",
            Self::SecretMissing { .. } => "SecretMissing",
            Self::SecretKeyMissing { .. } => "SecretKeyMissing",
            Self::SecretValueInvalid { .. } => "SecretValueInvalid",
            Self::PasswordLost { .. } => "PasswordLost",
            Self::ResourcesInvalid(_) => "ResourcesInvalid",
        }
    }
}

pub fn validate(infra: &SomaInfra, observed: &Observed) -> Result<Wanted, Blocked> {
    let namespace = infra.namespace().unwrap_or_default();
    if let Some(elder) = &observed.elder {
        return Err(Blocked::NamespaceTaken { namespace, elder: elder.clone() });
    }
    let spec = &infra.spec.postgres;
    let postgres = match (&spec.external, &spec.managed) {
        (Some(external), _) => Postgres::External(read_external(
            &namespace,
            &external.secret_ref.name,
            observed.external.as_ref(),
        )?),
        (None, managed) => {
            let managed = managed.clone().unwrap_or_default();
            Postgres::Managed(read_managed(&managed, infra.spec.profile, &namespace, observed)?)
        }
    };
    let (aliases, alias_note) = aliases(infra, &namespace, &postgres, observed);
    Ok(Wanted {
        owner: Owner { kind: SomaInfra::KIND, name: infra.name_any(), namespace },
        owner_reference: serde_json::json!(infra.controller_owner_ref(&())),
        postgres,
        aliases,
        alias_note,
    })
}

fn read_managed(
    spec: &ManagedPostgres,
    profile: Profile,
    namespace: &str,
    observed: &Observed,
) -> Result<Managed, Blocked> {
    let (size, defaults) = match profile {
        Profile::Dev => ("1Gi", Resources::of("100m", "512Mi", "512Mi")),
        Profile::Ha => ("20Gi", Resources::of("1", "4Gi", "4Gi")),
    };
    let passwords = observed.passwords.as_ref().and_then(read_passwords);
    let has_volume = observed.claim.is_some() || observed.set.is_some();
    if passwords.is_none() && (has_volume || observed.passwords.is_some()) {
        let (name, claim) = (object::POSTGRES_SECRET, object::POSTGRES_CLAIM);
        return Err(Blocked::PasswordLost { namespace: namespace.into(), name, claim });
    }
    Ok(Managed {
        image: spec.image.clone().unwrap_or_else(|| "docker.io/library/postgres:15".into()),
        size: spec.storage.size.as_ref().map_or(size, |q| &q.0).to_owned(),
        storage_class: spec.storage.storage_class_name.clone(),
        resources: resources(spec.resources.as_ref(), &defaults)?,
        passwords,
    })
}

fn resources(given: Option<&ResourceRequirements>, defaults: &Resources) -> Result<Resources, Blocked> {
    workload::resources(given, defaults).map_err(|e| Blocked::ResourcesInvalid(e.to_string()))
}

/// Both passwords, when the Secret holds both.
pub fn read_passwords(secret: &Secret) -> Option<Passwords> {
    let data = secret.data.as_ref()?;
    let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok().filter(|s| !s.is_empty());
    Some(Passwords { superuser: text("password")?, memory: text(object::MEMORY_DATABASE)? })
}

fn read_external(namespace: &str, name: &str, secret: Option<&Secret>) -> Result<External, Blocked> {
    let (namespace, name) = (namespace.to_owned(), name.to_owned());
    let Some(secret) = secret else { return Err(Blocked::SecretMissing { namespace, name }) };
    let empty = BTreeMap::<String, ByteString>::new();
    let data = secret.data.as_ref().unwrap_or(&empty);
    let invalid = |key, problem| Blocked::SecretValueInvalid {
        namespace: namespace.clone(),
        name: name.clone(),
        key,
        problem,
    };
    let optional = |key: &'static str| match data.get(key) {
        None => Ok(None),
        Some(bytes) => match String::from_utf8(bytes.0.clone()) {
            Ok(text) if text.is_empty() => Err(invalid(key, "is empty")),
            Ok(text) if text.chars().any(char::is_control) => {
                Err(invalid(key, "holds a line break or another control character"))
            }
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(invalid(key, "is not UTF-8")),
        },
    };
    let required = |key: &'static str| {
        let missing = || Blocked::SecretKeyMissing { namespace: namespace.clone(), name: name.clone(), key };
        optional(key)?.ok_or_else(missing)
    };
    let port = optional("port")?.map_or(Ok(5432), |text| match text.parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(invalid("port", "is no TCP port (1–65535)")),
    })?;
    let sslmode = optional("sslmode")?.map_or(Ok(SslMode::Prefer), |text| {
        parse_sslmode(&text)
            .ok_or_else(|| invalid("sslmode", "is none of disable, prefer, require, verify-full"))
    })?;
    Ok(External {
        host: required("host")?,
        port,
        database: optional("database")?.unwrap_or_else(|| object::MEMORY_DATABASE.into()),
        username: required("username")?,
        password: required("password")?,
        sslmode,
    })
}

/// The mode of a name libpq knows.
pub fn parse_sslmode(text: &str) -> Option<SslMode> {
    [SslMode::Disable, SslMode::Prefer, SslMode::Require, SslMode::VerifyFull]
        .into_iter()
        .find(|m| m.as_str() == text)
}

/// The namespaces that get an alias, and a note about those that do not.
fn aliases(
    infra: &SomaInfra,
    namespace: &str,
    postgres: &Postgres,
    observed: &Observed,
) -> (Option<Aliases>, Option<String>) {
    let asked: Vec<_> = infra.spec.alias_namespaces.iter().filter(|alias| *alias != namespace).collect();
    let target = match postgres {
        Postgres::Managed(_) => format!("{}.{namespace}.svc.cluster.local", object::POSTGRES),
        Postgres::External(external) => external.host.clone(),
    };
    if asked.is_empty() {
        return (None, None);
    }
    if target.parse::<IpAddr>().is_ok() {
        let note = "no alias is made, because an alias needs a host name and the Secret gives an address; put a host name into its key `host`";
        return (None, Some(note.into()));
    }
    let mut notes = Vec::new();
    let mut namespaces = Vec::new();
    for alias in asked {
        match observed.aliases.get(alias) {
            None => notes.push(format!("namespace {alias} does not exist; create it, or take it out of spec.aliasNamespaces")),
            Some(Some(service)) if !is_ours(service, infra) => notes.push(format!(
                "Service {alias}/postgres belongs to somebody else and stays as it is; rename it, or take {alias} out of spec.aliasNamespaces"
            )),
            Some(_) => namespaces.push(alias.clone()),
        }
    }
    (Some(Aliases { target, namespaces }), (!notes.is_empty()).then(|| notes.join(". ")))
}

fn is_ours(service: &k8s_openapi::api::core::v1::Service, infra: &SomaInfra) -> bool {
    let labels = service.labels();
    let is = |key: &str, value: &str| labels.get(key).is_some_and(|found| found == value);
    is(label::MANAGED_BY, MANAGED_BY)
        && is(label::INSTANCE, &infra.name_any())
        && is(label::OWNER_NAMESPACE, &infra.namespace().unwrap_or_default())
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
