//! How large the kernels' rounding errors are in practice, where `check` asks only whether they are allowed.

use kernels::{Accuracy, ConvError, ConvSpec, ErrorModel, Kernel, Plan, PlanOptions};

use crate::check::{Exactness, Mismatch, UNIT_ROUNDOFF, judge};
use crate::data::{Kind, Tensors, tensors};
use crate::machine;
use crate::oracle::{Oracle, Sum};

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
    /// The worst output that is wrong, if one is.
    pub mismatch: Option<Mismatch>,
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

/// A convolution on [`Kind::Real`] data, with what the definition gives for it in float64.
#[derive(Debug)]
pub struct Reference {
    spec: ConvSpec,
    tensors: Tensors,
    /// In the order of the output.
    sums: Vec<Sum>,
}

impl Reference {
    /// Takes a pass of the definition in float64 over all outputs.
    pub fn new(spec: &ConvSpec, seed: u64) -> Self {
        let tensors = tensors(spec, Kind::Real, seed);
        let model = ErrorModel::Sum { k: 1.0 };
        let oracle = Oracle::new(spec, &tensors, &PlanOptions::default(), true, model);
        let mut sums = vec![Sum::default(); spec.output_len()];
        for position in oracle.positions() {
            sums[oracle.index(position)] = oracle.sum(position);
        }
        Reference { spec: *spec, tensors, sums }
    }

    /// Refuses a convolution for which memory lacks.
    ///
    /// # Errors
    /// How much it needs, and how much there is.
    pub fn check_memory(spec: &ConvSpec) -> Result<(), String> {
        machine::check_bytes(spec, needed(spec))
    }

    /// Runs a kernel that supports the convolution once.
    ///
    /// # Errors
    /// When no plan can be made.
    pub fn errors(&self, kernel: &dyn Kernel) -> Result<Errors, ConvError> {
        let accuracy = kernel.accuracy().max(Accuracy::Standard);
        let options = PlanOptions { accuracy, ..Default::default() };
        self.errors_of(kernel.plan(&self.spec, &self.tensors.weights, &options)?.as_ref())
    }

    /// Input, weights and bias.
    pub fn tensors(&self) -> &Tensors {
        &self.tensors
    }

    /// Runs a plan of the convolution, with these weights, once.
    ///
    /// # Errors
    /// When it does not run.
    pub fn errors_of(&self, plan: &dyn Plan) -> Result<Errors, ConvError> {
        let Reference { spec, tensors, sums } = self;
        let mut output = vec![0.0; spec.output_len()];
        plan.run(&tensors.input, Some(&tensors.bias), &mut output, &mut plan.workspace())?;
        let (mut squares, mut errors, mut most, mut largest, mut units) =
            (0.0, 0.0, 0.0_f64, 0.0_f64, 0.0_f64);
        for (got, sum) in output.iter().zip(sums) {
            let error = (f64::from(*got) - sum.value).abs();
            // As far off as can be.
            let error = if error.is_nan() { f64::INFINITY } else { error };
            squares += sum.value * sum.value;
            errors += error * error;
            most = most.max(sum.value.abs());
            largest = largest.max(error);
            units = units.max(error / (UNIT_ROUNDOFF * sum.scale).max(f64::MIN_POSITIVE));
        }
        let (model, options) = (plan.error_model(), PlanOptions::default());
        let oracle = Oracle::new(spec, tensors, &options, true, model);
        let expected = |position| oracle.expected(position, sums[oracle.index(position)]);
        let verdict =
            judge(&oracle, model, &options, &output, Exactness::Bound, oracle.positions(), expected);
        let over = |a: f64, b: f64| if b > 0.0 { a / b } else { 0.0 };
        Ok(Errors {
            kernel: plan.kernel_id().to_owned(),
            relative: over(errors, squares).sqrt(),
            largest: over(largest, most),
            units,
            share: verdict.share,
            mismatch: verdict.mismatch,
        })
    }
}

/// Bytes of memory that the errors of a kernel take at most, if they can be counted: its own, two f64s for the sum of
/// each output, and for a Winograd kernel's bounds the transformed tiles and weights: of F(2×2,5×5) nine f64s for
/// each channel of a pixel, of F(6×6,3×3) 64/9 for each weight.
fn needed(spec: &ConvSpec) -> Option<u64> {
    let [pixels, outputs] =
        [spec.in_height().checked_mul(spec.in_width())?, spec.out_height().checked_mul(spec.out_width())?];
    let tiles = pixels.max(outputs).checked_mul(spec.batch())?.checked_mul(spec.in_channels())?;
    [(spec.output_len(), 2), (tiles, 9), (spec.weights_len(), 8)]
        .iter()
        .try_fold(machine::memory_needed(spec, 1, 1)?, |sum, &(values, each)| {
            sum.checked_add((values as u64).checked_mul(8 * each)?)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of each kernel's bounds the f64s that the oracle holds for them.
    #[test]
    fn memory_of_bounds_is_counted() {
        for (text, alpha, m) in [
            ("c512 h1000 w1000 o8 k5 p2", 6, 2),
            ("c512 h1000 w1000 o8 k3 p1", 8, 6),
            ("c512 h1000 w1000 o8 k3 p1", 4, 2),
            ("c2048 h6 w6 o4096 k3 p1", 8, 6),
        ] {
            let spec: ConvSpec = text.parse().unwrap();
            let tiles = spec.out_height().div_ceil(m) * spec.out_width().div_ceil(m);
            let values = alpha * alpha * spec.in_channels() * (tiles + spec.out_channels());
            let sums = 2 * spec.output_len();
            assert!(needed(&spec).unwrap() > 8 * (values + sums) as u64, "{text}");
        }
    }

    /// What the documentation of `Accuracy` says: F(2×2) is as good as summing, F(4×4) and F(2×2,5×5) about
    /// half as good, F(6×6) about an eighth.
    #[test]
    fn winograd_is_as_accurate_as_documented() {
        let relative = |id: &str, spec: &str| {
            let spec: ConvSpec = spec.parse().unwrap();
            let kernel = kernels::kernel(id).unwrap();
            let error = |seed| Reference::new(&spec, seed).errors(kernel).unwrap().relative;
            (0..3).map(error).sum::<f64>() / 3.0
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
