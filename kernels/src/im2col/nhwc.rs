//! [`im2col-gemm`](super) in NHWC: windows are rows, packed channel run by channel run.

use std::ops::Range;
use std::sync::Arc;

use super::Blocking;
use crate::buffer::odd_lines;
use crate::cache::CacheSizes;
use crate::error::ConvError;
use crate::gemm::{Pass, pixels_by_filters};
use crate::kernel::{Body, PlanOptions};
use crate::packed::Packed;
use crate::parallel;
use crate::partition::{Partition, Partitioned, Shared, Unit, Worker};
use crate::simd::Simd;
use crate::spec::ConvSpec;
use crate::weights::{self, Order, Panels};

#[derive(Debug)]
struct Nhwc<S> {
    simd: S,
    spec: ConvSpec,
    options: PlanOptions,
    panels: Arc<Panels>,
    block: usize,
    /// Steps of a pass.
    steps: usize,
    /// f32s from one packed window to the next: an odd number of cache lines, so that the windows
    /// of a tile fall in different sets of the level-1 cache.
    pitch: usize,
}

pub(super) fn pack<S: Simd>(
    simd: S,
    spec: &ConvSpec,
    weights: &[f32],
    options: &PlanOptions,
) -> Result<Packed, ConvError> {
    let panels = Panels::pack::<S>(spec, weights, Order::RowColumnChannel)?;
    Ok(Packed::new(simd, options, panels.bytes(), panels, arrange))
}

fn arrange<S: Simd>(
    simd: S,
    spec: &ConvSpec,
    options: &PlanOptions,
    panels: Arc<Panels>,
) -> Result<Box<dyn Body>, ConvError> {
    let threads = parallel::worthwhile(options.threads, spec);
    let Blocking { steps, pixels } = Blocking::new::<S>(spec, CacheSizes::detect());
    let images = spec.batch() * spec.groups();
    let all = spec.out_height() * spec.out_width();
    let partition = Partition::new(images, all, pixels, S::MR, panels.count, threads);
    let pitch = odd_lines(steps);
    let worker = Nhwc { simd, spec: *spec, options: *options, panels, block: partition.block, steps, pitch };
    Ok(Box::new(Partitioned { spec: *spec, threads, images, partition, worker }))
}

impl<S: Simd> Worker for Nhwc<S> {
    fn scratch_len(&self) -> usize {
        self.block * self.pitch
    }

    fn unit(&self, unit: &Unit, io: &Shared<'_>, scratch: &mut [f32]) {
        let spec = &self.spec;
        let (n, group) = (unit.image / spec.groups(), unit.image % spec.groups());
        let filters = spec.group_out_channels();
        let total = weights::steps(spec);
        let bias = io.group_bias(spec, group);
        let pixels = spec.out_height() * spec.out_width();
        let start = (n * pixels + unit.pixels.start) * spec.out_channels() + group * filters;
        for index in 0..total.div_ceil(self.steps) {
            let pass = Pass::of(index, total, self.steps, &self.options, bias);
            for (pixel, window) in unit.pixels.clone().zip(scratch.chunks_exact_mut(self.pitch)) {
                self.pack(io.input, n, group, pixel, &pass.steps, window);
            }
            // SAFETY: the scratch holds the unit's windows for the pass's steps; its output elements
            // belong to this unit alone.
            unsafe {
                pixels_by_filters(
                    self.simd,
                    scratch.as_ptr(),
                    self.pitch,
                    unit.pixels.len(),
                    &self.panels,
                    group,
                    unit.filter_tiles.clone(),
                    &pass,
                    io.output.at(start),
                    spec.out_channels(),
                );
            }
        }
    }
}

impl<S: Simd> Nhwc<S> {
    /// Packs the window under an output pixel: of all its steps (r, s, channel) those in `steps`.
    fn pack(
        &self,
        input: &[f32],
        n: usize,
        group: usize,
        pixel: usize,
        steps: &Range<usize>,
        window: &mut [f32],
    ) {
        let spec = &self.spec;
        let channels = spec.group_in_channels();
        let kernel_width = spec.kernel()[1];
        let (y, x) = (pixel / spec.out_width(), pixel % spec.out_width());
        let (y, x) = (y * spec.stride()[0], x * spec.stride()[1]);
        // A run of steps whose pixels lie side by side: a tap, or a kernel row where the taps of a row
        // are neighbours and all inside the image.
        let left = spec.padding().left;
        let inside = x >= left && x + kernel_width <= spec.in_width() + left;
        let joined = inside && spec.groups() == 1 && spec.dilation()[1] == 1;
        let taps = if joined { kernel_width } else { 1 };
        let run = taps * channels;
        let mut k = steps.start;
        while k < steps.end {
            let (first, skip) = (k / run, k % run);
            let end = ((first + 1) * run).min(steps.end);
            let to = &mut window[k - steps.start..end - steps.start];
            let (r, s) = (first * taps / kernel_width, first * taps % kernel_width);
            let iy = (y + r * spec.dilation()[0]).checked_sub(spec.padding().top);
            let ix = (x + s * spec.dilation()[1]).checked_sub(left);
            match (iy, ix) {
                (Some(iy), Some(ix)) if iy < spec.in_height() && ix < spec.in_width() => {
                    let row = (n * spec.in_height() + iy) * spec.in_width();
                    let from = (row + ix) * spec.in_channels() + group * channels + skip;
                    to.copy_from_slice(&input[from..from + to.len()]);
                }
                _ => to.fill(0.0),
            }
            k = end;
        }
    }
}
