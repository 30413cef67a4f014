//! The one-dimensional transforms of data, vector by vector.

use super::matrices::{self, P, Q};
use crate::kernel::WinogradTransform;
use crate::simd::Simd;

/// Most rows of a tile's input.
pub(super) const MOST_ALPHA: usize = 6;

/// A column or row of a tile.
pub(super) type Line<S> = [<S as Simd>::F32; MOST_ALPHA];

/// F(m×m, 3×3).
pub(super) trait Variant: std::fmt::Debug + Send + Sync + 'static {
    /// The kernel's name.
    const NAME: &'static str;
    /// Output rows and columns of a tile.
    const M: usize;
    /// Input rows and columns of a tile: m + 2.
    const ALPHA: usize;
    /// The matrices that [`input`](Self::input) and [`output`](Self::output) compute with.
    const TRANSFORM: &'static WinogradTransform;
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
    const ALPHA: usize = 4;
    const TRANSFORM: &'static WinogradTransform = &matrices::F2;
    const INPUT_FLOPS: u64 = 4;
    const OUTPUT_FLOPS: u64 = 4;

    #[inline(always)]
    fn input<S: Simd>(simd: S, d: Line<S>) -> Line<S> {
        let [d0, d1, d2, d3, ..] = d;
        [simd.sub(d0, d2), simd.add(d1, d2), simd.sub(d2, d1), simd.sub(d3, d1), d0, d0]
    }

    #[inline(always)]
    fn output<S: Simd>(simd: S, m: Line<S>) -> Line<S> {
        let [m0, m1, m2, m3, ..] = m;
        let y0 = simd.add(simd.add(m0, m1), m2);
        let y1 = simd.add(simd.sub(m1, m2), m3);
        [y0, y1, m0, m0, m0, m0]
    }
}

/// F(4×4, 3×3).
#[derive(Debug)]
pub(crate) struct F4;

impl Variant for F4 {
    const NAME: &'static str = "winograd-f4";
    const M: usize = 4;
    const ALPHA: usize = 6;
    const TRANSFORM: &'static WinogradTransform = &matrices::F4;
    const INPUT_FLOPS: u64 = 24;
    const OUTPUT_FLOPS: u64 = 16;

    #[inline(always)]
    fn input<S: Simd>(simd: S, d: Line<S>) -> Line<S> {
        // Even and odd parts of each pair of points: 12 multiply-adds.
        let constant = |x: f64| simd.splat(x as f32);
        let [d0, d1, d2, d3, d4, d5] = d;
        let (pp, qq) = (constant(-P * P), constant(-Q * Q));
        let (sum, product) = (constant(-P * P - Q * Q), constant(P * P * Q * Q));
        let (even_p, odd_p) = (simd.mul_add(qq, d2, d4), simd.mul_add(qq, d1, d3));
        let (even_q, odd_q) = (simd.mul_add(pp, d2, d4), simd.mul_add(pp, d1, d3));
        [
            simd.mul_add(product, d0, simd.mul_add(sum, d2, d4)),
            simd.mul_add(constant(P), odd_p, even_p),
            simd.mul_add(constant(-P), odd_p, even_p),
            simd.mul_add(constant(Q), odd_q, even_q),
            simd.mul_add(constant(-Q), odd_q, even_q),
            simd.mul_add(product, d1, simd.mul_add(sum, d3, d5)),
        ]
    }

    #[inline(always)]
    fn output<S: Simd>(simd: S, m: Line<S>) -> Line<S> {
        let constant = |x: f64| simd.splat(x as f32);
        let [m0, m1, m2, m3, m4, m5] = m;
        let (even_p, odd_p) = (simd.add(m1, m2), simd.sub(m1, m2));
        let (even_q, odd_q) = (simd.add(m3, m4), simd.sub(m3, m4));
        let y0 = simd.add(simd.add(m0, even_p), even_q);
        let y1 = simd.mul_add(constant(P), odd_p, simd.mul(constant(Q), odd_q));
        let y2 = simd.mul_add(constant(P * P), even_p, simd.mul(constant(Q * Q), even_q));
        let y3 = simd.mul_add(constant(P * P * P), odd_p, simd.mul_add(constant(Q * Q * Q), odd_q, m5));
        [y0, y1, y2, y3, m0, m0]
    }
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
            let values: [f32; MOST_ALPHA] = [3.0, -1.25, 2.5, 4.75, -2.0, 1.5];
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
    }

    #[test]
    fn code_and_matrices_agree() {
        on_every_isa!(s => check(s));
    }
}
