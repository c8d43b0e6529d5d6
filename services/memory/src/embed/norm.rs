//! Layer normalisation.
#![expect(clippy::inline_always, reason = "kernels inherit the caller's instruction set only by inlining")]

use pulp::{Arch, Simd, WithSimd};

use super::panels::{Panels, Row, WIDTH, to_rows};
use super::simd::{vectors, vectors_mut};

/// Added to the variance.
const EPSILON: f32 = 1e-12;

/// `gain · (x - mean) / √(variance + ε) + shift`, over the columns of each row.
pub struct LayerNorm {
    gain: Vec<Row>,
    shift: Vec<Row>,
}

impl LayerNorm {
    /// From one gain and one shift per column.
    pub fn new(gain: &[f32], shift: &[f32]) -> Self {
        Self { gain: to_rows(gain), shift: to_rows(shift) }
    }

    /// Normalises every row in place.
    pub fn apply(&self, arch: Arch, x: &mut Panels) {
        let (rows, stride) = (x.rows(), x.stride());
        arch.dispatch(Normalise { norm: self, x: x.data_mut(0, 0), rows, stride });
    }
}

struct Normalise<'a> {
    norm: &'a LayerNorm,
    x: &'a mut [Row],
    rows: usize,
    stride: usize,
}

impl WithSimd for Normalise<'_> {
    type Output = ();

    #[inline(always)]
    #[expect(clippy::cast_precision_loss, reason = "a few hundred columns are exact in f32")]
    fn with_simd<S: Simd>(self, simd: S) {
        let panels = self.norm.gain.len();
        let columns = (panels * WIDTH) as f32;
        for r in 0..self.rows {
            let mut sum = simd.splat_f32s(0.0);
            for p in 0..panels {
                for x in vectors::<S>(&self.x[p * self.stride + r]) {
                    sum = simd.add_f32s(sum, *x);
                }
            }
            let mean = simd.splat_f32s(simd.reduce_sum_f32s(sum) / columns);
            let mut squares = simd.splat_f32s(0.0);
            for p in 0..panels {
                for x in vectors::<S>(&self.x[p * self.stride + r]) {
                    let centred = simd.sub_f32s(*x, mean);
                    squares = simd.mul_add_f32s(centred, centred, squares);
                }
            }
            let deviation = (simd.reduce_sum_f32s(squares) / columns + EPSILON).sqrt();
            let scale = simd.splat_f32s(1.0 / deviation);
            for p in 0..panels {
                let gain = vectors::<S>(&self.norm.gain[p]);
                let shift = vectors::<S>(&self.norm.shift[p]);
                let row = vectors_mut::<S>(&mut self.x[p * self.stride + r]);
                for ((x, gain), shift) in row.iter_mut().zip(gain).zip(shift) {
                    let unit = simd.mul_f32s(simd.sub_f32s(*x, mean), scale);
                    *x = simd.mul_add_f32s(unit, *gain, *shift);
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
    fn a_normalised_row_has_mean_zero_and_variance_one_before_gain_and_shift() {
        let columns = 2 * WIDTH;
        for arch in instruction_sets() {
            let mut x = Panels::zeros(3, 2);
            for (panel, row) in (0..2).flat_map(|panel| (0..3).map(move |row| (panel, row))) {
                let first = (panel * 3 + row) * WIDTH;
                x.data_mut(panel, row)[0] = Row(std::array::from_fn(|c| 5.0 + value(first + c)));
            }
            LayerNorm::new(&vec![2.0; columns], &vec![0.5; columns]).apply(arch, &mut x);
            for row in 0..3 {
                let values = (0..columns).map(|c| (x.view(c / WIDTH, row).data[0].0[c % WIDTH] - 0.5) / 2.0);
                let (sum, squares) = values.fold((0.0, 0.0), |(s, q), v| (s + v, q + v * v));
                assert!(sum.abs() < 1e-4, "{arch:?}: sum {sum}");
                assert!((squares / 64.0 - 1.0).abs() < 1e-4, "{arch:?}: squares {squares}");
            }
        }
    }
}
