//! What can fail while an object is reconciled, as opposed to what a user has to put right (conditions).

/// A failed attempt. It is tried again with backoff; the status keeps what was last known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or did not answer a read.
    #[error("cannot read {what}")]
    Read {
        what: String,
        #[source]
        source: kube::Error,
    },
    /// The API server refused or did not answer a write.
    #[error("cannot write {what}")]
    Write {
        what: String,
        #[source]
        source: kube::Error,
    },
    /// Some objects could not be applied; the others were.
    #[error("cannot apply {0}")]
    ApplyFailed(String),
    /// The object does not have the shape of its kind.
    #[error("the object cannot be read; put its fields right: {0}")]
    InvalidObject(String),
    /// A built object breaks a rule of the checker: a defect of the operator.
    #[error("the plan is not sound: {0}")]
    UnsoundPlan(String),
    /// A value cannot be written as JSON.
    #[error("cannot serialise {what}")]
    Serialise {
        what: String,
        #[source]
        source: serde_json::Error,
    },
}

impl Error {
    /// The variant's name: event reason and metric label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Read { .. } => "Read",
            Self::Write { .. } => "Write",
            Self::ApplyFailed(_) => "ApplyFailed",
            Self::InvalidObject(_) => "InvalidObject",
            Self::UnsoundPlan(_) => "UnsoundPlan",
            Self::Serialise { .. } => "Serialise",
        }
    }

    /// For `map_err` after a read.
    pub fn read(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |source| Self::Read { what, source }
    }

    /// For `map_err` after a write.
    pub fn write(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |source| Self::Write { what, source }
    }
}

/// An error and its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let part = cause.to_string();
        // Some errors print their cause themselves.
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        source = cause.source();
    }
    text
}
