//! The Secret `etcd-cluster`: whether the cluster was ever formed, its passwords, and who may join it.
//!
//! It is written before a pod exists, has no owner reference, and is never made anew while a volume exists. A pod reads
//! the last two keys whenever its container starts; etcd heeds them only while its folder holds no member.

use k8s_openapi::api::core::v1::Secret;
use serde_json::json;

use crate::apply::Writer;
use crate::error::Error;
use crate::infra::{Site, secret};
use crate::names::object;
use crate::random;

const STAGE: &str = "stage";
const FOUNDERS: &str = "founders";
pub const ROOT: &str = "root-password";
const USER: &str = "soma-password";
const FORMING: &str = "forming";
const FORMED: &str = "formed";

/// Keys that pods refer to.
pub mod key {
    pub const TOKEN: &str = "initial-cluster-token";
    pub const CLUSTER: &str = "initial-cluster";
    pub const STATE: &str = "initial-cluster-state";
}

/// How far the cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Its founders may form it.
    Forming,
    /// It was formed, and nobody may ever form it again.
    Formed,
}

/// What a member without data is told when it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// `ETCD_INITIAL_CLUSTER`.
    pub cluster: String,
    /// `ETCD_INITIAL_CLUSTER_STATE`.
    pub state: &'static str,
}

/// What `etcd-cluster` says.
#[derive(Clone, PartialEq, Eq)]
pub struct Marker {
    pub stage: Stage,
    /// Members that form the cluster.
    pub founders: u16,
    /// Password of the user `root`.
    pub root: String,
    /// Password of the user `soma`.
    pub user: String,
    /// As it is written; absent while a key is missing.
    pub admission: Option<(String, String)>,
}

impl std::fmt::Debug for Marker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { stage, founders, root: _, user: _, admission: _ } = self;
        write!(f, "{stage:?} by {founders}")
    }
}

impl Marker {
    /// Reads the Secret; `None` when it is not there, or lacks what cannot be made again.
    pub fn read(secret: Option<&Secret>) -> Option<Self> {
        let secret = secret?;
        let text = |key| secret::text(secret, key);
        text(key::TOKEN)?;
        Some(Self {
            stage: match text(STAGE)?.as_str() {
                FORMING => Stage::Forming,
                FORMED => Stage::Formed,
                _ => return None,
            },
            founders: text(FOUNDERS)?.parse().ok().filter(|n| *n > 0)?,
            root: text(ROOT)?,
            user: text(USER)?,
            admission: text(key::CLUSTER).zip(text(key::STATE)),
        })
    }

    /// Whether a member without data is told this.
    pub fn tells(&self, admission: &Admission) -> bool {
        self.admission
            .as_ref()
            .is_some_and(|(cluster, state)| *cluster == admission.cluster && state == admission.state)
    }
}

/// Records that a cluster is about to be formed, with passwords that did not exist before. What exists stays.
pub async fn begin(
    writer: &Writer,
    site: &Site<'_>,
    founders: u16,
    admission: &Admission,
) -> Result<Option<Marker>, Error> {
    let (token, root, user) = (random::secret(), random::secret(), random::secret());
    let secret = build(
        site,
        &[
            (STAGE, FORMING),
            (FOUNDERS, &founders.to_string()),
            (ROOT, &root),
            (USER, &user),
            (key::TOKEN, &token),
            (key::CLUSTER, &admission.cluster),
            (key::STATE, admission.state),
        ],
    )?;
    Ok(Marker::read(Some(&writer.create_once(&secret).await?)))
}

/// Changes what a member without data is told, and the stage with it.
pub async fn admit(
    writer: &Writer,
    site: &Site<'_>,
    stage: Stage,
    admission: &Admission,
) -> Result<(), Error> {
    let stage = if stage == Stage::Forming { FORMING } else { FORMED };
    let patch = json!({"stringData": {
        STAGE: stage, key::CLUSTER: admission.cluster, key::STATE: admission.state,
    }});
    writer.merge(&build(site, &[])?, &patch).await.map(|_| ())
}

fn build(site: &Site<'_>, data: &[(&str, &str)]) -> Result<Secret, Error> {
    secret::build(site, object::ETCD, object::ETCD_CLUSTER, data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infra::fixture;

    #[test]
    fn a_marker_that_lacks_a_password_is_none() {
        let whole = [
            (STAGE, FORMED),
            (FOUNDERS, "3"),
            (ROOT, "geheim"),
            (USER, "u"),
            (key::TOKEN, "t"),
            (key::CLUSTER, "a=b"),
            (key::STATE, "existing"),
        ];
        let marker = Marker::read(Some(&fixture::secret(&whole))).unwrap();
        assert_eq!((marker.stage, marker.founders), (Stage::Formed, 3));
        assert!(marker.tells(&Admission { cluster: "a=b".into(), state: "existing" }));
        assert!(!marker.tells(&Admission { cluster: "a=b".into(), state: "new" }));
        assert!(!format!("{marker:?}").contains("geheim"), "never printed");
        for absent in 0..5 {
            let mut rest = whole.to_vec();
            let (key, _) = rest.remove(absent);
            assert!(Marker::read(Some(&fixture::secret(&rest))).is_none(), "{key}");
        }
        let marker = Marker::read(Some(&fixture::secret(&whole[..5]))).unwrap();
        assert_eq!(marker.admission, None, "it is written again");
        assert!(Marker::read(None).is_none());
    }
}
