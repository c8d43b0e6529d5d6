//! Elementwise functions on vector registers of any width.
#![expect(clippy::inline_always, reason = "kernels inherit the caller's instruction set only by inlining")]

use pulp::Simd;

use super::panels::Row;

/// Vectors of one row.
#[inline(always)]
pub fn vectors<S: Simd>(row: &Row) -> &[S::f32s] {
    S::as_simd_f32s(&row.0).0
}

/// Vectors of one row, to write to.
#[inline(always)]
pub fn vectors_mut<S: Simd>(row: &mut Row) -> &mut [S::f32s] {
    S::as_mut_simd_f32s(&mut row.0).0
}

/// The value of a polynomial, coefficients from the constant term up (Horner's scheme).
#[inline(always)]
fn polynomial<S: Simd, const N: usize>(simd: S, x: S::f32s, coefficients: &[f32; N]) -> S::f32s {
    let mut value = simd.splat_f32s(coefficients[N - 1]);
    for i in (0..N - 1).rev() {
        value = simd.mul_add_f32s(value, x, simd.splat_f32s(coefficients[i]));
    }
    value
}

/// e^r on |r| ≤ ln 2 / 2, least squares on Chebyshev nodes, relative error 2e-9 before rounding.
const EXP: [f32; 7] = [1.0, 1.0, 0.499_999_9, 0.166_664_21, 0.041_668_36, 0.008_374_77, 0.001_382_94];

/// e^x for x ≤ 0, relative error below 3e-7; exactly zero below -87.
#[inline(always)]
pub fn exp_nonpositive<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // Adding 1.5 · 2^23 rounds to an integer and leaves it in the low bits of the mantissa.
    let shift = simd.splat_f32s(12_582_912.0);
    let lowest = simd.splat_f32s(-87.0);
    let bounded = simd.max_f32s(x, lowest);
    let shifted = simd.mul_add_f32s(bounded, simd.splat_f32s(std::f32::consts::LOG2_E), shift);
    let n = simd.sub_f32s(shifted, shift);
    // ln 2 in two parts, so that the reduction is exact to the last bit of x.
    let r = simd.negate_mul_add_f32s(n, simd.splat_f32s(0.693_359_4), bounded);
    let r = simd.negate_mul_add_f32s(n, simd.splat_f32s(-2.121_944_4e-4), r);
    let mantissa = polynomial(simd, r, &EXP);
    let exponent = simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(23));
    let power = simd.transmute_f32s_u32s(simd.add_u32s(exponent, simd.splat_u32s(127 << 23)));
    let value = simd.mul_f32s(mantissa, power);
    simd.select_f32s(simd.less_than_f32s(x, lowest), simd.splat_f32s(0.0), value)
}

/// Beyond this |x| erf is taken as constant; 1 - erf(3.6) = 3.6e-7.
const ERF_RANGE: f32 = 3.6;

/// erf(x) / x as a polynomial in v = 2 (x / 3.6)² - 1, minimax fit by reweighted least squares:
/// in single precision |error of erf| < 2.1e-7 within the range and < 6e-7 beyond it.
const ERF: [f32; 14] = [
    3.927_121_2e-1,
    -1.954_905_1e-1,
    1.438_109_3e-1,
    -1.137_939_7e-1,
    8.981_19e-2,
    -6.802_955e-2,
    4.829_283_8e-2,
    -3.255_03e-2,
    2.124_676_7e-2,
    -1.162_669_1e-2,
    4.572_032e-3,
    -2.843_63e-3,
    2.631_468_2e-3,
    -9.657_435e-4,
];

/// The Gaussian error linear unit, x · Φ(x), in its exact (erf) form.
#[inline(always)]
pub fn gelu<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let limit = simd.splat_f32s(ERF_RANGE);
    let scaled = simd.mul_f32s(x, simd.splat_f32s(std::f32::consts::FRAC_1_SQRT_2));
    let bounded = simd.min_f32s(simd.max_f32s(scaled, simd.neg_f32s(limit)), limit);
    let square = simd.mul_f32s(bounded, bounded);
    let v = simd.mul_add_f32s(square, simd.splat_f32s(2.0 / (ERF_RANGE * ERF_RANGE)), simd.splat_f32s(-1.0));
    let erf = simd.mul_f32s(bounded, polynomial(simd, v, &ERF));
    let half = simd.mul_f32s(x, simd.splat_f32s(0.5));
    simd.mul_add_f32s(half, erf, half)
}

#[cfg(test)]
mod tests {
    use pulp::{Simd, WithSimd};

    use super::super::matmul::tests::instruction_sets;
    use super::*;

    /// Applies both functions to every number of a row.
    struct Both<'a> {
        gelu: &'a mut Row,
        exp: &'a mut Row,
    }

    impl WithSimd for Both<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            for x in vectors_mut::<S>(self.gelu) {
                *x = gelu(simd, *x);
            }
            for x in vectors_mut::<S>(self.exp) {
                *x = exp_nonpositive(simd, *x);
            }
        }
    }

    /// Φ(x), integrated by Simpson's rule from 0.
    fn normal_distribution(x: f64) -> f64 {
        let density = |t: f64| (-t * t / 2.0).exp() / std::f64::consts::TAU.sqrt();
        let h = x / 1000.0;
        let weight = |i: u32| if i % 2 == 1 { 4.0 } else { 2.0 };
        let inner: f64 = (1..1000).map(|i| weight(i) * density(h * f64::from(i))).sum();
        0.5 + h / 3.0 * (density(0.0) + inner + density(x))
    }

    #[test]
    fn gelu_and_exp_equal_their_definitions_on_every_instruction_set() {
        for arch in instruction_sets() {
            for step in -160_i16..=160 {
                let x = f32::from(step) / 20.0;
                let (mut gelu, mut exp) = (Row([x; 32]), Row([-x.abs(); 32]));
                arch.dispatch(Both { gelu: &mut gelu, exp: &mut exp });
                let exact = f64::from(x) * normal_distribution(f64::from(x));
                // What erf lacks is scaled by x.
                let tolerance = 4e-7 * f64::from(x).abs().max(1.0);
                let error = (f64::from(gelu.0[31]) - exact).abs();
                assert!(error < tolerance, "{arch:?}: gelu({x}) is off by {error}");
                let exact = (-f64::from(x).abs()).exp();
                assert!((f64::from(exp.0[31]) / exact - 1.0).abs() < 3e-7, "{arch:?}: exp(-|{x}|)");
            }
            let (mut gelu, mut exp) = (Row([-40.0; 32]), Row([f32::NEG_INFINITY; 32]));
            arch.dispatch(Both { gelu: &mut gelu, exp: &mut exp });
            assert!(gelu.0[0].abs() < 1e-4);
            assert!(exp.0.iter().all(|x| x.to_bits() == 0));
        }
    }
}
