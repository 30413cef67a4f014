//! How large the kernels' rounding errors are in practice, where `check` asks only whether they are allowed.

use kernels::{Accuracy, ConvError, ConvSpec, ErrorModel, Kernel, PlanOptions};

use crate::check::{Exactness, Sampling, UNIT_ROUNDOFF, verdict};
use crate::data::{Kind, tensors};
use crate::oracle::Oracle;

/// The errors of a kernel on a convolution, against float64.
#[derive(Clone, Debug, PartialEq)]
pub struct Errors {
    /// The id of the kernel that ran.
    pub kernel: String,
    /// Root of the mean square of the errors, over that of the outputs.
    pub relative: f64,
    /// Largest error over the largest output.
    pub largest: f64,
    /// Largest error in units of 2⁻²⁴·(Σ|w||x| + |bias|) of its own output.
    pub units: f64,
    /// Largest error as a share of the bound that the plan promises.
    pub share: f64,
}

/// Channels and size of the window of the convolutions that are measured when none are named.
pub const USUAL: [&str; 6] = [
    "c64 h14 w14 o32 k3 p1",
    "c256 h14 w14 o32 k3 p1",
    "c512 h14 w14 o32 k3 p1",
    "c64 h14 w14 o32 k5 p2",
    "c256 h14 w14 o32 k5 p2",
    "c512 h14 w14 o32 k5 p2",
];

/// Runs a kernel that supports the convolution once on [`Kind::Real`] data. Takes a pass of the definition in
/// float64 over all outputs.
///
/// # Errors
/// When no plan can be made.
pub fn of(kernel: &dyn Kernel, spec: &ConvSpec, seed: u64) -> Result<Errors, ConvError> {
    let tensors = tensors(spec, Kind::Real, seed);
    let options = PlanOptions { accuracy: kernel.accuracy().max(Accuracy::Standard), ..Default::default() };
    let plan = kernel.plan(spec, &tensors.weights, &options)?;
    let mut output = vec![0.0; spec.output_len()];
    plan.run(&tensors.input, Some(&tensors.bias), &mut output, &mut plan.workspace())?;
    let oracle = Oracle::new(spec, &tensors, &options, true, ErrorModel::Sum { k: 1.0 });
    let (mut squares, mut errors, mut most, mut largest, mut units) = (0.0, 0.0, 0.0_f64, 0.0_f64, 0.0_f64);
    for position in oracle.positions() {
        let expected = oracle.at(position);
        let error = (f64::from(output[oracle.index(position)]) - expected.value).abs();
        squares += expected.value * expected.value;
        errors += error * error;
        most = most.max(expected.value.abs());
        largest = largest.max(error);
        units = units.max(error / (UNIT_ROUNDOFF * expected.scale).max(f64::MIN_POSITIVE));
    }
    let model = plan.error_model();
    let (all, bound) = (Sampling::All, Exactness::Bound);
    let share = verdict(spec, model, &tensors, true, &options, &output, all, bound).share;
    let over = |a: f64, b: f64| if b > 0.0 { a / b } else { 0.0 };
    Ok(Errors {
        kernel: plan.kernel_id().to_owned(),
        relative: over(errors, squares).sqrt(),
        largest: over(largest, most),
        units,
        share,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the documentation of `Accuracy` says: F(2×2) is as good as summing, F(4×4) and F(2×2,5×5) about
    /// half as good, F(6×6) about an eighth.
    #[test]
    fn winograd_is_as_accurate_as_documented() {
        let relative = |id: &str, spec: &str| {
            let spec: ConvSpec = spec.parse().unwrap();
            let errors: Vec<f64> =
                (0..3).map(|seed| of(kernels::kernel(id).unwrap(), &spec, seed).unwrap().relative).collect();
            errors.iter().sum::<f64>() / 3.0
        };
        for (id, kernel, least, most) in [
            ("winograd-f2", "k3 p1", 0.3, 1.2),
            ("winograd-f4", "k3 p1", 1.0, 3.0),
            ("winograd-f2-5x5", "k5 p2", 0.7, 2.5),
            ("winograd-f6", "k3 p1", 4.0, 12.0),
        ] {
            let spec = format!("c64 h12 w12 o16 {kernel}");
            let growth = relative(id, &spec) / relative("direct", &spec);
            assert!((least..most).contains(&growth), "{id}: {growth:.2} times the error of summing");
        }
    }
}
