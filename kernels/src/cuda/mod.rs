//! Convolutions on NVIDIA GPUs.

pub(crate) mod pack;
pub(crate) mod params;
pub(crate) mod schedule;
pub(crate) mod source;
pub(crate) mod variant;

#[doc(hidden)]
pub use source::{functions, source_of};
#[doc(hidden)]
pub use variant::Function;
