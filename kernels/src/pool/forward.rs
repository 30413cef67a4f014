//! Outputs of a [pooling](super).

use std::ops::Range;

use super::reduction::{Largest, Sum};
use super::{PoolPlan, Pooling, pixels_forward, planes_forward};
use crate::parallel::SharedOutput;
use crate::simd::Simd;
use crate::spec::Layout;

/// Computes rows of outputs, counted through all planes (NCHW) or images (NHWC).
///
/// # Safety
/// The rows lie in the output, and nobody else touches them meanwhile.
pub(super) unsafe fn rows<S: Simd>(
    simd: S,
    plan: &PoolPlan,
    input: &[f32],
    output: SharedOutput,
    rows: Range<usize>,
) {
    // SAFETY: by the caller's promise.
    unsafe {
        match (plan.spec.layout(), plan.pooling) {
            (Layout::Nchw, Pooling::Max) => {
                planes_forward::Rows::<Largest>::new(plan, input, output, rows).compute(simd);
            }
            (Layout::Nchw, Pooling::Average { .. }) => {
                planes_forward::Rows::<Sum>::new(plan, input, output, rows).compute(simd);
            }
            (Layout::Nhwc, Pooling::Max) => {
                simd.vectorize(pixels_forward::Rows::<Largest>::new(plan, input, output, rows));
            }
            (Layout::Nhwc, Pooling::Average { .. }) => {
                simd.vectorize(pixels_forward::Rows::<Sum>::new(plan, input, output, rows));
            }
        }
    }
}
