//! Gradients of a convolution, by its data, weights and bias; NCHW.

use kernels::ConvSpec;
use rayon::prelude::*;

/// One row of a window's tap, for one row of outputs: outputs `first..end` of the row and the input column of the
/// first of them.
fn columns(spec: &ConvSpec, tap: usize) -> (std::ops::Range<usize>, usize) {
    let (shift, left) = (tap * spec.dilation()[1], spec.padding().left);
    let stride = spec.stride()[1];
    let first = left.saturating_sub(shift).div_ceil(stride);
    let end = match (spec.in_width() + left).checked_sub(shift + 1) {
        Some(last) => (last / stride + 1).min(spec.out_width()),
        None => 0,
    };
    (first..end.max(first), (first * stride + shift).saturating_sub(left))
}

/// The input row that a tap of an output row reads, if it is no padding.
fn row(spec: &ConvSpec, y: usize, tap: usize) -> Option<usize> {
    (y * spec.stride()[0] + tap * spec.dilation()[0])
        .checked_sub(spec.padding().top)
        .filter(|&row| row < spec.in_height())
}

/// dx: each output's gradient, times the weights, goes to the pixels of its window.
pub(crate) fn backward_data(spec: &ConvSpec, weights: &[f32], grad_output: &[f32], grad_input: &mut [f32]) {
    let [_, depth, kh, kw] = spec.weights_shape();
    let (ow, plane) = (spec.out_width(), spec.out_height() * spec.out_width());
    let (iw, in_plane) = (spec.in_width(), spec.in_height() * spec.in_width());
    let (stride, filters) = (spec.stride()[1], spec.group_out_channels());
    let image = |(dx, dy): (&mut [f32], &[f32])| {
        dx.fill(0.0);
        for (o, dy) in dy.chunks_exact(plane).enumerate() {
            for c in 0..depth {
                let dx = &mut dx[(o / filters * depth + c) * in_plane..][..in_plane];
                for tap in 0..kh * kw {
                    let w = weights[(o * depth + c) * kh * kw + tap];
                    let (outputs, column) = columns(spec, tap % kw);
                    for y in 0..spec.out_height() {
                        let Some(row) = row(spec, y, tap / kw) else { continue };
                        let dx = dx[row * iw + column..][..].iter_mut().step_by(stride);
                        let dy = &dy[y * ow..][outputs.clone()];
                        dx.zip(dy).for_each(|(dx, dy)| *dx += w * dy);
                    }
                }
            }
        }
    };
    let (inputs, outputs) = (in_plane * spec.in_channels(), plane * spec.out_channels());
    grad_input.par_chunks_exact_mut(inputs).zip(grad_output.par_chunks_exact(outputs)).for_each(image);
}

/// dw and db: sums over all outputs of a filter, image by image, the same for any number of threads.
pub(crate) fn backward_weights(
    spec: &ConvSpec,
    input: &[f32],
    grad_output: &[f32],
    grad_weights: &mut [f32],
    grad_bias: Option<&mut [f32]>,
) {
    let [outputs, depth, kh, kw] = spec.weights_shape();
    let (ow, plane) = (spec.out_width(), spec.out_height() * spec.out_width());
    let (iw, in_plane) = (spec.in_width(), spec.in_height() * spec.in_width());
    let (stride, filters) = (spec.stride()[1], spec.group_out_channels());
    let image = |n: usize, o: usize| &grad_output[(n * outputs + o) * plane..][..plane];
    grad_weights.par_chunks_exact_mut(depth * kh * kw).enumerate().for_each(|(o, dw)| {
        for (i, dw) in dw.iter_mut().enumerate() {
            let (c, tap) = (i / (kh * kw), i % (kh * kw));
            let (range, column) = columns(spec, tap % kw);
            let mut sum = 0.0;
            for n in 0..spec.batch() {
                let plane = (n * spec.in_channels() + o / filters * depth + c) * in_plane;
                for y in 0..spec.out_height() {
                    let Some(row) = row(spec, y, tap / kw) else { continue };
                    let x = input[plane + row * iw + column..plane + in_plane].iter().step_by(stride);
                    let dy = &image(n, o)[y * ow..][range.clone()];
                    sum += x.zip(dy).map(|(x, dy)| x * dy).sum::<f32>();
                }
            }
            *dw = sum;
        }
    });
    if let Some(grad_bias) = grad_bias {
        for (o, db) in grad_bias.iter_mut().enumerate() {
            *db = (0..spec.batch()).map(|n| image(n, o).iter().sum::<f32>()).sum();
        }
    }
}
