//! Models in ONNX's format: the convolutions of one that is read, and one that holds a single convolution, for
//! engines that run models.

mod attributes;
mod convolutions;
mod infer;
pub mod proto;
mod rearrange;
mod rules;
mod value;
mod window;
mod wire;

pub use convolutions::{FIRST_BYTE, layers};

use kernels::{ConvSpec, Padding};
use prost::Message;

use crate::data::Tensors;
use proto::{
    Attribute, Dimension, Extent, Graph, Model, Node, OperatorSet, Shape, Tensor, TensorType, Type, ValueInfo,
};

const FLOAT: i32 = 1;
const INTS: i32 = 7;
const INT: i32 = 2;

/// A model whose input `x` (N×C×H×W) goes through one convolution with these weights and bias to its
/// output `y`. The layout of the spec does not matter: ONNX knows only this one.
pub fn convolution(spec: &ConvSpec, tensors: &Tensors) -> Vec<u8> {
    let Padding { top, left, bottom, right } = spec.padding();
    let ints = |name: &str, values: &[usize]| Attribute {
        name: name.to_owned(),
        ints: values.iter().map(|&n| n as i64).collect(),
        kind: INTS,
        ..Default::default()
    };
    let [kh, kw] = spec.kernel();
    let group =
        Attribute { name: "group".to_owned(), i: spec.groups() as i64, kind: INT, ..Default::default() };
    let node = Node {
        input: ["x", "w", "b"].map(str::to_owned).to_vec(),
        output: vec!["y".to_owned()],
        name: "convolution".to_owned(),
        op_type: "Conv".to_owned(),
        attribute: vec![
            ints("kernel_shape", &[kh, kw]),
            ints("strides", &spec.stride()),
            ints("pads", &[top, left, bottom, right]),
            ints("dilations", &spec.dilation()),
            group,
        ],
        domain: String::new(),
    };
    let group_channels = spec.in_channels() / spec.groups();
    let graph = Graph {
        node: vec![node],
        name: "convolution".to_owned(),
        initializer: vec![
            tensor("w", &[spec.out_channels(), group_channels, kh, kw], &tensors.weights),
            tensor("b", &[spec.out_channels()], &tensors.bias),
        ],
        input: vec![value("x", &[spec.batch(), spec.in_channels(), spec.in_height(), spec.in_width()])],
        output: vec![value("y", &[spec.batch(), spec.out_channels(), spec.out_height(), spec.out_width()])],
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

fn tensor(name: &str, dims: &[usize], values: &[f32]) -> Tensor {
    Tensor {
        dims: dims.iter().map(|&n| n as i64).collect(),
        data_type: FLOAT,
        name: name.to_owned(),
        raw_data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        ..Default::default()
    }
}

fn value(name: &str, dims: &[usize]) -> ValueInfo {
    let dim = |&n: &usize| Dimension { extent: Some(Extent::Value(n as i64)) };
    let shape = Some(Shape { dim: dims.iter().map(dim).collect() });
    let tensor_type = Some(TensorType { elem_type: FLOAT, shape });
    ValueInfo { name: name.to_owned(), r#type: Some(Type { tensor_type }) }
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
