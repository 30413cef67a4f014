//! Rows of a benchmark: every kernel on every layer, verified, then timed in turns.

use std::time::{Duration, Instant};

use kernels::{ErrorModel, Isa, Kernel, Layout, Plan, PlanOptions, Workspace, roof};

use crate::check::{Exactness, Sampling, verdict};
use crate::data::{self, Kind, Tensors};
use crate::layers::Layer;
use crate::machine;
use crate::measure::{Effort, Statistics, Subject, in_turns};
use crate::pinning::Pool;
use crate::record::{Record, Role, SCHEMA, Status};

/// What to measure.
#[derive(Clone, Debug)]
pub struct Request {
    /// The layers.
    pub layers: Vec<Layer>,
    /// The kernels; empty means [`usual`].
    pub kernels: Vec<&'static dyn Kernel>,
    /// Numbers of threads.
    pub threads: Vec<usize>,
    /// Time for the samples of each row.
    pub time: Duration,
    /// Whether the multiply-add peak is measured beside each row.
    pub roofs: bool,
}

/// Follows a benchmark.
pub trait Observer {
    /// The next rows are of this layer and number of threads.
    fn next(&mut self, layer: &Layer, threads: usize);
    /// Rows of a layer and a number of threads are complete.
    fn rows(&mut self, rows: &[Record]);
    /// Whether to go on; asked often.
    fn carry_on(&mut self) -> bool;
}

/// Naive kernels are slow: beyond this they are measured only by name.
const MOST_NAIVE_MACS: u64 = 50_000_000;

/// The kernels that are measured on a layer when none are named: each algorithm with the best
/// instruction set of the machine, where it supports the layer.
pub fn usual(layer: &Layer) -> Vec<&'static dyn Kernel> {
    kernels::kernels()
        .filter(|kernel| kernel.isa().is_none() && kernel.supports(&layer.spec).is_ok())
        .filter(|kernel| kernel.id() != "naive" || layer.spec.macs() <= MOST_NAIVE_MACS)
        .collect()
}

/// Measures all rows. Ends early, with what is complete, when the observer says so.
///
/// # Errors
/// When threads cannot be started.
pub fn bench(request: &Request, observer: &mut dyn Observer) -> Result<Vec<Record>, String> {
    let pools: Vec<Pool> =
        request.threads.iter().map(|&threads| Pool::new(threads)).collect::<Result<_, _>>()?;
    let mut all = Vec::new();
    for layer in &request.layers {
        for pool in &pools {
            if !observer.carry_on() {
                return Ok(all);
            }
            observer.next(layer, pool.threads());
            let kernels = if request.kernels.is_empty() { usual(layer) } else { request.kernels.clone() };
            if let Some(rows) = layer_rows(layer, &kernels, pool, request, observer) {
                observer.rows(&rows);
                all.extend(rows);
            }
        }
    }
    Ok(all)
}

/// A plan that gave a right result, with the memory it needs.
#[derive(Debug)]
pub struct Verified {
    plan: Box<dyn Plan>,
    workspace: Workspace<'static>,
}

impl Verified {
    /// Runs so many times in the pool; how long that took.
    pub fn time(&mut self, tensors: &Tensors, output: &mut [f32], pool: &Pool, repeats: u64) -> Duration {
        pool.run(|| {
            let start = Instant::now();
            for _ in 0..repeats {
                // It ran once already with such buffers.
                let result = self.plan.run(&tensors.input, Some(&tensors.bias), output, &mut self.workspace);
                debug_assert!(result.is_ok());
            }
            start.elapsed()
        })
    }
}

/// The rows of a layer; nothing if stopped meanwhile.
fn layer_rows(
    layer: &Layer,
    kernels: &[&'static dyn Kernel],
    pool: &Pool,
    request: &Request,
    observer: &mut dyn Observer,
) -> Option<Vec<Record>> {
    let mut rows: Vec<Record> = kernels.iter().map(|kernel| blank(layer, *kernel, pool)).collect();
    if let Err(reason) = machine::check_memory(&layer.spec, kernels.len()) {
        for row in &mut rows {
            (row.status, row.reason) = (Status::TooLarge, Some(reason.clone()));
        }
        return Some(rows);
    }
    let tensors = data::tensors(&layer.spec, Kind::Real, 0);
    let mut output = tensors.previous.clone();
    let mut candidates: Vec<(usize, Verified)> = Vec::new();
    for (row, kernel) in kernels.iter().enumerate() {
        if !observer.carry_on() {
            return None;
        }
        match verified(*kernel, layer, &tensors, &mut output, pool, &mut rows[row]) {
            Ok(verified) => candidates.push((row, verified)),
            Err((status, reason)) => (rows[row].status, rows[row].reason) = (status, Some(reason)),
        }
    }
    // The first that works runs twice: what differs between its two rows is noise.
    if let Some(&(first, _)) = candidates.first() {
        let mut again = rows[first].clone();
        again.role = Role::Aa;
        if let Ok(verified) = verified(kernels[first], layer, &tensors, &mut output, pool, &mut again) {
            candidates.push((rows.len(), verified));
            rows.push(again);
        }
    }
    let isas = if request.roofs { peaks_needed(&rows) } else { Vec::new() };
    let rows_of: Vec<usize> = candidates.iter().map(|(row, _)| *row).collect();
    let output = std::cell::RefCell::new(output);
    let mut subjects: Vec<Subject<'_>> = candidates
        .iter_mut()
        .map(|(_, verified)| -> Subject<'_> {
            Box::new(|repeats| verified.time(&tensors, &mut output.borrow_mut(), pool, repeats))
        })
        .chain(isas.iter().map(|&isa| peak_subject(isa, pool)))
        .collect();
    let samples = in_turns(&mut subjects, Effort::of(request.time), &mut || observer.carry_on());
    let statistics: Vec<Option<Statistics>> = samples.iter().map(|s| Statistics::of(s)).collect();
    let peaks: Vec<(Isa, f64)> = isas
        .iter()
        .zip(&statistics[rows_of.len()..])
        .filter_map(|(&isa, statistics)| Some((isa, peak_work(isa, pool)? / statistics.as_ref()?.min)))
        .collect();
    for (&row, statistics) in rows_of.iter().zip(&statistics) {
        let isa = peak_isa(&rows[row].kernel);
        let peak = peaks.iter().find(|(of, _)| Some(*of) == isa).map(|(_, peak)| *peak);
        rows[row].set_times(statistics.as_ref()?, layer.spec.flops(), peak);
    }
    observer.carry_on().then_some(rows)
}

fn options(pool: &Pool) -> PlanOptions {
    PlanOptions { threads: pool.threads(), ..Default::default() }
}

/// A row of which nothing is known yet.
pub fn blank(layer: &Layer, kernel: &dyn Kernel, pool: &Pool) -> Record {
    Record {
        schema: SCHEMA,
        layer: layer.name.clone(),
        count: layer.count,
        spec: layer.spec.to_string(),
        requested: kernel.id().to_owned(),
        kernel: kernel.id().to_owned(),
        engine: "ours",
        threads: pool.threads(),
        layout: match layer.spec.layout() {
            Layout::Nchw => "nchw",
            Layout::Nhwc => "nhwc",
        },
        clock: "warm",
        role: Role::Main,
        status: Status::Ok,
        reason: None,
        samples: 0,
        median_ns: None,
        min_ns: None,
        mad_ns: None,
        ci_low_ns: None,
        ci_high_ns: None,
        gflops: None,
        peak_fraction: None,
        workspace_bytes: None,
        packed_bytes: None,
        plan_ns: None,
        max_error: None,
        error_bound: None,
        error_measure: None,
        pinned: pool.is_pinned(),
    }
}

/// A kernel's plan for a layer, run once and verified; what there is to know before timing goes into the
/// row.
///
/// # Errors
/// What became of the row instead, and why.
pub fn verified(
    kernel: &dyn Kernel,
    layer: &Layer,
    tensors: &Tensors,
    output: &mut [f32],
    pool: &Pool,
    row: &mut Record,
) -> Result<Verified, (Status, String)> {
    kernel.availability().map_err(|reason| (Status::Unavailable, reason.to_string()))?;
    kernel.supports(&layer.spec).map_err(|refusal| (Status::Unsupported, refusal.to_string()))?;
    let options = options(pool);
    let start = Instant::now();
    let plan = kernel
        .plan(&layer.spec, &tensors.weights, &options)
        .map_err(|error| (Status::Unsupported, error.to_string()))?;
    row.plan_ns = Some(start.elapsed().as_nanos() as f64);
    row.kernel = plan.kernel_id().to_owned();
    row.workspace_bytes = Some(4 * plan.workspace_len());
    row.packed_bytes = Some(plan.packed_bytes());
    let mut workspace = plan.workspace();
    // What is left of another kernel's result would hide an output that this one does not write.
    output.fill(f32::NAN);
    pool.run(|| plan.run(&tensors.input, Some(&tensors.bias), output, &mut workspace))
        .map_err(|error| (Status::TooLarge, error.to_string()))?;
    let sampling = if layer.spec.macs() <= MOST_WHOLE_MACS { Sampling::All } else { Sampling::Points(100) };
    let verdict = verdict(plan.as_ref(), tensors, true, &options, output, sampling, Exactness::Bound);
    row.max_error = Some(verdict.max_error);
    row.error_bound = Some(verdict.bound);
    row.error_measure = Some(measure_of(plan.error_model()));
    match verdict.mismatch {
        Some(mismatch) => Err((Status::Wrong, mismatch.to_string())),
        None => Ok(Verified { plan, workspace }),
    }
}

/// Convolutions that are compared with the oracle whole.
const MOST_WHOLE_MACS: u64 = 2_000_000;

fn measure_of(model: ErrorModel) -> &'static str {
    match model {
        ErrorModel::Sum { .. } => "2^-24 (sum|w||x| + |b|)",
        ErrorModel::Winograd { .. } => "2^-24 (sum |A'|(|G g G'| * (|B'||d||B|))|A| + |b|)",
        _ => "the kernel's own",
    }
}

/// Steps of a run of the peak: about 20 µs.
const PEAK_STEPS: u32 = 2000;

fn peak_subject(isa: Isa, pool: &Pool) -> Subject<'_> {
    Box::new(move |repeats| {
        let start = Instant::now();
        let repeats = u32::try_from(repeats).unwrap_or(u32::MAX);
        // Available, or no kernel of it would have run.
        let work = pool.on_each(|| roof::multiply_adds(isa, PEAK_STEPS.saturating_mul(repeats)));
        debug_assert!(work.iter().all(Result::is_ok));
        start.elapsed()
    })
}

/// Floating-point operations of one run of the peak on all threads.
fn peak_work(isa: Isa, pool: &Pool) -> Option<f64> {
    let one = roof::multiply_adds(isa, 1).ok()?;
    Some(one as f64 * f64::from(PEAK_STEPS) * pool.threads() as f64)
}

/// The instruction set whose peak a kernel is held against: its own, or the best for one without.
fn peak_isa(kernel: &str) -> Option<Isa> {
    let own = kernel.split_once('/').and_then(|(_, isa)| Isa::ALL.into_iter().find(|i| i.name() == isa));
    own.or_else(|| Isa::best().ok())
}

fn peaks_needed(rows: &[Record]) -> Vec<Isa> {
    let mut isas: Vec<Isa> =
        rows.iter().filter(|row| row.status == Status::Ok).filter_map(|row| peak_isa(&row.kernel)).collect();
    isas.sort_unstable();
    isas.dedup();
    isas
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers;

    struct Quiet(usize);

    impl Observer for Quiet {
        fn next(&mut self, _: &Layer, _: usize) {}
        fn rows(&mut self, _: &[Record]) {}
        fn carry_on(&mut self) -> bool {
            self.0 = self.0.saturating_sub(1);
            self.0 > 0
        }
    }

    fn request(text: &str, ids: &[&str]) -> Request {
        Request {
            layers: layers::parse(text, "test").unwrap(),
            kernels: ids.iter().map(|id| kernels::kernel(id).unwrap()).collect(),
            threads: vec![1],
            time: Duration::from_millis(5),
            roofs: true,
        }
    }

    #[test]
    fn rows_are_complete() {
        let request = request("a 2 c8 h9 w9 o8 k3 p1", &["naive", "direct", "pointwise"]);
        let rows = bench(&request, &mut Quiet(usize::MAX)).unwrap();
        assert_eq!(rows.len(), 4);
        for row in [&rows[0], &rows[1], &rows[3]] {
            assert_eq!((row.status, row.count, row.threads), (Status::Ok, 2, 1), "{row:?}");
            assert!(row.median_ns.unwrap() > 0.0 && row.peak_fraction.unwrap() > 0.0);
            assert!(row.ci_low_ns <= row.median_ns && row.median_ns <= row.ci_high_ns);
            assert!(row.max_error.unwrap() <= row.error_bound.unwrap());
        }
        assert_eq!((rows[2].status, rows[2].median_ns), (Status::Unsupported, None));
        assert!(rows[2].reason.as_ref().unwrap().starts_with("pointwise does not support kernel 3x3"));
        assert_eq!((rows[3].role, rows[3].requested.as_str()), (Role::Aa, "naive"));
    }

    #[test]
    fn usual_kernels_are_those_that_can() {
        let layer = |spec: &str| layers::parse(&format!("a 1 {spec}"), "test").unwrap().remove(0);
        let ids = |spec: &str| usual(&layer(spec)).iter().map(|kernel| kernel.id()).collect::<Vec<_>>();
        assert!(ids("c8 h9 w9 o8 k3").contains(&"naive"));
        assert!(!ids("c64 h56 w56 o64 k3").contains(&"naive"));
        assert!(ids("c8 h9 w9 o8 k3").contains(&"winograd"));
        assert!(!ids("c8 h9 w9 o8 k1").contains(&"winograd"));
    }

    #[test]
    fn stops_early() {
        let request = request("a 1 c8 h9 w9 o8 k3\nb 1 c8 h9 w9 o8 k3 p1", &["direct"]);
        assert_eq!(bench(&request, &mut Quiet(3)).unwrap().len(), 0);
    }
}
