//! Gradients by weights as products of bands in place.

use std::ops::Range;

use super::weights::Operands;
use crate::band::transpose_raw;
use crate::buffer::{self, LINE};
use crate::cache::CacheSizes;
use crate::error::ConvError;
use crate::microkernel::{Epilogue, Rows, Segments, Tile, balanced, tile_fn};
use crate::parallel::{self, SharedOutput};
use crate::simd::Simd;
use crate::spec::{ConvSpec, Layout};

/// f32s of sums that wait in scratch memory: as many filters are taken together.
const SUMS: usize = 1 << 19;

/// The gradients of a group band by band.
///
/// A band of the input under some rows of outputs is copied with its padding, channels of a pixel side by side, and the
/// gradients beside it in panels of filters. In the register tile rows are (r, s, channel), columns are filters, and
/// steps are pixels, which both lie at equal distances: nothing is unrolled as im2col would. Sums go from band to band
/// through scratch memory, where filters lie side by side, and to their places at the end. Threads share groups and
/// filters, or else the tiles of a band, never a sum.
#[derive(Debug)]
pub(super) struct Bands {
    /// Columns of a panel.
    width: usize,
    /// Panels of a group.
    panels: usize,
    /// Panels that are taken together.
    together: usize,
    /// Rows of outputs of a band.
    band: usize,
    /// f32s from the first tap's first channel to each (r, s, channel) in a band.
    places: Vec<usize>,
    /// Rows of tiles: parts of `places`.
    tiles: Vec<Range<usize>>,
}

impl Bands {
    pub(super) fn new<S: Simd>(_: S, spec: &ConvSpec, threads: usize) -> Result<Self, ConvError> {
        let (channels, filters) = (spec.group_in_channels(), spec.group_out_channels());
        let ([height, width], dilation) = (spec.kernel(), spec.dilation());
        let steps = height * width * channels;
        let mut places = buffer::try_vec(steps)?;
        for tap in 0..height * width {
            let start = tap / width * dilation[0] * pitch(spec) + tap % width * dilation[1] * channels;
            places.extend((0..channels).map(|c| start + c));
        }
        // Tiles of one tap where it has channels enough: their rows lie side by side.
        let run = if channels >= S::MR { channels } else { steps };
        let rows = balanced(run, S::MR);
        let mut tiles = buffer::try_vec(steps.div_ceil(run) * run.div_ceil(rows))?;
        for start in (0..steps).step_by(run) {
            tiles.extend(
                (start..start + run).step_by(rows).map(|first| first..(first + rows).min(start + run)),
            );
        }
        let width = balanced(filters.div_ceil(S::LANES), S::NV) * S::LANES;
        let panels = filters.div_ceil(width);
        let together = (SUMS / (steps * width)).clamp(1, panels);
        // Half of the level-2 cache for a band.
        let most = CacheSizes::detect().l2 / 2 / 4;
        let row = spec.out_width() * together * width;
        let fits = |rows: usize| {
            input_rows(spec, rows).saturating_mul(pitch(spec)).saturating_add(rows * row) <= most
        };
        let band = (1..=spec.out_height()).take_while(|&rows| fits(rows)).last().unwrap_or(1);
        // Threads that have filters of their own need not wait for each other. (Bands stay as they are: sums depend on them.)
        let wanted = threads.div_ceil(spec.groups());
        let together = if panels < wanted { together } else { together.min(panels / wanted) };
        Ok(Bands { width, panels, together, band: balanced(spec.out_height(), band), places, tiles })
    }

    /// Units: a group's filters, as many as are taken together.
    pub(super) fn units(&self, spec: &ConvSpec) -> usize {
        spec.groups() * self.panels.div_ceil(self.together)
    }

    /// f32s of a unit's scratch memory, whole cache lines.
    pub(super) fn scratch_len(&self, spec: &ConvSpec) -> usize {
        self.lens(spec).iter().sum()
    }

    /// f32s of a band's input, of its gradients, and of the sums.
    fn lens(&self, spec: &ConvSpec) -> [usize; 3] {
        let width = self.together * self.width;
        let input = input_rows(spec, self.band) * pitch(spec);
        let grads = self.band * spec.out_width() * width;
        [input, grads, self.places.len() * width].map(|len| len.next_multiple_of(LINE))
    }

    /// How often sums are taken up again.
    pub(super) fn passes(&self, spec: &ConvSpec) -> usize {
        spec.out_height().div_ceil(self.band) * spec.batch()
    }

    /// Computes the gradients of a unit's filters, which belong to it alone, on so many threads.
    pub(super) fn unit<S: Simd>(
        &self,
        simd: S,
        unit: usize,
        threads: usize,
        operands: &Operands<'_>,
        scratch: &mut [f32],
    ) {
        let spec = operands.spec;
        let blocks = self.panels.div_ceil(self.together);
        let (group, block) = (unit / blocks, unit % blocks);
        let first = block * self.together * self.width;
        let filters = (self.together * self.width).min(spec.group_out_channels() - first);
        let panels = filters.div_ceil(self.width);
        let [input_len, grads_len, _] = self.lens(spec);
        let (pixels, rest) = scratch.split_at_mut(input_len);
        let (grads, sums) = rest.split_at_mut(grads_len);
        let filters =
            group * spec.group_out_channels() + first..group * spec.group_out_channels() + first + filters;
        let [pixels, grads, sums] = [pixels, grads, sums].map(SharedOutput::new);
        for n in 0..spec.batch() {
            for start in (0..spec.out_height()).step_by(self.band) {
                let rows = start..(start + self.band).min(spec.out_height());
                let above = input_rows(spec, rows.len());
                parallel::for_each_range(threads, above + rows.len(), &mut [], 0, &|items, _| {
                    for item in items {
                        // SAFETY: each item has a row of the band's input or of its gradients for itself.
                        unsafe {
                            if item < above {
                                let row = std::slice::from_raw_parts_mut(
                                    pixels.at(item * pitch(spec)),
                                    pitch(spec),
                                );
                                pack_pixels(
                                    spec,
                                    operands.input,
                                    n,
                                    group,
                                    start * spec.stride()[0] + item,
                                    row,
                                );
                            } else {
                                self.pack_grads(
                                    spec,
                                    operands.grad_output,
                                    n,
                                    &filters,
                                    &rows,
                                    item - above,
                                    grads,
                                );
                            }
                        }
                    }
                });
                let tiles = self.tiles.len();
                parallel::for_each_range(threads, panels * tiles, &mut [], 0, &|items, _| {
                    for item in items {
                        let (panel, tile) = (item / tiles, &self.tiles[item % tiles]);
                        let used = self.width.min(filters.len() - panel * self.width);
                        let first = n == 0 && start == 0;
                        // SAFETY: the band is packed, with all its panels; each item has sums of its own.
                        unsafe {
                            self.tile(
                                simd,
                                spec,
                                tile.clone(),
                                panel,
                                used,
                                rows.len(),
                                first,
                                pixels,
                                grads,
                                sums,
                            )
                        };
                    }
                });
            }
        }
        // Filters of a panel whose sums share cache lines, together.
        let blocks = self.width.div_ceil(LINE);
        parallel::for_each_range(threads, panels * blocks, &mut [], 0, &|items, _| {
            for item in items {
                let (panel, inside) = (item / blocks, item % blocks * LINE);
                let (len, width) = (self.places.len(), self.width);
                let first = panel * width + inside;
                let used = LINE.min(width - inside).min(filters.len().saturating_sub(first));
                if used == 0 {
                    continue;
                }
                // SAFETY: each item has its filters' gradients for itself; all sums have been made.
                unsafe {
                    let sums = sums.at(panel * len * width + inside);
                    let to = operands.grad_weights.at((filters.start + first) * len);
                    self.put(operands, sums, used, std::slice::from_raw_parts_mut(to, used * len));
                }
            }
        });
    }

    /// Packs row `row` of a band of gradients: `[panel][pixel][width]`.
    ///
    /// # Safety
    /// `to` has the band's gradients, of which the caller alone writes this row.
    unsafe fn pack_grads(
        &self,
        spec: &ConvSpec,
        grad_output: &[f32],
        n: usize,
        filters: &Range<usize>,
        rows: &Range<usize>,
        row: usize,
        to: SharedOutput,
    ) {
        let width = self.width;
        let (out_width, all) = (spec.out_width(), spec.out_channels());
        let y = rows.start + row;
        for (panel, first) in filters.clone().step_by(width).enumerate() {
            let used = width.min(filters.end - first);
            let start = (panel * self.band + row) * out_width * width;
            // SAFETY: by the caller's promise; panels have room for a whole band.
            let to = unsafe { std::slice::from_raw_parts_mut(to.at(start), out_width * width) };
            match spec.layout() {
                Layout::Nhwc => {
                    let from = &grad_output[(n * spec.out_height() + y) * out_width * all..];
                    for (to, from) in to.chunks_exact_mut(width).zip(from.chunks_exact(all)) {
                        to[..used].copy_from_slice(&from[first..first + used]);
                    }
                }
                Layout::Nchw => {
                    let plane = spec.out_height() * out_width;
                    let from = &grad_output[(n * all + first) * plane + y * out_width..];
                    let from = &from[..(used - 1) * plane + out_width];
                    // SAFETY: `from` has a row of each of the filters' planes, `to` their pixels.
                    unsafe { transpose_raw(from.as_ptr(), plane, used, out_width, to.as_mut_ptr(), width) };
                }
            }
            if used < width {
                to.chunks_exact_mut(width).for_each(|pixel| pixel[used..].fill(0.0));
            }
        }
    }

    /// Adds a band's products to the sums of a tile.
    ///
    /// # Safety
    /// `pixels` and `grads` are a packed band of `rows` rows of outputs, and nobody else touches the tile's sums.
    unsafe fn tile<S: Simd>(
        &self,
        simd: S,
        spec: &ConvSpec,
        tile: Range<usize>,
        panel: usize,
        used: usize,
        rows: usize,
        first: bool,
        pixels: SharedOutput,
        grads: SharedOutput,
        sums: SharedOutput,
    ) {
        let (width, len) = (self.width, spec.out_width());
        let places = &self.places[tile.clone()];
        let apart = places.windows(2).all(|pair| pair[1] == pair[0] + 1);
        let step = spec.stride()[1] * spec.group_in_channels();
        let vectors = used.div_ceil(S::LANES);
        let rows_apart = spec.stride()[0] * pitch(spec);
        // Rows of a band that go on where the last one ends are one.
        let (len, count) = if rows_apart == len * step { (len * rows, 1) } else { (len, rows) };
        // SAFETY: panels have room for a whole band, sums for all places; both operands have these pixels in each row,
        // by the caller's promise.
        unsafe {
            let tile = Tile {
                a: pixels.at(if apart { places[0] } else { 0 }),
                a_rows: if apart { Rows::Apart(1) } else { Rows::At(places) },
                a_step: step,
                b: grads.at(panel * self.band * spec.out_width() * width),
                b_step: width,
                len,
                outer: Segments::ONE,
                inner: Segments { count, a: rows_apart, b: len * width },
                c: sums.at((panel * self.places.len() + tile.start) * width),
                c_row: width,
                columns: vectors * S::LANES,
                epilogue: Epilogue { accumulate: !first, ..Epilogue::STORE },
            };
            tile_fn::<S>(places.len(), vectors)(simd, &tile);
        }
    }

    /// Puts the sums of some filters, which lie side by side, `width` apart in the order (r, s, channel), in the order
    /// of weights.
    ///
    /// # Safety
    /// There are as many as in `to`.
    unsafe fn put(&self, operands: &Operands<'_>, sums: *const f32, filters: usize, to: &mut [f32]) {
        let taps = operands.spec.kernel()[0] * operands.spec.kernel()[1];
        let channels = operands.spec.group_in_channels();
        let (len, width) = (taps * channels, self.width);
        if taps == 1 && !operands.accumulate {
            // SAFETY: by the caller's promise.
            return unsafe { transpose_raw(sums, width, len, filters, to.as_mut_ptr(), len) };
        }
        for (place, (tap, c)) in (0..channels).flat_map(|c| (0..taps).map(move |tap| (tap, c))).enumerate() {
            for filter in 0..filters {
                // SAFETY: by the caller's promise.
                let sum = unsafe { *sums.add((tap * channels + c) * width + filter) };
                let to = &mut to[filter * len + place];
                *to = if operands.accumulate { *to + sum } else { sum };
            }
        }
    }
}

/// Rows of the padded input under so many rows of outputs.
fn input_rows(spec: &ConvSpec, rows: usize) -> usize {
    (rows - 1) * spec.stride()[0] + spec.dilated_kernel()[0]
}

/// f32s of a packed row of the padded input: the columns under a row of outputs.
fn pitch(spec: &ConvSpec) -> usize {
    ((spec.out_width() - 1) * spec.stride()[1] + spec.dilated_kernel()[1]) * spec.group_in_channels()
}

/// Packs row `y` of the padded input, channels of a group side by side.
fn pack_pixels(spec: &ConvSpec, input: &[f32], n: usize, group: usize, y: usize, to: &mut [f32]) {
    let (channels, width) = (spec.group_in_channels(), spec.in_width());
    let y = y.checked_sub(spec.padding().top).filter(|&y| y < spec.in_height());
    let left = (spec.padding().left * channels).min(to.len());
    let columns = width.min((to.len() - left) / channels);
    let (Some(y), true) = (y, columns > 0) else { return to.fill(0.0) };
    to[..left].fill(0.0);
    to[left + columns * channels..].fill(0.0);
    let to = &mut to[left..left + columns * channels];
    match spec.layout() {
        Layout::Nhwc if spec.groups() == 1 => {
            let start = (n * spec.in_height() + y) * width * channels;
            to.copy_from_slice(&input[start..start + columns * channels]);
        }
        Layout::Nhwc => {
            let all = spec.in_channels();
            let from = &input[(n * spec.in_height() + y) * width * all..];
            for (to, from) in to.chunks_exact_mut(channels).zip(from.chunks_exact(all)) {
                to.copy_from_slice(&from[group * channels..][..channels]);
            }
        }
        Layout::Nchw => {
            let plane = spec.in_height() * width;
            let from = &input[(n * spec.in_channels() + group * channels) * plane + y * width..];
            let from = &from[..(channels - 1) * plane + columns];
            // SAFETY: `from` has a row of each of the channels' planes, `to` their pixels.
            unsafe { transpose_raw(from.as_ptr(), plane, channels, columns, to.as_mut_ptr(), channels) };
        }
    }
}
