//! Where a memory lives: a tuple of floats, its identity within a namespace.

use std::fmt;

use blake2::digest::consts::U12;
use blake2::{Blake2b, Digest};

use crate::Error;

/// A coordinate may have this many components at most.
const MAX_COMPONENTS: usize = 16;

/// A tuple of one to sixteen finite floats, kept in one canonical spelling: two coordinates are the same memory
/// exactly when their numbers are equal, however a client wrote them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Coordinate(String);

impl Coordinate {
    /// Reads floats separated by commas. `field` is named in the error.
    pub fn parse(text: &str, field: &str) -> Result<Self, Error> {
        let refuse = |reason: String| {
            Error::invalid(field, reason, "send finite numbers separated by commas: 0.1,2,-3")
        };
        let values: Vec<f64> = text
            .split(',')
            .take(MAX_COMPONENTS + 1)
            .map(|part| part.trim().parse().map_err(|_| refuse(format!("`{}` is not a number", clip(part)))))
            .collect::<Result<_, _>>()?;
        Self::new(&values, field)
    }

    /// Takes the numbers themselves. `field` is named in the error.
    pub fn new(values: &[f64], field: &str) -> Result<Self, Error> {
        let refuse = |reason: &str| Error::invalid(field, reason, "send 1 to 16 finite numbers");
        if values.is_empty() || values.len() > MAX_COMPONENTS {
            return Err(refuse("a coordinate has 1 to 16 components"));
        }
        if values.iter().any(|v| !v.is_finite()) {
            return Err(refuse("a coordinate's components must be finite"));
        }
        // Adding zero turns -0.0 into 0.0, which compares equal and must be the same memory.
        let parts: Vec<_> = values.iter().map(|v| format!("{:?}", v + 0.0)).collect();
        Ok(Self(parts.join(",")))
    }

    /// The coordinate of a key: BLAKE2b of 12 bytes over `real::<key>`, as three big-endian integers mapped to
    /// [−1, 1]. Clients of the original service derive theirs the same way.
    pub fn from_key(key: &str) -> Self {
        let digest = Blake2b::<U12>::digest(format!("real::{key}"));
        let parts: Vec<_> = digest
            .chunks_exact(4)
            .map(|b| f64::from(u32::from_be_bytes([b[0], b[1], b[2], b[3]])) / f64::from(u32::MAX))
            .map(|x| format!("{:?}", 2.0 * x - 1.0 + 0.0))
            .collect();
        Self(parts.join(","))
    }

    /// A coordinate read back from the store.
    pub(crate) fn stored(text: String) -> Self {
        Self(text)
    }

    /// The numbers.
    pub fn values(&self) -> Vec<f64> {
        self.0.split(',').filter_map(|part| part.parse().ok()).collect()
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Coordinate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The start of a text that may be long, for use in a message.
fn clip(text: &str) -> String {
    text.chars().take(32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling_for_equal_numbers() {
        let parse = |text| Coordinate::parse(text, "coord").unwrap();
        assert_eq!(parse(" 1, 2.50 ,-0").as_str(), "1.0,2.5,0.0");
        assert_eq!(parse("1e0,2.5,0"), parse("1,25e-1,-0.0"));
        assert_eq!(parse("1e300").values(), [1e300]);
    }

    #[test]
    fn what_is_not_a_finite_tuple_is_refused() {
        for bad in [
            "",
            ",",
            "1,,2",
            "nan",
            "1,inf",
            "1,-Infinity",
            "x",
            "1e999",
            "1;2",
            "0x10",
            &"1,".repeat(99_999),
        ] {
            let error = Coordinate::parse(bad, "coord").unwrap_err();
            assert!(matches!(error, Error::Invalid { ref field, .. } if field == "coord"), "{bad}");
            assert!(error.to_string().len() < 200);
        }
        assert!(Coordinate::new(&[0.0; 17], "coord").is_err());
    }

    /// Golden values of clients that derive coordinates from keys.
    #[test]
    fn a_key_gives_the_coordinate_the_clients_expect() {
        let values = Coordinate::from_key("k1").values();
        for (got, want) in values.iter().zip([0.355_635_292_8, -0.904_632_879_0, 0.084_505_162_2]) {
            assert!((got - want).abs() < 1e-9, "{got} is not {want}");
        }
        assert_eq!(values.len(), 3);
        assert_eq!(
            Coordinate::parse(Coordinate::from_key("k1").as_str(), "coord").unwrap(),
            Coordinate::from_key("k1")
        );
    }
}
