//! `im2col-gemm`: the convolution as one matrix product over a virtual im2col matrix.
//!
//! # Idea
//! Write the window under each output pixel as a row of (kernel rows × kernel columns × channels)
//! values; then all filters at all pixels are one product of two matrices, and whatever is known
//! about fast products applies. The matrix repeats each pixel up to kernel-size times, so it is
//! never built: blocks of it are packed into scratch memory just before they are multiplied.
//!
//! # Data layout
//! ```text
//! NHWC  block  [pixel][step]          rows of the tile; step = (r, s, channel)
//!       weights [panel][step][vectors · LANES]
//! NCHW  block  [panel][step][NR]      columns of the tile; step = (channel, r, s)
//!       weights [strip][step][rows]
//! ```
//! so packing copies runs of channels in NHWC, runs of pixels in NCHW.
//!
//! # Loop nest
//! ```text
//! for each unit (image, group, block of pixels, part of the filters):   parallel
//!     for each pass of KC steps:
//!         pack the block's pixels for these steps
//!         for each panel or strip of filters: for each tile: for each step: outer product
//! ```
//! KC steps of a tile's columns fill half the level-1 cache, a block of pixels half the level-2 cache;
//! sums of one pass wait in the output for the next.
//!
//! # Register budget
//! That of the [micro-kernel](crate::microkernel).
//!
//! # Supports and refuses
//! Everything; refuses nothing.
//!
//! # Error model
//! A chain of multiply-adds for each pass, the passes added up: [`ErrorModel::Sum`]. Pixels in the
//! padding are multiplied as zeros: an infinite or NaN weight meets them and gives NaN.
//!
//! # Source
//! Chellapilla, Puri, Simard, "High Performance Convolutional Neural Networks for Document
//! Processing", 2006 (im2col); Goto and van de Geijn, ACM TOMS 34(3), 2008 (blocking).
//!
//! [`ErrorModel::Sum`]: crate::ErrorModel::Sum

mod nchw;
mod nhwc;

use crate::cache::CacheSizes;
use crate::error::ConvError;
use crate::kernel::PlanOptions;
use crate::microkernel::balanced;
use crate::packed::Packed;
use crate::registry::Algorithm;
use crate::simd::Simd;
use crate::spec::{ConvSpec, Layout};
use crate::weights;

/// A matrix product over a virtual im2col matrix.
pub(crate) struct Im2colGemm;

impl Algorithm for Im2colGemm {
    const NAME: &'static str = "im2col-gemm";

    fn supports(_: &ConvSpec) -> Result<(), String> {
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
            Layout::Nchw => nchw::pack(simd, spec, weights, options),
        }
    }
}

/// Steps of a pass, and pixels of a block, for tiles of `S`.
struct Blocking {
    steps: usize,
    pixels: usize,
}

impl Blocking {
    fn new<S: Simd>(spec: &ConvSpec, caches: CacheSizes) -> Self {
        let total = weights::steps(spec);
        let steps = balanced(total, (caches.l1d / 2 / (4 * S::NR)).max(16));
        Blocking { steps, pixels: caches.l2 / 2 / (4 * steps) }
    }
}
