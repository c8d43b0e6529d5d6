//! Settings of the memory service.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ConfigHash, Environment, Error, LogLevel, SharedSettings, canonical_json};

/// One layer of the memory service's settings. A key that is absent keeps the value of the layer below.
/// Changing any of them restarts the memory pods, and only those.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MemorySettings {
    /// Largest request body accepted, in MiB (1–64, default 5). A larger one is answered 413.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub max_request_body_mb: Option<u32>,
    /// Largest `top_k` a recall may ask for (1–1000, default 100).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_top_k: Option<u32>,
    /// Connections each memory pod opens to Postgres at most (1–100, default 10).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub database_connections: Option<u32>,
    /// Threads that turn text into vectors (1–16, default 1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16))]
    pub embedding_threads: Option<u32>,
}

/// The memory service's settings after all layers are merged: every key has a value within its bounds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Memory {
    /// How much the service logs.
    pub log_level: LogLevel,
    /// Largest request body accepted, in MiB.
    pub max_request_body_mb: u32,
    /// Largest `top_k` a recall may ask for.
    pub max_top_k: u32,
    /// Connections to Postgres at most.
    pub database_connections: u32,
    /// Threads that turn text into vectors.
    pub embedding_threads: u32,
}

impl Memory {
    /// Merges the layers: built-in ← environment ← `settings` ← `services.memory.settings`; the last one that
    /// names a key wins.
    pub fn resolve(
        environment: Environment,
        shared: &SharedSettings,
        memory: &MemorySettings,
    ) -> Result<Self, Error> {
        let base = environment.defaults();
        let pick = |key, of: fn(&MemorySettings) -> Option<u32>, default, min, max| {
            let value = of(memory).or(of(&base.memory)).unwrap_or(default);
            if (min..=max).contains(&value) {
                Ok(value)
            } else {
                Err(Error::OutOfRange { key, value, min, max })
            }
        };
        Ok(Self {
            log_level: shared.log_level.or(base.shared.log_level).unwrap_or_default(),
            max_request_body_mb: pick("maxRequestBodyMb", |s| s.max_request_body_mb, 5, 1, 64)?,
            max_top_k: pick("maxTopK", |s| s.max_top_k, 100, 1, 1000)?,
            database_connections: pick("databaseConnections", |s| s.database_connections, 10, 1, 100)?,
            embedding_threads: pick("embeddingThreads", |s| s.embedding_threads, 1, 1, 16)?,
        })
    }
}

/// How a connection to Postgres is protected; the names are libpq's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SslMode {
    /// Plain text.
    Disable,
    /// TLS when the server offers it.
    #[default]
    Prefer,
    /// TLS, whoever answers.
    Require,
    /// TLS, with a certificate of a known authority for this host name.
    VerifyFull,
}

impl SslMode {
    /// The value of `sslmode` in a connection URI.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyFull => "verify-full",
        }
    }
}

/// Where the service finds Postgres. The user and password are not here: they come from a mounted Secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PostgresEndpoint {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Database name.
    pub database: String,
    /// How the connection is protected.
    pub sslmode: SslMode,
}

/// The payload a memory pod mounts as `memory.json`: all of it restarts the pod when it changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MemoryConfig {
    /// Resolved settings.
    pub memory: Memory,
    /// The database.
    pub postgres: PostgresEndpoint,
}

impl MemoryConfig {
    /// The canonical bytes of this payload: JSON with sorted keys, the same for every build of the operator.
    pub fn payload(&self) -> String {
        canonical_json(&serde_json::json!(self))
    }

    /// The hash that decides whether pods restart.
    pub fn hash(&self) -> ConfigHash {
        ConfigHash::of(&self.payload())
    }

    /// Reads a payload back. An unknown or missing key is refused by name.
    pub fn parse(text: &str) -> Result<Self, Error> {
        Ok(serde_json::from_str(text)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(top_k: Option<u32>) -> MemorySettings {
        MemorySettings { max_top_k: top_k, ..Default::default() }
    }

    #[test]
    fn the_last_layer_that_names_a_key_wins() {
        let shared = SharedSettings { log_level: Some(LogLevel::Warn) };
        let settings = Memory::resolve(Environment::Dev, &shared, &layer(Some(7))).unwrap();
        assert_eq!(settings.log_level, LogLevel::Warn);
        assert_eq!(settings.max_top_k, 7);
        assert_eq!(settings.database_connections, 4, "from the environment");
        assert_eq!(settings.max_request_body_mb, 5, "built in");
    }

    #[test]
    fn a_value_out_of_range_is_refused_by_name() {
        let error =
            Memory::resolve(Environment::Prod, &SharedSettings::default(), &layer(Some(0))).unwrap_err();
        assert_eq!(error.to_string(), "maxTopK is 0; it must be between 1 and 1000");
    }

    #[test]
    fn an_unknown_key_in_a_payload_is_refused_by_name() {
        let error = MemoryConfig::parse(r#"{"memory":{"maxTopQ":1}}"#).unwrap_err();
        assert!(error.to_string().contains("maxTopQ"), "{error}");
    }

    /// A golden value: when this changes, every memory pod of every installation restarts on upgrade.
    #[test]
    fn the_hash_of_a_payload_never_changes() {
        let config = MemoryConfig {
            memory: Memory::resolve(Environment::Prod, &SharedSettings::default(), &layer(None)).unwrap(),
            postgres: PostgresEndpoint {
                host: "postgres.soma-infra.svc".into(),
                port: 5432,
                database: "somamemory".into(),
                sslmode: SslMode::Prefer,
            },
        };
        assert_eq!(
            config.payload(),
            r#"{"memory":{"databaseConnections":10,"embeddingThreads":1,"logLevel":"info","maxRequestBodyMb":5,"maxTopK":100},"postgres":{"database":"somamemory","host":"postgres.soma-infra.svc","port":5432,"sslmode":"prefer"}}"#
        );
        assert_eq!(config.hash().to_string(), "v1-ad97cd70266c30ade4e0c08f803b7e98");
        assert_eq!(MemoryConfig::parse(&config.payload()).unwrap(), config);
    }
}
