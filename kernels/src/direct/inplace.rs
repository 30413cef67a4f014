//! The form of [`direct`](super) whose lanes are pixels, for planes that are read where they lie: NCHW with
//! stride 1, where input rows are as long as output rows.
//!
//! There a tap is a shift of the whole plane. A vector holds neighbours of the plane, over row ends, so that all
//! vectors but the last are full however short the rows are; lanes whose pixel would lie in the padding are
//! masked. Nothing is copied.
//!
//! # Loop nest
//! ```text
//! for each unit (image, group, some vectors of the plane, part of the strips):   parallel
//!     for each strip of filters: for each tile of vectors:
//!         for each channel, for each tap (r, s): masked vectors of pixels × one weight of each filter
//! ```

use std::collections::HashMap;
use std::sync::Arc;

use super::filled;
use crate::buffer::try_vec;
use crate::cache::CacheSizes;
use crate::error::ConvError;
use crate::kernel::{Body, PlanOptions};
use crate::microkernel::{Bias, Epilogue, PixelTile, PixelVector, pixel_tile_fn, pixel_tile_shape};
use crate::parallel;
use crate::partition::{Partition, Partitioned, Shared, Unit, Worker};
use crate::simd::Simd;
use crate::spec::{ConvSpec, Layout};
use crate::weights::Strips;

#[derive(Debug)]
struct InPlace<S: Simd> {
    simd: S,
    spec: ConvSpec,
    options: PlanOptions,
    strips: Arc<Strips>,
    /// Distance of each tap's pixels from those of the output; a negative one wraps.
    offsets: Vec<usize>,
    /// Every vector of a plane.
    vectors: Vec<PixelVector>,
    /// For each tap the lanes of a vector that are not padding; vectors that are alike share them.
    masks: Vec<S::Mask>,
    /// Vectors of a tile, a power of two.
    tile_vectors: usize,
}

/// What a step costs, in vectors for each vector's worth of outputs. Masked loads cost a little.
pub(super) fn cost<S: Simd>(spec: &ConvSpec) -> f64 {
    1.02 * filled::<S>(spec.out_height() * spec.out_width())
}

/// Whether planes can be read where they lie, and vectors of whole planes are better than vectors of rows.
pub(super) fn pays<S: Simd>(spec: &ConvSpec) -> bool {
    S::MASKS
        && spec.layout() == Layout::Nchw
        && spec.stride() == [1, 1]
        && spec.in_width() == spec.out_width()
        && cost::<S>(spec) < filled::<S>(spec.out_width())
}

pub(super) fn arrange<S: Simd>(
    simd: S,
    spec: &ConvSpec,
    options: &PlanOptions,
    strips: Arc<Strips>,
) -> Result<Box<dyn Body>, ConvError> {
    let threads = parallel::worthwhile(options.threads, spec);
    let (_, tile_vectors) = pixel_tile_shape::<S>(spec.group_out_channels());
    let pixels = spec.out_height() * spec.out_width();
    let count = pixels.div_ceil(S::LANES);
    // The vectors of which the input fills half the level-2 cache, where other strips follow.
    let most = match strips.count {
        1 => count,
        _ => CacheSizes::detect().l2 / 2 / (4 * S::LANES * spec.group_in_channels()),
    };
    let images = spec.batch() * spec.groups();
    let partition = Partition::new(images, count, most, tile_vectors, strips.count, threads);

    let mut vectors = try_vec(count)?;
    // All lanes for every tap come first.
    let taps = spec.kernel()[0] * spec.kernel()[1];
    let mut masks = try_vec(taps)?;
    masks.resize(taps, simd.mask(0, S::LANES));
    let mut known = HashMap::from([(vec![(1 << S::LANES) - 1; taps], None)]);
    for first in (0..pixels).step_by(S::LANES) {
        let lanes = S::LANES.min(pixels - first);
        let bits = inside(spec, first, lanes);
        let start = *known.entry(bits).or_insert_with_key(|bits| {
            masks.extend(bits.iter().map(|&bits| simd.mask_of(bits)));
            Some(masks.len() - taps)
        });
        vectors.push(PixelVector { b: first, c: first, lanes, masks: start });
    }
    let worker = InPlace {
        simd,
        spec: *spec,
        options: *options,
        strips,
        offsets: offsets(spec)?,
        vectors,
        masks,
        tile_vectors,
    };
    Ok(Box::new(Partitioned { spec: *spec, threads, images, partition, worker }))
}

/// Distance of each tap's pixels from those of the output; a negative one wraps.
fn offsets(spec: &ConvSpec) -> Result<Vec<usize>, ConvError> {
    let ([height, width], [dilation_y, dilation_x]) = (spec.kernel(), spec.dilation());
    let mut offsets = try_vec(height * width)?;
    for r in 0..height {
        let row = (r * dilation_y).wrapping_sub(spec.padding().top).wrapping_mul(spec.in_width());
        offsets
            .extend((0..width).map(|s| row.wrapping_add(s * dilation_x).wrapping_sub(spec.padding().left)));
    }
    Ok(offsets)
}

/// For each tap the lanes of the vector from output pixel `first` whose pixel is not padding, a bit for each.
fn inside(spec: &ConvSpec, first: usize, lanes: usize) -> Vec<u32> {
    let ([rows, columns], [dilation_y, dilation_x]) = (spec.kernel(), spec.dilation());
    let (width, padding) = (spec.out_width(), spec.padding());
    let inside = |pixel: usize, tap: usize| {
        // What would be negative wraps, which is beyond the last as well.
        let y = (pixel / width + tap / columns * dilation_y).wrapping_sub(padding.top);
        let x = (pixel % width + tap % columns * dilation_x).wrapping_sub(padding.left);
        y < spec.in_height() && x < spec.in_width()
    };
    let bits =
        |tap| (0..lanes).filter(|lane| inside(first + lane, tap)).fold(0, |bits, lane| bits | 1 << lane);
    (0..rows * columns).map(bits).collect()
}

impl<S: Simd> Worker for InPlace<S> {
    fn scratch_len(&self) -> usize {
        0
    }

    fn unit(&self, unit: &Unit, io: &Shared<'_>, _: &mut [f32]) {
        let spec = &self.spec;
        let group = unit.image % spec.groups();
        let (plane, out_plane) = (spec.in_height() * spec.in_width(), spec.out_height() * spec.out_width());
        let input = &io.input[unit.image * spec.group_in_channels() * plane..];
        let bias = io.group_bias(spec, group);
        for index in unit.filter_tiles.clone() {
            let strip = self.strips.strip(group, index);
            let filter = unit.image * spec.group_out_channels() + strip.first;
            let mut left = &self.vectors[unit.pixels.clone()];
            while !left.is_empty() {
                let count = self.tile_vectors.min(1 << left.len().ilog2());
                let (now, later) = left.split_at(count);
                // SAFETY: a mask is of lanes whose pixel lies in the plane; the strip's outputs of these pixels
                // belong to this unit alone.
                unsafe {
                    let tile = PixelTile {
                        a: strip.data.as_ptr(),
                        a_step: self.strips.rows,
                        b: input.as_ptr(),
                        channels: spec.group_in_channels(),
                        channel: plane,
                        offsets: &self.offsets,
                        masks: &self.masks,
                        vectors: now,
                        c: io.output.at(filter * out_plane),
                        c_row: out_plane,
                        epilogue: Epilogue {
                            bias: bias.map_or(Bias::None, |b| Bias::Rows(b.wrapping_add(strip.first))),
                            accumulate: self.options.accumulate,
                            limits: self.options.limits(),
                            far: false,
                        },
                    };
                    pixel_tile_fn::<S>(strip.filters, count)(self.simd, &tile);
                }
                left = later;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Unmasked lanes of a tap are those whose pixel is there, and the tap's offset leads to it.
    #[test]
    fn masks_and_offsets_lead_to_the_pixels_of_taps() {
        for text in [
            "c1 h5 w7 o1 k3 p1",
            "c1 h9 w4 o1 k5x3 p0,1,4,1",
            "c1 h6 w6 o1 k3 p2 d2",
            "c1 h2 w3 o1 k1x5 p3,2,0,2",
        ] {
            let spec: ConvSpec = text.parse().unwrap();
            assert_eq!(spec.in_width(), spec.out_width(), "{spec}");
            let (offsets, pixels) = (offsets(&spec).unwrap(), spec.out_height() * spec.out_width());
            let [rows, columns] = spec.kernel();
            for first in (0..pixels).step_by(16) {
                let lanes = 16.min(pixels - first);
                let bits = inside(&spec, first, lanes);
                for (pixel, tap) in (first..first + 16).flat_map(|p| (0..rows * columns).map(move |t| (p, t)))
                {
                    let y = pixel / spec.out_width() + tap / columns * spec.dilation()[0];
                    let x = pixel % spec.out_width() + tap % columns * spec.dilation()[1];
                    let (top, left) = (spec.padding().top, spec.padding().left);
                    let is_there = pixel < pixels
                        && (top..top + spec.in_height()).contains(&y)
                        && (left..left + spec.in_width()).contains(&x);
                    assert_eq!(bits[tap] >> (pixel - first) & 1 == 1, is_there, "{spec} {pixel} {tap}");
                    if is_there {
                        let index = (y - top) * spec.in_width() + x - left;
                        assert_eq!(pixel.wrapping_add(offsets[tap]), index, "{spec} {pixel} {tap}");
                    }
                }
            }
        }
    }
}
