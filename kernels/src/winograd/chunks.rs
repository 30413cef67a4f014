//! How many tiles are transformed together, and the memory that takes.

use super::Machine;
use super::transform::Variant;
use crate::buffer::{LINE, odd_lines};
use crate::spec::{ConvSpec, Layout};

/// Channels of an NCHW band: their planes are transposed together. No more than fill a cache line, so that the band
/// stays in the level-1 cache, or near.
pub(super) const BAND_CHANNELS: usize = LINE;

/// Scratch memory of a thread, in f32s.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// Tiles of a chunk at most.
    pub(super) chunk: usize,
    /// Tiles of a row.
    pub(super) tiles_x: usize,
    /// From tile to tile of V: an odd number of cache lines, as the next two.
    pub(super) v_tile: usize,
    /// From element to element of V.
    pub(super) v_plane: usize,
    /// From element to element of M.
    pub(super) m_plane: usize,
    pub(super) v_len: usize,
    pub(super) m_len: usize,
    /// A tile row of some channels of NCHW input, or outputs of a panel of a chunk.
    pub(super) band_len: usize,
    pub(super) staged_len: usize,
}

impl Sizes {
    /// For chunks of so many tiles at most: some of one row, or whole rows.
    pub(super) fn new<V: Variant>(spec: &ConvSpec, width: usize, chunk: usize) -> Self {
        let elements = V::ALPHA * V::ALPHA;
        let tiles_x = spec.out_width().div_ceil(V::M);
        let v_tile = odd_lines(spec.group_in_channels());
        let (v_plane, m_plane) = (odd_lines(chunk * v_tile), odd_lines(chunk * width));
        let columns = chunk.min(tiles_x) * V::M;
        let (band_len, staged_len) = match spec.layout() {
            Layout::Nhwc => (0, 0),
            Layout::Nchw => (V::ALPHA * (columns + V::R - 1) * BAND_CHANNELS, chunk * V::M * V::M * width),
        };
        Sizes {
            chunk,
            tiles_x,
            v_tile,
            v_plane,
            m_plane,
            v_len: elements * v_plane,
            m_len: elements * m_plane,
            band_len: band_len.next_multiple_of(LINE),
            staged_len: staged_len.next_multiple_of(LINE),
        }
    }

    pub(super) fn total(&self) -> usize {
        self.v_len + self.m_len + self.band_len + self.staged_len
    }
}

/// How tiles are cut into chunks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Chunks {
    /// Tiles of a chunk at most.
    pub(super) tiles: usize,
    /// Estimated time for what a thread streams from beyond its level-2 cache, in multiply-adds of a lane.
    pub(super) streaming: f64,
}

/// Most scratch memory of a thread, in f32s: 4 MiB.
const SCRATCH: usize = 1 << 20;

/// The most tiles of a chunk whose scratch memory is allowed, if a single one's is.
fn most_tiles<V: Variant>(spec: &ConvSpec, width: usize) -> usize {
    let tiles = spec.batch() * spec.out_height().div_ceil(V::M) * spec.out_width().div_ceil(V::M);
    // V alone has a cache line for each element of a tile.
    let bound = SCRATCH / (V::ALPHA * V::ALPHA * LINE);
    let (mut most, mut too_many) = (1, tiles.min(bound) + 1);
    while too_many - most > 1 {
        let chunk = usize::midpoint(most, too_many);
        if Sizes::new::<V>(spec, width, chunk).total() <= SCRATCH {
            most = chunk;
        } else {
            too_many = chunk;
        }
    }
    most
}

/// Either V stays in the level-2 cache and all weights are streamed for each of many chunks, or as few chunks as
/// scratch memory allows stream the weights less often, and V too, for each panel of filters. The first where
/// weights come from nearby, the second where they come from memory.
pub(super) fn chunks<V: Variant>(spec: &ConvSpec, machine: Machine) -> Chunks {
    let Machine { panel: width, rates, caches, .. } = machine;
    let elements = V::ALPHA * V::ALPHA;
    let v_tile = odd_lines(spec.group_in_channels());
    let [rows, columns] = [spec.out_height(), spec.out_width()].map(|n| n.div_ceil(V::M));
    let most = most_tiles::<V>(spec, width);
    // 60 % of the level-2 cache; of many tiles, whole register tiles of the longest kind.
    let near = (caches.l2 / 10 * 6 / (4 * elements * v_tile)).max(14);
    let near = match spec.layout() {
        // A whole row of planes is read and written better than parts of it: then a quarter more.
        Layout::Nchw if (near + 1..=near / 4 * 5).contains(&columns) => columns,
        _ if near < 28 => near,
        _ => near / 14 * 14,
    };
    let tiles = (spec.batch() * rows * columns) as f64;
    let [channels, filters] = [spec.group_in_channels(), spec.group_out_channels()].map(|n| n as f64);
    let (panels, groups) = ((filters / width as f64).ceil(), spec.groups() as f64);
    let weights = elements as f64 * channels * filters;
    // From the level-2 cache costs nothing beside its use.
    let rate = match 4.0 * weights * groups {
        bytes if bytes <= caches.l2 as f64 / 2.0 => 0.0,
        bytes if bytes <= caches.l3 as f64 * 0.75 => rates.third_cache,
        _ => rates.memory,
    };
    let candidate = |chunk: usize| {
        let v_bytes = 4 * elements * v_tile * chunk;
        // V is read in rows of some cache lines each, which a core does not see coming as it does weights.
        let v_rate = if v_bytes <= caches.l2 / 4 * 3 { 0.0 } else { 2.0 * rates.third_cache };
        let streams = (tiles / chunk as f64).ceil();
        let v = elements as f64 * tiles * channels;
        let streaming = groups * rates.lanes as f64 * (rate * weights * streams + v_rate * v * panels);
        Chunks { tiles: chunk, streaming }
    };
    let (near, far) = (candidate(near.min(most)), candidate(most));
    if far.streaming < near.streaming { far } else { near }
}

/// Most input channels of a group: those of a single tile fit the scratch memory, beside what else it takes.
pub(super) const fn most_channels<V: Variant>() -> usize {
    (SCRATCH / 2) / (V::ALPHA * V::ALPHA)
}

#[cfg(test)]
mod tests {
    use super::super::transform::{F2, F2R5, F4, F6};
    use super::*;
    use crate::cache::CacheSizes;
    use crate::cpu::Rates;
    use crate::simd::Isa;

    /// With small and large caches, near and far, in both layouts, and whatever else is large.
    #[test]
    fn scratch_memory_is_bounded() {
        fn check<V: Variant>(text: &str) {
            let caches = |l2, l3| CacheSizes { l1d: 32 << 10, l2, l3 };
            for caches in [caches(256 << 10, 1 << 20), caches(1 << 20, 32 << 20), caches(2 << 20, 300 << 20)]
            {
                for (isa, layout) in
                    Isa::ALL.into_iter().flat_map(|isa| [(isa, Layout::Nchw), (isa, Layout::Nhwc)])
                {
                    let spec = text.parse::<ConvSpec>().unwrap().with_layout(layout);
                    let rates = Rates::of(isa.lanes(), None);
                    let machine = Machine { lanes: isa.lanes(), panel: isa.columns(), rates, caches };
                    let chunks = chunks::<V>(&spec, machine);
                    let sizes = Sizes::new::<V>(&spec, isa.columns(), chunks.tiles);
                    assert!(sizes.total() <= SCRATCH, "{text} {isa} {caches:?}: {} f32s", sizes.total());
                    // Far more than a tile, where that is possible.
                    let fewest = if spec.in_channels() > 1024 { 1 } else { 14 };
                    assert!(chunks.tiles >= fewest, "{text} {isa} {caches:?}: {chunks:?}");
                }
            }
        }
        for text in [
            "c512 h28 w28 o512 k3 p1",
            "n8 c512 h14 w14 o512 k3 p1",
            "c256 h56 w56 o256 k3 p1",
            "c64 h224 w224 o64 k3 p1",
            "c64 h80 w1920 o64 k3 p1",
            "c64 h8 w12000 o64 k3 p1",
            "c1 h8 w4000000 o64 k3 p1",
            "c2048 h14 w14 o64 k3 p1",
            "c3 h512 w1024 o3000 k3",
            "c8192 h9 w9 o8 k3",
        ] {
            check::<F2>(text);
            check::<F4>(text);
            check::<F6>(text);
        }
        check::<F4>("c14563 h40 w40 o8 k3");
        check::<F2>("c32768 h40 w40 o8 k3");
        check::<F2R5>("c14563 h40 w40 o8 k5");
        check::<F2R5>("c512 h28 w28 o512 k5 p2");
        check::<F2R5>("n16 c96 h27 w27 o256 k5 p2");
    }

    /// What the documentation says.
    #[test]
    fn channels_are_bounded() {
        let most =
            [most_channels::<F2>(), most_channels::<F4>(), most_channels::<F6>(), most_channels::<F2R5>()];
        assert_eq!(most, [32768, 14563, 8192, 14563]);
    }
}
