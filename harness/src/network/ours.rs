//! A network as we run it.

use std::time::{Duration, Instant};

use cnn::{Graph, Inference, InferenceOptions, Weights};
use kernels::Accuracy;

use super::Part;
use crate::buffer::Buffer;
use crate::pinning::Pool;
use crate::statistics::median;

/// Prepared, with the times of its parts.
pub(super) struct Ours<'a> {
    inference: Inference,
    input: &'a Buffer,
    pool: &'a Pool,
    /// How long preparing took.
    pub(super) plan: Duration,
    /// Nanoseconds of each part in each run.
    times: Vec<Vec<f64>>,
    output: Vec<f32>,
}

impl<'a> Ours<'a> {
    pub(super) fn new(
        graph: &Graph,
        weights: &Weights,
        kernel: &str,
        accuracy: Accuracy,
        batch: usize,
        input: &'a Buffer,
        pool: &'a Pool,
    ) -> Result<Self, String> {
        let kernel = kernel.to_owned();
        let options =
            InferenceOptions { batch, threads: pool.threads(), kernel, accuracy, ..Default::default() };
        let start = Instant::now();
        let inference =
            pool.run(|| Inference::new(graph, weights, &options)).map_err(|error| error.to_string())?;
        let plan = start.elapsed();
        let times = vec![Vec::new(); inference.steps().count()];
        Ok(Ours { inference, input, pool, plan, times, output: Vec::new() })
    }

    /// Runs so many times; how long that took.
    pub(super) fn time(&mut self, repeats: u64) -> Result<Duration, String> {
        let Ours { inference, input, pool, times, output, .. } = self;
        pool.run(|| {
            // As other engines' threads are, these are awake when the clock starts.
            rayon::broadcast(|_| ());
            let start = Instant::now();
            for _ in 0..repeats {
                let mut parts = times.iter_mut();
                let last = inference.run_observed(input, |_, spent, _| {
                    if let Some(times) = parts.next() {
                        times.push(spent.as_nanos() as f64);
                    }
                });
                let last = last.map_err(|error| error.to_string())?;
                if output.is_empty() {
                    output.extend(last);
                }
            }
            Ok(start.elapsed())
        })
    }

    /// The output of the first run; all have the same.
    pub(super) fn output(&self) -> &[f32] {
        &self.output
    }

    /// Bytes of activations, of scratch memory and of packed weights.
    pub(super) fn bytes(&self) -> [usize; 3] {
        let [activations, scratch] = self.inference.memory();
        [activations, scratch, self.inference.packed_bytes()]
    }

    /// What each part took.
    pub(super) fn parts(&self) -> Vec<Part> {
        let parts = self.inference.steps().zip(&self.times).map(|(step, times)| {
            // The first run meets its memory for the first time.
            let mut times = times.get(1..).unwrap_or_default().to_vec();
            let median_ns = median(&mut times).unwrap_or(0.0);
            let gflops = if median_ns > 0.0 { 2.0 * step.macs as f64 / median_ns } else { 0.0 };
            Part {
                name: step.name.clone(),
                kind: step.kind.to_owned(),
                kernel: step.kernel.clone(),
                median_ns,
                gflops,
            }
        });
        parts.collect()
    }
}
