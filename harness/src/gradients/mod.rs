//! The backward pass held to its definition: references in float64 with shape arithmetic of their own, and what is
//! checked of a case.

mod engine;
mod verdict;

pub use engine::Ours;
pub use verdict::verdict;

use kernels::backward::{DataPlan, WeightsPlan};
use kernels::{ConvError, ConvSpec, ErrorModel, Layout, PlanOptions, Workspace};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::check::{Exactness, Sampling, UNIT_ROUNDOFF, bound_factor};
use crate::data;
use crate::guard::Guarded;
use crate::record::Gradient;
use crate::strategy;
use crate::verify::same_bits;

/// A test case.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// The forward convolution.
    pub spec: ConvSpec,
    /// Threads of the plan.
    pub threads: usize,
    /// Whether there is a bias.
    pub with_bias: bool,
    /// Whether gradients by weights are added to what there is.
    pub accumulate: bool,
    /// Whether the data are small integers, whose sums are exact.
    pub integers: bool,
    /// f32s by which the buffers are moved off their natural alignment.
    pub offset: usize,
    /// Seed of the data.
    pub seed: u64,
}

/// Any convolution that the forward kernels are tested with.
pub fn case() -> impl Strategy<Value = Case> {
    let how = (1..=3usize, any::<bool>(), any::<bool>(), any::<bool>(), 0..16usize, 0..u64::MAX);
    (strategy::spec(), how).prop_map(|(spec, (threads, with_bias, accumulate, integers, offset, seed))| {
        Case { spec, threads, with_bias, accumulate, integers, offset, seed }
    })
}

/// The buffers of a case.
#[derive(Clone, Debug)]
pub struct Tensors {
    /// `spec.input_len()` values.
    pub input: Vec<f32>,
    /// `spec.weights_len()` values.
    pub weights: Vec<f32>,
    /// `spec.output_len()` values.
    pub grad_output: Vec<f32>,
    /// A bias of the transposed convolution: `spec.in_channels()` values.
    pub bias: Vec<f32>,
    /// What the gradient by the weights holds before.
    pub previous_weights: Vec<f32>,
    /// What the gradient by the bias holds before.
    pub previous_bias: Vec<f32>,
}

/// The data of a case.
pub fn tensors(case: &Case) -> Tensors {
    let (spec, mut rng) = (&case.spec, ChaCha8Rng::seed_from_u64(case.seed));
    let mut values = |len: usize| -> Vec<f32> {
        let value = |_| match case.integers {
            true => rng.random_range(-4..=4) as f32,
            false => rng.random_range(-1.0..1.0_f32) * 10f32.powi(rng.random_range(-2..2)),
        };
        (0..len).map(value).collect()
    };
    Tensors {
        input: values(spec.input_len()),
        weights: values(spec.weights_len()),
        grad_output: values(spec.output_len()),
        bias: values(spec.in_channels()),
        previous_weights: values(spec.weights_len()),
        previous_bias: values(spec.out_channels()),
    }
}

/// An exact value (to float64's rounding) and the sum of the absolute values of its terms.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sum {
    /// The value.
    pub value: f64,
    /// The sum of absolute values.
    pub scale: f64,
}

impl Sum {
    fn add(&mut self, term: f64) {
        *self = Sum { value: self.value + term, scale: self.scale + term.abs() };
    }
}

fn index(layout: Layout, [channels, height, width]: [usize; 3], [n, c, y, x]: [usize; 4]) -> usize {
    match layout {
        Layout::Nchw => ((n * channels + c) * height + y) * width + x,
        Layout::Nhwc => ((n * height + y) * width + x) * channels + c,
    }
}

/// Calls `f` with the indices of input, weight and output of every product that the definition has.
fn for_each_product(spec: &ConvSpec, mut f: impl FnMut(usize, usize, usize)) {
    let ([height, width], padding) = (spec.kernel(), spec.padding());
    let groups = spec.groups();
    let (group_inputs, group_outputs) = (spec.in_channels() / groups, spec.out_channels() / groups);
    let inputs = [spec.in_channels(), spec.in_height(), spec.in_width()];
    // Output places by stepping over the padded input.
    let places = |axis: usize, padded: usize| {
        let reach = spec.dilation()[axis] * (spec.kernel()[axis] - 1) + 1;
        (0..).take_while(move |place| place * spec.stride()[axis] + reach <= padded).count()
    };
    let rows = places(0, spec.in_height() + padding.top + padding.bottom);
    let columns = places(1, spec.in_width() + padding.left + padding.right);
    let outputs = [spec.out_channels(), rows, columns];
    for (n, o) in (0..spec.batch()).flat_map(|n| (0..spec.out_channels()).map(move |o| (n, o))) {
        for (y, x) in (0..rows).flat_map(|y| (0..columns).map(move |x| (y, x))) {
            let output = index(spec.layout(), outputs, [n, o, y, x]);
            for (r, s) in (0..height).flat_map(|r| (0..width).map(move |s| (r, s))) {
                let iy = (y * spec.stride()[0] + r * spec.dilation()[0]).wrapping_sub(padding.top);
                let ix = (x * spec.stride()[1] + s * spec.dilation()[1]).wrapping_sub(padding.left);
                if iy >= spec.in_height() || ix >= spec.in_width() {
                    continue;
                }
                for c in 0..group_inputs {
                    let channel = o / group_outputs * group_inputs + c;
                    let input = index(spec.layout(), inputs, [n, channel, iy, ix]);
                    f(input, ((o * group_inputs + c) * height + r) * width + s, output);
                }
            }
        }
    }
}

/// What the gradient by the input has to be.
pub fn by_data(case: &Case, tensors: &Tensors) -> Vec<Sum> {
    let spec = &case.spec;
    let mut grads = vec![Sum::default(); spec.input_len()];
    for_each_product(spec, |input, weight, output| {
        grads[input].add(f64::from(tensors.weights[weight]) * f64::from(tensors.grad_output[output]));
    });
    if case.with_bias {
        let plane = spec.in_height() * spec.in_width();
        for (i, grad) in grads.iter_mut().enumerate() {
            let channel = match spec.layout() {
                Layout::Nchw => i / plane % spec.in_channels(),
                Layout::Nhwc => i % spec.in_channels(),
            };
            grad.add(f64::from(tensors.bias[channel]));
        }
    }
    grads
}

/// What the gradients by weights and bias have to be.
pub fn by_weights(case: &Case, tensors: &Tensors) -> (Vec<Sum>, Vec<Sum>) {
    let spec = &case.spec;
    let mut weights = vec![Sum::default(); spec.weights_len()];
    let mut bias = vec![Sum::default(); spec.out_channels()];
    for_each_product(spec, |input, weight, output| {
        weights[weight].add(f64::from(tensors.input[input]) * f64::from(tensors.grad_output[output]));
    });
    let plane = spec.out_height() * spec.out_width();
    for (i, grad) in tensors.grad_output.iter().enumerate() {
        let filter = match spec.layout() {
            Layout::Nchw => i / plane % spec.out_channels(),
            Layout::Nhwc => i % spec.out_channels(),
        };
        bias[filter].add(f64::from(*grad));
    }
    if case.accumulate {
        weights.iter_mut().zip(&tensors.previous_weights).for_each(|(sum, x)| sum.add(f64::from(*x)));
        bias.iter_mut().zip(&tensors.previous_bias).for_each(|(sum, x)| sum.add(f64::from(*x)));
    }
    (weights, bias)
}

/// Compares within `k` roundings, exactly where the data are integers.
fn compare(name: &str, got: &[f32], want: &[Sum], k: f64, integers: bool) -> Result<(), String> {
    for (i, (&got, want)) in got.iter().zip(want).enumerate() {
        let allowed = if integers { 0.0 } else { k * UNIT_ROUNDOFF * want.scale };
        if got.is_nan() || (f64::from(got) - want.value).abs() > allowed {
            return Err(format!("{name} {i} is {got:e}, but must be {:e} within {allowed:e}", want.value));
        }
    }
    Ok(())
}

/// Compares within the bounds that phases promise.
fn judge(
    of: Gradient,
    case: &Case,
    models: &[ErrorModel],
    tensors: &Tensors,
    gradient: &[f32],
) -> Result<(), String> {
    let buffers = data::Tensors {
        input: tensors.input[..].into(),
        weights: tensors.weights[..].into(),
        bias: tensors.previous_bias[..].into(),
        previous: tensors.grad_output[..].into(),
    };
    let exactness = if case.integers { Exactness::Integers } else { Exactness::Bound };
    let verdict = verdict(of, &case.spec, models, &buffers, gradient, Sampling::All, exactness);
    verdict.mismatch.map_or(Ok(()), |mismatch| Err(mismatch.to_string()))
}

/// Whether an error is that a method does not cover a convolution.
fn is_refusal(error: &ConvError) -> bool {
    matches!(error, ConvError::Unsupported(_))
}

/// Checks the gradient by data: values, canaries, dirty memory, a second run, one thread. Whether the kernel covers
/// the case.
///
/// # Errors
/// What is wrong.
pub fn run_data(id: &str, case: &Case) -> Result<bool, String> {
    let tensors = tensors(case);
    let options = PlanOptions { threads: case.threads, ..Default::default() };
    let plan = match DataPlan::new(id, &case.spec, &tensors.weights, &options) {
        Err(error) if is_refusal(&error) => return Ok(false),
        other => other.map_err(|error| error.to_string())?,
    };
    let models: Vec<ErrorModel> = plan.error_models().collect();
    let sums = models.iter().all(|model| matches!(model, ErrorModel::Sum { .. }));
    // The bound of others is not known for a bias.
    let with_bias = case.with_bias && sums;
    let k = plan.error_models().map(bound_factor).fold(1.0, f64::max);
    let single = PlanOptions { threads: 1, ..options };
    let single = DataPlan::new(id, &case.spec, &tensors.weights, &single).map_err(|e| e.to_string())?;
    let (grads, bias) =
        (Guarded::new(&tensors.grad_output, case.offset), Guarded::new(&tensors.bias, case.offset));
    let once = |plan: &DataPlan| {
        let mut to = Guarded::dirty(case.spec.input_len(), case.offset);
        let mut workspace = Guarded::dirty(plan.workspace_len(), case.offset);
        let mut borrowed = Workspace::from_slice(workspace.slice_mut());
        plan.run(grads.slice(), with_bias.then_some(bias.slice()), to.slice_mut(), &mut borrowed)
            .map_err(|error| error.to_string())?;
        if to.is_intact() && workspace.is_intact() { Ok(to) } else { Err("writes outside".to_owned()) }
    };
    let first = once(&plan)?;
    if sums {
        compare("grad_input", first.slice(), &by_data(case, &tensors), k, case.integers)?;
    }
    if !with_bias {
        judge(Gradient::BackwardData, case, &models, &tensors, first.slice())?;
    }
    for (what, plan) in [("a second run", &plan), ("one thread", &single)] {
        if !same_bits(first.slice(), once(plan)?.slice()) {
            return Err(format!("{what} gives other bits"));
        }
    }
    Ok(true)
}

/// Checks the gradients by weights and bias in the same way.
///
/// # Errors
/// What is wrong.
pub fn run_weights(id: &str, case: &Case) -> Result<(), String> {
    let tensors = tensors(case);
    let options = PlanOptions { threads: case.threads, accumulate: case.accumulate, ..Default::default() };
    let plan = |options| WeightsPlan::new(id, &case.spec, options).map_err(|error| error.to_string());
    let single = PlanOptions { threads: 1, ..options };
    let plans = [plan(&options)?, plan(&single)?];
    let guarded = |values: &[f32]| Guarded::new(values, case.offset);
    let (input, grads) = (guarded(&tensors.input), guarded(&tensors.grad_output));
    let before = |previous: &[f32]| {
        if case.accumulate { guarded(previous) } else { Guarded::dirty(previous.len(), case.offset) }
    };
    let once = |plan: &WeightsPlan| {
        let (mut weights, mut bias) = (before(&tensors.previous_weights), before(&tensors.previous_bias));
        let mut workspace = Guarded::dirty(plan.workspace_len(), case.offset);
        let mut borrowed = Workspace::from_slice(workspace.slice_mut());
        let to_bias = case.with_bias.then_some(bias.slice_mut());
        plan.run(input.slice(), grads.slice(), weights.slice_mut(), to_bias, &mut borrowed)
            .map_err(|error| error.to_string())?;
        let intact = weights.is_intact() && bias.is_intact() && workspace.is_intact();
        if intact { Ok((weights, bias)) } else { Err("writes outside".to_owned()) }
    };
    let (weights, bias) = once(&plans[0])?;
    let (want_weights, want_bias) = by_weights(case, &tensors);
    let k = bound_factor(plans[0].error_model());
    compare("grad_weights", weights.slice(), &want_weights, k, case.integers)?;
    if case.with_bias {
        compare("grad_bias", bias.slice(), &want_bias, k, case.integers)?;
        if !case.accumulate {
            let both = [weights.slice(), bias.slice()].concat();
            judge(Gradient::BackwardWeights, case, &[plans[0].error_model()], &tensors, &both)?;
        }
    }
    for (what, plan) in [("a second run", &plans[0]), ("one thread", &plans[1])] {
        let (other_weights, other_bias) = once(plan)?;
        if !same_bits(weights.slice(), other_weights.slice()) || !same_bits(bias.slice(), other_bias.slice())
        {
            return Err(format!("{what} gives other bits"));
        }
    }
    Ok(())
}
