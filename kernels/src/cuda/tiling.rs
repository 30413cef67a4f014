//! Which tile, and how many parts of the reduction, for kernels that multiply tiles.
//!
//! The choice goes by an estimate of how long the busiest multiprocessor works, in multiply-adds of its CUDA
//! cores:
//! ```text
//! rounds · tile · (steps of a part) / (efficiency of the variant · share hidden)
//!     + rounds · FILL + what splitting costs
//! ```
//! `rounds` is how many blocks the busiest one gets, blocks / multiprocessors rounded up: a wave that is a quarter
//! full takes as long as a full one, which is what makes small tiles or more parts pay. `share hidden` says that
//! a multiprocessor with few warps waits for its own loads. Splitting writes each part to memory and reads it
//! again, and costs a second launch. The constants are estimates, good enough to compare tiles with.

use super::params::Params;
use super::schedule::{Launch, Limits, Settled, Team, window_of};
use super::variant::{OTHERS, STEPS, VARIANTS, Variant};
use crate::spec::ConvSpec;

/// Multiply-adds that a multiprocessor misses while a block's first tiles arrive and its sums leave.
const FILL: f64 = 64e3;
/// Multiply-adds in the time in which a multiprocessor's share of the memory delivers a byte.
const BYTE: f64 = 10.0;
/// Multiply-adds in the time between two kernels.
const LAUNCH: f64 = 400e3;
/// Warps of a multiprocessor that hide each other's loads.
const WARPS: f64 = 8.0;
/// Most parts of a reduction.
const MOST_SPLITS: usize = 16;
/// Fewest tiles of steps in a part.
const FEWEST_TILES: usize = 4;

/// A variant and the number of parts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tiling {
    pub(crate) variant: &'static Variant,
    pub(crate) splits: usize,
}

/// The tiling that should take least time, and that in multiply-adds, if the device can run any.
pub(crate) fn best(
    settled: Settled,
    spec: &ConvSpec,
    params: &Params,
    limits: &Limits,
) -> Option<(f64, Tiling)> {
    all(settled, spec, limits)
        .map(|tiling| (tiling.cost(params, limits), tiling))
        .min_by(|(a, _), (b, _)| a.total_cmp(b))
}

/// Every tiling of a convolution that the device can run.
pub(crate) fn all(settled: Settled, spec: &ConvSpec, limits: &Limits) -> impl Iterator<Item = Tiling> {
    let width = super::pack::width(spec);
    let (layout, window, limits) = (spec.layout(), window_of(spec), *limits);
    let tiles = super::pack::steps(spec).1 / STEPS;
    let most = (tiles / FEWEST_TILES).clamp(1, MOST_SPLITS);
    VARIANTS
        .iter()
        .filter(move |variant| {
            variant.method == settled.method
                && variant.warpgroups == (settled.team == Team::Warpgroup)
                && variant.layout == layout
                && variant.window == window
                && variant.width <= width
                && variant.capability <= limits.compute_capability
                && variant.shared_bytes <= limits.shared_bytes
        })
        .flat_map(move |variant| (1..=most).map(move |splits| Tiling { variant, splits }))
}

impl Tiling {
    /// Tiles that cover a group's filters and the pixels, and steps of a part.
    fn counts(&self, params: &Params) -> [usize; 3] {
        let [filters, pixels] = self.variant.tile;
        let part = (params.steps as usize / STEPS).div_ceil(self.splits) * STEPS;
        [(params.filters as usize).div_ceil(filters), (params.pixels as usize).div_ceil(pixels), part]
    }

    fn cost(&self, params: &Params, limits: &Limits) -> f64 {
        let [filter_tiles, pixel_tiles, part] = self.counts(params);
        let multiprocessors = f64::from(limits.multiprocessors.max(1));
        let blocks = (filter_tiles * pixel_tiles * self.splits) as f64 * f64::from(params.groups);
        let rounds = (blocks / multiprocessors).ceil();
        let [filters, pixels] = self.variant.tile;
        let warps = rounds * f64::from(self.variant.threads / 32);
        let hidden = 0.5 + 0.5 * (warps / WARPS).min(1.0);
        let work = (filters * pixels * part) as f64 / (self.variant.efficiency * hidden);
        let splitting = match self.splits {
            1 => 0.0,
            splits => {
                let bytes = 4.0 * f64::from(params.out_len) * (2 * splits + 1) as f64;
                LAUNCH + bytes * BYTE / multiprocessors
            }
        };
        rounds * (work + FILL) + splitting
    }

    /// The launches, and the f32s of scratch memory they need.
    pub(crate) fn launches(&self, params: Params) -> (Vec<Launch>, usize) {
        let [filter_tiles, pixel_tiles, part] = self.counts(&params);
        // Parts are whole tiles, so that there may be fewer of them than were wanted.
        let splits = (params.steps as usize).div_ceil(part);
        let params = Params {
            splits: splits as i32,
            split_steps: part as i32,
            filter_tiles: filter_tiles as i32,
            pixel_tiles: pixel_tiles as i32,
            ..params
        };
        // Each block has an output of its own at least, so that their number fits as the outputs' does.
        let blocks = filter_tiles * pixel_tiles * params.groups as usize;
        let mut launches = vec![Launch {
            function: self.variant.function,
            grid: [blocks as u32, 1, splits as u32],
            block: self.variant.threads,
            shared_bytes: self.variant.shared_bytes,
            params,
        }];
        if splits == 1 {
            return (launches, 0);
        }
        let (reduce, _) = &OTHERS[0];
        launches.push(Launch {
            function: reduce.name,
            grid: [(params.out_len as u32).div_ceil(reduce.threads), 1, 1],
            block: reduce.threads,
            shared_bytes: reduce.shared_bytes,
            params,
        });
        (launches, splits * params.out_len as usize)
    }
}
