//! The command line's words.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use harness::layers::Layer;
use harness::record::Clock;
use kernels::backward::Op;
use kernels::{Accuracy, ConvSpec, Effort, Layout, Stores};

/// Convolution kernels: what there is, what they compute, how fast, and whether it is right.
#[derive(Debug, Parser)]
#[command(name = "convbench", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The machine: CPU, caches, instruction sets, measured multiply-add peak and bandwidth
    Info(Info),
    /// Every kernel: is it available, does it support a convolution, what would auto take and why
    Kernels(Kernels),
    /// The arithmetic of a convolution: output size, parameters, multiply-adds, bytes
    Shape(Shape),
    /// Run a kernel on .npy arrays
    Run(Run),
    /// Verify kernels on layers, then time them in turns
    Bench(Bench),
    /// Set two results of bench side by side; fails when something got slower
    Compare(Compare),
    /// How much auto loses against the best kernel on each layer
    Regret(Regret),
    /// Make a page, a Markdown file and a CSV file of results
    Report(Report),
    /// Run random convolutions on every kernel and instruction set and compare with the definition
    Verify(Verify),
    /// Measure the kernels' rounding errors against float64, on data like a network's
    Errors(Errors),
    /// Run a whole network, one of those known (random weights) or an ONNX model: outputs, latency, images a second,
    /// time by layer
    Net(Net),
    /// Time poolings of networks, both ways, beside what the memory allows
    Pool(Pool),
    /// Draw what a convolution or a network does with an image: window, im2col, a Winograd tile, activation maps
    Trace(Trace),
    /// Print a completion script
    Completions {
        /// The shell to print it for
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Info {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Kernels {
    /// Which operation's: the convolution, or its gradient by data, or those by weights and bias
    #[arg(long, value_name = "OP", default_value = "forward")]
    pub(crate) op: OpArg,
    /// Also say whether each supports this convolution, e.g. "c64 h56 w56 o64 k3 p1"
    #[arg(long, value_name = "SPEC")]
    pub(crate) spec: Option<ConvSpec>,
    /// Which rounding errors auto may choose: those of summing, about twice, or about eight times those
    #[arg(long, default_value = "standard")]
    pub(crate) accuracy: AccuracyArg,
    /// How auto finds the fastest kernel: by rules, or by timing all of them on this convolution
    #[arg(long, value_name = "EFFORT", requires = "spec")]
    pub(crate) effort: Option<EffortArg>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Shape {
    /// The convolution, e.g. "c3 h32 w32 o10 k5 p2"
    #[arg(required = true, value_name = "SPEC")]
    pub(crate) spec: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LayoutArg {
    Nchw,
    Nhwc,
}

impl From<LayoutArg> for Layout {
    fn from(layout: LayoutArg) -> Self {
        match layout {
            LayoutArg::Nchw => Layout::Nchw,
            LayoutArg::Nhwc => Layout::Nhwc,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ClockArg {
    Warm,
    Cold,
    Device,
}

impl From<ClockArg> for Clock {
    fn from(clock: ClockArg) -> Self {
        match clock {
            ClockArg::Warm => Clock::Warm,
            ClockArg::Cold => Clock::Cold,
            ClockArg::Device => Clock::Device,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AccuracyArg {
    Strict,
    Standard,
    Relaxed,
}

impl From<AccuracyArg> for Accuracy {
    fn from(accuracy: AccuracyArg) -> Self {
        match accuracy {
            AccuracyArg::Strict => Accuracy::Strict,
            AccuracyArg::Standard => Accuracy::Standard,
            AccuracyArg::Relaxed => Accuracy::Relaxed,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OpArg {
    Forward,
    BackwardData,
    BackwardWeights,
}

impl From<OpArg> for Op {
    fn from(op: OpArg) -> Self {
        match op {
            OpArg::Forward => Op::Forward,
            OpArg::BackwardData => Op::BackwardData,
            OpArg::BackwardWeights => Op::BackwardWeights,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StoresArg {
    Cached,
    Streaming,
}

impl From<StoresArg> for Stores {
    fn from(stores: StoresArg) -> Self {
        match stores {
            StoresArg::Cached => Stores::Cached,
            StoresArg::Streaming => Stores::Streaming,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum EffortArg {
    Estimate,
    Measure,
}

impl From<EffortArg> for Effort {
    fn from(effort: EffortArg) -> Self {
        match effort {
            EffortArg::Estimate => Effort::Estimate,
            EffortArg::Measure => Effort::Measure,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The kernel's id, e.g. auto or direct/avx2
    #[arg(long, value_name = "ID")]
    pub(crate) kernel: String,
    /// Input array of 4 axes, N×C×H×W or with --layout nhwc N×H×W×C
    #[arg(long, value_name = "X.npy")]
    pub(crate) input: PathBuf,
    /// Weights array of 4 axes, O×(C/groups)×KH×KW
    #[arg(long, value_name = "W.npy")]
    pub(crate) weights: PathBuf,
    /// Bias array of 1 axis
    #[arg(long, value_name = "B.npy")]
    pub(crate) bias: Option<PathBuf>,
    /// Stride, one number or H,W
    #[arg(long, value_name = "H,W", default_value = "1", value_parser = pair)]
    pub(crate) stride: [usize; 2],
    /// Padding: one number, vertical,horizontal, or top,left,bottom,right; same or valid
    #[arg(long, value_name = "T,L,B,R|same|valid", default_value = "0", value_parser = padding)]
    pub(crate) padding: PaddingArg,
    /// Dilation, counted from 1, one number or H,W
    #[arg(long, value_name = "H,W", default_value = "1", value_parser = pair)]
    pub(crate) dilation: [usize; 2],
    /// Groups
    #[arg(long, value_name = "G", default_value_t = 1)]
    pub(crate) groups: usize,
    /// Layout of input and output
    #[arg(long, default_value = "nchw")]
    pub(crate) layout: LayoutArg,
    /// Apply ReLU
    #[arg(long)]
    pub(crate) relu: bool,
    /// Which rounding errors auto and winograd may choose: those of summing, about twice, or about eight times
    /// those; a kernel that is named is taken, except Winograd's under strict
    #[arg(long, default_value = "standard")]
    pub(crate) accuracy: AccuracyArg,
    /// Threads
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) threads: usize,
    /// Where to write the output array
    #[arg(long, value_name = "Y.npy")]
    pub(crate) output: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PaddingArg {
    /// Top, left, bottom, right.
    Numbers([usize; 4]),
    Same,
}

fn numbers(text: &str) -> Option<Vec<usize>> {
    text.split(',').map(|n| n.trim().parse().ok()).collect()
}

fn pair(text: &str) -> Result<[usize; 2], String> {
    match numbers(text).as_deref() {
        Some(&[n]) => Ok([n, n]),
        Some(&[h, w]) => Ok([h, w]),
        _ => Err("one number or two with a comma, e.g. 2 or 2,1".to_owned()),
    }
}

fn triple(text: &str) -> Result<[usize; 3], String> {
    let numbers = numbers(text).and_then(|numbers| numbers.try_into().ok());
    numbers.ok_or_else(|| "three numbers with commas, e.g. 0,4,4".to_owned())
}

fn padding(text: &str) -> Result<PaddingArg, String> {
    match (text, numbers(text).as_deref()) {
        ("same", _) => Ok(PaddingArg::Same),
        ("valid", _) => Ok(PaddingArg::Numbers([0; 4])),
        (_, Some(&[p])) => Ok(PaddingArg::Numbers([p; 4])),
        (_, Some(&[v, h])) => Ok(PaddingArg::Numbers([v, h, v, h])),
        (_, Some(&[t, l, b, r])) => Ok(PaddingArg::Numbers([t, l, b, r])),
        _ => Err("same, valid, or one, two or four numbers with commas, e.g. 1 or 0,0,1,1".to_owned()),
    }
}

/// What is measured, and for how long.
#[derive(Debug, Args)]
pub(crate) struct What {
    /// A convolution, e.g. "c64 h56 w56 o64 k3 p1"; may be repeated
    #[arg(long, value_name = "SPEC")]
    pub(crate) spec: Vec<ConvSpec>,
    /// A convolution as benchdnn writes it, e.g. "ic64ih56oc64kh3ph1"; may be repeated
    #[arg(long, value_name = "DESCRIPTOR", value_parser = harness::benchdnn::problem)]
    pub(crate) problem: Vec<Layer>,
    /// A file of layers: lines `name count spec`, benchdnn's problems, or an .onnx model; may be repeated
    #[arg(long, value_name = "FILE")]
    pub(crate) layers: Vec<PathBuf>,
    /// The layers of a network, e.g. resnet50 (--list shows all); may be repeated
    #[arg(long, value_name = "NAME")]
    pub(crate) network: Vec<String>,
    /// What is computed of each layer: its output, or the gradient by its input, or those by weights and bias
    #[arg(long, value_name = "OP", default_value = "forward")]
    pub(crate) op: OpArg,
    /// Kernels, separated by commas; by default all that support a layer
    #[arg(long, value_name = "ID,…", value_delimiter = ',')]
    pub(crate) kernel: Vec<String>,
    /// Other libraries to measure beside ours, separated by commas; all is every one that is known
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub(crate) peers: Vec<String>,
    /// A shared library of oneDNN, instead of the system's; may be repeated
    #[arg(long, value_name = "FILE")]
    pub(crate) onednn: Vec<PathBuf>,
    /// A shared library of ONNX Runtime, instead of the system's
    #[arg(long, value_name = "FILE")]
    pub(crate) onnxruntime: Option<PathBuf>,
    /// A shared library of cuDNN 9, instead of the system's
    #[arg(long, value_name = "FILE")]
    pub(crate) cudnn: Option<PathBuf>,
    /// Which rounding errors auto and winograd may choose, and kernels may have that are not named: those of
    /// summing, about twice, or about eight times those
    #[arg(long, default_value = "standard")]
    pub(crate) accuracy: AccuracyArg,
    /// Where outputs go first: into the caches, or past them, of kernels that can do so
    #[arg(long, value_name = "STORES", default_value = "cached")]
    pub(crate) stores: StoresArg,
    /// Numbers of threads, separated by commas
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1")]
    pub(crate) threads: Vec<usize>,
    /// Layout of all layers, instead of their own
    #[arg(long)]
    pub(crate) layout: Option<LayoutArg>,
    /// Batches of all layers, instead of their own, separated by commas
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    pub(crate) batch: Vec<usize>,
    /// State of the caches: warm (buffers used again and again), cold (rotated through more memory than the
    /// last cache holds); device is a GPU's own clock, everything in its memory. By default warm, and device
    /// as well where a kernel or a peer of a GPU is named
    #[arg(long, value_name = "warm|cold|device,…", value_delimiter = ',')]
    pub(crate) clock: Vec<ClockArg>,
    /// The row that all are compared with
    #[arg(long, value_name = "ID", default_value = harness::bench::BASELINE)]
    pub(crate) baseline: String,
    /// Measuring time for each row, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 0.5)]
    pub(crate) time: f64,
    /// Measuring time for all rows together, in seconds, instead of --time
    #[arg(long, value_name = "SECONDS", conflicts_with = "time")]
    pub(crate) budget: Option<f64>,
}

impl What {
    /// Refuses libraries of peers that are not asked for.
    pub(crate) fn check(&self) -> Result<(), String> {
        let asked = |peer: &str| self.peers.iter().any(|asked| asked == "all" || asked == peer);
        let given = [
            ("onednn", !self.onednn.is_empty()),
            ("onnxruntime", self.onnxruntime.is_some()),
            ("cudnn", self.cudnn.is_some()),
        ];
        match given.iter().find(|(peer, given)| *given && !asked(peer)) {
            Some((peer, _)) => Err(format!("--{peer} is given, but --peers does not name {peer}, nor all")),
            None => Ok(()),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Bench {
    #[command(flatten)]
    pub(crate) what: What,
    /// Measure the multiply-add peak and the bandwidth beside each row (full runs always do)
    #[arg(long)]
    pub(crate) roofs: bool,
    /// List what would be measured, and the networks there are
    #[arg(long)]
    pub(crate) list: bool,
    /// Also write rows to this file, a JSON object a line
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Compare {
    /// Results of the earlier run
    #[arg(value_name = "BASE")]
    pub(crate) base: PathBuf,
    /// Results of the later run
    #[arg(value_name = "NEW")]
    pub(crate) new: PathBuf,
    /// A row that is slower by more than this, beyond noise and intervals, fails the comparison
    #[arg(long, value_name = "PERCENT", default_value_t = 5.0)]
    pub(crate) threshold: f64,
    /// Compare times over that of each run's own baseline, which cancels what slows the whole machine
    #[arg(long)]
    pub(crate) relative: bool,
    /// Compare runs on unlike machines too
    #[arg(long)]
    pub(crate) any_machine: bool,
    /// Also show ties
    #[arg(long)]
    pub(crate) all: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Regret {
    /// Results of bench; without any, it is measured now
    #[arg(value_name = "RESULTS", conflicts_with = "What")]
    pub(crate) results: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) what: What,
}

#[derive(Debug, Args)]
pub(crate) struct Report {
    /// Files that `bench --json` wrote; the report is of all their rows together
    #[arg(required = true, value_name = "RESULTS")]
    pub(crate) results: Vec<PathBuf>,
    /// The folder to write index.html, report.md and rows.csv to; made if need be
    #[arg(long, value_name = "DIR")]
    pub(crate) output: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Errors {
    /// A convolution, e.g. "c64 h14 w14 o64 k3 p1"; may be repeated; by default 3×3 and 5×5 with 64, 256 and
    /// 512 channels
    #[arg(long, value_name = "SPEC")]
    pub(crate) spec: Vec<ConvSpec>,
    /// Kernels, separated by commas; by default all, with the best instruction set
    #[arg(long, value_name = "ID,…", value_delimiter = ',')]
    pub(crate) kernel: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Net {
    /// lenet5, alexnet, vgg16, resnet18, resnet50 or mobilenet_v2, or an .onnx model
    #[arg(value_name = "NETWORK|MODEL.onnx")]
    pub(crate) network: String,
    /// Images in each run, several numbers separated by commas; by default those of --input, or what the model
    /// says, or 1
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    pub(crate) batch: Vec<usize>,
    /// Images to run it on, float32 of N×C×H×W; shows the largest outputs of each
    #[arg(long, value_name = "X.npy")]
    pub(crate) input: Option<PathBuf>,
    /// Where to write what it gives for --input
    #[arg(long, value_name = "Y.npy", requires = "input")]
    pub(crate) output: Option<PathBuf>,
    /// Write it as an ONNX model instead of running it, with random weights if it is not one already; the batch is
    /// fixed only if --batch is given
    #[arg(long, value_name = "MODEL.onnx", conflicts_with_all = ["input", "summary", "json"])]
    pub(crate) save: Option<PathBuf>,
    /// Numbers of threads, separated by commas
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1")]
    pub(crate) threads: Vec<usize>,
    /// Kernels, separated by commas, each for the convolutions that it covers; auto computes the others
    #[arg(long, value_name = "ID,…", value_delimiter = ',', default_value = "auto")]
    pub(crate) kernel: Vec<String>,
    /// Other libraries to measure beside ours on the same weights, separated by commas: onnxruntime, tract
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub(crate) peers: Vec<String>,
    /// A shared library of ONNX Runtime, instead of the system's
    #[arg(long, value_name = "FILE")]
    pub(crate) onnxruntime: Option<PathBuf>,
    /// Which rounding errors auto may choose: those of summing, about twice, or about eight times those
    #[arg(long, default_value = "standard")]
    pub(crate) accuracy: AccuracyArg,
    /// Measuring time for each row, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    pub(crate) time: f64,
    /// Print the table of layers instead: outputs, parameters, multiply-adds, receptive fields
    #[arg(long)]
    pub(crate) summary: bool,
    /// Also write rows to this file, a JSON object a line; report makes a page of it
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Trace {
    /// lenet5, alexnet, vgg16, resnet18, resnet50 or mobilenet_v2
    #[arg(value_name = "NETWORK", required_unless_present = "spec", conflicts_with = "spec")]
    pub(crate) network: Option<String>,
    /// A convolution instead, e.g. "c3 h8 w8 o4 k3 p1"
    #[arg(long, value_name = "SPEC")]
    pub(crate) spec: Option<ConvSpec>,
    /// The image, PNG or .npy (channels, rows, columns); by default a drawn digit
    #[arg(long, value_name = "FILE")]
    pub(crate) image: Option<PathBuf>,
    /// Weights with torchvision's names (of a spec conv.weight and conv.bias); by default random ones
    #[arg(long, value_name = "FILE.safetensors")]
    pub(crate) weights: Option<PathBuf>,
    /// Seed of the digit and of random weights
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// The convolution that window, im2col and tile are drawn of; by default the network's first
    #[arg(long, value_name = "NAME")]
    pub(crate) layer: Option<String>,
    /// Which of its outputs is followed: channel, row, column; by default that of map 0 furthest from 0
    #[arg(long, value_name = "O,Y,X", value_parser = triple)]
    pub(crate) at: Option<[usize; 3]>,
    /// The kernel of the convolutions that it covers; auto computes the others
    #[arg(long, value_name = "ID", default_value = "auto")]
    pub(crate) kernel: String,
    /// The folder to write index.html and its pictures to: new, or an earlier trace, which is replaced
    #[arg(long, value_name = "FOLDER")]
    pub(crate) output: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Pool {
    /// Numbers of threads, separated by commas
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1")]
    pub(crate) threads: Vec<usize>,
    /// Layout; by default both
    #[arg(long)]
    pub(crate) layout: Option<LayoutArg>,
    /// Measuring time for each row, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 0.2)]
    pub(crate) time: f64,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// Cases for each kernel and instruction set
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub(crate) cases: u64,
    /// What is computed: the convolution, or its gradient by data, or those by weights and bias
    #[arg(long, value_name = "OP", default_value = "forward")]
    pub(crate) op: OpArg,
    /// Seed of the first case; the next has the next seed
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Kernels, separated by commas; by default all, on all available instruction sets
    #[arg(long, value_name = "ID,…", value_delimiter = ',')]
    pub(crate) kernel: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
