//! [`Training`]: forward, loss, backward, step.

mod passes;

use std::fmt;
use std::mem;

use kernels::backward::WeightsPlan;
use kernels::pool::PoolPlan;
use kernels::{PlanOptions, Workspace};

use crate::error::{check_len, zeros};
use crate::graph::{Graph, Node, Value};
use crate::inference::check_extent;
use crate::layer::Layer;
use crate::ops::norm::Statistics;
use crate::ops::pool;
use crate::ops::softmax::cross_entropy;
use crate::optimizer::{Optimizer, State};
use crate::slots::{Access, Slots};
use crate::{Error, Shape, Weights};

/// How to train. Write `TrainingOptions { batch: 32, ..Default::default() }`.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingOptions {
    /// Images in each step.
    pub batch: usize,
    /// Threads that a step may use, in the rayon pool that it is called in. Results do not depend on it.
    pub threads: usize,
    /// How weights are changed.
    pub optimizer: Optimizer,
    /// Decides what dropout leaves out.
    pub seed: u64,
    /// The id of the kernel that computes convolutions on the way forward, for those that it covers and that name
    /// none of their own; `auto` computes the rest, and the way back.
    pub kernel: String,
}

impl Default for TrainingOptions {
    fn default() -> Self {
        TrainingOptions {
            batch: 1,
            threads: 1,
            optimizer: Optimizer::sgd(0.01),
            seed: 0,
            kernel: "auto".to_owned(),
        }
    }
}

/// What a layer keeps from the way forward for the way back, beside its input and output.
#[derive(Debug)]
enum Kept {
    Nothing,
    Conv(WeightsPlan),
    Pool(PoolPlan),
    Norm(Statistics),
    /// 0 where dropped, else 1/(1 − p).
    Dropout(Vec<f32>),
}

/// The way back through a layer: where its output's gradient is, and where each input's goes.
#[derive(Debug)]
struct Back {
    node: usize,
    slot: usize,
    /// Buffer, and whether another reader's gradient is there already. `None`: nobody learns from it.
    targets: Vec<Option<(usize, bool)>>,
}

/// A network in training: the loss is the cross entropy of softmax over what the last layer gives (a last
/// [`Layer::SOFTMAX`] over features is that of the loss).
///
/// ```
/// use cnn::{Optimizer, Training, TrainingOptions, Weights, networks};
///
/// let net = networks::lenet5()?;
/// let options = TrainingOptions { batch: 2, optimizer: Optimizer::adam(1e-3), ..Default::default() };
/// let mut training = Training::new(&net, Weights::random(&net, 1)?, &options)?;
/// let images: Vec<f32> = (0..2 * 28 * 28).map(|i| (i % 7) as f32 / 7.0).collect();
/// let first = training.step(&images, &[3, 8])?;
/// let later = (0..20).try_fold(0.0, |_, _| training.step(&images, &[3, 8]))?;
/// assert!(later < first);
/// # Ok::<(), cnn::Error>(())
/// ```
pub struct Training {
    graph: Graph,
    weights: Weights,
    options: TrainingOptions,
    /// The value of which the loss is made.
    logits: Value,
    /// By value; that of the input is empty.
    values: Vec<Vec<f32>>,
    kept: Vec<Kept>,
    back: Vec<Back>,
    slots: Vec<Vec<f32>>,
    scratch: Vec<f32>,
    gradients: Vec<Vec<f32>>,
    state: State,
    workspace: Workspace<'static>,
    step: u64,
}

impl fmt::Debug for Training {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Training")
            .field("options", &self.options)
            .field("step", &self.step)
            .finish_non_exhaustive()
    }
}

impl Training {
    /// Prepares training from the given weights: all activations of a batch, which the way back needs, and
    /// gradients, which share memory.
    ///
    /// # Errors
    /// When the network has no layers or does not end in features, the weights are not its own, an option makes
    /// no sense, or memory cannot be had.
    pub fn new(graph: &Graph, weights: Weights, options: &TrainingOptions) -> Result<Self, Error> {
        weights.check(graph)?;
        check_extent(graph, options.batch, options.threads)?;
        options.optimizer.check()?;
        let logits = match graph.node(graph.last()) {
            Some(node)
                if matches!((node.layer(), node.shape()), (Layer::Softmax { .. }, Shape::Features(_))) =>
            {
                node.inputs()[0]
            }
            _ => graph.last(),
        };
        if !(1..=256).contains(&graph.shape(logits).len()) {
            return Err(Error::Layer {
                layer: graph.name(logits).to_owned(),
                what: format!("gives {}, but labels need 1 to 256 classes", graph.shape(logits)),
            });
        }
        let batch = options.batch;
        let (back, sizes) = plan_back(graph, logits, batch);
        let len = |i: usize| batch * graph.shape(Value(i)).len();
        let largest = (1..=graph.nodes().len()).map(len).max().unwrap_or(0);
        let empty_or = |i: usize| if i == 0 { 0 } else { len(i) };
        let learned = |p: &crate::Parameter| if p.role.is_learned() { p.len() } else { 0 };
        Ok(Training {
            logits,
            values: (0..=logits.0).map(|i| zeros(empty_or(i))).collect::<Result<_, _>>()?,
            kept: graph.nodes().iter().map(|node| keep(graph, node, options)).collect::<Result<_, _>>()?,
            back,
            slots: sizes.into_iter().map(zeros).collect::<Result<_, _>>()?,
            scratch: zeros(largest)?,
            gradients: graph.parameters().iter().map(|p| zeros(learned(p))).collect::<Result<_, _>>()?,
            state: State::new(options.optimizer, graph.parameters())?,
            workspace: Workspace::default(),
            step: 0,
            graph: graph.clone(),
            options: options.clone(),
            weights,
        })
    }

    /// The weights as they are now.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// Sets the learning rate of the steps to come.
    ///
    /// # Errors
    /// When it is not more than 0.
    pub fn set_rate(&mut self, rate: f32) -> Result<(), Error> {
        let optimizer = self.options.optimizer.with_rate(rate);
        optimizer.check()?;
        self.options.optimizer = optimizer;
        Ok(())
    }

    /// The loss of a batch, and a step down its gradient. Allocates the packed weights of this step's
    /// convolutions, and nothing else after the first step.
    ///
    /// # Errors
    /// As [`differentiate`](Self::differentiate); the weights are then as they were.
    pub fn step(&mut self, images: &[f32], labels: &[u8]) -> Result<f32, Error> {
        let loss = self.differentiate(images, labels)?;
        self.observe();
        self.state.step(self.options.optimizer, self.weights.all_mut(), &self.gradients);
        self.step += 1;
        Ok(loss)
    }

    /// The loss of a batch and, in [`gradient`](Self::gradient), its gradient by every learned parameter. No
    /// weights change, running statistics neither.
    ///
    /// # Errors
    /// When images or labels are not those of a batch, a label is no class, or the loss is not finite
    /// ([`Error::Diverged`] names the step and the layer).
    pub fn differentiate(&mut self, images: &[f32], labels: &[u8]) -> Result<f32, Error> {
        let classes = self.graph.shape(self.logits).len();
        check_len("the batch of images", images.len(), self.options.batch * self.graph.input_shape().len())?;
        check_len("the batch of labels", labels.len(), self.options.batch)?;
        if let Some(label) = labels.iter().find(|&&label| usize::from(label) >= classes) {
            return Err(Error::Option {
                option: "a label",
                value: label.to_string(),
                expected: "below the number of classes",
            });
        }
        for i in 0..self.logits.0 {
            self.forward(i, images)?;
        }
        let mut gradient = mem::take(&mut self.scratch);
        let logits = if self.logits == Graph::INPUT { images } else { &self.values[self.logits.0] };
        let loss = cross_entropy(logits, labels, &mut gradient[..logits.len()], classes);
        if loss.is_finite()
            && let Some(last) = self.back.first()
        {
            self.slots[last.slot][..logits.len()].copy_from_slice(&gradient[..logits.len()]);
        }
        self.scratch = gradient;
        if !loss.is_finite() {
            return Err(self.diverged(images));
        }
        for i in 0..self.back.len() {
            self.backward(i, images)?;
        }
        Ok(loss)
    }

    /// The gradient by the parameter at this place in [`Graph::parameters`], of the last batch; empty for one
    /// that is not learned.
    pub fn gradient(&self, index: usize) -> Option<&[f32]> {
        self.gradients.get(index).map(Vec::as_slice)
    }

    /// Gives the running statistics their share of the batch's.
    fn observe(&mut self) {
        // What comes behind the logits did not see the batch.
        let nodes = self.graph.nodes().iter().zip(&self.kept).take(self.logits.0);
        for (node, kept) in nodes {
            if let (Layer::BatchNorm(layer), Kept::Norm(statistics)) = (node.layer(), kept)
                && let [_, _, mean, variance] = &mut self.weights.all_mut()[node.parameters()]
            {
                statistics.observe(layer, [mean, variance]);
            }
        }
    }

    fn diverged(&self, images: &[f32]) -> Error {
        let broken = |values: &[f32]| values.iter().any(|x| !x.is_finite());
        let layer = if broken(images) {
            "input"
        } else {
            let first = self.values.iter().position(|values| broken(values));
            first.map_or("loss", |i| self.graph.name(Value(i)))
        };
        Error::Diverged { step: self.step, layer: layer.to_owned() }
    }
}

fn plan_options(options: &TrainingOptions) -> PlanOptions {
    PlanOptions { threads: options.threads, ..Default::default() }
}

fn keep(graph: &Graph, node: &Node, options: &TrainingOptions) -> Result<Kept, Error> {
    let given = graph.shape(node.inputs()[0]);
    let (batch, threads) = (options.batch, options.threads);
    let named = |error| Error::Conv { layer: node.name().to_owned(), error };
    let plan = match node.layer() {
        Layer::Conv(conv) => {
            let spec = conv.spec(given, batch).map_err(|error| named(error.into()))?;
            let plan = WeightsPlan::new("auto", &spec, &plan_options(options));
            return plan.map(Kept::Conv).map_err(named);
        }
        Layer::MaxPool(layer) => pool::max(layer, given, batch, threads),
        Layer::AvgPool(layer) => pool::average(layer, given, batch, threads),
        Layer::GlobalAvgPool => pool::global(given, batch, threads),
        Layer::BatchNorm(layer) => {
            let [mean, inverse, variance] = [0; 3].map(|_| zeros(layer.channels));
            return Ok(Kept::Norm(Statistics { mean: mean?, inverse: inverse?, variance: variance? }));
        }
        Layer::Dropout(_) => return Ok(Kept::Dropout(zeros(batch * given.len())?)),
        _ => return Ok(Kept::Nothing),
    };
    plan.map(Kept::Pool).map_err(named)
}

/// The way back from the logits, last layer first, and the sizes of the buffers that gradients share.
fn plan_back(graph: &Graph, logits: Value, batch: usize) -> (Vec<Back>, Vec<usize>) {
    // A gradient is wanted where something before it learns.
    let mut wanted = vec![false; graph.nodes().len() + 1];
    for (i, node) in graph.nodes().iter().enumerate() {
        let learns = !node.parameters().is_empty();
        wanted[i + 1] = learns || node.inputs().iter().any(|input| wanted[input.0]);
    }
    let mut slots = Slots::default();
    let mut places: Vec<Option<usize>> = vec![None; graph.nodes().len() + 1];
    let mut back = Vec::new();
    let len = |value: Value| batch * graph.shape(value).len();
    if logits != Graph::INPUT {
        places[logits.0] = Some(slots.take(len(logits), Access::Apart));
    }
    for (i, node) in graph.nodes().iter().enumerate().take(logits.0).rev() {
        // A layer that nobody reads has no gradient.
        let Some(slot) = places[i + 1] else { continue };
        let targets = node.inputs().iter().map(|&input| {
            let known = places[input.0];
            let place =
                wanted[input.0].then(|| known.unwrap_or_else(|| slots.take(len(input), Access::Apart)));
            places[input.0] = known.or(place);
            place.map(|place| (place, known.is_some()))
        });
        let targets = targets.collect();
        back.push(Back { node: i, slot, targets });
        slots.give(slot);
    }
    (back, slots.sizes())
}
