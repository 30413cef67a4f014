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

use super::made::{Made, Model};
use super::{nchw, one_line};
use crate::data::Tensors;
use crate::engine::{Engine, Io, Prepared, Refusal};
use crate::network;
use crate::pinning::Pool;

/// An engine by its name and version.
type Row = (&'static str, &'static str, Maker, Option<NetworkMaker>);

/// Makes a convolution ready to run.
type Maker = for<'a> fn(&ConvSpec, &'a Tensors, &'a Pool) -> Result<Made<'a>, Refusal>;

/// Makes a network ready to run.
type NetworkMaker = for<'a> fn(&network::Model<'_>, &'a Pool) -> Result<Made<'a>, Refusal>;

const ENGINES: &[Row] = &[
    ("rten", env!("HARNESS_RTEN"), rten::make, None),
    ("tract", env!("HARNESS_TRACT_ONNX"), tract::make, Some(tract::network)),
    ("candle", env!("HARNESS_CANDLE_CORE"), candle::make, None),
];

/// The engine of a name.
pub(super) fn engine(name: &str) -> Option<Box<dyn Engine>> {
    let &(name, version, make, network) = ENGINES.iter().find(|row| row.0 == name)?;
    Some(Box::new(BuiltIn { name, version, make, network }))
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
    network: Option<NetworkMaker>,
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
        let made = (self.make)(spec, io.tensors, pool)?;
        Ok(made.prepared(spec, io.tensors, pool))
    }

    fn network<'a>(&'a self, model: &network::Model<'a>, pool: &'a Pool) -> Result<Made<'a>, Refusal> {
        let reason = "it is measured on single convolutions, not on whole networks";
        self.network.ok_or_else(|| Refusal::unsupported(reason))?(model, pool)
    }
}
