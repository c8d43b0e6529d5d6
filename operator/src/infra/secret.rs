//! Secrets: those the operator makes, and those people describe an external component with. Pure.

use std::fmt::Write as _;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;

use super::Site;
use super::blocked::Blocked;
use crate::error::Error;
use crate::workload::typed;

/// A Secret of a component. No owner reference: it has to outlive everything but the data it opens.
pub fn build(site: &Site<'_>, component: &str, name: &str, data: &[(&str, &str)]) -> Result<Secret, Error> {
    let mut secret: Secret = typed(&json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": {"name": name, "namespace": site.owner.namespace, "labels": site.owner.labels(component)},
    }))?;
    let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
    secret.data = Some(data.iter().map(|(key, value)| ((*key).to_owned(), bytes(value))).collect());
    Ok(secret)
}

/// The text under a key, where it is text and not empty.
pub fn text(secret: &Secret, key: &str) -> Option<String> {
    let bytes = secret.data.as_ref()?.get(key)?;
    String::from_utf8(bytes.0.clone()).ok().filter(|text| !text.is_empty())
}

/// Encodes everything but RFC 3986 unreserved characters.
pub fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing into a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// Reads a Secret that people made, key by key.
pub struct Reader<'a> {
    namespace: &'a str,
    name: &'a str,
    secret: &'a Secret,
}

impl<'a> Reader<'a> {
    /// Refuses a Secret that is not there; `keys` are those it must have.
    pub fn new(
        site: &'a Site<'_>,
        name: &'a str,
        secret: Option<&'a Secret>,
        keys: &'static [&'static str],
    ) -> Result<Self, Blocked> {
        let namespace = site.owner.namespace.as_str();
        let missing = || Blocked::SecretMissing { namespace: namespace.into(), name: name.into(), keys };
        Ok(Self { namespace, name, secret: secret.ok_or_else(missing)? })
    }

    /// A value that may be absent, but not empty or unprintable.
    pub fn optional(&self, key: &'static str) -> Result<Option<String>, Blocked> {
        let Some(bytes) = self.secret.data.as_ref().and_then(|data| data.get(key)) else { return Ok(None) };
        match String::from_utf8(bytes.0.clone()) {
            Ok(text) if text.is_empty() => Err(self.invalid(key, "is empty")),
            Ok(text) if text.chars().any(char::is_control) => {
                Err(self.invalid(key, "holds a line break or another control character"))
            }
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(self.invalid(key, "is not UTF-8")),
        }
    }

    /// A value that has to be there.
    pub fn required(&self, key: &'static str) -> Result<String, Blocked> {
        let (namespace, name) = (self.namespace.to_owned(), self.name.to_owned());
        self.optional(key)?.ok_or(Blocked::SecretKeyMissing { namespace, name, key })
    }

    /// A TCP port under `port`.
    pub fn port(&self, default: u16) -> Result<u16, Blocked> {
        self.optional("port")?.map_or(Ok(default), |text| match text.parse::<u16>() {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(self.invalid("port", "is no TCP port (1–65535)")),
        })
    }

    /// A value that cannot be used.
    pub fn invalid(&self, key: &'static str, problem: &'static str) -> Blocked {
        Blocked::SecretValueInvalid { namespace: self.namespace.into(), name: self.name.into(), key, problem }
    }
}
