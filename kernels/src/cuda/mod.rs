//! Convolutions on NVIDIA GPUs.
#![allow(dead_code)]

mod cache;
mod device;
mod driver;
mod nvrtc;
pub(crate) mod pack;
pub(crate) mod params;
pub(crate) mod schedule;
pub(crate) mod source;
pub(crate) mod variant;

pub use device::Device;
#[doc(hidden)]
pub use source::{functions, source_of};
#[doc(hidden)]
pub use variant::Function;
