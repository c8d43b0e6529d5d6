//! The Secret `openfga-store`, which nobody owns: the token, and which store and model were made.

use k8s_openapi::api::core::v1::Secret;
use serde_json::json;

use crate::apply::Writer;
use crate::error::Error;
use crate::infra::{Site, secret};
use crate::names::object;

/// Key of what clients give as bearer token.
pub const TOKEN: &str = "token";
/// Key of the id of the store.
pub const STORE: &str = "store";
/// Key of the id of the model.
pub const MODEL: &str = "model";

/// What the Secret says.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Kept {
    pub token: String,
    /// None before the store is made; none other is made after.
    pub store: Option<String>,
    pub model: Option<String>,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kept({:?}, {:?})", self.store, self.model)
    }
}

impl Kept {
    /// None without a token.
    pub fn read(from: &Secret) -> Option<Self> {
        Some(Self {
            token: secret::text(from, TOKEN)?,
            store: secret::text(from, STORE),
            model: secret::text(from, MODEL),
        })
    }
}

/// Makes the token, once: of two operators the second reads what the first decided.
pub async fn begin(writer: &Writer, site: &Site<'_>) -> Result<Kept, Error> {
    let token = crate::random::secret();
    let wanted = secret::build(site, object::OPENFGA, object::OPENFGA_STORE, &[(TOKEN, &token)])?;
    let kept = writer.create_once(&wanted).await?;
    let unreadable = || Error::UnsoundPlan(format!("Secret {} lacks its token", object::OPENFGA_STORE));
    Kept::read(&kept).ok_or_else(unreadable)
}

/// Where it is written down what was made.
pub trait Notebook {
    /// Writes an id down under its key.
    fn keep(&self, key: &'static str, id: &str) -> impl Future<Output = Result<(), Error>> + Send;
}

/// The Secret itself.
pub struct InSecret<'a> {
    pub writer: &'a Writer,
    pub site: &'a Site<'a>,
}

impl Notebook for InSecret<'_> {
    async fn keep(&self, key: &'static str, id: &str) -> Result<(), Error> {
        let secret = secret::build(self.site, object::OPENFGA, object::OPENFGA_STORE, &[])?;
        self.writer.merge(&secret, &json!({"stringData": {key: id}})).await.map(drop)
    }
}
