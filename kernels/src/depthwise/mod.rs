//! `depthwise`: each channel has its own filters.
//!
//! # Idea
//! With one input channel a filter there is no sum over channels, nothing for a matrix product to
//! reuse: 9 multiply-adds a pixel for 3×3, so that loads and bandwidth decide. Everything here is about
//! loading each pixel few times: a tile of several output rows and columns loads a pixel once and
//! multiplies it with every weight that meets it.
//!
//! # Data layout
//! ```text
//! NHWC ([`nhwc`])     lanes are channels, pixels are read in place; weights [r][s][channel]
//! NCHW ([`inplace`])  lanes are pixels of a row, read in place with masks at the edges; weights [filter][r][s]
//! NCHW ([`nchw`])     any other window: lanes are pixels of a row of a padded copy of one plane
//! ```
//!
//! # Loop nest
//! ```text
//! for each unit (image, block of output rows, part of the channels):   parallel
//!     NHWC: for each strip of output columns, each vector of channels:
//!         for each input row: load each pixel once, multiply-add into every output that it belongs to
//!     NCHW: for each plane, tile of output rows, vector of columns:
//!         for each input row under the tile: load its vectors, multiply-add into every row they belong to
//! ```
//! 3×3 and 5×5 with strides 1 and 2 are compiled with their taps unrolled; other kernels run the same
//! loops with run-time bounds.
//!
//! # Register budget
//! NHWC with 32 registers ([`slide`]): the sums of 7 columns of the 2 or 3 output rows that an input row meets,
//! and the weights; with 16, or more rows of sums ([`tiles`]): 2 rows × 4 (or 7) columns of sums, weights from
//! memory. NCHW: 7 rows × 1 vector of sums with 32 registers, 4 with 16; with stride 2 two or three sums for each
//! output. Where 512-bit operations take two turns, or rows are short, NCHW runs 256-bit vectors with the
//! registers and masks of AVX-512.
//!
//! # Supports and refuses
//! groups = input channels, any number of filters a channel, everything else. Refuses other groups.
//!
//! # Error model
//! One chain of multiply-adds for each output element: [`ErrorModel::Sum`]. Pixels in the padding are
//! multiplied as zeros: an infinite or NaN weight meets them and gives NaN.
//!
//! # Source
//! The definition; depthwise separable networks: Howard et al., "MobileNets", 2017.
//!
//! [`ErrorModel::Sum`]: crate::ErrorModel::Sum

mod inplace;
mod nchw;
mod nhwc;
mod slide;
mod tiles;

use std::sync::Arc;

use crate::cpu::Rates;
use crate::error::ConvError;
use crate::kernel::{Body, PlanOptions};
use crate::packed::Packed;
use crate::registry::Algorithm;
use crate::simd::Simd;
use crate::spec::{ConvSpec, Layout};

/// Convolutions with groups = input channels.
pub(crate) struct Depthwise;

impl Algorithm for Depthwise {
    const NAME: &'static str = "depthwise";

    fn supports(spec: &ConvSpec) -> Result<(), String> {
        if !spec.is_depthwise() {
            return Err(format!(
                "{} groups (needs one for each of {} input channels)",
                spec.groups(),
                spec.in_channels()
            ));
        }
        if spec.layout() == Layout::Nchw && nchw::plane_len(spec).is_none_or(|len| len > MOST_IN_A_ROW) {
            return Err(format!(
                "an output row that reads {} rows of {} padded columns (needs at most {MOST_IN_A_ROW} f32s for \
                 a row)",
                spec.dilated_kernel()[0],
                spec.padded_input()[1],
            ));
        }
        Ok(())
    }

    fn pack<S: Simd>(
        simd: S,
        spec: &ConvSpec,
        weights: &[f32],
        options: &PlanOptions,
    ) -> Result<Packed, ConvError> {
        match spec.layout() {
            Layout::Nhwc => nhwc::pack(simd, spec, weights, options),
            Layout::Nchw => {
                let mut packed = crate::buffer::zeros(weights.len())?;
                packed.copy_from_slice(weights);
                Ok(Packed::new(simd, options, 4 * weights.len(), packed, arrange_nchw))
            }
        }
    }
}

/// The body in NCHW, which reads the weights as they are given.
fn arrange_nchw<S: Simd>(
    simd: S,
    spec: &ConvSpec,
    options: &PlanOptions,
    weights: Arc<Vec<f32>>,
) -> Result<Box<dyn Body>, ConvError> {
    if Window::of(spec).special().is_none() {
        nchw::arrange(simd, spec, options, weights)
    } else if halve::<S>(spec) {
        inplace::arrange(simd.half(), spec, options, weights)
    } else {
        inplace::arrange(simd, spec, options, weights)
    }
}

/// Whether output rows in NCHW are computed faster in vectors of half the length: where a long one takes two
/// turns, where the last of a row is mostly empty. Short loads lie in one cache line more often.
fn halve<S: Simd>(spec: &ConvSpec) -> bool {
    let (half, whole) = (<S::Half as Simd>::LANES, S::LANES);
    let turns = whole / Rates::detect(whole).lanes.clamp(1, whole);
    let vectors = |lanes| spec.out_width().div_ceil(inplace::columns(spec, lanes));
    let (short, long) = (vectors(half), turns * vectors(whole));
    half < whole && (short < long || short == 1 && long == 1)
}

/// Most f32s of scratch memory for the input of one output row: 16 MiB.
const MOST_IN_A_ROW: usize = 4 << 20;

/// A window's size and steps; with `FIXED` they are compiled in.
#[derive(Clone, Copy, Debug)]
struct Window {
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
}

impl Window {
    fn of(spec: &ConvSpec) -> Self {
        Window { kernel: spec.kernel(), stride: spec.stride(), dilation: spec.dilation() }
    }

    /// Kernel size and stride, if they are those of a specialised body.
    fn special(&self) -> Option<(usize, usize)> {
        let [side, other] = self.kernel;
        let [stride, other_stride] = self.stride;
        let square = side == other && stride == other_stride && self.dilation == [1, 1];
        (square && matches!(side, 3 | 5) && matches!(stride, 1 | 2)).then_some((side, stride))
    }
}
