//! Gradients of a linear layer.

use rayon::prelude::*;

use crate::layer::Linear;

/// dx = dy · W.
pub(crate) fn backward_data(linear: &Linear, weights: &[f32], grad_output: &[f32], grad_input: &mut [f32]) {
    let rows = grad_input.par_chunks_exact_mut(linear.in_features);
    rows.zip(grad_output.par_chunks_exact(linear.out_features)).for_each(|(dx, dy)| {
        dx.fill(0.0);
        for (w, dy) in weights.chunks_exact(linear.in_features).zip(dy) {
            dx.iter_mut().zip(w).for_each(|(dx, w)| *dx += dy * w);
        }
    });
}

/// dW = dyᵀ · x and db = Σ dy.
pub(crate) fn backward_weights(
    linear: &Linear,
    input: &[f32],
    grad_output: &[f32],
    grad_weights: &mut [f32],
    grad_bias: &mut [f32],
) {
    let rows = grad_weights.par_chunks_exact_mut(linear.in_features).zip(grad_bias);
    rows.enumerate().for_each(|(o, (dw, db))| {
        dw.fill(0.0);
        *db = 0.0;
        let images =
            input.chunks_exact(linear.in_features).zip(grad_output.chunks_exact(linear.out_features));
        for (x, dy) in images {
            *db += dy[o];
            dw.iter_mut().zip(x).for_each(|(dw, x)| *dw += dy[o] * x);
        }
    });
}
