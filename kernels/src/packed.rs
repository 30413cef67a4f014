//! Packed weights apart from what depends on the size of a convolution, so that plans of several sizes can
//! share them.

use std::fmt;
use std::sync::Arc;

use crate::error::ConvError;
use crate::kernel::{Body, PlanOptions};
use crate::simd::Simd;
use crate::spec::ConvSpec;

/// Packed weights, which serve every batch, image size and padding, and how the body for one is made.
pub(crate) struct Packed {
    bytes: usize,
    body: Box<MakeBody>,
}

type MakeBody = dyn Fn(&ConvSpec) -> Result<Box<dyn Body>, ConvError> + Send + Sync;

/// Settles what depends on the size (blocking, threads, scratch memory) and makes the body, with its share of
/// the packed weights.
pub(crate) type Arrange<S, W> = fn(S, &ConvSpec, &PlanOptions, Arc<W>) -> Result<Box<dyn Body>, ConvError>;

impl Packed {
    /// Weights that fill `bytes`, for bodies that `arrange` makes.
    pub(crate) fn new<S: Simd, W: Send + Sync + 'static>(
        simd: S,
        options: &PlanOptions,
        bytes: usize,
        weights: W,
        arrange: Arrange<S, W>,
    ) -> Self {
        let (options, weights) = (*options, Arc::new(weights));
        Packed { bytes, body: Box::new(move |spec| arrange(simd, spec, &options, Arc::clone(&weights))) }
    }

    /// Bytes of the weights.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The body for a convolution that the kernel supports, and that differs from the packed one in batch,
    /// image size and padding alone.
    pub(crate) fn body(&self, spec: &ConvSpec) -> Result<Box<dyn Body>, ConvError> {
        (self.body)(spec)
    }
}

impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packed").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}
