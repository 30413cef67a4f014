//! [`Inference`]: a network prepared once and run any number of times, in memory planned once.

mod by_image;
mod compile;

use std::fmt;
use std::mem;
use std::time::{Duration, Instant};

use kernels::matmul::Matmul;
use kernels::pool::PoolPlan;
use kernels::{Accuracy, Activation, ConvError, ConvSpec, Effort, Plan, Workspace};

use rayon::prelude::*;

use crate::buffer::Buffer;
use crate::error::check_len;
use crate::graph::{Graph, Value};
use crate::layer::{Conv, Lrn};
use crate::ops::softmax::{Lines, softmax};
use crate::ops::{lrn, norm};
use crate::{Error, Weights};
use compile::Compiled;

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

impl Op {
    /// Whether outputs are made of many channels, so that a thread reads what others have made.
    fn mixes_channels(&self) -> bool {
        match self {
            Op::Conv { plan, .. } => plan.spec().group_in_channels() > 1,
            Op::Linear { .. } => true,
            Op::Pool(_) | Op::Lrn(..) | Op::Change(_) => false,
        }
    }
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
    /// One, or two: the first takes image after image, the second what it made of all.
    stages: Vec<Stage>,
}

/// Steps that run on so many images at a time.
#[derive(Debug)]
struct Stage {
    steps: Vec<Step>,
    images: usize,
    /// Values of an image that the first step reads, and that the last makes.
    lens: [usize; 2],
    /// Passes that run at a time, each on a thread of its own.
    workers: Vec<Worker>,
    /// What the passes of a batch have made, where there is more than one.
    output: Buffer,
}

/// The memory of a pass.
#[derive(Debug)]
struct Worker {
    slots: Vec<Buffer>,
    workspace: Workspace<'static>,
    /// How long each step took, all its passes together.
    times: Vec<Duration>,
}

impl fmt::Debug for Inference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inference")
            .field("batch", &self.batch)
            .field("stages", &self.stages)
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
        let batch = options.batch;
        let stages = compile::compile(graph, weights, options)?;
        let stages = stages.into_iter().map(|stage| Stage::new(stage, batch)).collect::<Result<_, _>>()?;
        Ok(Inference { batch, input_len: batch * graph.input_shape().len(), stages })
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
        self.all_steps().map(|step| &step.info)
    }

    fn all_steps(&self) -> impl Iterator<Item = &Step> {
        self.stages.iter().flat_map(|stage| &stage.steps)
    }

    /// Bytes of all activations together, and of the kernels' scratch memory.
    pub fn memory(&self) -> [usize; 2] {
        let outputs: usize = self.stages.iter().map(|stage| stage.output.len()).sum();
        let workers = || self.stages.iter().flat_map(|stage| &stage.workers);
        let slots: usize = workers().flat_map(|worker| &worker.slots).map(|slot| slot.len()).sum();
        [4 * (outputs + slots), 4 * workers().map(|worker| worker.workspace.len()).sum::<usize>()]
    }

    /// Bytes of packed weights.
    pub fn packed_bytes(&self) -> usize {
        let plans = self.all_steps().map(|step| match &step.op {
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
        self.stages(input, None)
    }

    /// [`run`](Self::run) that shows each step, how long it took and what it made. Of a batch, with `fuse`, the first
    /// steps may be computed image by image, on several threads at a time: of these nothing is shown of what they
    /// made, and the time is that of all images, on as many threads as took part.
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
        self.stages(input, Some(&mut observe))
    }

    fn stages(&mut self, input: &[f32], mut observe: Option<&mut Observe<'_>>) -> Result<&[f32], Error> {
        // Every network has a stage.
        let [first, rest @ ..] = &mut self.stages[..] else { return Ok(&[]) };
        let made = first.run(input, observe.as_deref_mut())?;
        rest.iter_mut().try_fold(made, |made, stage| stage.run(made, observe.as_deref_mut()))
    }
}

/// Is shown each step.
type Observe<'a> = dyn FnMut(&StepInfo, Duration, &[f32]) + 'a;

impl Stage {
    fn new(compiled: Compiled, batch: usize) -> Result<Self, Error> {
        let Compiled { steps, sizes, images, workers, lens } = compiled;
        let largest = steps.iter().filter_map(|step| match &step.op {
            Op::Conv { plan, .. } => Some(plan),
            _ => None,
        });
        let largest = largest.max_by_key(|plan| plan.workspace_len());
        let worker = || {
            Ok(Worker {
                slots: sizes.iter().map(|&len| Buffer::zeros(len)).collect::<Result<_, _>>()?,
                workspace: largest.map(|plan| plan.workspace()).unwrap_or_default(),
                times: vec![Duration::ZERO; steps.len()],
            })
        };
        let workers = (0..workers).map(|_| worker()).collect::<Result<_, Error>>()?;
        let output = if images < batch { Buffer::zeros(batch * lens[1])? } else { Buffer::default() };
        Ok(Stage { steps, images, lens, workers, output })
    }

    /// The whole batch, in one pass or image by image.
    fn run(&mut self, input: &[f32], observe: Option<&mut Observe<'_>>) -> Result<&[f32], Error> {
        if self.output.is_empty() {
            return self.run_whole(input, observe);
        }
        self.run_by_image(input, observe.is_some())?;
        if let Some(observe) = observe {
            self.show(observe);
        }
        Ok(&self.output)
    }

    fn run_whole(&mut self, input: &[f32], mut observe: Option<&mut Observe<'_>>) -> Result<&[f32], Error> {
        // Every stage has a worker, and every network a step.
        let Some(worker) = self.workers.first_mut() else { return Ok(&[]) };
        for step in &self.steps {
            let start = Instant::now();
            worker.step(step, input)?;
            if let Some(observe) = &mut observe {
                observe(&step.info, start.elapsed(), &worker.slots[step.slot][..step.len]);
            }
        }
        Ok(self.steps.last().map_or(&[], |step| &worker.slots[step.slot][..step.len]))
    }

    /// A pass for each image, the images shared out among the workers; with the times of the steps, if wanted.
    fn run_by_image(&mut self, input: &[f32], timed: bool) -> Result<(), Error> {
        let Stage { steps, images, lens, workers, output } = self;
        let passes = output.len() / (*images * lens[1]);
        let share = passes.div_ceil(workers.len());
        let [read, made] = lens.map(|len| len * *images);
        let passes = |worker: &mut Worker, input: &[f32], output: &mut [f32]| {
            worker.times.fill(Duration::ZERO);
            let mut passes = output.chunks_exact_mut(made).zip(input.chunks_exact(read));
            passes.try_for_each(|(output, input)| worker.pass(steps, input, output, timed))
        };
        match &mut workers[..] {
            // On the calling thread, in no pool.
            [worker] => passes(worker, input, output),
            workers => {
                let shares = output.par_chunks_mut(share * made).zip(input.par_chunks(share * read));
                let shares = shares.zip(workers).with_max_len(1);
                shares.try_for_each(|((output, input), worker)| passes(worker, input, output))
            }
        }
    }

    /// Shows the times of passes: threads that worked at a time count as one.
    fn show(&self, observe: &mut Observe<'_>) {
        for (i, step) in self.steps.iter().enumerate() {
            let time: Duration = self.workers.iter().map(|worker| worker.times[i]).sum();
            observe(&step.info, time / self.workers.len() as u32, &[]);
        }
    }
}

impl Worker {
    /// All steps, from an image to what the last makes of it.
    fn pass(&mut self, steps: &[Step], input: &[f32], output: &mut [f32], timed: bool) -> Result<(), Error> {
        for (i, step) in steps.iter().enumerate() {
            let start = timed.then(Instant::now);
            self.step(step, input)?;
            self.times[i] += start.map_or(Duration::ZERO, |start| start.elapsed());
        }
        if let Some(last) = steps.last() {
            output.copy_from_slice(&self.slots[last.slot][..last.len]);
        }
        Ok(())
    }

    fn step(&mut self, step: &Step, input: &[f32]) -> Result<(), Error> {
        // The buffer leaves its place, so that the others can be read beside it.
        let mut buffer = mem::take(&mut self.slots[step.slot]);
        let result = step.run(input, &self.slots, &mut buffer[..step.len], &mut self.workspace);
        self.slots[step.slot] = buffer;
        result.map_err(|error| Error::Conv { layer: step.info.name.clone(), error })
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
        slots: &[Buffer],
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
