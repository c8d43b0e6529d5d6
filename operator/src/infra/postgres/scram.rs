//! What Postgres keeps of a password (RFC 5802, RFC 7677). Pure but for the salt.
//!
//! A password is given to Postgres in this form, so that it is in no log there and needs no quoting; and whether
//! Postgres has the right one is told by it, without a connection as that role.

use std::num::NonZeroU32;

use data_encoding::BASE64;
use rand::Rng;
use ring::{digest, hmac, pbkdf2};

/// Rounds of hashing, Postgres's own. The passwords are random, so more would guard nothing.
const ROUNDS: u32 = 4096;
/// Bytes of a salt, Postgres's own.
const SALT: usize = 16;
/// Most rounds a verifier may ask for: one that somebody set to more is simply replaced.
const MOST_ROUNDS: u32 = 1_000_000;

/// The verifier of a password, with a salt of its own.
pub fn verifier(password: &str) -> String {
    let mut salt = [0; SALT];
    rand::rng().fill(&mut salt);
    build(password, ROUNDS, &salt)
}

/// Whether a verifier is this password's. One of another form is not.
pub fn verifies(verifier: &str, password: &str) -> bool {
    let again = || {
        let (rounds, rest) = verifier.strip_prefix("SCRAM-SHA-256$")?.split_once(':')?;
        let rounds = rounds.parse().ok().filter(|rounds| *rounds <= MOST_ROUNDS)?;
        let salt = BASE64.decode(rest.split_once('$')?.0.as_bytes()).ok()?;
        Some(build(password, rounds, &salt))
    };
    again().is_some_and(|again| again == verifier)
}

fn build(password: &str, rounds: u32, salt: &[u8]) -> String {
    let mut salted = [0; digest::SHA256_OUTPUT_LEN];
    let count = NonZeroU32::new(rounds).unwrap_or(NonZeroU32::MIN);
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, count, salt, password.as_bytes(), &mut salted);
    let key = hmac::Key::new(hmac::HMAC_SHA256, &salted);
    let client = hmac::sign(&key, b"Client Key");
    let stored = digest::digest(&digest::SHA256, client.as_ref());
    let server = hmac::sign(&key, b"Server Key");
    let encode = |bytes: &[u8]| BASE64.encode(bytes);
    format!("SCRAM-SHA-256${rounds}:{}${}:{}", encode(salt), encode(stored.as_ref()), encode(server.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Password and salt of the example in RFC 7677; the keys are those its proofs are made with.
    #[test]
    fn the_keys_are_those_of_the_standard() {
        let salt = BASE64.decode(b"W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        assert_eq!(
            build("pencil", 4096, &salt),
            "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
        );
    }

    #[test]
    fn a_verifier_is_of_one_password() {
        let made = verifier("a 'b' \\");
        assert!(verifies(&made, "a 'b' \\") && !verifies(&made, "a 'b'"));
        assert_ne!(made, verifier("a 'b' \\"), "the salt differs");
        for other in ["", "md5abc", "SCRAM-SHA-256$x:y", "SCRAM-SHA-256$999999999:AA==$a:b"] {
            assert!(!verifies(other, ""), "{other}");
        }
    }
}
