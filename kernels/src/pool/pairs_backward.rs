//! The way back of a [pooling](super) in NCHW by 2×2 windows with stride 2, none of which padding cuts: each pixel
//! belongs to one window at most, so that all is done in registers.

use super::owed::put;
use super::planes_backward::Planes;
use super::{PoolPlan, Pooling};
use crate::simd::{Simd, SimdOp};

/// Whether a pooling is one of these.
pub(super) fn suits(plan: &PoolPlan) -> bool {
    let spec = &plan.spec;
    let none_is_cut = [(0, spec.out_height()), (1, spec.out_width())]
        .into_iter()
        .all(|(axis, windows)| spec.axis(axis).inner(windows) == (0..windows) && spec.axis(axis).before == 0);
    spec.kernel() == [2, 2] && spec.stride() == [2, 2] && spec.dilation() == [1, 1] && none_is_cut
}

/// Planes, whose gradients are the caller's alone.
pub(super) struct Pairs<'a>(pub(super) Planes<'a>);

impl<S: Simd> SimdOp<S> for Pairs<'_> {
    type Output = ();
    #[inline(always)]
    fn eval(self, simd: S) {
        match self.0.plan.pooling {
            Pooling::Max => planes::<S, true>(simd, self.0),
            Pooling::Average { .. } => planes::<S, false>(simd, self.0),
        }
    }
}

/// All planes; `MAX` says of which pooling.
#[inline(always)]
fn planes<S: Simd, const MAX: bool>(simd: S, planes: Planes<'_>) {
    let Planes { plan, input, grad_output, grad_input } = planes;
    let spec = &plan.spec;
    let (width, outputs) = (spec.in_width(), spec.out_width());
    let pixels = spec.in_height() * width;
    let inputs = input.chunks_exact(pixels).zip(grad_input.chunks_exact_mut(pixels));
    for ((input, to), grads) in inputs.zip(grad_output.chunks_exact(spec.out_height() * outputs)) {
        let (covered, rest) = to.split_at_mut(2 * width * spec.out_height());
        rest.fill(0.0);
        let rows = input.chunks_exact(2 * width).zip(covered.chunks_exact_mut(2 * width));
        for ((input, to), grads) in rows.zip(grads.chunks_exact(outputs)) {
            let row = Row { input, grads, to };
            row.compute::<S, MAX>(simd);
        }
    }
}

/// A row of windows.
struct Row<'a> {
    /// Two rows of the input.
    input: &'a [f32],
    /// A row of gradients by the output.
    grads: &'a [f32],
    /// Two rows of gradients by the input.
    to: &'a mut [f32],
}

impl Row<'_> {
    #[inline(always)]
    fn compute<S: Simd, const MAX: bool>(self, simd: S) {
        let (width, outputs) = (self.input.len() / 2, self.grads.len());
        assert!(self.to.len() == self.input.len() && 2 * outputs <= width);
        let to = self.to.as_mut_ptr();
        // SAFETY: each window has its pixels in both rows, and the last column of an odd number of them is there.
        unsafe {
            let whole = outputs / S::LANES * S::LANES;
            let mut x = 0;
            while x < whole {
                self.windows::<S, MAX, true>(simd, x, S::LANES, width, to);
                x += S::LANES;
            }
            if x < outputs {
                self.windows::<S, MAX, false>(simd, x, outputs - x, width, to);
            }
            if 2 * outputs < width {
                *to.add(width - 1) = 0.0;
                *to.add(2 * width - 1) = 0.0;
            }
        }
    }

    /// `count` windows from window x on, with `WHOLE` a vector of them.
    ///
    /// # Safety
    /// Their pixels are in both rows, which are `width` f32s apart, in the input as well as from `to` on; no more than a
    /// vector.
    #[inline(always)]
    unsafe fn windows<S: Simd, const MAX: bool, const WHOLE: bool>(
        &self,
        simd: S,
        x: usize,
        count: usize,
        width: usize,
        to: *mut f32,
    ) {
        let lanes = 2 * count;
        // SAFETY: by the caller's promise.
        unsafe {
            let grad = load::<S, WHOLE>(simd, self.grads.as_ptr().add(x), count);
            let mut gives = [simd.mul(simd.mixed(grad), simd.splat(0.25)); 4];
            if MAX {
                let mut pixels = [grad; 4];
                for row in 0..2 {
                    let from = self.input.as_ptr().add(row * width + 2 * x);
                    let beside = from.wrapping_add(S::LANES);
                    let first = load::<S, WHOLE>(simd, from, lanes.min(S::LANES));
                    let second = load::<S, WHOLE>(simd, beside, lanes.saturating_sub(S::LANES));
                    (pixels[2 * row], pixels[2 * row + 1]) = simd.unzip_mixed(first, second);
                }
                let mut so_far = (pixels[0], simd.splat(0.0));
                for (tap, pixel) in pixels.into_iter().enumerate().skip(1) {
                    so_far = simd.larger(so_far, pixel, simd.splat(tap as f32));
                }
                let grad = simd.mixed(grad);
                for (tap, give) in gives.iter_mut().enumerate() {
                    *give = simd.add_where_equal(simd.splat(0.0), grad, so_far.1, simd.splat(tap as f32));
                }
            }
            for row in 0..2 {
                let (first, second) = simd.zip_mixed(gives[2 * row], gives[2 * row + 1]);
                let to = to.add(row * width + 2 * x);
                put::<S, 2>(simd, [first, second], to, if WHOLE { 2 * S::LANES } else { lanes }, false);
            }
        }
    }
}

/// A whole vector, or `lanes` lanes of it.
///
/// # Safety
/// As many f32s are valid for reads.
#[inline(always)]
unsafe fn load<S: Simd, const WHOLE: bool>(simd: S, p: *const f32, lanes: usize) -> S::F32 {
    // SAFETY: by the caller's promise.
    unsafe { if WHOLE { simd.load(p) } else { simd.load_partial(p, lanes) } }
}
