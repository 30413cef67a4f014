//! Gradients by weights as products of matrices: rows and columns lie as the weights do.

use std::ops::Range;

use super::panels::{Block, Cut, Steps, View, pack_planes, pack_view};
use super::weights::{MOST_SCRATCH, Operands};
use crate::band::{self, Image, Planes, Window, transpose_raw};
use crate::buffer::{self, LINE};
use crate::cache::CacheSizes;
use crate::error::ConvError;
use crate::microkernel::{Epilogue, Rows, Segments, Tile, balanced, tile_fn, tiles_fn};
use crate::parallel::SharedOutput;
use crate::simd::Simd;
use crate::spec::{ConvSpec, Layout, Padding};

/// The gradients of a group as a product over pixels.
///
/// Rows are filters, and their gradients are read where they lie. Columns are (channel, r, s): the input is unrolled for
/// a panel of them and a block of pixels at a time, which costs little where many filters use it. The sums are stored
/// where they belong. Of a 1×1 kernel with more channels than filters it may be better to exchange the operands: then
/// rows are channels, less is packed, and sums wait in scratch memory to be transposed.
#[derive(Debug)]
pub(super) struct Columns {
    /// Whether rows are channels and columns filters.
    exchanged: bool,
    /// Rows and columns of a group.
    size: [usize; 2],
    /// Columns of a panel, panels of a block, blocks.
    width: usize,
    panels: usize,
    blocks: usize,
    /// Rows of a tile, tiles of a part, parts.
    rows: usize,
    tiles: usize,
    parts: usize,
    /// Images, rows and columns of outputs whose pixels are taken together.
    steps: [usize; 3],
    /// Padded planes of the input, and f32s from the first channel's first tap to each column.
    padded: Option<(Planes, Vec<usize>)>,
    /// Whether the rows of a tile are packed, because they would share sets of the level-1 cache.
    strips: bool,
    /// f32s of packed columns, of packed rows, of padded planes, and of sums.
    lens: [usize; 4],
}

/// What a unit computes of a group's product.
struct Part {
    group: usize,
    rows: Range<usize>,
    columns: Range<usize>,
    /// How the columns are cut into panels.
    cut: Cut,
}

/// Panels of a block at least: so many tiles use the rows that one has brought into the level-1 cache.
const PANELS: usize = 8;

/// f32s of a page of memory: cores that write shorter pieces in turns fetch each other's lines ahead.
const PAGE: usize = 4096 / 4;

/// Rows that are worth packing the columns for once more, for another thread.
const ROWS_OF_A_PART: usize = 512;

/// Panels from which on one more, so that all but one start on a cache line, is hardly felt.
const MANY_PANELS: usize = 32;

impl Columns {
    pub(super) fn new<S: Simd>(_: S, spec: &ConvSpec, threads: usize) -> Result<Self, ConvError> {
        let taps = spec.kernel()[0] * spec.kernel()[1];
        let (channels, filters) = (spec.group_in_channels(), spec.group_out_channels());
        let half_cache = (CacheSizes::detect().l2 / 2 / 4).min(MOST_SCRATCH / 4);
        let pixels = spec.output_len() / spec.out_channels();
        let pointwise = taps == 1 && spec.padding() == Padding::none();
        // Transposing a sum takes longer than packing a value.
        let exchanged = pointwise
            && channels > filters
            && channels * filters <= half_cache
            && pixels.saturating_mul(channels - filters) > 2 * channels * filters;
        let size = if exchanged { [channels, filters] } else { [filters, channels * taps] };

        let width = balanced(size[1].div_ceil(S::LANES), S::NV) * S::LANES;
        let mut steps = blocks_of_steps(spec, (half_cache / (PANELS * width)).max(1));
        let all = size[1].div_ceil(width);
        // Channels that columns have a part in, and as many as padded planes have room for.
        let channels_of = |columns: usize| ((columns - 1) / taps + 2).min(channels);
        let mut most = all;
        let mut planes = None;
        if !pointwise {
            let fitting = fitting_planes(spec, &mut steps, MOST_SCRATCH / 2 / channels_of(2 * width));
            let room = MOST_SCRATCH / 2 / fitting.channel;
            if room < channels {
                most = (room.saturating_sub(1) * taps / width).saturating_sub(1);
            }
            planes = Some(fitting);
        }
        let together = steps.iter().product::<usize>();
        let mut panels = (half_cache / (together * width)).min(most).clamp(1, all);

        // Threads share columns; rows, where pieces of the output's rows would be short.
        let wanted = threads.div_ceil(spec.groups());
        let short = !exchanged && size[1] / wanted < PAGE;
        let mut blocks = all.div_ceil(panels);
        let mut parts = 1;
        if wanted > 1 && short && size[0] / wanted >= ROWS_OF_A_PART {
            parts = wanted;
        } else if wanted > 1 {
            blocks = blocks.next_multiple_of(wanted).min(all);
            parts = wanted.div_ceil(blocks).min(size[0]);
        }
        panels = all.div_ceil(blocks);
        let part = size[0].div_ceil(parts);
        let rows = balanced(part, S::MR);
        let tiles = part.div_ceil(rows);

        let mut padded = None;
        if let Some(planes) = planes {
            let mut places = buffer::try_vec(size[1])?;
            let width = spec.kernel()[1];
            for c in 0..channels {
                places.extend((0..taps).map(|tap| planes.offset(spec, [c, tap / width, tap % width])));
            }
            padded = Some((planes, places));
        }
        let plane = if exchanged { spec.in_height() * spec.in_width() } else { pixels / spec.batch() };
        let strips = spec.layout() == Layout::Nchw && plane.is_multiple_of(512);
        let lens = [
            (panels + 1) * width * together,
            if strips { together * strip_pitch::<S>() } else { 0 },
            planes.map_or(0, |planes| planes.channel * channels_of((panels + 1) * width)),
            if exchanged { tiles * rows * panels * width } else { 0 },
        ]
        .map(|len| len.next_multiple_of(LINE));
        Ok(Columns {
            exchanged,
            size,
            width,
            panels,
            blocks: all.div_ceil(panels),
            rows,
            tiles,
            parts: size[0].div_ceil(tiles * rows),
            steps,
            padded,
            strips,
            lens,
        })
    }

    /// Units of work, which share no sums.
    pub(super) fn units(&self, spec: &ConvSpec) -> usize {
        spec.groups() * self.blocks * self.parts
    }

    /// f32s of a unit's scratch memory, whole cache lines.
    pub(super) fn scratch_len(&self) -> usize {
        self.lens.iter().sum()
    }

    /// How often sums are taken up again.
    pub(super) fn passes(&self, spec: &ConvSpec) -> usize {
        self.steps(spec).count()
    }

    /// The outputs, in blocks whose pixels are taken together.
    fn steps(&self, spec: &ConvSpec) -> impl Iterator<Item = Steps> {
        let [images, rows, columns] = self.steps;
        let (height, width) = (spec.out_height(), spec.out_width());
        let cut = |all: usize, each: usize| (0..all).step_by(each).map(move |i| i..(i + each).min(all));
        cut(spec.batch(), images).flat_map(move |images| {
            cut(height, rows).flat_map(move |rows| {
                let images = images.clone();
                cut(width, columns).map(move |columns| Steps {
                    images: images.clone(),
                    rows: rows.clone(),
                    columns,
                })
            })
        })
    }

    /// A unit's part of its group's product, whose gradients start at `output`.
    fn part(&self, unit: usize, grad_weights: SharedOutput) -> Part {
        let (group, unit) = (unit / (self.blocks * self.parts), unit % (self.blocks * self.parts));
        let (part, block) = (unit / self.blocks, unit % self.blocks);
        let start = part * self.tiles * self.rows;
        // SAFETY: the group's gradients lie there, as many as rows and columns.
        let output = unsafe { grad_weights.at(group * self.size[0] * self.size[1]) };
        // Where all rows start at the same place of a cache line, panels start on one.
        let many = self.size[1] >= MANY_PANELS * self.width && self.size[1].is_multiple_of(LINE);
        let offset = if many && !self.exchanged { output as usize / 4 % LINE } else { 0 };
        let bound = |block: usize| (block * self.panels * self.width).saturating_sub(offset);
        let end = if block + 1 < self.blocks { bound(block + 1) } else { self.size[1] };
        Part {
            group,
            rows: start..(start + self.tiles * self.rows).min(self.size[0]),
            columns: bound(block)..end,
            cut: Cut { first: self.width - if block == 0 { offset } else { 0 }, width: self.width },
        }
    }

    /// Computes the gradients of a unit, which belong to it alone.
    pub(super) fn unit<S: Simd>(&self, simd: S, unit: usize, operands: &Operands<'_>, scratch: &mut [f32]) {
        let spec = operands.spec;
        let part = self.part(unit, operands.grad_weights);
        let Part { group, rows, columns, cut } = &part;
        let [packed, strip, planes, _] = self.lens;
        let (packed, rest) = scratch.split_at_mut(packed);
        let (strip, rest) = rest.split_at_mut(strip);
        let (planes, sums) = rest.split_at_mut(planes);
        let filters = (View::output(spec, *group), operands.grad_output);
        let channels = (View::input(spec, *group), operands.input);
        // From where on sums are stored, and f32s from row to row.
        let (row_operand, column_operand, c, c_start, c_row) = if self.exchanged {
            let c_row = columns.len().next_multiple_of(self.width);
            (channels, filters, SharedOutput::new(sums), 0, c_row)
        } else {
            let start = (group * self.size[0] + rows.start) * self.size[1] + columns.start;
            (filters, channels, operands.grad_weights, start, self.size[1])
        };
        let far = !self.exchanged && CacheSizes::detect().is_far(spec.weights_len() * 4);
        for (pass, steps) in self.steps(spec).enumerate() {
            if let Some(padded) = &self.padded {
                self.unroll(simd, padded, operands, &part, &steps, planes, packed);
            } else {
                pack_view(simd, &column_operand.0, column_operand.1, columns, &steps, *cut, packed);
            }
            let accumulate = pass > 0 || operands.accumulate && !self.exchanged;
            let epilogue = Epilogue { accumulate, far, ..Epilogue::STORE };
            for start in rows.clone().step_by(self.rows) {
                let tile_rows = start..(start + self.rows).min(rows.end);
                let strip = self.strips.then_some(&mut *strip);
                let tile = self.row_operand(simd, &row_operand, &tile_rows, &steps, strip);
                // SAFETY: packed panels have all steps, as has the rows' operand; the sums of these rows and columns are
                // this unit's alone.
                unsafe {
                    let c = c.at(c_start + (start - rows.start) * c_row);
                    let tile = Tile { c, c_row, epilogue, ..tile };
                    self.tiles(simd, tile_rows.len(), &tile, &part, steps.len(), packed);
                }
            }
        }
        if self.exchanged {
            // SAFETY: these rows and columns are this unit's alone.
            unsafe { self.transpose(operands, &part, sums, c_row) };
        }
    }

    /// Multiplies some rows with all columns of a part.
    ///
    /// # Safety
    /// As for [`tile_fn`], with `tile` as for the first panel; all panels are packed, with so many steps.
    unsafe fn tiles<S: Simd>(
        &self,
        simd: S,
        rows: usize,
        tile: &Tile<'_>,
        part: &Part,
        steps: usize,
        packed: &[f32],
    ) {
        let pitch = steps * self.width;
        let mut panels = part.cut.panels(part.columns.clone()).enumerate().peekable();
        while let Some((panel, columns)) = panels.next() {
            let c = tile.c.wrapping_add(columns.start - part.columns.start);
            let columns = columns.len();
            let tile = Tile { b: packed[panel * pitch..].as_ptr(), c, columns, ..*tile };
            // SAFETY: by the caller's promise.
            unsafe {
                if columns == S::NR {
                    let mut count = 1;
                    while panels.next_if(|(_, columns)| columns.len() == S::NR).is_some() {
                        count += 1;
                    }
                    tiles_fn::<S>(rows)(simd, &tile, count, pitch);
                } else {
                    tile_fn::<S>(rows, columns.div_ceil(S::LANES))(simd, &tile);
                }
            }
        }
    }

    /// A tile with the rows' operand, in place or packed.
    fn row_operand<S: Simd>(
        &self,
        simd: S,
        (view, data): &(View, &[f32]),
        rows: &Range<usize>,
        steps: &Steps,
        strip: Option<&mut [f32]>,
    ) -> Tile<'static> {
        let runs = view.runs(steps);
        let mut tile = Tile {
            a: data[runs.start + rows.start * view.channel..].as_ptr(),
            a_rows: Rows::Apart(view.channel),
            a_step: view.pixel,
            b: std::ptr::null(),
            b_step: self.width,
            len: runs.len,
            outer: Segments {
                count: runs.images[0],
                a: runs.images[1],
                b: runs.runs[0] * runs.len * self.width,
            },
            inner: Segments { count: runs.runs[0], a: runs.runs[1], b: runs.len * self.width },
            c: std::ptr::null_mut(),
            c_row: 0,
            columns: 0,
            epilogue: Epilogue::STORE,
        };
        if let Some(strip) = strip {
            let pitch = strip_pitch::<S>();
            pack_view(simd, view, data, rows, steps, Cut { first: pitch, width: pitch }, strip);
            tile.a = strip.as_ptr();
            tile.a_rows = Rows::Apart(1);
            tile.a_step = pitch;
            tile.len = steps.len();
            (tile.outer, tile.inner) = (Segments::ONE, Segments::ONE);
        }
        tile
    }

    /// Packs columns of the unrolled input under some outputs, from padded planes.
    fn unroll<S: Simd>(
        &self,
        simd: S,
        (planes, places): &(Planes, Vec<usize>),
        operands: &Operands<'_>,
        part: &Part,
        steps: &Steps,
        scratch: &mut [f32],
        packed: &mut [f32],
    ) {
        let (spec, columns) = (operands.spec, &part.columns);
        let taps = spec.kernel()[0] * spec.kernel()[1];
        let channels = columns.start / taps..(columns.end - 1) / taps + 1;
        let first = part.group * spec.group_in_channels();
        let ([down, right], [height, width]) = (spec.stride(), spec.dilated_kernel());
        let under = |outputs: &Range<usize>, stride: usize, kernel: usize| {
            outputs.start * stride..(outputs.end - 1) * stride + kernel
        };
        let window = Window::new(under(&steps.rows, down, height), under(&steps.columns, right, width));
        let pixels = steps.rows.len() * steps.columns.len();
        for (i, n) in steps.images.clone().enumerate() {
            let image = Image::input_channels(spec, n, first + channels.start..first + channels.end);
            band::pack_planes(simd, spec, &image, &window, operands.input, planes, scratch);
            let block = Block {
                from: scratch,
                row: planes.row * down,
                rows: steps.rows.len(),
                pixel: 1,
                len: steps.columns.len(),
                columns: columns.len(),
                cut: part.cut,
                to: &mut packed[i * pixels * self.width..],
                panel: steps.len() * self.width,
            };
            let skipped = channels.start * planes.channel;
            pack_planes(simd, block, |column| places[columns.start + column] - skipped);
        }
    }

    /// Puts the sums of exchanged operands where they belong.
    ///
    /// # Safety
    /// Nobody else touches the gradients of the part's channels (rows) and filters (columns).
    unsafe fn transpose(&self, operands: &Operands<'_>, part: &Part, sums: &[f32], pitch: usize) {
        let (channels, filters, all) = (&part.rows, &part.columns, self.size[0]);
        let start = (part.group * self.size[1] + filters.start) * all + channels.start;
        // SAFETY: the gradients of these filters and channels lie there, by the caller's promise they are ours; sums are
        // as many.
        unsafe {
            let to = operands.grad_weights.at(start);
            if !operands.accumulate {
                return transpose_raw(sums.as_ptr(), pitch, channels.len(), filters.len(), to, all);
            }
            for (i, sums) in sums.chunks(pitch).take(channels.len()).enumerate() {
                for (j, sum) in sums[..filters.len()].iter().enumerate() {
                    *to.add(j * all + i) += sum;
                }
            }
        }
    }
}

/// f32s from step to step of packed rows.
fn strip_pitch<S: Simd>() -> usize {
    S::MR.next_multiple_of(S::LANES)
}

/// Images, rows and columns of outputs, at most so many pixels: whole images, or else rows of one, or a part of a row.
fn blocks_of_steps(spec: &ConvSpec, most: usize) -> [usize; 3] {
    let (height, width) = (spec.out_height(), spec.out_width());
    if width > most {
        [1, 1, balanced(width, most)]
    } else if height * width > most {
        [1, balanced(height, most / width), width]
    } else {
        [balanced(spec.batch(), most / (height * width)), height, width]
    }
}

/// Padded planes for blocks of steps, of which there may be fewer if a plane would be longer than `most`.
fn fitting_planes(spec: &ConvSpec, steps: &mut [usize; 3], most: usize) -> Planes {
    loop {
        let planes = Planes::of_columns(spec, steps[1], steps[2], 4);
        match steps {
            _ if planes.channel <= most => return planes,
            [_, 1, 1] => return planes,
            [images, 1, columns] => (*images, *columns) = (1, columns.div_ceil(2)),
            [images, rows, _] => (*images, *rows) = (1, rows.div_ceil(2)),
        }
    }
}
