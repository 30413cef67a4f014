//! [`Inference`]: a network prepared once and run any number of times, in memory planned once.

mod compile;

use std::fmt;
use std::mem;
use std::time::{Duration, Instant};

use kernels::matmul::Matmul;
use kernels::pool::PoolPlan;
use kernels::{Accuracy, Activation, ConvError, ConvSpec, Effort, Plan, Workspace};

use crate::error::{check_len, zeros};
use crate::graph::{Graph, Value};
use crate::layer::{Conv, Lrn};
use crate::ops::softmax::{Lines, softmax};
use crate::ops::{lrn, norm};
use crate::{Error, Weights};

/// How to prepare a network. Write `InferenceOptions { batch: 8, ..Default::default() }`.
#[derive(Clone, Debug, PartialEq)]
pub struct InferenceOptions {
    /// Images in each run.
    pub batch: usize,
    /// Threads that a run may use, in the rayon pool that it is called in. Results do not depend on it.
    pub threads: usize,
    /// The id of the kernel that computes convolutions, for those that it covers and that name none of their
    /// own; `auto` computes the rest.
    pub kernel: String,
    /// Which algorithms may be chosen, by their rounding errors.
    pub accuracy: Accuracy,
    /// How `auto` finds the fastest kernel.
    pub effort: Effort,
    /// Whether batch normalisations, sums and activations are computed with the convolution before them. Without
    /// it every layer's output is there to be observed.
    pub fuse: bool,
}

impl Default for InferenceOptions {
    fn default() -> Self {
        InferenceOptions {
            batch: 1,
            threads: 1,
            kernel: "auto".to_owned(),
            accuracy: Accuracy::Standard,
            effort: Effort::Estimate,
            fuse: true,
        }
    }
}

/// A part of a run: a layer, or a convolution with what is computed along with it.
#[derive(Clone, Debug, PartialEq)]
pub struct StepInfo {
    /// The value it makes; [`Graph::name`] and [`Graph::shape`] tell more.
    pub value: Value,
    /// The layer's name, with those computed along with it: `conv1+bn1+relu`.
    pub name: String,
    /// The kind of the first of them.
    pub kind: &'static str,
    /// Multiply-accumulates for the whole batch.
    pub macs: u64,
    /// The convolution kernel that runs, if one does.
    pub kernel: Option<String>,
}

/// Where a step reads from.
#[derive(Clone, Copy, Debug)]
enum Source {
    Input,
    Slot(usize),
}

/// What a step does. All write a buffer of their own, which some find filled with what they change.
#[derive(Debug)]
enum Op {
    Conv {
        plan: Box<dyn Plan>,
        bias: Option<Vec<f32>>,
    },
    Linear {
        weights: Matmul,
        bias: Option<Vec<f32>>,
    },
    Pool(PoolPlan),
    Lrn(Lrn, [usize; 2]),
    /// In place.
    Change(Change),
}

/// What is done to values where they are.
#[derive(Debug)]
enum Change {
    Nothing,
    Activation(Activation),
    Norm { factors: Vec<f32>, summands: Vec<f32>, pixels: usize },
    Softmax(Lines),
    Add(Source, usize),
}

#[derive(Debug)]
struct Step {
    info: StepInfo,
    op: Op,
    /// What it reads; a change in place has it in its buffer already.
    source: Source,
    source_len: usize,
    in_place: bool,
    slot: usize,
    len: usize,
}

/// A network that is ready to run.
///
/// ```
/// use cnn::{Inference, InferenceOptions, Weights, networks};
///
/// let net = networks::lenet5()?;
/// let weights = Weights::random(&net, 1)?;
/// let options = InferenceOptions { batch: 2, ..Default::default() };
/// let mut inference = Inference::new(&net, &weights, &options)?;
/// let logits = inference.run(&[0.5; 2 * 28 * 28])?; // as often as you like: no allocation
/// assert_eq!(logits.len(), 2 * 10);
/// # Ok::<(), cnn::Error>(())
/// ```
pub struct Inference {
    batch: usize,
    input_len: usize,
    steps: Vec<Step>,
    slots: Vec<Vec<f32>>,
    workspace: Workspace<'static>,
    values: usize,
}

impl fmt::Debug for Inference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inference")
            .field("batch", &self.batch)
            .field("steps", &self.steps)
            .finish_non_exhaustive()
    }
}

impl Inference {
    /// Prepares a network: packs weights, chooses kernels, plans memory.
    ///
    /// # Errors
    /// When the network has no layers, the weights are not its own, an option makes no sense, a kernel is unknown
    /// or refuses (the layer is named), or memory cannot be had.
    pub fn new(graph: &Graph, weights: &Weights, options: &InferenceOptions) -> Result<Self, Error> {
        weights.check(graph)?;
        check_extent(graph, options.batch, options.threads)?;
        let (steps, sizes) = compile::compile(graph, weights, options)?;
        let largest = steps.iter().filter_map(|step| match &step.op {
            Op::Conv { plan, .. } => Some(plan),
            _ => None,
        });
        let workspace = largest.max_by_key(|plan| plan.workspace_len()).map(|plan| plan.workspace());
        let batch = options.batch;
        let slots: Vec<Vec<f32>> = sizes.iter().map(|&len| zeros(len)).collect::<Result<_, _>>()?;
        Ok(Inference {
            batch,
            input_len: batch * graph.input_shape().len(),
            steps,
            values: slots.iter().map(Vec::len).sum(),
            slots,
            workspace: workspace.unwrap_or_default(),
        })
    }

    /// Images in each run.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Values of a batch of images.
    pub(crate) fn input_len(&self) -> usize {
        self.input_len
    }

    /// The parts of a run, in order.
    pub fn steps(&self) -> impl Iterator<Item = &StepInfo> {
        self.steps.iter().map(|step| &step.info)
    }

    /// Bytes of all activations together, and of the kernels' scratch memory.
    pub fn memory(&self) -> [usize; 2] {
        [4 * self.values, 4 * self.workspace.len()]
    }

    /// Bytes of packed weights.
    pub fn packed_bytes(&self) -> usize {
        let plans = self.steps.iter().map(|step| match &step.op {
            Op::Conv { plan, .. } => plan.packed_bytes(),
            Op::Linear { weights, .. } => weights.packed_bytes(),
            _ => 0,
        });
        plans.sum()
    }

    /// Runs the network on a batch (images one after the other, each channels, rows, columns) and gives what the
    /// last layer gives, image by image. Allocates nothing.
    ///
    /// # Errors
    /// When the input has the wrong length.
    pub fn run(&mut self, input: &[f32]) -> Result<&[f32], Error> {
        check_len("the input", input.len(), self.input_len)?;
        for i in 0..self.steps.len() {
            self.step(i, input)?;
        }
        Ok(self.output())
    }

    /// [`run`](Self::run) that shows each step, how long it took and what it made.
    ///
    /// ```
    /// use cnn::{Inference, InferenceOptions, Weights, networks};
    ///
    /// let net = networks::lenet5()?;
    /// let options = InferenceOptions { fuse: false, ..Default::default() };
    /// let mut inference = Inference::new(&net, &Weights::random(&net, 1)?, &options)?;
    /// let mut maps = Vec::new();
    /// inference.run_observed(&[0.5; 28 * 28], |step, _time, values| {
    ///     if step.name == "c1" {
    ///         maps = values.to_vec();
    ///     }
    /// })?;
    /// assert_eq!(maps.len(), 6 * 28 * 28);
    /// # Ok::<(), cnn::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_observed(
        &mut self,
        input: &[f32],
        mut observe: impl FnMut(&StepInfo, Duration, &[f32]),
    ) -> Result<&[f32], Error> {
        check_len("the input", input.len(), self.input_len)?;
        for i in 0..self.steps.len() {
            let start = Instant::now();
            self.step(i, input)?;
            let step = &self.steps[i];
            observe(&step.info, start.elapsed(), &self.slots[step.slot][..step.len]);
        }
        Ok(self.output())
    }

    fn step(&mut self, i: usize, input: &[f32]) -> Result<(), Error> {
        let step = &self.steps[i];
        // The buffer leaves its place, so that the others can be read beside it.
        let mut buffer = mem::take(&mut self.slots[step.slot]);
        let result = step.run(input, &self.slots, &mut buffer[..step.len], &mut self.workspace);
        self.slots[step.slot] = buffer;
        result.map_err(|error| Error::Conv { layer: step.info.name.clone(), error })
    }

    fn output(&self) -> &[f32] {
        self.steps.last().map_or(&[], |step| &self.slots[step.slot][..step.len])
    }
}

/// Fails for a network without layers, a batch whose activations do not fit, and no threads.
pub(crate) fn check_extent(graph: &Graph, batch: usize, threads: usize) -> Result<(), Error> {
    if graph.nodes().is_empty() {
        return Err(Error::Option {
            option: "the number of layers",
            value: "0".to_owned(),
            expected: "at least 1",
        });
    }
    if threads == 0 {
        return Err(Error::Option { option: "threads", value: "0".to_owned(), expected: "at least 1" });
    }
    let largest = (0..=graph.nodes().len()).map(|i| graph.shape(Value(i)).len()).max().unwrap_or(0);
    match largest.checked_mul(batch) {
        Some(1..=0x1fff_ffff_ffff) => Ok(()),
        _ => Err(Error::Option {
            option: "the batch",
            value: batch.to_string(),
            expected: "at least 1 and no more than memory holds",
        }),
    }
}

impl Step {
    fn run(
        &self,
        input: &[f32],
        slots: &[Vec<f32>],
        output: &mut [f32],
        workspace: &mut Workspace<'_>,
    ) -> Result<(), ConvError> {
        let read = |source: Source, len: usize| match source {
            Source::Input => &input[..len],
            Source::Slot(slot) => &slots[slot][..len],
        };
        match &self.op {
            Op::Conv { plan, bias } => {
                plan.run(read(self.source, self.source_len), bias.as_deref(), output, workspace)?;
            }
            Op::Linear { weights, bias } => {
                weights.run(read(self.source, self.source_len), bias.as_deref(), output)?;
            }
            Op::Pool(plan) => plan.run(read(self.source, self.source_len), output)?,
            Op::Lrn(layer, extents) => {
                lrn::forward(layer, read(self.source, self.source_len), output, *extents);
            }
            Op::Change(change) => {
                if !self.in_place {
                    output.copy_from_slice(read(self.source, self.source_len));
                }
                match change {
                    Change::Nothing => (),
                    Change::Activation(activation) => {
                        output.iter_mut().for_each(|x| *x = activation.apply(*x));
                    }
                    Change::Norm { factors, summands, pixels } => {
                        norm::apply(factors, summands, output, *pixels);
                    }
                    Change::Softmax(lines) => softmax(output, *lines),
                    Change::Add(other, len) => {
                        let other = read(*other, *len);
                        output.iter_mut().zip(other).for_each(|(x, y)| *x += y);
                    }
                }
            }
        }
        Ok(())
    }
}

/// The kernel that computes a layer: its own, or `default` if that covers it, or `auto`.
pub(crate) fn kernel_of(
    conv: &Conv,
    default: &str,
    spec: &ConvSpec,
) -> Result<&'static dyn kernels::Kernel, ConvError> {
    if let Some(own) = &conv.algorithm {
        return kernels::kernel(own);
    }
    let kernel = kernels::kernel(default)?;
    if kernel.supports(spec).is_ok() { Ok(kernel) } else { kernels::kernel("auto") }
}
