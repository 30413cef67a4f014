//! `naive`: the definition, seven loops.
//!
//! # Idea
//! The lecture's picture: slide each filter over the image, and at each place take the dot product
//! of the filter and the pixels under it. Nothing is reordered, nothing is packed, nothing is
//! unsafe. It is the kernel to read first, and the one that covers everything.
//!
//! # Loop nest
//! ```text
//! for each image n, filter o, row y, column x:            one output element
//!     for each channel c of the filter's group, kernel row r, kernel column s:
//!         sum += weights[o][c][r][s] · input[n][c][y·stride + r·dilation − top][…]
//! ```
//! Pixels in the padding are zeros and are skipped, so a weight of NaN or infinity does not meet
//! them.
//!
//! # Supports and refuses
//! Everything; refuses nothing. One thread, whatever the options say.
//!
//! # Error model
//! Sum of products in one f32 accumulator: [`ErrorModel::Sum`].
//!
//! # Source
//! The definition of the cross-correlation as in CS231n, lecture 5.

use std::sync::Arc;

use crate::error::ConvError;
use crate::kernel::{Body, ErrorModel, Io, PlanOptions};
use crate::packed::Packed;
use crate::registry::Algorithm;
use crate::simd::Simd;
use crate::spec::{ConvSpec, Layout};

/// The definition.
pub(crate) struct Naive;

impl Algorithm for Naive {
    const NAME: &'static str = "naive";

    fn supports(_: &ConvSpec) -> Result<(), String> {
        Ok(())
    }

    fn pack<S: Simd>(
        simd: S,
        _: &ConvSpec,
        weights: &[f32],
        options: &PlanOptions,
    ) -> Result<Packed, ConvError> {
        let mut copy = crate::buffer::zeros(weights.len())?;
        copy.copy_from_slice(weights);
        Ok(Packed::new(simd, options, 4 * weights.len(), copy, |_, spec, options, weights| {
            Ok(Box::new(NaiveBody { spec: *spec, weights, options: *options }))
        }))
    }
}

#[derive(Debug)]
struct NaiveBody {
    spec: ConvSpec,
    weights: Arc<Vec<f32>>,
    options: PlanOptions,
}

/// Index of an element in a batch of images.
fn index(layout: Layout, [channels, height, width]: [usize; 3], [n, c, y, x]: [usize; 4]) -> usize {
    match layout {
        Layout::Nchw => ((n * channels + c) * height + y) * width + x,
        Layout::Nhwc => ((n * height + y) * width + x) * channels + c,
    }
}

impl NaiveBody {
    /// The dot product of filter `o` and the pixels under it at output position (y, x).
    fn dot(&self, input: &[f32], n: usize, o: usize, y: usize, x: usize) -> f32 {
        let spec = &self.spec;
        let [kernel_height, kernel_width] = spec.kernel();
        let channels = spec.group_in_channels();
        let first_channel = o / spec.group_out_channels() * channels;
        let size = [spec.in_channels(), spec.in_height(), spec.in_width()];
        let mut sum = 0.0;
        for c in 0..channels {
            for r in 0..kernel_height {
                for s in 0..kernel_width {
                    let iy = y * spec.stride()[0] + r * spec.dilation()[0];
                    let ix = x * spec.stride()[1] + s * spec.dilation()[1];
                    let (Some(iy), Some(ix)) =
                        (iy.checked_sub(spec.padding().top), ix.checked_sub(spec.padding().left))
                    else {
                        continue;
                    };
                    if iy < spec.in_height() && ix < spec.in_width() {
                        let w = self.weights[((o * channels + c) * kernel_height + r) * kernel_width + s];
                        sum += w * input[index(spec.layout(), size, [n, first_channel + c, iy, ix])];
                    }
                }
            }
        }
        sum
    }
}

impl Body for NaiveBody {
    fn scratch_len(&self) -> usize {
        0
    }

    fn threads(&self) -> usize {
        1
    }

    fn error_model(&self) -> ErrorModel {
        ErrorModel::sum(&self.spec)
    }

    fn run(&self, io: Io<'_>, _: &mut [f32]) {
        let spec = &self.spec;
        let size = [spec.out_channels(), spec.out_height(), spec.out_width()];
        for n in 0..spec.batch() {
            for o in 0..spec.out_channels() {
                for y in 0..spec.out_height() {
                    for x in 0..spec.out_width() {
                        let mut value = self.dot(io.input, n, o, y, x);
                        let out = &mut io.output[index(spec.layout(), size, [n, o, y, x])];
                        if let Some(bias) = io.bias {
                            value += bias[o];
                        }
                        if self.options.accumulate {
                            value += *out;
                        }
                        *out = self.options.activation.map_or(value, |activation| activation.apply(value));
                    }
                }
            }
        }
    }
}
