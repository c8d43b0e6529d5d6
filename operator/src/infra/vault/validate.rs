//! From a manifest and what it refers to, to the form the builders take. Pure.

use k8s_openapi::api::core::v1::Secret;
use soma_crds::{ManagedVault, Profile, Unseal};

use super::keys::Keys;
use crate::infra::Site;
use crate::infra::backup::{self, Backup};
use crate::infra::blocked::Blocked;
use crate::infra::secret::Reader;
use crate::infra::set::{Defaults, Live, Member};
use crate::names::object;
use crate::workload::Resources;

/// Port of a managed Vault.
pub const PORT: u16 = 8200;

/// What the cluster holds for Vault.
#[derive(Debug, Default)]
pub struct Observed {
    pub live: Live,
    /// From `vault-unseal`.
    pub keys: Keys,
    /// `vault-conn`.
    pub conn: Option<Secret>,
    /// The Secret an external Vault is described by.
    pub external: Option<Secret>,
}

/// Vault, in one of its modes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vault {
    Managed(Managed),
    External(Address),
    Disabled,
}

/// A Vault the operator runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Managed {
    pub replicas: u16,
    pub member: Member,
    pub unseal: Unseal,
    pub backup: Option<Backup>,
}

/// Where a Vault answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub scheme: String,
    pub host: String,
    pub port: u16,
}

impl Address {
    /// Base URL.
    pub fn url(&self) -> String {
        format!("{}://{}:{}", self.scheme, self.host, self.port)
    }
}

pub fn validate(site: &Site<'_>, observed: &Observed) -> Result<Vault, Blocked> {
    let spec = site.infra.spec.vault.clone().unwrap_or_default();
    if let Some(external) = &spec.external {
        let name = &external.secret_ref.name;
        return read_external(site, name, observed.external.as_ref()).map(Vault::External);
    }
    spec.managed.as_ref().map_or(Ok(Vault::Disabled), |managed| {
        read_managed(site, managed, &observed.live).map(Vault::Managed)
    })
}

fn read_managed(site: &Site<'_>, spec: &ManagedVault, live: &Live) -> Result<Managed, Blocked> {
    let (replicas, disk, resources) = match site.infra.spec.profile {
        Profile::Dev => (1, "1Gi", Resources::of("50m", "256Mi", "256Mi")),
        Profile::Ha => (3, "10Gi", Resources::of("250m", "512Mi", "1Gi")),
    };
    let defaults = Defaults { image: "docker.io/hashicorp/vault:1.21", size: disk, resources };
    Ok(Managed {
        replicas: live.members(spec.replicas.unwrap_or(replicas)),
        member: Member::of(object::VAULT, &spec.member, &defaults)?,
        unseal: spec.unseal,
        backup: backup::validate(site, object::VAULT, spec.backup.as_ref())?,
    })
}

fn read_external(site: &Site<'_>, name: &str, secret: Option<&Secret>) -> Result<Address, Blocked> {
    let read = Reader::new(site, name, secret, &["host"])?;
    let scheme = read.optional("scheme")?.unwrap_or_else(|| "https".into());
    if scheme != "https" && scheme != "http" {
        return Err(read.invalid("scheme", "is neither https nor http"));
    }
    Ok(Address { scheme, host: read.required("host")?, port: read.port(PORT)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infra::fixture;
    use serde_json::json;

    fn vault(spec: serde_json::Value, observed: &Observed) -> Result<Vault, Blocked> {
        validate(&Site::new(&fixture::infra(spec)), observed)
    }

    #[test]
    fn it_runs_only_when_asked_for() {
        let none = Observed::default();
        assert!(matches!(vault(json!({}), &none).unwrap(), Vault::Managed(_)));
        assert_eq!(vault(json!({"vault": {"disabled": {}}}), &none).unwrap(), Vault::Disabled);
    }

    #[test]
    fn the_profile_decides_the_members_and_never_takes_one_away() {
        let members = |spec, observed: &Observed| match vault(spec, observed).unwrap() {
            Vault::Managed(managed) => managed.replicas,
            other => panic!("{other:?}"),
        };
        let managed = json!({"managed": {}});
        let none = Observed::default();
        assert_eq!(members(json!({"vault": managed}), &none), 1);
        assert_eq!(members(json!({"profile": "ha", "vault": managed}), &none), 3);
        assert_eq!(members(json!({"profile": "ha", "vault": {"managed": {"replicas": 5}}}), &none), 5);
        let set = serde_json::from_value(json!({
            "metadata": {}, "spec": {"replicas": 3, "selector": {}, "serviceName": "v", "template": {}},
        }));
        let live = Live { set: Some(set.unwrap()), ..Default::default() };
        assert_eq!(members(json!({"vault": managed}), &Observed { live, ..Default::default() }), 3);
    }

    #[test]
    fn an_external_vault_is_read_from_its_secret() {
        let spec = json!({"vault": {"external": {"secretRef": {"name": "v"}}}});
        let with = |data: &[(&str, &str)]| {
            vault(spec.clone(), &Observed { external: Some(fixture::secret(data)), ..Default::default() })
        };
        let Vault::External(address) = with(&[("host", "vault.example.org")]).unwrap() else { panic!() };
        assert_eq!(address.url(), "https://vault.example.org:8200");
        assert_eq!(with(&[("port", "1")]).unwrap_err().reason(), "SecretKeyMissing");
        assert_eq!(with(&[("host", "h"), ("scheme", "ftp")]).unwrap_err().reason(), "SecretValueInvalid");
        let missing = vault(spec.clone(), &Observed::default()).unwrap_err().to_string();
        assert!(missing.ends_with("create secret generic v --from-literal=host=HOST`"), "{missing}");
    }
}
