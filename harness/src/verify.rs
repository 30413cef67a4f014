//! Runs kernels on generated cases and on given ones, and says which outputs are wrong.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use kernels::{ConvError, ConvSpec, Isa, Kernel, Plan, PlanOptions, Workspace};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use kernels::backward::{Op, WeightsPlan, kernels_of};

use crate::buffer::Buffer;
use crate::check::{Exactness, Sampling, verdict};
use crate::data::{self, Kind};
use crate::gradients;
use crate::guard::Guarded;
use crate::pinning::cores;
use crate::record::Gradient;
use crate::strategy::{Case, case_for};

/// A kernel that gave a wrong result, and how to see it again.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The kernel's id.
    pub kernel: String,
    /// What it computes, where that is not the convolution's output.
    pub gradient: Option<Gradient>,
    /// The smallest case found that fails, in words.
    pub case: String,
    /// What is wrong.
    pub what: String,
    /// The seed that gives the case (before it was made smaller), if one was drawn.
    pub seed: Option<u64>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Failure { kernel, gradient, case, what, seed } = self;
        write!(f, "{kernel} is wrong on {case}: {what}")?;
        let Some(seed) = seed else { return Ok(()) };
        write!(f, "\n  again: cargo run --release --bin convbench -- verify")?;
        if let Some(gradient) = gradient {
            write!(f, " --op {}", gradient.name())?;
        }
        write!(f, " --kernel {kernel} --cases 1 --seed {seed}")
    }
}

/// Runs a case on a kernel and checks everything about it that can be checked: values, canaries, dirty
/// memory, a second run, another number of threads.
///
/// # Errors
/// What is wrong.
pub fn run_case(kernel: &dyn Kernel, case: &Case) -> Result<(), String> {
    let tensors = data::tensors(&case.spec, case.kind, case.seed);
    let plan = kernel
        .plan(&case.spec, &tensors.weights, &case.options)
        .map_err(|error| format!("it does not plan: {error}"))?;
    check_run(plan.as_ref(), case, &tensors)?;
    if case.options.threads > 1 {
        let options = PlanOptions { threads: 1, ..case.options };
        let single = kernel.plan(&case.spec, &tensors.weights, &options).map_err(|e| e.to_string())?;
        let output = |plan| output(plan, case, &tensors).map_err(|e| e.to_string());
        if !same_bits(&output(plan.as_ref())?, &output(single.as_ref())?) {
            return Err(format!("{} threads give other bits than 1", case.options.threads));
        }
    }
    Ok(())
}

/// What a plan gives for a case.
///
/// # Errors
/// When it does not run.
pub fn output(plan: &dyn Plan, case: &Case, tensors: &data::Tensors) -> Result<Buffer, ConvError> {
    let mut output = tensors.previous.clone();
    let bias = case.with_bias.then_some(&tensors.bias[..]);
    plan.run(&tensors.input, bias, &mut output, &mut Workspace::default())?;
    Ok(output)
}

/// Runs a plan between guards, twice, and compares with the oracle.
///
/// # Errors
/// What is wrong.
pub fn check_run(plan: &dyn Plan, case: &Case, tensors: &data::Tensors) -> Result<(), String> {
    let input = Guarded::new(&tensors.input, case.offset);
    let bias = Guarded::new(&tensors.bias, case.offset);
    let mut workspace = Guarded::dirty(plan.workspace_len(), case.offset);
    let mut first: Option<Vec<f32>> = None;
    for run in ["first", "second"] {
        let mut output = if case.options.accumulate {
            Guarded::new(&tensors.previous, case.offset)
        } else {
            Guarded::dirty(tensors.previous.len(), case.offset)
        };
        plan.run(
            input.slice(),
            case.with_bias.then_some(bias.slice()),
            output.slice_mut(),
            &mut Workspace::from_slice(workspace.slice_mut()),
        )
        .map_err(|error| format!("the {run} run fails: {error}"))?;
        for (name, buffer) in [("output", &output), ("workspace", &workspace)] {
            if !buffer.is_intact() {
                return Err(format!("the {run} run writes outside the {name}"));
            }
        }
        match &first {
            None => {
                let exactness =
                    if case.kind == Kind::Integer { Exactness::Integers } else { Exactness::Bound };
                let verdict = verdict(
                    plan.spec(),
                    plan.error_model(),
                    tensors,
                    case.with_bias,
                    &case.options,
                    output.slice(),
                    Sampling::All,
                    exactness,
                );
                if let Some(mismatch) = verdict.mismatch {
                    return Err(mismatch.to_string());
                }
                first = Some(output.slice().to_vec());
            }
            Some(first) if !same_bits(first, output.slice()) => {
                return Err("a second run gives other bits".to_owned());
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Whether two outputs are the same, bit for bit.
pub fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(x, y)| x.to_bits() == y.to_bits())
}

/// Draws the case that a seed stands for, and makes it smaller if it fails.
///
/// # Errors
/// The smallest failing case found.
pub fn run_seed(kernel: &'static dyn Kernel, seed: u64) -> Result<(), Box<Failure>> {
    on_seed(case_for(kernel), seed, &|case| run_case(kernel, case)).map_err(|(case, what)| {
        let case = case.map_or_else(String::new, |Case { spec, options, with_bias, kind, offset, seed }| {
            format!(
                "`{spec}` ({options:?}, bias {with_bias}, data {kind:?} of seed {seed}, buffers moved by {offset})"
            )
        });
        Box::new(Failure { kernel: kernel.id().to_owned(), gradient: None, case, what, seed: Some(seed) })
    })
}

/// The same for a gradient; whether the kernel covers the case.
///
/// # Errors
/// The smallest failing case found.
pub fn run_gradient_seed(of: Gradient, id: &str, seed: u64) -> Result<bool, Box<Failure>> {
    let covered = AtomicBool::new(false);
    let run = |case: &gradients::Case| {
        let is_covered = match of {
            Gradient::BackwardData => gradients::run_data(id, case)?,
            Gradient::BackwardWeights => gradients::run_weights(id, case).map(|()| true)?,
        };
        covered.store(is_covered, Ordering::Relaxed);
        Ok(())
    };
    on_seed(gradients::case(), seed, &run).map_err(|(case, what)| {
        let case = case.map_or_else(String::new, |case| format!("`{}` ({case:?})", case.spec));
        Box::new(Failure { kernel: id.to_owned(), gradient: Some(of), case, what, seed: Some(seed) })
    })?;
    Ok(covered.into_inner())
}

/// Runs the case that a seed draws; of one that fails, the smallest that is found, and what is wrong with it. None
/// if there is no case.
fn on_seed<C>(
    cases: impl Strategy<Value = C>,
    seed: u64,
    run: &dyn Fn(&C) -> Result<(), String>,
) -> Result<(), (Option<C>, String)> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let tree = cases.new_tree(&mut runner);
    let mut tree = tree.map_err(|reason| (None, format!("no case could be drawn: {reason}")))?;
    let case = tree.current();
    let Err(what) = run(&case) else { return Ok(()) };
    let mut worst = (Some(case), what);
    // proptest's own search: simplify while it fails, step back where it does not.
    for _ in 0..500 {
        let case = tree.current();
        let moved = match run(&case) {
            Err(what) => {
                worst = (Some(case), what);
                tree.simplify()
            }
            Ok(()) => tree.complicate(),
        };
        if !moved {
            break;
        }
    }
    Err(worst)
}

/// What to verify.
#[derive(Clone, Debug)]
pub struct Request {
    /// Cases for each kernel.
    pub cases: u64,
    /// Seed of the first case; the next has the next seed.
    pub seed: u64,
    /// What is computed, where that is not the convolution's output.
    pub gradient: Option<Gradient>,
    /// Kernel ids; empty means every one that [`ids`] gives.
    pub kernels: Vec<&'static str>,
}

/// Cases run on one kernel.
#[derive(Clone, Debug)]
pub struct Count {
    /// The kernel's id.
    pub kernel: String,
    /// Cases that were run, of those that the kernel covers.
    pub cases: u64,
}

/// What came out.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Cases for each kernel.
    pub counts: Vec<Count>,
    /// At most one for each kernel: its cases end there.
    pub failures: Vec<Failure>,
}

/// Every form of every kernel that this machine can run: each algorithm with each available
/// instruction set, those that have only one form, and `auto`.
pub fn forms() -> Vec<&'static dyn Kernel> {
    let has_isas = |kernel: &dyn Kernel| {
        kernels::kernels().any(|other| other.algorithm() == kernel.algorithm() && other.isa().is_some())
    };
    kernels::kernels()
        .filter(|kernel| kernel.isa().is_some() || !has_isas(*kernel))
        .filter(|kernel| kernel.availability().is_ok())
        .collect()
}

/// The ids of every form of every kernel that this machine can run, for the convolution or a gradient of it.
pub fn ids(gradient: Option<Gradient>) -> Vec<&'static str> {
    match gradient {
        None | Some(Gradient::BackwardData) => forms().iter().map(|kernel| kernel.id()).collect(),
        Some(Gradient::BackwardWeights) => {
            let runs = |id: &&str| {
                id.contains('/') && WeightsPlan::new(id, &smallest(), &PlanOptions::default()).is_ok()
            };
            kernels_of(Op::BackwardWeights).into_iter().filter(runs).collect()
        }
    }
}

#[allow(clippy::expect_used)]
fn smallest() -> ConvSpec {
    "c1 h1 w1 o1 k1".parse().expect("a constant spec")
}

/// Runs generated cases on kernels, several kernels at once on as many cores as there are. `progress` is
/// told the kernel before each case, and stops the run by returning false.
pub fn verify(request: &Request, progress: &(dyn Fn(&str) -> bool + Sync)) -> Summary {
    let all = ids(request.gradient);
    let kernels = if request.kernels.is_empty() { &all } else { &request.kernels };
    let run = |id: &'static str, seed: u64| match (request.gradient, kernels::kernel(id)) {
        (Some(of), _) => run_gradient_seed(of, id, seed),
        (None, Ok(kernel)) => run_seed(kernel, seed).map(|()| true),
        (None, Err(_)) => Ok(false),
    };
    let one = |id: &'static str| {
        let mut count = Count { kernel: id.to_owned(), cases: 0 };
        for case in 0..request.cases {
            if !progress(id) {
                break;
            }
            match run(id, request.seed.wrapping_add(case)) {
                Ok(covered) => count.cases += u64::from(covered),
                Err(failure) => {
                    count.cases += 1;
                    return (count, Some(*failure));
                }
            }
        }
        (count, None)
    };
    let mut summary = Summary::default();
    for (count, failure) in on_all_cores(kernels, one) {
        summary.counts.push(count);
        summary.failures.extend(failure);
    }
    summary
}

/// Works through kernels with a thread for each core; results come in the kernels' order.
pub fn on_all_cores<K: Copy + Sync, T: Send>(kernels: &[K], work: impl Fn(K) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let mut results: Vec<(usize, T)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores().min(kernels.len()))
            .map(|_| {
                scope.spawn(|| {
                    let mut done = Vec::new();
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        match kernels.get(index) {
                            Some(kernel) => done.push((index, work(*kernel))),
                            None => return done,
                        }
                    }
                })
            })
            .collect();
        let resume = |panic| std::panic::resume_unwind(panic);
        threads.into_iter().flat_map(|thread| thread.join().unwrap_or_else(resume)).collect()
    });
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Instruction sets that `CONV_REQUIRE_ISA` names but that could not be tested here, with the reason.
pub fn missing_isas(required: &str) -> Vec<String> {
    required
        .split(',')
        .filter(|name| !name.is_empty())
        .filter_map(|name| match Isa::ALL.into_iter().find(|isa| isa.name() == name) {
            None => Some(format!("{name} is no instruction set")),
            Some(isa) => isa.availability().err().map(|reason| format!("{name}: {reason}")),
        })
        .collect()
}
