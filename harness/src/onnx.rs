//! Models in ONNX's format: the convolutions of one that is read, and one that holds a single convolution, for
//! engines that run models.

pub use cnn::onnx::proto;

use cnn::onnx::Found;
use kernels::{ConvSpec, Padding};
use prost::Message;

use crate::data::Tensors;
use crate::layers::{Collection, Layer, LayerError, Same, Skipped, token};
use proto::{Attribute, Dimension, Graph, Model, Node, OperatorSet, Tensor, ValueInfo};

/// The first byte of a model, the tag of its version: text does not begin with it.
pub const FIRST_BYTE: u8 = 0x08;

/// The layers of a model: its convolutions, those of one shape counted as one, and those that cannot be measured.
/// `source` is the file's name, for errors and for the network's name.
///
/// # Errors
/// As [`cnn::onnx::convolutions`], and when there is no convolution.
pub fn layers(bytes: &[u8], source: &str) -> Result<(Vec<Layer>, Vec<Skipped>), LayerError> {
    let error = |what: String| LayerError::whole(source, what);
    let mut collection = Collection::new(source, Same::Spec);
    let mut skipped = Vec::new();
    for Found { name, operator, spec } in cnn::onnx::convolutions(bytes).map_err(|e| error(e.to_string()))? {
        let name = Some(token(&name)).filter(|name| !name.is_empty()).unwrap_or(operator);
        match spec {
            Ok(spec) => collection.add(&name, 1, spec),
            Err(reason) => skipped.push(Skipped { name, reason }),
        }
    }
    let layers = collection.into_layers();
    match (layers.is_empty(), skipped.first()) {
        (false, _) => Ok((layers, skipped)),
        (true, None) => Err(error("no convolution in it".to_owned())),
        (true, Some(Skipped { name, reason })) => {
            let count = skipped.len();
            Err(error(format!(
                "no convolution in it that can be measured ({count} skipped: `{name}` {reason})"
            )))
        }
    }
}

/// A model whose input `x` (N×C×H×W) goes through one convolution with these weights and bias to its
/// output `y`. The layout of the spec does not matter: ONNX knows only this one.
pub fn convolution(spec: &ConvSpec, tensors: &Tensors) -> Vec<u8> {
    let Padding { top, left, bottom, right } = spec.padding();
    let [kh, kw] = spec.kernel();
    let node = Node {
        input: ["x", "w", "b"].map(str::to_owned).to_vec(),
        output: vec!["y".to_owned()],
        name: "convolution".to_owned(),
        op_type: "Conv".to_owned(),
        attribute: vec![
            Attribute::ints("kernel_shape", &[kh, kw]),
            Attribute::ints("strides", &spec.stride()),
            Attribute::ints("pads", &[top, left, bottom, right]),
            Attribute::ints("dilations", &spec.dilation()),
            Attribute::int("group", spec.groups() as i64),
        ],
        domain: String::new(),
    };
    let group_channels = spec.in_channels() / spec.groups();
    let value = |name: &str, dims: [usize; 4]| ValueInfo::float(name, dims.map(Dimension::from).to_vec());
    let graph = Graph {
        node: vec![node],
        name: "convolution".to_owned(),
        initializer: vec![
            Tensor::float("w", &[spec.out_channels(), group_channels, kh, kw], &tensors.weights),
            Tensor::float("b", &[spec.out_channels()], &tensors.bias),
        ],
        input: vec![value("x", [spec.batch(), spec.in_channels(), spec.in_height(), spec.in_width()])],
        output: vec![value("y", [spec.batch(), spec.out_channels(), spec.out_height(), spec.out_width()])],
        value_info: Vec::new(),
    };
    let model = Model {
        ir_version: 8,
        producer_name: "convbench".to_owned(),
        graph: Some(graph),
        opset_import: vec![OperatorSet { domain: String::new(), version: 13 }],
    };
    model.encode_to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Kind, tensors};

    #[test]
    fn a_model_survives_its_bytes() {
        let spec: ConvSpec = "n2 c4 h5 w6 o8 k3x2 s2x1 p1,0,2,1 g2".parse().unwrap();
        let bytes = convolution(&spec, &tensors(&spec, Kind::Real, 0));
        let model = Model::decode(&bytes[..]).unwrap();
        let graph = model.graph.unwrap();
        assert_eq!(graph.initializer[0].dims, [8, 2, 3, 2]);
        assert_eq!(graph.initializer[0].raw_data.len(), 4 * spec.weights_len());
        assert_eq!(graph.node[0].attribute[2].ints, [1, 0, 2, 1]);
        assert!(Model::decode(&bytes[..bytes.len() - 1]).is_err());
    }
}
