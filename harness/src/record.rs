//! Rows of a benchmark, as they are written: one JSON object a line.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::file::partial_path;
use crate::measure::Statistics;

/// Version of the fields: they are added, never renamed.
pub const SCHEMA: u32 = 1;

/// What became of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Verified and timed.
    Ok,
    /// The kernel's method does not cover the convolution.
    Unsupported,
    /// The kernel cannot run on this machine.
    Unavailable,
    /// The kernel gave a wrong result: there is no time.
    Wrong,
    /// More memory than there is.
    TooLarge,
}

/// What a row is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// A kernel.
    Main,
    /// The first kernel once more: the two rows' difference is noise.
    Aa,
}

/// A measured row. Times are for one run, in nanoseconds; they are absent unless the status is `ok`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Record {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The layer's name; the spec where it has none.
    pub layer: String,
    /// How often its network has the layer.
    pub count: usize,
    /// The convolution.
    pub spec: String,
    /// The kernel's id as it was asked for.
    pub requested: String,
    /// The id of the kernel that ran, with its instruction set.
    pub kernel: String,
    /// Whose kernel: `ours`, or a peer's name.
    pub engine: &'static str,
    /// Threads it was allowed.
    pub threads: usize,
    /// `nchw` or `nhwc`.
    pub layout: &'static str,
    /// `warm`: buffers and weights are in whichever cache holds them after the run before.
    pub clock: &'static str,
    /// What the row is for.
    pub role: Role,
    /// What became of it.
    pub status: Status,
    /// Why the status is not `ok`.
    pub reason: Option<String>,
    /// Samples taken.
    pub samples: usize,
    /// Median of the samples.
    pub median_ns: Option<f64>,
    /// The fastest sample.
    pub min_ns: Option<f64>,
    /// Median absolute deviation from the median.
    pub mad_ns: Option<f64>,
    /// Lower end of the 95 % confidence interval of the median.
    pub ci_low_ns: Option<f64>,
    /// Upper end.
    pub ci_high_ns: Option<f64>,
    /// Direct-equivalent: 2·MACs of the definition over the median time.
    pub gflops: Option<f64>,
    /// `gflops` over the multiply-add peak of the kernel's instruction set and these threads, measured
    /// between this row's samples. Absent when roofs are not measured. Above 1 for a kernel that needs
    /// fewer multiplications than the definition has.
    pub peak_fraction: Option<f64>,
    /// Bytes of scratch memory.
    pub workspace_bytes: Option<usize>,
    /// Bytes of packed weights.
    pub packed_bytes: Option<usize>,
    /// Time to make the plan.
    pub plan_ns: Option<f64>,
    /// Largest error found, in units of `error_measure`.
    pub max_error: Option<f64>,
    /// What the kernel promises it to be at most.
    pub error_bound: Option<f64>,
    /// What errors are measured in.
    pub error_measure: Option<&'static str>,
    /// Whether every thread was kept on a core of its own.
    pub pinned: bool,
}

impl Record {
    /// Takes over the times.
    pub fn set_times(&mut self, statistics: &Statistics, flops: u64, peak: Option<f64>) {
        let Statistics { samples, median, min, mad, low, high } = *statistics;
        self.samples = samples;
        self.median_ns = Some(median);
        self.min_ns = Some(min);
        self.mad_ns = Some(mad);
        self.ci_low_ns = Some(low);
        self.ci_high_ns = Some(high);
        let gflops = flops as f64 / median.max(f64::MIN_POSITIVE);
        self.gflops = Some(gflops);
        self.peak_fraction = peak.map(|peak| gflops / peak);
    }
}

/// A file of JSON lines that takes its name when it is complete; until then it is `FILE.partial`.
#[derive(Debug)]
pub struct Lines {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Lines {
    /// Starts the file.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn create(path: &Path) -> io::Result<Self> {
        if path.is_dir() {
            return Err(io::Error::other("is a folder"));
        }
        Ok(Lines { path: path.to_owned(), file: BufWriter::new(File::create(partial_path(path))?) })
    }

    /// Adds a line, at once.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add(&mut self, line: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.file, line)?;
        self.file.write_all(b"\n")?;
        self.file.flush()
    }

    /// Gives the file its name. An interrupted run says so in a last line.
    ///
    /// # Errors
    /// When it cannot be written or renamed.
    pub fn finish(mut self, interrupted: bool) -> io::Result<()> {
        if interrupted {
            let reason = "stopped before all rows were measured";
            self.add(&serde_json::json!({"schema": SCHEMA, "status": "interrupted", "reason": reason}))?;
        }
        self.file.get_ref().sync_all()?;
        fs::rename(partial_path(&self.path), &self.path)
    }
}
