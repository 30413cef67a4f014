//! The fused loops over chunks of tiles.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use super::Machine;
use super::chunks::{BAND_CHANNELS, Sizes, chunks};
use super::matrices::transform_weights;
use super::passes::{Input, Output, Source};
use super::transform::Variant;
use crate::band::{self, Image, pack_pixels, transpose_raw};
use crate::buffer::zeros;
use crate::error::ConvError;
use crate::gemm::{Pass, pixels_by_filters};
use crate::kernel::{Body, ErrorModel, Io, PlanOptions};
use crate::microkernel::Epilogue;
use crate::packed::Packed;
use crate::parallel::{self, SharedOutput};
use crate::partition::{Partition, Shared, Unit};
use crate::simd::Simd;
use crate::spec::{ConvSpec, Layout};
use crate::weights::{Order, Panels};

#[derive(Debug)]
struct WinogradBody<S, V> {
    simd: S,
    spec: ConvSpec,
    options: PlanOptions,
    threads: usize,
    /// Transformed weights of each element of a tile.
    weights: Arc<Vec<Panels>>,
    /// Blocks are of tile rows of a group, those of all images one after the other: few tiles of each of many
    /// images then share every weight that is loaded.
    partition: Partition,
    /// Tile rows of an image.
    image_rows: usize,
    sizes: Sizes,
    variant: PhantomData<V>,
}

pub(super) fn pack<S: Simd, V: Variant>(
    simd: S,
    spec: &ConvSpec,
    weights: &[f32],
    options: &PlanOptions,
) -> Result<Packed, ConvError> {
    let panels = pack_weights::<S, V>(spec, weights)?;
    let bytes = panels.iter().map(Panels::bytes).sum();
    Ok(Packed::new(simd, options, bytes, panels, arrange::<S, V>))
}

fn arrange<S: Simd, V: Variant>(
    simd: S,
    spec: &ConvSpec,
    options: &PlanOptions,
    panels: Arc<Vec<Panels>>,
) -> Result<Box<dyn Body>, ConvError> {
    let threads = parallel::worthwhile(options.threads, spec);
    let chunk = chunks::<V>(spec, Machine::detect(S::LANES, S::NR)).tiles;
    let tile_rows = spec.out_height().div_ceil(V::M);
    let tiles_x = spec.out_width().div_ceil(V::M);
    // A block of as many tile rows as a chunk holds.
    let most = (chunk / tiles_x).max(1);
    let count = panels[0].count;
    let partition = Partition::new(spec.groups(), spec.batch() * tile_rows, most, 1, count, threads);
    let width = panels[0].panel(0, 0).width;
    let sizes = Sizes::new::<V>(spec, width, chunk.min(partition.block * tiles_x));
    Ok(Box::new(WinogradBody {
        simd,
        spec: *spec,
        options: *options,
        threads,
        weights: panels,
        partition,
        image_rows: tile_rows,
        sizes,
        variant: PhantomData::<V>,
    }))
}

/// U = G g Gᵀ, for each element packed like the weights of a 1×1 convolution.
fn pack_weights<S: Simd, V: Variant>(spec: &ConvSpec, weights: &[f32]) -> Result<Vec<Panels>, ConvError> {
    let one = spec.to_builder().kernel(1, 1).build()?;
    let mut element = zeros(one.weights_len())?;
    let mut panels = Vec::new();
    for i in 0..V::ALPHA {
        for j in 0..V::ALPHA {
            for (u, g) in element.iter_mut().zip(weights.chunks_exact(V::R * V::R)) {
                *u = transform_weights(V::TRANSFORM, g)(i, j) as f32;
            }
            panels.push(Panels::pack::<S>(&one, &element, Order::RowColumnChannel)?);
        }
    }
    Ok(panels)
}

/// The parts of a thread's scratch memory.
struct Scratch<'a> {
    v: &'a mut [f32],
    m: &'a mut [f32],
    band: &'a mut [f32],
    staged: &'a mut [f32],
}

impl<S: Simd, V: Variant> WinogradBody<S, V> {
    fn unit(&self, unit: &Unit, io: &Shared<'_>, scratch: &mut [f32]) {
        let sizes = &self.sizes;
        let (v, rest) = scratch.split_at_mut(sizes.v_len);
        let (m, rest) = rest.split_at_mut(sizes.m_len);
        let (band, staged) = rest.split_at_mut(sizes.band_len);
        let mut scratch = Scratch { v, m, band, staged };
        let tiles = unit.pixels.start * sizes.tiles_x..unit.pixels.end * sizes.tiles_x;
        let chunks = tiles.len().div_ceil(sizes.chunk);
        let length = tiles.len().div_ceil(chunks);
        for start in tiles.clone().step_by(length) {
            let chunk = start..(start + length).min(tiles.end);
            self.transform_input(&chunk, unit.image, io, &mut scratch);
            for panel in unit.filter_tiles.clone() {
                self.multiply(chunk.len(), unit.image, panel, &mut scratch);
                self.transform_output(&chunk, unit.image, panel, io, &mut scratch);
            }
        }
    }

    /// The tiles of a chunk, tile row by tile row: the image, the row in it, and its tiles.
    fn tile_rows(
        &self,
        chunk: &Range<usize>,
    ) -> impl Iterator<Item = (usize, usize, Range<usize>)> + use<S, V> {
        let (chunk, tiles_x, image_rows) = (chunk.clone(), self.sizes.tiles_x, self.image_rows);
        (chunk.start / tiles_x..chunk.end.div_ceil(tiles_x)).map(move |row| {
            let first = chunk.start.max(row * tiles_x) - row * tiles_x;
            let tiles = first..chunk.end.min((row + 1) * tiles_x) - row * tiles_x;
            (row / image_rows, row % image_rows, tiles)
        })
    }

    fn transform_input(
        &self,
        chunk: &Range<usize>,
        group: usize,
        io: &Shared<'_>,
        scratch: &mut Scratch<'_>,
    ) {
        let (spec, sizes) = (&self.spec, &self.sizes);
        let in_channels = spec.group_in_channels();
        let mut v = scratch.v.as_mut_ptr();
        for (n, row, tiles) in self.tile_rows(chunk) {
            let image = Image::input(spec, n, group..group + 1);
            let op = |source, first, channels, v| Input::<S, V> {
                source,
                tiles: tiles.clone(),
                channels,
                v,
                v_first: first,
                v_tile: sizes.v_tile,
                v_plane: sizes.v_plane,
                variant: PhantomData,
                simd: PhantomData,
            };
            match spec.layout() {
                Layout::Nhwc => {
                    let source = Source {
                        start: io.input[image.at(0, 0, 0)..].as_ptr(),
                        row: image.row(),
                        pixel: image.pixel(),
                        // Wraps below zero in the padding, where no row is.
                        y: (row * V::M).wrapping_sub(spec.padding().top),
                        x: 0usize.wrapping_sub(spec.padding().left),
                        height: spec.in_height(),
                        width: spec.in_width(),
                    };
                    self.simd.vectorize(op(source, 0, in_channels, v));
                }
                Layout::Nchw => {
                    let columns = tiles.start * V::M..tiles.end * V::M + V::R - 1;
                    let width = columns.len();
                    let window = band::Window::new(row * V::M..row * V::M + V::ALPHA, columns);
                    for first in (0..in_channels).step_by(BAND_CHANNELS) {
                        let channels = BAND_CHANNELS.min(in_channels - first);
                        let start = group * in_channels + first;
                        let image = Image::input_channels(spec, n, start..start + channels);
                        pack_pixels(spec, &image, &window, io.input, BAND_CHANNELS, scratch.band);
                        let source = Source {
                            start: scratch.band.as_ptr(),
                            row: width * BAND_CHANNELS,
                            pixel: BAND_CHANNELS,
                            y: 0,
                            x: 0usize.wrapping_sub(tiles.start * V::M),
                            height: V::ALPHA,
                            width,
                        };
                        self.simd.vectorize(op(source, first, channels, v));
                    }
                }
            }
            v = v.wrapping_add(tiles.len() * sizes.v_tile);
        }
    }

    /// M = V·U for a panel of filters, element by element.
    fn multiply(&self, tiles: usize, group: usize, panel: usize, scratch: &mut Scratch<'_>) {
        let pass = Pass { steps: 0..self.spec.group_in_channels(), epilogue: Epilogue::STORE, bias: None };
        for (element, weights) in self.weights.iter().enumerate() {
            let shape = weights.panel(group, panel);
            let m = scratch.m[element * self.sizes.m_plane..].as_mut_ptr();
            // SAFETY: V holds `tiles` rows of the group's channels' values for the element; M has room for `tiles`
            // rows of a panel's width, counted here from the panel's first filter.
            unsafe {
                pixels_by_filters(
                    self.simd,
                    scratch.v[element * self.sizes.v_plane..].as_ptr(),
                    self.sizes.v_tile,
                    tiles,
                    weights,
                    group,
                    panel..panel + 1,
                    &pass,
                    m.wrapping_sub(shape.first),
                    shape.width,
                );
            }
        }
    }

    fn transform_output(
        &self,
        chunk: &Range<usize>,
        group: usize,
        panel: usize,
        io: &Shared<'_>,
        scratch: &mut Scratch<'_>,
    ) {
        let (spec, sizes) = (&self.spec, &self.sizes);
        let shape = self.weights[0].panel(group, panel);
        let bias = io.group_bias(spec, group);
        let mut first_tile = 0;
        for (index, (n, row, tiles)) in self.tile_rows(chunk).enumerate() {
            let image = Image::output(spec, n, group..group + 1);
            let rows = row * V::M..((row + 1) * V::M).min(spec.out_height());
            let columns = tiles.start * V::M..(tiles.end * V::M).min(spec.out_width());
            let op = |output, pixel, out_row| Output::<S, V> {
                m: scratch.m[first_tile * shape.width..].as_ptr(),
                m_tile: shape.width,
                m_plane: sizes.m_plane,
                tiles: tiles.len(),
                rows: rows.len(),
                columns: columns.len(),
                filters: shape.filters,
                bias: bias.map(|bias| bias.wrapping_add(shape.first)),
                accumulate: self.options.accumulate,
                limits: self.options.limits(),
                output,
                pixel,
                row: out_row,
                variant: PhantomData,
                simd: PhantomData,
            };
            // SAFETY: these rows, columns and filters of the output belong to this unit alone.
            unsafe {
                let start = io.output.at(image.at(shape.first, rows.start, columns.start));
                match spec.layout() {
                    Layout::Nhwc => self.simd.vectorize(op(start, image.pixel(), image.row())),
                    Layout::Nchw => {
                        let line = columns.len() * shape.width;
                        let staged =
                            scratch.staged[index * V::M * sizes.tiles_x * V::M * shape.width..].as_mut_ptr();
                        let rows = (0..rows.len())
                            .map(|i| (start.wrapping_add(i * image.row()), staged.wrapping_add(i * line)));
                        if self.options.accumulate {
                            for (output, staged) in rows.clone() {
                                let (plane, filters) = (image.channel(), shape.filters);
                                transpose_raw(output, plane, filters, columns.len(), staged, shape.width);
                            }
                        }
                        self.simd.vectorize(op(staged, shape.width, line));
                        for (output, staged) in rows {
                            let (plane, filters) = (image.channel(), shape.filters);
                            transpose_raw(staged, shape.width, columns.len(), filters, output, plane);
                        }
                    }
                }
            }
            first_tile += tiles.len();
        }
    }
}

impl<S: Simd, V: Variant> Body for WinogradBody<S, V> {
    fn scratch_len(&self) -> usize {
        self.threads * self.sizes.total()
    }

    fn threads(&self) -> usize {
        self.threads
    }

    fn error_model(&self) -> ErrorModel {
        // Argued in the module's documentation.
        let k = self.spec.group_in_channels() + 2 * (V::INPUT_ROUNDINGS + V::OUTPUT_ROUNDINGS) + 4;
        ErrorModel::Winograd { k: k as f64, transform: V::TRANSFORM }
    }

    fn flops(&self) -> Option<u64> {
        let spec = &self.spec;
        let [c, k] = [spec.group_in_channels(), spec.group_out_channels()].map(|n| n as u128);
        let tiles = [spec.out_height(), spec.out_width()].map(|n| n.div_ceil(V::M) as u128);
        let tiles = (spec.groups() as u128 * spec.batch() as u128).saturating_mul(tiles[0] * tiles[1]);
        let (alpha, m) = (V::ALPHA as u128, V::M as u128);
        // Columns, then rows: ALPHA lines each way in, ALPHA and M lines out.
        let (input, output) = (u128::from(V::INPUT_FLOPS), u128::from(V::OUTPUT_FLOPS));
        let transforms = c * 2 * alpha * input + k * (alpha + m) * output;
        let flops = tiles.saturating_mul(2 * alpha * alpha * c * k + transforms);
        // One output takes more than the definition, whose operations a spec can count.
        Some(u64::try_from(flops).unwrap_or(u64::MAX))
    }

    fn run(&self, io: Io<'_>, scratch: &mut [f32]) {
        let units = self.partition.units(self.spec.groups());
        let shared = Shared { input: io.input, bias: io.bias, output: SharedOutput::new(io.output) };
        let each = self.sizes.total();
        parallel::for_each_range(self.threads, units, scratch, each, &|range, scratch| {
            for index in range {
                self.unit(&self.partition.unit(index), &shared, scratch);
            }
        });
    }
}
