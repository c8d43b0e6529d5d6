//! From a manifest and what it refers to, to the form the builders take. Pure.

use k8s_openapi::api::core::v1::Secret;
use reqwest::Url;
use soma_crds::{ManagedEtcd, Profile, Quantity};

use super::marker::Marker;
use crate::infra::Site;
use crate::infra::backup::{self, Backup};
use crate::infra::blocked::Blocked;
use crate::infra::secret::Reader;
use crate::infra::set::{self, Defaults, Live, Member};
use crate::names::object;
use crate::workload::Resources;

/// Port of a managed etcd for clients.
pub const PORT: u16 = 2379;
/// The release the operator was tested with.
const IMAGE: &str = "quay.io/coreos/etcd:v3.6.16";
/// Largest quota etcd's authors advise.
const MAX_QUOTA: u64 = 8 << 30;

/// What the cluster holds for etcd.
#[derive(Debug, Default)]
pub struct Observed {
    pub live: Live,
    /// From `etcd-cluster`.
    pub marker: Option<Marker>,
    /// `etcd-conn`.
    pub conn: Option<Secret>,
    /// The Secret an external etcd is described by.
    pub external: Option<Secret>,
}

/// etcd, in one of its modes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Etcd {
    Managed(Managed),
    External(Connection),
    Disabled,
}

/// An etcd the operator runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Managed {
    /// Members asked for.
    pub replicas: u16,
    pub member: Member,
    /// Bytes the database of a member may have.
    pub quota: u64,
    pub backup: Option<Backup>,
}

/// Where an etcd answers, and as whom.
#[derive(Clone, PartialEq, Eq)]
pub struct Connection {
    /// Base URLs; at least one.
    pub endpoints: Vec<String>,
    /// Host of the first.
    pub host: String,
    /// Port of the first.
    pub port: u16,
    /// User and password.
    pub login: Option<(String, String)>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.endpoints.join(","))
    }
}

pub fn validate(site: &Site<'_>, observed: &Observed) -> Result<Etcd, Blocked> {
    let spec = site.infra.spec.etcd.clone().unwrap_or_default();
    if let Some(external) = &spec.external {
        let name = &external.secret_ref.name;
        return read_external(site, name, observed.external.as_ref()).map(Etcd::External);
    }
    spec.managed
        .as_ref()
        .map_or(Ok(Etcd::Disabled), |managed| read_managed(site, managed, observed).map(Etcd::Managed))
}

fn read_managed(site: &Site<'_>, spec: &ManagedEtcd, observed: &Observed) -> Result<Managed, Blocked> {
    if let (None, Some(first)) = (&observed.marker, observed.live.claims.keys().next()) {
        return Err(Blocked::PasswordLost {
            namespace: site.owner.namespace.clone(),
            component: object::ETCD,
            name: object::ETCD_CLUSTER,
            claim: set::claim_name(object::ETCD, *first),
        });
    }
    let (replicas, disk, resources) = match site.infra.spec.profile {
        Profile::Dev => (1, "1Gi", Resources::of("50m", "128Mi", "512Mi")),
        Profile::Ha => (3, "8Gi", Resources::of("100m", "512Mi", "2Gi")),
    };
    let member = Member::of(object::ETCD, &spec.member, &Defaults { image: IMAGE, size: disk, resources })?;
    let quota = quota_of(&member.volume.size);
    let replicas = members(&observed.live, spec.replicas.unwrap_or(replicas));
    let backup = backup::validate(site, object::ETCD, spec.backup.as_ref())?;
    Ok(Managed { replicas, member, quota, backup })
}

/// Nothing takes members away; a set that was removed is known by its volumes.
pub fn members(live: &Live, wanted: u16) -> u16 {
    let volumes = live.claims.keys().next_back().map_or(0, |last| last + 1);
    live.members(wanted).max(volumes)
}

/// A quarter of the volume: the rest is for the log, for snapshots, and for the copy a defragmentation makes.
fn quota_of(size: &str) -> u64 {
    Quantity(size.to_owned()).bytes().map_or(MAX_QUOTA, |bytes| (bytes / 4).min(MAX_QUOTA))
}

fn read_external(site: &Site<'_>, name: &str, secret: Option<&Secret>) -> Result<Connection, Blocked> {
    let read = Reader::new(site, name, secret, &["endpoints"])?;
    let wrong = || read.invalid("endpoints", "is no list of http(s)://host:port, separated by commas");
    let text = read.required("endpoints")?;
    let parsed: Vec<_> =
        text.split(',').map(|one| endpoint(one.trim())).collect::<Option<_>>().ok_or_else(wrong)?;
    let (_, host, port) = parsed.first().cloned().ok_or_else(wrong)?;
    let login = match (read.optional("username")?, read.optional("password")?) {
        (None, None) => None,
        _ => Some((read.required("username")?, read.required("password")?)),
    };
    Ok(Connection { endpoints: parsed.into_iter().map(|(url, ..)| url).collect(), host, port, login })
}

/// A base URL, its host and its port.
fn endpoint(text: &str) -> Option<(String, String, u16)> {
    let url = Url::parse(text).ok()?;
    let (host, port) = (url.host_str()?.to_owned(), url.port_or_known_default()?);
    let scheme = url.scheme();
    let is_plain = url.path() == "/" && url.query().is_none() && url.username().is_empty();
    let url = format!("{scheme}://{host}:{port}");
    (is_plain && ["http", "https"].contains(&scheme) && text.ends_with(&format!(":{port}")))
        .then_some((url, host, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infra::etcd::build::tests::marker;
    use crate::infra::fixture;
    use k8s_openapi::api::core::v1::PersistentVolumeClaim;
    use serde_json::json;

    fn etcd(spec: serde_json::Value, observed: &Observed) -> Result<Etcd, Blocked> {
        validate(&Site::new(&fixture::infra(spec)), observed)
    }

    fn with_claims(marker: Option<Marker>, claims: u16) -> Observed {
        let claims = (0..claims).map(|n| (n, PersistentVolumeClaim::default())).collect();
        Observed { live: Live { claims, ..Default::default() }, marker, ..Default::default() }
    }

    fn managed(spec: serde_json::Value, observed: &Observed) -> Managed {
        match etcd(spec, observed).unwrap() {
            Etcd::Managed(managed) => managed,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn it_runs_only_when_asked_for() {
        let none = Observed::default();
        assert!(matches!(etcd(json!({}), &none).unwrap(), Etcd::Managed(_)));
        assert_eq!(etcd(json!({"etcd": {"disabled": {}}}), &none).unwrap(), Etcd::Disabled);
    }

    #[test]
    fn the_profile_decides_the_members_and_never_takes_one_away() {
        let dev = json!({"etcd": {"managed": {}}});
        let none = Observed::default();
        assert_eq!(managed(dev.clone(), &none).replicas, 1);
        assert_eq!(managed(json!({"profile": "ha", "etcd": {"managed": {}}}), &none).replicas, 3);
        assert_eq!(managed(json!({"etcd": {"managed": {"replicas": 5}}}), &none).replicas, 5);
        assert_eq!(managed(dev, &with_claims(Some(marker()), 3)).replicas, 3, "disabled and asked for again");
    }

    #[test]
    fn volumes_without_their_marker_are_never_formed_again() {
        let spec = json!({"etcd": {"managed": {}}});
        let error = etcd(spec.clone(), &with_claims(None, 1)).unwrap_err();
        assert_eq!(error.reason(), "PasswordLost");
        assert!(error.to_string().contains("pvc/data-etcd-0"), "{error}");
        assert!(etcd(spec, &with_claims(Some(marker()), 1)).is_ok());
    }

    #[test]
    fn the_quota_leaves_room_on_the_volume() {
        let sized = |size: &str| {
            let spec = json!({"etcd": {"managed": {"storage": {"size": size}}}});
            managed(spec, &Observed::default()).quota
        };
        assert_eq!(sized("8Gi"), 2 << 30);
        assert_eq!(sized("100Gi"), MAX_QUOTA);
    }

    #[test]
    fn an_external_etcd_is_read_from_its_secret() {
        let spec = json!({"etcd": {"external": {"secretRef": {"name": "e"}}}});
        let with = |data: &[(&str, &str)]| {
            let read =
                etcd(spec.clone(), &Observed { external: Some(fixture::secret(data)), ..Default::default() });
            read.map(|etcd| match etcd {
                Etcd::External(connection) => connection,
                other => panic!("{other:?}"),
            })
        };
        let read = with(&[("endpoints", "https://a.example.org:2379, http://b:80/")]).map_err(|e| e.reason());
        assert_eq!(read, Err("SecretValueInvalid"), "a path");
        let read = with(&[("endpoints", "https://a.example.org:2379, http://b:1")]).unwrap();
        assert_eq!(read.endpoints, ["https://a.example.org:2379", "http://b:1"]);
        assert_eq!((read.host.as_str(), read.port), ("a.example.org", 2379));
        for wrong in ["a:2379", "ftp://a:1", "http://a", "http://a:1,", "http://u@a:1"] {
            assert_eq!(with(&[("endpoints", wrong)]).unwrap_err().reason(), "SecretValueInvalid", "{wrong}");
        }
        let half = with(&[("endpoints", "http://a:1"), ("username", "u")]).unwrap_err();
        assert_eq!(half.reason(), "SecretKeyMissing");
        let whole = with(&[("endpoints", "http://a:1"), ("username", "u"), ("password", "p")]).unwrap();
        assert_eq!(whole.login, Some(("u".into(), "p".into())));
        let missing = etcd(spec, &Observed::default()).unwrap_err().to_string();
        assert!(
            missing.ends_with("create secret generic e --from-literal=endpoints=ENDPOINTS`"),
            "{missing}"
        );
    }
}
