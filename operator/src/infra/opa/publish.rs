//! What is published next: a new bundle, or the one before. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::json;
use soma_settings::{ConfigHash, canonical_json};

use super::build::{BYTES, INPUTS, REFUSED};
use super::bundle::{self, Bundle, BundleError, Sources};
use super::core;
use super::rego::RegoError;
use super::sign::Signing;
use super::tenants::{self, Admitted, Given};
use crate::error::chain;

/// Raised when the same input comes to another bundle than in an earlier release.
const FORMAT: u8 = 1;

/// What is to be published.
#[derive(Clone, Debug)]
pub struct Published {
    pub bundle: Bundle,
    /// Hash of everything it was made of.
    pub inputs: String,
    /// Why ConfigMaps are not, or not as they are now, part of it, by their names.
    pub refused: BTreeMap<String, String>,
}

/// Why nothing new is published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error(
        "the policies of this release fail their tests, so what was published before stays: {0}. Go back to the release before, and report it"
    )]
    PolicyTestsFailed(RegoError),
    #[error(transparent)]
    PolicyTooLarge(#[from] BundleError),
}

impl PublishError {
    /// The variant's name.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::PolicyTestsFailed(_) => "PolicyTestsFailed",
            Self::PolicyTooLarge(_) => "PolicyTooLarge",
        }
    }

    pub fn message(&self) -> String {
        chain(self)
    }
}

/// What ConfigMap `opa-bundle` holds, where this key signed it.
#[derive(Clone, Debug)]
pub struct Last {
    pub published: Published,
    sources: Sources,
}

impl Last {
    pub fn read(map: &ConfigMap, signing: &Signing) -> Option<Self> {
        let bytes = map.binary_data.as_ref()?.get(BYTES)?.0.clone();
        let (revision, sources) = bundle::unpack(&bytes, signing)?;
        let text = |key: &str| map.data.as_ref()?.get(key).cloned();
        let refused = serde_json::from_str(&text(REFUSED)?).ok()?;
        let published = Published { bundle: Bundle { revision, bytes }, inputs: text(INPUTS)?, refused };
        Some(Self { published, sources })
    }
}

/// Makes the bundle of what is given. The same input is not looked at twice.
pub fn next(last: Option<&Last>, given: &[Given], signing: &Signing) -> Result<Published, PublishError> {
    let core: Vec<_> = core::files().into_iter().map(|file| (file.path, file.text)).collect();
    let inputs = json!({"format": FORMAT, "core": core, "key": signing.id(), "given": given});
    let inputs = ConfigHash::of(&canonical_json(&inputs)).to_string();
    if let Some(last) = last.filter(|last| last.published.inputs == inputs) {
        return Ok(last.published.clone());
    }
    if let Err(error) = core::verified() {
        return Err(PublishError::PolicyTestsFailed(error.clone()));
    }
    let none = Sources::new();
    let Admitted { sources, refused } = tenants::admit(given, last.map_or(&none, |last| &last.sources));
    Ok(Published { bundle: bundle::pack(&sources, signing)?, inputs, refused })
}

/// What people get to know of the ConfigMaps that are refused.
pub fn caveat(refused: &BTreeMap<String, String>) -> Option<String> {
    (!refused.is_empty()).then(|| refused.values().cloned().collect::<Vec<_>>().join(". "))
}
