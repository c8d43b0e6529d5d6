//! What the three kinds have in common.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What happens to data when an object is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// Data, volumes and keys stay.
    #[default]
    Retain,
    /// Data is deleted too.
    Delete,
}

/// An object in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct LocalRef {
    /// Name of the object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// An object, by default in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct NamespacedRef {
    /// Name of the object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Namespace of the object; this object's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
}

/// An amount of bytes as Kubernetes writes it, such as `512Mi` or `10Gi`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Quantity(
    /// Digits, then an optional unit: Ki, Mi, Gi, Ti, k, M, G or T.
    #[schemars(regex(pattern = r"^[1-9][0-9]{0,14}(Ki|Mi|Gi|Ti|k|M|G|T)?$"))]
    pub String,
);

impl Quantity {
    /// Bytes, or `None` when the text is no quantity or does not fit 63 bits.
    pub fn bytes(&self) -> Option<u64> {
        let digits = self.0.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let factor: u64 = match &self.0[digits.len()..] {
            "" => 1,
            "k" => 1000,
            "M" => 1000_u64.pow(2),
            "G" => 1000_u64.pow(3),
            "T" => 1000_u64.pow(4),
            "Ki" => 1 << 10,
            "Mi" => 1 << 20,
            "Gi" => 1 << 30,
            "Ti" => 1 << 40,
            _ => return None,
        };
        let bytes = digits.parse::<u64>().ok()?.checked_mul(factor)?;
        i64::try_from(bytes).ok().map(|_| bytes)
    }
}

/// Condition types every kind reports, as `metav1.Condition`.
pub mod condition {
    /// The summary: the object does what its manifest says.
    pub const READY: &str = "Ready";
    /// It serves, perhaps with an older state than the manifest asks for.
    pub const AVAILABLE: &str = "Available";
    /// It is moving towards what the manifest asks for.
    pub const PROGRESSING: &str = "Progressing";
    /// Something needs attention; the message says what to do.
    pub const DEGRADED: &str = "Degraded";
}

/// The condition of a type, where present.
pub(crate) fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.type_ == type_)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_bytes() {
        let bytes = |text: &str| Quantity(text.into()).bytes();
        assert_eq!(bytes("5"), Some(5));
        assert_eq!(bytes("2Ki"), Some(2048));
        assert_eq!(bytes("3G"), Some(3_000_000_000));
        assert_eq!(bytes("1Xi"), None);
        assert_eq!(bytes("999999999999999Ti"), None, "does not fit");
    }
}
