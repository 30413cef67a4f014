//! Local response normalisation.

use crate::layer::Lrn;

/// The channels that a sum runs over, around channel `c` of `channels`.
fn window(lrn: &Lrn, c: usize, channels: usize) -> std::ops::Range<usize> {
    let before = (lrn.size - 1) / 2;
    c.saturating_sub(before)..c.saturating_add(lrn.size - before).min(channels)
}

/// k + alpha/size · Σ x² for each pixel of channel `c`.
fn denominators(lrn: &Lrn, image: &[f32], pixels: usize, c: usize, sums: &mut [f32]) {
    sums.fill(0.0);
    for other in window(lrn, c, image.len() / pixels) {
        for (sum, x) in sums.iter_mut().zip(&image[other * pixels..][..pixels]) {
            *sum += x * x;
        }
    }
    let factor = lrn.alpha / lrn.size as f32;
    for sum in sums {
        *sum = lrn.k + factor * *sum;
    }
}

/// y = x · d^−beta, with d the [`denominators`].
pub(crate) fn forward(lrn: &Lrn, input: &[f32], output: &mut [f32], [channels, pixels]: [usize; 2]) {
    let images = input.chunks_exact(channels * pixels).zip(output.chunks_exact_mut(channels * pixels));
    for (x, y) in images {
        for c in 0..channels {
            let y = &mut y[c * pixels..][..pixels];
            denominators(lrn, x, pixels, c, y);
            for (y, x) in y.iter_mut().zip(&x[c * pixels..][..pixels]) {
                *y = x * y.powf(-lrn.beta);
            }
        }
    }
}

/// dx = dy · d^−beta − 2·alpha·beta/size · x · Σ dy·y/d, the sum over the channels whose window holds this one.
pub(crate) fn backward(
    lrn: &Lrn,
    input: &[f32],
    grad_output: &[f32],
    grad_input: &mut [f32],
    [channels, pixels]: [usize; 2],
) {
    let factor = lrn.alpha / lrn.size as f32;
    let size = channels * pixels;
    let images = input.chunks_exact(size).zip(grad_output.chunks_exact(size));
    for ((x, dy), dx) in images.zip(grad_input.chunks_exact_mut(size)) {
        let at = |c: usize, pixel: usize| x[c * pixels + pixel];
        for pixel in 0..pixels {
            // One column of channels at a time.
            for c in 0..channels {
                dx[c * pixels + pixel] = 0.0;
            }
            for c in 0..channels {
                let squares: f32 = window(lrn, c, channels).map(|other| at(other, pixel).powi(2)).sum();
                let d = lrn.k + factor * squares;
                let share = dy[c * pixels + pixel] * d.powf(-lrn.beta);
                dx[c * pixels + pixel] += share;
                let pull = 2.0 * factor * lrn.beta * share * at(c, pixel) / d;
                for other in window(lrn, c, channels) {
                    dx[other * pixels + pixel] -= pull * at(other, pixel);
                }
            }
        }
    }
}
