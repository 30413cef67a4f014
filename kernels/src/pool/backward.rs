//! The way back of a [pooling](super): gradients from outputs to inputs.

use std::ops::Range;

use super::pairs_backward::{self, Pairs};
use super::pixels_backward::Channels;
use super::planes_backward::Planes;
use super::threes_backward::{self, Threes};
use super::{PoolPlan, PoolSpec};
use crate::buffer::LINE;
use crate::parallel::SharedOutput;
use crate::simd::Simd;
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

/// Computes the gradients of blocks, which belong to the caller alone.
///
/// # Safety
/// The blocks are some of a plan for the buffers' sizes, and nobody else touches their gradients meanwhile.
pub(super) unsafe fn blocks<S: Simd>(
    simd: S,
    plan: &PoolPlan,
    blocks: &Blocks,
    range: Range<usize>,
    input: &[f32],
    grad_output: &[f32],
    grad_input: SharedOutput,
) {
    let spec = &plan.spec;
    let in_pixels = spec.in_height() * spec.in_width();
    let out_pixels = spec.out_height() * spec.out_width();
    match spec.layout() {
        Layout::Nchw => {
            let (start, len) = (range.start, range.len());
            let planes = Planes {
                plan,
                input: &input[start * in_pixels..][..len * in_pixels],
                grad_output: &grad_output[start * out_pixels..][..len * out_pixels],
                // SAFETY: planes are `in_pixels` long, and these are the caller's.
                grad_input: unsafe {
                    std::slice::from_raw_parts_mut(grad_input.at(start * in_pixels), len * in_pixels)
                },
            };
            match (pairs_backward::suits(plan), threes_backward::stride(plan)) {
                (true, _) if spec.out_width() <= S::Half::LANES => simd.half().vectorize(Pairs(planes)),
                (true, _) => simd.vectorize(Pairs(planes)),
                (_, Some(1)) if S::LANES >= 8 => simd.vectorize(Threes::<1>(planes)),
                (_, Some(2)) if S::LANES >= 8 => simd.vectorize(Threes::<2>(planes)),
                _ => simd.vectorize(planes),
            }
        }
        Layout::Nhwc => {
            for block in range {
                let (n, channels) = blocks.of(spec, block);
                let (start, len) = (n * in_pixels * spec.channels(), in_pixels * spec.channels());
                let outputs = out_pixels * spec.channels();
                simd.vectorize(Channels {
                    plan,
                    channels,
                    input: &input[start..][..len],
                    grad_output: &grad_output[n * outputs..][..outputs],
                    // SAFETY: the image starts inside the gradient.
                    grad_input: unsafe { grad_input.at(start) },
                });
            }
        }
    }
}
