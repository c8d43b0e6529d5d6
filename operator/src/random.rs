//! Passwords and tokens.

use rand::Rng;
use rand::distr::Alphanumeric;

/// 32 characters of letters and digits: 190 bits, and nothing a URI or shell would need to quote.
pub fn secret() -> String {
    rand::rng().sample_iter(&Alphanumeric).take(32).map(char::from).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn secrets_differ_and_need_no_quoting() {
        let (a, b) = (super::secret(), super::secret());
        assert_ne!(a, b);
        assert!(a.len() == 32 && a.chars().all(|c| c.is_ascii_alphanumeric()));
    }
}
