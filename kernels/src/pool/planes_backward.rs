//! The way back of a [pooling](super) in NCHW: vectors of neighbouring inputs, each of which gathers what the windows
//! that have it owe it.

use std::ops::Range;

use super::axis::Span;
use super::owed::{BUFFER, Buffer, Owed, Reach, SLACK, clear};
use super::strips::{Strip, strips};
use super::takers::Reading;
use super::{PoolPlan, Pooling};
use crate::buffer::LINE;
use crate::simd::{Simd, SimdOp};

/// Most taps of a window that are counted exactly in f32, far beyond what any use has.
pub(super) const MOST_TAPS: usize = 1 << 20;

/// Planes, whose gradients are the caller's alone.
pub(super) struct Planes<'a> {
    pub(super) plan: &'a PoolPlan,
    /// The planes' inputs, gradients by their outputs, and those by their inputs.
    pub(super) input: &'a [f32],
    pub(super) grad_output: &'a [f32],
    pub(super) grad_input: &'a mut [f32],
}

impl<S: Simd> SimdOp<S> for Planes<'_> {
    type Output = ();
    #[inline(always)]
    fn eval(mut self, simd: S) {
        let spec = &self.plan.spec;
        let (axis, [rows, columns]) = (spec.axis(1), spec.kernel());
        if self.plan.is_whole() && self.plan.pooling != Pooling::Max {
            return self.fill();
        }
        let fits =
            axis.stride <= 2 && axis.extent() <= BUFFER / 2 && rows.saturating_mul(columns) <= MOST_TAPS;
        if !fits {
            return self.one_by_one();
        }
        // Which taps of stride 2 are odd columns of their pairs, where taps are neighbours.
        let odd = spec.padding().left % 2 == 1;
        match (self.plan.pooling == Pooling::Max, axis.dilation, axis.stride, axis.kernel, odd) {
            (true, 1, 1, 3, _) => self.gather::<S, true, 1, 3, false>(simd),
            (true, 1, 2, 3, false) => self.gather::<S, true, 2, 3, false>(simd),
            (true, 1, 2, 3, true) => self.gather::<S, true, 2, 3, true>(simd),
            (true, _, 1, ..) => self.gather::<S, true, 1, 0, false>(simd),
            (true, ..) => self.gather::<S, true, 2, 0, false>(simd),
            (false, 1, 1, 3, _) => self.gather::<S, false, 1, 3, false>(simd),
            (false, 1, 2, 3, false) => self.gather::<S, false, 2, 3, false>(simd),
            (false, 1, 2, 3, true) => self.gather::<S, false, 2, 3, true>(simd),
            (false, _, 1, ..) => self.gather::<S, false, 1, 0, false>(simd),
            (false, ..) => self.gather::<S, false, 2, 0, false>(simd),
        }
    }
}

impl Planes<'_> {
    /// How many planes there are.
    fn planes(&self) -> usize {
        self.input.len() / (self.plan.spec.in_height() * self.plan.spec.in_width())
    }

    /// Planes that are one window each: each pixel has the same share.
    fn fill(&mut self) {
        let len = self.plan.spec.in_height() * self.plan.spec.in_width();
        let divisor = self.plan.spans[0][0].counted * self.plan.spans[1][0].counted;
        for (plane, grad) in self.grad_input.chunks_exact_mut(len).zip(self.grad_output) {
            plane.fill(grad / divisor);
        }
    }

    /// Any windows, one after the other.
    fn one_by_one(&mut self) {
        let spec = &self.plan.spec;
        self.grad_input.fill(0.0);
        let rows = 0..self.planes() * spec.out_height();
        for Strip { plane, rows, columns } in strips(rows, [spec.out_height(), spec.out_width()], [1, 1]) {
            self.window(plane, rows.start, columns.start);
        }
    }

    /// One window.
    fn window(&mut self, plane: usize, y: usize, x: usize) {
        let spec = &self.plan.spec;
        let [vertical, horizontal] = spec.dilation();
        let width = spec.in_width();
        let (rows, columns) = (self.plan.spans[0][y], self.plan.spans[1][x]);
        if rows.taps == 0 || columns.taps == 0 {
            return;
        }
        let grad = self.grad_output[(plane * spec.out_height() + y) * spec.out_width() + x];
        let first = (plane * spec.in_height() + rows.place) * width + columns.place;
        // The window's pixels in the plane; the last one is there, so nothing overflows.
        let row = |r: usize| first + r * vertical * width;
        let reach = (columns.taps - 1) * horizontal + 1;
        match self.plan.pooling {
            Pooling::Max => {
                let (mut largest, mut place) = (self.input[first], first);
                for r in 0..rows.taps {
                    let pixels = self.input[row(r)..][..reach].iter().step_by(horizontal);
                    for (s, &value) in pixels.enumerate() {
                        if value > largest || (value.is_nan() && !largest.is_nan()) {
                            (largest, place) = (value, row(r) + s * horizontal);
                        }
                    }
                }
                self.grad_input[place] += grad;
            }
            Pooling::Average { .. } => {
                let share = grad / (rows.counted * columns.counted);
                for r in 0..rows.taps {
                    let pixels = self.grad_input[row(r)..][..reach].iter_mut().step_by(horizontal);
                    pixels.for_each(|pixel| *pixel += share);
                }
            }
        }
    }

    /// Windows with stride `STRIDE`, 1 or 2, and `COLUMNS` columns, or, for 0, any number; `MAX` says of which pooling,
    /// `ODD` whether the first of a known number of columns is the odd one of a pair.
    #[inline(always)]
    fn gather<S: Simd, const MAX: bool, const STRIDE: usize, const COLUMNS: usize, const ODD: bool>(
        &mut self,
        simd: S,
    ) {
        let spec = &self.plan.spec;
        let reach = Reach::new(spec.axis(1), STRIDE);
        let groups = spec.in_width().div_ceil(STRIDE);
        let most = BUFFER - reach.more();
        let pitch = (groups.min(most) + reach.more()).next_multiple_of(LINE);
        let mut buffer = Buffer { pitch, gives: [0.0; BUFFER + SLACK], takers: [-1.0; BUFFER + SLACK] };
        let rows = 0..self.planes() * spec.out_height();
        for strip in strips(rows, [spec.out_height(), groups], [BUFFER / pitch, most]) {
            for (i, y) in strip.rows.clone().enumerate() {
                self.look::<S, MAX, STRIDE, COLUMNS>(simd, &strip, (i, y), &reach, &mut buffer);
            }
            for (i, y) in strip.rows.clone().enumerate() {
                self.hand_out::<S, MAX, STRIDE, COLUMNS, ODD>(simd, &strip, (i, y), &reach, &buffer);
            }
        }
    }

    /// Fills row `i` of a buffer with what the windows of row `y` give that have some of a strip's columns.
    #[inline(always)]
    fn look<S: Simd, const MAX: bool, const STRIDE: usize, const COLUMNS: usize>(
        &self,
        simd: S,
        strip: &Strip,
        (i, y): (usize, usize),
        reach: &Reach,
        buffer: &mut Buffer,
    ) {
        let spec = &self.plan.spec;
        let (width, out_width) = (spec.in_width(), spec.out_width());
        let rows = self.plan.spans[0][y];
        if rows.taps == 0 {
            return;
        }
        // The window of the buffer's first place, and those that there are of the buffer's.
        let origin = strip.columns.start as isize - reach.last;
        let len = strip.columns.len() + reach.more();
        let start = usize::try_from(-origin).unwrap_or(0).min(len);
        let end = usize::try_from(out_width as isize - origin).unwrap_or(0).clamp(start, len);
        let (gives, takers) = (&mut buffer.gives[i * buffer.pitch..], &mut buffer.takers[i * buffer.pitch..]);
        debug_assert!(len <= buffer.pitch && gives.len() >= buffer.pitch + SLACK);
        // SAFETY: vectors begin at one of the first `len` places; the slack has room for a vector.
        unsafe { clear(simd, 0, start, gives, takers) };
        let grads = (strip.plane * spec.out_height() + y) * out_width;
        let inner = spec.axis(1).inner(out_width);
        let first = (strip.plane * spec.in_height() + rows.place) * width;
        let reading = Reading {
            input: self.input,
            first,
            row: self.plan.vertical_pitch(),
            rows: rows.taps,
            width,
            columns: if COLUMNS == 0 { spec.kernel()[1] } else { COLUMNS },
            column: spec.dilation()[1],
        };
        for i in (start..end).step_by(S::LANES) {
            let x = (origin + i as isize) as usize;
            let lanes = S::LANES.min(end - i);
            // SAFETY: as many gradients as lanes are there; counts and places have a vector more than there are
            // columns; the buffer's slack has room for a vector. Inner windows have all their taps in the input.
            unsafe {
                let grad = simd.load_partial(self.grad_output.as_ptr().add(grads + x), lanes);
                if MAX {
                    let from = (STRIDE * x) as isize - spec.padding().left as isize;
                    let places = simd.load(self.plan.firsts[x..][..S::LANES].as_ptr());
                    let inside = inner.contains(&x) && x + lanes <= inner.end;
                    let taker = match inside && reading.is_whole(from, STRIDE * S::LANES) {
                        true => reading.takers::<S, STRIDE, true>(simd, from, places),
                        false => reading.takers::<S, STRIDE, false>(simd, from, places),
                    };
                    simd.store(gives.as_mut_ptr().add(i), grad);
                    simd.store(takers.as_mut_ptr().add(i), taker);
                } else {
                    let columns = simd.load(self.plan.counts[x..][..S::LANES].as_ptr());
                    let share = simd.div(grad, simd.mul(simd.splat(rows.counted), columns));
                    simd.store(gives.as_mut_ptr().add(i), share);
                }
            }
        }
        // SAFETY: as above.
        unsafe { clear(simd, end, len, gives, takers) };
    }

    /// Computes a strip's columns in the rows of windows of row `y`, which are row `i` of a buffer.
    #[inline(always)]
    fn hand_out<S: Simd, const MAX: bool, const STRIDE: usize, const COLUMNS: usize, const ODD: bool>(
        &mut self,
        simd: S,
        strip: &Strip,
        (i, y): (usize, usize),
        reach: &Reach,
        buffer: &Buffer,
    ) {
        let spec = &self.plan.spec;
        let (width, height) = (spec.in_width(), spec.in_height());
        let span = self.plan.spans[0][y];
        let plane = strip.plane * width * height;
        let columns = STRIDE * strip.columns.start..width.min(STRIDE * strip.columns.end);
        let touched = self.touched(y);
        // Rows that belong to no window, at first those before this row's windows, at last those behind.
        let mut clear = |rows: Range<usize>| {
            for row in rows {
                self.grad_input[plane + row * width..][columns.clone()].fill(0.0);
            }
        };
        if spec.dilation()[0] > 1 {
            clear(if y == 0 { 0..height } else { 0..0 });
        } else {
            clear(touched..span.place.max(touched));
            clear(if y + 1 == spec.out_height() { span.place + span.taps..height } else { 0..0 });
        }
        let pitch = self.plan.vertical_pitch();
        let mut t = 0;
        while t < strip.columns.len() {
            let column = columns.start + STRIDE * t;
            let lanes = (columns.end - column).min(STRIDE * S::LANES);
            let first = plane + span.place * width + column;
            // The last column of the last row is in the plane.
            let to = self.grad_input[first..][..(span.taps.saturating_sub(1)) * pitch + lanes].as_mut_ptr();
            // SAFETY: the window of the first column lies in the buffer, a vector from there on in its slack; `lanes`
            // columns of each row are in the plane.
            unsafe {
                let owed = Owed { buffer, at: i * buffer.pitch + t, reach, columns: spec.kernel()[1] };
                let rows = (0..span.taps).map(|r| (r, to.wrapping_add(r * pitch), span.place + r < touched));
                if COLUMNS > 0 {
                    owed.known::<S, MAX, STRIDE, COLUMNS, ODD>(simd, rows, lanes);
                } else {
                    owed.any::<S, MAX, STRIDE>(simd, rows, lanes);
                }
            }
            t += S::LANES;
        }
    }

    /// Rows of a plane that have been written before windows of row `y`.
    #[inline(always)]
    fn touched(&self, y: usize) -> usize {
        if self.plan.spec.dilation()[0] > 1 {
            return self.plan.spec.in_height();
        }
        y.checked_sub(1).map_or(0, |above| {
            let Span { place, taps, .. } = self.plan.spans[0][above];
            place + taps
        })
    }
}
