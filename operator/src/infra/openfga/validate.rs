//! From a manifest and what it refers to, to the form the builders take. Pure.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, Secret};
use reqwest::Url;
use soma_crds::{ManagedOpenFga, OpenFga as Spec, Profile};
use soma_settings::{ConfigHash, SslMode};

use super::kept::{Kept, STORE};
use crate::infra::blocked::Blocked;
use crate::infra::secret::{self, Reader};
use crate::infra::{Site, parse_sslmode};
use crate::names::object;
use crate::workload::{self, Resources};

/// The release the operator was tested with.
const IMAGE: &str = "docker.io/openfga/openfga:v1.22.1";
/// Keys of the Secret of a Postgres elsewhere.
const DATABASE: &str = "openfga-database";
const USERNAME: &str = "openfga-username";
const PASSWORD: &str = "openfga-password";

/// What the cluster holds for OpenFGA.
#[derive(Debug, Default)]
pub struct Observed {
    pub deployment: Option<Deployment>,
    pub pods: Vec<Pod>,
    /// Migrations of this and of earlier releases.
    pub jobs: Vec<Job>,
    /// Their pods.
    pub job_pods: Vec<Pod>,
    /// `openfga-store`.
    pub kept: Option<Secret>,
    /// `openfga-conn`.
    pub conn: Option<Secret>,
    /// The Secret that says where the database is: `postgres-user-openfga`, or that of a Postgres elsewhere.
    pub database: Option<Secret>,
    /// The Secret an external OpenFGA is described by.
    pub external: Option<Secret>,
}

/// OpenFGA, in one of its modes.
#[derive(Debug)]
pub enum OpenFga {
    Managed(Managed),
    External(External),
    Disabled,
}

/// An OpenFGA the operator runs.
#[derive(Debug)]
pub struct Managed {
    pub replicas: u16,
    pub image: String,
    pub resources: Resources,
    /// None before Postgres has made it.
    pub database: Option<Database>,
    /// None before the first install.
    pub kept: Option<Kept>,
}

/// Where the relations are.
#[derive(Clone, PartialEq, Eq)]
pub struct Database {
    /// Without user and password.
    pub uri: String,
    /// The Secret with both, and their keys in it.
    pub secret: String,
    pub username_key: &'static str,
    pub password_key: &'static str,
    /// What both are, to notice a change.
    login: String,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.uri)
    }
}

impl Database {
    /// Changes with anything pods read from Secrets when they start. The token in it, which nobody guesses, keeps the
    /// password from being guessed by it.
    pub fn hash(&self, token: &str) -> String {
        ConfigHash::of(&format!("{token}\n{}", self.login)).short().to_owned()
    }
}

/// An OpenFGA that runs elsewhere.
#[derive(Clone, PartialEq, Eq)]
pub struct External {
    /// Base URL without a `/` at its end.
    pub url: String,
    pub host: String,
    pub port: u16,
    pub token: Option<String>,
    /// Which of several stores named `soma`.
    pub store: Option<String>,
}

impl std::fmt::Debug for External {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.url)
    }
}

/// What the manifest says, or what its profile stands for.
pub fn spec(site: &Site<'_>) -> Spec {
    let spec = &site.infra.spec;
    spec.openfga.clone().unwrap_or_else(|| Spec::of(spec.profile))
}

pub fn validate(site: &Site<'_>, observed: &Observed) -> Result<OpenFga, Blocked> {
    let spec = spec(site);
    if let Some(external) = &spec.external {
        let name = &external.secret_ref.name;
        return read_external(site, name, observed.external.as_ref()).map(OpenFga::External);
    }
    let managed = spec.managed.as_ref();
    managed
        .map_or(Ok(OpenFga::Disabled), |managed| read_managed(site, managed, observed).map(OpenFga::Managed))
}

fn read_managed(site: &Site<'_>, spec: &ManagedOpenFga, observed: &Observed) -> Result<Managed, Blocked> {
    let (replicas, resources) = match site.infra.spec.profile {
        Profile::Dev => (1, Resources::of("50m", "64Mi", "256Mi")),
        Profile::Ha => (2, Resources::of("250m", "256Mi", "512Mi")),
    };
    let kept = observed.kept.as_ref().and_then(Kept::read);
    if kept.is_none() && (observed.deployment.is_some() || observed.kept.is_some()) {
        return Err(Blocked::TokenLost { namespace: site.owner.namespace.clone() });
    }
    Ok(Managed {
        replicas: spec.replicas.unwrap_or(replicas),
        image: spec.image.clone().unwrap_or_else(|| IMAGE.into()),
        resources: workload::resources(spec.resources.as_ref(), &resources)
            .map_err(|e| Blocked::ResourcesInvalid { component: object::OPENFGA, problem: e.to_string() })?,
        database: database(site, observed.database.as_ref())?,
        kept,
    })
}

fn database(site: &Site<'_>, from: Option<&Secret>) -> Result<Option<Database>, Blocked> {
    match &site.infra.spec.postgres.external {
        Some(external) => elsewhere(site, &external.secret_ref.name, from).map(Some),
        None => Ok(from.and_then(own)),
    }
}

/// The role and database that the operator made.
fn own(from: &Secret) -> Option<Database> {
    let text = |key: &str| secret::text(from, key);
    let (username, password) = (text("username")?, text("password")?);
    Some(Database {
        uri: uri(&text("host")?, &text("port")?, &text("database")?, SslMode::Prefer),
        secret: object::POSTGRES_OPENFGA.to_owned(),
        username_key: "username",
        password_key: "password",
        login: format!("{username}\n{password}"),
    })
}

/// A Postgres elsewhere has a database for OpenFGA only when somebody made one.
fn elsewhere(site: &Site<'_>, name: &str, from: Option<&Secret>) -> Result<Database, Blocked> {
    let read = Reader::new(site, name, from, &["host", "username", "password", DATABASE])?;
    let Some(database) = read.optional(DATABASE)? else {
        let namespace = site.owner.namespace.clone();
        return Err(Blocked::DatabaseMissing { namespace, name: name.to_owned() });
    };
    let own = read.optional(USERNAME)?;
    let (username_key, password_key) =
        if own.is_some() { (USERNAME, PASSWORD) } else { ("username", "password") };
    let sslmode = read.optional("sslmode")?.map_or(Ok(SslMode::Prefer), |text| {
        parse_sslmode(&text)
            .ok_or_else(|| read.invalid("sslmode", "is none of disable, prefer, require, verify-full"))
    })?;
    let (username, password) = (read.required(username_key)?, read.required(password_key)?);
    Ok(Database {
        uri: uri(&read.required("host")?, &read.port(5432)?.to_string(), &database, sslmode),
        secret: name.to_owned(),
        username_key,
        password_key,
        login: format!("{username}\n{password}"),
    })
}

fn uri(host: &str, port: &str, database: &str, sslmode: SslMode) -> String {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    format!("postgres://{host}:{port}/{}?sslmode={}", secret::percent_encode(database), sslmode.as_str())
}

fn read_external(site: &Site<'_>, name: &str, secret: Option<&Secret>) -> Result<External, Blocked> {
    let read = Reader::new(site, name, secret, &["url"])?;
    let wrong = || read.invalid("url", "is no http(s)://host:port");
    let url = Url::parse(&read.required("url")?).map_err(|_| wrong())?;
    let is_plain =
        ["http", "https"].contains(&url.scheme()) && url.query().is_none() && url.username().is_empty();
    let (host, port) =
        (url.host_str().ok_or_else(wrong)?.to_owned(), url.port_or_known_default().ok_or_else(wrong)?);
    if !is_plain {
        return Err(wrong());
    }
    Ok(External {
        url: url.as_str().trim_end_matches('/').to_owned(),
        host,
        port,
        token: read.optional("token")?,
        store: read.optional(STORE)?,
    })
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
