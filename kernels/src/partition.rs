//! How a run's work is cut into units that threads share: blocks of pixels × parts of the filters.

use std::fmt;
use std::ops::Range;

use crate::kernel::{Body, ErrorModel, Io, Stores};
use crate::parallel::{self, SharedOutput};
use crate::simd::fence_streams;
use crate::spec::ConvSpec;

/// Units of work: `blocks` of pixels, each for all filters or for a part of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Partition {
    /// Pixels of the longest block.
    pub(crate) block: usize,
    /// Blocks of an image.
    pub(crate) blocks: usize,
    /// Parts of the filters.
    pub(crate) parts: usize,
    /// Whether all blocks of a part come before the next part, instead of all parts of a block before the next block.
    part_by_part: bool,
    filter_tiles: usize,
    pixels: usize,
    tile: usize,
}

/// What work takes, in eighths of a pixel times a tile of filters.
struct Costs<'a> {
    /// The sums of what counts as a pixel.
    pixel: u128,
    /// Preparing a block of so many.
    preparation: &'a dyn Fn(u128) -> u128,
}

/// A unit of work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    /// The image (or the group of an image, whatever the caller counts).
    pub(crate) image: usize,
    /// Pixels of the image.
    pub(crate) pixels: Range<usize>,
    /// Panels or strips of filters.
    pub(crate) filter_tiles: Range<usize>,
}

impl Partition {
    /// Cuts `images` of `pixels` pixels into blocks of at most `most` pixels (a multiple of `tile`,
    /// where there are so many), and the `filter_tiles` into parts, so that `threads` threads finish
    /// together and soon. Preparing a pixel takes about half a tile of filters' work.
    pub(crate) fn new(
        images: usize,
        pixels: usize,
        most: usize,
        tile: usize,
        filter_tiles: usize,
        threads: usize,
    ) -> Self {
        Partition::with_preparation(images, pixels, most, tile, filter_tiles, threads, |block| 4 * block)
    }

    /// [`new`](Self::new), where preparing a block of so many pixels takes what `preparation` says, in eighths of
    /// a pixel times a tile of filters.
    pub(crate) fn with_preparation(
        images: usize,
        pixels: usize,
        most: usize,
        tile: usize,
        filter_tiles: usize,
        threads: usize,
        preparation: impl Fn(u128) -> u128,
    ) -> Self {
        let costs = Costs { pixel: 8, preparation: &preparation };
        Partition::cut(images, pixels, most, tile, filter_tiles, threads, costs)
    }

    /// [`new`](Self::new), where nothing is prepared; what counts as a pixel may be `width` of them.
    pub(crate) fn in_place(
        images: usize,
        pixels: usize,
        most: usize,
        tile: usize,
        filter_tiles: usize,
        threads: usize,
        width: usize,
    ) -> Self {
        let costs = Costs { pixel: 8 * width as u128, preparation: &|_| 0 };
        Partition::cut(images, pixels, most, tile, filter_tiles, threads, costs)
    }

    fn cut(
        images: usize,
        pixels: usize,
        most: usize,
        tile: usize,
        filter_tiles: usize,
        threads: usize,
        costs: Costs<'_>,
    ) -> Self {
        let most = most.clamp(1, pixels).next_multiple_of(tile);
        let fewest = pixels.div_ceil(most);
        let cut = |blocks: usize, parts: usize| {
            let blocks = blocks.min(pixels.div_ceil(tile));
            // Where no cache asks for blocks and threads cannot share the filters evenly, they share some of them.
            let part_by_part = fewest == 1 && parts == filter_tiles && parts > threads;
            let partition = Partition { block: 0, blocks, parts, part_by_part, filter_tiles, pixels, tile };
            // Only the last may be longer than the one before, or shorter.
            let block = [blocks.saturating_sub(2), blocks - 1].map(|block| partition.block(block).len());
            Partition { block: block[0].max(block[1]), ..partition }
        };
        let most = (fewest + 4 * (threads - 1)).min(pixels.div_ceil(tile)).max(fewest);
        let uneven = fewest == 1 && filter_tiles > threads && !filter_tiles.is_multiple_of(threads);
        let parts = uneven.then_some(filter_tiles).into_iter().chain(1..=threads.min(filter_tiles));
        let candidates = parts.flat_map(|parts| (fewest..=most).map(move |blocks| (blocks, parts)));
        candidates
            .map(|(blocks, parts)| cut(blocks, parts))
            .min_by_key(|partition| partition.cost(images, threads, &costs))
            .unwrap_or_else(|| cut(fewest, 1))
    }

    /// What the busiest thread has to do, in eighths of a pixel times a tile of filters. Beside the
    /// sums themselves, each unit prepares its pixels and streams its filters through the cache (about eight
    /// pixels' work).
    fn cost(&self, images: usize, threads: usize, costs: &Costs<'_>) -> u128 {
        let tiles = self.filter_tiles.div_ceil(self.parts) as u128;
        let units = self.units(images).div_ceil(threads);
        let each = (costs.preparation)(self.block as u128) + 64 * tiles;
        // Of units that come part by part most are whole parts.
        let together = if self.part_by_part { self.blocks } else { 1 };
        let whole = if self.part_by_part { self.pixels } else { self.block };
        let [units, together] = [units, together].map(|n| n as u128);
        let pixels = units / together * whole as u128 + units % together * self.block as u128;
        costs.pixel * pixels * tiles + units * each
    }

    /// Units in `images` images.
    pub(crate) fn units(&self, images: usize) -> usize {
        images * self.blocks * self.parts
    }

    /// The pixels of a block: as many tiles as the others, or one more in the last blocks, of which the very last
    /// may end within a tile.
    fn block(&self, index: usize) -> Range<usize> {
        let tiles = self.pixels.div_ceil(self.tile);
        let (each, more) = (tiles / self.blocks, tiles % self.blocks);
        let start = |block: usize| {
            let tiles = block * each + (block + more).saturating_sub(self.blocks);
            (tiles * self.tile).min(self.pixels)
        };
        start(index)..start(index + 1)
    }

    /// The unit with this number.
    pub(crate) fn unit(&self, index: usize) -> Unit {
        let (image, index) = (index / (self.parts * self.blocks), index % (self.parts * self.blocks));
        let (block, part) = match self.part_by_part {
            true => (index % self.blocks, index / self.blocks),
            false => (index / self.parts, index % self.parts),
        };
        let bound = |part: usize| self.filter_tiles * part / self.parts;
        Unit { image, pixels: self.block(block), filter_tiles: bound(part)..bound(part + 1) }
    }
}

/// Buffers of a run, seen by all its units.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shared<'a> {
    pub(crate) input: &'a [f32],
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) output: SharedOutput,
}

impl Shared<'_> {
    /// The bias of a group's filters.
    pub(crate) fn group_bias(&self, spec: &ConvSpec, group: usize) -> Option<*const f32> {
        self.bias.map(|bias| bias[group * spec.group_out_channels()..].as_ptr())
    }
}

/// What a kernel does with one unit.
pub(crate) trait Worker: Send + Sync + fmt::Debug {
    /// f32s of scratch memory that a thread needs.
    fn scratch_len(&self) -> usize;
    /// Where outputs go first.
    fn stores(&self) -> Stores {
        Stores::Cached
    }
    /// Computes all outputs of a unit, and touches no others.
    fn unit(&self, unit: &Unit, io: &Shared<'_>, scratch: &mut [f32]);
}

/// A sum of products over units (image and group, block of pixels, part of the filters).
#[derive(Debug)]
pub(crate) struct Partitioned<W> {
    pub(crate) spec: ConvSpec,
    pub(crate) threads: usize,
    /// Images, as the partition counts them: those of every group, or of some groups together.
    pub(crate) images: usize,
    pub(crate) partition: Partition,
    pub(crate) worker: W,
}

impl<W: Worker> Body for Partitioned<W> {
    fn scratch_len(&self) -> usize {
        self.threads * self.worker.scratch_len()
    }

    fn threads(&self) -> usize {
        self.threads
    }

    fn error_model(&self) -> ErrorModel {
        ErrorModel::sum(&self.spec)
    }

    fn stores(&self) -> Stores {
        self.worker.stores()
    }

    fn run(&self, io: Io<'_>, scratch: &mut [f32]) {
        let units = self.partition.units(self.images);
        let shared = Shared { input: io.input, bias: io.bias, output: SharedOutput::new(io.output) };
        let each = self.worker.scratch_len();
        parallel::for_each_range(self.threads, units, scratch, each, &|range, scratch| {
            for index in range {
                self.worker.unit(&self.partition.unit(index), &shared, scratch);
            }
            if self.stores() == Stores::Streaming {
                // Before another thread learns that this one is done.
                fence_streams();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(partition: &Partition, images: usize) {
        let Partition { pixels, filter_tiles, .. } = *partition;
        let mut seen = vec![0; images * pixels * filter_tiles];
        for index in 0..partition.units(images) {
            let unit = partition.unit(index);
            assert!((1..=partition.block).contains(&unit.pixels.len()));
            for pixel in unit.pixels {
                for tile in unit.filter_tiles.clone() {
                    seen[(unit.image * pixels + pixel) * filter_tiles + tile] += 1;
                }
            }
        }
        assert!(seen.iter().all(|&n| n == 1), "{images} {partition:?}");
    }

    #[test]
    fn units_cover_every_pixel_and_filter_once() {
        for images in [1, 3] {
            for pixels in [1, 13, 49, 784] {
                for filter_tiles in [1, 2, 7] {
                    for threads in [1, 2, 5] {
                        check(&Partition::new(images, pixels, 100, 14, filter_tiles, threads), images);
                        check(
                            &Partition::in_place(images, pixels, 100, 2, filter_tiles, threads, 16),
                            images,
                        );
                    }
                }
            }
        }
    }

    /// Five tiles of filters over seven rows are 17 and 18 rows, not three tiles and two.
    #[test]
    fn threads_share_a_tile_of_filters_where_they_must() {
        let partition = Partition::in_place(1, 7, 100, 1, 5, 2, 7);
        let units = partition.units(1);
        let work = |range: Range<usize>| -> usize {
            range.map(|index| partition.unit(index)).map(|u| u.pixels.len() * u.filter_tiles.len()).sum()
        };
        assert_eq!([work(0..units / 2), work(units / 2..units)], [17, 18]);
        assert!(!Partition::in_place(1, 7, 100, 1, 6, 2, 7).part_by_part);
    }
}
