//! Rows of a benchmark: every engine on every layer, verified, then timed in turns.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use kernels::{CacheSizes, ErrorModel, Isa, Kernel, Layout, PlanOptions, Workspace};

use crate::check::{Exactness, Sampling, verdict};
use crate::data::{self, Kind, Tensors};
use crate::engine::{Engine, Facts, Io, Ours, Prepared, Refusal};
use crate::layers::Layer;
use crate::limits::{Level, Peak, Roof, Stream, Traffic, level_of};
use crate::machine;
use crate::measure::{Sample, Spent, Subject, in_turns};
use crate::pinning::Pool;
use crate::provenance::Run;
use crate::record::{Clock, Record, Role, Roofs, SCHEMA, Status};
use crate::rotation::{Ballast, Rotation, sets_and_ballast};
use crate::statistics::{Ratio, Statistics};

/// What to measure.
#[derive(Debug)]
pub struct Request {
    /// The layers.
    pub layers: Vec<Layer>,
    /// The kernels; empty means [`usual`].
    pub kernels: Vec<&'static dyn Kernel>,
    /// Other libraries.
    pub peers: Vec<Box<dyn Engine>>,
    /// Numbers of threads.
    pub threads: Vec<usize>,
    /// States of the caches.
    pub clocks: Vec<Clock>,
    /// Time for the samples of each row.
    pub time: Duration,
    /// Whether the machine's roofs are measured beside each row.
    pub roofs: bool,
    /// The id that speeds are compared with.
    pub baseline: String,
    /// The run that the rows are of.
    pub run: Arc<Run>,
}

/// What speeds are compared with when nothing else is asked for: the method of most frameworks, on every
/// layer.
pub const BASELINE: &str = "im2col-gemm";

impl Request {
    /// Rows of a layer, as far as can be known before, with the second of the first kernel.
    pub fn rows_of(&self, layer: &Layer) -> usize {
        self.engines(layer).len() + 1
    }

    fn engines<'a>(&'a self, layer: &Layer) -> Vec<Candidate<'a>> {
        let kernels = if self.kernels.is_empty() { usual(layer) } else { self.kernels.clone() };
        let ours = kernels.into_iter().map(|kernel| Candidate::Ours(Ours(kernel)));
        ours.chain(self.peers.iter().map(|peer| Candidate::Peer(peer.as_ref()))).collect()
    }
}

enum Candidate<'a> {
    Ours(Ours),
    Peer(&'a dyn Engine),
}

impl Candidate<'_> {
    fn engine(&self) -> &dyn Engine {
        match self {
            Candidate::Ours(ours) => ours,
            Candidate::Peer(peer) => *peer,
        }
    }
}

/// Follows a benchmark.
pub trait Observer {
    /// The next rows are of this layer, number of threads and state of the caches.
    fn next(&mut self, layer: &Layer, threads: usize, clock: Clock);
    /// Rows of a layer, a number of threads and a state of the caches are complete.
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
            for &clock in &request.clocks {
                if !observer.carry_on() {
                    return Ok(all);
                }
                observer.next(layer, pool.threads(), clock);
                if let Some(rows) = layer_rows(layer, pool, clock, request, observer) {
                    observer.rows(&rows);
                    all.extend(rows);
                }
            }
        }
    }
    Ok(all)
}

/// An engine that has given a right result, with the row that tells of it.
struct Contender<'a> {
    row: usize,
    rotation: Rotation<'a>,
    own_flops: Option<u64>,
}

/// The rows of a layer; nothing if stopped meanwhile.
fn layer_rows(
    layer: &Layer,
    pool: &Pool,
    clock: Clock,
    request: &Request,
    observer: &mut dyn Observer,
) -> Option<Vec<Record>> {
    let engines = request.engines(layer);
    let engine = |row: usize| engines[row].engine();
    let mut rows: Vec<Record> =
        (0..engines.len()).map(|row| blank(layer, engine(row), pool, clock, Some(&request.run))).collect();
    let caches = CacheSizes::detect();
    let (sets, ballast) = match clock {
        Clock::Warm => (1, 0),
        Clock::Cold => sets_and_ballast(layer.spec.min_bytes(), caches),
    };
    if let Err(reason) = machine::check_memory(&layer.spec, engines.len() + 1, sets) {
        for row in &mut rows {
            (row.status, row.reason) = (Status::TooLarge, Some(reason.clone()));
        }
        return Some(rows);
    }
    let tensors = data::tensors(&layer.spec, Kind::Real, 0);
    let tensors: Vec<Tensors> = (0..sets).map(|_| tensors.clone()).collect();
    let outputs: Vec<RefCell<Vec<f32>>> =
        tensors.iter().map(|tensors| RefCell::new(tensors.previous.clone())).collect();
    let workspace = RefCell::new(Workspace::default());
    let io = |set: usize| Io { tensors: &tensors[set], output: &outputs[set], workspace: &workspace };
    let memory = vec![1.0f32; sets * ballast / 4];
    // Some instruction set is there, or no kernel would be.
    let isa = Isa::best().unwrap_or(Isa::Wide);
    let rotation = |engine, first| -> Result<Rotation<'_>, Refusal> {
        if clock == Clock::Warm {
            return Ok(Rotation::warm(first));
        }
        let mut all = vec![first];
        for set in 1..sets {
            // Each is verified, at fewer places than the first.
            let mut row = blank(layer, engine, pool, clock, None);
            all.push(verified(engine, layer, io(set), pool, Sampling::Points(FEW_POINTS), &mut row)?);
        }
        Ok(Rotation::cold(all, Ballast { memory: &memory, each: ballast / 4, pool, isa }))
    };
    let mut contenders: Vec<Contender<'_>> = Vec::new();
    for row in 0..engines.len() {
        if !observer.carry_on() {
            return None;
        }
        let prepared =
            verified(engine(row), layer, io(0), pool, sampling(layer), &mut rows[row]).and_then(|first| {
                let own_flops = first.facts().own_flops;
                Ok(Contender { row, rotation: rotation(engine(row), first)?, own_flops })
            });
        match prepared {
            Ok(contender) => contenders.push(contender),
            Err(refusal) => rows[row].refuse(refusal),
        }
    }
    // The first that works runs twice: what differs between its two rows is noise.
    if let Some(Contender { row: first, own_flops, .. }) = contenders.first() {
        let (first, own_flops) = (*first, *own_flops);
        let mut again = Record { role: Role::Aa, ..rows[first].clone() };
        match verified(engine(first), layer, io(0), pool, sampling(layer), &mut again)
            .and_then(|prepared| rotation(engine(first), prepared))
        {
            Ok(rotation) => contenders.push(Contender { row: rows.len(), rotation, own_flops }),
            Err(refusal) => again.refuse(refusal),
        }
        rows.push(again);
    }
    let roofs = if request.roofs { roofs_for(layer, clock, caches, &rows, pool) } else { Vec::new() };
    // What ran, before the rows are written to.
    let mut subjects: Vec<Subject<'_>> = Vec::new();
    for contender in &mut contenders {
        // A rotation never runs twice on a set within a sample.
        let most_repeats = if clock == Clock::Cold { contender.rotation.sets() as u64 } else { u64::MAX };
        let rotation = &mut contender.rotation;
        let run = Box::new(move |repeats| rotation.time(repeats));
        subjects.push(Subject { run, time: request.time, warm: clock == Clock::Warm, most_repeats });
    }
    for (_, roof) in &roofs {
        let run = Box::new(|repeats| Ok(Spent::all(roof.time(pool, repeats).0)));
        subjects.push(Subject { run, time: request.time / 4, warm: true, most_repeats: u64::MAX });
    }
    let samples = in_turns(&mut subjects, &mut || observer.carry_on());
    drop(subjects);
    if !observer.carry_on() {
        return None;
    }
    let (of_rows, of_roofs) = samples.split_at(contenders.len());
    for (contender, samples) in contenders.iter().zip(of_rows) {
        let row = &mut rows[contender.row];
        match samples {
            Ok(samples) => {
                let times: Vec<f64> = samples.iter().map(|sample| sample.ns).collect();
                row.set_times(&Statistics::of(&times)?, &layer.spec, contender.own_flops);
            }
            Err(failure) => row.refuse(Refusal::unavailable(failure)),
        }
    }
    compare(&mut rows, &contenders, of_rows, &request.baseline);
    let rates = of_roofs.iter().zip(&roofs).filter_map(|(samples, (of, roof))| {
        let fastest = samples.as_ref().ok()?.iter().map(|sample| sample.ns).min_by(f64::total_cmp)?;
        Some((*of, roof.time(pool, 1).1 as f64 / fastest))
    });
    set_roofs(&mut rows, &rates.collect::<Vec<_>>());
    Some(rows)
}

/// Each row beside the baseline and beside `auto`, and the second row of a kernel beside its first.
fn compare(
    rows: &mut [Record],
    contenders: &[Contender<'_>],
    samples: &[Result<Vec<Sample>, String>],
    baseline: &str,
) {
    let taken: Vec<(usize, &[Sample])> = contenders
        .iter()
        .zip(samples)
        .filter_map(|(contender, samples)| Some((contender.row, samples.as_ref().ok()?.as_slice())))
        .collect();
    let auto = taken.iter().find(|(row, _)| rows[*row].role == Role::Main && rows[*row].requested == "auto");
    for &(row, own) in &taken {
        if let Some(Ratio { ratio, interval }) = auto.and_then(|(_, auto)| Ratio::paired(own, auto)) {
            rows[row].auto_ratio = Some(ratio);
            (rows[row].auto_ratio_low, rows[row].auto_ratio_high) = interval.unzip();
        }
        let base = match rows[row].role {
            Role::Main => baseline,
            Role::Aa => rows[row].requested.as_str(),
        };
        let of_base = |other: &Record| other.role == Role::Main && other.requested == base;
        let Some((_, theirs)) = taken.iter().find(|(other, _)| of_base(&rows[*other])) else { continue };
        if let Some(ratio) = Ratio::paired(theirs, own) {
            let base = base.to_owned();
            rows[row].set_ratio(&base, ratio);
        }
    }
}

/// What a roof is of.
#[derive(Clone, Copy, Debug, PartialEq)]
enum RoofOf {
    Peak(Isa),
    Level(&'static str),
}

/// The roofs over a layer's rows: the multiply-add peak of each instruction set that ran, and reading and
/// copying in the level of the memory that its bytes come from.
fn roofs_for(
    layer: &Layer,
    clock: Clock,
    caches: CacheSizes,
    rows: &[Record],
    pool: &Pool,
) -> Vec<(RoofOf, Box<dyn Roof>)> {
    let mut isas: Vec<Isa> =
        rows.iter().filter(|row| row.status == Status::Ok).filter_map(|row| isa_of(&row.kernel)).collect();
    isas.sort_unstable();
    isas.dedup();
    let mut roofs: Vec<(RoofOf, Box<dyn Roof>)> = Vec::new();
    for &isa in &isas {
        if let Ok(peak) = Peak::new(isa) {
            roofs.push((RoofOf::Peak(isa), Box::new(peak)));
        }
    }
    let bytes = match clock {
        Clock::Warm => layer.spec.min_bytes(),
        Clock::Cold => u64::MAX,
    };
    let Level { name, buffer, .. } = level_of(bytes, caches, pool.threads());
    for traffic in [Traffic::Read, Traffic::Copy] {
        let best = isas.last().copied();
        if let Some(Ok(stream)) = best.map(|isa| Stream::new(isa, traffic, buffer, pool)) {
            roofs.push((RoofOf::Level(name), Box::new(stream)));
        }
    }
    roofs
}

fn set_roofs(rows: &mut [Record], rates: &[(RoofOf, f64)]) {
    let bandwidth = rates.iter().filter_map(|(of, rate)| match of {
        RoofOf::Level(level) => Some((*level, *rate)),
        RoofOf::Peak(_) => None,
    });
    let Some((level, bandwidth)) = bandwidth.max_by(|a, b| a.1.total_cmp(&b.1)) else { return };
    for row in rows {
        let isa = isa_of(&row.kernel);
        let peak = rates.iter().find(|(of, _)| isa.is_some_and(|isa| *of == RoofOf::Peak(isa)));
        if let Some((_, peak)) = peak {
            row.set_roofs(Roofs { peak: *peak, bandwidth, level });
        }
    }
}

/// The instruction set whose peak a kernel is held against: its own, or the best for one without.
fn isa_of(kernel: &str) -> Option<Isa> {
    let own = kernel.rsplit_once('/').and_then(|(_, isa)| Isa::ALL.into_iter().find(|i| i.name() == isa));
    own.or_else(|| Isa::best().ok())
}

/// A row of which nothing is known yet.
pub fn blank(
    layer: &Layer,
    engine: &dyn Engine,
    pool: &Pool,
    clock: Clock,
    run: Option<&Arc<Run>>,
) -> Record {
    Record {
        schema: SCHEMA,
        layer: layer.name.clone(),
        network: layer.network.clone(),
        count: layer.count,
        spec: layer.spec.to_string(),
        requested: engine.id().to_owned(),
        kernel: engine.id().to_owned(),
        engine: engine.engine().to_owned(),
        engine_version: engine.version(),
        threads: pool.threads(),
        layout: match layer.spec.layout() {
            Layout::Nchw => "nchw",
            Layout::Nhwc => "nhwc",
        }
        .to_owned(),
        clock,
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
        baseline: None,
        ratio: None,
        ratio_low: None,
        ratio_high: None,
        auto_ratio: None,
        auto_ratio_low: None,
        auto_ratio_high: None,
        first_ns: None,
        reorder_ns: None,
        intensity: None,
        peak_gflops: None,
        bandwidth_gb_s: None,
        bandwidth_level: None,
        roof_gflops: None,
        roof: None,
        roof_fraction: None,
        own_gflops: None,
        own_fraction: None,
        run: run.cloned(),
    }
}

/// Times that a reordering is repeated; the median counts.
const REORDERS: usize = 5;

/// An engine's convolution for a layer, run once and verified; what there is to know before timing goes into
/// the row.
///
/// # Errors
/// What became of the row instead, and why.
pub fn verified<'a>(
    engine: &'a dyn Engine,
    layer: &Layer,
    io: Io<'a>,
    pool: &'a Pool,
    sampling: Sampling,
    row: &mut Record,
) -> Result<Box<dyn Prepared + 'a>, Refusal> {
    let mut prepared = engine.prepare(&layer.spec, io, pool)?;
    let Facts { implementation, plan, workspace_bytes, packed_bytes, error_model, .. } =
        prepared.facts().clone();
    row.kernel = implementation;
    row.plan_ns = Some(plan.as_nanos() as f64);
    row.workspace_bytes = workspace_bytes;
    row.packed_bytes = packed_bytes;
    // What is left of another engine's result would hide an output that this one does not write.
    io.output.borrow_mut().fill(f32::NAN);
    let failed = |reason| Refusal { status: Status::Unavailable, reason };
    row.first_ns = Some(prepared.time(1).map_err(failed)?.as_nanos() as f64);
    let mut output = io.output.borrow_mut();
    prepared.store(&mut output).map_err(failed)?;
    let options = PlanOptions::default();
    let verdict =
        verdict(&layer.spec, error_model, io.tensors, true, &options, &output, sampling, Exactness::Bound);
    row.max_error = Some(verdict.max_error);
    row.error_bound = Some(verdict.bound);
    row.error_measure = Some(measure_of(error_model).to_owned());
    if let Some(mismatch) = verdict.mismatch {
        return Err(Refusal { status: Status::Wrong, reason: mismatch.to_string() });
    }
    let mut reorders: Vec<f64> =
        (0..REORDERS).map_while(|_| prepared.reorder()).map(|time| time.as_nanos() as f64).collect();
    row.reorder_ns = crate::statistics::median(&mut reorders);
    Ok(prepared)
}

/// Convolutions that are compared with the oracle whole.
const MOST_WHOLE_MACS: u64 = 2_000_000;
/// Places of a large one that are compared.
const POINTS: usize = 100;
/// Places that are compared of another set of the same buffers.
const FEW_POINTS: usize = 16;

/// How much of a layer's output is compared with the oracle.
pub fn sampling(layer: &Layer) -> Sampling {
    if layer.spec.macs() <= MOST_WHOLE_MACS { Sampling::All } else { Sampling::Points(POINTS) }
}

fn measure_of(model: ErrorModel) -> &'static str {
    match model {
        ErrorModel::Sum { .. } => "2^-24 (sum|w||x| + |b|)",
        ErrorModel::Winograd { .. } => "2^-24 (sum |A'|(|G g G'| * (|B'||d||B|))|A| + |b|)",
        _ => "the kernel's own",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers;

    struct Quiet(usize);

    impl Observer for Quiet {
        fn next(&mut self, _: &Layer, _: usize, _: Clock) {}
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
            peers: Vec::new(),
            threads: vec![1],
            clocks: vec![Clock::Warm],
            time: Duration::from_millis(10),
            roofs: true,
            baseline: "naive".to_owned(),
            run: Arc::new(Run::new("test".to_owned())),
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
            // A busy machine may leave too few samples for an interval.
            if let (Some(low), Some(high)) = (row.ci_low_ns, row.ci_high_ns) {
                assert!(low <= row.median_ns.unwrap() && row.median_ns.unwrap() <= high);
            }
            assert!(row.max_error.unwrap() <= row.error_bound.unwrap());
        }
        assert!(rows[1].ratio.unwrap() > 1.0 && rows[1].first_ns.unwrap() > 0.0, "{:?}", rows[1]);
        assert_eq!((rows[1].baseline.as_deref(), rows[0].ratio), (Some("naive"), Some(1.0)));
        assert_eq!(rows[3].baseline.as_deref(), Some("naive"));
        assert_eq!(rows[0].auto_ratio, None);
        assert!(rows[1].roof_fraction.unwrap() >= rows[1].peak_fraction.unwrap());
        assert_eq!((rows[2].status, rows[2].median_ns), (Status::Unsupported, None));
        assert!(rows[2].reason.as_ref().unwrap().starts_with("pointwise does not support kernel 3x3"));
        assert_eq!((rows[3].role, rows[3].requested.as_str()), (Role::Aa, "naive"));
    }

    #[test]
    fn rows_stand_beside_auto() {
        let request = request("a 1 c8 h9 w9 o8 k3 p1", &["auto", "naive"]);
        let rows = bench(&request, &mut Quiet(usize::MAX)).unwrap();
        assert_eq!(rows[0].auto_ratio, Some(1.0));
        assert!(rows[1].auto_ratio.unwrap() > 1.0, "{:?}", rows[1]);
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
    fn cold_rows_are_rows_of_their_own() {
        let mut request = request("a 1 c16 h20 w20 o16 k1", &["pointwise"]);
        request.clocks = vec![Clock::Warm, Clock::Cold];
        let rows = bench(&request, &mut Quiet(usize::MAX)).unwrap();
        let clocks: Vec<Clock> = rows.iter().map(|row| row.clock).collect();
        assert_eq!(clocks, [Clock::Warm, Clock::Warm, Clock::Cold, Clock::Cold]);
        assert!(rows.iter().all(|row| row.status == Status::Ok && row.median_ns.unwrap() > 0.0), "{rows:?}");
        // What is not warm comes from the last level there is.
        let last = level_of(u64::MAX, CacheSizes::detect(), 1).name;
        assert_eq!(rows[2].bandwidth_level.as_deref(), Some(last));
    }

    #[test]
    fn stops_early() {
        let request = request("a 1 c8 h9 w9 o8 k3\nb 1 c8 h9 w9 o8 k3 p1", &["direct"]);
        assert_eq!(bench(&request, &mut Quiet(3)).unwrap().len(), 0);
    }
}
