//! Rows of outputs of a [pooling](super) in NCHW by windows of 3×3 neighbouring pixels with stride 1 or 2, in registers.
//!
//! A vector of columns, or a pair with stride 2, goes down the rows: what two windows have in common is loaded once. Its
//! columns then are reduced by moving lanes, so that of the windows which begin in it the last one or two come with the
//! next vector.

use std::marker::PhantomData;
use std::ops::Range;

use super::axis::{Axis, Span};
use super::forward::Rows;
use super::planes_forward::finish;
use super::reduction::{Doubt, Reduction};
use super::strips::strips;
use crate::simd::{Simd, SimdOp};

/// f32s of the input under a strip: they stay in the level-1 cache until all vectors have gone down.
const STRIP: usize = 4096;

/// 3×3 windows, with the same stride on both axes.
pub(super) struct Threes<'a, R, const STRIDE: usize>(pub(super) Rows<'a, R>);

impl<S: Simd, R: Reduction, const STRIDE: usize> SimdOp<S> for Threes<'_, R, STRIDE> {
    type Output = ();
    #[inline(always)]
    fn eval(self, simd: S) {
        let Rows { plan, input, rows, out, .. } = self.0;
        let spec = &plan.spec;
        let (outputs, width) = (spec.out_width(), spec.in_width());
        let most = (STRIP / (STRIDE * width)).max(1);
        let mut out = out;
        for strip in strips(rows, [spec.out_height(), outputs], [most, usize::MAX]) {
            let pixels = spec.in_height() * width;
            let windows = Windows::<R, STRIDE> {
                plane: &input[strip.plane * pixels..][..pixels],
                vertical: spec.axis(0),
                horizontal: spec.axis(1),
                spans: &plan.spans[0],
                rows: strip.rows.clone(),
                counts: &plan.counts,
                outputs,
                how: PhantomData,
            };
            windows.compute(simd, out);
            out = &mut out[strip.rows.len() * outputs..];
        }
    }
}

/// Rows of outputs of a plane.
struct Windows<'a, R, const STRIDE: usize> {
    plane: &'a [f32],
    vertical: Axis,
    horizontal: Axis,
    spans: &'a [Span],
    rows: Range<usize>,
    counts: &'a [f32],
    /// Outputs of a row.
    outputs: usize,
    how: PhantomData<R>,
}

/// Columns of the plane that a vector of outputs is made of.
#[derive(Clone, Copy, Debug)]
struct Place<M> {
    /// The first output.
    x: usize,
    /// The first column, which may be padding.
    column: isize,
    /// Lanes that are no padding.
    masks: [M; 2],
}

impl<R: Reduction, const STRIDE: usize> Windows<'_, R, STRIDE> {
    /// Computes the first outputs of `out`.
    #[inline(always)]
    fn compute<S: Simd>(&self, simd: S, out: &mut [f32]) {
        assert!(self.outputs * self.rows.len() <= out.len() && self.outputs + S::LANES <= self.counts.len());
        let width = self.horizontal.size as isize;
        // Windows that have all their columns in a vector, or in two.
        let complete = if STRIDE == 1 { S::LANES - 2 } else { S::LANES - 1 };
        for x in (0..self.outputs).step_by(complete) {
            let column = (x * STRIDE) as isize - self.horizontal.before as isize;
            let masks = [lanes(simd, column, width), lanes(simd, column + S::LANES as isize, width)];
            let place = Place { x, column, masks };
            let inside = column >= 0 && column + (STRIDE * S::LANES) as isize <= width;
            let room = x + S::LANES <= self.outputs;
            let out = out.as_mut_ptr();
            // SAFETY: there are as many outputs and counts; with `INSIDE` all columns are in the plane's rows, with `ROOM`
            // a vector of outputs is in its row.
            unsafe {
                match (inside, room) {
                    (true, true) => self.doubtful::<S, true, true>(simd, place, out),
                    (true, false) => self.doubtful::<S, true, false>(simd, place, out),
                    (false, true) => self.doubtful::<S, false, true>(simd, place, out),
                    (false, false) => self.doubtful::<S, false, false>(simd, place, out),
                }
            }
        }
    }

    /// A vector of outputs in all rows, once more if there may be a NaN.
    ///
    /// # Safety
    /// As [`vectors`](Self::vectors).
    #[inline(always)]
    unsafe fn doubtful<S: Simd, const INSIDE: bool, const ROOM: bool>(
        &self,
        simd: S,
        place: Place<S::Mask>,
        out: *mut f32,
    ) {
        // SAFETY: by the caller's promise.
        unsafe {
            if self.vectors::<S, R::OfNumbers, INSIDE, ROOM>(simd, place, out) {
                self.vectors::<S, R, INSIDE, ROOM>(simd, place, out);
            }
        }
    }

    /// A vector of outputs in all rows, by `Q`. Those of its lanes whose windows reach beyond its columns are anything
    /// afterwards. Returns whether there may have been a NaN.
    ///
    /// # Safety
    /// All outputs are valid for writes, a vector of counts from the place's output on for reads. With `INSIDE` all its
    /// columns lie in the plane's rows, with `ROOM` a vector of outputs in its row.
    #[inline(always)]
    unsafe fn vectors<S: Simd, Q: Reduction, const INSIDE: bool, const ROOM: bool>(
        &self,
        simd: S,
        place: Place<S::Mask>,
        out: *mut f32,
    ) -> bool {
        let mut doubt = Doubt::none(simd);
        let mut rows = [[simd.splat(R::IDENTITY); STRIDE]; 3];
        // The next row of the plane, which may be padding.
        let mut next = (self.rows.start * STRIDE) as isize - self.vertical.before as isize;
        // SAFETY: by the caller's promise.
        unsafe {
            for row in rows.iter_mut().skip(STRIDE) {
                *row = self.load::<S, INSIDE>(simd, next, place);
                for value in row {
                    doubt.see::<R>(simd, *value);
                }
                next += 1;
            }
            for (i, y) in self.rows.clone().enumerate() {
                for r in 0..3 {
                    if r + STRIDE < 3 {
                        rows[r] = rows[(r + STRIDE) % 3];
                    } else {
                        rows[r] = self.load::<S, INSIDE>(simd, next, place);
                        next += 1;
                    }
                }
                let mut columns = rows[0];
                for v in 0..STRIDE {
                    let mut seen = Doubt::of(rows[3 - STRIDE][v]);
                    for (r, row) in rows.iter().enumerate().skip(1) {
                        columns[v] = Q::vectors(simd, columns[v], row[v]);
                        if r > 3 - STRIDE {
                            seen.see::<R>(simd, row[v]);
                        }
                    }
                    doubt.join::<R>(simd, seen);
                }
                let sum = self.columns::<S, Q>(simd, columns);
                let (out, counts) = (out.add(i * self.outputs + place.x), self.counts.as_ptr().add(place.x));
                let counted = self.spans[y].counted;
                finish::<S, Q, ROOM>(simd, sum, (counted, counts), out, self.outputs - place.x);
            }
        }
        doubt.remains::<R>(simd)
    }

    /// Columns of a row of the plane; padding changes nothing.
    ///
    /// # Safety
    /// As [`vectors`](Self::vectors).
    #[inline(always)]
    unsafe fn load<S: Simd, const INSIDE: bool>(
        &self,
        simd: S,
        row: isize,
        place: Place<S::Mask>,
    ) -> [S::F32; STRIDE] {
        let identity = simd.splat(R::IDENTITY);
        let mut columns = [identity; STRIDE];
        if row < 0 || row >= self.vertical.size as isize {
            return columns;
        }
        let at = row * self.horizontal.size as isize + place.column;
        let first = self.plane.as_ptr().wrapping_offset(at);
        for (i, column) in columns.iter_mut().enumerate() {
            let p = first.wrapping_add(i * S::LANES);
            // SAFETY: by the caller's promise, or only lanes that are in the row.
            *column = unsafe {
                match INSIDE {
                    true => simd.load(p),
                    false => simd.load_masked_or(p, place.masks[i], identity),
                }
            };
        }
        columns
    }

    /// Reduces the columns of windows that begin in a vector.
    #[inline(always)]
    fn columns<S: Simd, Q: Reduction>(&self, simd: S, columns: [S::F32; STRIDE]) -> S::F32 {
        if STRIDE == 1 {
            let column = columns[0];
            let two = Q::vectors(simd, column, simd.moved::<1>(column));
            return Q::vectors(simd, two, simd.moved::<2>(column));
        }
        let (even, odd) = simd.unzip_mixed(columns[0], columns[STRIDE - 1]);
        let two = simd.in_order::<0>(Q::vectors(simd, even, odd));
        Q::vectors(simd, two, simd.in_order::<1>(even))
    }
}

/// The lanes of a vector from `column` on that are among so many columns.
#[inline(always)]
pub(super) fn lanes<S: Simd>(simd: S, column: isize, width: isize) -> S::Mask {
    let start = usize::try_from(-column).unwrap_or(0);
    simd.mask(start, usize::try_from(width - column).unwrap_or(0).max(start))
}
