//! Dot products of one query with many rows, and the best of them.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Independent sums: enough for the compiler to keep them in vector registers.
const LANES: usize = 16;

/// The dot product, summed in one fixed order: the same on every machine.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (x, y) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += x[lane] * y[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(x, y)| x * y).sum();
    sums.iter().sum::<f32>() + rest
}

/// A row and its score. Greater is better: the higher score, then the smaller coordinate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored<'a> {
    /// The score.
    pub score: f64,
    /// Breaks ties, so that results do not depend on the order rows were loaded in.
    pub coordinate: &'a str,
    /// The row.
    pub row: usize,
}

impl Eq for Scored<'_> {}

impl Ord for Scored<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then_with(|| other.coordinate.cmp(self.coordinate))
    }
}

impl PartialOrd for Scored<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The best `k`, best first.
pub fn top_k<'a>(scored: impl Iterator<Item = Scored<'a>>, k: usize) -> Vec<Scored<'a>> {
    let mut worst_first = BinaryHeap::with_capacity(k + 1);
    for one in scored {
        if worst_first.len() < k {
            worst_first.push(std::cmp::Reverse(one));
        } else if worst_first.peek().is_some_and(|worst: &std::cmp::Reverse<Scored<'_>>| one > worst.0) {
            worst_first.pop();
            worst_first.push(std::cmp::Reverse(one));
        }
    }
    worst_first.into_sorted_vec().into_iter().map(|reverse| reverse.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scored(scores: &[u8]) -> (Vec<String>, Vec<f64>) {
        (
            (0..scores.len()).map(|i| format!("{:03}", 999 - i)).collect(),
            scores.iter().map(|s| f64::from(*s)).collect(),
        )
    }

    proptest! {
        #[test]
        fn the_best_k_are_those_of_a_full_sort(scores in prop::collection::vec(0_u8..8, 1..60), k in 1_usize..20) {
            let (names, values) = scored(&scores);
            let all: Vec<_> = names.iter().zip(&values).enumerate()
                .map(|(row, (name, score))| Scored { score: *score, coordinate: name, row }).collect();
            let mut sorted = all.clone();
            sorted.sort_by(|a, b| b.cmp(a));
            sorted.truncate(k);
            prop_assert_eq!(top_k(all.into_iter(), k), sorted);
        }

        #[test]
        fn the_dot_product_is_one(a in prop::collection::vec(-1.0_f32..1.0, 0..100)) {
            let want: f64 = a.iter().map(|x| f64::from(*x).powi(2)).sum();
            prop_assert!((f64::from(dot(&a, &a)) - want).abs() < 1e-4);
        }
    }
}
