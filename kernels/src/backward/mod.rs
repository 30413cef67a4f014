//! The backward pass of convolutions: gradients by data, which is transposed convolution, and by weights and bias.
//!
//! A [`DataPlan`] makes the gradient by the input from the gradient by the output; a [`WeightsPlan`] the gradients by
//! weights and bias from the input and the gradient by the output. Both are made for the *forward* convolution's
//! [`ConvSpec`](crate::ConvSpec), and cover all of them. [`kernels_of`] lists their kernels.
//!
//! ```
//! use kernels::backward::{DataPlan, WeightsPlan};
//! use kernels::{ConvSpec, PlanOptions, Workspace};
//!
//! let spec: ConvSpec = "n2 c3 h8 w8 o4 k3 s2 p1".parse()?;
//! let (input, weights) = (vec![1.0; spec.input_len()], vec![0.5; spec.weights_len()]);
//! let grad_output = vec![1.0; spec.output_len()];
//! let (options, mut workspace) = (PlanOptions::default(), Workspace::default());
//!
//! let data = DataPlan::new("auto", &spec, &weights, &options)?;
//! let mut grad_input = vec![0.0; spec.input_len()];
//! data.run(&grad_output, None, &mut grad_input, &mut workspace)?;
//! assert_eq!(grad_input[0], 4.0 * 0.5); // The first pixel meets one tap of each of four filters.
//!
//! let weights = WeightsPlan::new("auto", &spec, &options)?;
//! let (mut grad_weights, mut grad_bias) = (vec![0.0; spec.weights_len()], vec![0.0; spec.out_channels()]);
//! weights.run(&input, &grad_output, &mut grad_weights, Some(&mut grad_bias), &mut workspace)?;
//! assert_eq!(grad_bias[0], 2.0 * 4.0 * 4.0); // As many outputs as each filter has in two images.
//! # Ok::<(), kernels::ConvError>(())
//! ```

mod bands;
mod bias;
mod columns;
mod data;
mod panels;
mod phases;
mod weights;

pub use data::DataPlan;
pub use weights::WeightsPlan;

use crate::registry;

/// What is computed of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// The convolution.
    Forward,
    /// The gradient by its input, or transposed convolution.
    BackwardData,
    /// The gradients by its weights and bias.
    BackwardWeights,
}

/// The ids of the kernels of an operation: for [`Op::Forward`] those of [`kernels`](crate::kernels), for the others what
/// [`DataPlan::new`] and [`WeightsPlan::new`] take.
///
/// ```
/// use kernels::backward::{Op, kernels_of};
/// assert!(kernels_of(Op::BackwardData).contains(&"auto"));
/// ```
pub fn kernels_of(op: Op) -> Vec<&'static str> {
    match op {
        // A gradient by data is made of forward convolutions.
        Op::Forward | Op::BackwardData => registry::kernels().map(|kernel| kernel.id()).collect(),
        Op::BackwardWeights => weights::IDS.to_vec(),
    }
}
