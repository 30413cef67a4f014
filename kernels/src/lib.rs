//! Interchangeable 2D convolution kernels: describe a convolution, choose a kernel (or let `auto`),
//! prepare it once, run it many times without allocating.
//!
//! Every kernel computes the same thing, f32 cross-correlation with stride, padding, dilation and
//! groups in NCHW or NHWC, and every kernel reaches the best instruction set of the CPU it runs on
//! (AVX-512, AVX2, or whatever [`wide`](https://docs.rs/wide) gives the build) without special
//! compiler flags. Nothing here panics: what cannot be done is a typed error before any work.
//!
//! # Run one
//! ```
//! use kernels::{ConvSpec, PlanOptions, kernel};
//!
//! // The lecture's example: ten 5×5 filters over a 32×32 RGB image, padded to keep its size.
//! let spec: ConvSpec = "c3 h32 w32 o10 k5 p2".parse()?;
//! let weights = vec![0.1; spec.weights_len()]; // OIHW: 10×3×5×5
//! let plan = kernel("auto")?.plan(&spec, &weights, &PlanOptions::default())?;
//!
//! let input = vec![1.0; spec.input_len()];
//! let mut output = vec![0.0; spec.output_len()];
//! let mut workspace = plan.workspace();
//! plan.run(&input, None, &mut output, &mut workspace)?; // as often as you like: no allocation
//! assert!((output[16 * 32 + 16] - 7.5).abs() < 1e-4);
//! # Ok::<(), kernels::ConvError>(())
//! ```
//!
//! # Bias, ReLU, residual sum and threads
//! ```
//! use kernels::{Activation, ConvSpec, PlanOptions, Workspace, kernel};
//!
//! let spec: ConvSpec = "c16 h8 w8 o16 k3 p1 nhwc".parse()?;
//! let weights = vec![0.0; spec.weights_len()];
//! let options = PlanOptions {
//!     threads: 2,                         // in the rayon pool that the run is called in
//!     activation: Some(Activation::Relu), // applied last
//!     accumulate: true,                   // output = relu(convolution + bias + output)
//!     ..Default::default()
//! };
//! let plan = kernel("direct")?.plan(&spec, &weights, &options)?;
//! let mut output = vec![1.0; spec.output_len()];
//! let bias = vec![-3.0; spec.out_channels()];
//! plan.run(&vec![1.0; spec.input_len()], Some(&bias), &mut output, &mut Workspace::default())?;
//! assert!(output.iter().all(|&y| y == 0.0)); // relu(0 − 3 + 1)
//! # Ok::<(), kernels::ConvError>(())
//! ```
//!
//! # Ask before you run
//! ```
//! use kernels::{ConvSpec, PlanOptions, explain, kernel, kernels};
//!
//! let spec: ConvSpec = "c64 h56 w56 o64 k3 s2 p1".parse()?;
//! assert_eq!((spec.out_height(), spec.out_width()), (28, 28)); // (N − F + 2P)/S + 1, floored
//! assert_eq!(spec.parameters(true), 64 * 64 * 9 + 64);
//! for kernel in kernels() {
//!     match (kernel.availability(), kernel.supports(&spec)) {
//!         (Err(reason), _) => println!("{}: {reason}", kernel.id()),
//!         (_, Err(refusal)) => println!("{refusal}"),
//!         _ => println!("{} can do it", kernel.id()),
//!     }
//! }
//! let choice = explain(&spec, &PlanOptions::default()).unwrap();
//! println!("auto takes {}: {}", choice.algorithm, choice.reason);
//! # Ok::<(), kernels::ConvError>(())
//! ```
//!
//! # Bring your own memory
//! ```
//! use kernels::{ConvError, ConvSpec, PlanOptions, Workspace, kernel};
//!
//! let spec: ConvSpec = "c8 h10 w10 o8 k3".parse()?;
//! let weights = vec![1.0; spec.weights_len()];
//! let plan = kernel("im2col-gemm")?.plan(&spec, &weights, &PlanOptions::default())?;
//! let mut arena = vec![0.0; plan.workspace_len()];
//! let (input, mut output) = (vec![1.0; spec.input_len()], vec![0.0; spec.output_len()]);
//! plan.run(&input, None, &mut output, &mut Workspace::from_slice(&mut arena))?;
//! assert!(output.iter().all(|&y| y == 72.0));
//! // Too little is an error, not a panic.
//! let short = plan.run(&input, None, &mut output, &mut Workspace::from_slice(&mut arena[1..]));
//! assert!(matches!(short, Err(ConvError::WorkspaceTooSmall { .. })));
//! # Ok::<(), kernels::ConvError>(())
//! ```
//!
//! # Other batches and image sizes
//! [`Plan::resized`] gives a plan of the same layer at another size, with the same packed weights.
//!
//! # Beside convolutions
//! [`pool`] has maximum and average pooling, [`matmul`] matrix products for linear layers, [`backward`] the gradients of
//! convolutions by data, which is transposed convolution, and by weights and bias. They are there in every build.
//!
//! # Which kernel is fast where
//! | id | covers | fast where |
//! |---|---|---|
//! | `auto` | everything | picks one of the others by rules, or by measuring; see [`explain`] |
//! | `naive` | everything | nowhere: the definition, to read and to compare with |
//! | `im2col-gemm` | everything | many channels; the baseline of most frameworks |
//! | `direct` | almost everything | most layers, few channels and groups too; with AVX-512 also 1×1 in NCHW with few planes |
//! | `winograd` (`-f2`, `-f4`, `-f6`, `-f2-5x5`) | 3×3 and 5×5, stride 1 | 16 and more channels: 2.25 to 4 times fewer multiplications, with about twice the rounding error; `-f6` 5 times fewer, with eight times the error, see [`Accuracy`] |
//! | `pointwise` | 1×1 without padding, any stride | most of those |
//! | `depthwise` | groups = input channels | all of those |
//!
//! An id may name an instruction set: `direct/avx2`. The environment variable `CONV_ISA=wide|avx2|avx512`
//! caps the choice, for tests and comparisons.
//!
//! # Guarantees
//! - Results are bit-identical for any number of threads.
//! - Each plan states the bound of its rounding errors: [`Plan::error_model`].
//! - `run` allocates nothing, except that an owned [`Workspace`] grows on a plan's first run.
//! - NaN and infinity in the input reach every output whose window holds them. (Padding counts as
//!   zeros: a kernel may multiply it, so a NaN or infinite *weight* may also show at the edges.)
//!
//! # Features
//! One for each algorithm family, all on by default: `im2col`, `direct`, `winograd`, `pointwise`,
//! `depthwise`; `naive` and `auto` are always there. `rayon` (default) allows more than one thread.
//! A program that wants one family writes
//! `kernels = { git = "…", default-features = false, features = ["direct"] }`.

// Shared floors hold, and hand on, parts that one family alone does not use; with all families nothing may
// be dead.
#![cfg_attr(
    not(all(
        feature = "im2col",
        feature = "direct",
        feature = "winograd",
        feature = "pointwise",
        feature = "depthwise"
    )),
    allow(dead_code, unused_imports)
)]

mod auto;
pub mod backward;
mod band;
mod buffer;
mod cache;
mod cpu;
#[cfg(feature = "depthwise")]
mod depthwise;
#[cfg(feature = "direct")]
mod direct;
mod error;
mod gemm;
#[cfg(feature = "im2col")]
mod im2col;
mod kernel;
pub mod matmul;
mod measured;
mod microkernel;
mod naive;
mod packed;
mod parallel;
mod partition;
#[cfg(feature = "pointwise")]
mod pointwise;
pub mod pool;
mod registry;
pub mod roof;
mod simd;
mod spec;
mod weights;
#[cfg(feature = "winograd")]
mod winograd;
mod workspace;

pub use auto::{Choice, explain};
pub use cache::CacheSizes;
pub use error::{ConvError, SpecError, Unavailable, Unsupported};
pub use kernel::{
    Accuracy, Activation, Effort, ErrorModel, Kernel, Plan, PlanOptions, Stores, WinogradTransform,
};
pub use measured::{add_choices, choices};
pub use registry::{kernel, kernels};
pub use simd::Isa;
pub use spec::{ConvSpec, ConvSpecBuilder, Layout, Padding};
pub use workspace::Workspace;
