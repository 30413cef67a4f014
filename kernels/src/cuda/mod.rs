//! Convolutions on NVIDIA GPUs: the kernels `cuda`, `cuda-fp32` and others of feature `cuda`.
#![allow(dead_code)]

mod cache;
mod device;
mod device_plan;
mod driver;
mod host_plan;
mod memory;
mod methods;
mod nvrtc;
pub(crate) mod pack;
pub(crate) mod params;
mod plan;
pub(crate) mod schedule;
pub(crate) mod source;
pub(crate) mod variant;

pub use cudarc;
pub use device::Device;
pub use device_plan::DevicePlan;
pub(crate) use methods::{Auto, Bf16, Depthwise, Fp32, OnGpu, Tf32, Tf32x3, Winograd, availability_of, plan};
#[doc(hidden)]
pub use source::{functions, source_of};
#[doc(hidden)]
pub use variant::Function;

use crate::error::Unavailable;

/// Whether kernels can run on GPU 0 of this machine. Loads the driver's library and the compiler's at the first call,
/// and takes none of the GPU's memory.
///
/// # Errors
/// The reason why not.
pub fn availability() -> Result<(), Unavailable> {
    device::requirements(0).map(|_| ())
}
