//! Pooling: the maximum or the average of each window, and the way back for gradients.
//!
//! ```
//! use kernels::pool::{PoolPlan, PoolSpec, Pooling};
//!
//! // The lecture's figure: 2×2 windows, stride 2.
//! let spec = PoolSpec::builder().channels(1).input_size(4, 4).kernel(2, 2).build()?;
//! let plan = PoolPlan::new(&spec, Pooling::Max, 1)?;
//! let input = [1., 1., 2., 4., 5., 6., 7., 8., 3., 2., 1., 0., 1., 2., 3., 4.];
//! let mut output = [0.0; 4];
//! plan.run(&input, &mut output)?;
//! assert_eq!(output, [6., 8., 3., 4.]);
//!
//! // A gradient goes to where the maximum was.
//! let mut grad_input = [0.0; 16];
//! plan.backward(&input, &[0.1, 0.2, 0.3, 0.4], &mut grad_input)?;
//! assert_eq!(grad_input[4..8], [0., 0.1, 0., 0.2]);
//! # Ok::<(), kernels::ConvError>(())
//! ```
//!
//! # How
//! Outputs are cut into rows, inputs of a backward pass into planes (NCHW) or channels of an image (NHWC), which
//! threads share.
//!
//! - In NHWC vectors are of channels. Where windows overlap, what two of a row have in common is reduced once, and what
//!   they give to the same pixel backwards adds up in registers.
//! - In NCHW vectors are of neighbouring windows. 2×2 windows with stride 2 and 3×3 ones with stride 1 or 2 stay in
//!   registers, both ways; of other windows the rows are reduced first, column by column, into a buffer of the level-1
//!   cache, whose columns then give the outputs, by loads side by side for stride 1 and by unzipping for stride 2.
//!   Backwards inputs gather what the windows that have them give, from such a buffer; windows with longer strides are
//!   computed one by one.
//! - A maximum has to be NaN where a pixel is, which the instructions for maxima do not say: rows are computed as if
//!   there were none, beside a sum of all pixels that shows if there was, and then once more.

mod axis;
mod backward;
mod buffered;
mod columns;
mod forward;
mod owed;
mod pairs;
mod pairs_backward;
mod pixels_backward;
mod pixels_forward;
mod planes_backward;
mod planes_forward;
mod reduction;
mod spec;
mod strips;
mod takers;
mod threes;
mod threes_backward;

use axis::Span;
pub(crate) use reduction::sum;
pub use spec::{PoolSpec, PoolSpecBuilder};

use crate::buffer::LINE;
use crate::error::ConvError;
use crate::kernel::{check_len, check_threads};
use crate::parallel::{self, SharedOutput};
use crate::simd::{Isa, Token, with_token};
use crate::spec::Layout;

/// What is made of each window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pooling {
    /// The maximum of the window's pixels, NaN if one of them is. Padding is never taken; where a dilated window
    /// has no pixel in the input, −∞.
    Max,
    /// The window's sum divided by how many are counted; 0 where none are.
    Average {
        /// Whether padding counts as zeros. What a window of ceil mode has beyond the padding never counts.
        count_include_pad: bool,
    },
}

impl Pooling {
    fn counts_padding(self) -> bool {
        matches!(self, Pooling::Average { count_include_pad: true })
    }
}

/// A pooling that is ready to run, any number of times and from several threads at once. Nothing is allocated after
/// it was made, and results are bit-identical for any number of threads.
#[derive(Clone, Debug)]
pub struct PoolPlan {
    spec: PoolSpec,
    pooling: Pooling,
    threads: usize,
    token: Token,
    /// The windows along both axes, vertical and horizontal.
    spans: [Vec<Span>; 2],
    /// What an average counts in each column of outputs, and as much more as a vector has lanes.
    counts: Vec<f32>,
    /// Of each column of outputs the window's first tap in the input, and as much more.
    firsts: Vec<f32>,
}

impl PoolPlan {
    /// Prepares a pooling for `threads` threads at most (1 never touches rayon), on the best instruction set.
    ///
    /// # Errors
    /// When there are no threads, or more than one in a build without the feature `rayon`; when `CONV_ISA` names no
    /// instruction set; when memory for tables of the output's height and width cannot be had.
    pub fn new(spec: &PoolSpec, pooling: Pooling, threads: usize) -> Result<Self, ConvError> {
        let isa = Isa::best().map_err(unavailable)?;
        PoolPlan::on(isa, spec, pooling, threads)
    }

    /// [`new`](Self::new) on a chosen instruction set.
    ///
    /// ```
    /// use kernels::{Isa, Layout, pool::{PoolPlan, PoolSpec, Pooling}};
    /// let spec = PoolSpec::global(1, 2, 2, 2, Layout::Nchw)?;
    /// let plan = PoolPlan::on(Isa::Wide, &spec, Pooling::Average { count_include_pad: false }, 1)?;
    /// let mut output = [0.0; 2];
    /// plan.run(&[1., 2., 3., 4., 5., 6., 7., 8.], &mut output)?;
    /// assert_eq!(output, [2.5, 6.5]);
    /// # Ok::<(), kernels::ConvError>(())
    /// ```
    ///
    /// # Errors
    /// As [`new`](Self::new), and when the instruction set is not available.
    pub fn on(isa: Isa, spec: &PoolSpec, pooling: Pooling, threads: usize) -> Result<Self, ConvError> {
        check_threads(threads)?;
        let token = isa.token().map_err(unavailable)?;
        let (height, width) = (spec.out_height(), spec.out_width());
        let spans = [(0, height), (1, width)]
            .map(|(axis, windows)| spec.axis(axis).spans(windows, pooling.counts_padding()));
        let [vertical, horizontal] = spans;
        let spans = [vertical?, horizontal?];
        let mut counts = crate::buffer::try_vec(width.saturating_add(LINE))?;
        let mut firsts = crate::buffer::try_vec(width.saturating_add(LINE))?;
        counts.extend(spans[1].iter().map(|span| span.counted));
        firsts.extend(spans[1].iter().map(|span| span.first as f32));
        counts.resize(width + LINE, 1.0);
        firsts.resize(width + LINE, 0.0);
        let elements = (spec.input_len() as u64).saturating_add(spec.output_len() as u64);
        let threads = parallel::worthwhile_for(threads, elements.saturating_mul(4));
        Ok(PoolPlan { spec: *spec, pooling, threads, token, spans, counts, firsts })
    }

    /// Whether there is one window, which has all of the input, each pixel once.
    fn is_whole(&self) -> bool {
        let sizes = [self.spec.in_height(), self.spec.in_width()];
        self.spans.iter().zip(sizes).all(|(spans, size)| spans.len() == 1 && spans[0].taps == size)
    }

    /// Whether no pixel belongs to two windows, and whether each belongs to one.
    fn tiling(&self) -> (bool, bool) {
        let sizes = [self.spec.in_height(), self.spec.in_width()];
        let (mut alone, mut all) = (true, true);
        for (axis, (spans, size)) in self.spans.iter().zip(sizes).enumerate() {
            if self.spec.dilation()[axis] > 1 && self.spec.kernel()[axis] > 1 {
                return (false, false);
            }
            let next = spans[1..].iter().map(|span| span.place).chain([size]);
            for (span, next) in spans.iter().zip(next) {
                alone &= span.place + span.taps <= next;
                all &= span.place + span.taps >= next;
            }
            all &= spans[0].place == 0;
        }
        (alone, all)
    }

    /// Pixels from one row of a window to the next.
    #[inline(always)]
    fn vertical_pitch(&self) -> usize {
        // A dilation beyond the input leaves windows a single row there.
        self.spec.dilation()[0].wrapping_mul(self.spec.in_width())
    }

    /// The pooling's shapes.
    pub fn spec(&self) -> &PoolSpec {
        &self.spec
    }

    /// What is made of each window.
    pub fn pooling(&self) -> Pooling {
        self.pooling
    }

    /// Threads that a run uses at most.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Computes the output. Both buffers are in the layout of the [`spec`](Self::spec).
    ///
    /// A maximum is exact; an average has one rounding for each addition and one for the division.
    ///
    /// # Errors
    /// When a buffer has the wrong length; the output is then untouched.
    pub fn run(&self, input: &[f32], output: &mut [f32]) -> Result<(), ConvError> {
        check_len("input", input.len(), self.spec.input_len())?;
        check_len("output", output.len(), self.spec.output_len())?;
        let images = match self.spec.layout() {
            Layout::Nchw => self.spec.batch() * self.spec.channels(),
            Layout::Nhwc => self.spec.batch(),
        };
        let rows = images * self.spec.out_height();
        let output = SharedOutput::new(output);
        parallel::for_each_range(self.threads, rows, &mut [], 0, &|rows, _| {
            // SAFETY: the output is as long as the plan says, and each row is in one range.
            with_token!(self.token, s => unsafe { forward::rows(s, self, input, output, rows) });
        });
        Ok(())
    }

    /// Computes `grad_input`, the gradient by the input, from the gradient by the output: a maximum hands its
    /// gradient to the first of the window's largest pixels (the first NaN if there is one), row by row; an average
    /// shares it among those that it counts. Where windows overlap gradients add up, one rounding each.
    ///
    /// `input` is what [`run`](Self::run) had; averages do not read it. What `grad_input` held is not read.
    ///
    /// # Errors
    /// When a buffer has the wrong length; `grad_input` is then untouched.
    pub fn backward(
        &self,
        input: &[f32],
        grad_output: &[f32],
        grad_input: &mut [f32],
    ) -> Result<(), ConvError> {
        check_len("input", input.len(), self.spec.input_len())?;
        check_len("grad_output", grad_output.len(), self.spec.output_len())?;
        check_len("grad_input", grad_input.len(), self.spec.input_len())?;
        let blocks = backward::Blocks::new(&self.spec, self.threads);
        let grad_input = SharedOutput::new(grad_input);
        parallel::for_each_range(self.threads, blocks.count(&self.spec), &mut [], 0, &|range, _| {
            // SAFETY: the buffers are as long as the plan says, and each block is in one range.
            with_token!(self.token, s => unsafe {
                backward::blocks(s, self, &blocks, range, input, grad_output, grad_input)
            });
        });
        Ok(())
    }
}

fn unavailable(reason: crate::Unavailable) -> ConvError {
    ConvError::Unavailable { kernel: "pool".to_owned(), reason }
}
