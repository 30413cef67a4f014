//! Rows of whole networks, as they are written beside those of layers: one JSON object a line.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::provenance::Run;
use crate::record::Status;

/// What tells a row of a network from one of a layer.
pub const KIND: &str = "network";

/// A network as an engine runs it. Times are for a whole batch, in nanoseconds; they are absent unless the status
/// is `ok`. Fields are added, never renamed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkRow {
    /// [`SCHEMA`](crate::record::SCHEMA).
    pub schema: u32,
    /// [`KIND`].
    pub kind: String,
    /// The network's name.
    pub network: String,
    /// The engine: the kernel that was asked of ours, or a peer's name.
    pub requested: String,
    /// Whose it is: `ours`, or the library's name.
    pub engine: String,
    /// The library's version, where it has one of its own.
    pub version: Option<String>,
    /// Images in a run.
    pub batch: usize,
    /// Threads.
    pub threads: usize,
    /// What was asked of rounding errors, of ours.
    pub accuracy: Option<String>,
    /// What became of it.
    pub status: Status,
    /// Why there is no time.
    pub reason: Option<String>,
    /// Runs that were timed.
    pub samples: usize,
    /// Median of a run.
    pub median_ns: Option<f64>,
    /// A quarter of the runs took no longer.
    pub quarter_ns: Option<f64>,
    /// Three quarters of the runs took no longer.
    pub three_quarters_ns: Option<f64>,
    /// The fastest run.
    pub min_ns: Option<f64>,
    /// Lower end of the 95 % confidence interval of the median.
    pub ci_low_ns: Option<f64>,
    /// Upper end.
    pub ci_high_ns: Option<f64>,
    /// Images in a second, by the median.
    pub images_per_second: Option<f64>,
    /// 10⁹ floating-point operations of the definition in a second, by the median.
    pub gflops: Option<f64>,
    /// Time to prepare: weights packed, memory planned; or the library's session made.
    pub plan_ns: Option<f64>,
    /// The very first run.
    pub first_ns: Option<f64>,
    /// Bytes of activations, of ours.
    pub activation_bytes: Option<usize>,
    /// Bytes of scratch memory, of ours.
    pub workspace_bytes: Option<usize>,
    /// Bytes of packed weights, of ours.
    pub packed_bytes: Option<usize>,
    /// Largest difference from the outputs of the first row of its setting, over the largest of these.
    pub difference: Option<f64>,
    /// The row that `ratio` compares with: the first of its setting.
    pub baseline: Option<String>,
    /// How many times faster than that, as the median over pairs of runs side by side.
    pub ratio: Option<f64>,
    /// Lower end of the 95 % confidence interval of `ratio`.
    pub ratio_low: Option<f64>,
    /// Upper end.
    pub ratio_high: Option<f64>,
    /// Whether every thread was kept on a core of its own.
    pub pinned: bool,
    /// The parts of a run, in order; of a peer as far as it tells.
    pub parts: Vec<Part>,
    /// The run that measured the row.
    pub run: Option<Arc<Run>>,
}

/// A part of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// The layers that it computes.
    pub name: String,
    /// The kind of the first of them.
    pub kind: String,
    /// The convolution kernel, of ours.
    pub kernel: Option<String>,
    /// Median over the runs.
    pub median_ns: f64,
    /// 10⁹ floating-point operations of the definition in a second; 0 of parts without products, or where unknown.
    pub gflops: f64,
}

impl NetworkRow {
    /// There will be no time.
    pub(super) fn refuse(&mut self, status: Status, reason: String) {
        (self.status, self.reason) = (status, Some(reason));
    }

    /// All parts' medians together.
    pub fn parts_ns(&self) -> f64 {
        self.parts.iter().map(|part| part.median_ns).sum()
    }
}
