//! Rows of a benchmark, as they are written and read: one JSON object a line.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kernels::backward::Op;
use kernels::{Accuracy, ConvSpec, Stores};
use serde::{Deserialize, Serialize};

use crate::engine::Refusal;
use crate::file::{partial_path, read_most};
use crate::machine;
use crate::network::{self, NetworkRow};
use crate::provenance::Run;
use crate::statistics::{Ratio, Statistics};

/// Version of the fields: they are added, never renamed. Version 2 has `accuracy` and `stores`, without which rows
/// cannot be told apart.
pub const SCHEMA: u32 = 2;

/// What became of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// A kernel.
    Main,
    /// The first kernel once more: the two rows' difference is noise.
    Aa,
}

/// Which state the caches are in when the clock starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Clock {
    /// The same buffers again and again: input, output and weights are in whichever cache holds them after
    /// the run before.
    Warm,
    /// Input, output and packed weights are others each time, rotated through more memory than the last
    /// cache holds.
    Cold,
    /// The GPU's own clock: input, output and packed weights stay in its memory, and the same ones are used
    /// again and again, so that they lie in its level-2 cache as far as they fit. No copy from or to the host
    /// is in the time.
    Device,
}

/// What products are computed in, where that is less than f32. Such rows are compared only with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// f32 rounded to 10 bits behind the point.
    Tf32,
    /// f32 rounded to 7 bits behind the point.
    Bf16,
}

impl Precision {
    /// The word, also as the end of ids.
    pub fn name(self) -> &'static str {
        match self {
            Precision::Tf32 => "tf32",
            Precision::Bf16 => "bf16",
        }
    }
}

/// What is computed of a convolution, where it is not its output. Such rows are compared only with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gradient {
    /// By its input.
    BackwardData,
    /// By its weights and bias.
    BackwardWeights,
}

impl Gradient {
    /// The word.
    pub fn name(self) -> &'static str {
        match self {
            Gradient::BackwardData => "backward-data",
            Gradient::BackwardWeights => "backward-weights",
        }
    }

    /// The operation; none for the convolution itself.
    pub fn of(op: Op) -> Option<Self> {
        match op {
            Op::Forward => None,
            Op::BackwardData => Some(Gradient::BackwardData),
            Op::BackwardWeights => Some(Gradient::BackwardWeights),
        }
    }
}

/// How the runs of a sample by the GPU's clock were started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Launches {
    /// One call after the other.
    Calls,
    /// Many at once, as a graph that was recorded before: calls would take longer than the runs.
    Graph,
}

/// The word for what is asked of rounding errors.
pub fn accuracy_name(accuracy: Accuracy) -> &'static str {
    match accuracy {
        Accuracy::Strict => "strict",
        Accuracy::Standard => "standard",
        Accuracy::Relaxed => "relaxed",
    }
}

/// The word for where outputs go first.
pub fn stores_name(stores: Stores) -> &'static str {
    match stores {
        Stores::Cached => "cached",
        Stores::Streaming => "streaming",
    }
}

impl Clock {
    /// The word.
    pub fn name(self) -> &'static str {
        match self {
            Clock::Warm => "warm",
            Clock::Cold => "cold",
            Clock::Device => "device",
        }
    }
}

/// A measured row. Times are for one run, in nanoseconds; they are absent unless the status is `ok`.
/// Fields are added, never renamed; a reader refuses fields that it does not know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The layer's name; the spec where it has none.
    pub layer: String,
    /// The network or file that the layer is of; empty for one given by its spec.
    #[serde(default)]
    pub network: String,
    /// How often its network has the layer.
    pub count: usize,
    /// The convolution.
    pub spec: String,
    /// The id as it was asked for: a kernel's, or a peer's name.
    pub requested: String,
    /// What ran: a kernel's id with its instruction set, or a peer's name for its implementation.
    pub kernel: String,
    /// Whose it is: `ours`, or a peer's name.
    pub engine: String,
    /// A peer's version.
    #[serde(default)]
    pub engine_version: Option<String>,
    /// Threads it was allowed; 1 by the GPU's clock.
    pub threads: usize,
    /// What was asked of its rounding errors: `strict`, `standard` or `relaxed`; absent for peers, of which
    /// nothing is asked.
    pub accuracy: Option<String>,
    /// Where its outputs were asked to go first: `cached` or `streaming`; absent for peers.
    #[serde(default)]
    pub stores: Option<String>,
    /// `nchw` or `nhwc`.
    pub layout: String,
    /// The state of the caches.
    pub clock: Clock,
    /// What the row is for.
    pub role: Role,
    /// What became of it.
    pub status: Status,
    /// Why the status is not `ok`.
    pub reason: Option<String>,
    /// Samples taken.
    pub samples: usize,
    /// Plans that the samples are of, in turn.
    pub plans: usize,
    /// Median of the samples.
    pub median_ns: Option<f64>,
    /// The fastest sample.
    pub min_ns: Option<f64>,
    /// Median absolute deviation from the median.
    pub mad_ns: Option<f64>,
    /// Lower end of the 95 % confidence interval of the median; absent where samples are too few for one.
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
    /// Time to prepare: weights packed, blocking settled.
    pub plan_ns: Option<f64>,
    /// Largest error found, in units of `error_measure`.
    pub max_error: Option<f64>,
    /// What the kernel promises it to be at most.
    pub error_bound: Option<f64>,
    /// What errors are measured in.
    pub error_measure: Option<String>,
    /// Whether every thread was kept on a core of its own.
    pub pinned: bool,
    /// The row that `ratio` compares with: the baseline's id, or of a second row of a kernel its own.
    #[serde(default)]
    pub baseline: Option<String>,
    /// How many times faster than the baseline, as the median over pairs of samples taken side by side.
    #[serde(default)]
    pub ratio: Option<f64>,
    /// Lower end of the 95 % confidence interval of `ratio`.
    #[serde(default)]
    pub ratio_low: Option<f64>,
    /// Upper end.
    #[serde(default)]
    pub ratio_high: Option<f64>,
    /// How many times faster `auto` is than this row, as the median over pairs of samples taken side by side.
    #[serde(default)]
    pub auto_ratio: Option<f64>,
    /// Lower end of the 95 % confidence interval of `auto_ratio`.
    #[serde(default)]
    pub auto_ratio_low: Option<f64>,
    /// Upper end.
    #[serde(default)]
    pub auto_ratio_high: Option<f64>,
    /// Time of the very first run, which touches its memory for the first time.
    #[serde(default)]
    pub first_ns: Option<f64>,
    /// Time to bring the input into the engine's own layout and the output back, where it has one; not in
    /// the other times.
    #[serde(default)]
    pub reorder_ns: Option<f64>,
    /// Floating-point operations over minimal bytes (input, weights and output once).
    #[serde(default)]
    pub intensity: Option<f64>,
    /// The measured multiply-add peak, GFLOP/s.
    #[serde(default)]
    pub peak_gflops: Option<f64>,
    /// The measured bandwidth of `bandwidth_level`, GB/s (10⁹ bytes).
    #[serde(default)]
    pub bandwidth_gb_s: Option<f64>,
    /// Where the minimal bytes lie when the clock starts: `L1`, `L2`, `L3` or `memory`.
    #[serde(default)]
    pub bandwidth_level: Option<String>,
    /// The lower of the two roofs over the layer, GFLOP/s: peak, or intensity · bandwidth.
    #[serde(default)]
    pub roof_gflops: Option<f64>,
    /// `peak`, or the level whose bandwidth binds.
    #[serde(default)]
    pub roof: Option<String>,
    /// `gflops` over `roof_gflops`.
    #[serde(default)]
    pub roof_fraction: Option<f64>,
    /// Speed by the algorithm's own arithmetic, where that is not the definition's.
    #[serde(default)]
    pub own_gflops: Option<f64>,
    /// `own_gflops` over the roof for that arithmetic.
    #[serde(default)]
    pub own_fraction: Option<f64>,
    /// Whether outputs do go past the caches: asked for, and possible. Absent for other libraries.
    #[serde(default)]
    pub streams: Option<bool>,
    /// The GPU that ran it; absent where the CPU did.
    #[serde(default)]
    pub device: Option<String>,
    /// What products are computed in, where that is less than f32.
    #[serde(default)]
    pub precision: Option<Precision>,
    /// How runs were started, of rows by the GPU's clock.
    #[serde(default)]
    pub launches: Option<Launches>,
    /// What is computed, where it is not the convolution's output but a gradient.
    #[serde(default)]
    pub op: Option<Gradient>,
    /// The run that measured the row.
    #[serde(default)]
    pub run: Option<Arc<Run>>,
}

/// Roofs that were measured beside a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Roofs {
    /// GFLOP/s of multiply-adds.
    pub peak: f64,
    /// GB/s of the level.
    pub bandwidth: f64,
    /// Where the minimal bytes lie.
    pub level: &'static str,
}

impl Record {
    /// There will be no time.
    pub fn refuse(&mut self, refusal: Refusal) {
        let Refusal { status, reason } = refusal;
        (self.status, self.reason) = (status, Some(reason));
    }

    /// Takes over the times.
    pub fn set_times(&mut self, statistics: &Statistics, spec: &ConvSpec, own_flops: Option<u64>) {
        let Statistics { samples, median, min, mad, interval } = *statistics;
        self.samples = samples;
        self.median_ns = Some(median);
        self.min_ns = Some(min);
        self.mad_ns = Some(mad);
        (self.ci_low_ns, self.ci_high_ns) = interval.unzip();
        let median = median.max(f64::MIN_POSITIVE);
        self.gflops = Some(spec.flops() as f64 / median);
        self.own_gflops = own_flops.map(|flops| flops as f64 / median);
        self.intensity = Some(spec.arithmetic_intensity());
    }

    /// Takes over the roofs, after the times.
    pub fn set_roofs(&mut self, roofs: Roofs) {
        let (Some(gflops), Some(intensity)) = (self.gflops, self.intensity) else { return };
        let Roofs { peak, bandwidth, level } = roofs;
        self.peak_gflops = Some(peak);
        self.peak_fraction = Some(gflops / peak);
        self.bandwidth_gb_s = Some(bandwidth);
        self.bandwidth_level = Some(level.to_owned());
        let roof = peak.min(intensity * bandwidth);
        self.roof = Some(if roof < peak { level } else { "peak" }.to_owned());
        self.roof_gflops = Some(roof);
        self.roof_fraction = Some(gflops / roof);
        // The same bytes, for another number of operations.
        self.own_fraction = self.own_gflops.map(|own| own / peak.min(own / gflops * intensity * bandwidth));
    }

    /// Takes over how it compares.
    pub fn set_ratio(&mut self, baseline: &str, ratio: Ratio) {
        self.baseline = Some(baseline.to_owned());
        self.ratio = Some(ratio.ratio);
        (self.ratio_low, self.ratio_high) = ratio.interval.unzip();
    }
}

/// Most bytes of a file of results: a hundred thousand rows.
const MOST_RESULTS: u64 = 256 << 20;

/// What a file of results holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Results {
    /// Rows of layers.
    pub rows: Vec<Record>,
    /// Rows of whole networks.
    pub networks: Vec<NetworkRow>,
    /// Whether the run that wrote it was interrupted.
    pub interrupted: bool,
}

/// Reads the rows of layers of a file; also says whether the run that wrote it was interrupted.
///
/// # Errors
/// As [`read_all`], and when there is no row of a layer.
pub fn read(path: &Path) -> Result<(Vec<Record>, bool), String> {
    let Results { rows, interrupted, .. } = read_all(path)?;
    match rows.is_empty() {
        true => Err(format!("{}: holds no row of a layer, only of whole networks", path.display())),
        false => Ok((rows, interrupted)),
    }
}

/// Reads the rows of a file.
///
/// # Errors
/// One line that names the file, the line and what is wrong with it: not readable, no JSON object, a field
/// that is missing or unknown, another version; or no row at all.
pub fn read_all(path: &Path) -> Result<Results, String> {
    let whole = |error: String| format!("{}: {error}", path.display());
    let mut bytes = Vec::new();
    let most = MOST_RESULTS.min(machine::available_memory() / 4);
    let file = File::open(path).map_err(|error| whole(error.to_string()))?;
    read_most(file, most, &mut bytes).map_err(whole)?;
    let text = String::from_utf8(bytes).map_err(|_| whole("is no text (UTF-8)".to_owned()))?;
    let mut results = Results::default();
    for (index, line) in text.lines().enumerate() {
        let error = |what: String| format!("{}:{}: {what}", path.display(), index + 1);
        let value: serde_json::Value =
            serde_json::from_str(line).map_err(|e| error(format!("is no row of results: {e}")))?;
        match value.get("schema").and_then(serde_json::Value::as_u64) {
            Some(schema) if schema == u64::from(SCHEMA) => {}
            Some(schema) => {
                return Err(error(format!("has version {schema}, but this program reads version {SCHEMA}")));
            }
            None => return Err(error("is no row of results: it has no `schema`".to_owned())),
        }
        if value.get("status").and_then(serde_json::Value::as_str) == Some(INTERRUPTED) {
            results.interrupted = true;
            continue;
        }
        if value.get("kind").and_then(serde_json::Value::as_str) == Some(network::KIND) {
            results.networks.push(serde_json::from_value(value).map_err(|e| error(e.to_string()))?);
        } else {
            results.rows.push(serde_json::from_value(value).map_err(|e| error(e.to_string()))?);
        }
    }
    if results.rows.is_empty() && results.networks.is_empty() {
        return Err(whole("holds no row of results".to_owned()));
    }
    Ok(results)
}

/// The status of the last line of a run that was stopped.
const INTERRUPTED: &str = "interrupted";

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

    /// Gives the file up.
    pub fn abandon(self) {
        drop(self.file);
        // It may be gone already; what matters is that it has not taken the name.
        let _ = fs::remove_file(partial_path(&self.path));
    }

    /// Gives the file its name. An interrupted run says so in a last line.
    ///
    /// # Errors
    /// When it cannot be written or renamed.
    pub fn finish(mut self, interrupted: bool) -> io::Result<()> {
        if interrupted {
            let reason = "stopped before all rows were measured";
            self.add(&serde_json::json!({"schema": SCHEMA, "status": INTERRUPTED, "reason": reason}))?;
        }
        self.file.get_ref().sync_all()?;
        fs::rename(partial_path(&self.path), &self.path)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::engine::Ours;
    use crate::layers::Layer;
    use crate::measure::Sample;
    use crate::pinning::Pool;

    /// A row of a kernel that took so long on a layer with one thread and warm caches.
    pub(crate) fn row(layer: &str, kernel: &str, ns: f64) -> Record {
        let spec: ConvSpec = "c1 h3 w3 o1 k3".parse().unwrap();
        let layer = Layer { name: layer.to_owned(), ..Layer::of_spec(spec) };
        let naive = Ours::new(kernels::kernel("naive").unwrap());
        let mut row = crate::bench::blank(&layer, &naive, &Pool::new(1).unwrap(), Clock::Warm, None);
        (row.requested, row.kernel) = (kernel.to_owned(), kernel.to_owned());
        row.set_times(&Statistics::of(&[Sample { round: 0, plan: 0, ns }]).unwrap(), &spec, None);
        row
    }

    fn written(name: &str, lines: &[&str]) -> PathBuf {
        let path = std::env::temp_dir().join(format!("harness-record-{}-{name}", std::process::id()));
        fs::write(&path, lines.join("\n")).unwrap();
        path
    }

    #[test]
    fn rows_survive_their_file() {
        let path = written("whole", &[]);
        let mut file = Lines::create(&path).unwrap();
        let mut rows = vec![row("a", "direct", 100.0), row("b", "naive", 1e9 / 3.0)];
        rows[1].set_roofs(Roofs { peak: 100.0, bandwidth: 10.0, level: "L2" });
        rows[1].run = Some(Arc::new(Run::new("test".to_owned())));
        for row in &rows {
            file.add(row).unwrap();
        }
        file.finish(false).unwrap();
        assert_eq!(read(&path).unwrap(), (rows.clone(), false));
        let mut file = Lines::create(&path).unwrap();
        file.add(&rows[0]).unwrap();
        file.finish(true).unwrap();
        assert_eq!(read(&path).unwrap(), (rows[..1].to_vec(), true));
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn bad_files_are_told_by_line() {
        let good = serde_json::to_string(&row("a", "direct", 100.0)).unwrap();
        let message = |name: &str, lines: &[&str]| {
            let path = written(name, lines);
            let message = read(&path).unwrap_err();
            fs::remove_file(path).unwrap();
            assert_eq!(message.lines().count(), 1, "{message}");
            message
        };
        assert!(message("cut", &[&good, &good[..50]]).contains("cut:2: is no row of results"));
        assert!(message("array", &["[1]"]).contains("it has no `schema`"));
        let other = good.replace("\"schema\":2", "\"schema\":7");
        assert!(message("version", &[&other]).contains("has version 7, but this program reads version 2"));
        // Rows from before these fields were there.
        let older = good.replace("\"schema\":2", "\"schema\":1").replace("\"accuracy\":\"standard\",", "");
        assert!(
            message("older", &[&older]).contains("older:1: has version 1, but this program reads version 2")
        );
        let unknown = good.replacen('{', "{\"colour\":1,", 1);
        assert!(message("unknown", &[&unknown]).contains("unknown field `colour`"));
        let missing = good.replace("\"threads\":1,", "");
        assert!(message("missing", &[&missing]).contains("missing field `threads`"));
        assert!(message("empty", &[]).contains("holds no row"));
        // Larger than what is read, but nothing of it lies on the disk.
        let large = written("large", &[]);
        File::options().write(true).open(&large).unwrap().set_len(MOST_RESULTS + 1).unwrap();
        assert!(read(&large).unwrap_err().contains("large: is too large: at most "));
        fs::remove_file(large).unwrap();
        assert!(read(Path::new("absent.jsonl")).unwrap_err().contains("absent.jsonl"));
    }

    #[test]
    fn the_lower_roof_binds() {
        // 18 floating-point operations for 9 + 9 + 1 floats of 4 bytes.
        let mut row = row("a", "direct", 9.0);
        assert_eq!((row.gflops, row.intensity), (Some(2.0), Some(18.0 / 76.0)));
        row.set_roofs(Roofs { peak: 4.0, bandwidth: 7.6, level: "L2" });
        assert_eq!((row.roof.as_deref(), row.peak_fraction), (Some("L2"), Some(0.5)));
        assert!((row.roof_fraction.unwrap() - 2.0 / 1.8).abs() < 1e-12, "{row:?}");
        row.set_roofs(Roofs { peak: 4.0, bandwidth: 1e6, level: "L2" });
        assert_eq!((row.roof.as_deref(), row.roof_fraction), (Some("peak"), Some(0.5)));
        // Half the arithmetic in the same time: half the speed, and half as much for each byte.
        row.own_gflops = Some(1.0);
        row.set_roofs(Roofs { peak: 4.0, bandwidth: 7.6, level: "L2" });
        assert!((row.own_fraction.unwrap() - 1.0 / 0.9).abs() < 1e-12, "{row:?}");
    }
}
