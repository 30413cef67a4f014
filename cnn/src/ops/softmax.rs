//! Softmax, and the loss that goes with it.

use crate::Shape;

/// Where a softmax runs: along lines of so many values, each so far from the next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lines {
    len: usize,
    step: usize,
}

impl Lines {
    /// Values side by side.
    pub(crate) fn rows(len: usize) -> Self {
        Lines { len, step: 1 }
    }

    /// An axis of maps or features.
    pub(crate) fn along(shape: Shape, axis: usize) -> Self {
        let extents = shape.volume();
        Lines { len: extents[axis], step: extents[axis + 1..].iter().product() }
    }

    /// Where each line of so many values begins.
    fn starts(self, values: usize) -> impl Iterator<Item = usize> {
        let block = self.len * self.step;
        (0..values / block).flat_map(move |i| i * block..i * block + self.step)
    }

    /// The places of a line.
    fn places(self, start: usize) -> impl Iterator<Item = usize> {
        (0..self.len).map(move |i| start + i * self.step)
    }
}

/// exp(x) over its sum, for each line.
pub(crate) fn softmax(values: &mut [f32], lines: Lines) {
    for start in lines.starts(values.len()) {
        // The largest exponent is 0, so that nothing overflows.
        let most = lines.places(start).map(|i| values[i]).fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0;
        for i in lines.places(start) {
            values[i] = (values[i] - most).exp();
            sum += values[i];
        }
        lines.places(start).for_each(|i| values[i] /= sum);
    }
}

/// dx = y · (dy − Σ dy·y) for each line.
pub(crate) fn softmax_backward(output: &[f32], grad_output: &[f32], grad_input: &mut [f32], lines: Lines) {
    for start in lines.starts(output.len()) {
        let sum: f32 = lines.places(start).map(|i| output[i] * grad_output[i]).sum();
        lines.places(start).for_each(|i| grad_input[i] = output[i] * (grad_output[i] - sum));
    }
}

/// The mean over images of −ln of the right class's probability, and its gradient by the logits:
/// (softmax − 1 where right) / images.
pub(crate) fn cross_entropy(logits: &[f32], labels: &[u8], gradient: &mut [f32], classes: usize) -> f32 {
    gradient.copy_from_slice(logits);
    softmax(gradient, Lines::rows(classes));
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
        softmax(&mut probabilities, Lines::rows(3));
        assert!((probabilities[0] - 0.13).abs() < 0.005, "{probabilities:?}");
        let mut gradient = [0.0; 3];
        let loss = cross_entropy(&scores, &[0], &mut gradient, 3);
        assert!((loss - 2.04).abs() < 0.005, "{loss}");
        assert!((gradient[0] + 0.87).abs() < 0.005 && gradient[1] == probabilities[1], "{gradient:?}");
    }

    #[test]
    fn large_scores_do_not_overflow() {
        let mut values = [1000.0, 0.0, -1000.0, -1000.0];
        softmax(&mut values, Lines::rows(2));
        assert_eq!(values, [1.0, 0.0, 0.5, 0.5]);
        let mut columns = [1000.0, -1000.0, 0.0, -1000.0];
        softmax(&mut columns, Lines::along(Shape::image(2, 1, 2), 0));
        assert_eq!(columns, [1.0, 0.5, 0.0, 0.5]);
        let mut gradient = [0.0; 2];
        assert_eq!(cross_entropy(&[1000.0, 0.0], &[1], &mut gradient, 2), 1000.0);
    }
}
