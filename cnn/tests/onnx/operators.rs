//! Models as frameworks write them, operator by operator, and what is said of those that are not supported.

use cnn::onnx::proto::{
    Attribute, Dimension, Extent, Graph, INT64, Model, Node, OperatorSet, Tensor, ValueInfo,
};
use cnn::{Conv, Inference, InferenceOptions, Layer, Linear, Pool, Shape, onnx};
use kernels::Activation;
use prost::Message;

/// A model in the making: its nodes are a chain unless they name what they read.
struct Draft {
    graph: Graph,
    version: i64,
}

impl Draft {
    /// With an input `x`; extents of 0 have a name instead.
    fn new(extents: &[usize]) -> Self {
        let dim = |&n: &usize| match n {
            0 => Dimension { extent: Some(Extent::Name("N".to_owned())) },
            n => Dimension::from(n),
        };
        let input = ValueInfo::float("x", extents.iter().map(dim).collect());
        Draft { graph: Graph { input: vec![input], ..Default::default() }, version: 13 }
    }

    fn floats(mut self, name: &str, dims: &[usize], values: &[f32]) -> Self {
        self.graph.initializer.push(Tensor::float(name, dims, values));
        self
    }

    fn ints(mut self, name: &str, values: &[i64]) -> Self {
        self.graph.initializer.push(Tensor {
            name: name.to_owned(),
            dims: vec![values.len() as i64],
            data_type: INT64,
            int64_data: values.to_vec(),
            ..Default::default()
        });
        self
    }

    /// A node that is called as its output.
    fn node(mut self, op: &str, inputs: &[&str], output: &str, attribute: Vec<Attribute>) -> Self {
        self.graph.node.push(Node {
            input: inputs.iter().map(|&name| name.to_owned()).collect(),
            output: vec![output.to_owned()],
            op_type: op.to_owned(),
            attribute,
            ..Default::default()
        });
        self
    }

    fn version(self, version: i64) -> Self {
        Draft { version, ..self }
    }

    fn bytes(mut self) -> Vec<u8> {
        let output = self.graph.node.last().and_then(|node| node.output.first()).cloned().unwrap_or_default();
        if self.graph.output.is_empty() {
            self.graph.output.push(ValueInfo { name: output, r#type: None });
        }
        let opset_import = vec![OperatorSet { domain: String::new(), version: self.version }];
        Model { ir_version: 8, graph: Some(self.graph), opset_import, ..Default::default() }.encode_to_vec()
    }

    fn read(self) -> onnx::Model {
        onnx::read(self.bytes()).unwrap()
    }

    fn layers(self) -> Vec<Layer> {
        self.read().graph.nodes().iter().map(|node| node.layer().clone()).collect()
    }

    fn error(self) -> String {
        onnx::read(self.bytes()).unwrap_err().to_string()
    }

    /// What it makes of a batch.
    fn run(self, batch: usize, input: &[f32]) -> Vec<f32> {
        let model = self.read();
        let options = InferenceOptions { batch, ..Default::default() };
        let mut inference = Inference::new(&model.graph, &model.weights, &options).unwrap();
        inference.run(input).unwrap().to_vec()
    }
}

#[test]
fn biases_behind_products_are_theirs() {
    let product = || {
        Draft::new(&[0, 2]).floats("w", &[2, 3], &[1., 2., 3., 4., 5., 6.]).node(
            "MatMul",
            &["x", "w"],
            "y",
            vec![],
        )
    };
    assert_eq!(product().layers(), [Linear::new(2, 3).into()]);
    assert_eq!(product().run(2, &[1., 1., 0., 1.]), [5., 7., 9., 4., 5., 6.]);
    for (dims, inputs) in [(&[3][..], ["y", "b"]), (&[1, 3], ["b", "y"])] {
        let sum = product().floats("b", dims, &[10., 20., 30.]).node("Add", &inputs, "z", vec![]);
        let sum = sum.node("Relu", &["z"], "r", vec![]);
        assert_eq!(sum.run(1, &[1., 1.]), [15., 27., 39.]);
    }
    let conv =
        Draft::new(&[1, 1, 1, 2]).floats("w", &[2, 1, 1, 1], &[1., -1.]).floats("b", &[2, 1, 1], &[5., 6.]);
    let conv = conv.node("Conv", &["x", "w"], "y", vec![]).node("Add", &["y", "b"], "z", vec![]);
    assert_eq!(conv.run(1, &[1., 2.]), [6., 7., 5., 4.]);

    // What somebody else reads too stays as it is, and a constant for each pixel is no bias.
    let read_twice = product().floats("b", &[3], &[0.; 3]).node("Add", &["y", "b"], "z", vec![]);
    let read_twice = read_twice.node("Add", &["z", "y"], "s", vec![]);
    assert!(read_twice.error().starts_with("Add of `z`: it adds a constant; supported are"));
    let pixels =
        Draft::new(&[1, 1, 1, 2]).floats("w", &[2, 1, 1, 1], &[1., -1.]).floats("b", &[1, 2], &[5., 6.]);
    let pixels = pixels.node("Conv", &["x", "w"], "y", vec![]).node("Add", &["y", "b"], "z", vec![]);
    assert!(pixels.error().contains("adds a constant"));
}

#[test]
fn limits_are_inputs_or_attributes() {
    let clamp = |min, max| vec![Layer::Activation(Activation::Clamp { min, max })];
    let clip = |inputs: &[&str], attributes| {
        let draft = Draft::new(&[1, 4]).floats("low", &[], &[0.]).floats("high", &[1], &[6.]);
        draft.node("Clip", inputs, "y", attributes)
    };
    assert_eq!(clip(&["x", "low", "high"], vec![]).layers(), clamp(0., 6.));
    assert_eq!(clip(&["x", "low"], vec![]).layers(), clamp(0., f32::INFINITY));
    assert_eq!(clip(&["x", "", "high"], vec![]).layers(), clamp(f32::NEG_INFINITY, 6.));
    let attributes = vec![Attribute::float("max", 6.), Attribute::float("min", -1.)];
    assert_eq!(clip(&["x"], attributes).version(7).layers(), clamp(-1., 6.));
    assert!(clip(&["x", "high", "low"], vec![]).error().contains("limits 6 and 0 must be in order"));
    assert!(clip(&["x", "x"], vec![]).error().contains("its x (input 1) must be a constant of one float32"));
    // Constants may be nodes.
    let mut constant = clip(&["x", "zero"], vec![]);
    let value = Attribute { name: "value_float".to_owned(), f: 0.5, kind: 1, ..Default::default() };
    constant = constant.node("Constant", &[], "zero", vec![value]);
    constant.graph.node.swap(0, 1);
    constant.graph.output.push(ValueInfo { name: "y".to_owned(), r#type: None });
    assert_eq!(constant.layers(), clamp(0.5, f32::INFINITY));
}

/// As PyTorch writes `x.view(x.size(0), -1)`, with a batch that is not fixed.
#[test]
fn shapes_may_be_computed() {
    let draft = || Draft::new(&[0, 3, 2, 2]).ints("zero", &[0]).ints("rest", &[-1]);
    let view = draft()
        .node("Shape", &["x"], "shape", vec![])
        .node("Gather", &["shape", "zero"], "batch", vec![])
        .node("Concat", &["batch", "rest"], "to", vec![Attribute::int("axis", 0)])
        .node("Reshape", &["x", "to"], "y", vec![]);
    let model = view.read();
    assert_eq!((model.graph.output_shape(), model.batch), (Shape::Features(12), None));
    for to in [&[0, -1][..], &[1, 12], &[-1, 12], &[1, -1]] {
        let reshape = draft().ints("to", to).node("Reshape", &["x", "to"], "y", vec![]);
        assert_eq!(reshape.layers(), [Layer::Flatten], "{to:?}");
    }
    let squeezed = draft().ints("axes", &[2, 3]).node("GlobalAveragePool", &["x"], "g", vec![]).node(
        "Squeeze",
        &["g", "axes"],
        "y",
        vec![],
    );
    assert_eq!(squeezed.layers(), [Layer::GlobalAvgPool, Layer::Flatten]);
    // Nothing new.
    let same = draft()
        .ints("to", &[0, 3, 2, 2])
        .node("Identity", &["x"], "i", vec![])
        .node("Reshape", &["i", "to"], "same", vec![])
        .node("Relu", &["same"], "y", vec![]);
    assert_eq!(same.layers(), [Layer::RELU]);
    for (to, made) in [(&[0, 6, 2][..], "[1, 6, 2]"), (&[-1, 6], "[2, 6]"), (&[12], "[12]")] {
        let message = draft().ints("to", to).node("Reshape", &["x", "to"], "y", vec![]).error();
        assert_eq!(
            message,
            format!(
                "Reshape of `y`: makes {made} of [1, 3, 2, 2]; supported is a row of features for each image"
            )
        );
    }
    // All images in one row: with a batch of 1 the shapes alone do not tell.
    let flat = draft().node("Flatten", &["x"], "y", vec![Attribute::int("axis", 0)]).error();
    assert!(flat.contains("makes [1, 12] of [1, 3, 2, 2]"), "{flat}");
}

#[test]
fn older_versions_mean_what_they_meant() {
    let softmax = |version, extents: &[usize], axis: Option<i64>| {
        let axis = axis.map(|axis| Attribute::int("axis", axis));
        Draft::new(extents).node("Softmax", &["x"], "y", axis.into_iter().collect()).version(version)
    };
    assert_eq!(softmax(11, &[1, 4], None).layers(), [Layer::SOFTMAX]);
    assert_eq!(softmax(11, &[1, 4, 1, 1], None).layers(), [Layer::SOFTMAX]);
    assert_eq!(softmax(11, &[1, 4, 2, 3], Some(-1)).layers(), [Layer::Softmax { axis: 2 }]);
    assert!(softmax(11, &[1, 4, 2, 3], None).error().contains("several axes together"));
    assert_eq!(softmax(13, &[1, 4, 2, 3], None).layers(), [Layer::Softmax { axis: 2 }]);
    assert_eq!(softmax(13, &[1, 4, 2, 3], Some(1)).layers(), [Layer::SOFTMAX]);
    assert!(softmax(13, &[1, 4], Some(2)).error().contains("it asks for axis 2 of a value of 2 axes"));
    assert_eq!(softmax(6, &[1, 4], None).error(), "is of operators' version 6, but must be of 7 or later");

    let dropout = |version, inputs: &[&str]| {
        let draft = Draft::new(&[1, 4]).floats("ratio", &[], &[0.25]);
        draft.node("Dropout", inputs, "y", vec![Attribute::float("ratio", 0.125)]).version(version)
    };
    assert_eq!(dropout(10, &["x"]).layers(), [Layer::Dropout(0.125)]);
    assert_eq!(dropout(12, &["x", "ratio"]).layers(), [Layer::Dropout(0.25)]);
    let mode = |data_type, byte: u8| {
        let mut draft = dropout(12, &["x", "ratio", "mode"]);
        let raw_data = vec![byte].into();
        draft.graph.initializer.push(Tensor {
            name: "mode".to_owned(),
            data_type,
            raw_data,
            ..Default::default()
        });
        draft
    };
    assert_eq!(mode(9, 0).layers(), [Layer::Dropout(0.25)]);
    assert!(mode(9, 1).error().contains("its training_mode is not supported"));
    assert!(mode(7, 0).error().contains("its training_mode is not supported"));
}

#[test]
fn windows_of_one_axis_are_rows() {
    let kernel = || vec![Attribute::ints("kernel_shape", &[2]), Attribute::ints("strides", &[2])];
    let conv =
        Draft::new(&[0, 1, 6]).floats("w", &[1, 1, 2], &[1., 10.]).node("Conv", &["x", "w"], "y", kernel());
    let chain = conv.node("MaxPool", &["y"], "z", vec![Attribute::ints("kernel_shape", &[2])]);
    let model = chain.read();
    assert_eq!(model.graph.input_shape(), Shape::image(1, 1, 6));
    let layers: Vec<&Layer> = model.graph.nodes().iter().map(|node| node.layer()).collect();
    let row = Conv { kernel: [1, 2], stride: [1, 2], ..Conv::new(1, 1, 1).no_bias() };
    let window = Pool { window: [1, 2], stride: [1, 1], ..Pool::new(1) };
    assert_eq!(layers, [&Layer::Conv(row), &Layer::MaxPool(window)]);
}

/// Layers are called as nodes, or as their outputs; two of one name get numbers.
#[test]
fn layers_have_the_models_names() {
    let mut draft = Draft::new(&[1, 4]);
    for output in ["a", "b", "c", "input", "d"] {
        let input = draft.graph.node.last().map_or("x".to_owned(), |node| node.output[0].clone());
        draft = draft.node("Relu", &[&input], output, vec![]);
    }
    for (node, name) in draft.graph.node.iter_mut().zip(["relu", "relu", "relu#2", "", "\u{7}"]) {
        node.name = name.to_owned();
    }
    let model = draft.read();
    let names: Vec<&str> = model.graph.nodes().iter().map(|node| node.name()).collect();
    assert_eq!(names, ["relu", "relu#2", "relu#2#2", "input#2", "?"]);
}

/// What the output does not need is not looked at.
#[test]
fn branches_that_lead_nowhere_are_passed_over() {
    let mut draft =
        Draft::new(&[1, 4]).node("Relu", &["x"], "y", vec![]).node("Sigmoid", &["y"], "s", vec![]);
    draft.graph.output.push(ValueInfo { name: "y".to_owned(), r#type: None });
    assert_eq!(draft.layers(), [Layer::RELU]);
}

#[test]
fn errors_name_node_and_reason() {
    let image = || Draft::new(&[1, 4, 6, 6]);
    let message = image().node("Sigmoid", &["x"], "y", vec![]).error();
    assert!(
        message.starts_with("Sigmoid of `y`: the operator is not supported; supported are Add,"),
        "{message}"
    );
    let mut foreign = image().node("Relu", &["x"], "y", vec![]);
    foreign.graph.node[0].domain = "com.example".to_owned();
    assert_eq!(foreign.error(), "Relu of `y`: operators of `com.example` are not supported");

    let conv = |dims: &[usize]| {
        image().floats("w", dims, &vec![0.; dims.iter().product()]).node("Conv", &["x", "w"], "y", vec![])
    };
    assert!(conv(&[2, 3, 3, 3]).error().contains("has 4 channels, but its weights are for 3 in 1 groups"));
    assert!(conv(&[2, 4, 7, 7]).error().contains("kernel of extent 7 does not fit"));
    assert!(conv(&[2, 4, 3]).error().contains("its weights have 3 axes"));
    let unknown = image().node("Conv", &["x", "x"], "y", vec![Attribute::int("group", 1)]).error();
    assert!(unknown.starts_with("Conv of `y`: "), "{unknown}");
    let bias = conv(&[2, 4, 3, 3]).floats("b", &[3], &[0.; 3]);
    let mut bias = bias;
    bias.graph.node[0].input.push("b".to_owned());
    assert_eq!(bias.error(), "Conv of `y`: its constant `b` is of shape [3], but must be of [2]");

    let pool = |pad| {
        let attributes = vec![Attribute::ints("kernel_shape", &[2, 2]), Attribute::ints("pads", &[pad; 4])];
        image().node("MaxPool", &["x"], "y", attributes)
    };
    assert_eq!(pool(1).layers().len(), 1);
    assert!(pool(2).error().contains("padding"), "{}", pool(2).error());
    let features = Draft::new(&[1, 4]).node("AveragePool", &["x"], "y", vec![]).error();
    assert!(features.contains("its input"), "{features}");
    let gemm = image().floats("w", &[4, 2], &[0.; 8]).node("Gemm", &["x", "w"], "y", vec![]).error();
    assert_eq!(gemm, "Gemm of `y`: its input `x` has 4 axes, but must have 2");
    let gemm =
        Draft::new(&[1, 3]).floats("w", &[4, 2], &[0.; 8]).node("Gemm", &["x", "w"], "y", vec![]).error();
    assert_eq!(gemm, "Gemm of `y`: its input `x` has 3 features, but its matrix is for 4");
    let both = Draft::new(&[1, 1]).node("MatMul", &["x", "x"], "y", vec![]).error();
    assert!(both.contains("its input `x` must be a constant of the file"), "{both}");
    let norm = image()
        .floats("v", &[3], &[1.; 3])
        .node("BatchNormalization", &["x", "v", "v", "v", "v"], "y", vec![])
        .error();
    assert!(norm.contains("its constant `v` is of shape [3], but must be of [4]"), "{norm}");
    let mut external = conv(&[2, 4, 3, 3]);
    external.graph.initializer[0].data_location = 1;
    external.graph.initializer[0].raw_data = Default::default();
    assert!(external.error().contains("lies in another file"));
    let lrn = image().node("LRN", &["x"], "y", vec![Attribute::int("size", -1)]).error();
    assert_eq!(lrn, "LRN of `y`: its size must be a number of at least 1");
    let sum = |inputs: &[&str]| image().node("Sum", inputs, "y", vec![]);
    assert_eq!(sum(&["x", "x"]).layers(), [Layer::Add]);
    assert_eq!(sum(&["x", "x", "x"]).error(), "Sum of `y`: it adds 3 values; supported are 2");
    let unequal =
        image().node("GlobalAveragePool", &["x"], "g", vec![]).node("Add", &["x", "g"], "y", vec![]);
    assert!(unequal.error().contains("wants the shape of `input`, 4×6×6, but `g` gives 4×1×1"));
}

#[test]
fn errors_name_what_the_model_lacks() {
    let relu = |extents: &[usize]| Draft::new(extents).node("Relu", &["x"], "y", vec![]);
    assert_eq!(relu(&[1, 3, 0, 5]).error(), "axis 2 of the input `x` must have a fixed size");
    assert_eq!(relu(&[3]).error(), "the input `x` has 1 axis, but must have 2 to 4");
    assert_eq!(relu(&[]).error(), "the input `x` is a single number");
    assert!(relu(&[1, usize::MAX / 2, 9, 9]).error().contains("the input's shape"));
    let circle = Draft::new(&[1, 3]).node("Add", &["x", "b"], "a", vec![]).node("Relu", &["a"], "b", vec![]);
    assert!(circle.error().contains("waits for a circle of nodes"));
    let missing = Draft::new(&[1, 3]).node("Add", &["x", "b"], "a", vec![]).error();
    assert!(missing.contains("needs `b`, which is no input, no constant and no node's output"), "{missing}");
    let twice = relu(&[1, 3]).node("Relu", &["y"], "y", vec![]).error();
    assert!(twice.contains("the value `y` is made twice"), "{twice}");
    let mut two = relu(&[1, 3]).node("Add", &["y", "z"], "s", vec![]);
    two.graph.input.push(ValueInfo::float("z", vec![1.into(), 3.into()]));
    assert_eq!(two.error(), "has 2 inputs (`x`, `z`), but 1 is supported");
    let mut outputs = relu(&[1, 3]);
    outputs.graph.output = vec![ValueInfo::default(), ValueInfo::default()];
    assert!(outputs.error().starts_with("has 2 outputs (``, ``), but"));
    let mut elsewhere = relu(&[1, 3]);
    elsewhere.graph.output.push(ValueInfo { name: "q".to_owned(), r#type: None });
    assert_eq!(elsewhere.error(), "has 0 inputs, but 1 is supported");
    let mut no_type = relu(&[1, 3]);
    no_type.graph.input[0].r#type = None;
    assert_eq!(no_type.error(), "the file states no shape of the input `x`");
    let nothing = Draft::new(&[1, 3]).node("Identity", &["x"], "y", vec![]).error();
    assert_eq!(nothing, "its output `y` is not what a last layer gives");
    let old = Model { graph: Some(relu(&[1, 3]).graph), ..Default::default() }.encode_to_vec();
    assert!(onnx::read(old).unwrap_err().to_string().contains("does not say of which operators' version"));
    let mut mask =
        Draft::new(&[1, 3]).node("Dropout", &["x"], "y", vec![]).node("Add", &["y", "m"], "z", vec![]);
    mask.graph.node[0].output.push("m".to_owned());
    assert_eq!(mask.error(), "Dropout of `y`: its output `m` is not supported, only the first");
}
