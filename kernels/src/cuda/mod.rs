//! Convolutions on NVIDIA GPUs.

pub(crate) mod depthwise;
pub(crate) mod pack;
pub(crate) mod params;
pub(crate) mod schedule;
pub(crate) mod source;
pub(crate) mod tiling;
pub(crate) mod variant;
pub(crate) mod winograd;

#[doc(hidden)]
pub use source::{functions, source_of};
#[doc(hidden)]
pub use variant::Function;
