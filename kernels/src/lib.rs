//! Interchangeable 2D convolution kernels.
#![warn(unsafe_op_in_unsafe_fn)]

mod auto;
#[cfg(feature = "direct")]
mod band;
mod buffer;
mod cache;
#[cfg(feature = "direct")]
mod direct;
mod error;
#[cfg(any(feature = "im2col", feature = "pointwise"))]
mod gemm;
#[cfg(feature = "im2col")]
mod im2col;
mod kernel;
mod microkernel;
mod naive;
mod parallel;
mod partition;
#[cfg(feature = "pointwise")]
mod pointwise;
mod registry;
mod simd;
mod spec;
mod weights;
mod workspace;

pub use auto::{Choice, explain};
pub use cache::CacheSizes;
pub use error::{ConvError, SpecError, Unavailable, Unsupported};
pub use kernel::{Accuracy, Activation, ErrorModel, Kernel, Plan, PlanOptions, WinogradTransform};
pub use registry::{kernel, kernels};
pub use simd::Isa;
pub use spec::{ConvSpec, ConvSpecBuilder, Layout, Padding};
pub use workspace::Workspace;
