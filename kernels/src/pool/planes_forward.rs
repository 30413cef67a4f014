//! Rows of outputs of a [pooling](super) in NCHW.

use std::marker::PhantomData;

use super::buffered::{BUFFER, Buffered, FarApart};
use super::forward::Rows;
use super::pairs::Pairs;
use super::reduction::{Planes, Reduction};
use super::threes::Threes;
use crate::simd::Simd;

impl<R: Reduction> Rows<'_, R> {
    /// Computes rows of outputs in NCHW.
    pub(super) fn planes<S: Simd>(self, simd: S) {
        let spec = &self.plan.spec;
        let axis = spec.axis(1);
        let none_is_cut = axis.inner(spec.out_width()) == (0..spec.out_width());
        if self.plan.is_whole() {
            self.whole_planes(simd);
        } else if axis.stride == 2 && axis.dilation == 1 && axis.kernel <= 2 && none_is_cut {
            match spec.out_width() <= S::Half::LANES {
                true => simd.half().vectorize(Pairs(self)),
                false => simd.vectorize(Pairs(self)),
            }
        } else if S::LANES >= 8
            && spec.kernel() == [3, 3]
            && spec.dilation() == [1, 1]
            && spec.stride() == [1, 1]
        {
            simd.vectorize(Threes::<R, 1>(self));
        } else if S::LANES >= 8
            && spec.kernel() == [3, 3]
            && spec.dilation() == [1, 1]
            && spec.stride() == [2, 2]
        {
            simd.vectorize(Threes::<R, 2>(self));
        } else if axis.extent() <= BUFFER {
            simd.vectorize(Buffered(self));
        } else {
            simd.vectorize(FarApart(self));
        }
    }

    /// Planes that are one window each.
    fn whole_planes<S: Simd>(self, simd: S) {
        let spec = &self.plan.spec;
        let len = spec.in_height() * spec.in_width();
        let input = &self.input[self.rows.start * len..self.rows.end * len];
        simd.vectorize(Planes::<R> { input, len, out: &mut *self.out, how: PhantomData });
        if R::DIVIDES {
            let divisor = self.plan.spans[0][0].counted * self.plan.spans[1][0].counted;
            self.out.iter_mut().for_each(|value| *value /= divisor);
        }
    }
}

/// Stores a vector of outputs, with `ROOM` a whole one, else as many lanes as there are outputs. Sums are divided by
/// `rows` times the counts of their columns.
///
/// # Safety
/// As many outputs as are stored are valid for writes, a vector of `counts` for reads.
#[inline(always)]
pub(super) unsafe fn finish<S: Simd, R: Reduction, const ROOM: bool>(
    simd: S,
    value: S::F32,
    (rows, counts): (f32, *const f32),
    out: *mut f32,
    outputs: usize,
) {
    // SAFETY: by the caller's promise.
    unsafe {
        let value = match R::DIVIDES {
            true => simd.div(value, simd.mul(simd.splat(rows), simd.load(counts))),
            false => value,
        };
        match ROOM {
            true => simd.store(out, value),
            false => simd.store_partial(out, value, outputs.min(S::LANES)),
        }
    }
}

/// A vector of the input, or what of it there is.
///
/// # Safety
/// With `WHOLE` the vector lies in the input.
#[inline(always)]
pub(super) unsafe fn load<S: Simd, const WHOLE: bool>(simd: S, input: &[f32], at: usize) -> S::F32 {
    let p = input.as_ptr().wrapping_add(at);
    // SAFETY: by the caller's promise, or no more lanes than there are.
    unsafe {
        match WHOLE {
            true => simd.load(p),
            false => simd.load_partial(p, input.len().saturating_sub(at).min(S::LANES)),
        }
    }
}
