//! Planning by measuring: instead of estimating which kernel is fastest, `auto` times them on the convolution, once,
//! and remembers, as FFTW does. What it has chosen can be kept as text and given to another process.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::buffer::{try_vec, zeros};
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

/// What `auto` takes for a convolution with [`Effort::Measure`](crate::Effort::Measure), if that is known.
pub(crate) fn known(spec: &ConvSpec, options: &PlanOptions, isa: Isa) -> Option<&'static str> {
    locked().get(&key(spec, options, isa)).copied()
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
/// A choice whose kernel this build lacks is measured anew when it is asked for.
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
        // Another build's kernel may be missing here.
        if let Some(kernel) = registry::kernels().find(|kernel| kernel.id() == algorithm) {
            read.push(((isa.name(), threads, *accuracy, spec.to_string()), kernel.algorithm()));
        }
    }
    locked().extend(read);
    Ok(())
}

/// The fastest plan of all kernels that a plan of `auto` may be of, by time, remembered for the next one.
pub(crate) fn plan(
    spec: &ConvSpec,
    weights: &[f32],
    options: &PlanOptions,
    isa: Isa,
) -> Result<Box<dyn Plan>, ConvError> {
    let (algorithm, plan) = Contest::new(spec, weights, options)?.winner()?;
    locked().insert(key(spec, options, isa), algorithm);
    Ok(plan)
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

/// Rounds at most, and when no further one is begun.
const ROUNDS: usize = 12;
const TIME: Duration = Duration::from_millis(250);

/// From the second round on, runners this much slower than the best are out.
const HOPELESS: u32 = 2;

impl Contest {
    fn new(spec: &ConvSpec, weights: &[f32], options: &PlanOptions) -> Result<Self, ConvError> {
        let fits = |kernel: &&'static dyn Kernel| {
            // `auto` and `winograd` run as others do.
            let single = kernel.isa().is_none() && !matches!(kernel.id(), "auto" | "winograd");
            single && kernel.accuracy() <= options.accuracy && kernel.supports(spec).is_ok()
        };
        let mut kernels: Vec<_> = registry::kernels().filter(fits).collect();
        if kernels.len() > 1 {
            // The definition is slower than anything else.
            kernels.retain(|kernel| kernel.id() != "naive");
        }
        let mut runners = try_vec(kernels.len())?;
        for kernel in kernels {
            let plan = kernel.plan(spec, weights, options)?;
            let workspace = plan.workspace();
            runners.push(Runner { algorithm: kernel.algorithm(), plan, workspace, best: Duration::MAX });
        }
        // Ordinary numbers; no kernel's speed depends on which.
        let mut input = zeros(spec.input_len())?;
        for (i, value) in input.iter_mut().enumerate() {
            *value = (i % 13) as f32 * 0.1;
        }
        Ok(Contest {
            runners,
            input,
            bias: zeros(spec.out_channels())?,
            output: zeros(spec.output_len())?,
            accumulate: options.accumulate,
        })
    }

    fn winner(mut self) -> Result<(&'static str, Box<dyn Plan>), ConvError> {
        let start = Instant::now();
        for round in 0..ROUNDS {
            for runner in &mut self.runners {
                if self.accumulate {
                    // Or it would grow from run to run.
                    self.output.fill(0.0);
                }
                let start = Instant::now();
                runner.plan.run(&self.input, Some(&self.bias), &mut self.output, &mut runner.workspace)?;
                runner.best = runner.best.min(start.elapsed());
            }
            // The first round's runs touch their memory for the first time.
            if round > 0 {
                let best = self.runners.iter().map(|runner| runner.best).min().unwrap_or_default();
                self.runners.retain(|runner| runner.best <= best.saturating_mul(HOPELESS));
                if start.elapsed() > TIME {
                    break;
                }
            }
            if self.runners.len() == 1 {
                break;
            }
        }
        let fastest = self.runners.into_iter().min_by_key(|runner| runner.best);
        let fastest =
            fastest.unwrap_or_else(|| unreachable!("naive supports everything and is in every build"));
        Ok((fastest.algorithm, fastest.plan))
    }
}

#[cfg(test)]
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
        let other = line.replace(algorithm, "naive");
        add_choices(&format!("# the other way round\n\n{other}\n")).unwrap();
        assert_eq!(auto.plan(&spec, &weights, &options).unwrap().kernel_id(), "naive");
        assert_eq!(crate::explain(&spec, &options).unwrap().algorithm, "naive");
        // With an estimate it is not asked for.
        let estimate = PlanOptions { effort: Effort::Estimate, ..options };
        assert_ne!(auto.plan(&spec, &weights, &estimate).unwrap().kernel_id(), "naive");
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
