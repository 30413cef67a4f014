//! How products that are rounded to TF32 are told from those of f32: by data that TF32 rounds.
//!
//! Inputs are [`VALUE`] everywhere and weights are 1, so that an output is a number of such values. In TF32 each of them
//! is 1, and the output too small by 2⁻¹² of itself. In f32 there are no more of them than it adds up exactly, whatever
//! the order; what an algorithm's transforms round is some 2⁻²⁴.

use kernels::{ConvSpec, Layout};

/// The inputs: 1 + 2⁻¹².
pub(super) const VALUE: f32 = 1.0 + 1.0 / 4096.0;
/// The share by which outputs in f32 differ at most.
pub(super) const MOST: f64 = 1.0 / 16384.0;
/// So many of `VALUE` are the largest multiple of 2⁻¹² that has 24 bits.
const EXACT: usize = 4095;

/// Channels of a group whose weights are 1; those of the others are 0, which adds nothing. Of a window that alone has
/// too many taps it is one.
fn channels(spec: &ConvSpec) -> usize {
    let [height, width] = spec.kernel();
    (EXACT / (height * width)).clamp(1, spec.group_in_channels())
}

/// The weights, OIHW.
pub(super) fn weights(spec: &ConvSpec) -> Vec<f32> {
    let [height, width] = spec.kernel();
    let mut weights = vec![0.0; spec.weights_len()];
    for filter in weights.chunks_exact_mut(spec.group_in_channels() * height * width) {
        filter[..channels(spec) * height * width].fill(1.0);
    }
    weights
}

/// The largest share by which outputs, the first ones of all, differ from what they should be.
pub(super) fn worst_share(spec: &ConvSpec, layout: Layout, output: &[f32]) -> f64 {
    let padding = spec.padding();
    let taps = |axis: usize, before: usize, size: usize, at: usize| {
        let (stride, dilation) = (spec.stride()[axis], spec.dilation()[axis]);
        let inside = |tap: &usize| (before..before + size).contains(&(at * stride + tap * dilation));
        (0..spec.kernel()[axis]).filter(inside).count()
    };
    let rows: Vec<usize> =
        (0..spec.out_height()).map(|y| taps(0, padding.top, spec.in_height(), y)).collect();
    let columns: Vec<usize> =
        (0..spec.out_width()).map(|x| taps(1, padding.left, spec.in_width(), x)).collect();
    let (pixels, channels) = (spec.out_height() * spec.out_width(), channels(spec));
    let share = |(index, got): (usize, &f32)| {
        let pixel = match layout {
            Layout::Nchw => index,
            Layout::Nhwc => index / spec.out_channels(),
        } % pixels;
        let (row, column) = (rows[pixel / spec.out_width()], columns[pixel % spec.out_width()]);
        let want = (row * column * channels) as f64 * f64::from(VALUE);
        let error = (f64::from(*got) - want).abs();
        match error / want {
            _ if error == 0.0 => 0.0,
            // A NaN is as wrong as can be.
            share if share.is_nan() => f64::INFINITY,
            share => share,
        }
    };
    output.iter().enumerate().map(share).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// f32 passes, in both layouts and with everything that changes how many taps an output has; operands that were
    /// rounded to TF32 do not.
    #[test]
    fn rounded_operands_show() {
        for text in [
            "n2 c6 h7 w5 o4 k3 p1 s2",
            "c3 h9 w9 o2 k3x2 d2 p2",
            "c4 h4 w4 o4 k3 p2 g2",
            // Sums that f32 would round one after the other.
            "c2048 h3 w3 o2 k3 p1",
            "c9000 h1 w2 o3 k1",
        ] {
            for (layout, suffix) in [(Layout::Nchw, ""), (Layout::Nhwc, " nhwc")] {
                let spec: ConvSpec = format!("{text}{suffix}").parse().unwrap();
                let output = |value: f32| {
                    let plan = kernels::kernel("naive").unwrap();
                    let weights = weights(&spec);
                    let plan = plan.plan(&spec, &weights, &Default::default()).unwrap();
                    let mut output = vec![0.0; spec.output_len()];
                    let input = vec![value; spec.input_len()];
                    plan.run(&input, None, &mut output, &mut plan.workspace()).unwrap();
                    output
                };
                assert!(worst_share(&spec, layout, &output(VALUE)) < 1e-6, "{spec}");
                let rounded = worst_share(&spec, layout, &output(1.0));
                assert!(rounded > 1.0 / 8192.0, "{spec}: {rounded}");
                let nan = [f32::NAN, 0.0];
                assert_eq!(worst_share(&spec, layout, &nan), f64::INFINITY, "{spec}");
            }
        }
    }
}
