//! The way back of a [pooling](super): gradients from outputs to inputs.

use std::ops::Range;

use super::forward::{Largest, Reduction, Window};
use super::planes::Plane;
use super::{PoolPlan, PoolSpec, Pooling, divisor};
use crate::buffer::LINE;
use crate::parallel::SharedOutput;
use crate::simd::{Simd, SimdOp};
use crate::spec::Layout;

/// How inputs are cut into parts that share no pixel: planes in NCHW, channels of an image in NHWC.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocks {
    /// Channels of a block.
    channels: usize,
}

impl Blocks {
    pub(super) fn new(spec: &PoolSpec, threads: usize) -> Self {
        let channels = match spec.layout() {
            Layout::Nchw => 1,
            // Whole cache lines, and a block for each thread.
            Layout::Nhwc => spec.channels().div_ceil(threads.div_ceil(spec.batch())).next_multiple_of(LINE),
        };
        Blocks { channels: channels.min(spec.channels()) }
    }

    /// Blocks of a channel range in all images.
    pub(super) fn count(self, spec: &PoolSpec) -> usize {
        spec.batch() * spec.channels().div_ceil(self.channels)
    }

    /// Image and channels of a block.
    fn of(self, spec: &PoolSpec, block: usize) -> (usize, Range<usize>) {
        let each = spec.channels().div_ceil(self.channels);
        let first = block % each * self.channels;
        (block / each, first..(first + self.channels).min(spec.channels()))
    }
}

/// Computes the gradient of a block, which belongs to the caller alone.
pub(super) fn block<S: Simd>(
    simd: S,
    plan: &PoolPlan,
    blocks: &Blocks,
    block: usize,
    input: &[f32],
    grad_output: &[f32],
    grad_input: SharedOutput,
) {
    let spec = &plan.spec;
    let (n, channels) = blocks.of(spec, block);
    let in_pixels = spec.in_height() * spec.in_width();
    let out_pixels = spec.out_height() * spec.out_width();
    match spec.layout() {
        Layout::Nchw => {
            let plane = n * spec.channels() + channels.start;
            // SAFETY: planes are `in_pixels` long, and this one is the caller's alone.
            let grad_input =
                unsafe { std::slice::from_raw_parts_mut(grad_input.at(plane * in_pixels), in_pixels) };
            let input = &input[plane * in_pixels..][..in_pixels];
            let grad_output = &grad_output[plane * out_pixels..][..out_pixels];
            simd.vectorize(Plane { plan, input, grad_output, grad_input });
        }
        Layout::Nhwc => {
            let (start, len) = (n * in_pixels * spec.channels(), in_pixels * spec.channels());
            simd.vectorize(Channels {
                plan,
                channels,
                input: &input[start..][..len],
                grad_output: &grad_output[n * out_pixels * spec.channels()..][..out_pixels * spec.channels()],
                // SAFETY: the image starts inside the gradient.
                grad_input: unsafe { grad_input.at(start) },
            });
        }
    }
}

/// Some channels of an image in NHWC.
struct Channels<'a> {
    plan: &'a PoolPlan,
    channels: Range<usize>,
    input: &'a [f32],
    grad_output: &'a [f32],
    grad_input: *mut f32,
}

impl<S: Simd> SimdOp<S> for Channels<'_> {
    type Output = ();
    #[inline(always)]
    fn eval(self, simd: S) {
        let spec = &self.plan.spec;
        let (vertical, horizontal) = (spec.axis(0), spec.axis(1));
        let (channels, width) = (spec.channels(), spec.in_width());
        for pixel in 0..spec.in_height() * width {
            // SAFETY: the block's channels of every pixel of the image are the caller's alone.
            unsafe {
                let first = self.grad_input.add(pixel * channels + self.channels.start);
                std::slice::from_raw_parts_mut(first, self.channels.len()).fill(0.0);
            }
        }
        for y in 0..spec.out_height() {
            let rows = vertical.taps(y);
            let counted = vertical.counted(y, self.plan.pooling.counts_padding());
            for x in 0..spec.out_width() {
                let columns = horizontal.taps(x);
                if rows.is_empty() || columns.is_empty() {
                    continue;
                }
                let start = vertical.place(y, rows.start) * width + horizontal.place(x, columns.start);
                let window = Window {
                    first: self.input[start * channels..].as_ptr(),
                    rows: rows.len(),
                    columns: columns.len(),
                    row: vertical.dilation.wrapping_mul(width * channels),
                    column: horizontal.dilation.wrapping_mul(channels),
                };
                let grads = &self.grad_output[(y * spec.out_width() + x) * channels..][..channels];
                let to = self.grad_input.wrapping_add(start * channels);
                let mut c = self.channels.start;
                while c < self.channels.end {
                    let lanes = S::LANES.min(self.channels.end - c);
                    // SAFETY: `lanes` channels from c on are in every pixel of the window, in `grads`, and the
                    // caller's in the gradient.
                    unsafe {
                        let grad = simd.load_partial(grads.as_ptr().add(c), lanes);
                        match self.plan.pooling {
                            Pooling::Max => window.to_largest(simd, c, lanes, grad, to),
                            Pooling::Average { .. } => {
                                let divisor = divisor(counted, self.plan.columns[x]);
                                window.to_all(simd, c, lanes, simd.mul(grad, simd.splat(1.0 / divisor)), to);
                            }
                        }
                    }
                    c += lanes;
                }
            }
        }
    }
}

impl Window {
    /// f32s from the first pixel's first channel to channel `c` of the pixel in row r and column s.
    #[inline(always)]
    fn at(self, r: usize, s: usize, c: usize) -> usize {
        r.wrapping_mul(self.row).wrapping_add(s.wrapping_mul(self.column)).wrapping_add(c)
    }

    /// Adds `grad` to the gradient, at `to` that of the first pixel, of the first largest pixel in each channel.
    ///
    /// # Safety
    /// `lanes` channels from `c` on are valid for reads in every pixel of the window, and for reads and writes in
    /// their gradients.
    #[inline(always)]
    unsafe fn to_largest<S: Simd>(self, simd: S, c: usize, lanes: usize, grad: S::F32, to: *mut f32) {
        let mut largest = simd.splat(Largest::IDENTITY);
        let zero = simd.splat(0.0);
        // SAFETY: by the caller's promise.
        unsafe {
            for r in 0..self.rows {
                for s in 0..self.columns {
                    let value = simd.load_partial(self.first.wrapping_add(self.at(r, s, c)), lanes);
                    largest = simd.max(largest, value);
                }
            }
            // What has found no place yet.
            let mut rest = grad;
            for r in 0..self.rows {
                for s in 0..self.columns {
                    let value = simd.load_partial(self.first.wrapping_add(self.at(r, s, c)), lanes);
                    let p = to.wrapping_add(self.at(r, s, c));
                    let here = simd.select_same(value, largest, rest, zero);
                    rest = simd.select_same(value, largest, zero, rest);
                    simd.store_partial(p, simd.add(simd.load_partial(p, lanes), here), lanes);
                }
            }
        }
    }

    /// Adds `grad` to the gradients of all pixels.
    ///
    /// # Safety
    /// As [`to_largest`](Self::to_largest).
    #[inline(always)]
    unsafe fn to_all<S: Simd>(self, simd: S, c: usize, lanes: usize, grad: S::F32, to: *mut f32) {
        for r in 0..self.rows {
            for s in 0..self.columns {
                let p = to.wrapping_add(self.at(r, s, c));
                // SAFETY: by the caller's promise.
                unsafe { simd.store_partial(p, simd.add(simd.load_partial(p, lanes), grad), lanes) };
            }
        }
    }
}
