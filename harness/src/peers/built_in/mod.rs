//! Inference engines written in Rust, compiled into this program.
//!
//! Each has the row's number of threads in a pool of rayon's, and its runs are timed inside that pool, as
//! ours are: no engine pays for the way into it. A run allocates its output, because that is how these
//! engines give one.

mod candle;
mod rten;
mod tract;

use std::time::{Duration, Instant};

use kernels::ConvSpec;

use super::{nchw, one_line};
use crate::data::Tensors;
use crate::engine::{Engine, Facts, Io, Prepared, Refusal};
use crate::pinning::Pool;

/// An engine by its name and version.
type Row = (&'static str, &'static str, Maker);

/// Makes a convolution ready to run.
type Maker = for<'a> fn(&ConvSpec, &'a Tensors, &'a Pool) -> Result<Made<'a>, Refusal>;

const ENGINES: &[Row] = &[
    ("rten", env!("HARNESS_RTEN"), rten::make),
    ("tract", env!("HARNESS_TRACT_ONNX"), tract::make),
    ("candle", env!("HARNESS_CANDLE_CORE"), candle::make),
];

/// The engine of a name.
pub(super) fn engine(name: &str) -> Option<Box<dyn Engine>> {
    let &(name, version, make) = ENGINES.iter().find(|row| row.0 == name)?;
    Some(Box::new(BuiltIn { name, version, make }))
}

/// A convolution of an engine's, with how it is done and how long making it took.
struct Made<'a> {
    model: Box<dyn Model + 'a>,
    implementation: String,
    plan: Duration,
}

/// A convolution that an engine has made ready.
trait Model: Send {
    /// Runs so many times, on the threads it has; how long that took.
    fn time(&mut self, repeats: u64) -> Result<Duration, String>;

    /// The output of the last run, in NCHW.
    fn output(&self) -> Result<Vec<f32>, String>;
}

/// There is no output before the first run.
const NO_RUN: &str = "nothing has run yet";

/// Times runs of something that gives an output, inside the pool of rayon's that it uses; also returns the
/// last. Earlier ones are dropped on the way, as their memory has to be given back some time.
fn timed<T>(
    repeats: u64,
    mut run: impl FnMut() -> Result<T, String>,
) -> Result<(Duration, Option<T>), String> {
    // As ours are after other work of their pool, its threads are awake when the clock starts.
    rayon::broadcast(|_| ());
    let mut last = None;
    let start = Instant::now();
    for _ in 0..repeats {
        last = Some(run()?);
    }
    Ok((start.elapsed(), last))
}

#[derive(Debug)]
struct BuiltIn {
    name: &'static str,
    version: &'static str,
    make: Maker,
}

impl Engine for BuiltIn {
    fn engine(&self) -> &str {
        self.name
    }

    fn id(&self) -> &str {
        self.name
    }

    fn version(&self) -> Option<String> {
        Some(self.version.to_owned())
    }

    fn prepare<'a>(
        &'a self,
        spec: &ConvSpec,
        io: Io<'a>,
        pool: &'a Pool,
    ) -> Result<Box<dyn Prepared + 'a>, Refusal> {
        let Made { model, implementation, plan } = (self.make)(spec, io.tensors, pool)?;
        let facts = Facts {
            implementation,
            plan,
            workspace_bytes: None,
            packed_bytes: None,
            own_flops: None,
            error_model: nchw::error_model(spec),
        };
        Ok(Box::new(Ready { model, tensors: io.tensors, pool, spec: *spec, facts }))
    }
}

struct Ready<'a> {
    model: Box<dyn Model + 'a>,
    tensors: &'a Tensors,
    pool: &'a Pool,
    spec: ConvSpec,
    facts: Facts,
}

impl Prepared for Ready<'_> {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn time(&mut self, repeats: u64) -> Result<Duration, String> {
        self.model.time(repeats)
    }

    fn store(&mut self, output: &mut [f32]) -> Result<(), String> {
        nchw::store(&self.spec, &self.model.output()?, output);
        Ok(())
    }

    fn reorder(&mut self) -> Option<Duration> {
        let (spec, tensors) = (&self.spec, self.tensors);
        let result = self.model.output().ok()?;
        self.pool.drive(|| nchw::reorder(spec, tensors, &result))
    }
}
