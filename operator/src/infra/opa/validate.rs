//! From a manifest and what it refers to, to the form the builders take. Pure.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use reqwest::Url;
use soma_crds::{ManagedOpa, Profile};

use super::sign::Signing;
use crate::infra::Site;
use crate::infra::blocked::Blocked;
use crate::infra::secret::Reader;
use crate::names::object;
use crate::workload::{self, Resources};

/// The release the operator was tested with, without a shell.
const IMAGE: &str = "docker.io/openpolicyagent/opa:1.22.0-static";

/// What the cluster holds for OPA.
#[derive(Debug, Default)]
pub struct Observed {
    pub deployment: Option<Deployment>,
    pub pods: Vec<Pod>,
    /// ConfigMaps of earlier configurations, and the newest.
    pub configs: Vec<ConfigMap>,
    /// `opa-bundle`.
    pub bundle: Option<ConfigMap>,
    /// `opa-signing`.
    pub signing: Option<Secret>,
    /// `opa-conn`.
    pub conn: Option<Secret>,
    /// The Secret an external OPA is described by.
    pub external: Option<Secret>,
    /// What tenants give.
    pub given: Vec<ConfigMap>,
}

/// OPA, in one of its modes.
#[derive(Debug)]
pub enum Opa {
    Managed(Managed),
    External(Connection),
    Disabled,
}

/// An OPA the operator runs.
#[derive(Debug)]
pub struct Managed {
    pub replicas: u16,
    pub image: String,
    pub resources: Resources,
    /// None before it is made.
    pub signing: Option<Signing>,
}

/// How clients reach an OPA.
#[derive(Clone, PartialEq, Eq)]
pub struct Connection {
    /// Base URL without a `/` at its end.
    pub url: String,
    pub host: String,
    pub port: u16,
    pub token: Option<String>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.url)
    }
}

pub fn validate(site: &Site<'_>, observed: &Observed) -> Result<Opa, Blocked> {
    let spec = site.infra.spec.opa.clone().unwrap_or_default();
    if let Some(external) = &spec.external {
        let name = &external.secret_ref.name;
        return read_external(site, name, observed.external.as_ref()).map(Opa::External);
    }
    let managed = spec.managed.as_ref();
    managed.map_or(Ok(Opa::Disabled), |managed| read_managed(site, managed, observed).map(Opa::Managed))
}

fn read_managed(site: &Site<'_>, spec: &ManagedOpa, observed: &Observed) -> Result<Managed, Blocked> {
    let (replicas, resources) = match site.infra.spec.profile {
        Profile::Dev => (1, Resources::of("50m", "64Mi", "256Mi")),
        Profile::Ha => (2, Resources::of("250m", "256Mi", "512Mi")),
    };
    let namespace = || site.owner.namespace.clone();
    let signing = match &observed.signing {
        Some(secret) => {
            Some(Signing::read(secret).map_err(|(key, problem)| Blocked::SecretValueInvalid {
                namespace: namespace(),
                name: object::OPA_SIGNING.into(),
                key,
                problem,
            })?)
        }
        None if observed.deployment.is_some() => {
            return Err(Blocked::SigningKeyLost { namespace: namespace() });
        }
        None => None,
    };
    Ok(Managed {
        replicas: spec.replicas.unwrap_or(replicas),
        image: spec.image.clone().unwrap_or_else(|| IMAGE.into()),
        resources: workload::resources(spec.resources.as_ref(), &resources)
            .map_err(|e| Blocked::ResourcesInvalid { component: object::OPA, problem: e.to_string() })?,
        signing,
    })
}

fn read_external(site: &Site<'_>, name: &str, secret: Option<&Secret>) -> Result<Connection, Blocked> {
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
    Ok(Connection {
        url: url.as_str().trim_end_matches('/').to_owned(),
        host,
        port,
        token: read.optional("token")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infra::fixture;
    use serde_json::json;

    fn opa(spec: serde_json::Value, observed: &Observed) -> Result<Opa, Blocked> {
        validate(&Site::new(&fixture::infra(spec)), observed)
    }

    #[test]
    fn it_runs_unless_it_is_disabled() {
        let off = json!({"opa": {"disabled": {}}});
        assert!(matches!(opa(off, &Observed::default()).unwrap(), Opa::Disabled));
        assert!(matches!(opa(json!({}), &Observed::default()).unwrap(), Opa::Managed(_)));
    }

    #[test]
    fn the_profile_decides_how_many_run() {
        for (spec, replicas) in [
            (json!({"opa": {"managed": {}}}), 1),
            (json!({"profile": "ha", "opa": {"managed": {}}}), 2),
            (json!({"profile": "ha", "opa": {"managed": {"replicas": 5}}}), 5),
        ] {
            let Opa::Managed(managed) = opa(spec, &Observed::default()).unwrap() else { panic!() };
            assert_eq!(managed.replicas, replicas);
        }
    }

    #[test]
    fn no_second_key_is_made_while_pods_trust_the_first() {
        let observed = Observed { deployment: Some(Deployment::default()), ..Observed::default() };
        assert_eq!(opa(json!({"opa": {"managed": {}}}), &observed).unwrap_err().reason(), "SigningKeyLost");
        for wrong in [&[("token", "t")][..], &[("private.pem", "x"), ("token", "t")]] {
            let observed = Observed { signing: Some(fixture::secret(wrong)), ..Observed::default() };
            assert_eq!(
                opa(json!({"opa": {"managed": {}}}), &observed).unwrap_err().reason(),
                "SecretValueInvalid"
            );
        }
    }

    #[test]
    fn an_external_opa_is_read_from_its_secret() {
        let with = |data: &[(&str, &str)]| {
            let observed = Observed { external: Some(fixture::secret(data)), ..Observed::default() };
            opa(json!({"opa": {"external": {"secretRef": {"name": "o"}}}}), &observed)
        };
        let Opa::External(opa) = with(&[("url", "https://opa.example/x/"), ("token", "t")]).unwrap() else {
            panic!()
        };
        assert_eq!(
            (opa.url.as_str(), opa.host.as_str(), opa.port),
            ("https://opa.example/x", "opa.example", 443)
        );
        for wrong in ["opa:8181", "ftp://a", "http://u:p@h", "http://h?x"] {
            assert_eq!(with(&[("url", wrong)]).unwrap_err().reason(), "SecretValueInvalid", "{wrong}");
        }
        assert_eq!(with(&[]).unwrap_err().reason(), "SecretKeyMissing");
    }
}
