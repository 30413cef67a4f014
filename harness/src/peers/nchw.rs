//! What peers have in common: shapes in NCHW, the bound of an error; and for those that know only this layout,
//! images of the other are brought into it and back.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use kernels::{ConvSpec, ErrorModel, Layout};

use crate::buffer::Buffer;
use crate::data::Tensors;
use crate::record::Gradient;

/// The input in NCHW: where it lies, or a copy.
pub(super) fn input<'a>(spec: &ConvSpec, tensors: &'a Tensors) -> Cow<'a, Buffer> {
    match spec.layout() {
        Layout::Nchw => Cow::Borrowed(&tensors.input),
        Layout::Nhwc => {
            let mut input = Buffer::zeros(tensors.input.len());
            transpose(&tensors.input, &mut input, in_pixels(spec), spec.in_channels());
            Cow::Owned(input)
        }
    }
}

/// Brings a result in NCHW into the layout of the spec.
pub(super) fn store(spec: &ConvSpec, result: &[f32], output: &mut [f32]) {
    match spec.layout() {
        Layout::Nchw => output.copy_from_slice(result),
        Layout::Nhwc => transpose(result, output, spec.out_channels(), out_pixels(spec)),
    }
}

/// Time to bring the input into NCHW and the result back, for a spec of the other layout.
pub(super) fn reorder(spec: &ConvSpec, tensors: &Tensors, result: &[f32]) -> Option<Duration> {
    if spec.layout() == Layout::Nchw {
        return None;
    }
    // Copies, so that the clock sees no memory that is touched for the first time.
    let (mut input, mut output) = (tensors.input.clone(), result.to_vec());
    let start = Instant::now();
    transpose(&tensors.input, &mut input, in_pixels(spec), spec.in_channels());
    transpose(result, &mut output, spec.out_channels(), out_pixels(spec));
    Some(start.elapsed())
}

/// A method that sums the definition's products, each rounded once, in any order, and adds the bias: a term
/// goes through its own rounding and at most `terms` additions. Two more are for a library that sums apart
/// what it blocks.
///
/// Of gradients by data a term is of a filter and tap, of those by weights of an output pixel.
pub(super) fn error_model(spec: &ConvSpec, gradient: Option<Gradient>) -> ErrorModel {
    let terms = match gradient {
        None => spec.weights_len() / spec.out_channels(),
        Some(Gradient::BackwardData) => spec.weights_len() / spec.group_in_channels() / spec.groups(),
        Some(Gradient::BackwardWeights) => spec.output_len() / spec.out_channels(),
    };
    ErrorModel::Sum { k: terms as f64 + 3.0 }
}

/// Shape of the input, axes in the order of NCHW.
pub(super) fn input_shape(spec: &ConvSpec) -> [usize; 4] {
    [spec.batch(), spec.in_channels(), spec.in_height(), spec.in_width()]
}

/// Shape of the output, axes in the order of NCHW.
pub(super) fn output_shape(spec: &ConvSpec) -> [usize; 4] {
    [spec.batch(), spec.out_channels(), spec.out_height(), spec.out_width()]
}

fn in_pixels(spec: &ConvSpec) -> usize {
    spec.in_height() * spec.in_width()
}

fn out_pixels(spec: &ConvSpec) -> usize {
    spec.out_height() * spec.out_width()
}

/// Rows and columns of a block: a cache line of each side.
const BLOCK: usize = 16;

/// Transposes matrices of so many rows and columns that lie one behind the other, in blocks, so that a cache
/// line is used whole while it is there.
pub(super) fn transpose(from: &[f32], to: &mut [f32], rows: usize, columns: usize) {
    let size = (rows * columns).max(1);
    for (from, to) in from.chunks_exact(size).zip(to.chunks_exact_mut(size)) {
        for top in (0..rows).step_by(BLOCK) {
            for left in (0..columns).step_by(BLOCK) {
                for row in top..rows.min(top + BLOCK) {
                    for column in left..columns.min(left + BLOCK) {
                        to[column * rows + row] = from[row * columns + column];
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Kind, tensors};

    #[test]
    fn both_ways_is_none() {
        let spec: ConvSpec = "n2 c37 h5 w9 o37 k1 g37 nhwc".parse().unwrap();
        let tensors = tensors(&spec, Kind::Real, 0);
        let input = input(&spec, &tensors);
        assert_eq!(input[45 + 9 + 2], tensors.input[(9 + 2) * 37 + 1]);
        let mut back = vec![0.0; input.len()];
        store(&spec, &input, &mut back);
        assert_eq!(back, tensors.input[..]);
        assert!(reorder(&spec, &tensors, &input).is_some());
        let spec: ConvSpec = "c3 h5 w9 o3 k1".parse().unwrap();
        assert_eq!(reorder(&spec, &tensors, &[]), None);
    }
}
