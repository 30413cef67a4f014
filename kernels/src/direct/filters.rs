//! The form of [`direct`](super) whose lanes are filters.
//!
//! # Loop nest
//! ```text
//! for each unit (image, group, block of output rows, part of the panels):   parallel
//!     copy the band (mostly not without padding)
//!     for each panel of filters: for each output row: for each tile of pixels in the row:
//!         for each kernel row r: for each (kernel column s, channel c): outer product
//! ```
//! In the band the (s, c) of a pixel's window row are side by side, so a kernel row is one segment
//! of kernel width × channels steps: few channels cost no short loops. That takes a transposition of planes, which costs
//! a tenth of the sums of a 1×1 kernel; but pixels are broadcast one by one, wherever they lie, and planes without
//! padding are read as they are.
//!
//! NCHW outputs go through scratch memory, one panel of a block at a time, and are transposed there.

use std::ops::Range;
use std::sync::Arc;

use crate::band::{Image, Planes, Window, most_rows, pack_pixels, pack_planes, transpose_raw};
use crate::buffer::LINE;
use crate::cache::CacheSizes;
use crate::error::ConvError;
use crate::kernel::{Body, PlanOptions};
use crate::microkernel::{
    Bias, Epilogue, Fetching, MOST_ROWS, Rows, Segments, Tile, balanced, beside_tile_fn, tile_fn,
};
use crate::packed::Packed;
use crate::parallel;
use crate::partition::{Partition, Partitioned, Shared, Unit, Worker};
use crate::simd::Simd;
use crate::spec::{ConvSpec, Layout, Padding};
use crate::weights::{Order, Panel, Panels};

#[derive(Debug)]
struct Filters<S> {
    simd: S,
    spec: ConvSpec,
    options: PlanOptions,
    panels: Arc<Panels>,
    band: Band,
    /// Bands and outputs of a thread.
    band_len: usize,
    staged_len: usize,
    /// Output rows over which all panels pass before the next: few where the weights stay near, so that NHWC
    /// outputs are stored side by side.
    run: usize,
    /// Outputs lie beyond the level-2 cache.
    far: bool,
}

/// What tiles read.
#[derive(Clone, Copy, Debug)]
enum Band {
    /// The input where it lies.
    InPlace,
    /// A copy of pixels, that many f32s apart.
    Pixels(usize),
    /// A copy of planes.
    Planes(Planes),
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
    let band_len = |rows: usize, band: Band| {
        let window = Window::under(spec, &(0..rows));
        match band {
            Band::InPlace => window.rows() * window.columns() * spec.in_channels(),
            Band::Pixels(pitch) => (window.rows() * window.columns() * pitch).next_multiple_of(LINE),
            Band::Planes(planes) => planes.channel * spec.group_in_channels(),
        }
    };
    let staged_len = |rows: usize| match spec.layout() {
        Layout::Nchw => rows * spec.out_width() * S::NR,
        Layout::Nhwc => 0,
    };
    // The most rows of which the band fills half the level-2 cache, staged outputs a quarter.
    let caches = CacheSizes::detect();
    let l2 = caches.l2 / 4;
    let fits = |rows| band_len(rows, band::<S>(spec, rows)) <= l2 / 2 && staged_len(rows) <= l2 / 4;
    let most = most_rows(spec, fits);
    let images = spec.batch() * spec.groups();
    let (height, width, count) = (spec.out_height(), spec.out_width(), panels.count);
    let partition = match reads_in_place(spec) {
        true => Partition::in_place(images, height, most, 1, count, threads, width),
        false => Partition::new(images, height, most, 1, count, threads),
    };
    let near = spec.layout() == Layout::Nhwc && panels.bytes() / spec.groups() <= caches.l2 / 4;
    let run = if near { (4 * S::MR).div_ceil(spec.out_width()) } else { partition.block };
    let band = band::<S>(spec, partition.block);
    let worker = Filters {
        simd,
        spec: *spec,
        options: *options,
        band_len: if let Band::InPlace = band { 0 } else { band_len(partition.block, band) },
        staged_len: staged_len(partition.block),
        panels,
        band,
        run,
        far: spec.layout() == Layout::Nhwc && caches.is_far(spec.output_len()),
    };
    Ok(Box::new(Partitioned { spec: *spec, threads, images, partition, worker }))
}

/// What is read for blocks of that many output rows.
fn band<S: Simd>(spec: &ConvSpec, rows: usize) -> Band {
    let channels = spec.group_in_channels();
    if reads_in_place(spec) {
        Band::InPlace
    } else if spec.layout() == Layout::Nchw && channels < FEW {
        Band::Planes(Planes::whole(spec, rows, S::LANES))
    } else {
        Band::Pixels(if collides(spec, channels) { channels + LINE } else { channels })
    }
}

/// Fewer channels than that have no vectors to be transposed in.
const FEW: usize = 4;

/// Whether tiles read the input where it lies.
pub(super) fn reads_in_place(spec: &ConvSpec) -> bool {
    let channels = spec.group_in_channels();
    spec.padding() == Padding::none()
        && match spec.layout() {
            // From further away planes are better read in order, and once.
            Layout::Nchw => 4 * channels * spec.in_height() * spec.in_width() <= CacheSizes::detect().l2,
            Layout::Nhwc => (spec.groups() == 1 || channels >= LINE) && !collides(spec, spec.in_channels()),
        }
}

/// Whether rows of a tile whose pixels are that many f32s apart fall in very few sets of the level-1 cache: a multiple
/// of 2 KiB apart.
fn collides(spec: &ConvSpec, pitch: usize) -> bool {
    // (A stride that is never taken may be as long as numbers go.)
    (4 * pitch).saturating_mul(spec.stride()[1]).is_multiple_of(2048)
}

impl<S: Simd> Worker for Filters<S> {
    fn scratch_len(&self) -> usize {
        self.band_len + self.staged_len
    }

    fn unit(&self, unit: &Unit, io: &Shared<'_>, scratch: &mut [f32]) {
        let spec = &self.spec;
        let (n, group) = (unit.image / spec.groups(), unit.image % spec.groups());
        let rows = &unit.pixels;
        let image = Image::input(spec, n, group..group + 1);
        let (band, staged) = scratch.split_at_mut(self.band_len);
        let source = match self.band {
            Band::InPlace => Source {
                start: io.input[image.at(0, rows.start * spec.stride()[0], 0)..].as_ptr(),
                channel: image.channel(),
                row: image.row(),
                pixel: image.pixel(),
            },
            Band::Pixels(pitch) => {
                let window = Window::under(spec, rows);
                pack_pixels(spec, &image, &window, io.input, pitch, band);
                Source { start: band.as_ptr(), channel: 1, row: window.columns() * pitch, pixel: pitch }
            }
            Band::Planes(planes) => {
                let window = Window::under(spec, rows);
                pack_planes(self.simd, spec, &image, &window, io.input, &planes, band);
                Source { start: band.as_ptr(), channel: planes.channel, row: planes.row, pixel: 1 }
            }
        };
        let output = Image::output(spec, n, group..group + 1);
        let bias = io.group_bias(spec, group);
        for first in (0..rows.len()).step_by(self.run) {
            let source =
                Source { start: source.start.wrapping_add(first * spec.stride()[0] * source.row), ..source };
            let first = rows.start + first;
            let rows = first..(first + self.run).min(rows.end);
            for index in unit.filter_tiles.clone() {
                let panel = self.panels.panel(group, index);
                let next =
                    (index + 1 < unit.filter_tiles.end).then(|| self.panels.panel(group, index + 1).data);
                let epilogue = Epilogue {
                    bias: bias.map_or(Bias::None, |b| Bias::Columns(b.wrapping_add(panel.first))),
                    accumulate: self.options.accumulate,
                    limits: self.options.limits(),
                    far: self.far,
                    streams: false,
                };
                // SAFETY: these rows and filters of the output belong to this unit alone.
                let start = unsafe { io.output.at(output.at(panel.first, rows.start, 0)) };
                match spec.layout() {
                    Layout::Nhwc => {
                        // SAFETY: as above; pixels of the output are `pixel()` apart in every row.
                        unsafe { self.panel(&panel, next, &source, &rows, &epilogue, start, output.pixel()) };
                    }
                    Layout::Nchw => {
                        let pixels = rows.len() * spec.out_width();
                        let staged = staged[..pixels * panel.width].as_mut_ptr();
                        let (channel, filters) = (output.channel(), panel.filters);
                        // SAFETY: as above; rows lie without gaps, and the staged outputs have the same number
                        // of pixels.
                        unsafe {
                            if epilogue.accumulate {
                                transpose_raw(start, channel, filters, pixels, staged, panel.width);
                            }
                            self.panel(&panel, next, &source, &rows, &epilogue, staged, panel.width);
                            transpose_raw(staged, panel.width, pixels, filters, start, channel);
                        }
                    }
                }
            }
        }
    }
}

impl<S: Simd> Filters<S> {
    /// All outputs of a panel in some rows, stored pixel by pixel from `c`, `c_row` f32s apart. The weights of the
    /// next panel are asked for.
    ///
    /// # Safety
    /// Those places are valid for writes of `panel.filters` f32s (and reads, when accumulating), and
    /// nobody else touches them; `source` holds the window under the rows.
    unsafe fn panel(
        &self,
        panel: &Panel<'_>,
        next: Option<&[f32]>,
        source: &Source,
        rows: &Range<usize>,
        epilogue: &Epilogue,
        c: *mut f32,
        c_row: usize,
    ) {
        let spec = &self.spec;
        let [kernel_height, kernel_width] = spec.kernel();
        let [stride_y, stride_x] = spec.stride();
        let [dilation_y, dilation_x] = spec.dilation();
        let (channels, width) = (spec.group_in_channels(), spec.out_width());
        // (A dilation that is never taken may be as long as numbers go.)
        let [row, column] = [dilation_y.saturating_mul(source.row), dilation_x.saturating_mul(source.pixel)];
        let (len, inner) = if source.channel == 1 && source.pixel == channels && dilation_x == 1 {
            (kernel_width * channels, Segments::ONE)
        } else {
            let b = channels * panel.width;
            (channels, Segments { count: kernel_width, a: column, b })
        };
        let outer = Segments { count: kernel_height, a: row, b: kernel_width * channels * panel.width };
        let at = |pixel: usize| {
            let (y, x) = (pixel / width, pixel % width);
            y * stride_y * source.row + x * stride_x * source.pixel
        };
        // From a row's only pixel there is no next one, however long the stride is.
        let pitch = if width > 1 { stride_x * source.pixel } else { 0 };
        let pixels = rows.len() * width;
        // Tiles of neighbours in a row, or tiles that run over row ends where rows would fill them badly.
        let (in_row, over) = (balanced(width, S::MR), balanced(pixels, S::MR));
        // From the last pixel of a row to the first of the next it may be as far as from pixel to pixel.
        let even = width > 1 && stride_y.saturating_mul(source.row) == width * pitch;
        let run_over = even || 5 * in_row <= 4 * over;
        let (line, most) = if run_over { (pixels, over) } else { (width, in_row) };
        let mut distances = [0; MOST_ROWS];
        // The first tile waits for its weights, the others have them near: time to ask for the next panel's.
        let can_ask = panel.vectors == S::NV && (even || !run_over);
        let mut fetching = next.filter(|_| can_ask).map(Fetching::new);
        for start in (0..pixels).step_by(line) {
            for first in (start..start + line).step_by(most) {
                let n = most.min(start + line - first);
                if run_over && !even {
                    for (i, distance) in distances[..n].iter_mut().enumerate() {
                        *distance = at(first + i) - at(first);
                    }
                }
                let tile = Tile {
                    a: source.start.wrapping_add(at(first)),
                    a_rows: if run_over && !even { Rows::At(&distances[..n]) } else { Rows::Apart(pitch) },
                    a_step: source.channel,
                    b: panel.data.as_ptr(),
                    b_step: panel.width,
                    len,
                    outer,
                    inner,
                    c: c.wrapping_add(first * c_row),
                    c_row,
                    columns: panel.filters,
                    epilogue: *epilogue,
                };
                // SAFETY: the window holds every pixel under the tile, the panel every step.
                unsafe {
                    match &mut fetching {
                        Some(fetching) if start + first > 0 && fetching.is_left() => {
                            beside_tile_fn::<S, _>(n)(self.simd, &tile, fetching);
                        }
                        _ => tile_fn::<S>(n, panel.vectors)(self.simd, &tile),
                    }
                }
            }
        }
    }
}

/// The window that tiles read: where it starts, and its strides.
#[derive(Clone, Copy)]
struct Source {
    start: *const f32,
    channel: usize,
    row: usize,
    pixel: usize,
}
