//! Rows of outputs of a [pooling](super) in NHWC: vectors of channels.

use std::marker::PhantomData;
use std::ops::Range;

use super::PoolPlan;
use super::axis::Span;
use super::forward::Rows;
use super::reduction::Reduction;
use crate::simd::{Simd, SimdOp};

/// Vectors of channels that are computed together where there are as many.
const TOGETHER: usize = 4;

/// Rows of outputs in NHWC.
pub(super) struct Pixels<'a, R>(pub(super) Rows<'a, R>);

impl<S: Simd, R: Reduction> SimdOp<S> for Pixels<'_, R> {
    type Output = ();
    #[inline(always)]
    fn eval(self, simd: S) {
        let Rows { plan, input, rows, out, .. } = self.0;
        let spec = &plan.spec;
        let channels = spec.channels();
        let pixels = spec.in_height() * spec.in_width();
        let (mut image, mut y) = (rows.start / spec.out_height(), rows.start % spec.out_height());
        for out in out.chunks_exact_mut(spec.out_width() * channels) {
            let span = plan.spans[0][y];
            if span.taps == 0 {
                out.fill(R::IDENTITY);
            } else {
                let row = Row::<R> {
                    plan,
                    input: &input[(image * pixels + span.place * spec.in_width()) * channels..],
                    span,
                    out,
                    how: PhantomData,
                };
                row.compute(simd);
            }
            y += 1;
            if y == spec.out_height() {
                (image, y) = (image + 1, 0);
            }
        }
    }
}

/// A row of outputs.
struct Row<'a, R> {
    plan: &'a PoolPlan,
    /// From the first row of the windows on.
    input: &'a [f32],
    /// The rows of the windows.
    span: Span,
    out: &'a mut [f32],
    how: PhantomData<R>,
}

impl<R: Reduction> Row<'_, R> {
    #[inline(always)]
    fn compute<S: Simd>(mut self, simd: S) {
        let axis = self.plan.spec.axis(1);
        match (axis.dilation, axis.kernel, axis.stride) {
            (1, 2, 1) => self.sliding::<S, 2, 1>(simd),
            (1, 3, 1) => self.sliding::<S, 3, 1>(simd),
            (1, 3, 2) => self.sliding::<S, 3, 2>(simd),
            _ => (0..self.plan.spec.out_width()).for_each(|x| self.window(simd, x)),
        }
    }

    /// f32s from one row of a window to the next.
    #[inline(always)]
    fn pitch(&self) -> usize {
        self.plan.vertical_pitch().wrapping_mul(self.plan.spec.channels())
    }

    /// What the sum of window `x` is divided by.
    #[inline(always)]
    fn divisor(&self, x: usize) -> f32 {
        self.span.counted * self.plan.counts[x]
    }

    /// All channels of a window.
    #[inline(always)]
    fn window<S: Simd>(&mut self, simd: S, x: usize) {
        let channels = self.plan.spec.channels();
        let mut c = 0;
        while c + TOGETHER * S::LANES <= channels {
            self.reduce::<S, TOGETHER>(simd, x, c, S::LANES);
            c += TOGETHER * S::LANES;
        }
        while c < channels {
            self.reduce::<S, 1>(simd, x, c, S::LANES.min(channels - c));
            c += S::LANES;
        }
    }

    /// V vectors of channels of a window, from `c` on; a single one has `lanes` lanes.
    #[inline(always)]
    fn reduce<S: Simd, const V: usize>(&mut self, simd: S, x: usize, c: usize, lanes: usize) {
        let channels = self.plan.spec.channels();
        let columns = self.plan.spans[1][x];
        let mut sums = [simd.splat(R::IDENTITY); V];
        if columns.taps > 0 {
            let (pitch, step) = (self.pitch(), self.plan.spec.dilation()[1].wrapping_mul(channels));
            let first = self.input[columns.place * channels + c..].as_ptr();
            for r in 0..self.span.taps {
                for s in 0..columns.taps {
                    let pixel = first.wrapping_add(r * pitch + s * step);
                    // SAFETY: the window's taps lie in the input; these channels of theirs as well.
                    unsafe { merge::<S, R, V>(simd, &mut sums, pixel, lanes) };
                }
            }
        }
        let divisor = self.divisor(x);
        let out = &mut self.out[x * channels + c..][..(V - 1) * S::LANES + lanes];
        // SAFETY: as many outputs as the vectors have lanes.
        unsafe { put::<S, R, V>(simd, sums, divisor, out.as_mut_ptr(), lanes) };
    }

    /// Windows of `COLUMNS` neighbouring columns with stride `STRIDE`, which is less: what two windows share is reduced
    /// once.
    #[inline(always)]
    fn sliding<S: Simd, const COLUMNS: usize, const STRIDE: usize>(&mut self, simd: S) {
        let out_width = self.plan.spec.out_width();
        let inner = self.plan.spec.axis(1).inner(out_width);
        for x in (0..inner.start).chain(inner.end..out_width) {
            self.window(simd, x);
        }
        let channels = self.plan.spec.channels();
        let mut c = 0;
        while c + TOGETHER * S::LANES <= channels {
            self.slide_over::<S, COLUMNS, STRIDE, TOGETHER>(simd, inner.clone(), c, S::LANES);
            c += TOGETHER * S::LANES;
        }
        while c < channels {
            self.slide_over::<S, COLUMNS, STRIDE, 1>(simd, inner.clone(), c, S::LANES.min(channels - c));
            c += S::LANES;
        }
    }

    /// V vectors of channels of windows that have all their columns in the input.
    #[inline(always)]
    fn slide_over<S: Simd, const COLUMNS: usize, const STRIDE: usize, const V: usize>(
        &mut self,
        simd: S,
        inner: Range<usize>,
        c: usize,
        lanes: usize,
    ) {
        if inner.is_empty() {
            return;
        }
        let channels = self.plan.spec.channels();
        let first = self.input[self.plan.spans[1][inner.start].place * channels + c..].as_ptr();
        // Rows of whole windows are counted by a constant.
        match self.span.taps {
            3 => self.slide::<S, COLUMNS, STRIDE, V, 3>(simd, inner, c, lanes, first),
            _ => self.slide::<S, COLUMNS, STRIDE, V, 0>(simd, inner, c, lanes, first),
        }
    }

    /// [`slide_over`](Self::slide_over), from `first` on; windows have `ROWS` rows, or, for 0, any number.
    #[inline(always)]
    fn slide<S: Simd, const COLUMNS: usize, const STRIDE: usize, const V: usize, const ROWS: usize>(
        &mut self,
        simd: S,
        inner: Range<usize>,
        c: usize,
        lanes: usize,
        first: *const f32,
    ) {
        let channels = self.plan.spec.channels();
        let rows = if ROWS == 0 { self.span.taps } else { ROWS };
        let pitch = self.pitch();
        let mut columns = [[simd.splat(R::IDENTITY); V]; COLUMNS];
        for (s, column) in columns.iter_mut().enumerate().take(COLUMNS - STRIDE) {
            for r in 0..rows {
                // SAFETY: the first window's taps lie in the input; these channels of theirs as well.
                unsafe {
                    merge::<S, R, V>(simd, column, first.wrapping_add(r * pitch + s * channels), lanes)
                };
            }
        }
        for (i, x) in inner.enumerate() {
            for (s, column) in columns.iter_mut().enumerate().skip(COLUMNS - STRIDE) {
                let at = first.wrapping_add((i * STRIDE + s) * channels);
                *column = [simd.splat(R::IDENTITY); V];
                for r in 0..rows {
                    // SAFETY: the window's taps lie in the input; these channels of theirs as well.
                    unsafe { merge::<S, R, V>(simd, column, at.wrapping_add(r * pitch), lanes) };
                }
            }
            let mut sums = columns[0];
            for column in &columns[1..] {
                for (sum, value) in sums.iter_mut().zip(column) {
                    *sum = R::vectors(simd, *sum, *value);
                }
            }
            for s in 0..COLUMNS - STRIDE {
                columns[s] = columns[s + STRIDE];
            }
            let divisor = self.divisor(x);
            let out = &mut self.out[x * channels + c..][..(V - 1) * S::LANES + lanes];
            // SAFETY: as many outputs as the vectors have lanes.
            unsafe { put::<S, R, V>(simd, sums, divisor, out.as_mut_ptr(), lanes) };
        }
    }
}

/// Adds V vectors of a pixel to what windows have; a single one has `lanes` lanes.
///
/// # Safety
/// As many f32s from `pixel` on are valid for reads; `lanes <= LANES`, and equal where V > 1.
#[inline(always)]
unsafe fn merge<S: Simd, R: Reduction, const V: usize>(
    simd: S,
    sums: &mut [S::F32; V],
    pixel: *const f32,
    lanes: usize,
) {
    for (i, sum) in sums.iter_mut().enumerate() {
        // SAFETY: by the caller's promise.
        let value = unsafe {
            match V {
                1 => simd.load_partial(pixel, lanes),
                _ => simd.load(pixel.add(i * S::LANES)),
            }
        };
        *sum = R::vectors(simd, *sum, value);
    }
}

/// Stores V vectors of outputs; a single one has `lanes` lanes.
///
/// # Safety
/// As many f32s of `out` are valid for writes; `lanes <= LANES`, and equal where V > 1.
#[inline(always)]
unsafe fn put<S: Simd, R: Reduction, const V: usize>(
    simd: S,
    sums: [S::F32; V],
    divisor: f32,
    out: *mut f32,
    lanes: usize,
) {
    for (i, sum) in sums.into_iter().enumerate() {
        let value = if R::DIVIDES { simd.div(sum, simd.splat(divisor)) } else { sum };
        // SAFETY: by the caller's promise.
        unsafe {
            match V {
                1 => simd.store_partial(out, value, lanes),
                _ => simd.store(out.add(i * S::LANES), value),
            }
        }
    }
}
