//! Planning by measuring: instead of estimating which kernel is fastest, `auto` times them on the convolution, once,
//! and remembers, as FFTW does. What it has chosen can be kept as text and given to another process.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::buffer::zeros;
use crate::error::ConvError;
use crate::kernel::{Accuracy, Kernel, Plan, PlanOptions};
use crate::registry;
use crate::simd::Isa;
use crate::spec::ConvSpec;
use crate::workspace::Workspace;

/// What a choice holds for: instruction set, threads, accuracy, convolution.
type Key = (&'static str, usize, &'static str, String);

/// What was measured or read in this process.
static CHOICES: Mutex<BTreeMap<Key, &'static str>> = Mutex::new(BTreeMap::new());

/// Names of accuracies as text has them.
const ACCURACIES: [(Accuracy, &str); 3] =
    [(Accuracy::Strict, "strict"), (Accuracy::Standard, "standard"), (Accuracy::Relaxed, "relaxed")];

fn locked() -> MutexGuard<'static, BTreeMap<Key, &'static str>> {
    // Whoever panicked while holding it has left a map that is whole.
    CHOICES.lock().unwrap_or_else(PoisonError::into_inner)
}

fn key(spec: &ConvSpec, options: &PlanOptions, isa: Isa) -> Key {
    let accuracy = ACCURACIES.iter().find(|(accuracy, _)| *accuracy == options.accuracy);
    (isa.name(), options.threads, accuracy.map_or("standard", |(_, name)| name), spec.to_string())
}

/// What `auto` takes for a convolution with [`Effort::Measure`](crate::Effort::Measure), if that is known and can
/// be taken.
pub(crate) fn known(spec: &ConvSpec, options: &PlanOptions, isa: Isa) -> Option<&'static str> {
    let algorithm = locked().get(&key(spec, options, isa)).copied()?;
    let kernel = registry::kernel(algorithm).ok()?;
    (kernel.supports(spec).is_ok() && kernel.accuracy() <= options.accuracy).then_some(algorithm)
}

/// All that planning with [`Effort::Measure`](crate::Effort::Measure) has chosen in this process, and what
/// [`add_choices`] was given: a line each, `algorithm isa threads accuracy spec`. Choices are of a machine: keep
/// them in a file for each kind.
///
/// ```
/// use kernels::{ConvSpec, Effort, PlanOptions, add_choices, choices, kernel};
///
/// let spec: ConvSpec = "c8 h12 w12 o8 k3 p1".parse()?;
/// let options = PlanOptions { effort: Effort::Measure, ..Default::default() };
/// let plan = kernel("auto")?.plan(&spec, &vec![1.0; spec.weights_len()], &options)?; // measures
///
/// let text = choices(); // to a file; and in the next process, from it
/// assert!(text.contains(&spec.to_string()));
/// add_choices(&text)?;
/// let again = kernel("auto")?.plan(&spec, &vec![1.0; spec.weights_len()], &options)?; // does not
/// assert_eq!(plan.kernel_id(), again.kernel_id());
/// # Ok::<(), kernels::ConvError>(())
/// ```
pub fn choices() -> String {
    let mut text = String::new();
    for ((isa, threads, accuracy, spec), algorithm) in locked().iter() {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{algorithm} {isa} {threads} {accuracy} {spec}");
    }
    text
}

/// Takes over what [`choices`] gave, in another process or here; lines that are empty or begin with `#` are skipped.
/// A choice whose kernel this build lacks, or whose kernel does not fit the convolution, is measured anew when it
/// is asked for.
///
/// # Errors
/// [`ConvError::Choices`] names the first line that is no choice; nothing is taken over then.
pub fn add_choices(text: &str) -> Result<(), ConvError> {
    let mut read = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let bad = |expected| ConvError::Choices {
            line: index + 1,
            text: line.chars().take(80).collect(),
            expected,
        };
        let mut words = line.splitn(5, char::is_whitespace);
        let mut word = || words.next().unwrap_or_default();
        let (algorithm, isa, threads, accuracy, spec) = (word(), word(), word(), word(), word());
        let isa = Isa::ALL
            .into_iter()
            .find(|known| known.name() == isa)
            .ok_or_else(|| bad("an instruction set as its second word"))?;
        let threads = threads
            .parse()
            .ok()
            .filter(|n| *n > 0)
            .ok_or_else(|| bad("a number of threads as its third word"))?;
        let (_, accuracy) = ACCURACIES
            .iter()
            .find(|(_, name)| *name == accuracy)
            .ok_or_else(|| bad("strict, standard or relaxed as its fourth word"))?;
        let spec: ConvSpec = spec.parse().map_err(|_| bad("a convolution's spec after its fourth word"))?;
        // Another build's kernel may be missing here; what could not have won was not written by `choices`.
        let named = |kernel: &&dyn Kernel| kernel.id() == algorithm && may_win(*kernel);
        if let Some(kernel) = registry::kernels().find(named) {
            read.push(((isa.name(), threads, *accuracy, spec.to_string()), kernel.algorithm()));
        }
    }
    locked().extend(read);
    Ok(())
}

/// Whether `auto` may choose a kernel by measuring: `auto` and `winograd` only run as others do, an instruction set
/// is part of what a choice holds for, the definition is slower than anything else, and a GPU is for those who ask for it.
fn may_win(kernel: &dyn Kernel) -> bool {
    kernel.isa().is_none() && !kernel.on_gpu() && !matches!(kernel.id(), "auto" | "winograd" | "naive")
}

/// The fastest plan of all kernels that may win, by time, remembered for the next one. None where there is no
/// contest: one kernel at most, or no memory for it.
pub(crate) fn plan(
    spec: &ConvSpec,
    weights: &[f32],
    options: &PlanOptions,
    isa: Isa,
) -> Option<Box<dyn Plan>> {
    let (algorithm, plan) = Contest::new(spec, weights, options)?.winner()?;
    locked().insert(key(spec, options, isa), algorithm);
    Some(plan)
}

/// Kernels that are timed in turns, so that a machine that slows down slows all of them.
struct Contest {
    runners: Vec<Runner>,
    input: Vec<f32>,
    bias: Vec<f32>,
    output: Vec<f32>,
    accumulate: bool,
}

struct Runner {
    algorithm: &'static str,
    plan: Box<dyn Plan>,
    workspace: Workspace<'static>,
    best: Duration,
}

/// Rounds at most, and when no further one is begun. There are always two: the first touches memory for the
/// first time.
const ROUNDS: usize = 12;
const TIME: Duration = Duration::from_millis(250);

/// From the second round on, runners this much slower than the best are out; after the first, twice as much.
const HOPELESS: u32 = 2;

impl Contest {
    fn new(spec: &ConvSpec, weights: &[f32], options: &PlanOptions) -> Option<Self> {
        let mut runners = Vec::new();
        for kernel in registry::kernels().filter(|&kernel| may_win(kernel)) {
            // One that cannot be planned, for want of memory say, does not take part.
            if kernel.accuracy() <= options.accuracy
                && let Ok(plan) = kernel.plan(spec, weights, options)
            {
                let workspace = plan.workspace();
                runners.push(Runner { algorithm: kernel.algorithm(), plan, workspace, best: Duration::MAX });
            }
        }
        if runners.len() < 2 {
            return None;
        }
        // Ordinary numbers; no kernel's speed depends on which.
        let mut input = zeros(spec.input_len()).ok()?;
        for (i, value) in input.iter_mut().enumerate() {
            *value = (i % 13) as f32 * 0.1;
        }
        let (bias, output) = (zeros(spec.out_channels()).ok()?, zeros(spec.output_len()).ok()?);
        Some(Contest { runners, input, bias, output, accumulate: options.accumulate })
    }

    fn winner(mut self) -> Option<(&'static str, Box<dyn Plan>)> {
        let start = Instant::now();
        for round in 0..ROUNDS {
            self.runners.retain_mut(|runner| {
                if self.accumulate {
                    // Or it would grow from run to run.
                    self.output.fill(0.0);
                }
                let start = Instant::now();
                let outcome =
                    runner.plan.run(&self.input, Some(&self.bias), &mut self.output, &mut runner.workspace);
                runner.best = runner.best.min(start.elapsed());
                outcome.is_ok()
            });
            let best = self.runners.iter().map(|runner| runner.best).min()?;
            let most = best.saturating_mul(if round == 0 { 2 * HOPELESS } else { HOPELESS });
            self.runners.retain(|runner| runner.best <= most);
            if self.runners.len() == 1 || round > 0 && start.elapsed() > TIME {
                break;
            }
        }
        let fastest = self.runners.into_iter().min_by_key(|runner| runner.best)?;
        Some((fastest.algorithm, fastest.plan))
    }
}

#[cfg(all(test, feature = "im2col", feature = "direct", feature = "winograd", feature = "pointwise"))]
mod tests {
    use super::*;
    use crate::kernel::Effort;

    #[test]
    fn choices_are_measured_kept_and_read() {
        let spec: ConvSpec = "c5 h9 w8 o7 k3 p1".parse().unwrap();
        let weights = vec![1.0; spec.weights_len()];
        let options = PlanOptions { effort: Effort::Measure, accumulate: true, ..Default::default() };
        let isa = Isa::best().unwrap();
        assert_eq!(known(&spec, &options, isa), None);
        let auto = registry::kernel("auto").unwrap();
        let plan = auto.plan(&spec, &weights, &options).unwrap();
        let algorithm = known(&spec, &options, isa).unwrap();
        assert_eq!(plan.kernel_id().split('/').next(), Some(algorithm));
        let line = format!("{algorithm} {isa} 1 standard {spec}");
        assert!(choices().lines().any(|other| other == line), "{}", choices());
        // Whatever the text says is taken, also what nobody has measured.
        for other in ["im2col-gemm", "direct"] {
            let other_line = line.replace(algorithm, other);
            add_choices(&format!("# another choice\n\n{other_line}\n")).unwrap();
            let plan = auto.plan(&spec, &weights, &options).unwrap();
            assert_eq!(plan.kernel_id().split('/').next(), Some(other));
            assert_eq!(crate::explain(&spec, &options).unwrap().algorithm, other);
        }
        // What does not fit, or could never have won, is measured anew.
        for bad in ["pointwise", "auto", "winograd", "naive", "direct/wide"] {
            locked().remove(&key(&spec, &options, isa));
            add_choices(&line.replace(algorithm, bad)).unwrap();
            assert_eq!(known(&spec, &options, isa), None, "{bad}");
            let plan = auto.plan(&spec, &weights, &options).unwrap();
            assert_eq!(plan.kernel_id().split('/').next(), known(&spec, &options, isa), "{bad}");
        }
    }

    #[test]
    fn a_bad_line_is_named_and_nothing_is_taken() {
        let spec = "c2 h3 w4 o2 k1";
        let good = format!("naive wide 3 standard {spec}\n");
        for (line, what) in [
            ("naive", "second word"),
            ("naive sse 1 standard c1 h1 w1 o1 k1", "second word"),
            ("naive wide no standard c1 h1 w1 o1 k1", "third word"),
            ("naive wide 1 best c1 h1 w1 o1 k1", "fourth word"),
            ("naive wide 1 strict", "spec after"),
        ] {
            let error = add_choices(&format!("{good}{line}\n")).unwrap_err().to_string();
            assert!(error.contains("line 2") && error.contains(what), "{error}");
        }
        let options = PlanOptions { threads: 3, ..Default::default() };
        assert_eq!(known(&spec.parse().unwrap(), &options, Isa::Wide), None);
        // A kernel of another build is passed over.
        add_choices(&format!("fft wide 3 standard {spec}")).unwrap();
        assert_eq!(known(&spec.parse().unwrap(), &options, Isa::Wide), None);
    }
}
