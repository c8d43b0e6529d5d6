//! The key bundles are signed with, and the token they are downloaded with. Pure but for randomness.

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use k8s_openapi::api::core::v1::Secret;
use p256::ecdsa::signature::Signer;
use p256::ecdsa::{Signature, SigningKey};
use p256::elliptic_curve::Generate;
use p256::pkcs8::{DecodePrivateKey, EncodePrivateKey, EncodePublicKey, LineEnding};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::bundle::Entry;
use crate::error::Error;
use crate::infra::{Site, secret};
use crate::names::object;

/// Keys of Secret `opa-signing`.
const PRIVATE: &str = "private.pem";
pub const TOKEN: &str = "token";

/// What Secret `opa-signing` holds.
#[derive(Clone)]
pub struct Signing {
    key: SigningKey,
    /// What OPA shows to get its bundle.
    pub token: String,
}

impl std::fmt::Debug for Signing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signing")
    }
}

impl Signing {
    pub fn generate() -> Self {
        Self { key: SigningKey::generate(), token: crate::random::secret() }
    }

    #[cfg(test)]
    pub fn fixed() -> Self {
        Self { key: SigningKey::from_slice(&[7; 32]).unwrap(), token: "token".into() }
    }

    /// Which key of the Secret cannot be used, and why.
    pub fn read(secret: &Secret) -> Result<Self, (&'static str, &'static str)> {
        let pem = secret::text(secret, PRIVATE).ok_or((PRIVATE, "is missing or empty"))?;
        let key =
            SigningKey::from_pkcs8_pem(&pem).map_err(|_| (PRIVATE, "is no private key on P-256 in PEM"))?;
        let token = secret::text(secret, TOKEN).ok_or((TOKEN, "is missing or empty"))?;
        Ok(Self { key, token })
    }

    /// The Secret. No owner reference: pods with the public key outlive it.
    pub fn secret(&self, site: &Site<'_>) -> Result<Secret, Error> {
        let unsound = |e| Error::UnsoundPlan(format!("the key cannot be written: {e}"));
        let pem = self.key.to_pkcs8_pem(LineEnding::LF).map_err(unsound)?;
        let data = [(PRIVATE, pem.as_str()), (TOKEN, &self.token)];
        secret::build(site, object::OPA, object::OPA_SIGNING, &data)
    }

    /// The public key, as OPA's configuration has it.
    pub fn public_pem(&self) -> Result<String, Error> {
        let pem = self.key.verifying_key().to_public_key_pem(LineEnding::LF);
        pem.map_err(|e| Error::UnsoundPlan(format!("the key cannot be written: {e}")))
    }

    /// Name of the key: two keys never share one.
    pub fn id(&self) -> String {
        let point = self.key.verifying_key().to_sec1_point(true);
        HEXLOWER.encode(&Sha256::digest(point.as_bytes())[..8])
    }

    /// The text of `.signatures.json`: a JWT that names every file with its hash. The same for the same files.
    pub fn sign(&self, entries: &[Entry]) -> String {
        let files: Vec<_> = entries
            .iter()
            .map(|entry| {
                let hash = HEXLOWER.encode(&Sha256::digest(entry.hashed()));
                json!({"name": entry.path, "hash": hash, "algorithm": "SHA-256"})
            })
            .collect();
        let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        let header = part(&json!({"alg": "ES256", "typ": "JWT", "kid": self.id()}));
        let body = format!("{header}.{}", part(&json!({"files": files, "keyid": self.id()})));
        let signature: Signature = self.key.sign(body.as_bytes());
        json!({"signatures": [format!("{body}.{}", BASE64URL_NOPAD.encode(&signature.to_bytes()))]})
            .to_string()
    }
}
