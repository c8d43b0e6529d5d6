//! Matrix products on panels: one register-tiled kernel serves the dense layers and attention.
#![expect(clippy::inline_always, reason = "kernels inherit the caller's instruction set only by inlining")]

use pulp::{Arch, Simd, WithSimd};

use super::panels::{Block, Panels, Row, View, WIDTH};
use super::simd::{gelu, vectors, vectors_mut};

/// What happens to a product before it is stored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// Stored as it is.
    Store,
    /// Passed through [`gelu`].
    Gelu,
    /// Added to what the output holds (a residual connection).
    Add,
}

/// `out = finish(x · weight + bias)`.
///
/// Each element is summed over the inputs in order, in one accumulator, so a row's result depends neither on
/// the other rows nor on how rows are tiled.
pub struct Product<'a> {
    /// The left factor, `depth` panels.
    pub x: View<'a>,
    /// The right factor: for each output panel, its `depth` blocks.
    pub weight: &'a [Block],
    /// Input panels.
    pub depth: usize,
    /// One row per output panel.
    pub bias: &'a [Row],
    /// Output panels.
    pub out: &'a mut [Row],
    /// Distance between equal rows of neighbouring output panels.
    pub out_stride: usize,
    /// Rows of `x` and of the output.
    pub rows: usize,
    /// Applied before storing.
    pub finish: Finish,
}

impl Product<'_> {
    /// Computes the product with the best instructions the processor has.
    #[inline(never)] // One copy of the kernel for all callers.
    pub fn run(self, arch: Arch) {
        arch.dispatch(self);
    }
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // Accumulators (two per row), two weights and one broadcast must fit the registers.
        let most = if S::REGISTER_COUNT >= 32 { 12 } else { 6 };
        let tiles = self.rows.div_ceil(most);
        for (panel, (weight, bias)) in self.weight.chunks_exact(self.depth).zip(self.bias).enumerate() {
            let out = &mut self.out[panel * self.out_stride..][..self.rows];
            for i in 0..tiles {
                // Even tiles rather than full ones and a rest: a tile of one row is slow.
                let (first, end) = (i * self.rows / tiles, (i + 1) * self.rows / tiles);
                let x = View { data: &self.x.data[first..], stride: self.x.stride };
                let out = &mut out[first..end];
                any_tile(simd, x, weight, bias, out, self.finish == Finish::Add);
                if self.finish == Finish::Gelu {
                    for value in out.iter_mut().flat_map(vectors_mut::<S>) {
                        *value = gelu(simd, *value);
                    }
                }
            }
        }
    }
}

/// Calls [`tile`] for the number of rows of `out`: 1 to 12, or to 6 where registers are few.
#[inline(always)]
fn any_tile<S: Simd>(simd: S, x: View<'_>, weight: &[Block], bias: &Row, out: &mut [Row], add: bool) {
    if const { S::REGISTER_COUNT >= 32 } && out.len() > 6 {
        return match out.len() {
            7 => tile::<S, 7>(simd, x, weight, bias, out, add),
            8 => tile::<S, 8>(simd, x, weight, bias, out, add),
            9 => tile::<S, 9>(simd, x, weight, bias, out, add),
            10 => tile::<S, 10>(simd, x, weight, bias, out, add),
            11 => tile::<S, 11>(simd, x, weight, bias, out, add),
            _ => tile::<S, 12>(simd, x, weight, bias, out, add),
        };
    }
    match out.len() {
        1 => tile::<S, 1>(simd, x, weight, bias, out, add),
        2 => tile::<S, 2>(simd, x, weight, bias, out, add),
        3 => tile::<S, 3>(simd, x, weight, bias, out, add),
        4 => tile::<S, 4>(simd, x, weight, bias, out, add),
        5 => tile::<S, 5>(simd, x, weight, bias, out, add),
        _ => tile::<S, 6>(simd, x, weight, bias, out, add),
    }
}

/// The product for `R` rows and one output panel, accumulated in registers.
#[inline(always)]
fn tile<S: Simd, const R: usize>(
    simd: S,
    x: View<'_>,
    weight: &[Block],
    bias: &Row,
    out: &mut [Row],
    add: bool,
) {
    let out = &mut out[..R];
    // Two vectors at a time: the whole panel with 512-bit registers, a half or a quarter with narrower ones.
    for pair in (0..WIDTH / S::F32_LANES).step_by(2) {
        let bias = vectors::<S>(bias);
        let mut sum = [[bias[pair], bias[pair + 1]]; R];
        for (block, weight) in weight.iter().enumerate() {
            let rows = &x.data[block * x.stride..][..R];
            for k in 0..WIDTH {
                let weight = vectors::<S>(&weight[k]);
                for r in 0..R {
                    let value = simd.splat_f32s(rows[r].0[k]);
                    sum[r][0] = simd.mul_add_f32s(value, weight[pair], sum[r][0]);
                    sum[r][1] = simd.mul_add_f32s(value, weight[pair + 1], sum[r][1]);
                }
            }
        }
        for r in 0..R {
            let out = vectors_mut::<S>(&mut out[r]);
            for half in 0..2 {
                let before = if add { out[pair + half] } else { simd.splat_f32s(0.0) };
                out[pair + half] = simd.add_f32s(before, sum[r][half]);
            }
        }
    }
}

/// A dense layer with its weights in the kernel's order.
pub struct Linear {
    weight: Vec<Block>,
    bias: Vec<Row>,
    depth: usize,
}

impl Linear {
    /// From weights `[outputs][inputs]` (row-major) and one bias per output.
    pub fn new(weight: &[f32], bias: &[f32]) -> Self {
        let inputs = weight.len() / bias.len();
        let depth = inputs / WIDTH;
        let mut blocks = vec![[Row::ZERO; WIDTH]; bias.len() / WIDTH * depth];
        for (output, row) in weight.chunks_exact(inputs).enumerate() {
            let panel = &mut blocks[output / WIDTH * depth..][..depth];
            for (block, values) in panel.iter_mut().zip(row.as_chunks::<WIDTH>().0) {
                for (target, value) in block.iter_mut().zip(values) {
                    target.0[output % WIDTH] = *value;
                }
            }
        }
        Self { weight: blocks, bias: super::panels::to_rows(bias), depth }
    }

    /// The layer's output for every row of `x`.
    pub fn apply(&self, arch: Arch, x: &Panels, out: &mut Panels, finish: Finish) {
        let (rows, out_stride) = (x.rows(), out.stride());
        let product = Product {
            x: x.view(0, 0),
            weight: &self.weight,
            depth: self.depth,
            bias: &self.bias,
            out: out.data_mut(0, 0),
            out_stride,
            rows,
            finish,
        };
        product.run(arch);
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Every instruction set this machine can run, the portable one included.
    pub fn instruction_sets() -> Vec<Arch> {
        let mut sets = vec![Arch::Scalar, Arch::new()];
        #[cfg(target_arch = "x86_64")]
        sets.extend(pulp::x86::V3::try_new().map(Arch::V3));
        sets
    }

    /// A repeatable value between -1 and 1.
    pub fn value(index: usize) -> f32 {
        let scrambled = u32::try_from(index).unwrap().wrapping_mul(2_654_435_761) >> 16;
        f32::from(u16::try_from(scrambled).unwrap()) / 32_768.0 - 1.0
    }

    #[test]
    fn a_layer_equals_the_plain_sum_on_every_instruction_set() {
        let (inputs, outputs) = (2 * WIDTH, 3 * WIDTH);
        let weight: Vec<f32> = (0..outputs * inputs).map(value).collect();
        let bias: Vec<f32> = (0..outputs).map(|o| value(o + 7)).collect();
        let layer = Linear::new(&weight, &bias);
        for (arch, rows) in instruction_sets().into_iter().flat_map(|arch| (1..=26).map(move |r| (arch, r))) {
            let mut x = Panels::zeros(rows, inputs / WIDTH);
            for (r, i) in (0..rows).flat_map(|r| (0..inputs).map(move |i| (r, i))) {
                x.data_mut(i / WIDTH, r)[0].0[i % WIDTH] = value(r * inputs + i + 3);
            }
            let mut once = Panels::zeros(rows, outputs / WIDTH);
            layer.apply(arch, &x, &mut once, Finish::Store);
            let mut twice = Panels::zeros(rows, outputs / WIDTH);
            layer.apply(arch, &x, &mut twice, Finish::Store);
            layer.apply(arch, &x, &mut twice, Finish::Add);
            for (r, o) in (0..rows).flat_map(|r| (0..outputs).map(move |o| (r, o))) {
                let terms = (0..inputs).map(|i| value(r * inputs + i + 3) * weight[o * inputs + i]);
                let expected = terms.sum::<f32>() + bias[o];
                let at = |m: &Panels| m.view(o / WIDTH, r).data[0].0[o % WIDTH];
                assert!((at(&once) - expected).abs() < 1e-4, "{arch:?}, {rows} rows, at {r}, {o}");
                assert!((at(&twice) - 2.0 * expected).abs() < 2e-4, "{arch:?}, {rows} rows, at {r}, {o}");
            }
            // The spare rows of the output are not written.
            let mut spare = once.view(0, rows).data[..WIDTH].iter().flat_map(|row| row.0);
            assert!(spare.all(|x| x.to_bits() == 0));
        }
    }
}
