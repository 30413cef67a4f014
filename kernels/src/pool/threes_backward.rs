//! The way back of a [pooling](super) in NCHW by windows of 3×3 neighbouring pixels with stride 1 or 2, in registers.
//!
//! As [forward](super::threes), a vector of windows goes down the rows. What it gives to its columns adds up in registers
//! until the last row of windows that has them; what it shares with the vector beside, and with the rows above, lies in
//! the gradient already.

use std::ops::Range;

use super::planes_backward::Planes;
use super::strips::strips;
use super::threes::lanes;
use super::{PoolPlan, Pooling};
use crate::simd::{Simd, SimdOp};

/// f32s of the input under a strip: with their gradients they stay in the level-1 cache until all vectors have gone down.
const STRIP: usize = 2048;

/// Which stride a pooling has that is one of these.
pub(super) fn stride(plan: &PoolPlan) -> Option<usize> {
    let spec = &plan.spec;
    let [vertical, horizontal] = spec.stride();
    let suits = spec.kernel() == [3, 3] && spec.dilation() == [1, 1];
    (suits && vertical == horizontal && vertical <= 2).then_some(vertical)
}

/// Planes, whose gradients are the caller's alone.
pub(super) struct Threes<'a, const STRIDE: usize>(pub(super) Planes<'a>);

impl<S: Simd, const STRIDE: usize> SimdOp<S> for Threes<'_, STRIDE> {
    type Output = ();
    #[inline(always)]
    fn eval(self, simd: S) {
        match self.0.plan.pooling {
            Pooling::Max => planes::<S, STRIDE, true>(simd, self.0),
            Pooling::Average { .. } => planes::<S, STRIDE, false>(simd, self.0),
        }
    }
}

/// All planes; `MAX` says of which pooling.
#[inline(always)]
fn planes<S: Simd, const STRIDE: usize, const MAX: bool>(simd: S, planes: Planes<'_>) {
    let Planes { plan, input, grad_output, grad_input } = planes;
    let spec = &plan.spec;
    let (pixels, outputs) = (spec.in_height() * spec.in_width(), spec.out_height() * spec.out_width());
    let rows = 0..input.len() / pixels * spec.out_height();
    let most = (STRIP / (STRIDE * spec.in_width())).max(1);
    for strip in strips(rows, [spec.out_height(), spec.out_width()], [most, usize::MAX]) {
        let plane = strip.plane;
        let windows = Windows::<STRIDE> {
            plan,
            rows: strip.rows,
            input: &input[plane * pixels..][..pixels],
            grads: &grad_output[plane * outputs..][..outputs],
        };
        windows.compute::<S, MAX>(simd, &mut grad_input[plane * pixels..][..pixels]);
    }
}

/// Rows of windows of a plane.
struct Windows<'a, const STRIDE: usize> {
    plan: &'a PoolPlan,
    rows: Range<usize>,
    input: &'a [f32],
    grads: &'a [f32],
}

/// A vector of windows.
#[derive(Clone, Copy, Debug)]
struct Place<M> {
    /// The first one, and how many have all their columns in the vector, or the pair with stride 2.
    x: usize,
    count: usize,
    /// The first column, which may be padding.
    column: isize,
    /// Lanes of windows that count.
    windows: M,
    /// Lanes of each vector of columns that are no padding, and those that another vector has given to before.
    inside: [M; 2],
    shared: [M; 2],
}

impl<const STRIDE: usize> Windows<'_, STRIDE> {
    /// Computes the rows of `to`, a plane, that these windows have, and those beside that none has.
    #[inline(always)]
    fn compute<S: Simd, const MAX: bool>(&self, simd: S, to: &mut [f32]) {
        let spec = &self.plan.spec;
        let (width, outputs, left) = (spec.in_width(), spec.out_width(), spec.padding().left as isize);
        let spans = &self.plan.spans[0];
        let touched = self.rows.start.checked_sub(1).map_or(0, |y| spans[y].place + spans[y].taps);
        let last = spans[self.rows.end - 1];
        if self.rows.end == spec.out_height() {
            to[(last.place + last.taps) * width..].fill(0.0);
        }
        let complete = if STRIDE == 1 { S::LANES - 2 } else { S::LANES - 1 };
        let mut begun = 0;
        for x in (0..outputs).step_by(complete) {
            let column = (x * STRIDE) as isize - left;
            let count = complete.min(outputs - x);
            // Columns that the windows have.
            let end = column + (STRIDE * (count - 1)) as isize + 3;
            let second = column + S::LANES as isize;
            let place = Place {
                x,
                count,
                column,
                windows: simd.mask(0, count),
                inside: [lanes(simd, column, width as isize), lanes(simd, second, width as isize)],
                shared: [lanes(simd, column, begun), lanes(simd, second, begun)],
            };
            let whole = column >= 0 && column + (STRIDE * S::LANES) as isize <= width as isize;
            begun = end;
            // SAFETY: the plane and its gradient are as large as the plan says; columns beyond their rows are masked, or
            // `WHOLE` ones lie in them.
            unsafe {
                match whole {
                    true => self.columns::<S, MAX, true>(simd, place, touched, to),
                    false => self.columns::<S, MAX, false>(simd, place, touched, to),
                }
            }
        }
        // Columns behind the last window.
        let end = usize::try_from(begun).unwrap_or(0);
        if end < width {
            for row in touched..last.place + last.taps {
                to[row * width..][end..width].fill(0.0);
            }
        }
    }

    /// Computes the columns of a vector of windows in all rows, of which those below `touched` have been given to from
    /// the rows above.
    ///
    /// # Safety
    /// The lanes of the place's masks lie in the rows of the plane and of `to`; with `WHOLE` all its columns do.
    #[inline(always)]
    unsafe fn columns<S: Simd, const MAX: bool, const WHOLE: bool>(
        &self,
        simd: S,
        place: Place<S::Mask>,
        touched: usize,
        to: &mut [f32],
    ) {
        let spec = &self.plan.spec;
        let to = to.as_mut_ptr();
        // The next row of the plane, which may be padding.
        let mut next = (self.rows.start * STRIDE) as isize - spec.padding().top as isize;
        // SAFETY: by the caller's promise; gradients of windows and tables of their columns have a vector from each of
        // `count` windows on, the tables beyond their ends.
        unsafe {
            let firsts = simd.load(self.plan.firsts[place.x..][..S::LANES].as_ptr());
            let counts = simd.load(self.plan.counts[place.x..][..S::LANES].as_ptr());
            let mut taps = [[simd.splat(f32::NEG_INFINITY); 3]; 3];
            let mut sums = [[simd.splat(0.0); STRIDE]; 3];
            for r in 0..3 - STRIDE {
                if MAX {
                    taps[r + STRIDE] = self.taps::<S, WHOLE>(simd, next + r as isize, place);
                }
                sums[r + STRIDE] = self.given::<S, WHOLE>(simd, next + r as isize, place, touched, to);
            }
            for y in self.rows.clone() {
                for r in 0..3 {
                    if r + STRIDE < 3 {
                        (taps[r], sums[r]) = (taps[(r + STRIDE) % 3], sums[(r + STRIDE) % 3]);
                    } else {
                        if MAX {
                            taps[r] = self.taps::<S, WHOLE>(simd, next + r as isize, place);
                        }
                        sums[r] = self.given::<S, WHOLE>(simd, next + r as isize, place, touched, to);
                    }
                }
                let grads = self.grads[y * spec.out_width() + place.x..][..place.count].as_ptr();
                let grad = simd.load_partial(grads, place.count);
                if MAX {
                    let takers = self.takers(simd, &taps, next, firsts, place.windows);
                    let (grad, takers) = (beside::<S, STRIDE>(simd, grad), beside::<S, STRIDE>(simd, takers));
                    for r in 0..3 {
                        for s in 0..3 {
                            let number = simd.splat((3 * r + s) as f32);
                            let sum = &mut sums[r][s % STRIDE];
                            *sum = simd.add_where_equal(*sum, grad[s], takers[s], number);
                        }
                    }
                } else {
                    let divisor = simd.mul(simd.splat(self.plan.spans[0][y].counted), counts);
                    let share = beside::<S, STRIDE>(simd, simd.div(grad, divisor));
                    for s in 0..3 {
                        for sum in &mut sums {
                            sum[s % STRIDE] = simd.add(sum[s % STRIDE], share[s]);
                        }
                    }
                }
                let last = y + 1 == self.rows.end;
                for (r, sums) in sums.into_iter().enumerate() {
                    if r < STRIDE || last {
                        self.store::<S, WHOLE>(simd, next + r as isize, place, sums, to);
                    }
                }
                next += STRIDE as isize;
            }
        }
    }

    /// The three taps of a row of windows, side by side; padding is −∞.
    ///
    /// # Safety
    /// As [`columns`](Self::columns).
    #[inline(always)]
    unsafe fn taps<S: Simd, const WHOLE: bool>(
        &self,
        simd: S,
        row: isize,
        place: Place<S::Mask>,
    ) -> [S::F32; 3] {
        let spec = &self.plan.spec;
        let padding = simd.splat(f32::NEG_INFINITY);
        if row < 0 || row >= spec.in_height() as isize {
            return [padding; 3];
        }
        let p = self.input.as_ptr().wrapping_offset(row * spec.in_width() as isize + place.column);
        let mut columns = [padding; 2];
        for (i, column) in columns.iter_mut().enumerate().take(STRIDE) {
            let p = p.wrapping_add(i * S::LANES);
            // SAFETY: by the caller's promise.
            *column = unsafe {
                match WHOLE {
                    true => simd.load(p),
                    false => simd.load_masked_or(p, place.inside[i], padding),
                }
            };
        }
        if STRIDE == 1 {
            return [columns[0], simd.moved::<1>(columns[0]), simd.moved::<2>(columns[0])];
        }
        let (even, odd) = simd.unzip(columns[0], columns[1]);
        [even, odd, simd.moved::<1>(even)]
    }

    /// Which tap of each window is the first of the largest, counted row by row; the first one is in `row`.
    #[inline(always)]
    fn takers<S: Simd>(
        &self,
        simd: S,
        taps: &[[S::F32; 3]; 3],
        row: isize,
        firsts: S::F32,
        windows: S::Mask,
    ) -> S::F32 {
        let (mut largest, mut seen) = (taps[0][0], taps[0][0]);
        for number in 1..9 {
            let tap = taps[number / 3][number % 3];
            largest = simd.max_of_numbers(largest, tap);
            seen = simd.add(seen, tap);
        }
        // A sum shows NaN, and the largest one multiplied by 0 infinity: −∞ is what padding has as well.
        if simd.has_nan_in(simd.mul_add(largest, simd.splat(0.0), seen), windows) {
            let top = usize::try_from(-row).unwrap_or(0);
            let mut so_far = (simd.splat(f32::NEG_INFINITY), simd.add(firsts, simd.splat(3.0 * top as f32)));
            for number in 0..9 {
                so_far = simd.larger(so_far, taps[number / 3][number % 3], simd.splat(number as f32));
            }
            return so_far.1;
        }
        let mut taker = simd.splat(8.0);
        for number in (0..8).rev() {
            let tap = taps[number / 3][number % 3];
            taker = simd.where_equal(tap, largest, simd.splat(number as f32), taker);
        }
        taker
    }

    /// What a row's columns have been given by other vectors and from rows above `touched`.
    ///
    /// # Safety
    /// As [`columns`](Self::columns).
    #[inline(always)]
    unsafe fn given<S: Simd, const WHOLE: bool>(
        &self,
        simd: S,
        row: isize,
        place: Place<S::Mask>,
        touched: usize,
        to: *const f32,
    ) -> [S::F32; STRIDE] {
        let spec = &self.plan.spec;
        let zero = simd.splat(0.0);
        if row < 0 || row >= spec.in_height() as isize {
            return [zero; STRIDE];
        }
        let p = to.wrapping_offset(row * spec.in_width() as isize + place.column);
        let mut columns = [zero; STRIDE];
        for (i, column) in columns.iter_mut().enumerate() {
            let p = p.wrapping_add(i * S::LANES);
            // SAFETY: by the caller's promise.
            *column = unsafe {
                match (row < touched as isize, WHOLE) {
                    (false, _) => simd.load_masked(p, place.shared[i]),
                    (true, false) => simd.load_masked(p, place.inside[i]),
                    (true, true) => simd.load(p),
                }
            };
        }
        if STRIDE == 2 {
            (columns[0], columns[STRIDE - 1]) = simd.unzip(columns[0], columns[STRIDE - 1]);
        }
        columns
    }

    /// Stores a row's columns.
    ///
    /// # Safety
    /// As [`columns`](Self::columns).
    #[inline(always)]
    unsafe fn store<S: Simd, const WHOLE: bool>(
        &self,
        simd: S,
        row: isize,
        place: Place<S::Mask>,
        sums: [S::F32; STRIDE],
        to: *mut f32,
    ) {
        let spec = &self.plan.spec;
        if row < 0 || row >= spec.in_height() as isize {
            return;
        }
        let mut columns = sums;
        if STRIDE == 2 {
            let (even, odd) = (simd.mixed(sums[0]), simd.mixed(sums[STRIDE - 1]));
            (columns[0], columns[STRIDE - 1]) = simd.zip_mixed(even, odd);
        }
        let p = to.wrapping_offset(row * spec.in_width() as isize + place.column);
        for (i, column) in columns.into_iter().enumerate() {
            let p = p.wrapping_add(i * S::LANES);
            // SAFETY: by the caller's promise.
            unsafe {
                match WHOLE {
                    true => simd.store(p, column),
                    false => simd.store_masked(p, column, place.inside[i]),
                }
            }
        }
    }
}

/// What windows have for their three columns each, in the lanes of those columns, or, with stride 2, of pairs of them.
#[inline(always)]
fn beside<S: Simd, const STRIDE: usize>(simd: S, v: S::F32) -> [S::F32; 3] {
    match STRIDE {
        1 => [v, simd.raised::<1>(v), simd.raised::<2>(v)],
        _ => [v, v, simd.raised::<1>(v)],
    }
}
