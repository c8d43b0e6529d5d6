//! From a manifest and what it refers to, to the form the builders take. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use soma_crds::{ManagedPostgres, Profile};
use soma_settings::SslMode;

use super::service::{SERVICES, Service};
use crate::infra::Site;
use crate::infra::backup::{self, Backup};
use crate::infra::blocked::Blocked;
use crate::infra::secret::{self, Reader};
use crate::infra::set::{self, Defaults, Live, Member};
use crate::names::object;
use crate::workload::Resources;

/// Key of a password in a Secret.
const PASSWORD: &str = "password";

/// What the cluster holds for Postgres.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// `postgres-superuser`.
    pub passwords: Option<Secret>,
    /// `postgres-conn`.
    pub conn: Option<Secret>,
    /// `postgres-user-<service>`, by database.
    pub users: BTreeMap<&'static str, Secret>,
    /// The Secret an external Postgres is described by.
    pub external: Option<Secret>,
    pub live: Live,
}

/// Postgres, in one of its modes.
#[derive(Clone, Debug)]
pub enum Postgres {
    Managed(Box<Managed>),
    External(External),
}

/// A Postgres the operator runs.
#[derive(Clone, Debug)]
pub struct Managed {
    pub member: Member,
    /// The passwords kept from earlier; `None` before the first install. Some services' may be missing.
    pub kept: Option<Passwords>,
    /// The passwords as the services have them; what somebody wrote there counts.
    pub given: BTreeMap<&'static str, String>,
    pub backup: Option<Backup>,
}

/// The passwords of a managed Postgres.
#[derive(Clone, PartialEq, Eq)]
pub struct Passwords {
    pub superuser: String,
    /// By database.
    pub services: BTreeMap<&'static str, String>,
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

pub fn validate(site: &Site<'_>, observed: &Observed) -> Result<Postgres, Blocked> {
    let spec = &site.infra.spec.postgres;
    match (&spec.external, &spec.managed) {
        (Some(external), _) => {
            read_external(site, &external.secret_ref.name, observed.external.as_ref()).map(Postgres::External)
        }
        (None, managed) => read_managed(site, &managed.clone().unwrap_or_default(), observed)
            .map(|managed| Postgres::Managed(Box::new(managed))),
    }
}

fn read_managed(site: &Site<'_>, spec: &ManagedPostgres, observed: &Observed) -> Result<Managed, Blocked> {
    let (disk, resources) = match site.infra.spec.profile {
        Profile::Dev => ("1Gi", Resources::of("100m", "512Mi", "512Mi")),
        Profile::Ha => ("20Gi", Resources::of("1", "4Gi", "4Gi")),
    };
    let kept = observed.passwords.as_ref().and_then(read_passwords);
    if kept.is_none() && (observed.live.has_volume() || observed.passwords.is_some()) {
        return Err(Blocked::PasswordLost {
            namespace: site.owner.namespace.clone(),
            component: object::POSTGRES,
            name: object::POSTGRES_SECRET,
            claim: set::claim_name(object::POSTGRES, 0),
        });
    }
    let defaults = Defaults { image: "docker.io/library/postgres:15", size: disk, resources };
    Ok(Managed {
        member: Member::of(object::POSTGRES, &spec.member, &defaults)?,
        kept,
        given: given(site, observed)?,
        backup: backup::validate(site, object::POSTGRES, spec.backup.as_ref())?,
    })
}

/// The passwords of `postgres-superuser`, when it holds that of the superuser. Nobody needs that of a service to open
/// the data: one that is missing is taken from the service's own Secret, or made.
pub fn read_passwords(secret: &Secret) -> Option<Passwords> {
    let of = |service: &Service| Some((service.database, secret::text(secret, service.database)?));
    let services = SERVICES.iter().filter_map(of).collect();
    Some(Passwords { superuser: secret::text(secret, "password")?, services })
}

/// What the services' Secrets say.
fn given(site: &Site<'_>, observed: &Observed) -> Result<BTreeMap<&'static str, String>, Blocked> {
    let mut given = BTreeMap::new();
    for service in SERVICES {
        let Some(secret) = observed.users.get(service.database) else { continue };
        let Some(password) = secret::text(secret, PASSWORD) else { continue };
        if !password.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return Err(Blocked::SecretValueInvalid {
                namespace: site.owner.namespace.clone(),
                name: service.secret_name(),
                key: PASSWORD,
                problem: "holds something other than letters, digits and signs of ASCII, which clients encode differently",
            });
        }
        given.insert(service.database, password);
    }
    Ok(given)
}

fn read_external(site: &Site<'_>, name: &str, secret: Option<&Secret>) -> Result<External, Blocked> {
    let read = Reader::new(site, name, secret, &["host", "username", "password"])?;
    let sslmode = read.optional("sslmode")?.map_or(Ok(SslMode::Prefer), |text| {
        parse_sslmode(&text)
            .ok_or_else(|| read.invalid("sslmode", "is none of disable, prefer, require, verify-full"))
    })?;
    Ok(External {
        host: read.required("host")?,
        port: read.port(5432)?,
        database: read.optional("database")?.unwrap_or_else(|| object::MEMORY_DATABASE.into()),
        username: read.required("username")?,
        password: read.required("password")?,
        sslmode,
    })
}

/// The mode of a name libpq knows.
pub fn parse_sslmode(text: &str) -> Option<SslMode> {
    [SslMode::Disable, SslMode::Prefer, SslMode::Require, SslMode::VerifyFull]
        .into_iter()
        .find(|m| m.as_str() == text)
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
