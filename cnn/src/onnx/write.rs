//! A network as a model, written tensor by tensor: no second copy of all weights is made.

use std::io::{self, Write};
use std::path::Path;

use kernels::{Activation, Padding};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use super::proto::{Attribute, Dimension, Extent, Graph, Model, Node, OperatorSet, Tensor, ValueInfo};
use crate::graph::{self, Value};
use crate::layer::{Layer, Pool};
use crate::{Error, Weights, file};

/// The fields that a model's weights lie in.
const MODEL_GRAPH: u32 = 7;
const GRAPH_INITIALIZER: u32 = 5;

/// Most bytes of a model: what readers of the encoding take.
const MOST: u64 = i32::MAX as u64;

/// Writes a network as an ONNX model, which other programs run. The file is complete or, if writing fails, as it
/// was before.
///
/// Its input is named `input` and its output as the last layer with `:0` behind it; `batch` is the number of images
/// in it, or not fixed if `None`. Which kernels layers ask for is not in it.
///
/// # Errors
/// When the network has no layers, the weights are not its own, the model would be larger than the format
/// allows (2 GiB), or the file cannot be written.
pub fn save(graph: &graph::Graph, weights: &Weights, batch: Option<usize>, path: &Path) -> Result<(), Error> {
    let draft = Draft::new(graph, weights, batch)?;
    file::write_whole(path, |file| draft.write(file))
        .map_err(|error| Error::File { path: path.to_owned(), what: error.to_string() })
}

/// The bytes that [`save`] writes.
///
/// # Errors
/// As [`save`], and when memory cannot be had.
pub fn write(graph: &graph::Graph, weights: &Weights, batch: Option<usize>) -> Result<Vec<u8>, Error> {
    let draft = Draft::new(graph, weights, batch)?;
    let mut bytes = Vec::new();
    let out_of_memory = |_| Error::OutOfMemory { bytes: draft.len() as usize };
    bytes.try_reserve_exact(draft.len() as usize).map_err(out_of_memory)?;
    draft.write(&mut bytes).map_err(|error| Error::Model(error.to_string()))?;
    Ok(bytes)
}

/// A model without its weights, which are added when it is written.
struct Draft<'a> {
    /// All but the graph.
    model: Model,
    /// All but the weights.
    graph: Graph,
    weights: &'a Weights,
}

impl<'a> Draft<'a> {
    fn new(net: &graph::Graph, weights: &'a Weights, batch: Option<usize>) -> Result<Self, Error> {
        weights.check(net)?;
        if net.nodes().is_empty() {
            return Err(Error::Model("a network without layers is no model".to_owned()));
        }
        let mut graph = Graph {
            name: "network".to_owned(),
            input: vec![value_info(net, graph::Graph::INPUT, batch)],
            output: vec![value_info(net, net.last(), batch)],
            ..Default::default()
        };
        for (i, node) in net.nodes().iter().enumerate() {
            push(&mut graph, net, node, Value(i + 1));
        }
        // Dilated averages are the youngest that is written here.
        let dilated =
            |node: &graph::Node| matches!(node.layer(), Layer::AvgPool(pool) if pool.dilation != [1; 2]);
        let (ir_version, version) = if net.nodes().iter().any(dilated) { (9, 19) } else { (8, 13) };
        let model = Model {
            ir_version,
            producer_name: env!("CARGO_PKG_NAME").to_owned(),
            graph: None,
            opset_import: vec![OperatorSet { domain: String::new(), version }],
        };
        let draft = Draft { model, graph, weights };
        match draft.len() {
            0..=MOST => Ok(draft),
            len => Err(Error::Model(format!("would have {len} bytes, but a model has at most {MOST}"))),
        }
    }

    /// Bytes of a tensor of the weights, without what tells where it ends.
    fn tensor_len(&self, index: usize) -> u64 {
        let values = self.weights.values(index).map_or(0, <[f32]>::len) as u64 * 4;
        let parameter = &self.weights.parameters()[index];
        let rest = Tensor::float(&parameter.name, &parameter.shape, &[]);
        rest.encoded_len() as u64 + field_len(values)
    }

    fn graph_len(&self) -> u64 {
        let tensors = (0..self.weights.parameters().len()).map(|index| field_len(self.tensor_len(index)));
        tensors.fold(self.graph.encoded_len() as u64, u64::saturating_add)
    }

    fn len(&self) -> u64 {
        field_len(self.graph_len()).saturating_add(self.model.encoded_len() as u64)
    }

    fn write(&self, file: &mut dyn Write) -> io::Result<()> {
        let mut bytes = self.model.encode_to_vec();
        head(MODEL_GRAPH, self.graph_len(), &mut bytes);
        bytes.extend(self.graph.encode_to_vec());
        file.write_all(&bytes)?;
        for index in 0..self.weights.parameters().len() {
            let values = self.weights.values(index).unwrap_or_default();
            let parameter = &self.weights.parameters()[index];
            let tensor = Tensor::float(&parameter.name, &parameter.shape, values);
            bytes.clear();
            head(GRAPH_INITIALIZER, self.tensor_len(index), &mut bytes);
            file.write_all(&bytes)?;
            file.write_all(&tensor.encode_to_vec())?;
        }
        Ok(())
    }
}

/// What stands before a message in a field.
fn head(field: u32, len: u64, bytes: &mut Vec<u8>) {
    encode_key(field, WireType::LengthDelimited, bytes);
    encode_varint(len, bytes);
}

/// Bytes of a field that holds so many; the keys of all fields here are one byte.
fn field_len(len: u64) -> u64 {
    len.saturating_add(1 + encoded_len_varint(len) as u64)
}

/// What a layer's output is called: unlike any parameter, whose names end otherwise.
fn name(net: &graph::Graph, value: Value) -> String {
    match value {
        graph::Graph::INPUT => net.name(value).to_owned(),
        value => format!("{}:0", net.name(value)),
    }
}

fn value_info(net: &graph::Graph, value: Value, batch: Option<usize>) -> ValueInfo {
    let name_of_any = || Dimension { extent: Some(Extent::Name("batch".to_owned())) };
    let batch = batch.map_or_else(name_of_any, Dimension::from);
    let dims = [batch].into_iter().chain(net.shape(value).dims().into_iter().map(Dimension::from));
    ValueInfo::float(&name(net, value), dims.collect())
}

/// Adds a layer's node and the constants that are no weights.
fn push(graph: &mut Graph, net: &graph::Graph, node: &graph::Node, output: Value) {
    let mut input: Vec<String> = node.inputs().iter().map(|&value| name(net, value)).collect();
    input.extend(net.parameters()[node.parameters()].iter().map(|parameter| parameter.name.clone()));
    let mut constant = |what: &str, value: f32| {
        let name = format!("{}:{what}", node.name());
        input.push(name.clone());
        graph.initializer.push(Tensor::float(&name, &[], &[value]));
    };
    let (op_type, attribute) = match node.layer() {
        Layer::Conv(conv) => {
            let attributes = vec![
                Attribute::ints("kernel_shape", &conv.kernel),
                Attribute::ints("strides", &conv.stride),
                Attribute::ints("pads", &pads(conv.padding)),
                Attribute::ints("dilations", &conv.dilation),
                Attribute::int("group", conv.groups as i64),
            ];
            ("Conv", attributes)
        }
        Layer::Activation(Activation::Relu) => ("Relu", vec![]),
        &Layer::Activation(Activation::Clamp { min, max }) => {
            constant("min", min);
            constant("max", max);
            ("Clip", vec![])
        }
        Layer::MaxPool(pool) => ("MaxPool", window(pool)),
        Layer::AvgPool(pool) => {
            let mut attributes = window(pool);
            if pool.dilation == [1; 2] {
                // Not known before version 19.
                attributes.retain(|attribute| attribute.name != "dilations");
            }
            attributes.push(Attribute::int("count_include_pad", pool.count_include_pad.into()));
            ("AveragePool", attributes)
        }
        Layer::GlobalAvgPool => ("GlobalAveragePool", vec![]),
        Layer::Linear(_) => ("Gemm", vec![Attribute::int("transB", 1)]),
        Layer::Lrn(lrn) => {
            let attributes = vec![
                Attribute::int("size", lrn.size as i64),
                Attribute::float("alpha", lrn.alpha),
                Attribute::float("beta", lrn.beta),
                Attribute::float("bias", lrn.k),
            ];
            ("LRN", attributes)
        }
        Layer::BatchNorm(norm) => {
            // The share of what was observed before.
            let momentum = Attribute::float("momentum", 1.0 - norm.momentum);
            ("BatchNormalization", vec![Attribute::float("epsilon", norm.epsilon), momentum])
        }
        Layer::Add => ("Add", vec![]),
        Layer::Flatten => ("Flatten", vec![Attribute::int("axis", 1)]),
        &Layer::Dropout(probability) => {
            constant("ratio", probability);
            ("Dropout", vec![])
        }
        &Layer::Softmax { axis } => ("Softmax", vec![Attribute::int("axis", axis as i64 + 1)]),
    };
    graph.node.push(Node {
        input,
        output: vec![name(net, output)],
        name: node.name().to_owned(),
        op_type: op_type.to_owned(),
        attribute,
        domain: String::new(),
    });
}

fn pads(Padding { top, left, bottom, right }: Padding) -> [usize; 4] {
    [top, left, bottom, right]
}

fn window(pool: &Pool) -> Vec<Attribute> {
    vec![
        Attribute::ints("kernel_shape", &pool.window),
        Attribute::ints("strides", &pool.stride),
        Attribute::ints("pads", &pads(pool.padding)),
        Attribute::ints("dilations", &pool.dilation),
        Attribute::int("ceil_mode", pool.ceil_mode.into()),
    ]
}
