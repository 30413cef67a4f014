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

/// Floats that can be fetched at once: 4 where neighbours in memory are neighbours in the tile, and aligned.
pub(super) fn width(spec: &ConvSpec) -> usize {
    let fours = match spec.layout() {
        // Channels of one part of the window.
        Layout::Nhwc => spec.group_in_channels().is_multiple_of(4),
        // Pixels of a plane, where the output's are the input's.
        Layout::Nchw => {
            spec.kernel() == [1, 1]
                && spec.stride() == [1, 1]
                && spec.padded_input() == [spec.in_height(), spec.in_width()]
                && (spec.in_height() * spec.in_width()).is_multiple_of(4)
        }
    };
    if fours { 4 } else { 1 }
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

/// To 11 significant bits, half away from zero, as `rounded_to_tf32` in `device/mma.cuh`. NaN stays one, also where
/// only its low bits say so, which the hardware drops.
fn rounded_to_tf32(x: f32) -> f32 {
    if x.is_nan() { f32::NAN } else { f32::from_bits((x.to_bits() + 0x1000) & 0xffff_e000) }
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
                let weight = weights[(group * filters + f) * real + from];
                packed[to] = if method == Method::Tf32 { rounded_to_tf32(weight) } else { weight };
            }
        }
    }
    Ok(packed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> ConvSpec {
        text.parse().unwrap()
    }

    const SPECS: &[&str] = &[
        "c6 h9 w7 o10 k3x2 s2 p1 d2x3 g2",
        "c8 h9 w7 o4 k3x2 p2 g2 nhwc",
        "n2 c5 h6 w20 o3 k1x17 nhwc",
        "c3 h40 w40 o7 k16x15",
    ];

    /// An offset leads from the element under the corner to that of the step, and the part names its row and column.
    #[test]
    fn offsets_lead_to_the_step() {
        for text in SPECS {
            let spec = spec(text);
            let [height, width, channels] = [spec.in_height(), spec.in_width(), spec.in_channels()];
            let index = |c: usize, y: usize, x: usize| match spec.layout() {
                Layout::Nchw => (c * height + y) * width + x,
                Layout::Nhwc => (y * width + x) * channels + c,
            };
            let window = if spec.kernel()[1] > 15 { Window::Wide } else { Window::Masked };
            let offsets = offsets(&spec, window).unwrap();
            let (real, padded) = steps(&spec);
            assert_eq!(offsets.len(), padded);
            let mut seen = std::collections::BTreeSet::new();
            for (k, [offset, part]) in offsets.into_iter().enumerate() {
                if k >= real {
                    assert_eq!(part, i32::MIN, "{text}, step {k}");
                    continue;
                }
                let [c, r, s] = step(&spec, k);
                assert!(seen.insert([c, r, s]), "{text}: step {k} is one twice");
                let (y, x) = (r * spec.dilation()[0], s * spec.dilation()[1]);
                assert_eq!(offset as usize, index(c, y, x) - index(0, 0, 0), "{text}, step {k}");
                let expected = match window {
                    Window::Masked => 1 << r | 1 << (16 + s),
                    Window::Wide => (y << 16 | x) as i32,
                };
                assert_eq!(part, expected, "{text}, step {k}");
            }
        }
    }

    /// Every weight is somewhere once, and all else is zero.
    #[test]
    fn packing_loses_and_doubles_nothing() {
        for text in SPECS {
            let spec = spec(text);
            let given: Vec<f32> = (1..=spec.weights_len()).map(|i| i as f32).collect();
            for method in [Method::Fp32, Method::Tf32x3, Method::Bf16] {
                let packed = weights(method, &spec, &given).unwrap();
                let (pitch, rows) = shape(method, &spec);
                assert_eq!(packed.len(), spec.groups() * pitch * rows);
                let mut found: Vec<f32> = packed.into_iter().filter(|&w| w != 0.0).collect();
                found.sort_by(f32::total_cmp);
                assert_eq!(found, given, "{method:?} of {text}");
            }
        }
        let spec = spec("c12 h5 w5 o24 k3 g12");
        let given: Vec<f32> = (0..spec.weights_len()).map(|i| i as f32).collect();
        let packed = weights(Method::Depthwise, &spec, &given).unwrap();
        assert_eq!(packed[7 * 24 + 5], given[5 * 9 + 7]);
    }

    #[test]
    fn tf32_is_rounded_to_nearest() {
        for (x, expected) in [
            (1.0, 1.0),
            (-2049.0, -2050.0), // half away from zero
            (4097.0, 4096.0),
            (4099.0, 4100.0),
            (f32::MAX, f32::INFINITY),
            (f32::NEG_INFINITY, f32::NEG_INFINITY),
        ] {
            assert_eq!(rounded_to_tf32(x), expected, "{x}");
        }
        // A GPU's own NaN, and one of low bits.
        for bits in [0x7fff_ffff, 0x7f80_0001] {
            let rounded = rounded_to_tf32(f32::from_bits(bits));
            assert!(f32::from_bits(rounded.to_bits() & 0xffff_e000).is_nan(), "{bits:x}");
        }
    }

    /// The lane that needs a weight has it: PTX gives lane 4·g + t rows g and g + 8 at steps t and t + 4 of the first
    /// operand, and steps t and t + 4 of column g of the second.
    #[test]
    fn fragments_are_those_of_the_instruction() {
        let pitch = 8 * 32;
        for lane in 0..32 {
            let (g, t) = (lane / 4, lane % 4);
            let rows = [(g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4)];
            let columns = [(g, t), (g, t + 4), (g + 8, t), (g + 8, t + 4)];
            for element in 0..4 {
                let at =
                    |layout, (filter, step): (usize, usize)| fragment(layout, pitch, 16 + filter, 8 + step);
                let expected = pitch + 128 + lane * 4 + element;
                assert_eq!(at(Layout::Nchw, rows[element]), expected);
                assert_eq!(at(Layout::Nhwc, columns[element]), expected);
            }
        }
    }
}
