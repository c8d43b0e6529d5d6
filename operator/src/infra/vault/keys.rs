//! The Secret `vault-unseal`: whether Vault was ever initialised, and the key that opens it.
//!
//! It is written before Vault is asked to initialise, so that a Secret store that refuses is noticed while nothing is
//! lost, and again with the answer. It has no owner reference and is never made anew while it exists.

use k8s_openapi::api::core::v1::Secret;
use serde_json::json;

use crate::apply::Writer;
use crate::error::Error;
use crate::infra::{Site, secret};
use crate::names::object;

const STAGE: &str = "stage";
const KEY: &str = "unseal-key";
const ROOT: &str = "root-token";
const FORMING: &str = "initialising";
const FORMED: &str = "initialised";

/// What `vault-unseal` says.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Keys {
    /// There is no such Secret.
    #[default]
    Absent,
    /// Vault was about to be initialised; if it is, its answer is lost.
    Forming,
    /// Somebody took the key out of it; whatever Vault holds is not to be thrown away.
    Damaged,
    /// Vault was initialised.
    Formed {
        /// Opens every member.
        key: String,
        /// There until Vault is configured.
        root: Option<String>,
    },
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Absent => "Absent",
            Self::Forming => "Forming",
            Self::Damaged => "Damaged",
            Self::Formed { root: None, .. } => "Formed",
            Self::Formed { root: Some(_), .. } => "Formed, not configured",
        })
    }
}

impl Keys {
    /// Reads the Secret.
    pub fn read(secret: Option<&Secret>) -> Self {
        let Some(found) = secret else { return Self::Absent };
        match secret::text(found, KEY) {
            Some(key) => Self::Formed { key, root: secret::text(found, ROOT) },
            None if secret::text(found, STAGE).as_deref() == Some(FORMING) => Self::Forming,
            None => Self::Damaged,
        }
    }
}

/// Proves that the Secret can be written and read, and records that Vault is about to be initialised.
pub async fn begin(writer: &Writer, site: &Site<'_>) -> Result<Keys, Error> {
    let secret = secret::build(site, object::VAULT, object::VAULT_UNSEAL, &[(STAGE, FORMING)])?;
    Ok(Keys::read(Some(&writer.create_once(&secret).await?)))
}

/// Keeps what the initialisation answered.
pub async fn keep(writer: &Writer, site: &Site<'_>, key: &str, root: &str) -> Result<(), Error> {
    let secret = secret::build(site, object::VAULT, object::VAULT_UNSEAL, &[])?;
    let patch = json!({"stringData": {STAGE: FORMED, KEY: key, ROOT: root}});
    writer.merge(&secret, &patch).await.map(|_| ())
}

/// Forgets the root token.
pub async fn forget_root(writer: &Writer, site: &Site<'_>) -> Result<(), Error> {
    let secret = secret::build(site, object::VAULT, object::VAULT_UNSEAL, &[])?;
    writer.merge(&secret, &json!({"data": {ROOT: null}})).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infra::fixture;

    #[test]
    fn a_secret_without_a_key_is_an_initialisation_that_never_ended() {
        assert_eq!(Keys::read(None), Keys::Absent);
        assert_eq!(Keys::read(Some(&fixture::secret(&[(STAGE, FORMING)]))), Keys::Forming);
        assert_eq!(Keys::read(Some(&fixture::secret(&[(STAGE, FORMED)]))), Keys::Damaged, "it may hold data");
        assert_eq!(Keys::read(Some(&fixture::secret(&[]))), Keys::Damaged);
        let formed = fixture::secret(&[(STAGE, FORMED), (KEY, "k"), (ROOT, "r")]);
        assert_eq!(Keys::read(Some(&formed)), Keys::Formed { key: "k".into(), root: Some("r".into()) });
        assert_eq!(format!("{:?}", Keys::read(Some(&formed))), "Formed, not configured", "never printed");
    }
}
