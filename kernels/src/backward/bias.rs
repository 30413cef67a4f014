//! The gradient by the bias: the sum of each filter's gradients.

use crate::parallel::{self, SharedOutput};
use crate::pool::sum;
use crate::simd::{Simd, SimdOp};
use crate::spec::{ConvSpec, Layout};

/// Sums the gradients of each filter, in an order that does not depend on the threads.
pub(super) fn sums<S: Simd>(
    simd: S,
    spec: &ConvSpec,
    threads: usize,
    accumulate: bool,
    grad_output: &[f32],
    grad_bias: &mut [f32],
) {
    let to = SharedOutput::new(grad_bias);
    parallel::for_each_range(threads, spec.out_channels(), &mut [], 0, &|filters, _| {
        // SAFETY: these filters are this range's alone.
        let to = unsafe { std::slice::from_raw_parts_mut(to.at(filters.start), filters.len()) };
        if !accumulate {
            to.fill(0.0);
        }
        simd.vectorize(Filters { spec, first: filters.start, grad_output, to });
    });
}

/// Adds the sums of some filters.
struct Filters<'a> {
    spec: &'a ConvSpec,
    first: usize,
    grad_output: &'a [f32],
    to: &'a mut [f32],
}

impl<S: Simd> SimdOp<S> for Filters<'_> {
    type Output = ();
    #[inline(always)]
    fn eval(self, simd: S) {
        let (plane, all) = (self.spec.out_height() * self.spec.out_width(), self.spec.out_channels());
        match self.spec.layout() {
            Layout::Nchw => {
                for image in self.grad_output.chunks_exact(all * plane) {
                    for (to, plane) in self.to.iter_mut().zip(image.chunks_exact(plane).skip(self.first)) {
                        *to += sum(simd, plane);
                    }
                }
            }
            Layout::Nhwc => {
                for (i, to) in self.to.chunks_mut(S::LANES).enumerate() {
                    let first = self.first + i * S::LANES;
                    let mut sums = [simd.splat(0.0); 4];
                    for pixels in self.grad_output.chunks(4 * all) {
                        for (sum, pixel) in sums.iter_mut().zip(pixels.chunks_exact(all)) {
                            // SAFETY: the filters of `to` are in every pixel.
                            let value = unsafe { simd.load_partial(pixel[first..].as_ptr(), to.len()) };
                            *sum = simd.add(*sum, value);
                        }
                    }
                    let sum = simd.add(simd.add(sums[0], sums[2]), simd.add(sums[1], sums[3]));
                    // SAFETY: as many lanes as there are filters.
                    unsafe {
                        let before = simd.load_partial(to.as_ptr(), to.len());
                        simd.store_partial(to.as_mut_ptr(), simd.add(before, sum), to.len());
                    }
                }
            }
        }
    }
}
