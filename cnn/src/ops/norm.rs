//! Batch normalisation, by the running statistics and by those of the batch.

use crate::layer::BatchNorm;

/// Factor and summand of each channel that the running statistics amount to.
pub(crate) fn affine(norm: &BatchNorm, [scale, bias, mean, variance]: [&[f32]; 4]) -> (Vec<f32>, Vec<f32>) {
    let factors: Vec<f32> = scale.iter().zip(variance).map(|(s, v)| s / (v + norm.epsilon).sqrt()).collect();
    let summands = bias.iter().zip(mean).zip(&factors).map(|((b, m), f)| b - m * f).collect();
    (factors, summands)
}

/// y = factor · x + summand of its channel.
pub(crate) fn apply(factors: &[f32], summands: &[f32], values: &mut [f32], pixels: usize) {
    let channels = factors.iter().zip(summands).cycle();
    for (map, (factor, summand)) in values.chunks_exact_mut(pixels).zip(channels) {
        for x in map {
            *x = factor * *x + summand;
        }
    }
}

/// The statistics of a batch, channel by channel.
#[derive(Debug)]
pub(crate) struct Statistics {
    pub(crate) mean: Vec<f32>,
    /// 1/√(variance + epsilon).
    pub(crate) inverse: Vec<f32>,
    /// That of a sample, without bias.
    pub(crate) variance: Vec<f32>,
}

impl Statistics {
    /// Moves the running mean and variance towards these.
    pub(crate) fn observe(&self, norm: &BatchNorm, [mean, variance]: [&mut [f32]; 2]) {
        for (running, batch) in [(mean, &self.mean), (variance, &self.variance)] {
            running.iter_mut().zip(batch).for_each(|(running, x)| *running += norm.momentum * (x - *running));
        }
    }
}

/// The maps of one channel in a batch, one for each image.
fn maps(values: &[f32], c: usize, [channels, pixels]: [usize; 2]) -> impl Iterator<Item = &[f32]> {
    values.chunks_exact(channels * pixels).map(move |image| &image[c * pixels..][..pixels])
}

/// y = scale · (x − mean)/√(variance + epsilon) + bias, with the batch's own statistics.
pub(crate) fn forward(
    norm: &BatchNorm,
    scale: &[f32],
    bias: &[f32],
    input: &[f32],
    output: &mut [f32],
    pixels: usize,
    statistics: &mut Statistics,
) {
    let extents = [norm.channels, pixels];
    let count = (input.len() / norm.channels) as f64;
    for c in 0..norm.channels {
        let sum: f64 = maps(input, c, extents).flatten().map(|&x| f64::from(x)).sum();
        let mean = sum / count;
        let squares: f64 = maps(input, c, extents).flatten().map(|&x| (f64::from(x) - mean).powi(2)).sum();
        let variance = squares / count;
        statistics.mean[c] = mean as f32;
        statistics.inverse[c] = (1.0 / (variance + f64::from(norm.epsilon)).sqrt()) as f32;
        statistics.variance[c] = (squares / (count - 1.0).max(1.0)) as f32;
    }
    let size = norm.channels * pixels;
    for (x, y) in input.chunks_exact(size).zip(output.chunks_exact_mut(size)) {
        for (c, (x, y)) in x.chunks_exact(pixels).zip(y.chunks_exact_mut(pixels)).enumerate() {
            let (mean, factor) = (statistics.mean[c], statistics.inverse[c] * scale[c]);
            for (x, y) in x.iter().zip(y) {
                *y = (x - mean) * factor + bias[c];
            }
        }
    }
}

/// Gradients by scale and bias: Σ dy·x̂ and Σ dy, with x̂ the normalised input.
pub(crate) fn backward_parameters(
    norm: &BatchNorm,
    statistics: &Statistics,
    input: &[f32],
    grad_output: &[f32],
    [grad_scale, grad_bias]: [&mut [f32]; 2],
    pixels: usize,
) {
    let extents = [norm.channels, pixels];
    for c in 0..norm.channels {
        let (mean, inverse) = (f64::from(statistics.mean[c]), f64::from(statistics.inverse[c]));
        let (mut sum, mut product) = (0.0f64, 0.0f64);
        for (x, dy) in maps(input, c, extents).zip(maps(grad_output, c, extents)) {
            for (&x, &dy) in x.iter().zip(dy) {
                sum += f64::from(dy);
                product += f64::from(dy) * (f64::from(x) - mean) * inverse;
            }
        }
        grad_scale[c] = product as f32;
        grad_bias[c] = sum as f32;
    }
}

/// dx = scale/√(variance + epsilon) · (dy − mean(dy) − x̂ · mean(dy·x̂)); the means are known from the gradients
/// by scale and bias.
pub(crate) fn backward_data(
    norm: &BatchNorm,
    scale: &[f32],
    statistics: &Statistics,
    input: &[f32],
    grad_output: &[f32],
    [grad_scale, grad_bias]: [&[f32]; 2],
    grad_input: &mut [f32],
    pixels: usize,
) {
    let count = (input.len() / norm.channels) as f32;
    let size = norm.channels * pixels;
    let images = input.chunks_exact(size).zip(grad_output.chunks_exact(size));
    for ((x, dy), dx) in images.zip(grad_input.chunks_exact_mut(size)) {
        for c in 0..norm.channels {
            let row = c * pixels..(c + 1) * pixels;
            let (mean, inverse) = (statistics.mean[c], statistics.inverse[c]);
            let (product, sum) = (grad_scale[c] / count, grad_bias[c] / count);
            for ((dx, x), dy) in dx[row.clone()].iter_mut().zip(&x[row.clone()]).zip(&dy[row]) {
                *dx = scale[c] * inverse * (dy - sum - (x - mean) * inverse * product);
            }
        }
    }
}
