//! The way back of a [pooling](super) in NCHW: vectors of neighbouring inputs, each of which gathers what the windows
//! that have it owe it.

use std::ops::Range;

use super::axis::{Axis, Span};
use super::strips::{Strip, strips};
use super::{PoolPlan, Pooling};
use crate::buffer::LINE;
use crate::simd::{Simd, SimdOp};

/// Windows in a buffer.
const BUFFER: usize = 1024;

/// What vectors may touch beyond: one of the longest, from any window on.
const SLACK: usize = 16;

/// Most taps of a window that are counted exactly in f32, far beyond what any use has.
const MOST_TAPS: usize = 1 << 20;

/// What windows of some rows give to their pixels, as many rows as there is room for, so that what is read has left the
/// CPU's store buffer, which cannot hand on parts of two stores.
struct Buffer {
    /// Windows from one row to the next.
    pitch: usize,
    /// Of a maximum the window's gradient, of an average each pixel's share.
    gives: [f32; BUFFER + SLACK],
    /// Of a maximum which tap of the window it was, counted row by row from the first row in the input; −1 where there
    /// is no window.
    takers: [f32; BUFFER + SLACK],
}

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

/// From inputs to the windows that have them: tap `s` of window `x` is column `stride·x + offset`; with
/// `offset = stride·quotient + remainder` it is among the columns `stride·(x + quotient) + remainder`.
#[derive(Clone, Copy, Debug)]
struct Reach {
    axis: Axis,
    stride: usize,
    /// The quotient of the last tap, the largest.
    last: isize,
    /// That of the first tap.
    first: isize,
}

impl Reach {
    #[inline(always)]
    fn new(axis: Axis, stride: usize) -> Self {
        let mut reach = Reach { axis, stride, last: 0, first: 0 };
        (reach.first, reach.last) = (reach.of(0).0, reach.of(axis.kernel - 1).0);
        reach
    }

    /// Quotient and remainder of a tap.
    #[inline(always)]
    fn of(&self, tap: usize) -> (isize, usize) {
        let offset = (tap * self.axis.dilation) as isize - self.axis.before as isize;
        let stride = self.stride as isize;
        (offset.div_euclid(stride), offset.rem_euclid(stride) as usize)
    }

    /// How many windows more than columns there are.
    #[inline(always)]
    fn more(&self) -> usize {
        (self.last - self.first) as usize
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
        let pitch = spec.dilation()[0] * width;
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

/// What a buffer's windows give to a vector of columns, or a pair with stride 2.
struct Owed<'a> {
    buffer: &'a Buffer,
    /// The first column's place in it, if the last tap's quotient were 0.
    at: usize,
    reach: &'a Reach,
    columns: usize,
}

impl Owed<'_> {
    /// What a tap's windows give, and which tap takes it.
    ///
    /// # Safety
    /// The tap's windows lie in the buffer, a vector of them with its slack.
    #[inline(always)]
    unsafe fn tap<S: Simd>(&self, simd: S, quotient: isize) -> (S::F32, S::F32) {
        let at = self.at + (self.reach.last - quotient) as usize;
        debug_assert!(at + S::LANES <= BUFFER + SLACK);
        // SAFETY: by the caller's promise.
        unsafe {
            (simd.load(self.buffer.gives.as_ptr().add(at)), simd.load(self.buffer.takers.as_ptr().add(at)))
        }
    }

    /// Windows of `COLUMNS` neighbouring columns, of which with `ODD` the first is the odd one of a pair. `rows` are
    /// numbers of windows' rows, where the columns are, and whether something is there already.
    ///
    /// # Safety
    /// As [`tap`](Self::tap), for all taps; `lanes` columns of each row are valid for reads and writes.
    #[inline(always)]
    unsafe fn known<S: Simd, const MAX: bool, const STRIDE: usize, const COLUMNS: usize, const ODD: bool>(
        &self,
        simd: S,
        rows: impl Iterator<Item = (usize, *mut f32, bool)>,
        lanes: usize,
    ) {
        let zero = simd.splat(0.0);
        let mut taps = [(zero, zero); COLUMNS];
        for (s, tap) in taps.iter_mut().enumerate() {
            // SAFETY: by the caller's promise.
            *tap = unsafe { self.tap(simd, self.reach.of(s).0) };
        }
        let mut number = zero;
        let mut sums = [zero; 2];
        for (r, to, touched) in rows {
            if MAX || r == 0 {
                sums = [zero; 2];
                for (s, (gives, takers)) in taps.into_iter().enumerate() {
                    let sum = &mut sums[if STRIDE == 1 { 0 } else { (s + ODD as usize) % 2 }];
                    *sum = match MAX {
                        true => simd.add_where_equal(*sum, gives, takers, number),
                        false => simd.add(*sum, gives),
                    };
                    number = simd.add(number, simd.splat(1.0));
                }
                sums = in_columns::<S, STRIDE>(simd, sums);
            }
            // SAFETY: by the caller's promise.
            unsafe { put::<S, STRIDE>(simd, sums, to, lanes, touched) };
        }
    }

    /// [`known`](Self::known) for any windows.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn any<S: Simd, const MAX: bool, const STRIDE: usize>(
        &self,
        simd: S,
        rows: impl Iterator<Item = (usize, *mut f32, bool)>,
        lanes: usize,
    ) {
        let zero = simd.splat(0.0);
        let mut sums = [zero; 2];
        for (r, to, touched) in rows {
            if MAX || r == 0 {
                for (remainder, sum) in sums.iter_mut().enumerate().take(STRIDE) {
                    *sum = zero;
                    for s in 0..self.columns {
                        let (quotient, of) = self.reach.of(s);
                        if of != remainder {
                            continue;
                        }
                        // SAFETY: by the caller's promise.
                        let (gives, takers) = unsafe { self.tap(simd, quotient) };
                        *sum = match MAX {
                            true => {
                                let number = simd.splat((r * self.columns + s) as f32);
                                simd.add_where_equal(*sum, gives, takers, number)
                            }
                            false => simd.add(*sum, gives),
                        };
                    }
                }
                sums = in_columns::<S, STRIDE>(simd, sums);
            }
            // SAFETY: by the caller's promise.
            unsafe { put::<S, STRIDE>(simd, sums, to, lanes, touched) };
        }
    }
}

/// Sums of even and odd columns as neighbours; with stride 1 they are.
#[inline(always)]
fn in_columns<S: Simd, const STRIDE: usize>(simd: S, sums: [S::F32; 2]) -> [S::F32; 2] {
    if STRIDE == 1 {
        return sums;
    }
    let (first, second) = simd.zip_mixed(simd.mixed(sums[0]), simd.mixed(sums[1]));
    [first, second]
}

/// Stores one vector or two, `lanes` lanes of them, or adds them.
///
/// # Safety
/// As many f32s from `to` on are valid for reads and writes.
#[inline(always)]
pub(super) unsafe fn put<S: Simd, const VECTORS: usize>(
    simd: S,
    sums: [S::F32; 2],
    to: *mut f32,
    lanes: usize,
    add: bool,
) {
    let whole = lanes == VECTORS * S::LANES;
    for (i, sum) in sums.into_iter().enumerate().take(VECTORS) {
        let p = to.wrapping_add(i * S::LANES);
        let lanes = lanes.saturating_sub(i * S::LANES).min(S::LANES);
        // SAFETY: by the caller's promise.
        unsafe {
            match (whole, add) {
                (true, true) => simd.store(p, simd.add(simd.load(p), sum)),
                (true, false) => simd.store(p, sum),
                (false, true) => simd.store_partial(p, simd.add(simd.load_partial(p, lanes), sum), lanes),
                (false, false) => simd.store_partial(p, sum, lanes),
            }
        }
    }
}

/// Stores vectors that no pixel takes from place `from` on, the last of which begins before `to`.
///
/// # Safety
/// Both have [`SLACK`] f32s from `to` on.
#[inline(always)]
unsafe fn clear<S: Simd>(simd: S, from: usize, to: usize, gives: &mut [f32], takers: &mut [f32]) {
    let mut i = from;
    while i < to {
        // SAFETY: by the caller's promise; the slack holds a vector.
        unsafe {
            simd.store(gives.as_mut_ptr().add(i), simd.splat(0.0));
            simd.store(takers.as_mut_ptr().add(i), simd.splat(-1.0));
        }
        i += S::LANES;
    }
}

/// The input under a row of windows.
struct Reading<'a> {
    input: &'a [f32],
    /// Its first pixel.
    first: usize,
    /// f32s from one row of the windows to the next.
    row: usize,
    rows: usize,
    width: usize,
    columns: usize,
    /// f32s from one tap of a row to the next.
    column: usize,
}

impl Reading<'_> {
    /// Whether vectors of so many columns lie in the input for all taps of windows that begin at column `from`.
    #[inline(always)]
    fn is_whole(&self, from: isize, columns: usize) -> bool {
        let first = self.first as isize + from;
        first >= 0
            && first as usize + (self.rows - 1) * self.row + (self.columns - 1) * self.column + columns
                <= self.input.len()
    }

    /// Which tap of each window is the first of the largest; `places` are those of the first taps in the input, which
    /// they are where all are −∞. Windows begin at column `from` and `STRIDE` columns apart.
    ///
    /// # Safety
    /// With `WHOLE` whole vectors of columns, twice as many with stride 2, lie in the input for all taps, and the
    /// windows' taps all lie in their rows.
    #[inline(always)]
    unsafe fn takers<S: Simd, const STRIDE: usize, const WHOLE: bool>(
        &self,
        simd: S,
        from: isize,
        places: S::F32,
    ) -> S::F32 {
        // With stride 2 lanes are as `unzip_mixed` leaves them, and neighbouring taps come in pairs.
        let places = if STRIDE == 2 { simd.mixed(places) } else { places };
        let together = if STRIDE == 2 && self.column == 1 { 2 } else { 1 };
        let one = simd.splat(1.0);
        let mut so_far = (simd.splat(f32::NEG_INFINITY), places);
        let mut number = simd.splat(0.0);
        for r in 0..self.rows {
            for s in (0..self.columns).step_by(together) {
                let column = from + (s * self.column) as isize;
                // SAFETY: by the caller's promise.
                let (here, beside) = unsafe {
                    let first = self.load::<S, WHOLE>(simd, r, column);
                    match STRIDE {
                        1 => (first, first),
                        _ => {
                            let second = self.load::<S, WHOLE>(simd, r, column + S::LANES as isize);
                            simd.unzip_mixed(first, second)
                        }
                    }
                };
                so_far = simd.larger(so_far, here, number);
                number = simd.add(number, one);
                if together == 2 && s + 1 < self.columns {
                    so_far = simd.larger(so_far, beside, number);
                    number = simd.add(number, one);
                }
            }
        }
        if STRIDE == 2 { simd.in_order::<0>(so_far.1) } else { so_far.1 }
    }

    /// A vector of columns of a row; what lies beyond the row's ends is −∞.
    ///
    /// # Safety
    /// With `WHOLE` it lies in the input, and columns beyond the row's ends may be anything.
    #[inline(always)]
    unsafe fn load<S: Simd, const WHOLE: bool>(&self, simd: S, r: usize, column: isize) -> S::F32 {
        let p = self.input.as_ptr().wrapping_add(self.first + r * self.row).wrapping_offset(column);
        // SAFETY: by the caller's promise; else only columns of the row, which lies in the input.
        unsafe {
            if WHOLE {
                return simd.load(p);
            }
            let before = usize::try_from(-column).unwrap_or(0);
            let end = usize::try_from(self.width as isize - column).unwrap_or(0);
            simd.load_masked_or(p, simd.mask(before, end.max(before)), simd.splat(f32::NEG_INFINITY))
        }
    }
}
