//! What layers compute beside convolutions, forward and backward, on slices of whole batches.

pub(crate) mod lrn;
pub(crate) mod norm;
pub(crate) mod pool;
pub(crate) mod softmax;

/// The gradient of an activation by its input, where `output` is what it gave: none beyond its limits.
pub(crate) fn activation_backward(
    activation: kernels::Activation,
    output: &[f32],
    grad_output: &[f32],
    grad_input: &mut [f32],
) {
    let (min, max) = match activation {
        kernels::Activation::Relu => (0.0, f32::INFINITY),
        kernels::Activation::Clamp { min, max } => (min, max),
    };
    for ((dx, &dy), &y) in grad_input.iter_mut().zip(grad_output).zip(output) {
        *dx = if y > min && y < max { dy } else { 0.0 };
    }
}
