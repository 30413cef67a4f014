//! `pointwise`: 1×1 convolutions as a matrix product, without any im2col.
//!
//! # Idea
//! A 1×1 filter mixes the channels of one pixel: the lecture's 256×256×64 → 256×256×32. That is a
//! product of two matrices, (pixels × channels)·(channels × filters) in NHWC and its transpose in
//! NCHW, and the input already is the first of them.
//!
//! # Data layout
//! ```text
//! NHWC  input  [pixel][channel]   rows of the tile, read in place
//!       weights [panel][channel][vectors · LANES]
//! NCHW  input  [channel][pixel]   columns of the tile, packed in panels of NR pixels
//!       weights [strip][channel][rows]
//! ```
//! Packing costs one load and store for each `filters` multiply-adds, and the tiles of some pixels do it for the
//! next ones, in the shadow of their sums (not where the stride skips some). NHWC pixels
//! are packed as well where the stride skips some (so that tiles run over row ends) and where their
//! distance is a large power of two (their cache lines would fall in the same set).
//!
//! # Loop nest
//! ```text
//! for each unit (image, group, block of pixels, part of the filters):   parallel
//!     NHWC: pack the block where needed
//!     for each run of pixels: for each panel or strip of filters:
//!         for each tile of pixels: for each channel: outer product, NCHW: and a row of the next run is packed
//! ```
//! A run of pixels stays in the level-1 or the level-2 cache while all filters pass over it.
//!
//! # Register budget
//! That of the [micro-kernel](crate::microkernel).
//!
//! # Supports and refuses
//! 1×1 kernels with any stride, groups, batch, both layouts. Refuses other kernels and padding.
//!
//! # Error model
//! One chain of multiply-adds for each output element: [`ErrorModel::Sum`].
//!
//! # Source
//! The GEMM structure is Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication",
//! ACM TOMS 34(3), 2008; 1×1 convolutions: Lin, Chen, Yan, "Network In Network", 2013.

use std::ops::Range;
use std::sync::Arc;

use crate::buffer::{LINE, odd_lines};
use crate::cache::CacheSizes;
use crate::error::ConvError;
use crate::gemm::{Pass, filters_by_pixels, pixels_by_filters};
use crate::kernel::{Body, PlanOptions, Stores};
use crate::microkernel::Copying;
use crate::packed::Packed;
use crate::parallel;
use crate::partition::{Partition, Partitioned, Shared, Unit, Worker};
use crate::registry::Algorithm;
use crate::simd::{Simd, SimdOp, prefetch};
use crate::spec::{ConvSpec, Layout, Padding};
use crate::weights::{Order, Panels, Strips};

/// 1×1 convolutions as a matrix product.
pub(crate) struct Pointwise;

impl Algorithm for Pointwise {
    const NAME: &'static str = "pointwise";

    fn supports(spec: &ConvSpec) -> Result<(), String> {
        let [height, width] = spec.kernel();
        if [height, width] != [1, 1] {
            return Err(format!("kernel {height}x{width} (needs 1x1)"));
        }
        if spec.padding() != Padding::none() {
            let Padding { top, left, bottom, right } = spec.padding();
            return Err(format!("padding {top},{left},{bottom},{right} (needs 0)"));
        }
        if spec.group_in_channels() > MOST_CHANNELS {
            return Err(format!(
                "{} channels in a group (needs at most {MOST_CHANNELS})",
                spec.group_in_channels()
            ));
        }
        Ok(())
    }

    fn pack<S: Simd>(
        simd: S,
        spec: &ConvSpec,
        weights: &[f32],
        options: &PlanOptions,
    ) -> Result<Packed, ConvError> {
        Ok(match spec.layout() {
            Layout::Nhwc => {
                let panels = Panels::pack::<S>(spec, weights, Order::RowColumnChannel)?;
                Packed::new(simd, options, panels.bytes(), panels, |simd, spec, &options, panels| {
                    let (spec, count, packed_row) = (*spec, panels.count, packed_row(spec));
                    let caches = CacheSizes::detect();
                    let near = panels.bytes() / spec.groups() <= caches.l2 / 4;
                    let stores = stores::<S>(&spec, &options);
                    let far = caches.is_far(spec.output_len()) && stores == Stores::Cached;
                    let worker = |block| {
                        let run = if near { 4 * S::MR } else { block };
                        Nhwc { simd, spec, options, panels, block, packed_row, run, far, stores }
                    };
                    // A block's input fills half the level-2 cache.
                    let most = caches.l2 / 2 / (4 * spec.group_in_channels());
                    let cut =
                        |images, pixels, threads| Partition::new(images, pixels, most, S::MR, count, threads);
                    Ok(body(&spec, options.threads, cut, worker))
                })
            }
            Layout::Nchw => {
                let strips = Strips::pack::<S>(spec, weights, Order::ChannelRowColumn)?;
                Packed::new(simd, options, strips.bytes(), strips, |simd, spec, &options, strips| {
                    let (spec, count) = (*spec, strips.count);
                    let caches = CacheSizes::detect();
                    let (run, far) = (run::<S>(&spec, &caches), caches.is_far(spec.output_len()));
                    let worker = |block: usize| {
                        let all = block.next_multiple_of(S::NR);
                        Nchw {
                            simd,
                            spec,
                            options,
                            strips,
                            run: run.min(all),
                            runs: 1 + usize::from(run < all),
                            far,
                        }
                    };
                    // Only the first run is packed by itself, the others in the shadow of sums, but with a stride all of
                    // them are, slowly.
                    let preparation = |block: u128| match spec.stride() {
                        [1, 1] => 2 * block.min(run as u128) + 2 * block,
                        _ => 20 * block,
                    };
                    let cut = |images, pixels, threads| {
                        let most = usize::MAX;
                        Partition::with_preparation(images, pixels, most, S::NR, count, threads, preparation)
                    };
                    Ok(body(&spec, options.threads, cut, worker))
                })
            }
        })
    }
}

/// The body around a worker, which is told the pixels of a block. `cut` is told images, pixels and threads.
fn body<W: Worker + 'static>(
    spec: &ConvSpec,
    threads: usize,
    cut: impl FnOnce(usize, usize, usize) -> Partition,
    worker: impl FnOnce(usize) -> W,
) -> Box<dyn Body> {
    let threads = parallel::worthwhile(threads, spec);
    let images = spec.batch() * spec.groups();
    let partition = cut(images, spec.out_height() * spec.out_width(), threads);
    let worker = worker(partition.block);
    Box::new(Partitioned { spec: *spec, threads, images, partition, worker })
}

/// Most channels of a group: all of a pixel's channels are packed at once, for a tile of pixels.
const MOST_CHANNELS: usize = 1 << 16;

/// Where NHWC outputs go first: past the caches only where tiles write whole lines, without reading them.
fn stores<S: Simd>(spec: &ConvSpec, options: &PlanOptions) -> Stores {
    let whole_lines = spec.group_out_channels().is_multiple_of(LINE);
    if S::STREAMS && whole_lines && !options.accumulate { options.stores } else { Stores::Cached }
}

/// Distance of packed NHWC pixels, if they have to be packed.
fn packed_row(spec: &ConvSpec) -> Option<usize> {
    let in_place = spec.stride() == [1, 1] && !(4 * spec.in_channels()).is_multiple_of(2048);
    (!in_place).then(|| odd_lines(spec.group_in_channels()))
}

#[derive(Debug)]
struct Nhwc<S> {
    simd: S,
    spec: ConvSpec,
    options: PlanOptions,
    panels: Arc<Panels>,
    block: usize,
    packed_row: Option<usize>,
    /// Pixels over which all filters pass before the next: few where the weights stay in the level-2 cache, so
    /// that outputs are stored side by side.
    run: usize,
    /// Outputs lie beyond the level-2 cache, and go there through it.
    far: bool,
    stores: Stores,
}

impl<S: Simd> Worker for Nhwc<S> {
    fn stores(&self) -> Stores {
        self.stores
    }

    fn scratch_len(&self) -> usize {
        self.packed_row.map_or(0, |row| row * self.block).next_multiple_of(LINE)
    }

    fn unit(&self, unit: &Unit, io: &Shared<'_>, scratch: &mut [f32]) {
        let spec = &self.spec;
        let (image, group) = (unit.image / spec.groups(), unit.image % spec.groups());
        let (channels, filters) = (spec.group_in_channels(), spec.group_out_channels());
        let pixels = spec.out_height() * spec.out_width();
        let source = |pixel: usize| {
            let (y, x) = (pixel / spec.out_width(), pixel % spec.out_width());
            let row = (image * spec.in_height() + y * spec.stride()[0]) * spec.in_width();
            (row + x * spec.stride()[1]) * spec.in_channels() + group * channels
        };
        let (a, a_row) = match self.packed_row {
            None => (io.input[source(unit.pixels.start)..].as_ptr(), spec.in_channels()),
            Some(row) => {
                for (pixel, packed) in unit.pixels.clone().zip(scratch.chunks_exact_mut(row)) {
                    packed[..channels].copy_from_slice(&io.input[source(pixel)..][..channels]);
                }
                (scratch.as_ptr(), row)
            }
        };
        let bias = io.group_bias(spec, group);
        let mut pass = Pass::of(0, channels, channels, &self.options, bias);
        pass.epilogue.far = self.far;
        pass.epilogue.streams = self.stores == Stores::Streaming;
        let start = (image * pixels + unit.pixels.start) * spec.out_channels() + group * filters;
        for first in (0..unit.pixels.len()).step_by(self.run) {
            // SAFETY: the unit's pixels are read in place (with stride 1 they lie `in_channels` apart
            // over row ends) or from the scratch; its output elements belong to this unit alone.
            unsafe {
                pixels_by_filters(
                    self.simd,
                    a.wrapping_add(first * a_row),
                    a_row,
                    self.run.min(unit.pixels.len() - first),
                    &self.panels,
                    group,
                    unit.filter_tiles.clone(),
                    &pass,
                    io.output.at(start + first * spec.out_channels()),
                    spec.out_channels(),
                );
            }
        }
    }
}

#[derive(Debug)]
struct Nchw<S> {
    simd: S,
    spec: ConvSpec,
    options: PlanOptions,
    strips: Arc<Strips>,
    /// Pixels over which all filters pass before the next, while those are packed: whole panels.
    run: usize,
    /// Runs that are packed at a time: one that is read, and the next, if there is one.
    runs: usize,
    /// Outputs lie beyond the level-2 cache.
    far: bool,
}

/// Panels that are packed together at most: lines enough side by side for a core to see them coming.
const RUN: usize = 4;

/// Pixels of a run: few panels, as many as leave half the level-2 cache to weights and outputs.
fn run<S: Simd>(spec: &ConvSpec, caches: &CacheSizes) -> usize {
    let most = if spec.stride() == [1, 1] { RUN } else { 4 * RUN };
    (caches.l2 / 4 / (4 * spec.group_in_channels() * S::NR)).clamp(1, most) * S::NR
}

impl<S: Simd> Worker for Nchw<S> {
    fn scratch_len(&self) -> usize {
        let row = if self.spec.stride() == [1, 1] { 0 } else { self.run };
        self.runs * self.spec.group_in_channels() * self.run + row
    }

    fn unit(&self, unit: &Unit, io: &Shared<'_>, scratch: &mut [f32]) {
        let spec = &self.spec;
        let (channels, filters) = (spec.group_in_channels(), spec.group_out_channels());
        let (in_pixels, pixels) = (spec.in_height() * spec.in_width(), spec.out_height() * spec.out_width());
        let group = unit.image % spec.groups();
        let planes = &io.input[unit.image * channels * in_pixels..][..channels * in_pixels];
        let (mut now, later) = scratch.split_at_mut(channels * self.run);
        let (mut next, row) = later.split_at_mut((self.runs - 1) * channels * self.run);
        let mut pass = Pass::of(0, channels, channels, &self.options, io.group_bias(spec, group));
        pass.epilogue.far = self.far;
        let run = |start: usize| start..(start + self.run).min(unit.pixels.end);
        let mut here = run(unit.pixels.start);
        self.simd.vectorize(Pack { spec, planes, pixels: here.clone(), panels: now, row });
        while !here.is_empty() {
            let there = run(here.end);
            // Whole panels of pixels side by side are packed by the tiles.
            let whole = if spec.stride() == [1, 1] { there.len() / S::NR } else { 0 };
            let from = planes.as_ptr().wrapping_add(there.start);
            let mut copying = Copying::new::<S>(from, in_pixels, channels, next.as_mut_ptr(), whole);
            // SAFETY: the unit's output elements belong to it alone; the planes hold the pixels that are copied,
            // `next` has room for a run of them, and a run that is followed by another has as many panels.
            unsafe {
                filters_by_pixels(
                    self.simd,
                    &self.strips,
                    group,
                    unit.filter_tiles.clone(),
                    now,
                    here.len(),
                    &pass,
                    io.output.at(unit.image * filters * pixels + here.start),
                    pixels,
                    Some(&mut copying),
                );
            }
            let (rest, packed) = (there.start + whole * S::NR..there.end, whole * channels * S::NR);
            self.simd.vectorize(Pack { spec, planes, pixels: rest, panels: &mut next[packed..], row });
            (now, next) = (next, now);
            here = there;
        }
    }
}

/// Copies the input pixels under some output pixels as `[panel][channel][NR]`, zeros behind the last.
struct Pack<'a> {
    spec: &'a ConvSpec,
    /// The planes of the group's channels.
    planes: &'a [f32],
    pixels: Range<usize>,
    panels: &'a mut [f32],
    /// Room for one channel's pixels, where the stride skips some.
    row: &'a mut [f32],
}

impl<S: Simd> SimdOp<S> for Pack<'_> {
    type Output = ();
    #[inline(always)]
    fn eval(self, simd: S) {
        let Pack { spec, planes, pixels, panels, row } = self;
        let plane = spec.in_height() * spec.in_width();
        let len = spec.group_in_channels() * S::NR;
        for (channel, from) in planes.chunks_exact(plane).enumerate() {
            let from = if spec.stride() == [1, 1] {
                // Planes are too many for a core to see each of them coming.
                for line in pixels.clone().step_by(LINE) {
                    prefetch(from.as_ptr().wrapping_add(AHEAD * plane + line));
                }
                &from[pixels.clone()]
            } else {
                let row = &mut row[..pixels.len()];
                skip(simd, spec, from, pixels.start, row);
                row
            };
            for (from, to) in from.chunks(S::NR).zip(panels.chunks_exact_mut(len)) {
                copy(simd, from, &mut to[channel * S::NR..][..S::NR]);
            }
        }
    }
}

/// Channels ahead of which lines are asked for: few enough for planes whose lines share a set of the cache.
const AHEAD: usize = 4;

/// Copies at most NR values; zeros behind them.
#[inline(always)]
fn copy<S: Simd>(simd: S, from: &[f32], to: &mut [f32]) {
    for (j, to) in to.chunks_exact_mut(S::LANES).enumerate() {
        let from = &from[(j * S::LANES).min(from.len())..];
        // SAFETY: `to` is a vector long, and as many values are read as are there.
        unsafe {
            let values = if from.len() >= S::LANES {
                simd.load(from.as_ptr())
            } else {
                simd.load_partial(from.as_ptr(), from.len())
            };
            simd.store(to.as_mut_ptr(), values);
        }
    }
}

/// Copies the pixels of a plane under output pixels from `first` on, of which the stride skips some.
#[inline(always)]
fn skip<S: Simd>(simd: S, spec: &ConvSpec, plane: &[f32], first: usize, row: &mut [f32]) {
    let ([stride_y, stride_x], width) = (spec.stride(), spec.out_width());
    let (mut y, mut x) = (first / width, first % width);
    let mut done = 0;
    while done < row.len() {
        let count = (width - x).min(row.len() - done);
        let to = &mut row[done..done + count];
        let from = &plane[y * stride_y * spec.in_width()..][..spec.in_width()];
        let from = &from[x * stride_x..];
        // Planes are too many for a core to see each of them coming.
        // (A stride that is never taken may be as long as numbers go.)
        for line in (0..from.len().min(count.saturating_mul(stride_x))).step_by(LINE) {
            prefetch(from.as_ptr().wrapping_add(AHEAD * plane.len() + line));
        }
        if stride_x == 2 {
            for (from, to) in from.chunks(2 * S::LANES).zip(to.chunks_mut(S::LANES)) {
                let (a, b) = from.split_at(from.len().min(S::LANES));
                // SAFETY: as many values are read and written as are there.
                unsafe {
                    if to.len() == S::LANES && b.len() == S::LANES {
                        simd.store(
                            to.as_mut_ptr(),
                            simd.unzip(simd.load(a.as_ptr()), simd.load(b.as_ptr())).0,
                        );
                    } else {
                        let a = simd.load_partial(a.as_ptr(), a.len());
                        let b = simd.load_partial(b.as_ptr(), b.len());
                        simd.store_partial(to.as_mut_ptr(), simd.unzip(a, b).0, to.len());
                    }
                }
            }
        } else {
            for (i, to) in to.iter_mut().enumerate() {
                *to = from[i * stride_x];
            }
        }
        (done, y, x) = (done + count, y + 1, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::AlignedBuffer;
    use crate::kernel::Io;
    use crate::simd::on_every_isa;

    /// Outputs and where they went first.
    fn run<S: Simd>(simd: S, text: &str, options: &PlanOptions, offset: usize) -> (Vec<u32>, Stores) {
        let spec: ConvSpec = text.parse().unwrap();
        let numbers =
            |len: usize| (0..len).map(|i| (i * 7919 % 1013) as f32 * 0.37 - 187.0).collect::<Vec<_>>();
        let packed = Pointwise::pack(simd, &spec, &numbers(spec.weights_len()), options).unwrap();
        let body = packed.body(&spec).unwrap();
        let mut scratch = AlignedBuffer::zeros(body.scratch_len()).unwrap();
        let mut output = AlignedBuffer::zeros(offset + spec.output_len()).unwrap();
        let io = Io { input: &numbers(spec.input_len()), bias: None, output: &mut output[offset..] };
        body.run(io, &mut scratch);
        (output[offset..].iter().map(|x| x.to_bits()).collect(), body.stores())
    }

    /// Past the caches go whole lines that are not read; the bits are the same, wherever the output starts.
    fn check<S: Simd>(simd: S) {
        let cached = PlanOptions::default();
        let streaming = PlanOptions { stores: Stores::Streaming, ..cached };
        let best = if S::STREAMS { Stores::Streaming } else { Stores::Cached };
        for (text, stores) in [
            ("n2 c9 h5 w7 o32 k1 nhwc", best),
            ("c9 h5 w7 o48 k1 nhwc", best),
            ("c10 h5 w7 o96 k1 g2 nhwc", best),
            ("c9 h5 w7 o40 k1 nhwc", Stores::Cached),
            ("c9 h5 w7 o32 k1", Stores::Cached),
        ] {
            for offset in [0, 1, 8] {
                let (want, where_cached) = run(simd, text, &cached, offset);
                let (bits, where_streaming) = run(simd, text, &streaming, offset);
                assert_eq!((where_cached, where_streaming), (Stores::Cached, stores), "{text}");
                assert!(bits == want, "{text}, {offset}");
            }
        }
        let adds = PlanOptions { accumulate: true, ..streaming };
        assert_eq!(run(simd, "c9 h5 w7 o32 k1 nhwc", &adds, 0).1, Stores::Cached);
    }

    #[test]
    fn streams_what_it_says_it_streams() {
        on_every_isa!(s => check(s));
    }
}
