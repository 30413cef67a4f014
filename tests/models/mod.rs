//! Models in ONNX's format, as tests write them.

use harness::onnx::proto;
use prost::Message;

/// A graph as it is written down, node by node.
#[derive(Default)]
pub(crate) struct Model {
    pub(crate) graph: proto::Graph,
}

impl Model {
    pub(crate) fn with_input(dims: &[i64]) -> Self {
        let mut model = Model::default();
        model.graph.input.push(value_info("x", dims));
        model
    }

    pub(crate) fn constant(&mut self, name: &str, dims: &[i64]) -> String {
        let tensor =
            proto::Tensor { name: name.to_owned(), dims: dims.to_vec(), data_type: 1, ..Default::default() };
        self.graph.initializer.push(tensor);
        name.to_owned()
    }

    /// A node; its output is named by its number.
    pub(crate) fn node(&mut self, op: &str, inputs: &[&str], attributes: Vec<proto::Attribute>) -> String {
        let output = format!("v{}", self.graph.node.len());
        self.graph.node.push(proto::Node {
            input: inputs.iter().map(|&name| name.to_owned()).collect(),
            output: vec![output.clone()],
            op_type: op.to_owned(),
            attribute: attributes,
            ..Default::default()
        });
        output
    }

    /// A convolution without bias.
    pub(crate) fn conv(&mut self, x: &str, weights: &[i64], attributes: Vec<proto::Attribute>) -> String {
        let w = self.constant(&format!("w{}", self.graph.node.len()), weights);
        self.node("Conv", &[x, &w], attributes)
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        proto::Model { ir_version: 8, graph: Some(self.graph.clone()), ..Default::default() }.encode_to_vec()
    }
}

/// Dimensions of 0 have a name instead.
pub(crate) fn value_info(name: &str, dims: &[i64]) -> proto::ValueInfo {
    let dim = |&n: &i64| proto::Dimension {
        extent: Some(if n == 0 { proto::Extent::Name("N".to_owned()) } else { proto::Extent::Value(n) }),
    };
    let shape = Some(proto::Shape { dim: dims.iter().map(dim).collect() });
    let tensor_type = Some(proto::TensorType { elem_type: 1, shape });
    proto::ValueInfo { name: name.to_owned(), r#type: Some(proto::Type { tensor_type }) }
}

pub(crate) fn ints(name: &str, values: &[i64]) -> proto::Attribute {
    proto::Attribute { name: name.to_owned(), ints: values.to_vec(), kind: 7, ..Default::default() }
}

pub(crate) fn int(name: &str, value: i64) -> proto::Attribute {
    proto::Attribute { name: name.to_owned(), i: value, kind: 2, ..Default::default() }
}

pub(crate) fn window(kernel: i64, stride: i64, pad: i64) -> Vec<proto::Attribute> {
    vec![ints("kernel_shape", &[kernel; 2]), ints("strides", &[stride; 2]), ints("pads", &[pad; 4])]
}

/// ResNet-50 version 1.5 with a batch that is not fixed, as frameworks write it.
pub(crate) fn resnet50() -> Model {
    let mut model = Model::with_input(&[0, 3, 224, 224]);
    let conv = |model: &mut Model, x: &str, [from, to, kernel, stride]: [i64; 4]| {
        let y = model.conv(x, &[to, from, kernel, kernel], window(kernel, stride, kernel / 2));
        let statistics: Vec<String> = (0..4).map(|i| model.constant(&format!("{y}_{i}"), &[to])).collect();
        let mut inputs = vec![y.as_str()];
        inputs.extend(statistics.iter().map(String::as_str));
        model.node("BatchNormalization", &inputs, vec![])
    };
    let mut x = conv(&mut model, "x", [3, 64, 7, 2]);
    x = model.node("Relu", &[&x], vec![]);
    x = model.node("MaxPool", &[&x], window(3, 2, 1));
    let mut from = 64;
    for (stage, blocks) in [(0, 3), (1, 4), (2, 6), (3, 3)] {
        let width = 64 << stage;
        for block in 0..blocks {
            let stride = if block == 0 && stage > 0 { 2 } else { 1 };
            let mut y = conv(&mut model, &x, [from, width, 1, 1]);
            y = model.node("Relu", &[&y], vec![]);
            y = conv(&mut model, &y, [width, width, 3, stride]);
            y = model.node("Relu", &[&y], vec![]);
            y = conv(&mut model, &y, [width, 4 * width, 1, 1]);
            if block == 0 {
                x = conv(&mut model, &x, [from, 4 * width, 1, stride]);
            }
            x = model.node("Add", &[&y, &x], vec![]);
            x = model.node("Relu", &[&x], vec![]);
            from = 4 * width;
        }
    }
    x = model.node("GlobalAveragePool", &[&x], vec![]);
    x = model.node("Flatten", &[&x], vec![]);
    let w = model.constant("fc", &[1000, 2048]);
    model.node("Gemm", &[&x, &w], vec![int("transB", 1)]);
    model
}
