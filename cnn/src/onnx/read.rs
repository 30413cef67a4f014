//! A model's nodes as layers of a [`Graph`], its constants as their [`Weights`].

use std::collections::{HashMap, HashSet};
use std::path::Path;

use prost::bytes::Bytes;

use super::attributes::tensor;
use super::constants::type_name;
use super::infer::{Values, order, title};
use super::proto::{self, Extent, FLOAT, Node, Tensor, ValueInfo};
use super::value::{Stop, shown};
use super::{decode, operators};
use crate::graph::{Graph, Value};
use crate::layer::Layer;
use crate::{Error, Shape, Weights, file};

/// A network that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// Its layers; a layer is called as its node, or as the node's output.
    pub graph: Graph,
    /// Their numbers.
    pub weights: Weights,
    /// Images in a batch, if the model fixes that. The network takes any number all the same.
    pub batch: Option<usize>,
}

/// Most bytes of a file: what the format's encoding can hold.
const MOST: u64 = i32::MAX as u64;

/// Most weights for each byte of a model, whose layers may share constants, and how many there may be beside.
const MOST_WEIGHTS: usize = 4;
const MOST_BESIDE: usize = 1 << 18;

/// The oldest version of the operators that means what is read here.
const OLDEST: i64 = 7;

/// Reads a network from an ONNX file; the [module](super) says what it may hold.
///
/// # Errors
/// When the file cannot be read, is broken, or has something that is not supported: the error names the file, the
/// node and what is wrong with it.
pub fn load(path: &Path) -> Result<Model, Error> {
    let bytes = file::read_most(path, MOST)?;
    read(bytes).map_err(|error| Error::File { path: path.to_owned(), what: error.to_string() })
}

/// Reads a network from the bytes of an ONNX file.
///
/// # Errors
/// As [`load`], without the file's name.
pub fn read(bytes: Vec<u8>) -> Result<Model, Error> {
    let most_weights = bytes.len().saturating_mul(MOST_WEIGHTS).saturating_add(MOST_BESIDE);
    let model = decode(Bytes::from(bytes)).map_err(Error::Model)?;
    let version = version(&model).map_err(Error::Model)?;
    let graph = model.graph.unwrap_or_default();
    Reader::new(&graph, version, most_weights).map_err(Error::Model)?.read()
}

/// The version of ONNX's own operators.
fn version(model: &proto::Model) -> Result<i64, String> {
    let own = model.opset_import.iter().find(|set| matches!(set.domain.as_str(), "" | "ai.onnx"));
    match own.map(|set| set.version) {
        Some(version) if version >= OLDEST => Ok(version),
        Some(version) => Err(format!("is of operators' version {version}, but must be of {OLDEST} or later")),
        None => Err("does not say of which operators' version it is".to_owned()),
    }
}

/// A value of the network as the model has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flow {
    pub(super) value: Value,
    /// Axes with that of the batch; one spatial axis is a row of an image.
    pub(super) axes: usize,
}

/// What a node is.
pub(super) enum Made<'a> {
    /// A layer, with its weights in the order of its parameters.
    Layer {
        layer: Layer,
        inputs: Vec<Value>,
        weights: Vec<Vec<f32>>,
        axes: usize,
        /// What has this value too: the sum with a bias, which is in the weights.
        also: Option<&'a str>,
    },
    /// Its input, unchanged.
    Same(Flow),
    /// Numbers that shapes are computed from.
    Numbers,
}

pub(super) struct Reader<'a> {
    pub(super) version: i64,
    pub(super) output: &'a str,
    /// The nodes that the output needs, in an order in which they can run.
    nodes: Vec<&'a Node>,
    /// Who reads a value.
    pub(super) readers: HashMap<&'a str, Vec<&'a Node>>,
    pub(super) constants: HashMap<&'a str, &'a Tensor>,
    pub(super) values: Values<'a>,
    pub(super) flows: HashMap<&'a str, Flow>,
    batch: Option<usize>,
    pub(super) net: Graph,
    weights: Vec<Vec<f32>>,
    weights_len: usize,
    most_weights: usize,
    /// Names of layers, and the number that the last of the same name got.
    names: HashMap<String, usize>,
}

impl<'a> Reader<'a> {
    fn new(graph: &'a proto::Graph, version: i64, most_weights: usize) -> Result<Self, String> {
        let output = match graph.output.as_slice() {
            [output] => output.name.as_str(),
            outputs => {
                return Err(format!("has {} outputs{}, but 1 is supported", outputs.len(), list(outputs)));
            }
        };
        let nodes = needed(order(graph)?, output);
        let mut readers: HashMap<&str, Vec<&Node>> = HashMap::new();
        for &node in &nodes {
            for input in node.input.iter().filter(|input| !input.is_empty()) {
                readers.entry(input).or_default().push(node);
            }
        }
        let mut constants: HashMap<&str, &Tensor> =
            graph.initializer.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        let inputs: Vec<&ValueInfo> = graph
            .input
            .iter()
            .filter(|input| !constants.contains_key(input.name.as_str()))
            .filter(|input| readers.contains_key(input.name.as_str()))
            .collect();
        let &[input] = inputs.as_slice() else {
            return Err(format!(
                "has {} inputs{}, but 1 is supported",
                inputs.len(),
                list(inputs.iter().copied())
            ));
        };
        let (shape, batch, axes) = input_shape(input)?;
        for node in &nodes {
            if let ("Constant", [name, ..], Some(tensor)) =
                (node.op_type.as_str(), node.output.as_slice(), tensor(node, "value"))
            {
                constants.insert(name, tensor);
            }
        }
        let net = Graph::new(shape).map_err(|error| error.to_string())?;
        Ok(Reader {
            version,
            output,
            nodes,
            readers,
            constants,
            values: Values::of(graph),
            flows: HashMap::from([(input.name.as_str(), Flow { value: Graph::INPUT, axes })]),
            batch,
            names: HashMap::from([(net.name(Graph::INPUT).to_owned(), 1)]),
            net,
            weights: Vec::new(),
            weights_len: 0,
            most_weights,
        })
    }

    fn read(mut self) -> Result<Model, Error> {
        for node in std::mem::take(&mut self.nodes) {
            self.node(node).map_err(|what| {
                let name = title(node);
                Error::Model(format!("{} {name}: {what}", shown(&node.op_type)))
            })?;
        }
        let wrong = |what: &str| Error::Model(format!("its output `{}` {what}", shown(self.output)));
        match self.flows.get(self.output) {
            None => Err(wrong("does not depend on its input")),
            Some(flow) if flow.value == Graph::INPUT || flow.value != self.net.last() => {
                Err(wrong("is not what a last layer gives"))
            }
            Some(_) => {
                let weights = Weights::new(&self.net, self.weights)?;
                Ok(Model { graph: self.net, weights, batch: self.batch })
            }
        }
    }

    fn node(&mut self, node: &'a Node) -> Result<(), String> {
        self.values.infer(node);
        if !node.input.iter().any(|name| self.flows.contains_key(name.as_str())) {
            return Ok(());
        }
        if !matches!(node.domain.as_str(), "" | "ai.onnx") {
            return Err(format!("operators of `{}` are not supported", shown(&node.domain)));
        }
        let [output, others @ ..] = node.output.as_slice() else {
            return Err("it has no output".to_owned());
        };
        let is_wanted = |name: &&String| self.readers.contains_key(name.as_str()) || *name == self.output;
        if let Some(other) = others.iter().find(is_wanted) {
            return Err(format!("its output `{}` is not supported, only the first", shown(other)));
        }
        if self.flows.contains_key(output.as_str()) {
            // A sum that an earlier layer has made with its bias.
            return Ok(());
        }
        match operators::make(self, node).map_err(Stop::into_reason)? {
            Made::Numbers => (),
            Made::Same(flow) => {
                self.flows.insert(output, flow);
            }
            Made::Layer { layer, inputs, weights, axes, also } => {
                self.weights_len += weights.iter().map(Vec::len).sum::<usize>();
                if self.weights_len > self.most_weights {
                    return Err("layers use the constants of the file too often".to_owned());
                }
                let name = self.own_name(node);
                let value = self.net.push(&name, layer, &inputs).map_err(|error| error.to_string())?;
                self.weights.extend(weights);
                for name in [output.as_str()].into_iter().chain(also) {
                    self.flows.insert(name, Flow { value, axes });
                }
            }
        }
        Ok(())
    }

    /// What a layer is called: as its node or the node's output, with a number if that is taken.
    fn own_name(&mut self, node: &Node) -> String {
        let candidates = [&node.name].into_iter().chain(&node.output).chain([&node.op_type]);
        let name = candidates.map(|name| shown(name)).find(|name| !name.is_empty()).unwrap_or_default();
        let mut own = name.clone();
        while self.names.contains_key(&own) {
            let number = self.names.entry(name.clone()).or_default();
            *number += 1;
            own = format!("{name}#{number}");
        }
        self.names.insert(own.clone(), 1);
        own
    }
}

/// The nodes that a value needs, in their order.
fn needed<'a>(order: Vec<&'a Node>, output: &str) -> Vec<&'a Node> {
    let mut wanted = HashSet::from([output]);
    let mut nodes = Vec::new();
    for node in order.into_iter().rev() {
        if node.output.iter().any(|name| !name.is_empty() && wanted.contains(name.as_str())) {
            wanted.extend(node.input.iter().map(String::as_str));
            nodes.push(node);
        }
    }
    nodes.reverse();
    nodes
}

/// What an image of the input is, how many a batch has if that is fixed, and the number of axes.
fn input_shape(input: &ValueInfo) -> Result<(Shape, Option<usize>, usize), String> {
    let name = shown(&input.name);
    let no_shape = || format!("the file states no shape of the input `{name}`");
    let tensor_type =
        input.r#type.as_ref().and_then(|kind| kind.tensor_type.as_ref()).ok_or_else(no_shape)?;
    if tensor_type.elem_type != FLOAT {
        let kind = type_name(tensor_type.elem_type);
        return Err(format!("the input `{name}` is of {kind}, but must be of float32"));
    }
    let [batch, extents @ ..] = tensor_type.shape.as_ref().ok_or_else(no_shape)?.dim.as_slice() else {
        return Err(format!("the input `{name}` is a single number"));
    };
    let size = |extent: &Option<Extent>| match extent {
        Some(Extent::Value(n)) => usize::try_from(*n).ok().filter(|&n| n > 0),
        _ => None,
    };
    let fixed = extents.iter().enumerate().map(|(i, dim)| {
        let unknown = || format!("axis {} of the input `{name}` must have a fixed size", i + 1);
        size(&dim.extent).ok_or_else(unknown)
    });
    if extents.len() > 3 {
        return Err(format!(
            "the input `{name}` has {} axes, but at most 4 are supported",
            extents.len() + 1
        ));
    }
    let shape = match fixed.collect::<Result<Vec<_>, _>>()?[..] {
        [features] => Shape::Features(features),
        [channels, width] => Shape::image(channels, 1, width),
        [channels, height, width] => Shape::image(channels, height, width),
        _ => return Err(format!("the input `{name}` has 1 axis, but must have 2 to 4")),
    };
    Ok((shape, size(&batch.extent), extents.len() + 1))
}

/// The names of values, for errors.
fn list<'a>(values: impl IntoIterator<Item = &'a ValueInfo>) -> String {
    let names: Vec<String> =
        values.into_iter().take(8).map(|value| format!("`{}`", shown(&value.name))).collect();
    match names.is_empty() {
        true => String::new(),
        false => format!(" ({})", names.join(", ")),
    }
}
