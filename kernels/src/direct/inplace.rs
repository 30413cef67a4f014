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
//!         for each step (r, s and channel): masked vectors of pixels × one weight of each filter
//! ```

use std::collections::HashMap;
use std::sync::Arc;

use super::filled;
use super::pixels::offsets;
use crate::buffer::try_vec;
use crate::cache::CacheSizes;
use crate::error::ConvError;
use crate::kernel::{Body, PlanOptions};
use crate::microkernel::{Bias, Epilogue, PixelTile, PixelVector, pixel_tile_fn, pixel_tile_shape};
use crate::parallel;
use crate::partition::{Partition, Partitioned, Shared, Unit, Worker};
use crate::simd::Simd;
use crate::spec::{ConvSpec, Layout, Padding};
use crate::weights::Strips;

#[derive(Debug)]
struct InPlace<S: Simd> {
    simd: S,
    spec: ConvSpec,
    options: PlanOptions,
    strips: Arc<Strips>,
    /// Distance of each step's pixels from those of the output; a negative one wraps.
    offsets: Vec<usize>,
    /// Every vector of a plane.
    vectors: Vec<PixelVector>,
    /// For each tap the lanes of a vector that are not padding; vectors that are alike share them, those that
    /// need none have the first.
    masks: Vec<S::Mask>,
    /// Vectors of a tile, a power of two.
    tile_vectors: usize,
}

/// Most taps of a kernel, and most pixels of a plane: each tap may take a mask for every vector.
const MOST_TAPS: usize = 64;
const MOST_PIXELS: usize = 1 << 24;

/// What a step costs, in vectors for each vector's worth of outputs. Masked loads cost a little.
pub(super) fn cost<S: Simd>(spec: &ConvSpec) -> f64 {
    let masks = if spec.padding() == Padding::none() { 1.0 } else { 1.02 };
    masks * filled::<S>(spec.out_height() * spec.out_width())
}

/// Whether planes can be read where they lie, and vectors of whole planes are better than vectors of rows.
pub(super) fn pays<S: Simd>(spec: &ConvSpec) -> bool {
    let reach = spec.dilated_kernel()[0] - 1;
    S::MASKS
        && spec.layout() == Layout::Nchw
        && spec.stride() == [1, 1]
        && spec.in_width() == spec.out_width()
        && spec.kernel()[0] * spec.kernel()[1] <= MOST_TAPS
        && spec.out_height() * spec.out_width() <= MOST_PIXELS
        // Else no vectors would be alike.
        && spec.padding().top.max(spec.padding().bottom).max(reach) <= spec.in_height()
        && cost::<S>(spec) <= filled::<S>(spec.out_width())
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
    let partition = Partition::in_place(images, count, most, tile_vectors, strips.count, threads, S::LANES);

    let (vectors, masks) = vectors(simd, spec)?;
    let worker = InPlace {
        simd,
        spec: *spec,
        options: *options,
        strips,
        offsets: offsets::<S>(spec, |step| distance(spec, step))?,
        vectors,
        masks,
        tile_vectors,
    };
    Ok(Box::new(Partitioned { spec: *spec, threads, images, partition, worker }))
}

/// Every vector of a plane, and the masks of those that need some, behind a vector's that needs none.
fn vectors<S: Simd>(simd: S, spec: &ConvSpec) -> Result<(Vec<PixelVector>, Vec<S::Mask>), ConvError> {
    let (width, pixels) = (spec.out_width(), spec.out_height() * spec.out_width());
    let all = vec![(1 << S::LANES) - 1; spec.kernel()[0] * spec.kernel()[1]];
    let mut vectors = try_vec(pixels.div_ceil(S::LANES))?;
    let (mut masks, mut known) = (vec![simd.mask(0, S::LANES); all.len()], HashMap::new());
    let lack = |masks: usize| ConvError::OutOfMemory { bytes: masks * size_of::<S::Mask>() };
    let reach = (spec.kernel()[0] - 1) * spec.dilation()[0];
    for first in (0..pixels).step_by(S::LANES) {
        let lanes = S::LANES.min(pixels - first);
        let (y, last) = (first / width, (first + lanes - 1) / width);
        // Away from the first and last rows vectors that start in the same column are alike.
        let inner = y >= spec.padding().top && last + reach < spec.in_height() + spec.padding().top;
        let key = if inner && lanes == S::LANES { first % width } else { width + first };
        let start = match known.get(&key) {
            Some(&start) => start,
            None => {
                let bits = inside(spec, first, lanes);
                let start = if bits == all { 0 } else { masks.len() as u32 };
                if start > 0 {
                    masks.try_reserve(bits.len()).map_err(|_| lack(masks.len() + bits.len()))?;
                    masks.extend(bits.iter().map(|&bits| simd.mask_of(bits)));
                }
                known.try_reserve(1).map_err(|_| lack(masks.len()))?;
                known.insert(key, start);
                start
            }
        };
        vectors.push(PixelVector { b: first, c: first, lanes: lanes as u32, masks: start });
    }
    Ok((vectors, masks))
}

/// Distance of the pixel of a channel, kernel row and kernel column from the output's in its plane; a negative one
/// wraps.
fn distance(spec: &ConvSpec, [c, r, s]: [usize; 3]) -> usize {
    let ([dilation_y, dilation_x], padding) = (spec.dilation(), spec.padding());
    let y = (c * spec.in_height() + r * dilation_y).wrapping_sub(padding.top);
    y.wrapping_mul(spec.in_width()).wrapping_add(s * dilation_x).wrapping_sub(padding.left)
}

/// For each tap the lanes of the vector from output pixel `first` whose pixel is not padding, a bit for each.
fn inside(spec: &ConvSpec, first: usize, lanes: usize) -> Vec<u32> {
    let ([dilation_y, dilation_x], padding) = (spec.dilation(), spec.padding());
    // What would be negative wraps, which is beyond the last as well.
    let is_row = |pixel: usize, r: usize| {
        (pixel / spec.out_width() + r * dilation_y).wrapping_sub(padding.top) < spec.in_height()
    };
    let is_column = |pixel: usize, s: usize| {
        (pixel % spec.out_width() + s * dilation_x).wrapping_sub(padding.left) < spec.in_width()
    };
    let bits = |count: usize, is_inside: &dyn Fn(usize, usize) -> bool| -> Vec<u32> {
        let bits = |i| (0..lanes).fold(0, |bits, lane| bits | u32::from(is_inside(first + lane, i)) << lane);
        (0..count).map(bits).collect()
    };
    let (rows, columns) = (bits(spec.kernel()[0], &is_row), bits(spec.kernel()[1], &is_column));
    rows.iter().flat_map(|row| columns.iter().map(move |column| row & column)).collect()
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
                // Masks start with those of vectors that need none.
                let masked = now.iter().any(|vector| vector.masks > 0);
                let kernel = if masked { pixel_tile_fn::<S, true> } else { pixel_tile_fn::<S, false> };
                // SAFETY: a mask is of lanes whose pixel lies in the plane; the strip's outputs of these pixels
                // belong to this unit alone.
                unsafe {
                    let tile = PixelTile {
                        a: strip.data.as_ptr(),
                        a_step: self.strips.rows,
                        b: input.as_ptr(),
                        offsets: &self.offsets,
                        channels: spec.group_in_channels(),
                        channel: plane,
                        masks: &self.masks,
                        vectors: now,
                        c: io.output.at(filter * out_plane),
                        c_row: out_plane,
                        epilogue: Epilogue {
                            bias: bias.map_or(Bias::None, |b| Bias::Rows(b.wrapping_add(strip.first))),
                            accumulate: self.options.accumulate,
                            limits: self.options.limits(),
                            far: false,
                            streams: false,
                        },
                    };
                    kernel(strip.filters, count)(self.simd, &tile);
                }
                left = later;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::pixels::{ORDER, arrange_bands};
    use super::*;
    use crate::buffer::AlignedBuffer;
    use crate::kernel::Io;
    use crate::simd::on_every_isa;

    /// Planes in place give the same bits as bands of them, with the masks of every instruction set.
    fn check<S: Simd>(simd: S) {
        for text in [
            "c1 h5 w7 o1 k3 p1",
            "n2 c9 h14 w14 o20 k3 p1",
            "c3 h9 w21 o5 k3 p1",
            "c19 h6 w11 o3 k5 p2",
            "n2 c24 h8 w13 o12 k3 p1 g3",
            "c8 h7 w33 o17 k5x1 p3,0,1,0",
            "c12 h10 w9 o4 k3 p2 d2",
            "c17 h5 w19 o30 k1",
        ] {
            for (accumulate, threads) in [(false, 1), (true, 3)] {
                let spec: ConvSpec = text.parse().unwrap();
                let numbers = |len: usize| {
                    (0..len).map(|i| (i * 7919 % 1013) as f32 * 0.37 - 187.0).collect::<Vec<_>>()
                };
                let (input, bias) = (numbers(spec.input_len()), numbers(spec.out_channels()));
                let options = PlanOptions { accumulate, threads, ..Default::default() };
                let strips = Strips::pack::<S>(&spec, &numbers(spec.weights_len()), ORDER).unwrap();
                let strips = Arc::new(strips);
                let run = |body: Box<dyn Body>| {
                    let mut scratch = AlignedBuffer::zeros(body.scratch_len()).unwrap();
                    let mut output = numbers(spec.output_len());
                    body.run(Io { input: &input, bias: Some(&bias), output: &mut output }, &mut scratch);
                    output.into_iter().map(f32::to_bits).collect::<Vec<_>>()
                };
                let in_place = run(arrange(simd, &spec, &options, strips.clone()).unwrap());
                assert!(in_place == run(arrange_bands(simd, &spec, &options, strips).unwrap()), "{spec}");
            }
        }
    }

    #[test]
    fn planes_in_place_and_bands_agree() {
        on_every_isa!(s => check(s));
    }

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
            let pixels = spec.out_height() * spec.out_width();
            let [rows, columns] = spec.kernel();
            for first in (0..pixels).step_by(16) {
                let bits = inside(&spec, first, 16.min(pixels - first));
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
                        let distance = distance(&spec, [0, tap / columns, tap % columns]);
                        assert_eq!(pixel.wrapping_add(distance), index, "{spec} {pixel} {tap}");
                    }
                }
            }
        }
    }
}
