//! Weights and offsets in the form that the kernels read.
//!
//! Packed weights depend on the layer alone, not on batch or image size, so that plans of several sizes share
//! them; offsets depend on the size of the image.

use super::schedule::Method;
use super::variant::{STEPS, Window};
use super::winograd;
use crate::buffer;
use crate::error::ConvError;
use crate::spec::{ConvSpec, Layout};

/// Steps of a group's reduction, and how many there are with those that fill up the last tile.
pub(super) fn steps(spec: &ConvSpec) -> (usize, usize) {
    let steps = spec.group_in_channels() * spec.kernel()[0] * spec.kernel()[1];
    (steps, steps.next_multiple_of(STEPS))
}

/// Channel, kernel row and kernel column of a step: in NCHW as the weights lie, in NHWC as pixels lie.
fn step(spec: &ConvSpec, step: usize) -> [usize; 3] {
    let ([rows, columns], channels) = (spec.kernel(), spec.group_in_channels());
    match spec.layout() {
        Layout::Nchw => [step / (rows * columns), step / columns % rows, step % columns],
        Layout::Nhwc => [step % channels, step / channels / columns, step / channels % columns],
    }
}

/// For each step, how far its input element lies from the one under the window's corner, and which part of
/// the window it is, in the form that `window` reads.
pub(super) fn offsets(spec: &ConvSpec, window: Window) -> Result<Vec<[i32; 2]>, ConvError> {
    let (real, padded) = steps(spec);
    let [channel, row, column] = input_distances(spec);
    let mut offsets = buffer::try_vec(padded)?;
    offsets.extend((0..padded).map(|k| {
        if k >= real {
            return [0, i32::MIN]; // a part that no window holds
        }
        let [c, r, s] = step(spec, k);
        let (dy, dx) = (r * spec.dilation()[0], s * spec.dilation()[1]);
        let part = match window {
            Window::Masked => 1 << r | 1 << (16 + s),
            Window::Wide => dy << 16 | dx,
        };
        // Both fit: `Method::supports` has looked at the padded image.
        [(c * channel + dy * row + dx * column) as i32, part as i32]
    }));
    Ok(offsets)
}

/// Distances of channels, rows and columns in the input, in f32s.
pub(super) fn input_distances(spec: &ConvSpec) -> [usize; 3] {
    let (channels, height, width) = (spec.in_channels(), spec.in_height(), spec.in_width());
    match spec.layout() {
        Layout::Nchw => [height * width, width, 1],
        Layout::Nhwc => [1, width * channels, channels],
    }
}

/// f32s of a row of packed weights, and rows of a group.
pub(super) fn shape(method: Method, spec: &ConvSpec) -> (usize, usize) {
    let (filters, steps) = (spec.group_out_channels(), steps(spec).1);
    match method {
        Method::Winograd => winograd::shape(spec),
        // Rows of 8 steps in fragments of 16 filters.
        Method::Tf32x3 | Method::Tf32 | Method::Bf16 => (8 * filters.next_multiple_of(16), steps / 8),
        // A row is a step; a multiple of 4 filters for copies of 16 bytes.
        _ => (filters.next_multiple_of(4), steps),
    }
}

/// Where the weight of a filter and step lies in its group, see `device/mma.cuh`: lane 4·(filter mod 8) +
/// (step mod 4) has filters 8 apart and steps 4 apart, in the order of the operand that they are.
fn fragment(layout: Layout, pitch: usize, filter: usize, step: usize) -> usize {
    let (later_filter, later_step) = (filter / 8 % 2, step / 4 % 2);
    let element = match layout {
        Layout::Nchw => later_filter + 2 * later_step,
        Layout::Nhwc => 2 * later_filter + later_step,
    };
    step / 8 * pitch + filter / 16 * 128 + (filter % 8 * 4 + step % 4) * 4 + element
}

/// Weights (OIHW) as `method` reads them.
pub(super) fn weights(method: Method, spec: &ConvSpec, weights: &[f32]) -> Result<Vec<f32>, ConvError> {
    match method {
        Method::Depthwise => depthwise(spec, weights),
        Method::Winograd => winograd::weights(spec, weights),
        _ => tiles(method, spec, weights),
    }
}

/// Channels side by side for each part of the kernel.
fn depthwise(spec: &ConvSpec, weights: &[f32]) -> Result<Vec<f32>, ConvError> {
    let (channels, taps) = (spec.out_channels(), spec.kernel()[0] * spec.kernel()[1]);
    let mut packed = buffer::try_vec(weights.len())?;
    packed.extend((0..taps).flat_map(|tap| (0..channels).map(move |channel| weights[channel * taps + tap])));
    Ok(packed)
}

/// Rows of steps, or of fragments.
fn tiles(method: Method, spec: &ConvSpec, weights: &[f32]) -> Result<Vec<f32>, ConvError> {
    let (pitch, rows) = shape(method, spec);
    let (real, _) = steps(spec);
    let (filters, taps) = (spec.group_out_channels(), spec.kernel()[0] * spec.kernel()[1]);
    let fragments = matches!(method, Method::Tf32x3 | Method::Tf32 | Method::Bf16);
    let mut packed = buffer::zeros(spec.groups() * rows * pitch)?;
    for (group, packed) in packed.chunks_exact_mut(rows * pitch).enumerate() {
        for k in 0..real {
            let [c, r, s] = step(spec, k);
            let from = c * taps + r * spec.kernel()[1] + s;
            for f in 0..filters {
                let to = if fragments { fragment(spec.layout(), pitch, f, k) } else { k * pitch + f };
                packed[to] = weights[(group * filters + f) * real + from];
            }
        }
    }
    Ok(packed)
}
