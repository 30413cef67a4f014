//! [`Graph`]: layers and who reads whom, with shapes inferred as it grows.

use std::collections::HashSet;
use std::ops::Range;

use kernels::{Activation, SpecError};

use crate::layer::{BatchNorm, Layer, Linear};
use crate::shape::MOST;
use crate::{Error, Shape};

/// The output of a layer, or the input of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Value(pub(crate) usize);

/// A layer in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    name: String,
    layer: Layer,
    inputs: Vec<Value>,
    shape: Shape,
    parameters: Range<usize>,
}

impl Node {
    /// Its name, unlike any other's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it computes.
    pub fn layer(&self) -> &Layer {
        &self.layer
    }

    /// What it reads.
    pub fn inputs(&self) -> &[Value] {
        &self.inputs
    }

    /// What it gives for one image.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Its parameters, as places in [`Graph::parameters`].
    pub fn parameters(&self) -> Range<usize> {
        self.parameters.clone()
    }
}

/// What a tensor of parameters is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Weights of a convolution, `OIHW`, or of a linear layer, `[out, in]`.
    Weight,
    /// A number that is added to each channel or feature.
    Bias,
    /// The factor of each channel that a batch normalisation learns.
    Scale,
    /// Running mean of a batch normalisation: observed, not learned.
    Mean,
    /// Running variance of a batch normalisation: observed, not learned.
    Variance,
}

impl Role {
    /// Whether training changes it by its gradient.
    pub fn is_learned(self) -> bool {
        !matches!(self, Role::Mean | Role::Variance)
    }
}

/// A tensor of parameters: `conv1.weight`, for example.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// The layer's name and the tensor's, as PyTorch calls them.
    pub name: String,
    /// Its extents.
    pub shape: Vec<usize>,
    /// What it is for.
    pub role: Role,
}

impl Parameter {
    /// Its values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it has none, which no layer's parameter is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A feed-forward network: each layer reads layers that were there before it.
///
/// The lecture's chain `[(Conv → ReLU)·2 → Pool]·M → FC`, and what it says of sizes, (N − F + 2P)/S + 1:
/// ```
/// use cnn::{Conv, Graph, Layer, Linear, Pool, Shape};
///
/// let mut net = Graph::new(Shape::image(3, 32, 32))?;
/// net.then("conv", Conv::new(3, 10, 5).padding(2))?;
/// net.then("relu", Layer::RELU)?;
/// net.then("pool", Layer::MaxPool(Pool::new(2)))?;
/// assert_eq!(net.output_shape(), Shape::image(10, 16, 16));
/// net.then("flatten", Layer::Flatten)?;
///
/// let error = net.then("fc", Linear::new(2000, 10)).unwrap_err();
/// assert_eq!(error.to_string(), "layer `fc` wants 2000 features, but `flatten` gives 2560");
/// # Ok::<(), cnn::Error>(())
/// ```
/// Residual sums name what they add:
/// ```
/// use cnn::{Conv, Graph, Layer, Shape};
///
/// let mut net = Graph::new(Shape::image(16, 8, 8))?;
/// let shortcut = net.last();
/// net.then("conv1", Conv::new(16, 16, 3).padding(1))?;
/// net.then("relu1", Layer::RELU)?;
/// let branch = net.then("conv2", Conv::new(16, 16, 3).padding(1))?;
/// net.push("sum", Layer::Add, &[branch, shortcut])?;
/// net.then("relu2", Layer::RELU)?;
/// # Ok::<(), cnn::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    input: Shape,
    nodes: Vec<Node>,
    names: HashSet<String>,
    parameters: Vec<Parameter>,
}

impl Graph {
    /// The network's input, for one image.
    pub const INPUT: Value = Value(0);

    /// A network without layers.
    ///
    /// # Errors
    /// When an extent is 0 or their product does not fit.
    pub fn new(input: Shape) -> Result<Self, Error> {
        if !input.is_valid() {
            return Err(Error::Option {
                option: "the input's shape",
                value: input.to_string(),
                expected: "at least 1 in every extent and no larger than memory",
            });
        }
        Ok(Graph { input, nodes: Vec::new(), names: HashSet::new(), parameters: Vec::new() })
    }

    /// Adds a layer that reads the last one.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn then(&mut self, name: &str, layer: impl Into<Layer>) -> Result<Value, Error> {
        self.push(name, layer, &[self.last()])
    }

    /// Adds a layer that reads the given ones.
    ///
    /// # Errors
    /// When the layer does not take what they give (the error names both and both shapes), when it cannot
    /// exist (a stride of 0, a window larger than the maps), when its name is taken. The graph is then as it was.
    pub fn push(&mut self, name: &str, layer: impl Into<Layer>, inputs: &[Value]) -> Result<Value, Error> {
        let layer = layer.into();
        let wrong = |what: String| Error::Layer { layer: name.to_owned(), what };
        if name.is_empty() || name == self.name(Self::INPUT) || self.names.contains(name) {
            return Err(wrong("its name must be new, and not empty".to_owned()));
        }
        if inputs.len() != layer.arity() {
            let (given, wanted) = (inputs.len(), layer.arity());
            return Err(wrong(format!("reads {given} layers, but {} takes {wanted}", layer.kind())));
        }
        if let Some(value) = inputs.iter().find(|value| value.0 > self.nodes.len()) {
            return Err(wrong(format!("reads value {}, which is not of this graph", value.0)));
        }
        let shape = self.infer(name, &layer, inputs)?;
        if !shape.is_valid() {
            return Err(wrong(format!("its output {shape} does not fit this machine's address space")));
        }
        let before = self.parameters.len();
        self.parameters.extend(parameters(name, &layer));
        self.names.insert(name.to_owned());
        self.nodes.push(Node {
            name: name.to_owned(),
            layer,
            inputs: inputs.to_vec(),
            shape,
            parameters: before..self.parameters.len(),
        });
        Ok(self.last())
    }

    /// The layer that was added last: the network's output.
    pub fn last(&self) -> Value {
        Value(self.nodes.len())
    }

    /// The layers, in the order in which they run.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// What one image is.
    pub fn input_shape(&self) -> Shape {
        self.input
    }

    /// What the network gives for one image.
    pub fn output_shape(&self) -> Shape {
        self.shape(self.last())
    }

    /// The shape of a layer's output, for one image.
    pub fn shape(&self, value: Value) -> Shape {
        self.node(value).map_or(self.input, Node::shape)
    }

    /// The name of a layer; the network's input is `input`.
    pub fn name(&self, value: Value) -> &str {
        self.node(value).map_or("input", Node::name)
    }

    /// The layer that gives a value; none gives the input.
    pub fn node(&self, value: Value) -> Option<&Node> {
        self.nodes.get(value.0.checked_sub(1)?)
    }

    /// All tensors of parameters, layer by layer.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// How many numbers are learned.
    pub fn parameter_count(&self) -> usize {
        self.parameters
            .iter()
            .filter(|p| p.role.is_learned())
            .map(Parameter::len)
            .fold(0, usize::saturating_add)
    }

    /// Multiply-accumulates of convolutions and linear layers for one image.
    pub fn macs(&self) -> u64 {
        self.nodes.iter().map(|node| self.macs_of(node)).fold(0, u64::saturating_add)
    }

    /// Multiply-accumulates of a layer for one image.
    pub(crate) fn macs_of(&self, node: &Node) -> u64 {
        match &node.layer {
            Layer::Conv(conv) => conv.spec(self.shape(node.inputs[0]), 1).map_or(0, |spec| spec.macs()),
            Layer::Linear(linear) => linear.in_features as u64 * linear.out_features as u64,
            _ => 0,
        }
    }

    fn infer(&self, name: &str, layer: &Layer, inputs: &[Value]) -> Result<Shape, Error> {
        let (from, given) = (self.name(inputs[0]), self.shape(inputs[0]));
        let refuse =
            |wanted: String| Error::Shape { layer: name.to_owned(), wanted, from: from.to_owned(), given };
        let wrong = |what: String| Error::Layer { layer: name.to_owned(), what };
        match layer {
            Layer::Conv(conv) => {
                match given {
                    Shape::Image { channels, .. } if channels == conv.in_channels => (),
                    _ => return Err(refuse(format!("maps of {} channels", conv.in_channels))),
                }
                let spec = conv.spec(given, 1).map_err(|error| match error {
                    SpecError::KernelTooLarge { .. } => refuse(format!("larger maps ({error})")),
                    error => wrong(error.to_string()),
                })?;
                Ok(Shape::image(spec.out_channels(), spec.out_height(), spec.out_width()))
            }
            Layer::MaxPool(pool) | Layer::AvgPool(pool) => {
                let Shape::Image { channels, .. } = given else {
                    return Err(refuse("maps".to_owned()));
                };
                let spec = crate::ops::pool::spec(pool, given, 1).map_err(|error| match error {
                    SpecError::KernelTooLarge { .. } => refuse(format!("larger maps ({error})")),
                    error => wrong(error.to_string()),
                })?;
                Ok(Shape::image(channels, spec.out_height(), spec.out_width()))
            }
            Layer::GlobalAvgPool => match given {
                Shape::Image { channels, .. } => Ok(Shape::image(channels, 1, 1)),
                Shape::Features(_) => Err(refuse("maps".to_owned())),
            },
            Layer::Linear(linear) => {
                if given != Shape::Features(linear.in_features) {
                    return Err(refuse(format!("{} features", linear.in_features)));
                }
                let weights = linear.in_features.checked_mul(linear.out_features);
                if weights.is_none_or(|count| count > MOST) {
                    let (inputs, outputs) = (linear.in_features, linear.out_features);
                    return Err(wrong(format!(
                        "{inputs}×{outputs} weights do not fit this machine's address space"
                    )));
                }
                Ok(Shape::Features(linear.out_features))
            }
            Layer::Lrn(lrn) => {
                let good = lrn.size > 0 && lrn.k > 0.0 && lrn.alpha >= 0.0;
                if !good {
                    return Err(wrong(format!(
                        "size {}, k {} and alpha {} must be at least 1, more than 0 and at least 0",
                        lrn.size, lrn.k, lrn.alpha
                    )));
                }
                Ok(given)
            }
            Layer::BatchNorm(norm) => {
                if given.volume()[0] != norm.channels {
                    return Err(refuse(format!("{} channels", norm.channels)));
                }
                if !(norm.epsilon > 0.0 && (0.0..=1.0).contains(&norm.momentum)) {
                    let (epsilon, momentum) = (norm.epsilon, norm.momentum);
                    return Err(wrong(format!(
                        "epsilon {epsilon} and momentum {momentum} must be more than 0 and within 0..=1"
                    )));
                }
                Ok(given)
            }
            Layer::Add => {
                if self.shape(inputs[1]) != given {
                    return Err(Error::Shape {
                        layer: name.to_owned(),
                        wanted: format!("the shape of `{from}`, {given}"),
                        from: self.name(inputs[1]).to_owned(),
                        given: self.shape(inputs[1]),
                    });
                }
                Ok(given)
            }
            Layer::Flatten => Ok(Shape::Features(given.len())),
            Layer::Dropout(p) if !(0.0..1.0).contains(p) => {
                Err(wrong(format!("a probability of {p} must be at least 0 and below 1")))
            }
            &Layer::Softmax { axis } => match given.dims().len() {
                axes if axis < axes => Ok(given),
                axes => Err(wrong(format!("its axis is {axis}, but must be below {axes}"))),
            },
            Layer::Activation(Activation::Clamp { min, max }) => {
                let ordered = min <= max;
                if ordered {
                    Ok(given)
                } else {
                    Err(wrong(format!("limits {min} and {max} must be in order")))
                }
            }
            Layer::Activation(Activation::Relu) | Layer::Dropout(_) => Ok(given),
        }
    }
}

/// The tensors that a layer learns or observes.
fn parameters(name: &str, layer: &Layer) -> Vec<Parameter> {
    let of =
        |tensor: &str, shape: Vec<usize>, role| Parameter { name: format!("{name}.{tensor}"), shape, role };
    match layer {
        Layer::Conv(conv) => {
            let [height, width] = conv.kernel;
            let shape = vec![conv.out_channels, conv.in_channels / conv.groups, height, width];
            let bias = conv.bias.then(|| of("bias", vec![conv.out_channels], Role::Bias));
            [of("weight", shape, Role::Weight)].into_iter().chain(bias).collect()
        }
        &Layer::Linear(Linear { in_features, out_features }) => vec![
            of("weight", vec![out_features, in_features], Role::Weight),
            of("bias", vec![out_features], Role::Bias),
        ],
        &Layer::BatchNorm(BatchNorm { channels, .. }) => vec![
            of("weight", vec![channels], Role::Scale),
            of("bias", vec![channels], Role::Bias),
            of("running_mean", vec![channels], Role::Mean),
            of("running_var", vec![channels], Role::Variance),
        ],
        _ => Vec::new(),
    }
}
