//! Rows of outputs of a [pooling](super) in NCHW by windows of any size: their rows are reduced first, column by column,
//! in a buffer.

use super::axis::{Axis, Span};
use super::columns::Source;
use super::forward::Rows;
use super::planes_forward::finish;
use super::reduction::Reduction;
use super::strips::{Strip, strips};
use crate::buffer::LINE;
use crate::simd::{Simd, SimdOp};

/// Columns of a buffer in which the rows of windows are reduced: of as many rows of outputs as it holds, so that what is
/// read has left the CPU's store buffer, which cannot hand on parts of two stores.
pub(super) const BUFFER: usize = 2048;

/// What vectors may touch beyond the last column that counts: pairs of the longest, from any tap on.
pub(super) const SLACK: usize = 48;

/// What begins on a cache line.
#[repr(align(64))]
struct Aligned<T>(T);

/// Windows whose columns fit a buffer: their rows are reduced first, column by column.
pub(super) struct Buffered<'a, R>(pub(super) Rows<'a, R>);

impl<S: Simd, R: Reduction> SimdOp<S> for Buffered<'_, R> {
    type Output = ();
    #[inline(always)]
    fn eval(self, simd: S) {
        let Rows { plan, input, rows, out, .. } = self.0;
        let spec = &plan.spec;
        let axis = spec.axis(1);
        let source = Source::new(plan, input);
        let columns = |windows: usize| (windows - 1) * axis.stride + axis.extent();
        let most = (BUFFER - axis.extent()) / axis.stride + 1;
        // With room for vectors that begin at the last column.
        let pitch = (columns(spec.out_width().min(most)) + LINE - 1).next_multiple_of(LINE);
        let size = [spec.out_height(), spec.out_width()];
        let mut buffer = Aligned([R::IDENTITY; BUFFER + SLACK]);
        let mut out = out;
        for strip in strips(rows, size, [(BUFFER / pitch).max(1), most]) {
            let (first, len) = (strip.columns.start * axis.stride, columns(strip.columns.len()));
            let spans = &plan.spans[0][strip.rows.clone()];
            let doubted =
                source.reduce::<S, R>(simd, strip.plane, strip.rows, first, len, &mut buffer.0, pitch);
            let sums = Sums {
                axis,
                buffer: &buffer.0,
                pitch,
                spans,
                counts: &plan.counts[strip.columns.start..],
                outputs: strip.columns.len(),
            };
            match doubted {
                false => sums.store::<S, R::OfNumbers>(simd, out),
                true => sums.store::<S, R>(simd, out),
            }
            out = &mut out[sums.outputs * spans.len()..];
        }
    }
}

/// Columns to be reduced to outputs.
struct Sums<'a> {
    axis: Axis,
    buffer: &'a [f32; BUFFER + SLACK],
    /// f32s from one row of the buffer to the next.
    pitch: usize,
    /// A row each.
    spans: &'a [Span],
    /// Counts of the columns of outputs, and a vector more.
    counts: &'a [f32],
    /// Outputs of a row.
    outputs: usize,
}

impl Sums<'_> {
    /// Computes the first outputs of `out`; those that come later may be anything afterwards.
    #[inline(always)]
    fn store<S: Simd, R: Reduction>(&self, simd: S, out: &mut [f32]) {
        match (self.axis.stride, self.axis.kernel) {
            (1, 3) => self.vectors::<S, R, 1, 3>(simd, out),
            (1, _) => self.vectors::<S, R, 1, 0>(simd, out),
            (2, 3) => self.vectors::<S, R, 2, 3>(simd, out),
            (2, _) => self.vectors::<S, R, 2, 0>(simd, out),
            _ => self.one_by_one::<R>(out),
        }
    }

    /// Outputs of stride 1 or 2. Windows have `COLUMNS` columns, or, for 0, any number.
    #[inline(always)]
    fn vectors<S: Simd, R: Reduction, const STRIDE: usize, const COLUMNS: usize>(
        &self,
        simd: S,
        out: &mut [f32],
    ) {
        assert!(self.outputs * self.spans.len() <= out.len() && self.outputs + S::LANES <= self.counts.len());
        let last = self.outputs * (self.spans.len() - 1) + self.outputs.next_multiple_of(S::LANES);
        // SAFETY: there are as many outputs and counts; with `ROOM` every vector has room.
        unsafe {
            match last <= out.len() {
                true => self.rows::<S, R, STRIDE, COLUMNS, true>(simd, out.as_mut_ptr()),
                false => self.rows::<S, R, STRIDE, COLUMNS, false>(simd, out.as_mut_ptr()),
            }
        }
    }

    /// [`vectors`](Self::vectors), with `ROOM` whole ones.
    ///
    /// # Safety
    /// All outputs are valid for writes, with `ROOM` vectors of them from every one that begins a vector; a vector of
    /// counts of each output's column for reads.
    #[inline(always)]
    unsafe fn rows<S: Simd, R: Reduction, const STRIDE: usize, const COLUMNS: usize, const ROOM: bool>(
        &self,
        simd: S,
        out: *mut f32,
    ) {
        let columns = if COLUMNS == 0 { self.axis.kernel } else { COLUMNS };
        for (i, span) in self.spans.iter().enumerate() {
            let row = self.buffer.as_ptr().wrapping_add(i * self.pitch);
            let out = out.wrapping_add(i * self.outputs);
            let mut x = 0;
            while x < self.outputs {
                // SAFETY: by the caller's promise; the last tap of the row's last window lies in the first BUFFER columns
                // of the buffer, those of the vector's first window as well, two vectors from there on in the slack.
                unsafe {
                    let at = row.add(STRIDE * x);
                    let sum = match STRIDE {
                        1 => self.side_by_side::<S, R>(simd, at, columns),
                        _ => self.in_pairs::<S, R>(simd, at, columns),
                    };
                    let counts = self.counts.as_ptr().add(x);
                    finish::<S, R, ROOM>(simd, sum, (span.counted, counts), out.add(x), self.outputs - x);
                }
                x += S::LANES;
            }
        }
    }

    /// Outputs of stride 1: neighbouring windows are neighbouring vectors.
    ///
    /// # Safety
    /// A vector from each tap of the first window on is valid for reads.
    #[inline(always)]
    unsafe fn side_by_side<S: Simd, R: Reduction>(&self, simd: S, at: *const f32, columns: usize) -> S::F32 {
        // SAFETY: by the caller's promise.
        unsafe {
            let mut sum = simd.load(at);
            for s in 1..columns {
                sum = R::vectors(simd, sum, simd.load(at.add(s * self.axis.dilation)));
            }
            sum
        }
    }

    /// Outputs of stride 2: the even ones of two vectors, and, where taps are neighbours, the odd ones for the next tap.
    ///
    /// # Safety
    /// Two vectors from each tap of the first window on are valid for reads.
    #[inline(always)]
    unsafe fn in_pairs<S: Simd, R: Reduction>(&self, simd: S, at: *const f32, columns: usize) -> S::F32 {
        let taps = if self.axis.dilation == 1 { 2 } else { 1 };
        let mut sum = simd.splat(R::IDENTITY);
        for s in (0..columns).step_by(taps) {
            // SAFETY: by the caller's promise.
            let (even, odd) = unsafe {
                let at = at.add(s * self.axis.dilation);
                simd.unzip_mixed(simd.load(at), simd.load(at.add(S::LANES)))
            };
            sum = if s == 0 { even } else { R::vectors(simd, sum, even) };
            if taps == 2 && s + 1 < columns {
                sum = R::vectors(simd, sum, odd);
            }
        }
        simd.in_order::<0>(sum)
    }

    /// Outputs of any stride.
    #[inline(always)]
    fn one_by_one<R: Reduction>(&self, out: &mut [f32]) {
        let rows = self.buffer.chunks(self.pitch).zip(out.chunks_mut(self.outputs));
        for (span, (row, out)) in self.spans.iter().zip(rows) {
            for (x, (out, count)) in out.iter_mut().zip(self.counts).enumerate() {
                let columns = row[x * self.axis.stride..].iter().step_by(self.axis.dilation);
                *out = columns.take(self.axis.kernel).fold(R::IDENTITY, |sum, &value| R::scalars(sum, value));
                if R::DIVIDES {
                    *out /= span.counted * count;
                }
            }
        }
    }
}

/// Windows that no buffer holds: one at a time, as many of its taps as a buffer holds.
pub(super) struct FarApart<'a, R>(pub(super) Rows<'a, R>);

impl<S: Simd, R: Reduction> SimdOp<S> for FarApart<'_, R> {
    type Output = ();
    #[inline(always)]
    fn eval(self, simd: S) {
        let Rows { plan, input, rows, out, .. } = self.0;
        let spec = &plan.spec;
        let axis = spec.axis(1);
        let source = Source::new(plan, input);
        let mut buffer = Aligned([R::IDENTITY; BUFFER + SLACK]);
        let most = (BUFFER - 1) / axis.dilation + 1;
        let windows = strips(rows, [spec.out_height(), spec.out_width()], [1, 1]);
        for (Strip { plane, rows, columns }, out) in windows.zip(out) {
            let (y, x) = (rows.start, columns.start);
            *out = R::IDENTITY;
            for tap in (0..axis.kernel).step_by(most) {
                let taps = most.min(axis.kernel - tap);
                let first = x * axis.stride + tap * axis.dilation;
                let len = (taps - 1) * axis.dilation + 1;
                source.reduce::<S, R>(simd, plane, y..y + 1, first, len, &mut buffer.0, 0);
                let values = buffer.0[..BUFFER].iter().step_by(axis.dilation).take(taps);
                *out = values.fold(*out, |sum, &value| R::scalars(sum, value));
            }
            if R::DIVIDES {
                *out /= plan.spans[0][y].counted * plan.counts[x];
            }
        }
    }
}
