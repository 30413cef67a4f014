//! Columns of windows of a [pooling](super) in NCHW, reduced over the windows' rows.

use std::ops::Range;

use super::PoolPlan;
use super::axis::{Axis, Span};
use super::buffered::{BUFFER, SLACK};
use super::planes_forward::load;
use super::reduction::{Doubt, Reduction};
use crate::simd::Simd;

/// Where columns come from.
pub(super) struct Source<'a> {
    input: &'a [f32],
    spans: &'a [Span],
    vertical: Axis,
    /// Rows of outputs whose windows have all their rows in the input.
    inner: Range<usize>,
    /// Columns of a plane, and those before them that are padding.
    width: usize,
    left: usize,
    /// f32s from one row of a window to the next.
    pitch: usize,
}

impl<'a> Source<'a> {
    pub(super) fn new(plan: &'a PoolPlan, input: &'a [f32]) -> Self {
        let (spec, vertical) = (&plan.spec, plan.spec.axis(0));
        Source {
            input,
            spans: &plan.spans[0],
            vertical,
            inner: vertical.inner(spec.out_height()),
            width: spec.in_width(),
            left: spec.padding().left,
            pitch: plan.vertical_pitch(),
        }
    }

    /// Reduces the rows of windows: `len` columns from `first` on, counted in the padded input, for some rows of
    /// outputs, to rows of the buffer that are `pitch` f32s apart. Returns whether there may be a NaN among them.
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "a buffer and its pitch, a range and where it is from")]
    pub(super) fn reduce<S: Simd, R: Reduction>(
        &self,
        simd: S,
        plane: usize,
        rows: Range<usize>,
        first: usize,
        len: usize,
        buffer: &mut [f32; BUFFER + SLACK],
        pitch: usize,
    ) -> bool {
        debug_assert!(
            pitch * (rows.len() - 1) + len <= BUFFER && (rows.len() == 1 || len + S::LANES <= pitch + 1)
        );
        let start = self.left.saturating_sub(first).min(len);
        let end = (self.width + self.left).saturating_sub(first).clamp(start, len);
        let columns = Columns {
            source: self,
            // Used only where there is a column.
            first: (plane * self.vertical.size * self.width + first + start).wrapping_sub(self.left),
            start,
            end,
            len,
            pitch,
        };
        let count = (end - start).next_multiple_of(S::LANES);
        // Windows come in their order, so do the ends of what they read.
        let whole = self.spans[rows.clone()].iter().rposition(|span| {
            let last = span.place * self.width + span.taps.saturating_sub(1) * self.pitch;
            start == end || columns.first + last + count <= self.input.len()
        });
        let middle = rows.start + whole.map_or(0, |last| last + 1);
        let (whole, rest) = (rows.start..middle, middle..rows.end);
        let first = buffer.as_mut_ptr();
        let last = first.wrapping_add(whole.len() * pitch);
        // SAFETY: the rows of the buffer lie in it, all their vectors as well, with the slack; all vectors of whole rows
        // are in the input.
        unsafe {
            let doubted = columns.reduce::<S, R::OfNumbers, R, true>(simd, whole.clone(), first);
            if doubted {
                columns.reduce::<S, R, R, true>(simd, whole, first);
            }
            columns.reduce::<S, R, R, false>(simd, rest, last) || doubted
        }
    }
}

/// Columns of windows to be reduced, those from `start` to `end` from the input, the others padding.
struct Columns<'a> {
    source: &'a Source<'a>,
    /// The f32 of column `start` in the first row of the plane.
    first: usize,
    start: usize,
    end: usize,
    len: usize,
    /// f32s from one row of the buffer to the next.
    pitch: usize,
}

impl Columns<'_> {
    /// Reduces the windows of rows of outputs by `Q`. Returns whether there may have been a NaN, which `R` cares about.
    ///
    /// # Safety
    /// Vectors that begin at one of `len` columns of each row of `buffer` are valid for writes; with `WHOLE` those that
    /// begin at columns `start` to `end` lie in the input.
    #[inline(always)]
    unsafe fn reduce<S: Simd, Q: Reduction, R: Reduction, const WHOLE: bool>(
        &self,
        simd: S,
        rows: Range<usize>,
        buffer: *mut f32,
    ) -> bool {
        let source = self.source;
        let mut doubt = Doubt::none(simd);
        let identity = simd.splat(R::IDENTITY);
        // SAFETY: by the caller's promise. What is stored beyond a part of a row is overwritten by the next part.
        unsafe {
            let start = source.inner.start.clamp(rows.start, rows.end);
            let inner = start..source.inner.end.clamp(start, rows.end);
            let to = |y: usize| buffer.wrapping_add((y - rows.start) * self.pitch);
            for y in rows.clone() {
                for column in (0..self.start).step_by(S::LANES) {
                    simd.store(to(y).add(column), identity);
                }
            }
            for y in rows.start..inner.start {
                self.row::<S, Q, R, WHOLE>(simd, source.spans[y], to(y), &mut doubt);
            }
            match (source.vertical.dilation, source.vertical.kernel, source.vertical.stride) {
                (1, 3, 1) => {
                    self.slide::<S, Q, R, 3, 1, WHOLE>(simd, inner.clone(), to(inner.start), &mut doubt)
                }
                (1, 3, 2) => {
                    self.slide::<S, Q, R, 3, 2, WHOLE>(simd, inner.clone(), to(inner.start), &mut doubt)
                }
                _ => {
                    for y in inner.clone() {
                        self.row::<S, Q, R, WHOLE>(simd, source.spans[y], to(y), &mut doubt);
                    }
                }
            }
            for y in inner.end..rows.end {
                self.row::<S, Q, R, WHOLE>(simd, source.spans[y], to(y), &mut doubt);
            }
            for y in rows.clone() {
                for column in (self.end..self.len).step_by(S::LANES) {
                    simd.store(to(y).add(column), identity);
                }
            }
        }
        doubt.remains::<R>(simd)
    }

    /// Reduces a row of windows, to `to`.
    ///
    /// # Safety
    /// As [`reduce`](Self::reduce).
    #[inline(always)]
    unsafe fn row<S: Simd, Q: Reduction, R: Reduction, const WHOLE: bool>(
        &self,
        simd: S,
        span: Span,
        to: *mut f32,
        doubt: &mut Doubt<S>,
    ) {
        let Source { input, width, pitch, .. } = *self.source;
        for column in (self.start..self.end).step_by(S::LANES) {
            let at = self.first + span.place * width + column - self.start;
            let mut sum = simd.splat(R::IDENTITY);
            for r in 0..span.taps {
                // SAFETY: by the caller's promise.
                let value = unsafe { load::<S, WHOLE>(simd, input, at + r * pitch) };
                doubt.see::<R>(simd, value);
                sum = Q::vectors(simd, sum, value);
            }
            // SAFETY: by the caller's promise.
            unsafe { simd.store(to.add(column), sum) };
        }
    }

    /// Reduces rows of windows of `ROWS` neighbouring rows of which two have all but `STRIDE`, to rows from `to` on.
    ///
    /// # Safety
    /// As [`reduce`](Self::reduce).
    #[inline(always)]
    unsafe fn slide<
        S: Simd,
        Q: Reduction,
        R: Reduction,
        const ROWS: usize,
        const STRIDE: usize,
        const WHOLE: bool,
    >(
        &self,
        simd: S,
        rows: Range<usize>,
        to: *mut f32,
        doubt: &mut Doubt<S>,
    ) {
        if rows.is_empty() {
            return;
        }
        let first = self.first + self.source.spans[rows.start].place * self.source.width;
        let (mut column, count) = (self.start, rows.len());
        while column < self.end {
            let (at, to) = (first + column - self.start, to.wrapping_add(column));
            // SAFETY: by the caller's promise.
            unsafe {
                if column + S::LANES < self.end {
                    self.vectors::<S, Q, R, ROWS, STRIDE, 2, WHOLE>(simd, at, count, to, doubt);
                    column += 2 * S::LANES;
                } else {
                    self.vectors::<S, Q, R, ROWS, STRIDE, 1, WHOLE>(simd, at, count, to, doubt);
                    column += S::LANES;
                }
            }
        }
    }

    /// V vectors of columns of [`slide`](Self::slide), from `at` on.
    ///
    /// # Safety
    /// As [`reduce`](Self::reduce).
    #[inline(always)]
    unsafe fn vectors<
        S: Simd,
        Q: Reduction,
        R: Reduction,
        const ROWS: usize,
        const STRIDE: usize,
        const V: usize,
        const WHOLE: bool,
    >(
        &self,
        simd: S,
        at: usize,
        count: usize,
        to: *mut f32,
        doubt: &mut Doubt<S>,
    ) {
        let Source { input, width, .. } = *self.source;
        let (mut at, mut to) = (at, to);
        let mut rows = [[simd.splat(R::IDENTITY); V]; ROWS];
        // SAFETY: by the caller's promise.
        unsafe {
            for row in rows.iter_mut().skip(STRIDE) {
                for (i, value) in row.iter_mut().enumerate() {
                    *value = load::<S, WHOLE>(simd, input, at + i * S::LANES);
                    doubt.see::<R>(simd, *value);
                }
                at += width;
            }
            for _ in 0..count {
                for r in 0..ROWS {
                    if r + STRIDE < ROWS {
                        rows[r] = rows[(r + STRIDE) % ROWS];
                        continue;
                    }
                    for (i, value) in rows[r].iter_mut().enumerate() {
                        *value = load::<S, WHOLE>(simd, input, at + i * S::LANES);
                    }
                    at += width;
                }
                for i in 0..V {
                    let (mut sum, mut seen) = (rows[0][i], Doubt::of(rows[ROWS - STRIDE][i]));
                    for (r, row) in rows.iter().enumerate().skip(1) {
                        sum = Q::vectors(simd, sum, row[i]);
                        if r > ROWS - STRIDE {
                            seen.see::<R>(simd, row[i]);
                        }
                    }
                    doubt.join::<R>(simd, seen);
                    simd.store(to.add(i * S::LANES), sum);
                }
                to = to.wrapping_add(self.pitch);
            }
        }
    }
}
