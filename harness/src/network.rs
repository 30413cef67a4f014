//! Whole networks, timed run by run and layer by layer.

use std::time::{Duration, Instant};

use cnn::{Graph, Inference, InferenceOptions, Weights};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::machine;
use crate::pinning::Pool;

/// Fewest runs that a median is made of.
const FEWEST: usize = 3;

/// A network's times at one batch and number of threads.
#[derive(Clone, Debug, Serialize)]
pub struct Timed {
    /// Images in each run.
    pub batch: usize,
    /// Threads.
    pub threads: usize,
    /// Runs that were timed, after one that was not.
    pub runs: usize,
    /// Median of a run, in milliseconds.
    pub median_ms: f64,
    /// Fastest run, in milliseconds.
    pub fastest_ms: f64,
    /// Images in a second, by the median.
    pub images_per_second: f64,
    /// 10⁹ floating-point operations of the definition in a second, by the median.
    pub gflops: f64,
    /// Bytes of activations, of scratch memory and of packed weights.
    pub bytes: [usize; 3],
    /// The parts of a run, in order.
    pub layers: Vec<Part>,
}

/// A part of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Part {
    /// The layers that it computes.
    pub name: String,
    /// The kind of the first of them.
    pub kind: &'static str,
    /// The convolution kernel.
    pub kernel: Option<String>,
    /// Median over the runs, in milliseconds.
    pub median_ms: f64,
    /// Share of all parts' medians.
    pub share: f64,
    /// 10⁹ floating-point operations of the definition in a second; 0 of layers without products.
    pub gflops: f64,
}

/// Times a network with random weights on random images for about so long.
///
/// ```
/// use std::time::Duration;
/// let net = cnn::networks::lenet5()?;
/// let timed = harness::network::time(&net, &Default::default(), Duration::ZERO)?;
/// assert_eq!((timed.runs, timed.batch), (3, 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// One line: what the network or the machine refuses, or how much memory is lacking.
pub fn time(net: &Graph, options: &InferenceOptions, time: Duration) -> Result<Timed, String> {
    check_memory(net, options.batch)?;
    let weights = Weights::random(net, 1).map_err(|error| error.to_string())?;
    let mut inference = Inference::new(net, &weights, options).map_err(|error| error.to_string())?;
    // Packed: the network's own are not needed any more.
    drop(weights);
    time_on(net, &mut inference, &images(net, options.batch), options, time)
}

/// A batch of random images, the same every time.
pub fn images(net: &Graph, batch: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    (0..batch * net.input_shape().len()).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// [`time`] of a network that is ready to run, with these options, on a batch of images.
///
/// # Errors
/// One line: what the network or the machine refuses.
pub fn time_on(
    net: &Graph,
    inference: &mut Inference,
    input: &[f32],
    options: &InferenceOptions,
    time: Duration,
) -> Result<Timed, String> {
    let mut parts: Vec<Vec<f64>> = vec![Vec::new(); inference.steps().count()];
    let mut runs = Vec::new();
    let pool = Pool::new(options.threads)?;
    pool.run(|| -> Result<(), cnn::Error> {
        inference.run(input)?;
        let start = Instant::now();
        while runs.len() < FEWEST || start.elapsed() < time {
            let mut times = parts.iter_mut();
            let run = Instant::now();
            inference.run_observed(input, |_, spent, _| {
                if let Some(times) = times.next() {
                    times.push(1e3 * spent.as_secs_f64());
                }
            })?;
            runs.push(1e3 * run.elapsed().as_secs_f64());
        }
        Ok(())
    })
    .map_err(|error| error.to_string())?;
    let medians: Vec<f64> = parts.iter_mut().map(|times| median(times)).collect();
    let sum: f64 = medians.iter().sum();
    let gflops = |macs: u64, ms: f64| 2.0 * macs as f64 / (1e6 * ms);
    let layers = inference.steps().zip(&medians).map(|(step, &ms)| Part {
        name: step.name.clone(),
        kind: step.kind,
        kernel: step.kernel.clone(),
        median_ms: ms,
        share: ms / sum,
        gflops: gflops(step.macs, ms),
    });
    let [activations, scratch] = inference.memory();
    let median_ms = median(&mut runs);
    Ok(Timed {
        batch: options.batch,
        threads: options.threads,
        runs: runs.len(),
        median_ms,
        fastest_ms: runs[0],
        images_per_second: 1e3 * options.batch as f64 / median_ms,
        gflops: gflops(net.macs().saturating_mul(options.batch as u64), median_ms),
        bytes: [activations, scratch, inference.packed_bytes()],
        layers: layers.collect(),
    })
}

/// Sorts times and gives the middle one.
fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Refuses what would not fit memory: weights, packed ones up to five times as large (Winograd's), two of the
/// largest activations.
///
/// # Errors
/// The amounts.
pub fn check_memory(net: &Graph, batch: usize) -> Result<(), String> {
    let largest = net.nodes().iter().map(|node| node.shape().len()).max().unwrap_or(0);
    let activations = largest.checked_mul(batch).and_then(|values| values.checked_mul(2));
    let values = activations.and_then(|values| values.checked_add(net.parameter_count().checked_mul(6)?));
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
