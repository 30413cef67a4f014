//! Outputs of a [pooling](super).

use std::marker::PhantomData;
use std::ops::Range;

use super::pixels_forward::Pixels;
use super::reduction::{Largest, Reduction, Sum};
use super::{PoolPlan, Pooling};
use crate::parallel::SharedOutput;
use crate::simd::Simd;
use crate::spec::Layout;

/// Rows of outputs, counted through all planes (NCHW) or images (NHWC). They are the caller's alone.
pub(super) struct Rows<'a, R> {
    pub(super) plan: &'a PoolPlan,
    pub(super) input: &'a [f32],
    pub(super) rows: Range<usize>,
    /// The outputs of these rows.
    pub(super) out: &'a mut [f32],
    how: PhantomData<R>,
}

impl<'a, R: Reduction> Rows<'a, R> {
    /// # Safety
    /// The rows lie in the output, and nobody else touches them while this is alive.
    unsafe fn new(plan: &'a PoolPlan, input: &'a [f32], output: SharedOutput, rows: Range<usize>) -> Self {
        let pixel = if plan.spec.layout() == Layout::Nhwc { plan.spec.channels() } else { 1 };
        let len = plan.spec.out_width() * pixel;
        // SAFETY: by the caller's promise.
        let out = unsafe { std::slice::from_raw_parts_mut(output.at(rows.start * len), rows.len() * len) };
        Rows { plan, input, rows, out, how: PhantomData }
    }

    fn compute<S: Simd>(self, simd: S) {
        match self.plan.spec.layout() {
            Layout::Nchw => self.planes(simd),
            Layout::Nhwc => simd.vectorize(Pixels(self)),
        }
    }
}

/// Computes rows of outputs.
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
        match plan.pooling {
            Pooling::Max => Rows::<Largest>::new(plan, input, output, rows).compute(simd),
            Pooling::Average { .. } => Rows::<Sum>::new(plan, input, output, rows).compute(simd),
        }
    }
}
