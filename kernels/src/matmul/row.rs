//! A row times a packed matrix. Each weight is used once, so that only memory counts, and a core brings more from
//! several places at a time than from one: some panels pass side by side.

use std::ops::Range;

use crate::kernel::PlanOptions;
use crate::parallel::SharedOutput;
use crate::simd::{Simd, SimdOp};
use crate::weights::Panels;

/// The product of a row with some panels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<'a> {
    pub(super) values: &'a [f32],
    pub(super) panels: &'a Panels,
    pub(super) bias: Option<&'a [f32]>,
    pub(super) options: &'a PlanOptions,
    /// Where the results of the matrix's first column go.
    pub(super) output: SharedOutput,
}

/// Panels side by side: their sums are half the registers.
const fn most_panels<S: Simd>() -> usize {
    match S::MR {
        14.. => 8,
        4.. => 4,
        _ => 2,
    }
}

/// Vectors of a panel of any instruction set.
const MOST_VECTORS: usize = 4;

impl Row<'_> {
    /// Computes the first of some panels, as many as are whole and pass side by side; gives those that are left.
    ///
    /// # Safety
    /// The output has room for all columns, and those of these panels belong to the caller alone.
    pub(super) unsafe fn run<S: Simd>(self, simd: S, panels: Range<usize>) -> Range<usize> {
        simd.vectorize(Op { row: self, panels })
    }

    /// P panels from `first` on.
    ///
    /// # Safety
    /// As [`run`](Self::run), and the panels are whole.
    #[inline(always)]
    unsafe fn side_by_side<S: Simd, const P: usize>(&self, simd: S, first: usize) {
        let panels: [_; P] = std::array::from_fn(|i| self.panels.panel(0, first + i));
        let mut sums = [[simd.splat(0.0); MOST_VECTORS]; P];
        if let Some(bias) = self.bias {
            for (panel, sums) in panels.iter().zip(&mut sums) {
                for (j, sum) in sums[..S::NV].iter_mut().enumerate() {
                    // SAFETY: the bias has a value for each column of a whole panel.
                    *sum = unsafe { simd.load(bias[panel.first..][..S::NR].as_ptr().add(j * S::LANES)) };
                }
            }
        }
        let mut weights = panels.map(|panel| panel.data.as_ptr());
        for &value in self.values {
            let value = simd.splat(value);
            for i in 0..P {
                for j in 0..S::NV {
                    // SAFETY: a panel has this many vectors for each value of the row.
                    let column = unsafe { simd.load(weights[i].add(j * S::LANES)) };
                    sums[i][j] = simd.mul_add(value, column, sums[i][j]);
                }
                // Wrapping: after the last step the pointers leave their panels unread.
                weights[i] = weights[i].wrapping_add(S::NR);
            }
        }
        let (lo, hi) = self.options.limits();
        let (lo, hi) = (simd.splat(lo), simd.splat(hi));
        for (panel, sums) in panels.iter().zip(sums) {
            for (j, mut sum) in sums[..S::NV].iter().copied().enumerate() {
                // SAFETY: these columns of the output are the caller's.
                unsafe {
                    let to = self.output.at(panel.first + j * S::LANES);
                    if self.options.accumulate {
                        sum = simd.add(sum, simd.load(to));
                    }
                    simd.store(to, simd.clamp(sum, lo, hi));
                }
            }
        }
    }
}

struct Op<'a> {
    row: Row<'a>,
    panels: Range<usize>,
}

impl<S: Simd> SimdOp<S> for Op<'_> {
    type Output = Range<usize>;
    #[inline(always)]
    fn eval(self, simd: S) -> Range<usize> {
        let Op { row, mut panels } = self;
        let whole = panels.clone().take_while(|&index| row.panels.panel(0, index).filters == S::NR);
        let end = panels.start + whole.count();
        macro_rules! while_left {
            ($($count:literal)*) => {
                $(if const { $count <= most_panels::<S>() } {
                    while panels.start + $count <= end {
                        // SAFETY: the panels are whole; the rest by the promise of `run`'s caller.
                        unsafe { row.side_by_side::<S, $count>(simd, panels.start) };
                        panels.start += $count;
                    }
                })*
            };
        }
        while_left!(8 4 2);
        panels
    }
}
