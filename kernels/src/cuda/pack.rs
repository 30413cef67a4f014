//! Weights and offsets in the form that the kernels read.
//!
//! Packed weights depend on the layer alone, not on batch or image size, so that plans of several sizes share
//! them; offsets depend on the size of the image.

use super::schedule::{Method, Settled, Team};
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
pub(super) fn shape(settled: Settled, spec: &ConvSpec) -> (usize, usize) {
    let (filters, steps) = (spec.group_out_channels(), steps(spec).1);
    match settled.method {
        Method::Winograd => winograd::shape(spec),
        // Rows of 8 steps of 16 filters, of which warpgroups have two parts or half the bytes.
        Method::Tf32x3 | Method::Tf32 | Method::Bf16 => {
            let rows = match settled {
                Settled { team: Team::Warpgroup, method: Method::Tf32x3 } => steps / 4,
                Settled { team: Team::Warpgroup, method: Method::Bf16 } => steps / 16,
                _ => steps / 8,
            };
            (8 * filters.next_multiple_of(16), rows)
        }
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

/// Where a weight lies in a row of 8 steps that a warpgroup reads, see `device/wgmma.cuh`.
fn matrix(filter: usize, step: usize) -> usize {
    filter / 8 * 64 + step / 4 % 2 * 32 + filter % 8 * 4 + step % 4
}

/// Weights (OIHW) as the kernels read them.
pub(super) fn weights(settled: Settled, spec: &ConvSpec, weights: &[f32]) -> Result<Vec<f32>, ConvError> {
    match settled.method {
        Method::Depthwise => depthwise(spec, weights),
        Method::Winograd => winograd::weights(spec, weights),
        _ => tiles(settled, spec, weights),
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

/// As [`rounded_to_tf32`], and what is left; NaN of both where that is not finite. `Split` in `device/mma.cuh`.
fn split(x: f32) -> [f32; 2] {
    let big = f32::from_bits((x.to_bits().wrapping_add(0x1000)) & 0xffff_e000);
    [big, x - big]
}

/// A number as the upper half of an f32, to 8 significant bits, to nearest even.
fn rounded_to_bf16(x: f32) -> u32 {
    let bits = x.to_bits();
    if x.is_nan() { 0x7fff } else { (bits + 0x7fff + (bits >> 16 & 1)) >> 16 }
}

/// Rows of steps, of fragments, or of matrices.
fn tiles(settled: Settled, spec: &ConvSpec, weights: &[f32]) -> Result<Vec<f32>, ConvError> {
    let (pitch, rows) = shape(settled, spec);
    let Settled { method, team } = settled;
    let (real, _) = steps(spec);
    let (filters, taps) = (spec.group_out_channels(), spec.kernel()[0] * spec.kernel()[1]);
    let fragments = matches!(method, Method::Tf32x3 | Method::Tf32 | Method::Bf16);
    let mut packed = buffer::zeros(spec.groups() * rows * pitch)?;
    for (group, packed) in packed.chunks_exact_mut(rows * pitch).enumerate() {
        for k in 0..real {
            let [c, r, s] = step(spec, k);
            let from = c * taps + r * spec.kernel()[1] + s;
            for f in 0..filters {
                let weight = weights[(group * filters + f) * real + from];
                match (team, method) {
                    (Team::Warpgroup, Method::Tf32x3) => {
                        let to = k / 8 * 2 * pitch + matrix(f, k);
                        [packed[to], packed[to + pitch]] = split(weight);
                    }
                    (Team::Warpgroup, Method::Tf32) => {
                        packed[k / 8 * pitch + matrix(f, k)] = rounded_to_tf32(weight);
                    }
                    // Steps that are 4 apart share an f32.
                    (Team::Warpgroup, _) => {
                        let to = &mut packed[k / 16 * pitch + matrix(f, k / 8 % 2 * 4 + k % 4)];
                        *to = f32::from_bits(to.to_bits() | rounded_to_bf16(weight) << (k / 4 % 2 * 16));
                    }
                    (Team::Warp, Method::Tf32) => {
                        packed[fragment(spec.layout(), pitch, f, k)] = rounded_to_tf32(weight);
                    }
                    (Team::Warp, _) if fragments => packed[fragment(spec.layout(), pitch, f, k)] = weight,
                    (Team::Warp, _) => packed[k * pitch + f] = weight,
                }
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
            // Numbers that all formats have.
            let given: Vec<f32> =
                (0..spec.weights_len() as u32).map(|i| f32::from_bits((0x80 + i) << 16)).collect();
            let teams =
                [(Method::Fp32, Team::Warp), (Method::Tf32x3, Team::Warp), (Method::Bf16, Team::Warp)]
                    .into_iter()
                    .chain(
                        [Method::Tf32x3, Method::Tf32, Method::Bf16].map(|method| (method, Team::Warpgroup)),
                    );
            for (method, team) in teams {
                let settled = Settled { method, team };
                let packed = weights(settled, &spec, &given).unwrap();
                let (pitch, rows) = shape(settled, &spec);
                assert_eq!(packed.len(), spec.groups() * pitch * rows);
                let halves = |w: f32| [w.to_bits() << 16, w.to_bits() & 0xffff_0000].map(f32::from_bits);
                let packed = match settled {
                    Settled { method: Method::Bf16, team: Team::Warpgroup } => {
                        packed.into_iter().flat_map(halves).collect()
                    }
                    _ => packed,
                };
                let mut found: Vec<f32> = packed.into_iter().filter(|&w| w != 0.0).collect();
                found.sort_by(f32::total_cmp);
                assert!(found == given, "{settled:?} of {text}");
            }
        }
        let spec = spec("c12 h5 w5 o24 k3 g12");
        let given: Vec<f32> = (0..spec.weights_len()).map(|i| i as f32).collect();
        let depthwise = Settled { method: Method::Depthwise, team: Team::Warp };
        let packed = weights(depthwise, &spec, &given).unwrap();
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

    /// Both parts of a weight, which may not be more than 19 bits of an f32, are all of it.
    #[test]
    fn weights_are_split_without_loss() {
        for x in [0.0, 1.0, -1.000_244_2, 3.333_333_3, 1e-30, -16_777_215.0] {
            let [big, small] = split(x);
            assert_eq!((big + small, big.to_bits() & 0x1fff), (x, 0), "{x}");
            assert!(small.abs() <= x.abs() / 2048.0, "{x}");
        }
        for x in [f32::NAN, -f32::NAN, f32::INFINITY, f32::from_bits(0x7fff_ffff), f32::from_bits(u32::MAX)] {
            assert!(split(x)[1].is_nan(), "{x}");
        }
    }

    #[test]
    fn bf16_is_rounded_to_nearest_even() {
        for (x, expected) in [
            (1.0, 1.0),
            (257.0, 256.0), // half to even
            (-259.0, -260.0),
            (f32::MAX, f32::INFINITY),
            (f32::NEG_INFINITY, f32::NEG_INFINITY),
        ] {
            assert_eq!(f32::from_bits(rounded_to_bf16(x) << 16), expected, "{x}");
        }
        assert!(f32::from_bits(rounded_to_bf16(f32::from_bits(0x7f80_0001)) << 16).is_nan());
    }

    /// Where the instruction looks for a weight: 8 filters × 16 bytes in a row, first of the earlier steps.
    #[test]
    fn matrices_are_those_of_the_instruction() {
        let spec = spec("c8 h1 w3 o40 k1x3");
        let given: Vec<f32> = (1..=spec.weights_len()).map(|i| i as f32).collect();
        let packed = |method| weights(Settled { method, team: Team::Warpgroup }, &spec, &given).unwrap();
        let [split, rounded, pairs] = [Method::Tf32x3, Method::Tf32, Method::Bf16].map(packed);
        let pitch = 8 * 48;
        for (filter, step) in [(0, 0), (9, 1), (23, 7), (39, 13), (17, 20)] {
            let value = given[filter * 24 + step];
            let at = filter / 8 * 256 + step % 8 / 4 * 128 + filter % 8 * 16 + step % 4 * 4;
            assert_eq!(rounded[step / 8 * pitch + at / 4], value);
            assert_eq!(split[step / 8 * 2 * pitch + at / 4], value);
            assert_eq!(split[(step / 8 * 2 + 1) * pitch + at / 4], 0.0);
            let at =
                filter / 8 * 256 + step % 16 / 8 * 128 + filter % 8 * 16 + step % 4 * 4 + step / 4 % 2 * 2;
            let bytes: Vec<u8> = pairs.iter().flat_map(|pair| pair.to_bits().to_le_bytes()).collect();
            let at = step / 16 * pitch * 4 + at;
            let half = u16::from_le_bytes([bytes[at], bytes[at + 1]]);
            assert_eq!(u32::from(half), rounded_to_bf16(value), "filter {filter}, step {step}");
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
