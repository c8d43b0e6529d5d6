//! One bearer token for a whole service.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use subtle::ConstantTimeEq;

use crate::problem::{Code, Problem};

/// The token every request carries. Its `Debug` form does not show it.
#[derive(Clone)]
pub struct ApiToken(Arc<str>);

/// Why the service has no token to check requests against.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither variable is set.
    #[error("no API token: set SOMA_API_TOKEN, or SOMA_API_TOKEN_FILE to a file that holds it")]
    Missing,
    /// The token is empty or holds characters a header cannot.
    #[error("the API token must be at least 16 visible ASCII characters without spaces")]
    Unusable,
    /// The file cannot be read.
    #[error("cannot read the API token from {path}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
}

impl ApiToken {
    /// Accepts a token of at least 16 visible ASCII characters; white space around it is dropped.
    pub fn new(token: &str) -> Result<Self, Error> {
        let token = token.trim();
        let usable = token.len() >= 16 && token.bytes().all(|b| b.is_ascii_graphic());
        if usable { Ok(Self(token.into())) } else { Err(Error::Unusable) }
    }

    /// Reads `SOMA_API_TOKEN_FILE`, or else `SOMA_API_TOKEN`. `variable` looks an environment variable up.
    pub fn from_env(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        if let Some(path) = variable("SOMA_API_TOKEN_FILE").map(PathBuf::from) {
            return match std::fs::read_to_string(&path) {
                Ok(token) => Self::new(&token),
                Err(source) => Err(Error::Unreadable { path, source }),
            };
        }
        Self::new(&variable("SOMA_API_TOKEN").ok_or(Error::Missing)?)
    }

    /// Checks the value of an `Authorization` header, in a time that does not depend on where it differs.
    pub fn verify(&self, authorization: Option<&str>) -> Result<(), Problem> {
        let missing = || {
            Problem::new(Code::Unauthenticated, "Missing bearer token")
                .remedy("send the header `Authorization: Bearer <SOMA_API_TOKEN>`")
        };
        let (scheme, token) = authorization.and_then(|value| value.split_once(' ')).ok_or_else(missing)?;
        if !scheme.eq_ignore_ascii_case("bearer") || token.trim().is_empty() {
            return Err(missing());
        }
        if bool::from(token.trim().as_bytes().ct_eq(self.0.as_bytes())) {
            Ok(())
        } else {
            Err(Problem::new(Code::Forbidden, "Invalid token")
                .remedy("use the value of SOMA_API_TOKEN the service was started with"))
        }
    }
}

impl fmt::Debug for ApiToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiToken(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    #[test]
    fn only_the_exact_token_passes() {
        let token = ApiToken::new(TOKEN).unwrap();
        assert!(token.verify(Some("Bearer 0123456789abcdef")).is_ok());
        for missing in [None, Some(""), Some("Bearer"), Some("Bearer "), Some("Basic 0123456789abcdef")] {
            assert_eq!(token.verify(missing).unwrap_err().code(), Code::Unauthenticated, "{missing:?}");
        }
        for wrong in ["Bearer 0123456789abcdeX", "Bearer 0123456789abcdef0", "Bearer x"] {
            assert_eq!(token.verify(Some(wrong)).unwrap_err().code(), Code::Forbidden, "{wrong}");
        }
        assert!(!format!("{token:?}").contains(TOKEN));
    }

    #[test]
    fn the_file_wins_and_a_missing_or_short_token_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "from-the-file-0123456789\n").unwrap();
        let path = file.to_str().unwrap().to_owned();
        let both = |name: &str| match name {
            "SOMA_API_TOKEN_FILE" => Some(path.clone()),
            _ => Some(TOKEN.to_owned()),
        };
        assert!(ApiToken::from_env(both).unwrap().verify(Some("Bearer from-the-file-0123456789")).is_ok());
        assert!(matches!(ApiToken::from_env(|_| None), Err(Error::Missing)));
        let short = |name: &str| (name == "SOMA_API_TOKEN").then(|| "short".to_owned());
        assert!(matches!(ApiToken::from_env(short), Err(Error::Unusable)));
        assert!(matches!(
            ApiToken::from_env(|_| Some("/no/such/file".into())),
            Err(Error::Unreadable { .. })
        ));
    }
}
