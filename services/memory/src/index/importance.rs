//! Raw importance to a weight in [0, 1] that can be compared across a namespace.
//!
//! The rule is min-max, winsorised or logistic, by how far the largest values stand out. It is computed when it is read, over
//! the rows as they are: quantiles never freeze, and replicas that hold the same rows agree. Where all importances
//! are equal there is nothing to tell apart, and every weight is 0.5.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Rows whose importance forms the quantiles.
pub const SAMPLE: usize = 512;
/// With fewer rows, quantiles say little: min-max.
const ENOUGH: usize = 64;
const NEUTRAL: f64 = 0.5;
const WINSOR_MARGIN: f64 = 0.25;
const LOGISTIC_RATIO: f64 = 9.0;
const LOGISTIC_STEEPEST: f64 = 25.0;
const TINY: f64 = 1e-12;

/// The rule in force for a namespace.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Normaliser {
    /// Nothing to tell apart.
    Neutral,
    /// Linear between the smallest and the largest value.
    MinMax {
        /// Smallest value.
        min: f64,
        /// Largest value.
        max: f64,
    },
    /// Linear between two bounds, flat beyond.
    Winsor {
        /// Lower bound.
        low: f64,
        /// Upper bound.
        high: f64,
    },
    /// An S around the median.
    Logistic {
        /// The median.
        centre: f64,
        /// Steepness.
        k: f64,
    },
}

impl Normaliser {
    /// Chooses the rule. `sample` are raw values of the [`SAMPLE`] rows chosen by [`Sample`]; `min` and `max` are of all rows.
    pub fn choose(mut sample: Vec<f64>, min: f64, max: f64) -> Self {
        if max - min < TINY {
            return Self::Neutral;
        }
        if sample.len() < ENOUGH {
            return Self::MinMax { min, max };
        }
        sample.sort_by(f64::total_cmp);
        let [q10, q50, q90, q99] = [0.1, 0.5, 0.9, 0.99].map(|q| quantile(&sample, q));
        let upper = or_tiny(q90 - q50);
        let lower = or_tiny(q50 - q10);
        let (reach, tail, skew) = ((max - q90) / upper, (q99 - q90) / upper, (q90 - q50) / lower);
        if reach <= 5.0 && skew <= 3.0 {
            return Self::MinMax { min, max };
        }
        if reach <= 15.0 && tail <= 8.0 {
            let margin = WINSOR_MARGIN * (q90 - q10);
            let (low, high) = (min.max(q10 - margin), max.min(q90 + margin));
            return if high - low < TINY { Self::Neutral } else { Self::Winsor { low, high } };
        }
        let spread = q90 - q10;
        if spread < TINY {
            return Self::Neutral;
        }
        Self::Logistic { centre: q50, k: (LOGISTIC_RATIO.ln() / spread).min(LOGISTIC_STEEPEST) }
    }

    /// The weight of a raw value, in [0, 1].
    pub fn norm(self, raw: f64) -> f64 {
        match self {
            Self::Neutral => NEUTRAL,
            Self::MinMax { min, max } => ((raw - min) / (max - min)).clamp(0.0, 1.0),
            Self::Winsor { low, high } => (raw.clamp(low, high) - low) / (high - low),
            Self::Logistic { centre, k } => 1.0 / (1.0 + (-k * (raw - centre)).exp()),
        }
    }
}

fn or_tiny(x: f64) -> f64 {
    if x == 0.0 { TINY } else { x }
}

/// Linear interpolation between the two nearest ranks of sorted values.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "at most 512 values")]
    let position = q * (sorted.len() - 1) as f64;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 511")]
    let below = position.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (sorted[above] - sorted[below]) * position.fract()
}

/// The rows with the smallest hashes: a sample that depends on the rows alone, not on the order they came in.
#[derive(Default)]
pub struct Sample(BinaryHeap<(u64, Reverse<u64>)>);

impl Sample {
    /// Offers a row.
    pub fn offer(&mut self, hash: u64, raw: f64) {
        if self.0.len() < SAMPLE {
            self.0.push((hash, Reverse(raw.to_bits())));
        } else if self.0.peek().is_some_and(|(largest, _)| hash < *largest) {
            self.0.pop();
            self.0.push((hash, Reverse(raw.to_bits())));
        }
    }

    /// The raw values of the sample.
    pub fn values(self) -> Vec<f64> {
        self.0.into_iter().map(|(_, Reverse(bits))| f64::from_bits(bits)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn norm_of_last(values: &[f64]) -> (Normaliser, f64) {
        let min = values.iter().copied().fold(f64::INFINITY, f64::min);
        let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let normaliser = Normaliser::choose(values.to_vec(), min, max);
        (normaliser, normaliser.norm(values[values.len() - 1]))
    }

    /// Golden values: a ramp 0…63, then outliers one by one.
    #[test]
    fn the_rule_follows_how_far_values_stand_out() {
        let mut values: Vec<f64> = (0..64).map(f64::from).collect();
        let (rule, norm) = norm_of_last(&values);
        assert!(matches!(rule, Normaliser::MinMax { .. }));
        assert!((norm - 1.0).abs() < 1e-6);
        let golden = [
            (10.0, 0.158_730, "MinMax"),
            (100.0, 1.0, "MinMax"),
            (300.0, 1.0, "Winsor"),
            (600.0, 1.0, "Logistic"),
            (1000.0, 1.0, "Logistic"),
        ];
        for (value, want, name) in golden {
            values.push(value);
            let (rule, norm) = norm_of_last(&values);
            assert!(format!("{rule:?}").starts_with(name), "{value}: {rule:?}");
            assert!((norm - want).abs() < 1e-6, "{value}: {norm} is not {want}");
        }
    }

    #[test]
    fn equal_importances_weigh_one_half_and_never_zero() {
        assert_eq!(norm_of_last(&[1.0]), (Normaliser::Neutral, 0.5));
        assert_eq!(norm_of_last(&[3.0; 600]), (Normaliser::Neutral, 0.5));
    }

    #[test]
    fn quantiles_keep_moving_after_the_sample_is_full() {
        let fill = |extra: u64| {
            let mut sample = Sample::default();
            // An odd multiplier permutes the hashes, so that any row can be the smallest.
            for i in 0..2_000_u64 + extra {
                let raw = if i < 2_000 { 1.0 } else { 9.0 };
                sample.offer(i.wrapping_mul(0x9e37_79b9_7f4a_7c15), raw);
            }
            sample.values()
        };
        assert_eq!(fill(0).len(), SAMPLE);
        let high = fill(2_000).iter().filter(|raw| **raw > 5.0).count();
        assert!((200..312).contains(&high), "about half of the sample is new, not {high}");
    }
}
