//! Whole networks, ours and other libraries', timed in turns on the same images and weights.

mod ours;
mod row;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use cnn::{Graph, Shape, Weights, onnx};
use kernels::Accuracy;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::buffer::Buffer;
use crate::engine::{Engine, OURS};
use crate::machine;
use crate::measure::{Sample, Spent, Subject, in_turns};
use crate::peers::made::{self, Made};
use crate::pinning::Pool;
use crate::provenance::Run;
use crate::record::{SCHEMA, Status, accuracy_name};
use crate::statistics::{Ratio, Statistics};
use ours::Ours;
pub use row::{KIND, NetworkRow, Part};

/// Largest difference between two engines' outputs, over the largest output, with which they are the same network:
/// roundings of some dozen layers differ by 10⁻⁶ or so, a wrong layer by far more.
pub const SAME: f64 = 1e-4;

/// Of random weights; images have the next.
pub const SEED: u64 = 1;

/// What is measured.
pub struct Request<'a> {
    /// The network's name.
    pub name: &'a str,
    /// The network.
    pub graph: &'a Graph,
    /// Kernels that compute its convolutions as far as they cover them, each a row.
    pub kernels: &'a [String],
    /// What is asked of our rounding errors.
    pub accuracy: Accuracy,
    /// Other libraries.
    pub peers: &'a [Box<dyn Engine>],
    /// Measuring time for each row.
    pub time: Duration,
    /// The run that rows are of.
    pub run: Arc<Run>,
}

/// What was measured of a setting.
#[derive(Clone, Debug)]
pub struct Measured {
    /// A row for each kernel, then for each peer.
    pub rows: Vec<NetworkRow>,
    /// What the first kernel's network gives, image by image.
    pub output: Vec<f32>,
}

/// A network as other libraries are given it.
pub struct Model<'a> {
    /// In ONNX's format, the batch fixed.
    pub bytes: &'a [u8],
    /// A batch of images.
    pub input: &'a Buffer,
    /// Shape of the input, named [`INPUT`](Self::INPUT).
    pub input_shape: Vec<usize>,
    /// The output's name.
    pub output: String,
    /// Its shape.
    pub output_shape: Vec<usize>,
}

impl Model<'_> {
    /// The name of the input.
    pub const INPUT: &'static str = "input";
}

impl fmt::Debug for Model<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model").field("input_shape", &self.input_shape).finish_non_exhaustive()
    }
}

/// A network with its weights, to be measured at any batch and number of threads.
pub struct Bench<'a> {
    request: Request<'a>,
    weights: Weights,
}

impl fmt::Debug for Bench<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bench").field("network", &self.request.name).finish_non_exhaustive()
    }
}

/// Something that runs the network.
enum Runner<'a> {
    Ours(Box<Ours<'a>>),
    Peer(Box<dyn made::Model + 'a>),
    None,
}

impl Runner<'_> {
    fn time(&mut self, repeats: u64) -> Result<Duration, String> {
        match self {
            Runner::Ours(ours) => ours.time(repeats),
            Runner::Peer(peer) => peer.time(repeats),
            Runner::None => Err("it is not there".to_owned()),
        }
    }
}

impl<'a> Bench<'a> {
    /// With these weights, or random ones.
    ///
    /// ```
    /// use std::{sync::Arc, time::Duration};
    /// use harness::{network::{Bench, Request}, provenance::Run};
    ///
    /// let (graph, kernels) = (cnn::networks::lenet5()?, ["auto".to_owned()]);
    /// let bench = Bench::new(Request {
    ///     name: "lenet5",
    ///     graph: &graph,
    ///     kernels: &kernels,
    ///     accuracy: kernels::Accuracy::Standard,
    ///     peers: &[],
    ///     time: Duration::from_millis(1),
    ///     run: Arc::new(Run::new("example".to_owned())),
    /// }, None)?;
    /// let measured = bench.measure(2, 1, None, &mut || true)?;
    /// assert_eq!((measured.rows.len(), measured.rows[0].batch), (1, 2));
    /// assert!(measured.rows[0].median_ns.unwrap() > 0.0);
    /// assert_eq!(measured.output.len(), 2 * 10);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// When memory cannot be had.
    pub fn new(request: Request<'a>, weights: Option<Weights>) -> Result<Self, String> {
        check_memory(request.graph, 1, request.peers.len())?;
        let weights = weights.map_or_else(|| Weights::random(request.graph, SEED), Ok);
        Ok(Bench { request, weights: weights.map_err(|error| error.to_string())? })
    }

    /// Runs all on these images, or on random ones. `carry_on` is asked before every run; when it says no, rows
    /// hold what was timed so far.
    ///
    /// # Errors
    /// One line: what our kernels or the machine refuse, or images that are not a batch. What peers refuse is in
    /// their rows.
    pub fn measure(
        &self,
        batch: usize,
        threads: usize,
        images: Option<&[f32]>,
        carry_on: &mut dyn FnMut() -> bool,
    ) -> Result<Measured, String> {
        let Request { graph, kernels, peers, time, .. } = &self.request;
        check_memory(graph, batch, peers.len())?;
        let pool = Pool::new(threads)?;
        let mut rng = ChaCha8Rng::seed_from_u64(SEED + 1);
        let mut input = Buffer::zeros(batch.saturating_mul(graph.input_shape().len()));
        match images {
            Some(images) if images.len() == input.len() => input.copy_from_slice(images),
            Some(images) => {
                return Err(format!(
                    "the images hold {} values, but must hold {}",
                    images.len(),
                    input.len()
                ));
            }
            None => input.fill_with(|| rng.random_range(-1.0..1.0)),
        }
        let bytes = match peers.is_empty() {
            true => Vec::new(),
            false => onnx::write(graph, &self.weights, Some(batch)).map_err(|error| error.to_string())?,
        };
        let shape = |shape: Shape| [vec![batch], shape.dims()].concat();
        let model = Model {
            bytes: &bytes,
            input: &input,
            input_shape: shape(graph.input_shape()),
            output: format!("{}:0", graph.name(graph.last())),
            output_shape: shape(graph.output_shape()),
        };
        let mut rows = Vec::new();
        let mut runners = Vec::new();
        let mut reference: Vec<f32> = Vec::new();
        for kernel in kernels.iter() {
            let mut row = self.blank(kernel, OURS, None, batch, &pool);
            let mut ours =
                Ours::new(graph, &self.weights, kernel, self.request.accuracy, batch, &input, &pool)?;
            row.plan_ns = Some(ours.plan.as_nanos() as f64);
            row.first_ns = Some(ours.time(1)?.as_nanos() as f64);
            let [activations, scratch, packed] = ours.bytes();
            (row.activation_bytes, row.workspace_bytes, row.packed_bytes) =
                (Some(activations), Some(scratch), Some(packed));
            row.accuracy = Some(accuracy_name(self.request.accuracy).to_owned());
            let right = compared(&mut row, &mut reference, ours.output());
            if images.is_some() {
                row.largest = ours.output().chunks_exact(graph.output_shape().len()).map(largest).collect();
            }
            rows.push(row);
            runners.push(if right { Runner::Ours(Box::new(ours)) } else { Runner::None });
        }
        for peer in peers.iter() {
            let mut row = self.blank(peer.id(), peer.engine(), peer.version(), batch, &pool);
            let runner = self.peer(peer.as_ref(), &model, &pool, &mut row, &mut reference);
            runners.push(runner.map_or(Runner::None, Runner::Peer));
            rows.push(row);
        }
        let samples = timed(&mut runners, *time, carry_on);
        self.conclude(&mut rows, &runners, samples, batch);
        for (row, peer) in rows.iter_mut().skip(kernels.len()).zip(peers.iter()) {
            if row.median_ns.is_some() && carry_on() {
                // It has no parts to show where this fails.
                row.parts = peer.network_parts(&model, &pool).unwrap_or_default();
            }
        }
        Ok(Measured { rows, output: reference })
    }

    /// A peer that is ready and right, or the row's reason why there is none.
    fn peer<'p>(
        &self,
        peer: &'p dyn Engine,
        model: &Model<'p>,
        pool: &'p Pool,
        row: &mut NetworkRow,
        reference: &mut Vec<f32>,
    ) -> Option<Box<dyn made::Model + 'p>> {
        let Made { mut model, plan, .. } = match peer.network(model, pool) {
            Ok(made) => made,
            Err(refusal) => {
                row.refuse(refusal.status, refusal.reason);
                return None;
            }
        };
        row.plan_ns = Some(plan.as_nanos() as f64);
        let first = model.time(1);
        let output = first.and_then(|first| {
            row.first_ns = Some(first.as_nanos() as f64);
            model.output().map(|output| output.into_owned())
        });
        match output {
            Ok(output) => compared(row, reference, &output).then_some(model),
            Err(reason) => {
                row.refuse(Status::Unsupported, reason);
                None
            }
        }
    }

    /// Takes over what was timed.
    fn conclude(
        &self,
        rows: &mut [NetworkRow],
        runners: &[Runner<'_>],
        samples: Vec<Result<Vec<Sample>, String>>,
        batch: usize,
    ) {
        let base: Vec<Sample> =
            samples.first().and_then(|first| first.as_ref().ok()).cloned().unwrap_or_default();
        let baseline = rows.first().map(|row| row.requested.clone());
        let flops = 2.0 * self.request.graph.macs() as f64 * batch as f64;
        for (i, ((row, runner), samples)) in rows.iter_mut().zip(runners).zip(samples).enumerate() {
            if row.status != Status::Ok {
                continue;
            }
            let samples = match samples {
                Ok(samples) => samples,
                Err(reason) => {
                    row.refuse(Status::Unsupported, reason);
                    continue;
                }
            };
            let Some(statistics) = Statistics::of(&samples) else { continue };
            let Statistics { samples: count, median, min, interval, .. } = statistics;
            let mut sorted: Vec<f64> = samples.iter().map(|sample| sample.ns).collect();
            sorted.sort_by(f64::total_cmp);
            row.samples = count;
            (row.median_ns, row.min_ns) = (Some(median), Some(min));
            (row.quarter_ns, row.three_quarters_ns) =
                (Some(quantile(&sorted, 0.25)), Some(quantile(&sorted, 0.75)));
            (row.ci_low_ns, row.ci_high_ns) = interval.unzip();
            row.images_per_second = Some(1e9 * batch as f64 / median);
            row.gflops = Some(flops / median);
            if i > 0
                && let Some(Ratio { ratio, interval }) = Ratio::paired(&base, &samples)
            {
                row.baseline = baseline.clone();
                row.ratio = Some(ratio);
                (row.ratio_low, row.ratio_high) = interval.unzip();
            }
            if let Runner::Ours(ours) = runner {
                row.parts = ours.parts();
            }
        }
    }

    fn blank(
        &self,
        requested: &str,
        engine: &str,
        version: Option<String>,
        batch: usize,
        pool: &Pool,
    ) -> NetworkRow {
        NetworkRow {
            schema: SCHEMA,
            kind: KIND.to_owned(),
            network: self.request.name.to_owned(),
            requested: requested.to_owned(),
            engine: engine.to_owned(),
            version,
            batch,
            threads: pool.threads(),
            accuracy: None,
            status: Status::Ok,
            reason: None,
            samples: 0,
            median_ns: None,
            quarter_ns: None,
            three_quarters_ns: None,
            min_ns: None,
            ci_low_ns: None,
            ci_high_ns: None,
            images_per_second: None,
            gflops: None,
            plan_ns: None,
            first_ns: None,
            activation_bytes: None,
            workspace_bytes: None,
            packed_bytes: None,
            difference: None,
            baseline: None,
            ratio: None,
            ratio_low: None,
            ratio_high: None,
            pinned: pool.is_pinned(),
            parts: Vec::new(),
            largest: Vec::new(),
            run: Some(Arc::clone(&self.request.run)),
        }
    }
}

/// Times all that are there, in turns.
fn timed(
    runners: &mut [Runner<'_>],
    time: Duration,
    carry_on: &mut dyn FnMut() -> bool,
) -> Vec<Result<Vec<Sample>, String>> {
    let subjects = runners.iter_mut().map(|runner| Subject {
        run: Box::new(move |_, repeats| runner.time(repeats).map(Spent::all)),
        plans: 1,
        time,
        warm: true,
        most_repeats: u64::MAX,
    });
    let mut subjects: Vec<Subject<'_>> = subjects.collect();
    in_turns(&mut subjects, carry_on)
}

/// Says in the row how far an output is from the first; the first is what others are held against. False, and a
/// reason, where it is another network's.
fn compared(row: &mut NetworkRow, reference: &mut Vec<f32>, output: &[f32]) -> bool {
    if reference.is_empty() {
        reference.extend(output);
    }
    let largest = reference.iter().fold(0.0f64, |most, x| most.max(f64::from(x.abs())));
    let furthest = reference.iter().zip(output).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs());
    // Not `max`: what is no number must not be lost.
    let furthest = furthest.fold(0.0f64, |most, x| if x <= most { most } else { x });
    let difference = furthest / largest.max(f64::MIN_POSITIVE);
    let right = reference.len() == output.len() && largest.is_finite() && difference <= SAME;
    if right {
        row.difference = Some(difference);
    } else {
        let what = match reference.len() == output.len() {
            true => format!("its outputs differ by {difference:.1e} of the largest, but may by {SAME:.0e}"),
            false => format!("it gives {} values, but must give {}", output.len(), reference.len()),
        };
        row.refuse(Status::Wrong, what);
    }
    right
}

/// How many outputs of an image a row holds.
const LARGEST: usize = 5;

/// The largest outputs of an image, with their places.
fn largest(output: &[f32]) -> Vec<(usize, f32)> {
    let mut places: Vec<(usize, f32)> = output.iter().copied().enumerate().collect();
    places.sort_by(|a, b| b.1.total_cmp(&a.1));
    places.truncate(LARGEST);
    places
}

/// The value below which a share of sorted ones lies, between two where it falls between them.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    low + (high - low) * place.fract()
}

/// Refuses what would not fit memory: weights, packed ones up to five times as large (Winograd's), images, two of the
/// largest activations; and for each other library the model and its own weights.
///
/// # Errors
/// The amounts.
pub fn check_memory(net: &Graph, batch: usize, peers: usize) -> Result<(), String> {
    let largest = net.nodes().iter().map(|node| node.shape().len()).max().unwrap_or(0);
    let image = net.input_shape().len();
    let activations = largest.checked_mul(2 + 2 * peers).and_then(|n| n.checked_add(image));
    let activations = activations.and_then(|values| values.checked_mul(batch));
    let copies = 6 + 2 * peers;
    let values =
        activations.and_then(|values| values.checked_add(net.parameter_count().checked_mul(copies)?));
    let needed = values.and_then(|values| values.checked_mul(4)).map(|bytes| bytes as u64);
    let free = machine::available_memory();
    match needed {
        Some(needed) if needed <= free => Ok(()),
        Some(needed) => {
            let (needed, free) = (machine::bytes(needed), machine::bytes(free));
            Err(format!("batch {batch} needs about {needed}, but only {free} of memory can be had"))
        }
        None => Err(format!("batch {batch} does not fit this machine's address space")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between() {
        let sorted = [1.0, 2.0, 4.0, 8.0];
        assert_eq!([0.0, 0.25, 0.5, 1.0].map(|share| quantile(&sorted, share)), [1.0, 1.75, 3.0, 8.0]);
        assert_eq!(quantile(&[5.0], 0.75), 5.0);
    }
}
