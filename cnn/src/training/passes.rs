//! One layer forward, and back.

use std::mem;

use kernels::backward::DataPlan;
use kernels::matmul::{Product, multiply};
use kernels::{ConvError, PlanOptions};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Back, Kept, Training, plan_options};
use crate::Error;
use crate::graph::{Graph, Value};
use crate::inference::kernel_of;
use crate::layer::Layer;
use crate::ops::softmax::{Lines, softmax, softmax_backward};
use crate::ops::{activation_backward, lrn, norm};

impl Training {
    /// Computes the value of node `i`.
    pub(super) fn forward(&mut self, i: usize, images: &[f32]) -> Result<(), Error> {
        let mut output = mem::take(&mut self.values[i + 1]);
        let mut kept = mem::replace(&mut self.kept[i], Kept::Nothing);
        let result = self.forward_into(i, images, &mut output, &mut kept);
        self.values[i + 1] = output;
        self.kept[i] = kept;
        result.map_err(|error| Error::Conv { layer: self.graph.nodes()[i].name().to_owned(), error })
    }

    fn forward_into(
        &mut self,
        i: usize,
        images: &[f32],
        output: &mut [f32],
        kept: &mut Kept,
    ) -> Result<(), ConvError> {
        let Training { graph, weights, options, values, workspace, step, .. } = self;
        let node = &graph.nodes()[i];
        let read = |value: Value| if value == Graph::INPUT { images } else { &values[value.0] };
        let input = read(node.inputs()[0]);
        let [channels, height, width] = graph.shape(node.inputs()[0]).volume();
        let first = node.parameters().start;
        let plan_options = plan_options(options);
        match node.layer() {
            Layer::Conv(conv) => {
                let spec = conv.spec(graph.shape(node.inputs()[0]), options.batch)?;
                let kernel = kernel_of(conv, &options.kernel, &spec)?;
                let plan = kernel.plan(&spec, &weights.all()[first], &plan_options)?;
                let bias = conv.bias.then(|| weights.all()[first + 1].as_slice());
                plan.run(input, bias, output, workspace)?;
            }
            Layer::Linear(linear) => {
                // y = b + x·Wᵀ.
                let bias = &weights.all()[first + 1];
                output.chunks_exact_mut(linear.out_features).for_each(|row| row.copy_from_slice(bias));
                let product = Product::new(options.batch, linear.out_features, linear.in_features);
                let sum = PlanOptions { accumulate: true, ..plan_options };
                multiply(&product.transpose_b(), input, &weights.all()[first], output, &sum)?;
            }
            Layer::MaxPool(_) | Layer::AvgPool(_) | Layer::GlobalAvgPool => {
                if let Kept::Pool(plan) = kept {
                    plan.run(input, output)?;
                }
            }
            Layer::Activation(activation) => {
                output.iter_mut().zip(input).for_each(|(y, &x)| *y = activation.apply(x));
            }
            Layer::Lrn(layer) => lrn::forward(layer, input, output, [channels, height * width]),
            Layer::BatchNorm(layer) => {
                if let Kept::Norm(statistics) = kept {
                    let [scale, bias] = [0, 1].map(|j| weights.all()[first + j].as_slice());
                    norm::forward(layer, scale, bias, input, output, height * width, statistics);
                }
            }
            Layer::Add => {
                let other = read(node.inputs()[1]);
                output.iter_mut().zip(input.iter().zip(other)).for_each(|(y, (a, b))| *y = a + b);
            }
            Layer::Flatten => output.copy_from_slice(input),
            Layer::Dropout(p) => {
                if let Kept::Dropout(factors) = kept {
                    // Its own stream for each layer, and a place in it for each step.
                    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
                    rng.set_stream(i as u64);
                    rng.set_word_pos(u128::from(*step) << 40);
                    for ((y, x), factor) in output.iter_mut().zip(input).zip(factors) {
                        *factor = if rng.random::<f32>() < *p { 0.0 } else { 1.0 / (1.0 - p) };
                        *y = x * *factor;
                    }
                }
            }
            &Layer::Softmax { axis } => {
                output.copy_from_slice(input);
                softmax(output, Lines::along(node.shape(), axis));
            }
        }
        Ok(())
    }

    /// Takes step `i` of the way back.
    pub(super) fn backward(&mut self, i: usize, images: &[f32]) -> Result<(), Error> {
        let Back { node, slot, ref targets } = self.back[i];
        let name = |graph: &Graph| graph.nodes()[node].name().to_owned();
        let grad_output = mem::take(&mut self.slots[slot]);
        let targets = [targets.first().copied().flatten(), targets.get(1).copied().flatten()];
        let result = self.parameters_back(node, images, &grad_output).and_then(|()| {
            for (which, target) in targets.into_iter().enumerate() {
                let Some((slot, add)) = target else { continue };
                // A second reader's gradient is made aside and added.
                let mut buffer = mem::take(if add { &mut self.scratch } else { &mut self.slots[slot] });
                let len =
                    self.options.batch * self.graph.shape(self.graph.nodes()[node].inputs()[which]).len();
                let result = self.data_back(node, images, &grad_output, &mut buffer[..len]);
                if add {
                    let sums = self.slots[slot].iter_mut();
                    sums.zip(&buffer[..len]).for_each(|(sum, x)| *sum += x);
                    self.scratch = buffer;
                } else {
                    self.slots[slot] = buffer;
                }
                result?;
            }
            Ok(())
        });
        self.slots[slot] = grad_output;
        result.map_err(|error| Error::Conv { layer: name(&self.graph), error })
    }

    /// The gradients by a node's own parameters (a batch normalisation's come with that by its input).
    fn parameters_back(&mut self, i: usize, images: &[f32], grad_output: &[f32]) -> Result<(), ConvError> {
        let Training { graph, options, values, gradients, kept, workspace, .. } = self;
        let node = &graph.nodes()[i];
        let from = node.inputs()[0];
        let input = if from == Graph::INPUT { images } else { &values[from.0] };
        let grad_output = &grad_output[..options.batch * node.shape().len()];
        match (node.layer(), &mut gradients[node.parameters()]) {
            (Layer::Conv(_), [weights, bias @ ..]) => {
                let bias = bias.first_mut().map(Vec::as_mut_slice);
                if let Kept::Conv(plan) = &kept[i] {
                    plan.run(input, grad_output, weights, bias, workspace)?;
                }
            }
            (Layer::Linear(layer), [weights, bias]) => {
                // dW = dyᵀ·x and db = Σ dy.
                let product = Product::new(layer.out_features, layer.in_features, options.batch);
                multiply(&product.transpose_a(), grad_output, input, weights, &plan_options(options))?;
                bias.fill(0.0);
                for dy in grad_output.chunks_exact(layer.out_features) {
                    bias.iter_mut().zip(dy).for_each(|(db, dy)| *db += dy);
                }
            }
            (Layer::BatchNorm(layer), [scale, bias, ..]) => {
                if let Kept::Norm(statistics) = &kept[i] {
                    let pixels = pixels(graph, from);
                    norm::backward_parameters(layer, statistics, input, grad_output, [scale, bias], pixels);
                }
            }
            _ => (),
        }
        Ok(())
    }

    /// The gradient by an input of a node.
    fn data_back(
        &mut self,
        i: usize,
        images: &[f32],
        grad_output: &[f32],
        grad_input: &mut [f32],
    ) -> Result<(), ConvError> {
        let Training { graph, weights, options, values, gradients, workspace, .. } = self;
        let node = &graph.nodes()[i];
        let from = node.inputs()[0];
        let input = if from == Graph::INPUT { images } else { &values[from.0] };
        let output = &values[i + 1];
        let grad_output = &grad_output[..output.len()];
        let first = node.parameters().start;
        match (node.layer(), &self.kept[i]) {
            (Layer::Conv(layer), _) => {
                let spec = layer.spec(graph.shape(from), options.batch)?;
                let plan = DataPlan::new("auto", &spec, &weights.all()[first], &plan_options(options))?;
                plan.run(grad_output, None, grad_input, workspace)?;
            }
            (Layer::Linear(layer), _) => {
                // dx = dy·W.
                let product = Product::new(options.batch, layer.in_features, layer.out_features);
                let weights = &weights.all()[first];
                multiply(&product, grad_output, weights, grad_input, &plan_options(options))?;
            }
            (_, Kept::Pool(plan)) => plan.backward(input, grad_output, grad_input)?,
            (Layer::Activation(activation), _) => {
                activation_backward(*activation, output, grad_output, grad_input);
            }
            (Layer::Lrn(layer), _) => {
                let extents = [graph.shape(from).volume()[0], pixels(graph, from)];
                lrn::backward(layer, input, grad_output, grad_input, extents);
            }
            (Layer::BatchNorm(layer), Kept::Norm(statistics)) => {
                let scale = &weights.all()[first];
                let gradients = [gradients[first].as_slice(), &gradients[first + 1]];
                let pixels = pixels(graph, from);
                norm::backward_data(
                    layer,
                    scale,
                    statistics,
                    input,
                    grad_output,
                    gradients,
                    grad_input,
                    pixels,
                );
            }
            (_, Kept::Dropout(factors)) => {
                let products = grad_output.iter().zip(factors);
                grad_input.iter_mut().zip(products).for_each(|(dx, (dy, factor))| *dx = dy * factor);
            }
            (&Layer::Softmax { axis }, _) => {
                softmax_backward(output, grad_output, grad_input, Lines::along(node.shape(), axis));
            }
            _ => grad_input.copy_from_slice(grad_output),
        }
        Ok(())
    }
}

fn pixels(graph: &Graph, value: Value) -> usize {
    let [_, height, width] = graph.shape(value).volume();
    height * width
}
