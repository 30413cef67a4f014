//! Rows of outputs of a [pooling](super).

use std::marker::PhantomData;
use std::ops::Range;

use super::spec::Axis;
use super::{PoolPlan, Pooling, divisor};
use crate::parallel::SharedOutput;
use crate::simd::{Simd, SimdOp};
use crate::spec::Layout;

/// How two values become one.
pub(super) trait Reduction {
    /// Changes nothing when it is one of them.
    const IDENTITY: f32;
    /// Whether the result is divided by how many values there are.
    const DIVIDES: bool;
    fn scalars(a: f32, b: f32) -> f32;
    fn vectors<S: Simd>(simd: S, a: S::F32, b: S::F32) -> S::F32;
}

pub(super) struct Largest;

impl Reduction for Largest {
    const IDENTITY: f32 = f32::NEG_INFINITY;
    const DIVIDES: bool = false;
    #[inline(always)]
    fn scalars(a: f32, b: f32) -> f32 {
        if a > b || a.is_nan() { a } else { b }
    }
    #[inline(always)]
    fn vectors<S: Simd>(simd: S, a: S::F32, b: S::F32) -> S::F32 {
        simd.max(a, b)
    }
}

struct Sum;

impl Reduction for Sum {
    const IDENTITY: f32 = 0.0;
    const DIVIDES: bool = true;
    #[inline(always)]
    fn scalars(a: f32, b: f32) -> f32 {
        a + b
    }
    #[inline(always)]
    fn vectors<S: Simd>(simd: S, a: S::F32, b: S::F32) -> S::F32 {
        simd.add(a, b)
    }
}

/// Columns of the buffer in which the rows of windows are reduced.
pub(super) const BUFFER: usize = 1024;

/// What vectors may read beyond the last column that counts: two of the longest, in pairs of taps.
pub(super) const SLACK: usize = 48;

/// Computes rows of outputs, counted through all planes (NCHW) or images (NHWC). They belong to the caller alone.
pub(super) fn rows<S: Simd>(
    simd: S,
    plan: &PoolPlan,
    input: &[f32],
    output: SharedOutput,
    rows: Range<usize>,
) {
    match plan.pooling {
        Pooling::Max => simd.vectorize(Rows::<Largest> { plan, input, output, rows, how: PhantomData }),
        Pooling::Average { .. } => {
            simd.vectorize(Rows::<Sum> { plan, input, output, rows, how: PhantomData });
        }
    }
}

struct Rows<'a, R> {
    plan: &'a PoolPlan,
    input: &'a [f32],
    output: SharedOutput,
    rows: Range<usize>,
    how: PhantomData<R>,
}

impl<S: Simd, R: Reduction> SimdOp<S> for Rows<'_, R> {
    type Output = ();
    #[inline(always)]
    fn eval(self, simd: S) {
        let spec = &self.plan.spec;
        let mut buffer = [R::IDENTITY; BUFFER + SLACK];
        let pixel = if spec.layout() == Layout::Nhwc { spec.channels() } else { 1 };
        let image = spec.in_height() * spec.in_width() * pixel;
        let len = spec.out_width() * pixel;
        for row in self.rows {
            let (index, y) = (row / spec.out_height(), row % spec.out_height());
            let image = &self.input[index * image..][..image];
            // SAFETY: rows of outputs are `len` long, and this one is the caller's alone.
            let out = unsafe { std::slice::from_raw_parts_mut(self.output.at(row * len), len) };
            match spec.layout() {
                Layout::Nhwc => pixels::<S, R>(simd, self.plan, image, y, out),
                Layout::Nchw if spec.axis(0).is_whole(y) && spec.axis(1).is_whole(0) && len == 1 => {
                    out[0] = all::<S, R>(simd, image);
                }
                Layout::Nchw => columns::<S, R>(simd, self.plan, image, y, out, &mut buffer),
            }
            if R::DIVIDES {
                let rows = spec.axis(0).counted(y, self.plan.pooling.counts_padding());
                if pixel == 1 {
                    let values = out.iter_mut().zip(&self.plan.columns);
                    values.for_each(|(value, columns)| *value /= divisor(rows, *columns));
                    continue;
                }
                for (pixel, columns) in out.chunks_exact_mut(pixel).zip(&self.plan.columns) {
                    let divisor = divisor(rows, *columns);
                    pixel.iter_mut().for_each(|value| *value /= divisor);
                }
            }
        }
    }
}

/// The sum of all values, each of which goes through few roundings more than the number of values over that of lanes.
#[inline(always)]
pub(crate) fn sum<S: Simd>(simd: S, values: &[f32]) -> f32 {
    all::<S, Sum>(simd, values)
}

/// All values as one.
#[inline(always)]
fn all<S: Simd, R: Reduction>(simd: S, values: &[f32]) -> f32 {
    let mut sums = [simd.splat(R::IDENTITY); 4];
    let mut blocks = values.chunks_exact(4 * S::LANES);
    for block in &mut blocks {
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: the block has four vectors.
            *sum = R::vectors(simd, *sum, unsafe { simd.load(block.as_ptr().add(i * S::LANES)) });
        }
    }
    let mut vectors = blocks.remainder().chunks_exact(S::LANES);
    for vector in &mut vectors {
        // SAFETY: a whole vector.
        sums[0] = R::vectors(simd, sums[0], unsafe { simd.load(vector.as_ptr()) });
    }
    let halves = [R::vectors(simd, sums[0], sums[2]), R::vectors(simd, sums[1], sums[3])];
    let mut lanes = [R::IDENTITY; 16];
    // SAFETY: no vector has more than 16 lanes.
    unsafe { simd.store(lanes.as_mut_ptr(), R::vectors(simd, halves[0], halves[1])) };
    // Halves of halves: as many roundings as the logarithm of the lanes.
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] = R::scalars(lanes[i], lanes[i + half]);
        }
    }
    vectors.remainder().iter().fold(lanes[0], |sum, &value| R::scalars(sum, value))
}

/// A row of outputs in NHWC: vectors of channels.
#[inline(always)]
fn pixels<S: Simd, R: Reduction>(simd: S, plan: &PoolPlan, image: &[f32], y: usize, out: &mut [f32]) {
    let spec = &plan.spec;
    let (channels, width) = (spec.channels(), spec.in_width());
    let (vertical, horizontal) = (spec.axis(0), spec.axis(1));
    let rows = vertical.taps(y);
    for (x, out) in out.chunks_exact_mut(channels).enumerate() {
        let columns = horizontal.taps(x);
        if rows.is_empty() || columns.is_empty() {
            out.fill(R::IDENTITY);
            continue;
        }
        let start = vertical.place(y, rows.start) * width + horizontal.place(x, columns.start);
        let window = Window {
            first: image[start * channels..].as_ptr(),
            rows: rows.len(),
            columns: columns.len(),
            row: vertical.dilation.wrapping_mul(width * channels),
            column: horizontal.dilation.wrapping_mul(channels),
        };
        let mut c = 0;
        // SAFETY: the window's pixels lie in the image, channels c.. of them are there to read, and of `out` to
        // write; the last vector is as short as what is left.
        unsafe {
            while c + 4 * S::LANES <= channels {
                window.reduce::<S, R, 4>(simd, c, S::LANES, out.as_mut_ptr().add(c));
                c += 4 * S::LANES;
            }
            while c < channels {
                let lanes = S::LANES.min(channels - c);
                window.reduce::<S, R, 1>(simd, c, lanes, out.as_mut_ptr().add(c));
                c += lanes;
            }
        }
    }
}

/// Pixels of a window that lie in the image, in NHWC.
#[derive(Clone, Copy)]
pub(super) struct Window {
    pub(super) first: *const f32,
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// f32s from one row of the window to the next.
    pub(super) row: usize,
    /// f32s from one pixel of a row to the next.
    pub(super) column: usize,
}

impl Window {
    /// V vectors of channels from `c` on; the only one, or all of them, have `lanes` lanes.
    ///
    /// # Safety
    /// Those channels of the window's pixels are valid for reads, as many f32s of `out` for writes;
    /// `lanes <= LANES`, and equal where V > 1.
    #[inline(always)]
    unsafe fn reduce<S: Simd, R: Reduction, const V: usize>(
        self,
        simd: S,
        c: usize,
        lanes: usize,
        out: *mut f32,
    ) {
        let mut sums = [simd.splat(R::IDENTITY); V];
        for r in 0..self.rows {
            for s in 0..self.columns {
                let pixel = self.first.wrapping_add(r * self.row + s * self.column + c);
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
        }
        for (i, sum) in sums.into_iter().enumerate() {
            // SAFETY: by the caller's promise.
            unsafe { simd.store_partial(out.add(i * S::LANES), sum, lanes) };
        }
    }
}

/// A row of outputs in NCHW: rows of the windows first, then columns.
#[inline(always)]
fn columns<S: Simd, R: Reduction>(
    simd: S,
    plan: &PoolPlan,
    plane: &[f32],
    y: usize,
    out: &mut [f32],
    buffer: &mut [f32; BUFFER + SLACK],
) {
    let axis = plan.spec.axis(1);
    let extent = axis.extent();
    if extent > BUFFER {
        // One window at a time, as many of its taps as the buffer holds.
        let most = (BUFFER - 1) / axis.dilation + 1;
        for (x, out) in out.iter_mut().enumerate() {
            *out = R::IDENTITY;
            let mut tap = 0;
            while tap < axis.kernel {
                let taps = most.min(axis.kernel - tap);
                let first = x * axis.stride + tap * axis.dilation;
                reduce_rows::<S, R>(simd, plan, plane, y, first, (taps - 1) * axis.dilation + 1, buffer);
                let columns = buffer[..BUFFER].iter().step_by(axis.dilation).take(taps);
                *out = columns.fold(*out, |sum, &value| R::scalars(sum, value));
                tap += taps;
            }
        }
        return;
    }
    // As many windows as the buffer holds.
    let most = (BUFFER - extent) / axis.stride + 1;
    for (block, out) in out.chunks_mut(most).enumerate() {
        let span = (out.len() - 1) * axis.stride + extent;
        reduce_rows::<S, R>(simd, plan, plane, y, block * most * axis.stride, span, buffer);
        match axis.stride {
            1 => side_by_side::<S, R>(simd, axis, buffer, out),
            2 => in_pairs::<S, R>(simd, axis, buffer, out),
            _ => {
                for (x, out) in out.iter_mut().enumerate() {
                    let columns = buffer[x * axis.stride..].iter().step_by(axis.dilation).take(axis.kernel);
                    *out = columns.fold(R::IDENTITY, |sum, &value| R::scalars(sum, value));
                }
            }
        }
    }
}

/// Reduces the rows under outputs of row `y`: `span` columns from `first` on, counted in the padded input.
#[inline(always)]
fn reduce_rows<S: Simd, R: Reduction>(
    simd: S,
    plan: &PoolPlan,
    plane: &[f32],
    y: usize,
    first: usize,
    span: usize,
    buffer: &mut [f32; BUFFER + SLACK],
) {
    let (width, left) = (plan.spec.in_width(), plan.spec.padding().left);
    let vertical = plan.spec.axis(0);
    let rows = vertical.taps(y);
    let start = left.saturating_sub(first).min(span);
    let end = (width + left).saturating_sub(first).clamp(start, span);
    if rows.is_empty() || start == end {
        buffer[..span].fill(R::IDENTITY);
        return;
    }
    let top = vertical.place(y, rows.start) * width + first + start - left;
    // The last row that is read, to its end.
    let reach = (rows.len() - 1) * vertical.dilation * width + end - start;
    let from = plane[top..][..reach].as_ptr();
    let pitch = vertical.dilation.wrapping_mul(width);
    let mut i = start;
    while i < end {
        let lanes = S::LANES.min(end - i);
        let at = from.wrapping_add(i - start);
        // SAFETY: `lanes` columns from i - start on lie in every row, the last of which ends at `reach`; the buffer
        // has room for a vector at any of its columns.
        unsafe {
            let sum = if lanes == S::LANES {
                let mut sum = simd.load(at);
                for r in 1..rows.len() {
                    sum = R::vectors(simd, sum, simd.load(at.wrapping_add(r * pitch)));
                }
                sum
            } else {
                let mut sum = simd.load_partial(at, lanes);
                for r in 1..rows.len() {
                    sum = R::vectors(simd, sum, simd.load_partial(at.wrapping_add(r * pitch), lanes));
                }
                sum
            };
            simd.store(buffer.as_mut_ptr().add(i), sum);
        }
        i += lanes;
    }
    buffer[..start].fill(R::IDENTITY);
    buffer[end..span].fill(R::IDENTITY);
}

/// Outputs of stride 1: neighbouring windows are neighbouring vectors.
#[inline(always)]
fn side_by_side<S: Simd, R: Reduction>(simd: S, axis: Axis, buffer: &[f32; BUFFER + SLACK], out: &mut [f32]) {
    for (block, out) in out.chunks_mut(S::LANES).enumerate() {
        let at = buffer[block * S::LANES..].as_ptr();
        // SAFETY: the last tap of the last window lies in the first BUFFER columns, a vector from there on in the
        // slack.
        unsafe {
            let mut sum = simd.load(at);
            for s in 1..axis.kernel {
                sum = R::vectors(simd, sum, simd.load(at.add(s * axis.dilation)));
            }
            simd.store_partial(out.as_mut_ptr(), sum, out.len());
        }
    }
}

/// Outputs of stride 2: the even ones of two vectors, and, where taps are neighbours, the odd ones for the next tap.
#[inline(always)]
fn in_pairs<S: Simd, R: Reduction>(simd: S, axis: Axis, buffer: &[f32; BUFFER + SLACK], out: &mut [f32]) {
    let taps = if axis.dilation == 1 { 2 } else { 1 };
    for (block, out) in out.chunks_mut(S::LANES).enumerate() {
        let at = buffer[2 * block * S::LANES..].as_ptr();
        let mut sum = simd.splat(R::IDENTITY);
        let mut s = 0;
        while s < axis.kernel {
            // SAFETY: the last tap of the last window lies in the first BUFFER columns; the first window of the
            // block, with this tap, as well, and two vectors from there on in the slack.
            let (even, odd) = unsafe {
                let at = at.add(s * axis.dilation);
                simd.unzip_mixed(simd.load(at), simd.load(at.add(S::LANES)))
            };
            sum = R::vectors(simd, sum, even);
            if taps == 2 && s + 1 < axis.kernel {
                sum = R::vectors(simd, sum, odd);
            }
            s += taps;
        }
        // SAFETY: as many lanes as there are outputs.
        unsafe { simd.store_partial(out.as_mut_ptr(), simd.in_order::<0>(sum), out.len()) };
    }
}
