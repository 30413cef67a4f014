//! The gradients by weights and bias: `product`, a product over pixels in the register tile.

use std::ops::Range;

use super::bias;
use crate::band::transpose_raw;
use crate::buffer::{self, LINE};
use crate::cache::CacheSizes;
use crate::error::ConvError;
use crate::kernel::{ErrorModel, PlanOptions, check_len};
use crate::microkernel::{Epilogue, Rows, Segments, Tile, balanced, tile_fn};
use crate::parallel::{self, SharedOutput};
use crate::simd::{Isa, Simd, Token, with_token};
use crate::spec::{ConvSpec, Layout};
use crate::workspace::Workspace;

/// f32s of sums that wait in scratch memory: as many filters are taken together.
const SUMS: usize = 1 << 19;

/// The ids of kernels.
pub(super) const IDS: [&str; 5] = ["auto", "product", "product/wide", "product/avx2", "product/avx512"];

/// The gradients of a convolution by its weights and its bias, ready to run.
///
/// # How
/// `grad_weights[o][c][r][s]` is the sum over all output pixels of the gradient there, of filter o, times the input pixel
/// that tap (r, s) sees in channel c. A band of the input under some rows of outputs is copied with its padding, channels
/// of a pixel side by side, and the gradients beside it in panels of filters. In the register tile rows are
/// (r, s, channel), columns are filters, and steps are pixels, which both lie at equal distances: nothing is unrolled
/// as im2col would. Sums go from band to band through scratch memory, where filters lie side by side, and to their
/// places at the end. Threads share groups and filters, or else the tiles of a band, never a sum.
#[derive(Debug)]
pub struct WeightsPlan {
    spec: ConvSpec,
    id: String,
    token: Token,
    options: PlanOptions,
    threads: usize,
    blocking: Blocking,
}

/// What depends on the instruction set and the caches.
#[derive(Debug)]
struct Blocking {
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

impl WeightsPlan {
    /// Prepares the gradients by weights and bias of `spec`, the forward convolution. The kernel is `auto`, `product`
    /// or one with an instruction set, as [`kernels_of`](super::kernels_of) lists them.
    ///
    /// With [`accumulate`](PlanOptions::accumulate) gradients are added to what there is; there is no activation.
    ///
    /// # Errors
    /// When there is no such kernel or it is not available, an option makes no sense, or memory for a table cannot be
    /// had.
    pub fn new(id: &str, spec: &ConvSpec, options: &PlanOptions) -> Result<Self, ConvError> {
        options.check()?;
        if !IDS.contains(&id) {
            let id = id.chars().take(40).collect();
            return Err(ConvError::UnknownKernel { id, known: "auto, product".to_owned() });
        }
        if let Some(activation) = options.activation {
            let value = format!("{activation:?}");
            return Err(ConvError::Option { option: "activation", value, expected: "left out" });
        }
        let unavailable = |reason| ConvError::Unavailable { kernel: id.to_owned(), reason };
        let named =
            Isa::ALL.into_iter().find(|isa| id.split_once('/').is_some_and(|(_, name)| name == isa.name()));
        let isa = named.map_or_else(Isa::best, Ok).map_err(unavailable)?;
        let token = isa.token().map_err(unavailable)?;
        let blocking = with_token!(token, s => Blocking::new(s, spec))?;
        let threads = parallel::worthwhile(options.threads, spec);
        Ok(WeightsPlan {
            spec: *spec,
            id: format!("product/{isa}"),
            token,
            options: *options,
            threads,
            blocking,
        })
    }

    /// The forward convolution.
    pub fn spec(&self) -> &ConvSpec {
        &self.spec
    }

    /// The id of the kernel that runs, with its instruction set.
    pub fn kernel_id(&self) -> &str {
        &self.id
    }

    /// Threads that a run uses at most.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The bound of rounding errors, of weights and bias: sums of as many products as there are output pixels.
    pub fn error_model(&self) -> ErrorModel {
        let bands = self.spec.out_height().div_ceil(self.blocking.band) * self.spec.batch();
        let pixels = self.spec.output_len() / self.spec.out_channels();
        ErrorModel::Sum { k: (pixels + bands) as f64 + 3.0 }
    }

    /// f32s of scratch memory that a run needs.
    pub fn workspace_len(&self) -> usize {
        self.at_once() * self.scratch_len() + LINE - 1
    }

    /// Units: a group's filters, as many as are taken together.
    fn units(&self) -> usize {
        self.spec.groups() * self.blocking.panels.div_ceil(self.blocking.together)
    }

    /// Units that run at once.
    fn at_once(&self) -> usize {
        if self.units() >= self.threads { self.threads } else { 1 }
    }

    /// f32s of a unit's scratch memory, whole cache lines.
    fn scratch_len(&self) -> usize {
        self.lens().iter().sum()
    }

    /// f32s of a band's input, of its gradients, and of the sums.
    fn lens(&self) -> [usize; 3] {
        let (spec, blocking) = (&self.spec, &self.blocking);
        let width = blocking.together * blocking.width;
        let input = input_rows(spec, blocking.band) * pitch(spec);
        let grads = blocking.band * spec.out_width() * width;
        [input, grads, blocking.places.len() * width].map(|len| len.next_multiple_of(LINE))
    }

    /// Computes the gradients by the weights (OIHW) and, if asked for, by the bias. `input` and `grad_output` are in the
    /// layout of the spec. Allocates nothing, except that an owned workspace which is too small grows.
    ///
    /// # Errors
    /// When a buffer has the wrong length or a borrowed workspace is too small; the gradients are then untouched.
    pub fn run(
        &self,
        input: &[f32],
        grad_output: &[f32],
        grad_weights: &mut [f32],
        grad_bias: Option<&mut [f32]>,
        workspace: &mut Workspace<'_>,
    ) -> Result<(), ConvError> {
        let spec = &self.spec;
        check_len("input", input.len(), spec.input_len())?;
        check_len("grad_output", grad_output.len(), spec.output_len())?;
        check_len("grad_weights", grad_weights.len(), spec.weights_len())?;
        if let Some(grad_bias) = &grad_bias {
            check_len("grad_bias", grad_bias.len(), spec.out_channels())?;
        }
        let needed = self.workspace_len();
        let each = self.scratch_len();
        let scratch = buffer::align(workspace.reserve(needed)?, self.at_once() * each)
            .ok_or(ConvError::WorkspaceTooSmall { actual: 0, needed })?;
        if let Some(grad_bias) = grad_bias {
            with_token!(self.token, s => {
                bias::sums(s, spec, self.threads, self.options.accumulate, grad_output, grad_bias);
            });
        }
        let output = SharedOutput::new(grad_weights);
        let threads = if self.at_once() > 1 { 1 } else { self.threads };
        parallel::for_each_range(self.at_once(), self.units(), scratch, each, &|units, scratch| {
            for unit in units {
                with_token!(self.token, s => {
                    self.unit(s, unit, threads, input, grad_output, output, scratch);
                });
            }
        });
        Ok(())
    }

    /// Computes the gradients of a unit's filters, which belong to it alone.
    fn unit<S: Simd>(
        &self,
        simd: S,
        unit: usize,
        threads: usize,
        input: &[f32],
        grad_output: &[f32],
        grad_weights: SharedOutput,
        scratch: &mut [f32],
    ) {
        let (spec, blocking) = (&self.spec, &self.blocking);
        let blocks = blocking.panels.div_ceil(blocking.together);
        let (group, block) = (unit / blocks, unit % blocks);
        let first = block * blocking.together * blocking.width;
        let filters = (blocking.together * blocking.width).min(spec.group_out_channels() - first);
        let panels = filters.div_ceil(blocking.width);
        let [input_len, grads_len, _] = self.lens();
        let (pixels, rest) = scratch.split_at_mut(input_len);
        let (grads, sums) = rest.split_at_mut(grads_len);
        let filters =
            group * spec.group_out_channels() + first..group * spec.group_out_channels() + first + filters;
        let [pixels, grads, sums] = [pixels, grads, sums].map(SharedOutput::new);
        for n in 0..spec.batch() {
            for start in (0..spec.out_height()).step_by(blocking.band) {
                let rows = start..(start + blocking.band).min(spec.out_height());
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
                                pack_pixels(spec, input, n, group, start * spec.stride()[0] + item, row);
                            } else {
                                self.pack_grads(grad_output, n, &filters, &rows, item - above, grads);
                            }
                        }
                    }
                });
                let tiles = blocking.tiles.len();
                parallel::for_each_range(threads, panels * tiles, &mut [], 0, &|items, _| {
                    for item in items {
                        let (panel, tile) = (item / tiles, &blocking.tiles[item % tiles]);
                        let used = blocking.width.min(filters.len() - panel * blocking.width);
                        let first = n == 0 && start == 0;
                        // SAFETY: the band is packed, with all its panels; each item has sums of its own.
                        unsafe {
                            self.tile(simd, tile.clone(), panel, used, rows.len(), first, pixels, grads, sums)
                        };
                    }
                });
            }
        }
        // Filters of a panel whose sums share cache lines, together.
        let blocks = blocking.width.div_ceil(LINE);
        parallel::for_each_range(threads, panels * blocks, &mut [], 0, &|items, _| {
            for item in items {
                let (panel, inside) = (item / blocks, item % blocks * LINE);
                let (len, width) = (blocking.places.len(), blocking.width);
                let first = panel * width + inside;
                let used = LINE.min(width - inside).min(filters.len().saturating_sub(first));
                if used == 0 {
                    continue;
                }
                // SAFETY: each item has its filters' gradients for itself; all sums have been made.
                unsafe {
                    let sums = sums.at(panel * len * width + inside);
                    let to = grad_weights.at((filters.start + first) * len);
                    self.put(sums, used, std::slice::from_raw_parts_mut(to, used * len));
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
        grad_output: &[f32],
        n: usize,
        filters: &Range<usize>,
        rows: &Range<usize>,
        row: usize,
        to: SharedOutput,
    ) {
        let (spec, width) = (&self.spec, self.blocking.width);
        let (out_width, all) = (spec.out_width(), spec.out_channels());
        let y = rows.start + row;
        for (panel, first) in filters.clone().step_by(width).enumerate() {
            let used = width.min(filters.end - first);
            let start = (panel * self.blocking.band + row) * out_width * width;
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
        tile: Range<usize>,
        panel: usize,
        used: usize,
        rows: usize,
        first: bool,
        pixels: SharedOutput,
        grads: SharedOutput,
        sums: SharedOutput,
    ) {
        let (spec, blocking) = (&self.spec, &self.blocking);
        let (width, len) = (blocking.width, spec.out_width());
        let places = &blocking.places[tile.clone()];
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
                b: grads.at(panel * blocking.band * spec.out_width() * width),
                b_step: width,
                len,
                outer: Segments::ONE,
                inner: Segments { count, a: rows_apart, b: len * width },
                c: sums.at((panel * blocking.places.len() + tile.start) * width),
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
    unsafe fn put(&self, sums: *const f32, filters: usize, to: &mut [f32]) {
        let taps = self.spec.kernel()[0] * self.spec.kernel()[1];
        let channels = self.spec.group_in_channels();
        let (len, width) = (taps * channels, self.blocking.width);
        if taps == 1 && !self.options.accumulate {
            // SAFETY: by the caller's promise.
            return unsafe { transpose_raw(sums, width, len, filters, to.as_mut_ptr(), len) };
        }
        for (place, (tap, c)) in (0..channels).flat_map(|c| (0..taps).map(move |tap| (tap, c))).enumerate() {
            for filter in 0..filters {
                // SAFETY: by the caller's promise.
                let sum = unsafe { *sums.add((tap * channels + c) * width + filter) };
                let to = &mut to[filter * len + place];
                *to = if self.options.accumulate { *to + sum } else { sum };
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

impl Blocking {
    fn new<S: Simd>(_: S, spec: &ConvSpec) -> Result<Self, ConvError> {
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
        Ok(Blocking { width, panels, together, band: balanced(spec.out_height(), band), places, tiles })
    }
}
