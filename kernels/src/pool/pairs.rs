//! Rows of outputs of a [pooling](super) in NCHW by windows of two columns or one with stride 2, none of which padding
//! cuts: each column belongs to one window, so that all is done in registers.

use super::axis::Span;
use super::forward::Rows;
use super::planes_forward::{finish, load};
use super::reduction::{Doubt, Reduction};
use super::strips::strips;
use crate::simd::{Simd, SimdOp};

pub(super) struct Pairs<'a, R>(pub(super) Rows<'a, R>);

impl<S: Simd, R: Reduction> SimdOp<S> for Pairs<'_, R> {
    type Output = ();
    #[inline(always)]
    fn eval(self, simd: S) {
        let Rows { plan, input, rows, out, .. } = self.0;
        let spec = &plan.spec;
        let vertical = spec.axis(0);
        let pairs = Windows {
            input,
            width: spec.in_width(),
            row: plan.vertical_pitch(),
            both: spec.kernel()[1] == 2,
            outputs: spec.out_width(),
            counts: &plan.counts,
            even: (spec.kernel()[0] == 2 && vertical.inner(spec.out_height()) == (0..spec.out_height()))
                .then_some(vertical.stride.wrapping_mul(spec.in_width())),
        };
        let pixels = spec.in_height() * spec.in_width();
        let mut out = out;
        for strip in strips(rows, [spec.out_height(), spec.out_width()], [usize::MAX; 2]) {
            let spans = &plan.spans[0][strip.rows];
            pairs.compute::<S, R>(simd, strip.plane * pixels, spans, out);
            out = &mut out[spans.len() * pairs.outputs..];
        }
    }
}

/// What all windows have in common.
struct Windows<'a> {
    input: &'a [f32],
    /// Columns of a plane.
    width: usize,
    /// f32s from one row of a window to the next.
    row: usize,
    /// Whether windows have two columns.
    both: bool,
    /// Outputs of a row.
    outputs: usize,
    counts: &'a [f32],
    /// Where all windows have two rows, f32s from those of one row of outputs to those of the next.
    even: Option<usize>,
}

impl Windows<'_> {
    /// Computes rows of a plane that begins with f32 `plane`, the first of `out`; what follows may be anything
    /// afterwards.
    #[inline(always)]
    fn compute<S: Simd, R: Reduction>(&self, simd: S, plane: usize, spans: &[Span], out: &mut [f32]) {
        assert!(self.outputs * spans.len() <= out.len() && self.outputs + S::LANES <= self.counts.len());
        let vectors = self.outputs.next_multiple_of(S::LANES);
        // Windows come in their order, so do the ends of what they read and store.
        let whole = spans.iter().enumerate().rposition(|(i, span)| {
            let last = span.place * self.width + span.taps.saturating_sub(1) * self.row;
            plane + last + 2 * vectors <= self.input.len() && i * self.outputs + vectors <= out.len()
        });
        let (whole, rest) = spans.split_at(whole.map_or(0, |last| last + 1));
        let (first, last) = (out.as_mut_ptr(), out[whole.len() * self.outputs..].as_mut_ptr());
        // SAFETY: there are as many outputs and counts; all vectors of whole rows are in the input and have room.
        unsafe {
            if self.rows::<S, R::OfNumbers, R, true>(simd, plane, whole, first) {
                self.rows::<S, R, R, true>(simd, plane, whole, first);
            }
            self.rows::<S, R, R, false>(simd, plane, rest, last);
        }
    }

    /// [`compute`](Self::compute) by `Q`. Returns whether there may have been a NaN, which `R` cares about.
    ///
    /// # Safety
    /// All outputs are valid for writes, a vector of counts of each output's column for reads. With `WHOLE` all pairs of
    /// vectors of the windows lie in the input and all vectors of outputs are valid for writes.
    #[inline(always)]
    unsafe fn rows<S: Simd, Q: Reduction, R: Reduction, const WHOLE: bool>(
        &self,
        simd: S,
        plane: usize,
        spans: &[Span],
        out: *mut f32,
    ) -> bool {
        let mut doubt = Doubt::none(simd);
        if let (Some(step), [span, ..]) = (self.even, spans) {
            let (mut from, mut out) = (plane + span.place * self.width, out);
            for _ in spans {
                // SAFETY: by the caller's promise.
                unsafe { self.vectors::<S, Q, R, 2, WHOLE>(simd, from, *span, out, &mut doubt) };
                (from, out) = (from.wrapping_add(step), out.wrapping_add(self.outputs));
            }
            return doubt.remains::<R>(simd);
        }
        for (i, span) in spans.iter().enumerate() {
            let from = plane + span.place * self.width;
            let out = out.wrapping_add(i * self.outputs);
            // SAFETY: by the caller's promise.
            unsafe {
                match span.taps {
                    0 => std::slice::from_raw_parts_mut(out, self.outputs).fill(R::IDENTITY),
                    _ => self.vectors::<S, Q, R, 0, WHOLE>(simd, from, *span, out, &mut doubt),
                }
            }
        }
        doubt.remains::<R>(simd)
    }

    /// A row of outputs from `from` on; windows have `ROWS` rows, or, for 0, any number.
    ///
    /// # Safety
    /// As [`rows`](Self::rows).
    #[inline(always)]
    unsafe fn vectors<S: Simd, Q: Reduction, R: Reduction, const ROWS: usize, const WHOLE: bool>(
        &self,
        simd: S,
        from: usize,
        span: Span,
        out: *mut f32,
        doubt: &mut Doubt<S>,
    ) {
        let rows = if ROWS == 0 { span.taps } else { ROWS };
        let mut x = 0;
        while x < self.outputs {
            let at = from + 2 * x;
            // SAFETY: by the caller's promise.
            unsafe {
                let mut a = load::<S, WHOLE>(simd, self.input, at);
                let mut b = load::<S, WHOLE>(simd, self.input, at + S::LANES);
                let mut seen = [Doubt::of(a), Doubt::of(b)];
                for r in 1..rows {
                    let at = at + r * self.row;
                    let below = load::<S, WHOLE>(simd, self.input, at);
                    let beside = load::<S, WHOLE>(simd, self.input, at + S::LANES);
                    seen[0].see::<R>(simd, below);
                    seen[1].see::<R>(simd, beside);
                    (a, b) = (Q::vectors(simd, a, below), Q::vectors(simd, b, beside));
                }
                seen[0].join::<R>(simd, seen[1]);
                doubt.join::<R>(simd, seen[0]);
                let (even, odd) = simd.unzip_mixed(a, b);
                let sum = simd.in_order::<0>(if self.both { Q::vectors(simd, even, odd) } else { even });
                let counts = self.counts.as_ptr().add(x);
                finish::<S, Q, WHOLE>(simd, sum, (span.counted, counts), out.add(x), self.outputs - x);
            }
            x += S::LANES;
        }
    }
}
