//! How values become one: the largest of them, or their sum.

use crate::simd::{Simd, SimdOp};

/// How two values become one.
pub(super) trait Reduction {
    /// Changes nothing when it is one of them.
    const IDENTITY: f32;
    /// Whether the result is divided by how many values there are.
    const DIVIDES: bool;
    /// The same for values of which none is NaN, where that is faster.
    type OfNumbers: Reduction;
    /// Whether it is: whoever uses it looks for NaN beside.
    const IS_FASTER_OF_NUMBERS: bool;
    fn scalars(a: f32, b: f32) -> f32;
    fn vectors<S: Simd>(simd: S, a: S::F32, b: S::F32) -> S::F32;
}

/// The largest, NaN if one of them is.
pub(super) struct Largest;

impl Reduction for Largest {
    const IDENTITY: f32 = f32::NEG_INFINITY;
    const DIVIDES: bool = false;
    type OfNumbers = LargestNumber;
    const IS_FASTER_OF_NUMBERS: bool = true;
    #[inline(always)]
    fn scalars(a: f32, b: f32) -> f32 {
        if a > b || a.is_nan() { a } else { b }
    }
    #[inline(always)]
    fn vectors<S: Simd>(simd: S, a: S::F32, b: S::F32) -> S::F32 {
        simd.max(a, b)
    }
}

/// The largest of numbers.
pub(super) struct LargestNumber;

impl Reduction for LargestNumber {
    const IDENTITY: f32 = f32::NEG_INFINITY;
    const DIVIDES: bool = false;
    type OfNumbers = LargestNumber;
    const IS_FASTER_OF_NUMBERS: bool = false;
    #[inline(always)]
    fn scalars(a: f32, b: f32) -> f32 {
        if a > b { a } else { b }
    }
    #[inline(always)]
    fn vectors<S: Simd>(simd: S, a: S::F32, b: S::F32) -> S::F32 {
        simd.max_of_numbers(a, b)
    }
}

pub(super) struct Sum;

impl Reduction for Sum {
    const IDENTITY: f32 = 0.0;
    const DIVIDES: bool = true;
    type OfNumbers = Sum;
    const IS_FASTER_OF_NUMBERS: bool = false;
    #[inline(always)]
    fn scalars(a: f32, b: f32) -> f32 {
        a + b
    }
    #[inline(always)]
    fn vectors<S: Simd>(simd: S, a: S::F32, b: S::F32) -> S::F32 {
        simd.add(a, b)
    }
}

/// What shows in passing whether a NaN was among values: their sum, which additions make beside the comparisons. It is
/// NaN as well where infinities cancel, so a doubt is no proof.
#[derive(Clone, Copy)]
pub(super) struct Doubt<S: Simd>(S::F32);

impl<S: Simd> Doubt<S> {
    #[inline(always)]
    pub(super) fn none(simd: S) -> Self {
        Doubt(simd.splat(0.0))
    }

    /// Of some values.
    #[inline(always)]
    pub(super) fn of(values: S::F32) -> Self {
        Doubt(values)
    }

    /// Looks at values that are reduced by `R`.
    #[inline(always)]
    pub(super) fn see<R: Reduction>(&mut self, simd: S, values: S::F32) {
        if R::IS_FASTER_OF_NUMBERS {
            self.0 = simd.add(self.0, values);
        }
    }

    /// Takes what was seen elsewhere: where it is little that is done for each vector, additions to the same sum would
    /// wait for each other.
    #[inline(always)]
    pub(super) fn join<R: Reduction>(&mut self, simd: S, other: Self) {
        self.see::<R>(simd, other.0);
    }

    /// Whether one of the values may have been NaN.
    #[inline(always)]
    pub(super) fn remains<R: Reduction>(self, simd: S) -> bool {
        R::IS_FASTER_OF_NUMBERS && simd.has_nan(self.0)
    }
}

/// The sum of all values, each of which goes through few roundings more than the number of values over that of lanes.
#[inline(always)]
pub(crate) fn sum<S: Simd>(simd: S, values: &[f32]) -> f32 {
    all::<S, Sum>(simd, values)
}

/// All values as one.
#[inline(always)]
pub(super) fn all<S: Simd, R: Reduction>(simd: S, values: &[f32]) -> f32 {
    let mut sums = [simd.splat(R::IDENTITY); 4];
    let mut blocks = values.chunks_exact(4 * S::LANES);
    for block in &mut blocks {
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: the block has four vectors.
            *sum = R::vectors(simd, *sum, unsafe { simd.load(block.as_ptr().add(i * S::LANES)) });
        }
    }
    let mut vectors = blocks.remainder().chunks_exact(S::LANES);
    for vector in &mut vectors {
        // SAFETY: a whole vector.
        sums[0] = R::vectors(simd, sums[0], unsafe { simd.load(vector.as_ptr()) });
    }
    let halves = [R::vectors(simd, sums[0], sums[2]), R::vectors(simd, sums[1], sums[3])];
    let mut lanes = [R::IDENTITY; 16];
    // SAFETY: no vector has more than 16 lanes.
    unsafe { simd.store(lanes.as_mut_ptr(), R::vectors(simd, halves[0], halves[1])) };
    // Halves of halves: as many roundings as the logarithm of the lanes.
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] = R::scalars(lanes[i], lanes[i + half]);
        }
    }
    vectors.remainder().iter().fold(lanes[0], |sum, &value| R::scalars(sum, value))
}

/// Planes of so many values are reduced several at a time, larger ones one by one.
const SHORT: usize = 1024;

/// Reduces planes of `len` values each to a value each, in vectors of planes where they are short.
pub(super) struct Planes<'a, R> {
    pub(super) input: &'a [f32],
    pub(super) len: usize,
    pub(super) out: &'a mut [f32],
    pub(super) how: std::marker::PhantomData<R>,
}

impl<S: Simd, R: Reduction> SimdOp<S> for Planes<'_, R> {
    type Output = ();
    #[inline(always)]
    fn eval(self, simd: S) {
        debug_assert_eq!(self.input.len(), self.len * self.out.len());
        if self.len > SHORT {
            for (plane, out) in self.input.chunks_exact(self.len).zip(self.out) {
                *out = all::<S, R>(simd, plane);
            }
            return;
        }
        let whole = self.len / S::LANES * S::LANES;
        let (rest, identity) = (simd.mask(0, self.len - whole), simd.splat(R::IDENTITY));
        let planes = self.input.chunks(self.len * S::LANES);
        for (planes, out) in planes.zip(self.out.chunks_mut(S::LANES)) {
            // No vector has more than 16 lanes.
            let mut sums = [simd.splat(R::IDENTITY); 16];
            for (plane, sum) in planes.chunks_exact(self.len).zip(&mut sums[..S::LANES]) {
                let p = plane.as_ptr();
                // SAFETY: whole vectors of the plane, and what is left of it.
                unsafe {
                    for i in (0..whole).step_by(S::LANES) {
                        *sum = R::vectors(simd, *sum, simd.load(p.add(i)));
                    }
                    *sum = R::vectors(simd, *sum, simd.load_masked_or(p.add(whole), rest, identity));
                }
            }
            let mut vectors = S::LANES;
            while vectors > 1 {
                vectors /= 2;
                for i in 0..vectors {
                    // Neighbours within each plane; planes stay in their order.
                    let (even, odd) = simd.unzip(sums[2 * i], sums[2 * i + 1]);
                    sums[i] = R::vectors(simd, even, odd);
                }
            }
            // SAFETY: as many lanes as there are planes.
            unsafe { simd.store_partial(out.as_mut_ptr(), sums[0], out.len()) };
        }
    }
}
