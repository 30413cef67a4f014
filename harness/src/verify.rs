//! Runs kernels on generated cases and on given ones, and says which outputs are wrong.

use std::sync::atomic::{AtomicUsize, Ordering};

use kernels::{ConvError, ConvSpec, Isa, Kernel, Plan, PlanOptions, Workspace};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::buffer::Buffer;
use crate::check::{Exactness, Sampling, verdict};
use crate::data::{self, Kind};
use crate::guard::Guarded;
use crate::pinning::cores;
use crate::strategy::{Case, case_for};

/// A kernel that gave a wrong result, and how to see it again.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The kernel's id.
    pub kernel: String,
    /// The smallest case found that fails.
    pub case: Case,
    /// What is wrong.
    pub what: String,
    /// The seed that gives the case (before it was made smaller), if one was drawn.
    pub seed: Option<u64>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Case { spec, options, with_bias, kind, offset, seed } = &self.case;
        write!(
            f,
            "{} is wrong on `{spec}`: {}\n  {options:?}, bias {with_bias}, data {kind:?} of seed {seed}, buffers \
             moved by {offset}",
            self.kernel, self.what
        )?;
        match self.seed {
            Some(seed) => write!(
                f,
                "\n  again: cargo run --release --bin convbench -- verify --kernel {} --cases 1 --seed {seed}",
                self.kernel
            ),
            None => Ok(()),
        }
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
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let failure =
        |case, what| Box::new(Failure { kernel: kernel.id().to_owned(), case, what, seed: Some(seed) });
    let mut tree = case_for(kernel).new_tree(&mut runner).map_err(|reason| {
        let case = Case {
            spec: smallest(),
            options: PlanOptions::default(),
            with_bias: false,
            kind: Kind::Integer,
            offset: 0,
            seed,
        };
        failure(case, format!("no case could be drawn: {reason}"))
    })?;
    let case = tree.current();
    let Err(what) = run_case(kernel, &case) else {
        return Ok(());
    };
    let mut worst = failure(case, what);
    // proptest's own search: simplify while it fails, step back where it does not.
    for _ in 0..500 {
        let moved = match run_case(kernel, &tree.current()) {
            Err(what) => {
                worst = failure(tree.current(), what);
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

#[allow(clippy::expect_used)]
fn smallest() -> ConvSpec {
    "c1 h1 w1 o1 k1".parse().expect("a constant spec")
}

/// What to verify.
#[derive(Clone, Debug)]
pub struct Request {
    /// Cases for each kernel.
    pub cases: u64,
    /// Seed of the first case; the next has the next seed.
    pub seed: u64,
    /// Kernel ids; empty means every kernel that [`forms`] gives.
    pub kernels: Vec<&'static dyn Kernel>,
}

/// Cases run on one kernel.
#[derive(Clone, Debug)]
pub struct Count {
    /// The kernel's id.
    pub kernel: String,
    /// Cases that were run.
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

/// Runs generated cases on kernels, several kernels at once on as many cores as there are. `progress` is
/// told the kernel before each case, and stops the run by returning false.
pub fn verify(request: &Request, progress: &(dyn Fn(&str) -> bool + Sync)) -> Summary {
    let all = forms();
    let kernels = if request.kernels.is_empty() { &all } else { &request.kernels };
    let one = |kernel: &'static dyn Kernel| {
        let mut count = Count { kernel: kernel.id().to_owned(), cases: 0 };
        for case in 0..request.cases {
            if !progress(kernel.id()) {
                break;
            }
            count.cases += 1;
            if let Err(failure) = run_seed(kernel, request.seed.wrapping_add(case)) {
                return (count, Some(*failure));
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
pub fn on_all_cores<T: Send>(
    kernels: &[&'static dyn Kernel],
    work: impl Fn(&'static dyn Kernel) -> T + Sync,
) -> Vec<T> {
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
