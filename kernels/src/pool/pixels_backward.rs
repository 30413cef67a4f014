//! The way back of a [pooling](super) in NHWC: vectors of channels.

use std::ops::Range;

use super::planes_backward::MOST_TAPS;
use super::{PoolPlan, Pooling};
use crate::simd::{Simd, SimdOp};

/// f32s in the buffer of what windows give.
const BUFFER: usize = 1024;

/// Vectors of channels that are computed together where there are as many.
const TOGETHER: usize = 4;

/// Some channels of an image.
pub(super) struct Channels<'a> {
    pub(super) plan: &'a PoolPlan,
    pub(super) channels: Range<usize>,
    /// The image's input and gradient by its output.
    pub(super) input: &'a [f32],
    pub(super) grad_output: &'a [f32],
    /// The image's gradient by its input; these channels of every pixel are the caller's alone.
    pub(super) grad_input: *mut f32,
}

/// Vectors of channels from `c` on, the only one, or all of them, with `lanes` lanes.
#[derive(Clone, Copy, Debug)]
struct Vectors {
    c: usize,
    lanes: usize,
}

impl<S: Simd> SimdOp<S> for Channels<'_> {
    type Output = ();
    #[inline(always)]
    fn eval(self, simd: S) {
        let spec = &self.plan.spec;
        let mut buffer = [0.0; BUFFER];
        let [rows, columns] = spec.kernel();
        if self.plan.pooling == Pooling::Max && rows.saturating_mul(columns) > MOST_TAPS {
            return self.one_by_one();
        }
        let mut c = self.channels.start;
        while c < self.channels.end {
            let left = self.channels.end - c;
            if left >= TOGETHER * S::LANES {
                self.vectors::<S, TOGETHER>(simd, Vectors { c, lanes: S::LANES }, &mut buffer);
                c += TOGETHER * S::LANES;
            } else {
                let lanes = S::LANES.min(left);
                self.vectors::<S, 1>(simd, Vectors { c, lanes }, &mut buffer);
                c += lanes;
            }
        }
    }
}

impl Channels<'_> {
    /// V vectors of channels in all pixels.
    #[inline(always)]
    fn vectors<S: Simd, const V: usize>(&self, simd: S, vectors: Vectors, buffer: &mut [f32; BUFFER]) {
        let spec = &self.plan.spec;
        let is_max = self.plan.pooling == Pooling::Max;
        match (spec.dilation(), spec.kernel()[1], spec.stride()[1]) {
            ([1, 1], 2, 1) if is_max => self.slide::<S, V, true, 2, 1>(simd, vectors, buffer),
            ([1, 1], 3, 1) if is_max => self.slide::<S, V, true, 3, 1>(simd, vectors, buffer),
            ([1, 1], 3, 2) if is_max => self.slide::<S, V, true, 3, 2>(simd, vectors, buffer),
            ([1, 1], 2, 1) if !is_max => self.slide::<S, V, false, 2, 1>(simd, vectors, buffer),
            ([1, 1], 3, 1) if !is_max => self.slide::<S, V, false, 3, 1>(simd, vectors, buffer),
            ([1, 1], 3, 2) if !is_max => self.slide::<S, V, false, 3, 2>(simd, vectors, buffer),
            _ if is_max => self.scatter::<S, V, true>(simd, vectors),
            _ => self.scatter::<S, V, false>(simd, vectors),
        }
    }

    /// The first of some channels of a pixel of the gradient.
    #[inline(always)]
    fn grad_input(&self, row: usize, column: usize, vectors: Vectors) -> *mut f32 {
        let spec = &self.plan.spec;
        self.grad_input.wrapping_add((row * spec.in_width() + column) * spec.channels() + vectors.c)
    }

    /// That of the input.
    #[inline(always)]
    fn input(&self, row: usize, column: usize, vectors: Vectors) -> *const f32 {
        let spec = &self.plan.spec;
        self.input.as_ptr().wrapping_add((row * spec.in_width() + column) * spec.channels() + vectors.c)
    }

    /// That of the gradient by the output.
    #[inline(always)]
    fn grad_output(&self, y: usize, x: usize, vectors: Vectors) -> *const f32 {
        let spec = &self.plan.spec;
        self.grad_output.as_ptr().wrapping_add((y * spec.out_width() + x) * spec.channels() + vectors.c)
    }

    /// Clears pixels of a row.
    #[inline(always)]
    fn clear<S: Simd, const V: usize>(&self, simd: S, row: usize, columns: Range<usize>, vectors: Vectors) {
        let zeros = [simd.splat(0.0); V];
        for column in columns {
            // SAFETY: these channels of the pixel are the caller's.
            unsafe { put::<S, V>(simd, self.grad_input(row, column, vectors), zeros, vectors.lanes, false) };
        }
    }

    /// V vectors of channels for windows of `COLUMNS` neighbouring columns and neighbouring rows; what two windows of a
    /// row give to the same pixel adds up in registers. `MAX` says of which pooling.
    #[inline(always)]
    fn slide<S: Simd, const V: usize, const MAX: bool, const COLUMNS: usize, const STRIDE: usize>(
        &self,
        simd: S,
        vectors: Vectors,
        buffer: &mut [f32; BUFFER],
    ) {
        let spec = &self.plan.spec;
        let out_width = spec.out_width();
        let most = BUFFER / (V * S::LANES);
        // Strips of windows go down the rows, so that what two rows of windows give to meets in the level-1 cache.
        let mut begun = 0;
        for x in (0..out_width).step_by(most) {
            let windows = x..out_width.min(x + most);
            let (mut touched, mut end) = (0, begun);
            for (y, span) in self.plan.spans[0].iter().enumerate() {
                for row in touched..span.place {
                    self.clear::<S, V>(simd, row, begun..spec.in_width(), vectors);
                }
                for (i, x) in windows.clone().enumerate() {
                    let found = self.look::<S, V, MAX>(simd, y, x, vectors);
                    let to = buffer[i * V * S::LANES..][..V * S::LANES].as_mut_ptr();
                    // SAFETY: V vectors of the buffer.
                    unsafe { put::<S, V>(simd, to, found, S::LANES, false) };
                }
                for r in 0..span.taps {
                    end = self.hand_out::<S, V, MAX, COLUMNS, STRIDE>(
                        simd,
                        y,
                        windows.clone(),
                        r,
                        span.place + r < touched,
                        begun,
                        vectors,
                        buffer,
                    );
                }
                touched = span.place + span.taps;
            }
            for row in touched..spec.in_height() {
                self.clear::<S, V>(simd, row, begun..spec.in_width(), vectors);
            }
            begun = end;
        }
        // Columns behind the last window.
        for row in 0..spec.in_height() {
            self.clear::<S, V>(simd, row, begun..spec.in_width(), vectors);
        }
    }

    /// Of a maximum which tap it was, counted row by row from the first row in the input, of an average each pixel's
    /// share, in V vectors of channels.
    #[inline(always)]
    fn look<S: Simd, const V: usize, const MAX: bool>(
        &self,
        simd: S,
        y: usize,
        x: usize,
        vectors: Vectors,
    ) -> [S::F32; V] {
        let (rows, columns) = (self.plan.spans[0][y], self.plan.spans[1][x]);
        let mut found = [simd.splat(0.0); V];
        if !MAX {
            let divisor = simd.splat(rows.counted * columns.counted);
            // SAFETY: these channels are there.
            let grads = unsafe { get::<S, V>(simd, self.grad_output(y, x, vectors), vectors.lanes) };
            for (share, grad) in found.iter_mut().zip(grads) {
                *share = simd.div(grad, divisor);
            }
            return found;
        }
        let ([vertical, horizontal], kernel) = (self.plan.spec.dilation(), self.plan.spec.kernel()[1]);
        let channels = self.plan.spec.channels();
        let first = self.input(rows.place, columns.place, vectors);
        let row = vertical.wrapping_mul(self.plan.spec.in_width()).wrapping_mul(channels);
        let column = horizontal.wrapping_mul(channels);
        let one = simd.splat(1.0);
        // Where all are −∞ the first one in the input.
        let mut so_far = [(simd.splat(f32::NEG_INFINITY), simd.splat(columns.first as f32)); V];
        for r in 0..rows.taps {
            let mut number = simd.splat((r * kernel + columns.first) as f32);
            for s in 0..columns.taps {
                let tap = first.wrapping_add(r.wrapping_mul(row)).wrapping_add(s.wrapping_mul(column));
                // SAFETY: the tap lies in the input; these channels of it as well.
                let values = unsafe { get::<S, V>(simd, tap, vectors.lanes) };
                for (so_far, value) in so_far.iter_mut().zip(values) {
                    *so_far = simd.larger(*so_far, value, number);
                }
                number = simd.add(number, one);
            }
        }
        for (taker, so_far) in found.iter_mut().zip(so_far) {
            *taker = so_far.1;
        }
        found
    }

    /// Row `r` of windows' pixels; those before column `begun`, or all if the row has been `touched`, have got something
    /// already. Returns the column behind the last one.
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "an inner loop of `slide`")]
    fn hand_out<S: Simd, const V: usize, const MAX: bool, const COLUMNS: usize, const STRIDE: usize>(
        &self,
        simd: S,
        y: usize,
        windows: Range<usize>,
        r: usize,
        touched: bool,
        begun: usize,
        vectors: Vectors,
        buffer: &[f32; BUFFER],
    ) -> usize {
        let (width, left) = (self.plan.spec.in_width(), self.plan.spec.padding().left);
        let (row, kernel) = (self.plan.spans[0][y].place + r, self.plan.spec.kernel()[1]);
        let channels = self.plan.spec.channels();
        let zero = simd.splat(0.0);
        let mut numbers = [zero; COLUMNS];
        for (s, number) in numbers.iter_mut().enumerate() {
            *number = simd.splat((r * kernel + s) as f32);
        }
        let mut sums = [[zero; V]; COLUMNS];
        let mut end = begun;
        let (first, last) = (windows.start, windows.end - 1);
        // Windows whose first columns are in the input, are not the last ones, and have not begun.
        let plain =
            (left + begun).div_ceil(STRIDE)..last.min((width + left).saturating_sub(COLUMNS) / STRIDE + 1);
        for x in windows {
            let from = buffer[(x - first) * V * S::LANES..][..V * S::LANES].as_ptr();
            // SAFETY: the buffer has V vectors of each window; these channels of its gradient are there.
            let (found, grads) = unsafe {
                let found = get::<S, V>(simd, from, S::LANES);
                let grads = self.grad_output(y, x, vectors);
                (found, if MAX { get::<S, V>(simd, grads, vectors.lanes) } else { found })
            };
            for s in 0..COLUMNS {
                for i in 0..V {
                    sums[s][i] = match MAX {
                        true => simd.add_where_equal(sums[s][i], grads[i], found[i], numbers[s]),
                        false => simd.add(sums[s][i], found[i]),
                    };
                }
            }
            if plain.contains(&x) {
                let column = x * STRIDE - left;
                let to = self.grad_input(row, column, vectors);
                for s in 0..STRIDE {
                    // SAFETY: these channels of the pixel are the caller's.
                    unsafe {
                        put::<S, V>(simd, to.wrapping_add(s * channels), sums[s], vectors.lanes, touched)
                    };
                }
                end = column + STRIDE;
            } else {
                // Of all columns of the last window those that no other window of this strip has.
                let done = if x == last { COLUMNS } else { STRIDE };
                // A copy, because indices that are not constants would keep the sums themselves in memory.
                let copy = sums;
                for (s, sums) in copy.into_iter().enumerate().take(done) {
                    let column = (x * STRIDE + s).checked_sub(left).filter(|&column| column < width);
                    let Some(column) = column else { continue };
                    let to = self.grad_input(row, column, vectors);
                    // SAFETY: these channels of the pixel are the caller's.
                    unsafe { put::<S, V>(simd, to, sums, vectors.lanes, touched || column < begun) };
                    end = column + 1;
                }
            }
            for s in 0..COLUMNS {
                sums[s] = if s + STRIDE < COLUMNS { sums[(s + STRIDE) % COLUMNS] } else { [zero; V] };
            }
        }
        end
    }

    /// V vectors of channels for any windows, one after the other.
    #[inline(always)]
    fn scatter<S: Simd, const V: usize, const MAX: bool>(&self, simd: S, vectors: Vectors) {
        let spec = &self.plan.spec;
        let (alone, all) = self.plan.tiling();
        if !(alone && all) {
            for row in 0..spec.in_height() {
                self.clear::<S, V>(simd, row, 0..spec.in_width(), vectors);
            }
        }
        let ([vertical, horizontal], kernel) = (spec.dilation(), spec.kernel()[1]);
        for (y, rows) in self.plan.spans[0].iter().enumerate() {
            for (x, columns) in self.plan.spans[1].iter().enumerate() {
                let found = self.look::<S, V, MAX>(simd, y, x, vectors);
                // SAFETY: these channels are there.
                let grads = unsafe { get::<S, V>(simd, self.grad_output(y, x, vectors), vectors.lanes) };
                for r in 0..rows.taps {
                    for s in 0..columns.taps {
                        let mut gives = found;
                        if MAX {
                            let number = simd.splat((r * kernel + columns.first + s) as f32);
                            for (give, grad) in gives.iter_mut().zip(grads) {
                                *give = simd.add_where_equal(simd.splat(0.0), grad, *give, number);
                            }
                        }
                        let tap = (rows.place + r * vertical, columns.place + s * horizontal);
                        let to = self.grad_input(tap.0, tap.1, vectors);
                        // SAFETY: these channels of the pixel are the caller's.
                        unsafe { put::<S, V>(simd, to, gives, vectors.lanes, !alone) };
                    }
                }
            }
        }
    }

    /// Maxima of any windows, one channel and window after the other.
    fn one_by_one(&self) {
        let spec = &self.plan.spec;
        let ([vertical, horizontal], kernel) = (spec.dilation(), spec.kernel());
        debug_assert!(kernel[0].saturating_mul(kernel[1]) > MOST_TAPS);
        for c in self.channels.clone() {
            let vectors = Vectors { c, lanes: 1 };
            // SAFETY: this channel of every pixel is in the input, and the caller's in the gradient; all taps of windows
            // lie in the input.
            unsafe {
                for (row, column) in (0..spec.in_height())
                    .flat_map(|row| (0..spec.in_width()).map(move |column| (row, column)))
                {
                    *self.grad_input(row, column, vectors) = 0.0;
                }
                for (y, rows) in self.plan.spans[0].iter().enumerate() {
                    for (x, columns) in self.plan.spans[1].iter().enumerate() {
                        let mut best: Option<(f32, *mut f32)> = None;
                        for (r, s) in (0..rows.taps).flat_map(|r| (0..columns.taps).map(move |s| (r, s))) {
                            let (row, column) = (rows.place + r * vertical, columns.place + s * horizontal);
                            let value = *self.input(row, column, vectors);
                            if best.is_none_or(|(largest, _)| {
                                value > largest || (value.is_nan() && !largest.is_nan())
                            }) {
                                best = Some((value, self.grad_input(row, column, vectors)));
                            }
                        }
                        if let Some((_, place)) = best {
                            *place += *self.grad_output(y, x, vectors);
                        }
                    }
                }
            }
        }
    }
}

/// V vectors; a single one has `lanes` lanes.
///
/// # Safety
/// As many f32s from `p` on are valid for reads; `lanes <= LANES`, and equal where V > 1.
#[inline(always)]
unsafe fn get<S: Simd, const V: usize>(simd: S, p: *const f32, lanes: usize) -> [S::F32; V] {
    let mut vectors = [simd.splat(0.0); V];
    for (i, vector) in vectors.iter_mut().enumerate() {
        // SAFETY: by the caller's promise.
        *vector = unsafe {
            match V {
                1 => simd.load_partial(p, lanes),
                _ => simd.load(p.add(i * S::LANES)),
            }
        };
    }
    vectors
}

/// Stores V vectors, or adds them; a single one has `lanes` lanes.
///
/// # Safety
/// As many f32s from `p` on are valid for reads and writes; `lanes <= LANES`, and equal where V > 1.
#[inline(always)]
unsafe fn put<S: Simd, const V: usize>(simd: S, p: *mut f32, vectors: [S::F32; V], lanes: usize, add: bool) {
    let mut vectors = vectors;
    // SAFETY: by the caller's promise.
    unsafe {
        if add {
            let old = get::<S, V>(simd, p, lanes);
            for (vector, old) in vectors.iter_mut().zip(old) {
                *vector = simd.add(old, *vector);
            }
        }
        for (i, vector) in vectors.into_iter().enumerate() {
            match V {
                1 => simd.store_partial(p, vector, lanes),
                _ => simd.store(p.add(i * S::LANES), vector),
            }
        }
    }
}
