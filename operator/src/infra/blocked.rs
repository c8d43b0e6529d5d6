//! What a user has to put right before a component can be built. Every message ends with what to do.

/// Why nothing can be built.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Blocked {
    #[error(
        "namespace {namespace} already has the SomaInfra {elder}, and their objects would carry the same names. Delete one of them, or move this one to another namespace"
    )]
    NamespaceTaken { namespace: String, elder: String },
    #[error(
        "Secret {namespace}/{name} does not exist. Create it with `kubectl -n {namespace} create secret generic {name}{}`",
        literals(keys)
    )]
    SecretMissing { namespace: String, name: String, keys: &'static [&'static str] },
    #[error(
        "Secret {namespace}/{name} has no key `{key}`. Add it with `kubectl -n {namespace} patch secret {name} --type merge -p '{{\"stringData\":{{\"{key}\":\"VALUE\"}}}}'`"
    )]
    SecretKeyMissing { namespace: String, name: String, key: &'static str },
    #[error(
        "key `{key}` of Secret {namespace}/{name} {problem}. Set it with `kubectl -n {namespace} patch secret {name} --type merge -p '{{\"stringData\":{{\"{key}\":\"VALUE\"}}}}'`"
    )]
    SecretValueInvalid { namespace: String, name: String, key: &'static str, problem: &'static str },
    #[error(
        "the volume {claim} exists but Secret {namespace}/{name} with its password does not, or lacks a key; a new password would not open the data. Restore the Secret from a backup, or, to begin with empty data, delete the volume with `kubectl -n {namespace} delete statefulset/{component} pvc/{claim}`"
    )]
    PasswordLost { namespace: String, component: &'static str, name: &'static str, claim: String },
    #[error(
        "OPA trusts a key that Secret {namespace}/opa-signing held, and the Secret does not exist. Restore it from a backup, or, to let another key be made, delete the pods that trust the old one with `kubectl -n {namespace} delete deployment opa`"
    )]
    SigningKeyLost { namespace: String },
    #[error(
        "OpenFGA needs a database of its own in the Postgres that runs elsewhere, and Secret {namespace}/{name} names none. Make one whose owner is its user, and name it with `kubectl -n {namespace} patch secret {name} --type merge -p '{{\"stringData\":{{\"openfga-database\":\"openfga\",\"openfga-username\":\"USER\",\"openfga-password\":\"PASSWORD\"}}}}'`; or set spec.openfga to `disabled: {{}}`"
    )]
    DatabaseMissing { namespace: String, name: String },
    #[error(
        "the pods of OpenFGA and its clients know a token that Secret {namespace}/openfga-store held, and the Secret does not exist or lacks its key `token`. Restore it from a backup, or, to let another token be made, run `kubectl -n {namespace} delete deployment/openfga secret/openfga-store --ignore-not-found`"
    )]
    TokenLost { namespace: String },
    #[error("spec.{component}.managed.settings.{key} is set by the operator; remove it")]
    SettingOwned { component: &'static str, key: String },
    #[error(
        "spec.{component}.managed.mode is {asked}, but Secret {name} says that it was made as {made}, and its keys would stay behind. Set spec.{component} to disabled and then to managed with mode {made}, or create another SomaInfra and move the keys"
    )]
    ModeFixed { component: &'static str, name: &'static str, asked: &'static str, made: &'static str },
    #[error("spec.{component}.managed.resources: {problem}")]
    ResourcesInvalid { component: &'static str, problem: String },
    #[error(
        "spec.{component}.managed.backup.schedule {problem}. Write it as cron does, such as `30 2 * * *`"
    )]
    ScheduleInvalid { component: &'static str, problem: String },
}

fn literals(keys: &[&str]) -> String {
    let literal = |key: &&str| format!(" --from-literal={key}={}", key.to_uppercase());
    keys.iter().map(literal).collect::<Vec<_>>().concat()
}

impl Blocked {
    /// The variant's name: condition and event reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NamespaceTaken { .. } => "NamespaceTaken",
            Self::SecretMissing { .. } => "SecretMissing",
            Self::SecretKeyMissing { .. } => "SecretKeyMissing",
            Self::SecretValueInvalid { .. } => "SecretValueInvalid",
            Self::PasswordLost { .. } => "PasswordLost",
            Self::SigningKeyLost { .. } => "SigningKeyLost",
            Self::DatabaseMissing { .. } => "DatabaseMissing",
            Self::TokenLost { .. } => "TokenLost",
            Self::SettingOwned { .. } => "SettingOwned",
            Self::ModeFixed { .. } => "ModeFixed",
            Self::ResourcesInvalid { .. } => "ResourcesInvalid",
            Self::ScheduleInvalid { .. } => "ScheduleInvalid",
        }
    }
}
