//! [`im2col-gemm`](super) in NCHW: windows are columns, packed pixel run by pixel run.

use std::ops::Range;
use std::sync::Arc;

use super::Blocking;
use crate::cache::CacheSizes;
use crate::error::ConvError;
use crate::gemm::{Pass, filters_by_pixels};
use crate::kernel::{Body, PlanOptions};
use crate::packed::Packed;
use crate::parallel;
use crate::partition::{Partition, Partitioned, Shared, Unit, Worker};
use crate::simd::{Simd, SimdOp};
use crate::spec::ConvSpec;
use crate::weights::{self, Order, Strips};

#[derive(Debug)]
struct Nchw<S> {
    simd: S,
    spec: ConvSpec,
    options: PlanOptions,
    strips: Arc<Strips>,
    block: usize,
    /// Steps of a pass.
    steps: usize,
}

pub(super) fn pack<S: Simd>(
    simd: S,
    spec: &ConvSpec,
    weights: &[f32],
    options: &PlanOptions,
) -> Result<Packed, ConvError> {
    let strips = Strips::pack::<S>(spec, weights, Order::ChannelRowColumn)?;
    Ok(Packed::new(simd, options, strips.bytes(), strips, arrange))
}

fn arrange<S: Simd>(
    simd: S,
    spec: &ConvSpec,
    options: &PlanOptions,
    strips: Arc<Strips>,
) -> Result<Box<dyn Body>, ConvError> {
    let threads = parallel::worthwhile(options.threads, spec);
    let Blocking { steps, pixels } = Blocking::new::<S>(spec, CacheSizes::detect());
    let images = spec.batch() * spec.groups();
    let all = spec.out_height() * spec.out_width();
    let partition = Partition::new(images, all, pixels, S::NR, strips.count, threads);
    let worker = Nchw { simd, spec: *spec, options: *options, strips, block: partition.block, steps };
    Ok(Box::new(Partitioned { spec: *spec, threads, images, partition, worker }))
}

/// Output pixels `len` long from column `x` of row `y`, at lane `lane` of a panel.
#[derive(Clone, Copy)]
struct Run {
    y: usize,
    x: usize,
    lane: usize,
    len: usize,
}

impl<S: Simd> Worker for Nchw<S> {
    fn scratch_len(&self) -> usize {
        self.block.next_multiple_of(S::NR) * self.steps
    }

    fn unit(&self, unit: &Unit, io: &Shared<'_>, scratch: &mut [f32]) {
        let spec = &self.spec;
        let (channels, filters) = (spec.group_in_channels(), spec.group_out_channels());
        let (in_pixels, pixels) = (spec.in_height() * spec.in_width(), spec.out_height() * spec.out_width());
        let group = unit.image % spec.groups();
        let planes = &io.input[unit.image * channels * in_pixels..][..channels * in_pixels];
        let total = weights::steps(spec);
        let bias = io.group_bias(spec, group);
        let start = unit.image * filters * pixels + unit.pixels.start;
        for index in 0..total.div_ceil(self.steps) {
            let pass = Pass::of(index, total, self.steps, &self.options, bias);
            let panels = scratch.chunks_exact_mut(pass.steps.len() * S::NR);
            for (first, panel) in unit.pixels.clone().step_by(S::NR).zip(panels) {
                let pixels = first..(first + S::NR).min(unit.pixels.end);
                self.simd.vectorize(Pack { worker: self, planes, steps: pass.steps.clone(), pixels, panel });
            }
            // SAFETY: the unit's output elements belong to it alone.
            unsafe {
                filters_by_pixels(
                    self.simd,
                    &self.strips,
                    group,
                    unit.filter_tiles.clone(),
                    scratch,
                    unit.pixels.len(),
                    &pass,
                    io.output.at(start),
                    pixels,
                    None,
                );
            }
        }
    }
}

/// Packs a panel: of all steps (channel, r, s) those in `steps`, for some output pixels.
struct Pack<'a, S> {
    worker: &'a Nchw<S>,
    planes: &'a [f32],
    steps: Range<usize>,
    pixels: Range<usize>,
    panel: &'a mut [f32],
}

impl<S: Simd> SimdOp<S> for Pack<'_, S> {
    type Output = ();
    #[inline(always)]
    fn eval(mut self, simd: S) {
        let spec = &self.worker.spec;
        let (kernel_width, width) = (spec.kernel()[1], spec.out_width());
        if self.pixels.len() < S::NR {
            self.panel.fill(0.0);
        }
        let mut pixel = self.pixels.start;
        while pixel < self.pixels.end {
            let (y, x, lane) = (pixel / width, pixel % width, pixel - self.pixels.start);
            let run = Run { y, x, lane, len: (width - x).min(self.pixels.end - pixel) };
            for s in 0..kernel_width {
                self.run(simd, run, s);
            }
            pixel += run.len;
        }
    }
}

impl<S: Simd> Pack<'_, S> {
    /// Packs a run of pixels for all steps with kernel column `s`: which of its pixels lie in the
    /// padding is the same for all of them.
    #[inline(always)]
    fn run(&mut self, simd: S, run: Run, s: usize) {
        let (spec, steps) = (&self.worker.spec, &self.steps);
        let [kernel_height, kernel_width] = spec.kernel();
        let (stride, left) = (spec.stride()[1], spec.padding().left);
        let shift = s * spec.dilation()[1];
        // Outputs x with 0 <= x·stride + shift − left < in_width.
        let first = left.saturating_sub(shift).div_ceil(stride).clamp(run.x, run.x + run.len);
        let end = match (spec.in_width() + left).checked_sub(shift + 1) {
            Some(last) => (last / stride + 1).clamp(first, run.x + run.len),
            None => first,
        };
        let (before, inside) = (first - run.x, end - first);
        let row = run.y * spec.stride()[0];
        // The first step of the range in kernel column s.
        let mut k = steps.start + (s + kernel_width - steps.start % kernel_width) % kernel_width;
        let (mut c, mut r) = (k / kernel_width / kernel_height, k / kernel_width % kernel_height);
        while k < steps.end {
            let to = &mut self.panel[(k - steps.start) * S::NR + run.lane..][..run.len];
            let y = (row + r * spec.dilation()[0]).checked_sub(spec.padding().top);
            match y.filter(|&y| y < spec.in_height() && inside > 0) {
                Some(y) => {
                    let start = (c * spec.in_height() + y) * spec.in_width() + first * stride + shift - left;
                    let from = &self.planes[start..start + (inside - 1) * stride + 1];
                    to[..before].fill(0.0);
                    to[before + inside..].fill(0.0);
                    copy(simd, from, stride, &mut to[before..before + inside]);
                }
                None => to.fill(0.0),
            }
            k += kernel_width;
            r += 1;
            if r == kernel_height {
                (c, r) = (c + 1, 0);
            }
        }
    }
}

/// `to[i] = from[i * stride]`. Runs are at most a tile wide: too short to pay for a call of memcpy.
#[inline(always)]
fn copy<S: Simd>(simd: S, from: &[f32], stride: usize, to: &mut [f32]) {
    if stride > 1 {
        to.iter_mut().zip(from.iter().step_by(stride)).for_each(|(to, from)| *to = *from);
        return;
    }
    let len = to.len().min(from.len());
    let (mut to, mut from) = (to.as_mut_ptr(), from.as_ptr());
    // SAFETY: both have `len` f32s, and the pointers move through them.
    unsafe {
        for _ in 0..len / S::LANES {
            simd.store(to, simd.load(from));
            (to, from) = (to.add(S::LANES), from.add(S::LANES));
        }
        let rest = len % S::LANES;
        if rest > 0 {
            simd.store_partial(to, simd.load_partial(from, rest), rest);
        }
    }
}
