//! The launch of Winograd's F(2×2, 3×3), see `device/winograd.cuh`, and its weights.

use super::params::Params;
use super::schedule::{Launch, Limits};
use super::variant::Function;
use crate::buffer;
use crate::error::ConvError;
use crate::kernel::{ErrorModel, WinogradTransform};
use crate::spec::{ConvSpec, Layout};

/// Filters, tiles and channels of a block.
const FILTERS: usize = 64;
const TILES: usize = 32;
pub(super) const CHANNELS: usize = 8;
/// Pixels of a tile with what its windows reach, and so products of a channel.
pub(super) const ELEMENTS: usize = 16;

/// Points 0, ±1, ∞: no rounding but that of sums.
static TRANSFORM: WinogradTransform = WinogradTransform {
    output: 2,
    kernel: 3,
    at: &[&[1., 1., 1., 0.], &[0., 1., -1., 1.]],
    g: &[&[1., 0., 0.], &[0.5, 0.5, 0.5], &[0.5, -0.5, 0.5], &[0., 0., 1.]],
    bt: &[&[1., 0., -1., 0.], &[0., 1., 1., 0.], &[0., -1., 1., 0.], &[0., -1., 0., 1.]],
};

/// Both layouts, with the lines that make them.
pub(super) static INSTANCES: &[(Layout, Function, &str)] = &[
    (Layout::Nchw, function("conv_winograd_nchw"), "CONV_WINOGRAD(conv_winograd_nchw, NCHW)\n"),
    (Layout::Nhwc, function("conv_winograd_nhwc"), "CONV_WINOGRAD(conv_winograd_nhwc, NHWC)\n"),
];

const fn function(name: &'static str) -> Function {
    let stage = CHANNELS * ELEMENTS * (FILTERS + TILES);
    Function {
        name,
        compute_capability: (8, 0),
        threads: 256,
        shared_bytes: (2 * 4 * stage) as u32,
        only: false,
    }
}

/// Whether a convolution is one of F(2×2, 3×3).
pub(super) fn supports(spec: &ConvSpec) -> Result<(), String> {
    let ([kh, kw], [sh, sw], [dh, dw]) = (spec.kernel(), spec.stride(), spec.dilation());
    if [kh, kw] != [3, 3] {
        return Err(format!("kernel {kh}x{kw} (needs 3x3)"));
    }
    if [sh, sw] != [1, 1] {
        return Err(format!("stride {sh}x{sw} (needs 1x1)"));
    }
    if [dh, dw] != [1, 1] {
        return Err(format!("dilation {dh}x{dw} (needs 1x1)"));
    }
    Ok(())
}

/// f32s of a row of packed weights, and rows of a group: (channel, element).
pub(super) fn shape(spec: &ConvSpec) -> (usize, usize) {
    let channels = spec.group_in_channels().next_multiple_of(CHANNELS);
    (spec.group_out_channels().next_multiple_of(4), channels * ELEMENTS)
}

/// G g Gᵀ of each filter and channel.
pub(super) fn weights(spec: &ConvSpec, weights: &[f32]) -> Result<Vec<f32>, ConvError> {
    let (pitch, rows) = shape(spec);
    let (filters, channels) = (spec.group_out_channels(), spec.group_in_channels());
    let mut packed = buffer::zeros(spec.groups() * rows * pitch)?;
    for (of_filter, g) in weights.chunks_exact(9 * channels).enumerate() {
        let (group, filter) = (of_filter / filters, of_filter % filters);
        for (channel, g) in g.chunks_exact(9).enumerate() {
            let mut half = [[0.0; 3]; 4];
            for (i, row) in TRANSFORM.g.iter().enumerate() {
                half[i] = [0, 1, 2].map(|j| (0..3).map(|k| row[k] * f64::from(g[k * 3 + j])).sum::<f64>());
            }
            for (element, value) in (0..ELEMENTS).map(|element| {
                let row = TRANSFORM.g[element % 4];
                (element, (0..3).map(|k| half[element / 4][k] * row[k]).sum::<f64>())
            }) {
                let row = (group * rows) + channel * ELEMENTS + element;
                packed[row * pitch + filter] = value as f32;
            }
        }
    }
    Ok(packed)
}

/// Tiles of all images.
fn tiles(spec: &ConvSpec) -> usize {
    spec.batch() * spec.out_height().div_ceil(2) * spec.out_width().div_ceil(2)
}

/// The bound: of a product, one rounding of the transformed weight, two each for rows and columns of the
/// pixels' and of the products' transforms (sums of two and of three), one of the product, and a sum over channels;
/// then bias and previous output.
pub(super) fn error_model(spec: &ConvSpec) -> ErrorModel {
    let roundings = 1 + 2 + 1 + spec.group_in_channels() + 4 + 2;
    ErrorModel::Winograd { k: roundings as f64, transform: &TRANSFORM }
}

/// Multiplications and additions of a run, transforms included.
pub(super) fn flops(spec: &ConvSpec) -> u64 {
    let (tiles, channels) = (tiles(spec) as u64, spec.in_channels() as u64);
    let products = 2 * 16 * tiles * spec.out_channels() as u64 * spec.group_in_channels() as u64;
    products + 32 * tiles * channels + 24 * tiles * spec.out_channels() as u64
}

/// The launch, if the device can run it.
pub(super) fn launch(spec: &ConvSpec, params: Params, limits: &Limits) -> Option<Launch> {
    let (_, function, _) = INSTANCES.iter().find(|(layout, ..)| *layout == spec.layout())?;
    if function.compute_capability > limits.compute_capability || function.shared_bytes > limits.shared_bytes
    {
        return None;
    }
    let filter_tiles = spec.group_out_channels().div_ceil(FILTERS);
    let pixel_tiles = tiles(spec).div_ceil(TILES);
    Some(Launch {
        function: function.name,
        grid: [(filter_tiles * pixel_tiles * spec.groups()) as u32, 1, 1],
        block: function.threads,
        shared_bytes: function.shared_bytes,
        params: Params { filter_tiles: filter_tiles as i32, pixel_tiles: pixel_tiles as i32, ..params },
    })
}

/// Multiply-adds of the busiest multiprocessor, in the measure of [`tiling`](super::tiling).
pub(super) fn cost(launch: &Launch, params: &Params, limits: &Limits) -> f64 {
    let rounds = (f64::from(launch.grid[0]) / f64::from(limits.multiprocessors.max(1))).ceil();
    let channels = (params.channels as usize).next_multiple_of(CHANNELS);
    // One block a multiprocessor: its first pixels and its last transform are not hidden by others.
    rounds * ((FILTERS * TILES * ELEMENTS * channels) as f64 / 0.7 + 300e3)
}
