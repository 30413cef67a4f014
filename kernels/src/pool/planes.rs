//! The way back of a [pooling](super) in NCHW: vectors of windows.

use std::ops::Range;

use super::forward::{BUFFER, Largest, Reduction, SLACK};
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
        let is_max = self.plan.pooling == Pooling::Max;
        if !is_max && spec.axis(1).extent() <= BUFFER {
            let mut buffers = [[0.0; BUFFER + SLACK]; 2];
            for y in 0..spec.out_height() {
                self.spread(simd, y, &mut buffers);
            }
            return;
        }
        let inner = match spec.stride()[1] {
            1 | 2 if is_max => spec.axis(1).inner(spec.out_width()),
            _ => 0..0,
        };
        // A vector of a few windows takes longer than they do one by one.
        let inner = if inner.len() < S::LANES / 4 { 0..0 } else { inner };
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
                let counted = vertical.counted(y, self.plan.pooling.counts_padding());
                let share = grad / divisor(counted, self.plan.columns[x]);
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

    /// Shares a row of gradients among the columns of their windows, in a buffer, and adds it to all of their rows.
    #[inline(always)]
    fn spread<S: Simd>(&mut self, simd: S, y: usize, [shares, columns]: &mut [[f32; BUFFER + SLACK]; 2]) {
        let spec = &self.plan.spec;
        let (vertical, axis, width) = (spec.axis(0), spec.axis(1), spec.in_width());
        let rows = vertical.taps(y);
        if rows.is_empty() {
            return;
        }
        let counted = vertical.counted(y, self.plan.pooling.counts_padding());
        let grads = &self.grad_output[y * spec.out_width()..][..spec.out_width()];
        // As many windows as the buffer holds.
        let most = (BUFFER - axis.extent()) / axis.stride + 1;
        for (block, grads) in grads.chunks(most).enumerate() {
            let first = block * most;
            let counts = &self.plan.columns[first..];
            for ((share, grad), columns) in shares.iter_mut().zip(grads).zip(counts) {
                *share = grad / divisor(counted, *columns);
            }
            let span = (grads.len() - 1) * axis.stride + axis.extent();
            columns[..span].fill(0.0);
            let pairs = axis.stride == 2 && axis.dilation == 1;
            for tap in (0..axis.kernel).step_by(if pairs { 2 } else { 1 }) {
                let to = &mut columns[tap * axis.dilation..];
                let both = tap + 1 < axis.kernel;
                match axis.stride {
                    1 => to.iter_mut().zip(&shares[..grads.len()]).for_each(|(to, share)| *to += share),
                    2 if pairs => add_pairs(simd, &shares[..grads.len()], both, to),
                    stride => {
                        let to = to.iter_mut().step_by(stride);
                        to.zip(&shares[..grads.len()]).for_each(|(to, share)| *to += share);
                    }
                }
            }
            // Those that are in the input.
            let (start, left) = (first * axis.stride, spec.padding().left);
            let clipped =
                left.saturating_sub(start).min(span)..(width + left).saturating_sub(start).min(span);
            if clipped.is_empty() {
                continue;
            }
            let at = start + clipped.start - left;
            for row in rows.clone() {
                let to = &mut self.grad_input[vertical.place(y, row) * width + at..][..clipped.len()];
                to.iter_mut().zip(&columns[clipped.clone()]).for_each(|(to, column)| *to += column);
            }
        }
    }

    /// Maxima of windows x to x + count, a vector at most, whose columns are all in the input; the stride is `STRIDE`,
    /// 1 or 2.
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
        let last = taps.first + (taps.rows - 1) * taps.row + (taps.columns - 1) * taps.column;
        // SAFETY: both planes have `len` f32s, the gradient's is this one's alone, and all taps lie there; whole vectors
        // from the last one on do where they are used.
        unsafe {
            match last + STRIDE * S::LANES <= taps.len {
                true => taps.to_largest::<S, STRIDE, true>(simd, grad),
                false => taps.to_largest::<S, STRIDE, false>(simd, grad),
            }
        }
    }
}

/// Adds each value to two places, or to the first of each two.
#[inline(always)]
fn add_pairs<S: Simd>(simd: S, values: &[f32], both: bool, to: &mut [f32]) {
    let zero = simd.splat(0.0);
    for (values, to) in values.chunks(S::LANES).zip(to.chunks_mut(2 * S::LANES)) {
        // SAFETY: as many lanes as there are values, and places.
        unsafe {
            let values = simd.mixed(simd.load_partial(values.as_ptr(), values.len()));
            let (a, b) = simd.zip_mixed(values, if both { values } else { zero });
            for (i, v) in [a, b].into_iter().enumerate() {
                let at = (i * S::LANES).min(to.len());
                let lanes = S::LANES.min(to.len() - at);
                let p = to.as_mut_ptr().add(at);
                simd.store_partial(p, simd.add(simd.load_partial(p, lanes), v), lanes);
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
}
