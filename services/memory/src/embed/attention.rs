//! Self-attention within each text. One head is one panel wide.
#![expect(clippy::inline_always, reason = "kernels inherit the caller's instruction set only by inlining")]

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::matmul::{Finish, Product};
use super::panels::{Block, Panels, Row, View, WIDTH};
use super::simd::{exp_nonpositive, vectors, vectors_mut};

/// Working memory of one text's attention, reused from head to head and from text to text.
#[derive(Default)]
pub struct Attention {
    /// Transposed keys, a block per 32 keys.
    keys: Vec<Block>,
    /// Per block of keys: 0 for a key, -∞ past the last one.
    mask: Vec<Row>,
    /// Query rows × blocks of keys.
    scores: Vec<Row>,
}

impl Attention {
    /// Attends within the rows `text`. `qkv` holds the panels of `heads` queries (already scaled by
    /// 1/√width), keys and values; `out` receives one panel per head.
    pub fn apply(&mut self, arch: Arch, qkv: &Panels, text: Range<usize>, heads: usize, out: &mut Panels) {
        let rows = text.len();
        let blocks = rows.div_ceil(WIDTH);
        self.prepare(rows, blocks);
        for head in 0..heads {
            self.transpose(&qkv.view(heads + head, text.start).data[..rows]);
            let product = Product {
                x: qkv.view(head, text.start),
                weight: &self.keys,
                depth: 1,
                bias: &self.mask,
                out: &mut self.scores,
                out_stride: rows,
                rows,
                finish: Finish::Store,
            };
            product.run(arch);
            arch.dispatch(Softmax { scores: &mut self.scores, rows, blocks });
            // Rows past the text have weight zero; the spare rows of a panel make them readable.
            let values = &qkv.view(2 * heads + head, text.start).data[..blocks * WIDTH];
            let out_stride = out.stride();
            let product = Product {
                x: View { data: &self.scores, stride: rows },
                weight: values.as_chunks::<WIDTH>().0,
                depth: blocks,
                bias: &[Row::ZERO],
                out: out.data_mut(head, text.start),
                out_stride,
                rows,
                finish: Finish::Store,
            };
            product.run(arch);
        }
    }

    fn prepare(&mut self, rows: usize, blocks: usize) {
        self.keys.clear();
        self.keys.resize(blocks, [Row::ZERO; WIDTH]);
        self.scores.clear();
        self.scores.resize(rows * blocks, Row::ZERO);
        self.mask.clear();
        self.mask.resize(blocks, Row::ZERO);
        for key in rows..blocks * WIDTH {
            self.mask[key / WIDTH].0[key % WIDTH] = f32::NEG_INFINITY;
        }
    }

    fn transpose(&mut self, keys: &[Row]) {
        for (block, keys) in self.keys.iter_mut().zip(keys.chunks(WIDTH)) {
            for (column, key) in keys.iter().enumerate() {
                for (row, value) in block.iter_mut().zip(&key.0) {
                    row.0[column] = *value;
                }
            }
        }
    }
}

/// Turns each row of scores into weights that sum to one.
struct Softmax<'a> {
    scores: &'a mut [Row],
    rows: usize,
    blocks: usize,
}

impl WithSimd for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for r in 0..self.rows {
            let mut highest = simd.splat_f32s(f32::NEG_INFINITY);
            for b in 0..self.blocks {
                for score in vectors::<S>(&self.scores[b * self.rows + r]) {
                    highest = simd.max_f32s(highest, *score);
                }
            }
            let highest = simd.splat_f32s(simd.reduce_max_f32s(highest));
            let mut sum = simd.splat_f32s(0.0);
            for b in 0..self.blocks {
                for score in vectors_mut::<S>(&mut self.scores[b * self.rows + r]) {
                    *score = exp_nonpositive(simd, simd.sub_f32s(*score, highest));
                    sum = simd.add_f32s(sum, *score);
                }
            }
            let share = simd.splat_f32s(1.0 / simd.reduce_sum_f32s(sum));
            for b in 0..self.blocks {
                for weight in vectors_mut::<S>(&mut self.scores[b * self.rows + r]) {
                    *weight = simd.mul_f32s(*weight, share);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::matmul::tests::{instruction_sets, value};
    use super::*;

    #[test]
    fn attention_equals_its_definition_and_stays_within_the_text() {
        // Another text lies before and after the one that is checked.
        let text = 5..45;
        let mut qkv = Panels::zeros(50, 3);
        for (panel, row) in (0..3).flat_map(|panel| (0..50).map(move |row| (panel, row))) {
            let first = (panel * 50 + row) * WIDTH;
            qkv.data_mut(panel, row)[0] = Row(std::array::from_fn(|c| value(first + c)));
        }
        let at = |panel: usize, row: usize| qkv.view(panel, row).data[0].0;
        for arch in instruction_sets() {
            let mut out = Panels::zeros(50, 1);
            Attention::default().apply(arch, &qkv, text.clone(), 1, &mut out);
            for row in text.clone() {
                let score = |key: usize| at(0, row).iter().zip(at(1, key)).map(|(q, k)| q * k).sum::<f32>();
                let weights: Vec<f32> = text.clone().map(|key| score(key).exp()).collect();
                let total: f32 = weights.iter().sum();
                for column in 0..WIDTH {
                    let values = text.clone().zip(&weights).map(|(key, w)| w / total * at(2, key)[column]);
                    let difference = out.view(0, row).data[0].0[column] - values.sum::<f32>();
                    assert!(difference.abs() < 1e-5, "{arch:?}: {difference} off at {row}, {column}");
                }
            }
            for row in (0..text.start).chain(text.end..50) {
                let untouched = out.view(0, row).data[0].0.iter().all(|x| x.to_bits() == 0);
                assert!(untouched, "row {row} outside the text was written");
            }
        }
    }
}
