//! From a graph to steps: what is computed together, and in which buffer.

use std::borrow::Cow;

use kernels::matmul::Matmul;
use kernels::{ConvError, PlanOptions};

use super::by_image::{Group, by_image, groups, workers};
use super::{Change, InferenceOptions, Op, Source, Step, StepInfo, kernel_of};
use crate::fusion::{Fused, Readers};
use crate::graph::{Graph, Node, Value};
use crate::layer::{Conv, Layer, Linear};
use crate::ops::softmax::Lines;
use crate::ops::{norm, pool};
use crate::slots::{Access, Slots};
use crate::{Error, Weights};

/// A step whose buffers are not known yet.
struct Draft {
    info: StepInfo,
    op: Op,
    /// What it reads, first what it may change in place.
    inputs: Vec<Value>,
    /// Whether the first input's memory becomes the output's: it must (`Some(true)`), or may if it is read no
    /// more (`Some(false)`).
    changes: Option<bool>,
}

/// f32s that are made before a core's caches have lost what was there: as many as a level-2 cache of 1 MiB holds.
const REST: usize = 1 << 18;

/// Steps that run on so many images at a time, and the sizes of their buffers.
pub(super) struct Compiled {
    pub(super) steps: Vec<Step>,
    pub(super) sizes: Vec<usize>,
    /// Images of a pass through the steps: the whole batch, or one.
    pub(super) images: usize,
    /// Passes that run at a time, each on a thread of its own.
    pub(super) workers: usize,
    /// Values of an image that the first step reads, and that the last makes.
    pub(super) lens: [usize; 2],
}

/// The steps of a network: all for the whole batch, or first some that take image after image.
pub(super) fn compile(
    graph: &Graph,
    weights: &Weights,
    options: &InferenceOptions,
) -> Result<Vec<Compiled>, Error> {
    let InferenceOptions { batch, threads, fuse, .. } = *options;
    let readers = Readers::new(graph);
    let groups = groups(graph, &readers, fuse);
    let last = readers.root(graph.last());
    let split = if batch > 1 && fuse { by_image(graph, &readers, &groups) } else { None };
    let compile = |groups: &[Group], [from, to]: [Value; 2], images: usize, workers: usize| {
        let threads = if workers > 1 { 1 } else { threads };
        let compiler = Compiler { graph, weights, options, readers: &readers, images, threads };
        let drafts = groups.iter().map(|group| compiler.draft(group)).collect::<Result<_, _>>()?;
        let (steps, sizes) = compiler.place(drafts, to);
        let lens = [from, to].map(|value| graph.shape(value).len());
        Ok(Compiled { steps, sizes, images, workers, lens })
    };
    let Some((count, value)) = split else {
        return Ok(vec![compile(&groups, [Graph::INPUT, last], batch, 1)?]);
    };
    let (first, rest) = groups.split_at(count);
    let mut all = vec![compile(first, [Graph::INPUT, value], 1, workers(batch, threads))?];
    if !rest.is_empty() {
        all.push(compile(rest, [value, last], batch, 1)?);
    }
    Ok(all)
}

struct Compiler<'a> {
    graph: &'a Graph,
    weights: &'a Weights,
    options: &'a InferenceOptions,
    readers: &'a Readers,
    images: usize,
    threads: usize,
}

impl Compiler<'_> {
    fn values(&self, index: usize) -> &[f32] {
        &self.weights.all()[index]
    }

    fn draft(&self, Group { first, fused }: &Group) -> Result<Draft, Error> {
        let (i, node) = (*first, &self.graph.nodes()[*first]);
        let batch = self.images;
        let mut inputs: Vec<Value> = node.inputs().iter().map(|input| self.readers.root(*input)).collect();
        let given = self.graph.shape(node.inputs()[0]);
        let [channels, height, width] = given.volume();
        let conv_error = |error| Error::Conv { layer: node.name().to_owned(), error };
        let threads = self.threads;
        let (op, changes) = match node.layer() {
            Layer::Conv(conv) => {
                inputs.splice(0..0, fused.sum);
                (self.conv(node, conv, fused).map_err(conv_error)?, fused.sum.map(|_| true))
            }
            Layer::Linear(linear) => {
                inputs.splice(0..0, fused.sum);
                (self.linear(node, linear, fused).map_err(conv_error)?, fused.sum.map(|_| true))
            }
            Layer::MaxPool(layer) => {
                (Op::Pool(pool::max(layer, given, batch, threads).map_err(conv_error)?), None)
            }
            Layer::AvgPool(layer) => {
                (Op::Pool(pool::average(layer, given, batch, threads).map_err(conv_error)?), None)
            }
            Layer::GlobalAvgPool => {
                (Op::Pool(pool::global(given, batch, threads).map_err(conv_error)?), None)
            }
            Layer::Lrn(lrn) => (Op::Lrn(lrn.clone(), [channels, height * width]), None),
            Layer::Activation(activation) => (Op::Change(Change::Activation(*activation)), Some(false)),
            Layer::BatchNorm(layer) => {
                let (factors, summands) = norm::affine(layer, self.norm_values(node));
                (Op::Change(Change::Norm { factors, summands, pixels: height * width }), Some(false))
            }
            &Layer::Softmax { axis } => (Op::Change(Change::Softmax(Lines::along(given, axis))), Some(false)),
            // The second operand's place is known when its buffer is.
            Layer::Add => (Op::Change(Change::Add(Source::Input, 0)), Some(false)),
            Layer::Flatten | Layer::Dropout(_) => (Op::Change(Change::Nothing), Some(false)),
        };
        let nodes = fused.nodes.iter().map(|&i| &self.graph.nodes()[i]);
        let name = nodes.fold(node.name().to_owned(), |name, node| format!("{name}+{}", node.name()));
        let info = StepInfo {
            value: Value(fused.nodes.last().map_or(i, |&last| last) + 1),
            name,
            kind: node.layer().kind(),
            macs: self.graph.macs_of(node).saturating_mul(self.options.batch as u64),
            kernel: match &op {
                Op::Conv { plan, .. } => Some(plan.kernel_id().to_owned()),
                _ => None,
            },
        };
        Ok(Draft { info, op, inputs, changes })
    }

    fn norm_values(&self, node: &Node) -> [&[f32]; 4] {
        let first = node.parameters().start;
        [0, 1, 2, 3].map(|i| self.values(first + i))
    }

    fn plan_options(&self, fused: &Fused) -> PlanOptions {
        PlanOptions {
            threads: self.threads,
            activation: fused.activation,
            accumulate: fused.sum.is_some(),
            accuracy: self.options.accuracy,
            effort: self.options.effort,
            ..Default::default()
        }
    }

    fn conv(&self, node: &Node, conv: &Conv, fused: &Fused) -> Result<Op, ConvError> {
        let spec = conv.spec(self.graph.shape(node.inputs()[0]), self.images)?;
        let kernel = kernel_of(conv, &self.options.kernel, &spec)?;
        let first = node.parameters().start;
        let bias = conv.bias.then(|| self.values(first + 1));
        let (weights, bias) = self.folded(self.values(first), bias, fused);
        Ok(Op::Conv { plan: kernel.plan(&spec, &weights, &self.plan_options(fused))?, bias })
    }

    fn linear(&self, node: &Node, linear: &Linear, fused: &Fused) -> Result<Op, ConvError> {
        let first = node.parameters().start;
        let (weights, bias) = self.folded(self.values(first), Some(self.values(first + 1)), fused);
        let (inputs, outputs) = (linear.in_features, linear.out_features);
        let weights = Matmul::new(inputs, outputs, &weights, true, &self.plan_options(fused))?;
        Ok(Op::Linear { weights, bias })
    }

    /// Weights and bias with the factors and summands of a batch normalisation in them.
    fn folded<'a>(
        &self,
        weights: &'a [f32],
        bias: Option<&[f32]>,
        fused: &Fused,
    ) -> (Cow<'a, [f32]>, Option<Vec<f32>>) {
        let node = fused.norm.map(|i| &self.graph.nodes()[i]);
        let Some((node, Layer::BatchNorm(layer))) = node.map(|node| (node, node.layer())) else {
            return (Cow::Borrowed(weights), bias.map(<[f32]>::to_vec));
        };
        let (factors, mut summands) = norm::affine(layer, self.norm_values(node));
        let mut folded = weights.to_vec();
        for (filter, factor) in folded.chunks_exact_mut(weights.len() / factors.len()).zip(&factors) {
            filter.iter_mut().for_each(|w| *w *= factor);
        }
        for ((summand, factor), bias) in summands.iter_mut().zip(&factors).zip(bias.into_iter().flatten()) {
            *summand += factor * bias;
        }
        (Cow::Owned(folded), Some(summands))
    }

    /// Gives each step its buffer; returns the sizes of these as well. What is made elsewhere is the steps' input.
    fn place(&self, drafts: Vec<Draft>, output: Value) -> (Vec<Step>, Vec<usize>) {
        let mut steps = Vec::new();
        let count = self.graph.nodes().len() + 1;
        let mut last_use = vec![0; count];
        let mut access = vec![Access::Apart; count];
        for (i, draft) in drafts.iter().enumerate() {
            draft.inputs.iter().for_each(|input| last_use[input.0] = i);
            if self.threads > 1 && draft.op.mixes_channels() {
                draft.inputs.iter().for_each(|input| access[input.0] = Access::Across);
            }
        }
        last_use[output.0] = usize::MAX;
        let mut slots = Slots::resting(REST);
        let mut places: Vec<Option<usize>> = vec![None; count];
        for (i, Draft { info, mut op, mut inputs, changes }) in drafts.into_iter().enumerate() {
            let len = self.images * self.graph.shape(info.value).len();
            let may = |value: &Value| places[value.0].is_some() && last_use[value.0] == i;
            // A sum may be made in the memory of either.
            if inputs.len() == 2 && changes == Some(false) && !may(&inputs[0]) {
                inputs.swap(0, 1);
            }
            let twice = inputs.len() == 2 && inputs[0] == inputs[1];
            let in_place = changes == Some(true) || (changes == Some(false) && may(&inputs[0]) && !twice);
            let slot = match places[inputs[0].0] {
                Some(slot) if in_place => slot,
                _ => slots.take(len, access[info.value.0]),
            };
            let source = |value: Value| places[value.0].map_or(Source::Input, Source::Slot);
            let source_len = |value: Value| self.images * self.graph.shape(value).len();
            let operand = inputs.last().copied().unwrap_or(Graph::INPUT);
            let read = if changes == Some(true) { operand } else { inputs[0] };
            if let Op::Change(Change::Add(other, len)) = &mut op {
                (*other, *len) = (source(operand), source_len(operand));
            }
            let step =
                Step { source: source(read), source_len: source_len(read), info, op, in_place, slot, len };
            for (j, input) in inputs.iter().enumerate() {
                if let Some(place) = places[input.0]
                    && last_use[input.0] == i
                    && place != slot
                    && !inputs[..j].contains(input)
                {
                    slots.give(place);
                }
            }
            let value = step.info.value.0;
            places[value] = Some(slot);
            // What nobody reads leaves at once.
            if last_use[value] == 0 {
                slots.give(slot);
            }
            steps.push(step);
        }
        (steps, slots.sizes())
    }
}
