//! Convolutions on NVIDIA GPUs: the kernels `cuda`, `cuda-fp32` and others, with the feature `cuda`.
//!
//! Building needs nothing of CUDA. At run time the driver (`libcuda.so.1`, for CUDA 12.0 or newer) and NVRTC
//! (`libnvrtc.so`, 12.0 or newer) are looked for, the latter where the system looks for libraries and in the toolkit;
//! where one of them or the GPU is missing, [`availability`] says so, and nothing panics, also in programs that abort
//! then.
//!
//! # Slices of the host
//! The kernels are in the list with all others and make ordinary [`Plan`](crate::Plan)s, which copy input and output
//! to GPU 0 and back:
//! ```
//! use kernels::{ConvSpec, PlanOptions, kernel};
//!
//! let kernel = kernel("cuda")?;
//! match kernel.availability() {
//!     Err(reason) => println!("{reason}"),
//!     Ok(()) => {
//!         let spec: ConvSpec = "c3 h32 w32 o10 k5 p2".parse()?;
//!         let weights = vec![0.1; spec.weights_len()];
//!         let plan = kernel.plan(&spec, &weights, &PlanOptions::default())?;
//!         let mut output = vec![0.0; spec.output_len()];
//!         plan.run(&vec![1.0; spec.input_len()], None, &mut output, &mut plan.workspace())?;
//!         assert!((output[16 * 32 + 16] - 7.5).abs() < 1e-4);
//!     }
//! }
//! # Ok::<(), kernels::ConvError>(())
//! ```
//! `auto` never takes them: a GPU is for those who ask for it. The copies mostly cost more than the convolution.
//!
//! # Data that stays on the GPU
//! [`DevicePlan`] runs on buffers in the GPU's memory, on a stream of the caller's, without waiting; runs can be
//! captured in a graph. Buffers, streams and graphs are [`cudarc`]'s, which this module hands on.
//!
//! # Which kernel
//! | id | method | sums |
//! |---|---|---|
//! | `cuda` | takes one of those below that are accurate enough for [`PlanOptions::accuracy`](crate::PlanOptions::accuracy) | |
//! | `cuda-fp32` | implicit matrix product on CUDA cores, for everything | in f32 |
//! | `cuda-tf32x3` | the same on tensor cores, each product as three of TF32 | nearly as f32 |
//! | `cuda-tf32`, `cuda-bf16` | the same with operands rounded to 11 or 8 bits: only by name | with the errors of that |
//! | `cuda-winograd` | F(2×2, 3×3), fused | as Winograd in f32 |
//! | `cuda-depthwise` | groups = input channels | in f32 |
//!
//! Each [`error_model`](crate::Plan::error_model) states its bound. Compute capability 7.5 is enough, 8.0 for tensor
//! cores and Winograd. On 9.0 tensor cores are driven by warpgroups (`wgmma`) where a group has more than 32 filters and,
//! in NHWC, a multiple of 4 channels; see [`Device::distrusted`].
//!
//! # Where things come from
//! | variable | meaning |
//! |---|---|
//! | `CONV_CUDA_DRIVER` | path of the driver's library |
//! | `CONV_NVRTC` | path of NVRTC's library, that of the Python package `nvidia-cuda-nvrtc` for example; its builtins are looked for beside it |
//! | `CUDA_HOME`, `CUDA_PATH` | the toolkit's folder, before `/usr/local/cuda` |
//! | `CONV_CUDA_CACHE` | folder of compiled kernels instead of the user's cache folder; empty for none |
//!
//! Kernels are compiled for the GPU at hand when a plan first needs them, and kept on disk for the next process.

mod cache;
mod depthwise;
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
pub(crate) mod tiling;
mod trial;
pub(crate) mod variant;
mod winograd;

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
    device::usable(0).map(|_| ())
}
