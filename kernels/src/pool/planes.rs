//! The way back of a [pooling](super) in NCHW: vectors of windows.

use std::ops::Range;

use super::forward::{Largest, Reduction};
use super::{PoolPlan, Pooling, divisor};
use crate::simd::{Simd, SimdOp};

/// A plane, whose gradient belongs to it alone.
pub(super) struct Plane<'a> {
    pub(super) plan: &'a PoolPlan,
    pub(super) input: &'a [f32],
    pub(super) grad_output: &'a [f32],
    pub(super) grad_input: &'a mut [f32],
}

impl<S: Simd> SimdOp<S> for Plane<'_> {
    type Output = ();
    #[inline(always)]
    fn eval(mut self, simd: S) {
        let spec = &self.plan.spec;
        self.grad_input.fill(0.0);
        let inner = match spec.stride()[1] {
            1 | 2 => spec.axis(1).inner(spec.out_width()),
            _ => 0..0,
        };
        for y in 0..spec.out_height() {
            let rows = spec.axis(0).taps(y);
            if rows.is_empty() {
                continue;
            }
            let mut x = 0;
            while x < spec.out_width() {
                if !inner.contains(&x) {
                    self.window(y, x, &rows);
                    x += 1;
                    continue;
                }
                let count = S::LANES.min(inner.end - x);
                match spec.stride()[1] {
                    1 => self.windows::<S, 1>(simd, y, x, count, &rows),
                    _ => self.windows::<S, 2>(simd, y, x, count, &rows),
                }
                x += count;
            }
        }
    }
}

impl Plane<'_> {
    /// A window whose `rows` are in the input.
    #[inline(always)]
    fn window(&mut self, y: usize, x: usize, rows: &Range<usize>) {
        let spec = &self.plan.spec;
        let (vertical, horizontal, width) = (spec.axis(0), spec.axis(1), spec.in_width());
        let columns = horizontal.taps(x);
        if columns.is_empty() {
            return;
        }
        let grad = self.grad_output[y * spec.out_width() + x];
        let first = vertical.place(y, rows.start) * width + horizontal.place(x, columns.start);
        // The window's pixels in the plane; the last one is there, so nothing overflows.
        let row = |r: usize| first + r * vertical.dilation * width;
        let reach = (columns.len() - 1) * horizontal.dilation + 1;
        match self.plan.pooling {
            Pooling::Max => {
                let (mut largest, mut place) = (self.input[first], first);
                for r in 0..rows.len() {
                    let pixels = self.input[row(r)..][..reach].iter().step_by(horizontal.dilation);
                    for (s, &value) in pixels.enumerate() {
                        if value > largest || (value.is_nan() && !largest.is_nan()) {
                            (largest, place) = (value, row(r) + s * horizontal.dilation);
                        }
                    }
                }
                self.grad_input[place] += grad;
            }
            Pooling::Average { .. } => {
                let share = grad / self.divisor(y, x);
                for r in 0..rows.len() {
                    let pixels = &mut self.grad_input[row(r)..][..reach];
                    match horizontal.dilation {
                        1 => pixels.iter_mut().for_each(|pixel| *pixel += share),
                        apart => pixels.iter_mut().step_by(apart).for_each(|pixel| *pixel += share),
                    }
                }
            }
        }
    }

    /// What the average of a window is divided by.
    #[inline(always)]
    fn divisor(&self, y: usize, x: usize) -> f32 {
        let counted = self.plan.spec.axis(0).counted(y, self.plan.pooling.counts_padding());
        divisor(counted, self.plan.columns[x])
    }

    /// Windows x to x + count, a vector at most, whose columns are all in the input; the stride is `STRIDE`, 1 or 2.
    #[inline(always)]
    fn windows<S: Simd, const STRIDE: usize>(
        &mut self,
        simd: S,
        y: usize,
        x: usize,
        count: usize,
        rows: &Range<usize>,
    ) {
        let spec = &self.plan.spec;
        let (vertical, horizontal, width) = (spec.axis(0), spec.axis(1), spec.in_width());
        let taps = Taps {
            first: vertical.place(y, rows.start) * width + horizontal.place(x, 0),
            rows: rows.len(),
            row: vertical.dilation.wrapping_mul(width),
            columns: horizontal.kernel,
            column: horizontal.dilation,
            input: self.input.as_ptr(),
            grads: self.grad_input.as_mut_ptr(),
            len: self.input.len(),
        };
        let grads = &self.grad_output[y * spec.out_width() + x..][..count];
        // SAFETY: as many lanes as there are gradients.
        let grad = unsafe { simd.load_partial(grads.as_ptr(), count) };
        let grad = if STRIDE == 2 { simd.mixed(grad) } else { grad };
        let share = match self.plan.pooling {
            Pooling::Max => None,
            Pooling::Average { .. } => Some(simd.mul(grad, simd.splat(1.0 / self.divisor(y, x)))),
        };
        let last = taps.first + (taps.rows - 1) * taps.row + (taps.columns - 1) * taps.column;
        // SAFETY: both planes have `len` f32s, the gradient's is this one's alone, and all taps lie there; whole vectors
        // from the last one on do where they are used.
        unsafe {
            match (share, last + STRIDE * S::LANES <= taps.len) {
                (None, true) => taps.to_largest::<S, STRIDE, true>(simd, grad),
                (None, false) => taps.to_largest::<S, STRIDE, false>(simd, grad),
                (Some(share), true) => taps.to_all::<S, STRIDE, true>(simd, share),
                (Some(share), false) => taps.to_all::<S, STRIDE, false>(simd, share),
            }
        }
    }
}

/// Taps of a vector of windows in a plane. What lies beyond the last window is read, and zeros are added to it.
struct Taps {
    /// The first window's first tap.
    first: usize,
    rows: usize,
    /// f32s from one row of the windows to the next.
    row: usize,
    columns: usize,
    /// f32s from one tap of a row to the next.
    column: usize,
    input: *const f32,
    grads: *mut f32,
    /// f32s of both planes.
    len: usize,
}

impl Taps {
    /// Lanes of a vector that starts at `at`.
    #[inline(always)]
    fn lanes<S: Simd>(&self, at: usize) -> usize {
        S::LANES.min(self.len.saturating_sub(at))
    }

    /// Pixels of a tap in all windows, and with stride 2 those beside them.
    ///
    /// # Safety
    /// `input` has `len` f32s; with `WHOLE` as many vectors from `at` on as the stride.
    #[inline(always)]
    unsafe fn pixels<S: Simd, const STRIDE: usize, const WHOLE: bool>(
        &self,
        simd: S,
        at: usize,
    ) -> (S::F32, S::F32) {
        debug_assert!(!WHOLE || at + STRIDE * S::LANES <= self.len);
        let p = self.input.wrapping_add(at);
        // SAFETY: by the caller's promise, and no more lanes than the plane has.
        unsafe {
            let first = if WHOLE { simd.load(p) } else { simd.load_partial(p, self.lanes::<S>(at)) };
            if STRIDE == 1 {
                return (first, first);
            }
            let (p, at) = (p.wrapping_add(S::LANES), at + S::LANES);
            let second = if WHOLE { simd.load(p) } else { simd.load_partial(p, self.lanes::<S>(at)) };
            simd.unzip_mixed(first, second)
        }
    }

    /// Adds to the gradients of a tap, and with stride 2 of those beside it.
    ///
    /// # Safety
    /// As [`pixels`](Self::pixels), of `grads`, which nobody else touches.
    #[inline(always)]
    unsafe fn add<S: Simd, const STRIDE: usize, const WHOLE: bool>(
        &self,
        simd: S,
        at: usize,
        (here, beside): (S::F32, S::F32),
    ) {
        debug_assert!(!WHOLE || at + STRIDE * S::LANES <= self.len);
        let both = if STRIDE == 1 { (here, beside) } else { simd.zip_mixed(here, beside) };
        for (i, v) in [both.0, both.1].into_iter().enumerate().take(STRIDE) {
            let at = at + i * S::LANES;
            let p = self.grads.wrapping_add(at);
            // SAFETY: by the caller's promise, and no more lanes than the plane has.
            unsafe {
                if WHOLE {
                    simd.store(p, simd.add(simd.load(p), v));
                } else {
                    let lanes = self.lanes::<S>(at);
                    simd.store_partial(p, simd.add(simd.load_partial(p, lanes), v), lanes);
                }
            }
        }
    }

    /// Taps that one pair of vectors has: those of stride 2 that are neighbours come in pairs.
    #[inline(always)]
    fn together<const STRIDE: usize>(&self) -> usize {
        if STRIDE == 2 && self.column == 1 { 2 } else { 1 }
    }

    /// Adds each window's gradient to that of its first largest pixel.
    ///
    /// # Safety
    /// `input` and `grads` have `len` f32s, the latter nobody else touches, and all taps lie there; with `WHOLE` as
    /// many vectors from the last one on as the stride.
    #[inline(always)]
    unsafe fn to_largest<S: Simd, const STRIDE: usize, const WHOLE: bool>(&self, simd: S, grad: S::F32) {
        let together = self.together::<STRIDE>();
        let mut largest = simd.splat(Largest::IDENTITY);
        let zero = simd.splat(0.0);
        // SAFETY: no tap is beyond the last one, by the caller's promise.
        unsafe {
            for r in 0..self.rows {
                for s in (0..self.columns).step_by(together) {
                    let at = self.first + r * self.row + s * self.column;
                    let (here, beside) = self.pixels::<S, STRIDE, WHOLE>(simd, at);
                    largest = simd.max(largest, here);
                    if together == 2 && s + 1 < self.columns {
                        largest = simd.max(largest, beside);
                    }
                }
            }
            // What has found no place yet.
            let mut rest = grad;
            for r in 0..self.rows {
                for s in (0..self.columns).step_by(together) {
                    let at = self.first + r * self.row + s * self.column;
                    let (here, beside) = self.pixels::<S, STRIDE, WHOLE>(simd, at);
                    let to_here = simd.select_same(here, largest, rest, zero);
                    rest = simd.select_same(here, largest, zero, rest);
                    let mut to_beside = zero;
                    if together == 2 && s + 1 < self.columns {
                        to_beside = simd.select_same(beside, largest, rest, zero);
                        rest = simd.select_same(beside, largest, zero, rest);
                    }
                    self.add::<S, STRIDE, WHOLE>(simd, at, (to_here, to_beside));
                }
            }
        }
    }

    /// Adds each window's share to the gradients of all its pixels.
    ///
    /// # Safety
    /// As [`to_largest`](Self::to_largest).
    #[inline(always)]
    unsafe fn to_all<S: Simd, const STRIDE: usize, const WHOLE: bool>(&self, simd: S, share: S::F32) {
        let together = self.together::<STRIDE>();
        for r in 0..self.rows {
            for s in (0..self.columns).step_by(together) {
                let both = together == 2 && s + 1 < self.columns;
                let beside = if both { share } else { simd.splat(0.0) };
                let at = self.first + r * self.row + s * self.column;
                // SAFETY: by the caller's promise.
                unsafe { self.add::<S, STRIDE, WHOLE>(simd, at, (share, beside)) };
            }
        }
    }
}
