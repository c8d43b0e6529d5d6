//! The environments a stack can run in, and the defaults that come with each.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{MemorySettings, SharedSettings};

/// Where a stack runs. Chooses the layer of defaults under everything a manifest says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Environment {
    /// Small and talkative.
    #[default]
    Dev,
    /// As production, with more logs.
    Staging,
    /// The built-in defaults.
    Prod,
}

/// One layer of settings: what an environment file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Layer {
    /// Settings of every service.
    pub shared: SharedSettings,
    /// Settings of the memory service.
    pub memory: MemorySettings,
}

impl Environment {
    /// The name a manifest uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Staging => "staging",
            Self::Prod => "prod",
        }
    }

    /// The defaults of this environment, from `config/environments/<name>.yaml`.
    ///
    /// # Panics
    /// Never: the files are compiled in, and a test parses each of them.
    pub fn defaults(self) -> Layer {
        let text = match self {
            Self::Dev => include_str!("../../../config/environments/dev.yaml"),
            Self::Staging => include_str!("../../../config/environments/staging.yaml"),
            Self::Prod => include_str!("../../../config/environments/prod.yaml"),
        };
        #[expect(clippy::expect_used, reason = "see Panics")]
        serde_saphyr::from_str(text).expect("a compiled-in environment file parses")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LogLevel;

    #[test]
    fn every_environment_file_parses() {
        assert_eq!(Environment::Dev.defaults().shared.log_level, Some(LogLevel::Debug));
        assert_eq!(Environment::Staging.defaults().memory, MemorySettings::default());
        assert_eq!(Environment::Prod.defaults(), Layer::default());
    }
}
