//! Softmax, and the loss that goes with it.

/// exp(x) over its sum, for each row of `classes` values.
pub(crate) fn softmax(values: &mut [f32], classes: usize) {
    for row in values.chunks_exact_mut(classes) {
        // The largest exponent is 0, so that nothing overflows.
        let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0;
        for x in row.iter_mut() {
            *x = (*x - most).exp();
            sum += *x;
        }
        for x in row {
            *x /= sum;
        }
    }
}

/// dx = y · (dy − Σ dy·y) for each row.
pub(crate) fn softmax_backward(output: &[f32], grad_output: &[f32], grad_input: &mut [f32], classes: usize) {
    let rows = output.chunks_exact(classes).zip(grad_output.chunks_exact(classes));
    for ((y, dy), dx) in rows.zip(grad_input.chunks_exact_mut(classes)) {
        let sum: f32 = y.iter().zip(dy).map(|(y, dy)| y * dy).sum();
        for ((dx, y), dy) in dx.iter_mut().zip(y).zip(dy) {
            *dx = y * (dy - sum);
        }
    }
}

/// The mean over images of −ln of the right class's probability, and its gradient by the logits:
/// (softmax − 1 where right) / images.
pub(crate) fn cross_entropy(logits: &[f32], labels: &[u8], gradient: &mut [f32], classes: usize) -> f32 {
    gradient.copy_from_slice(logits);
    softmax(gradient, classes);
    let images = labels.len() as f32;
    let mut loss = 0.0f64;
    let rows = logits.chunks_exact(classes).zip(gradient.chunks_exact_mut(classes));
    for ((x, p), &label) in rows.zip(labels) {
        let most = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = x.iter().map(|x| (x - most).exp()).sum();
        let label = usize::from(label);
        loss += f64::from(sum.ln() - (x[label] - most));
        p[label] -= 1.0;
        for p in p {
            *p /= images;
        }
    }
    (loss / f64::from(images)) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lecture's example: scores 3.2, 5.1 and −1.7 of a cat give it 13 %, and a loss of 2.04.
    #[test]
    fn the_lectures_cat() {
        let scores = [3.2, 5.1, -1.7];
        let mut probabilities = scores;
        softmax(&mut probabilities, 3);
        assert!((probabilities[0] - 0.13).abs() < 0.005, "{probabilities:?}");
        let mut gradient = [0.0; 3];
        let loss = cross_entropy(&scores, &[0], &mut gradient, 3);
        assert!((loss - 2.04).abs() < 0.005, "{loss}");
        assert!((gradient[0] + 0.87).abs() < 0.005 && gradient[1] == probabilities[1], "{gradient:?}");
    }

    #[test]
    fn large_scores_do_not_overflow() {
        let mut values = [1000.0, 0.0, -1000.0, -1000.0];
        softmax(&mut values, 2);
        assert_eq!(values, [1.0, 0.0, 0.5, 0.5]);
        let mut gradient = [0.0; 2];
        assert_eq!(cross_entropy(&[1000.0, 0.0], &[1], &mut gradient, 2), 1000.0);
    }
}
