//! The form of [`direct`](super) whose lanes are pixels.
//!
//! # Loop nest
//! ```text
//! for each unit (image, group, block of output rows, part of the strips):   parallel
//!     copy the band, channels apart, columns split by phase of the stride
//!     for each strip of filters: for each tile of vectors of the rows:
//!         for each step (r, s and channel): vectors of pixels × one weight of each filter
//! ```
//! The vectors of a tile may come from different rows, so narrow images fill them as well as wide
//! ones. A table of offsets, one for each step, stands for channel, dilation and stride.
//!
//! Where [`inplace`] pays, it takes the packed weights and no band is copied.
//!
//! NHWC outputs go through scratch memory, one strip of a block at a time, and are transposed there.

use std::ops::Range;
use std::sync::Arc;

use super::inplace;
use crate::band::{Image, Planes, Window, most_rows, pack_planes, transpose_raw};
use crate::buffer::{LINE, try_vec};
use crate::cache::CacheSizes;
use crate::error::ConvError;
use crate::kernel::{Body, PlanOptions};
use crate::microkernel::{Bias, Epilogue, PixelTile, PixelVector, pixel_tile_fn, pixel_tile_shape};
use crate::packed::Packed;
use crate::parallel;
use crate::partition::{Partition, Partitioned, Shared, Unit, Worker};
use crate::simd::Simd;
use crate::spec::{ConvSpec, Layout};
use crate::weights::{Order, Strip, Strips, source, steps};

#[derive(Debug)]
struct Pixels<S> {
    simd: S,
    spec: ConvSpec,
    options: PlanOptions,
    strips: Arc<Strips>,
    planes: Planes,
    /// Groups that share a band: more than one where their channels lie side by side.
    groups: usize,
    /// Distance of each step's pixels from the output pixel's first.
    offsets: Vec<usize>,
    /// Every vector of pixels of a block, row by row.
    vectors: Vec<PixelVector>,
    /// Vectors of a tile, a power of two.
    tile_vectors: usize,
    band_len: usize,
    staged_len: usize,
}

/// Steps as [`PixelTile`] asks for them.
pub(super) const ORDER: Order = Order::BlockRowColumnChannel;

/// For each step of the reduction the distance of its channel, kernel row and kernel column.
pub(super) fn offsets<S: Simd>(
    spec: &ConvSpec,
    distance: impl Fn([usize; 3]) -> usize,
) -> Result<Vec<usize>, ConvError> {
    let [rows, columns] = spec.kernel();
    let count = steps(spec);
    let mut offsets = try_vec(count)?;
    offsets.extend((0..count).map(|k| {
        let step = source::<S>(spec, ORDER, k);
        distance([step / (rows * columns), step / columns % rows, step % columns])
    }));
    Ok(offsets)
}

pub(super) fn pack<S: Simd>(
    simd: S,
    spec: &ConvSpec,
    weights: &[f32],
    options: &PlanOptions,
) -> Result<Packed, ConvError> {
    // For both ways to read pixels: which of them runs depends on the size.
    let strips = Strips::pack::<S>(spec, weights, ORDER)?;
    Ok(Packed::new(simd, options, strips.bytes(), strips, arrange))
}

fn arrange<S: Simd>(
    simd: S,
    spec: &ConvSpec,
    options: &PlanOptions,
    strips: Arc<Strips>,
) -> Result<Box<dyn Body>, ConvError> {
    if inplace::pays::<S>(spec) {
        inplace::arrange(simd, spec, options, strips)
    } else {
        arrange_bands(simd, spec, options, strips)
    }
}

/// The body that reads bands.
pub(super) fn arrange_bands<S: Simd>(
    simd: S,
    spec: &ConvSpec,
    options: &PlanOptions,
    strips: Arc<Strips>,
) -> Result<Box<dyn Body>, ConvError> {
    let threads = parallel::worthwhile(options.threads, spec);
    let (_, tile_vectors) = pixel_tile_shape::<S>(spec.group_out_channels());
    let channels = spec.group_in_channels();
    let groups = groups_in_a_band(spec);
    let band_len = |rows: usize| Planes::new(spec, rows, S::LANES).channel * channels * groups;
    let staged_len = |rows: usize| match spec.layout() {
        Layout::Nchw => 0,
        Layout::Nhwc => rows * spec.out_width() * groups * spec.group_out_channels(),
    };
    let l2 = CacheSizes::detect().l2 / 4;
    let most = most_rows(spec, |rows| band_len(rows) <= l2 / 2 && staged_len(rows) <= l2 / 4);
    let images = spec.batch() * spec.groups().div_ceil(groups);
    // Where groups share a band their strips stay together.
    let tiles = if groups > 1 { 1 } else { strips.count };
    let partition = Partition::new(images, spec.out_height(), most, 1, tiles, threads);
    let planes = Planes::new(spec, partition.block, S::LANES);
    let offsets = offsets::<S>(spec, |[c, r, s]| planes.offset(spec, [c, r, s]))?;
    // A stride that is never taken may be as long as numbers go.
    let step = spec.stride()[0].saturating_mul(planes.row);
    let width = spec.out_width();
    let mut vectors = try_vec(partition.block * width.div_ceil(S::LANES))?;
    for y in 0..partition.block {
        vectors.extend((0..width).step_by(S::LANES).map(|x| PixelVector {
            b: y * step + x,
            c: y * width + x,
            lanes: S::LANES.min(width - x) as u32,
            masks: 0,
        }));
    }
    let worker = Pixels {
        simd,
        spec: *spec,
        options: *options,
        band_len: band_len(partition.block),
        staged_len: staged_len(partition.block),
        strips,
        planes,
        groups,
        offsets,
        vectors,
        tile_vectors,
    };
    Ok(Box::new(Partitioned { spec: *spec, threads, images, partition, worker }))
}

impl<S: Simd> Worker for Pixels<S> {
    fn scratch_len(&self) -> usize {
        self.band_len + self.staged_len
    }

    fn unit(&self, unit: &Unit, io: &Shared<'_>, scratch: &mut [f32]) {
        let spec = &self.spec;
        let bands = spec.groups().div_ceil(self.groups);
        let (n, first) = (unit.image / bands, unit.image % bands * self.groups);
        let groups = first..(first + self.groups).min(spec.groups());
        let rows = &unit.pixels;
        let (band, staged) = scratch.split_at_mut(self.band_len);
        let window = Window::under(spec, rows);
        let input = Image::input(spec, n, groups.clone());
        pack_planes(self.simd, spec, &input, &window, io.input, &self.planes, band);
        let output = Image::output(spec, n, groups.clone());
        match spec.layout() {
            Layout::Nchw => {
                // SAFETY: these rows and filters of the output belong to this unit alone; filters are
                // `channel()` f32s apart, rows without gaps.
                unsafe {
                    let start = io.output.at(output.at(0, rows.start, 0));
                    self.groups(groups, unit, io, band, start, output.channel());
                }
            }
            Layout::Nhwc => {
                let pixels = rows.len() * spec.out_width();
                let strips = self.strips_of(unit);
                let first = strips.start * self.strips.rows;
                let end = (strips.end * self.strips.rows).min(spec.group_out_channels());
                // One group's part of the filters, or all filters of several groups.
                let filters = (groups.len() - 1) * spec.group_out_channels() + end - first;
                let staged = &mut staged[..pixels * filters];
                // SAFETY: these rows and filters of the output belong to this unit alone; pixels are
                // `pixel()` f32s apart over row ends; the staged outputs have as many pixels and filters.
                unsafe {
                    let start = io.output.at(output.at(first, rows.start, 0));
                    let (pixel, staged) = (output.pixel(), staged.as_mut_ptr());
                    if self.options.accumulate {
                        transpose_raw(start, pixel, pixels, filters, staged, pixels);
                    }
                    self.groups(groups, unit, io, band, staged.wrapping_sub(first * pixels), pixels);
                    transpose_raw(staged, pixels, filters, pixels, start, pixel);
                }
            }
        }
    }
}

/// How many groups share a band: in NHWC as many as fill a cache line with channels.
fn groups_in_a_band(spec: &ConvSpec) -> usize {
    match spec.layout() {
        Layout::Nchw => 1,
        Layout::Nhwc => (LINE / spec.group_in_channels()).clamp(1, spec.groups()),
    }
}

impl<S: Simd> Pixels<S> {
    /// The strips of each group that a unit computes: its part, or all where groups share a band.
    fn strips_of(&self, unit: &Unit) -> Range<usize> {
        if self.groups > 1 { 0..self.strips.count } else { unit.filter_tiles.clone() }
    }

    /// The unit's outputs of some groups, stored filter by filter from `c`, `c_row` f32s apart.
    ///
    /// # Safety
    /// Those places of the unit's strips, counted from the first group's first filter, are valid for
    /// writes (and reads, when accumulating), and nobody else touches them.
    unsafe fn groups(
        &self,
        groups: Range<usize>,
        unit: &Unit,
        io: &Shared<'_>,
        band: &[f32],
        c: *mut f32,
        c_row: usize,
    ) {
        let spec = &self.spec;
        let plane = spec.group_in_channels() * self.planes.channel;
        for (group, band) in groups.clone().zip(band.chunks(plane)) {
            let bias = io.group_bias(spec, group);
            for index in self.strips_of(unit) {
                let strip = self.strips.strip(group, index);
                let epilogue = Epilogue {
                    bias: bias.map_or(Bias::None, |b| Bias::Rows(b.wrapping_add(strip.first))),
                    accumulate: self.options.accumulate,
                    limits: self.options.limits(),
                    far: false,
                    streams: false,
                };
                let filter = (group - groups.start) * spec.group_out_channels() + strip.first;
                // SAFETY: the strip's places are among those that the caller vouches for.
                unsafe {
                    self.strip(
                        &strip,
                        band,
                        unit.pixels.len(),
                        &epilogue,
                        c.wrapping_add(filter * c_row),
                        c_row,
                    );
                }
            }
        }
    }

    /// All outputs of a strip in the band's `rows` output rows, stored row by row from `c`, filters
    /// `c_row` f32s apart.
    ///
    /// # Safety
    /// Those places are valid for writes (and reads, when accumulating), and nobody else touches
    /// them.
    unsafe fn strip(
        &self,
        strip: &Strip<'_>,
        band: &[f32],
        rows: usize,
        epilogue: &Epilogue,
        c: *mut f32,
        c_row: usize,
    ) {
        let spec = &self.spec;
        let count = rows * spec.out_width().div_ceil(S::LANES);
        let mut left = &self.vectors[..count];
        while !left.is_empty() {
            let vectors = self.tile_vectors.min(1 << left.len().ilog2());
            let (now, later) = left.split_at(vectors);
            let tile = PixelTile {
                a: strip.data.as_ptr(),
                a_step: self.strips.rows,
                b: band.as_ptr(),
                offsets: &self.offsets,
                channels: spec.group_in_channels(),
                channel: self.planes.channel,
                masks: &[],
                vectors: now,
                c,
                c_row,
                epilogue: *epilogue,
            };
            // SAFETY: the band has room for whole vectors from every output column at every offset;
            // outputs are valid, by the caller's promise.
            unsafe { pixel_tile_fn::<S, false>(strip.filters, vectors)(self.simd, &tile) };
            left = later;
        }
    }
}
