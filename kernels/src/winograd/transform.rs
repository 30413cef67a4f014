//! The one-dimensional transforms of data, vector by vector.

use super::matrices::{self, P, Q};
use crate::kernel::{Accuracy, WinogradTransform};
use crate::simd::Simd;

/// Most rows of a tile's input.
pub(super) const MOST_ALPHA: usize = 8;

/// A column or row of a tile.
pub(super) type Line<S> = [<S as Simd>::F32; MOST_ALPHA];

/// F(m×m, r×r).
pub(super) trait Variant: std::fmt::Debug + Send + Sync + 'static {
    /// The kernel's name.
    const NAME: &'static str;
    /// Output rows and columns of a tile.
    const M: usize;
    /// Rows and columns of the filters.
    const R: usize;
    /// Input rows and columns of a tile: m + r − 1.
    const ALPHA: usize = Self::M + Self::R - 1;
    /// The most that may be asked of the rounding error for the variant to be taken unnamed.
    const ACCURACY: Accuracy;
    /// The matrices that [`input`](Self::input) and [`output`](Self::output) compute with.
    const TRANSFORM: &'static WinogradTransform;
    /// Roundings that a term can go through in [`input`](Self::input), multiply and add rounded apart.
    const INPUT_ROUNDINGS: usize;
    /// The same in [`output`](Self::output).
    const OUTPUT_ROUNDINGS: usize;
    /// Floating-point operations of [`input`](Self::input), for each lane.
    const INPUT_FLOPS: u64;
    /// Floating-point operations of [`output`](Self::output), for each lane.
    const OUTPUT_FLOPS: u64;
    /// Bᵀ d of the first ALPHA vectors.
    fn input<S: Simd>(simd: S, d: Line<S>) -> Line<S>;
    /// Aᵀ m: the first M vectors of the result.
    fn output<S: Simd>(simd: S, m: Line<S>) -> Line<S>;
}

/// F(2×2, 3×3).
#[derive(Debug)]
pub(crate) struct F2;

impl Variant for F2 {
    const NAME: &'static str = "winograd-f2";
    const M: usize = 2;
    const R: usize = 3;
    const ACCURACY: Accuracy = Accuracy::Standard;
    const TRANSFORM: &'static WinogradTransform = &matrices::F2;
    const INPUT_ROUNDINGS: usize = 1;
    const OUTPUT_ROUNDINGS: usize = 2;
    const INPUT_FLOPS: u64 = 4;
    const OUTPUT_FLOPS: u64 = 4;

    #[inline(always)]
    fn input<S: Simd>(simd: S, d: Line<S>) -> Line<S> {
        let [d0, d1, d2, d3, ..] = d;
        padded(simd, [simd.sub(d0, d2), simd.add(d1, d2), simd.sub(d2, d1), simd.sub(d3, d1)])
    }

    #[inline(always)]
    fn output<S: Simd>(simd: S, m: Line<S>) -> Line<S> {
        let [m0, m1, m2, m3, ..] = m;
        let y0 = simd.add(simd.add(m0, m1), m2);
        let y1 = simd.add(simd.sub(m1, m2), m3);
        padded(simd, [y0, y1])
    }
}

/// F(4×4, 3×3).
#[derive(Debug)]
pub(crate) struct F4;

impl Variant for F4 {
    const NAME: &'static str = "winograd-f4";
    const M: usize = 4;
    const R: usize = 3;
    const ACCURACY: Accuracy = Accuracy::Standard;
    const TRANSFORM: &'static WinogradTransform = &matrices::F4;
    const INPUT_ROUNDINGS: usize = 4;
    const OUTPUT_ROUNDINGS: usize = 4;
    const INPUT_FLOPS: u64 = 24;
    const OUTPUT_FLOPS: u64 = 16;

    #[inline(always)]
    fn input<S: Simd>(simd: S, d: Line<S>) -> Line<S> {
        input6(simd, d)
    }

    #[inline(always)]
    fn output<S: Simd>(simd: S, m: Line<S>) -> Line<S> {
        let constant = |x: f64| simd.splat(x as f32);
        let [m0, m1, m2, m3, m4, m5, ..] = m;
        let (even_p, odd_p) = (simd.add(m1, m2), simd.sub(m1, m2));
        let (even_q, odd_q) = (simd.add(m3, m4), simd.sub(m3, m4));
        let y0 = simd.add(simd.add(m0, even_p), even_q);
        let y1 = simd.mul_add(constant(P), odd_p, simd.mul(constant(Q), odd_q));
        let y2 = simd.mul_add(constant(P * P), even_p, simd.mul(constant(Q * Q), even_q));
        let y3 = simd.mul_add(constant(P * P * P), odd_p, simd.mul_add(constant(Q * Q * Q), odd_q, m5));
        padded(simd, [y0, y1, y2, y3])
    }
}

/// F(2×2, 5×5): the input's transform is that of [`F4`].
#[derive(Debug)]
pub(crate) struct F2R5;

impl Variant for F2R5 {
    const NAME: &'static str = "winograd-f2-5x5";
    const M: usize = 2;
    const R: usize = 5;
    const ACCURACY: Accuracy = Accuracy::Standard;
    const TRANSFORM: &'static WinogradTransform = &matrices::F2R5;
    const INPUT_ROUNDINGS: usize = F4::INPUT_ROUNDINGS;
    const OUTPUT_ROUNDINGS: usize = 4;
    const INPUT_FLOPS: u64 = F4::INPUT_FLOPS;
    const OUTPUT_FLOPS: u64 = 10;

    #[inline(always)]
    fn input<S: Simd>(simd: S, d: Line<S>) -> Line<S> {
        input6(simd, d)
    }

    #[inline(always)]
    fn output<S: Simd>(simd: S, m: Line<S>) -> Line<S> {
        let constant = |x: f64| simd.splat(x as f32);
        let [m0, m1, m2, m3, m4, m5, ..] = m;
        let y0 = simd.add(simd.add(m0, simd.add(m1, m2)), simd.add(m3, m4));
        let y1 = simd.mul_add(constant(P), simd.sub(m1, m2), simd.mul_add(constant(Q), simd.sub(m3, m4), m5));
        padded(simd, [y0, y1])
    }
}

/// F(6×6, 3×3).
#[derive(Debug)]
pub(crate) struct F6;

impl Variant for F6 {
    const NAME: &'static str = "winograd-f6";
    const M: usize = 6;
    const R: usize = 3;
    const ACCURACY: Accuracy = Accuracy::Relaxed;
    const TRANSFORM: &'static WinogradTransform = &matrices::F6;
    const INPUT_ROUNDINGS: usize = 5;
    const OUTPUT_ROUNDINGS: usize = 4;
    const INPUT_FLOPS: u64 = 40;
    const OUTPUT_FLOPS: u64 = 30;

    #[inline(always)]
    fn input<S: Simd>(simd: S, d: Line<S>) -> Line<S> {
        let constant = |x: f64| simd.splat(x as f32);
        let [d0, d1, d2, d3, d4, d5, d6, d7] = d;
        let third = constant(21. / 4.);
        // Even and odd parts of each pair of points.
        let even_1 = simd.mul_add(constant(-17. / 4.), d4, simd.add(d2, d6));
        let odd_1 = simd.mul_add(constant(-17. / 4.), d3, simd.add(d1, d5));
        let even_2 = simd.mul_add(constant(0.25), d2, simd.mul_add(constant(-1.25), d4, d6));
        let odd_2 = simd.mul_add(constant(0.25), d1, simd.mul_add(constant(-1.25), d3, d5));
        let even_half = simd.mul_add(constant(4.), d2, simd.mul_add(constant(-5.), d4, d6));
        let odd_half = simd.mul_add(constant(4.), d1, simd.mul_add(constant(-5.), d3, d5));
        let (two, half) = (constant(2.), constant(0.5));
        [
            simd.mul_add(third, simd.sub(d4, d2), simd.sub(d0, d6)),
            simd.add(even_1, odd_1),
            simd.sub(even_1, odd_1),
            simd.mul_add(two, odd_2, even_2),
            simd.mul_add(constant(-2.), odd_2, even_2),
            simd.mul_add(half, odd_half, even_half),
            simd.mul_add(constant(-0.5), odd_half, even_half),
            simd.mul_add(third, simd.sub(d3, d5), simd.sub(d7, d1)),
        ]
    }

    #[inline(always)]
    fn output<S: Simd>(simd: S, m: Line<S>) -> Line<S> {
        let constant = |x: f64| simd.splat(x as f32);
        let [m0, m1, m2, m3, m4, m5, m6, m7] = m;
        let (even_1, odd_1) = (simd.add(m1, m2), simd.sub(m1, m2));
        let (even_2, odd_2) = (simd.add(m3, m4), simd.sub(m3, m4));
        let (even_half, odd_half) = (simd.add(m5, m6), simd.sub(m5, m6));
        let sum = |a: S::F32, [two, half]: [f64; 2], x: S::F32, y: S::F32| {
            simd.mul_add(constant(half), y, simd.mul_add(constant(two), x, a))
        };
        [
            simd.mul_add(constant(32.), even_half, simd.add(simd.add(m0, even_1), even_2)),
            sum(odd_1, [2., 16.], odd_2, odd_half),
            sum(even_1, [4., 8.], even_2, even_half),
            sum(odd_1, [8., 4.], odd_2, odd_half),
            sum(even_1, [16., 2.], even_2, even_half),
            simd.add(simd.mul_add(constant(32.), odd_2, simd.add(odd_1, m7)), odd_half),
            m0,
            m0,
        ]
    }
}

/// The vectors that a transform of fewer than [`MOST_ALPHA`] has, filled up.
#[inline(always)]
fn padded<S: Simd, const N: usize>(simd: S, line: [S::F32; N]) -> Line<S> {
    std::array::from_fn(|i| if i < N { line[i] } else { simd.splat(0.0) })
}

/// Bᵀ d of six rows: even and odd parts of each pair of points, 12 multiply-adds.
#[inline(always)]
fn input6<S: Simd>(simd: S, d: Line<S>) -> Line<S> {
    let constant = |x: f64| simd.splat(x as f32);
    let [d0, d1, d2, d3, d4, d5, ..] = d;
    let (pp, qq) = (constant(-P * P), constant(-Q * Q));
    let (sum, product) = (constant(-P * P - Q * Q), constant(P * P * Q * Q));
    let (even_p, odd_p) = (simd.mul_add(qq, d2, d4), simd.mul_add(qq, d1, d3));
    let (even_q, odd_q) = (simd.mul_add(pp, d2, d4), simd.mul_add(pp, d1, d3));
    let line = [
        simd.mul_add(product, d0, simd.mul_add(sum, d2, d4)),
        simd.mul_add(constant(P), odd_p, even_p),
        simd.mul_add(constant(-P), odd_p, even_p),
        simd.mul_add(constant(Q), odd_q, even_q),
        simd.mul_add(constant(-Q), odd_q, even_q),
        simd.mul_add(product, d1, simd.mul_add(sum, d3, d5)),
    ];
    padded(simd, line)
}

#[cfg(test)]
mod tests {
    use std::any::type_name;

    use super::*;
    use crate::simd::{SimdOp, on_every_isa};

    struct Check<V>(std::marker::PhantomData<V>);

    impl<S: Simd, V: Variant> SimdOp<S> for Check<V> {
        type Output = ();
        #[inline(always)]
        fn eval(self, simd: S) {
            // Quarters: every product and sum is exact.
            let values: [f32; MOST_ALPHA] = [3.0, -1.25, 2.5, 4.75, -2.0, 1.5, 0.75, -3.5];
            let line = values.map(|x| simd.splat(x));
            let first = |v: S::F32| {
                let mut out = [0.0; 16];
                // SAFETY: no vector has more than 16 lanes.
                unsafe { simd.store(out.as_mut_ptr(), v) };
                out[0]
            };
            let dot = |row: &[f64]| row.iter().zip(values).map(|(a, b)| a * f64::from(b)).sum::<f64>() as f32;
            let (input, output) = (V::input(simd, line), V::output(simd, line));
            for i in 0..V::ALPHA {
                assert_eq!(first(input[i]), dot(V::TRANSFORM.bt[i]), "{} input {i}", type_name::<S>());
            }
            for i in 0..V::M {
                assert_eq!(first(output[i]), dot(V::TRANSFORM.at[i]), "{} output {i}", type_name::<S>());
            }
        }
    }

    fn check<S: Simd>(simd: S) {
        simd.vectorize(Check::<F2>(std::marker::PhantomData));
        simd.vectorize(Check::<F4>(std::marker::PhantomData));
        simd.vectorize(Check::<F6>(std::marker::PhantomData));
        simd.vectorize(Check::<F2R5>(std::marker::PhantomData));
    }

    #[test]
    fn code_and_matrices_agree() {
        on_every_isa!(s => check(s));
    }
}
