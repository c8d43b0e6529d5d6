//! Typed settings of every Soma service: their bounds, their layers, and the hash that decides a restart.
//!
//! A setting travels in three forms:
//! * a *layer* ([`SharedSettings`], [`MemorySettings`]): every key optional, as a person writes it;
//! * the *resolved* settings ([`Memory`]): every key present, after the layers are merged;
//! * the *payload* ([`MemoryConfig`]): resolved settings plus endpoints, the exact bytes a service mounts.
//!
//! The operator builds the payload and the service reads it with the same types, so a key that one of them
//! does not know cannot reach a pod.

mod environment;
mod hash;
mod memory;

pub use environment::{Environment, Layer};
pub use hash::{ConfigHash, canonical_json, changed_keys};
pub use memory::{Memory, MemoryConfig, MemorySettings, PostgresEndpoint, SslMode};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How much a service writes to its log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Errors only.
    Error,
    /// Errors and warnings.
    Warn,
    /// What happened, once per event.
    #[default]
    Info,
    /// What was decided and why.
    Debug,
    /// Everything, including request bodies' sizes and timings.
    Trace,
}

impl LogLevel {
    /// The directive `tracing` understands.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// Settings every service has. A key that is absent keeps the value of the layer below.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SharedSettings {
    /// How much the services log: error, warn, info, debug or trace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_level: Option<LogLevel>,
}

/// Settings that cannot be used, and why.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A number lies outside the range its key allows.
    #[error("{key} is {value}; it must be between {min} and {max}")]
    OutOfRange {
        /// Dotted key, as the manifest spells it.
        key: &'static str,
        /// What was given.
        value: u32,
        /// Smallest value allowed.
        min: u32,
        /// Largest value allowed.
        max: u32,
    },
    /// The configuration file is not what this release of the service reads.
    #[error("configuration is not valid: {0}")]
    Malformed(#[from] serde_json::Error),
}
