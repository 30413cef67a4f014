//! Layers of one's own: models in ONNX's format, benchdnn's problems, and how the command line takes them.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use harness::layers::{self, Layer, Skipped};
use harness::onnx::{self, proto};
use proptest::prelude::*;
use prost::Message;

/// A graph as it is written down, node by node.
#[derive(Default)]
struct Model {
    graph: proto::Graph,
}

impl Model {
    fn with_input(dims: &[i64]) -> Self {
        let mut model = Model::default();
        model.graph.input.push(value_info("x", dims));
        model
    }

    fn constant(&mut self, name: &str, dims: &[i64]) -> String {
        let tensor =
            proto::Tensor { name: name.to_owned(), dims: dims.to_vec(), data_type: 1, ..Default::default() };
        self.graph.initializer.push(tensor);
        name.to_owned()
    }

    fn numbers(&mut self, name: &str, values: &[i64]) -> String {
        self.graph.initializer.push(proto::Tensor {
            name: name.to_owned(),
            dims: vec![values.len() as i64],
            data_type: 7,
            raw_data: values.iter().flat_map(|n| n.to_le_bytes()).collect(),
            ..Default::default()
        });
        name.to_owned()
    }

    /// A node; its output is named by its number.
    fn node(&mut self, op: &str, inputs: &[&str], attributes: Vec<proto::Attribute>) -> String {
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
    fn conv(&mut self, x: &str, weights: &[i64], attributes: Vec<proto::Attribute>) -> String {
        let w = self.constant(&format!("w{}", self.graph.node.len()), weights);
        self.node("Conv", &[x, &w], attributes)
    }

    fn bytes(&self) -> Vec<u8> {
        proto::Model { ir_version: 8, graph: Some(self.graph.clone()), ..Default::default() }.encode_to_vec()
    }

    fn layers(&self) -> Result<(Vec<Layer>, Vec<Skipped>), String> {
        onnx::layers(&self.bytes(), "net.onnx").map_err(|error| error.to_string())
    }

    /// The one line of a refusal.
    fn refusal(&self) -> String {
        let message = self.layers().unwrap_err();
        assert!(message.starts_with("net.onnx: ") && message.lines().count() == 1, "{message}");
        message
    }
}

/// Dimensions of 0 have a name instead.
fn value_info(name: &str, dims: &[i64]) -> proto::ValueInfo {
    let dim = |&n: &i64| proto::Dimension {
        extent: Some(if n == 0 { proto::Extent::Name("N".to_owned()) } else { proto::Extent::Value(n) }),
    };
    let shape = Some(proto::Shape { dim: dims.iter().map(dim).collect() });
    let tensor_type = Some(proto::TensorType { elem_type: 1, shape });
    proto::ValueInfo { name: name.to_owned(), r#type: Some(proto::Type { tensor_type }) }
}

fn ints(name: &str, values: &[i64]) -> proto::Attribute {
    proto::Attribute { name: name.to_owned(), ints: values.to_vec(), kind: 7, ..Default::default() }
}

fn int(name: &str, value: i64) -> proto::Attribute {
    proto::Attribute { name: name.to_owned(), i: value, kind: 2, ..Default::default() }
}

fn text(name: &str, value: &str) -> proto::Attribute {
    proto::Attribute { name: name.to_owned(), s: value.as_bytes().to_vec(), kind: 3, ..Default::default() }
}

fn window(kernel: i64, stride: i64, pad: i64) -> Vec<proto::Attribute> {
    vec![ints("kernel_shape", &[kernel; 2]), ints("strides", &[stride; 2]), ints("pads", &[pad; 4])]
}

/// ResNet-50 version 1.5 with a batch that is not fixed, as frameworks write it.
fn resnet50() -> Model {
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

/// Shapes with their counts.
fn shapes(layers: &[Layer]) -> BTreeMap<String, usize> {
    let mut shapes = BTreeMap::new();
    for layer in layers {
        *shapes.entry(layer.spec.to_string()).or_default() += layer.count;
    }
    shapes
}

#[test]
fn a_model_of_resnet50_has_the_layers_of_its_file() {
    let (found, skipped) = resnet50().layers().unwrap();
    assert_eq!(skipped, []);
    let listed = layers::network("resnet50").unwrap();
    assert_eq!(shapes(&found), shapes(&listed));
    assert!(found.iter().all(|layer| layer.network == "net"));
    // The file tells shapes apart that are the same.
    assert!(found.len() < listed.len());
    assert_eq!(found.iter().map(|layer| layer.count).sum::<usize>(), 53);
}

/// What a 1×1 convolution behind some nodes gets as its input shows what is known of their output.
#[test]
fn shapes_go_through_operators() {
    type Nodes = fn(&mut Model) -> String;
    let cases: [(&str, [i64; 4], Nodes, &str); 22] = [
        ("unary", [2, 8, 6, 5], |m| m.node("HardSwish", &["x"], vec![]), "n2 c8 h6 w5"),
        (
            "broadcast",
            [1, 8, 1, 5],
            |m| {
                let c = m.constant("c", &[8, 6, 1]);
                m.node("Mul", &["x", &c], vec![])
            },
            "c8 h6 w5",
        ),
        (
            "old broadcast",
            [1, 8, 6, 5],
            |m| {
                let c = m.constant("c", &[8]);
                m.node("Add", &["x", &c], vec![int("broadcast", 1), int("axis", 1)])
            },
            "c8 h6 w5",
        ),
        ("pool", [1, 8, 7, 7], |m| m.node("MaxPool", &["x"], window(3, 2, 0)), "c8 h3 w3"),
        (
            "pool that rounds up",
            [1, 8, 8, 8],
            |m| {
                let attributes = [window(3, 2, 0), vec![int("ceil_mode", 1)]].concat();
                m.node("AveragePool", &["x"], attributes)
            },
            "c8 h4 w4",
        ),
        (
            "automatic padding",
            [1, 8, 7, 8],
            |m| {
                let attributes = vec![
                    ints("kernel_shape", &[3, 3]),
                    ints("strides", &[2, 2]),
                    text("auto_pad", "SAME_UPPER"),
                ];
                m.node("MaxPool", &["x"], attributes)
            },
            "c8 h4 w4",
        ),
        ("global pool", [1, 8, 7, 7], |m| m.node("GlobalMaxPool", &["x"], vec![]), "c8 h1 w1"),
        ("mean", [1, 8, 7, 7], |m| m.node("ReduceMean", &["x"], vec![ints("axes", &[-1, 2])]), "c8 h1 w1"),
        ("concat", [1, 8, 7, 7], |m| m.node("Concat", &["x", "x", "x"], vec![int("axis", 1)]), "c24 h7 w7"),
        (
            "transpose",
            [1, 7, 6, 8],
            |m| m.node("Transpose", &["x"], vec![ints("perm", &[0, 3, 1, 2])]),
            "c8 h7 w6",
        ),
        (
            "pad",
            [1, 8, 7, 7],
            |m| m.node("Pad", &["x"], vec![ints("pads", &[0, 0, 1, 2, 0, 0, 3, 4])]),
            "c8 h11 w13",
        ),
        (
            "pad by an input",
            [1, 8, 7, 7],
            |m| {
                let pads = m.numbers("pads", &[0, 0, 1, 1, 0, 0, 1, 1]);
                m.node("Pad", &["x", &pads], vec![])
            },
            "c8 h9 w9",
        ),
        (
            "channel shuffle",
            [1, 8, 7, 5],
            |m| {
                let (apart, back) = (m.numbers("apart", &[0, 2, 4, 7, 5]), m.numbers("back", &[0, -1, 7, 5]));
                let y = m.node("Reshape", &["x", &apart], vec![]);
                let y = m.node("Transpose", &[&y], vec![ints("perm", &[0, 2, 1, 3, 4])]);
                m.node("Reshape", &[&y, &back], vec![])
            },
            "c8 h7 w5",
        ),
        (
            "split",
            [1, 8, 7, 7],
            |m| {
                m.node("Split", &["x"], vec![int("axis", 1), ints("split", &[3, 5])]);
                m.graph.node[0].output.push("second".to_owned());
                "second".to_owned()
            },
            "c5 h7 w7",
        ),
        (
            "slice",
            [1, 8, 7, 7],
            |m| {
                let attributes =
                    vec![ints("starts", &[1, -3]), ints("ends", &[i64::MAX, -1]), ints("axes", &[1, 3])];
                m.node("Slice", &["x"], attributes)
            },
            "c7 h7 w2",
        ),
        (
            "squeeze",
            [1, 8, 7, 5],
            |m| {
                let y = m.node("Squeeze", &["x"], vec![ints("axes", &[0])]);
                m.node("Unsqueeze", &[&y], vec![ints("axes", &[0])])
            },
            "c8 h7 w5",
        ),
        (
            "shape arithmetic",
            [1, 8, 6, 4],
            |m| {
                let shape = m.node("Shape", &["x"], vec![]);
                let (first, last) = (m.numbers("first", &[0]), m.numbers("last", &[4, 12, 4]));
                let batch = m.node("Gather", &[&shape, &first], vec![]);
                let target = m.node("Concat", &[&batch, &last], vec![int("axis", 0)]);
                m.node("Reshape", &["x", &target], vec![])
            },
            "c4 h12 w4",
        ),
        (
            "matrix product",
            [1, 8, 6, 4],
            |m| {
                let w = m.constant("m", &[4, 9]);
                m.node("MatMul", &["x", &w], vec![])
            },
            "c8 h6 w9",
        ),
        (
            "upsampling",
            [1, 8, 6, 4],
            |m| {
                let scales = proto::Attribute {
                    name: "scales".to_owned(),
                    floats: vec![1.0, 1.0, 2.0, 1.5],
                    ..Default::default()
                };
                m.node("Upsample", &["x"], vec![scales])
            },
            "c8 h12 w6",
        ),
        (
            "transposed convolution",
            [1, 8, 6, 4],
            |m| {
                let w = m.constant("t", &[8, 5, 2, 2]);
                m.node("ConvTranspose", &["x", &w], vec![ints("strides", &[2, 2])])
            },
            "c5 h12 w8",
        ),
        (
            "what the file states",
            [1, 8, 6, 4],
            |m| {
                m.graph.value_info.push(value_info("v0", &[0, 3, 9, 9]));
                m.node("Mystery", &["x"], vec![])
            },
            "c3 h9 w9",
        ),
        (
            "order",
            [1, 8, 6, 4],
            |m| {
                m.node("Relu", &["v1"], vec![]);
                m.node("MaxPool", &["x"], window(2, 2, 0));
                "v0".to_owned()
            },
            "c8 h3 w2",
        ),
    ];
    for (name, dims, nodes, want) in cases {
        let mut model = Model::with_input(&dims);
        let x = nodes(&mut model);
        let want: kernels::ConvSpec = format!("{want} o7 k1").parse().unwrap();
        model.conv(&x, &[7, want.in_channels() as i64, 1, 1], vec![]);
        let (layers, _) = model.layers().unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((layers.len(), layers[0].spec.to_string()), (1, want.to_string()), "{name}");
    }
}

#[test]
fn convolutions_have_their_attributes() {
    let mut model = Model::with_input(&[0, 8, 10, 9]);
    let grouped = vec![
        ints("strides", &[2, 1]),
        ints("pads", &[1, 2, 3, 4]),
        ints("dilations", &[1, 2]),
        int("group", 2),
    ];
    model.conv("x", &[6, 4, 3, 2], grouped);
    model.conv("x", &[6, 8, 3, 3], vec![text("auto_pad", "SAME_LOWER"), ints("strides", &[2, 2])]);
    model.conv("x", &[6, 8, 3, 3], vec![text("auto_pad", "SAME_UPPER"), ints("strides", &[2, 2])]);
    model.conv("x", &[6, 8, 3, 3], vec![text("auto_pad", "VALID")]);
    model.conv("x", &[6, 8, 3, 3], vec![]);
    model.graph.node[4].name = "the last one #5".to_owned();
    model.graph.node[0].name = "first conv".to_owned();
    let (layers, _) = model.layers().unwrap();
    let lines: Vec<String> = layers.iter().map(|l| format!("{} {} {}", l.name, l.count, l.spec)).collect();
    assert_eq!(
        lines,
        [
            "first_conv 1 n1 c8 h10 w9 o6 k3x2 s2x1 p1,2,3,4 d1x2 g2",
            "v1 1 n1 c8 h10 w9 o6 k3x3 s2x2 p1,1,0,1 d1x1 g1",
            "v2 1 n1 c8 h10 w9 o6 k3x3 s2x2 p0,1,1,1 d1x1 g1",
            "v3 2 n1 c8 h10 w9 o6 k3x3 s1x1 p0,0,0,0 d1x1 g1",
        ]
    );
    let mut row = Model::with_input(&[4, 8, 100]);
    row.conv("x", &[6, 8, 5], vec![ints("pads", &[2, 1])]);
    assert_eq!(row.layers().unwrap().0[0].spec.to_string(), "n4 c8 h1 w100 o6 k1x5 s1x1 p0,2,0,1 d1x1 g1");
}

#[test]
fn what_cannot_be_measured_is_said() {
    let mut model = Model::with_input(&[1, 8, 6, 4]);
    let w = model.constant("w", &[8, 8, 2, 2]);
    model.node("ConvTranspose", &["x", &w], vec![]);
    model.graph.input.push(value_info("clip", &[1, 3, 8, 16, 16]));
    let y = model.conv("clip", &[4, 3, 3, 3, 3], vec![]);
    assert!(
        model
            .refusal()
            .contains("no convolution in it that can be measured (2 skipped: `v0` is a transposed")
    );
    let shape = model.numbers("shape", &[1, 4, 6, 196]);
    let y = model.node("Reshape", &[&y, &shape], vec![]);
    model.conv(&y, &[5, 4, 1, 1], vec![]);
    let (layers, skipped) = model.layers().unwrap();
    assert_eq!(layers[0].spec.to_string(), "n1 c4 h6 w196 o5 k1x1 s1x1 p0,0,0,0 d1x1 g1");
    let lines: Vec<String> = skipped.iter().map(Skipped::to_string).collect();
    assert_eq!(
        lines,
        [
            "not measured: v0 is a transposed convolution",
            "not measured: v1 has 3 spatial axes, but only 1 or 2 can be measured",
        ]
    );
}

#[test]
fn refusals_name_the_node() {
    let with = |nodes: &dyn Fn(&mut Model)| {
        let mut model = Model::with_input(&[1, 8, 6, 4]);
        nodes(&mut model);
        model.refusal()
    };
    let contains = |message: String, want: &str| assert!(message.contains(want), "{message}\nlacks {want}");
    contains(
        with(&|m| {
            let y = m.node("NonZero", &["x"], vec![]);
            let y = m.node("Relu", &[&y], vec![]);
            m.conv(&y, &[7, 8, 1, 1], vec![]);
        }),
        "convolution of `v2`: the shape of its input is not known: shapes are known only up to NonZero of `v0` \
         (an operator that is not known here)",
    );
    contains(
        with(&|m| drop(m.conv("x", &[7, 4, 1, 1], vec![]))),
        "`x` has 8 channels, but its weights are for 4 in 1 groups",
    );
    contains(
        with(&|m| drop(m.conv("x", &[7, 8, 9, 9], vec![]))),
        "a kernel of extent 9 does not fit a padded input of 6",
    );
    contains(
        with(&|m| drop(m.conv("x", &[7, 8, 1], vec![]))),
        "its weights have 3 axes, but its input `x` has 4",
    );
    contains(
        with(&|m| drop(m.conv("x", &[7, 8, 3, 3], vec![ints("kernel_shape", &[5, 5])]))),
        "kernel_shape is [5, 5]",
    );
    contains(
        with(&|m| drop(m.conv("x", &[7, 8, i64::MAX, 3], vec![]))),
        "its kernel has an extent of 9223372036854775807",
    );
    contains(with(&|m| drop(m.conv("x", &[7, -8, 3, 3], vec![]))), "an extent of a constant is -8");
    contains(
        with(&|m| drop(m.conv("absent", &[7, 8, 1, 1], vec![]))),
        "node of `v0` needs `absent`, which is no input",
    );
    contains(with(&|m| drop(m.node("Conv", &["x"], vec![]))), "convolution of `v0`: it has no input 1");
    contains(with(&|m| drop(m.node("Relu", &["x"], vec![]))), "no convolution in it");
    contains(
        with(&|m| {
            m.node("Relu", &["v1"], vec![]);
            m.node("Relu", &["v0"], vec![]);
        }),
        "node of `v0` waits for a circle of nodes",
    );
    contains(
        with(&|m| {
            m.node("Relu", &["x"], vec![]);
            m.node("Relu", &["x"], vec![]);
            m.graph.node[1].output[0] = "v0".to_owned();
        }),
        "the value `v0` is made twice",
    );
    let mut sized_by_name = Model::with_input(&[1, 3, -1, -1]);
    sized_by_name.conv("x", &[7, 3, 3, 3], vec![]);
    contains(sized_by_name.refusal(), "convolution of `v0`: the height or width of `x` is not known");
    contains(
        with(&|m| {
            let rest = m.numbers("rest", &[7, -1]);
            let y = m.node("Reshape", &["x", &rest], vec![]);
            m.conv(&y, &[7, 8, 1, 1], vec![]);
        }),
        "shapes are known only up to Reshape of `v0` (its shape does not fit its input)",
    );
}

#[test]
fn no_extent_overflows() {
    let most = i64::MAX;
    let pool = |rule: &str, mode: i64, height: i64| {
        let mut model = Model::with_input(&[1, 1, height, 8]);
        // Twice what the format can state.
        let x = model.node("Concat", &["x", "x"], vec![int("axis", 2)]);
        let mut attributes = window(7, 5, 0);
        attributes.extend([text("auto_pad", rule), int("ceil_mode", mode)]);
        let x = model.node("MaxPool", &[&x], attributes);
        model.conv(&x, &[1, 1, 1, 1], vec![]);
        model.refusal()
    };
    for (rule, mode) in [("SAME_UPPER", 0), ("SAME_LOWER", 0), ("NOTSET", 1), ("VALID", 1)] {
        let wrong = pool(rule, mode, most);
        assert!(wrong.contains("an extent of 18446744073709551614, but at most"), "{wrong}");
        // The largest that goes through.
        let large = pool(rule, mode, most / 2);
        assert!(!large.contains("extent of"), "{large}");
    }
}

#[test]
fn what_is_no_model_is_refused() {
    let message = |bytes: &[u8]| onnx::layers(bytes, "a.onnx").unwrap_err().to_string();
    assert_eq!(message(b""), "a.onnx: is no ONNX model: it has no graph");
    assert_eq!(message(b"PK\x03\x04 an archive"), "a.onnx: is no ONNX model, or is cut off");
    assert_eq!(message(&[0x3a, 0x00]), "a.onnx: is an ONNX model without nodes, or no ONNX model");
    // A length that the file does not have.
    assert_eq!(message(&[0x3a, 0xff, 0xff, 0xff, 0xff, 0x7f]), "a.onnx: is no ONNX model, or is cut off");
    let whole = resnet50().bytes();
    for length in 1..whole.len() {
        assert_eq!(message(&whole[..length]).lines().count(), 1, "{length}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    /// Broken models give layers or one line, and end soon.
    #[test]
    fn broken_models_do_no_harm(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut model = resnet50();
        let shape = model.numbers("shape", &[0, -1, 4, 4]);
        let y = model.node("Reshape", &["v0", &shape], vec![]);
        let y = model.node("Slice", &[&y], vec![ints("starts", &[-2]), ints("ends", &[9]), ints("axes", &[1])]);
        model.node("Pad", &[&y], vec![ints("pads", &[0, 0, 1, 1, 0, 0, 1, 1])]);
        let mut bytes = model.bytes();
        for (place, value) in flips {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        if let Err(error) = onnx::layers(&bytes, "net.onnx") {
            prop_assert_eq!(error.to_string().lines().count(), 1);
        }
    }

    #[test]
    fn broken_descriptors_do_no_harm(text in "(--(mb|dir|dt|batch)=)?[gmbicohkwspdn0-9_\"*#,\\\\ \n-]{0,60}") {
        if let Err(error) = harness::benchdnn::parse(&text, "folder/a") {
            prop_assert_eq!(error.to_string().lines().count(), 1);
        }
    }
}

fn convbench(args: &[&str]) -> (Option<i32>, String, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_convbench")).args(args).stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// A folder that goes when the test ends well.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("own-layers-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = self.0.join(name);
        fs::write(&path, bytes).unwrap();
        path.display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_command_line_takes_three_formats() {
    let folder = Folder::new("formats");
    let list = |file: &str| {
        let (code, out, err) = convbench(&["bench", "--list", "--layers", file]);
        assert_eq!((code, err.as_str()), (Some(0), ""), "{file}");
        out
    };
    let own = list(&folder.write("own.txt", "a 2 c3 h9 w9 o4 k3"));
    let problems = list(&folder.write("problems", "--mb=1\nic3ih9oc4kh3n\"a*2\""));
    assert_eq!(own, problems);
    let model = resnet50().bytes();
    let known_by_name = list(&folder.write("resnet.ONNX", &model));
    let known_by_content = list(&folder.write("resnet.bin", &model));
    assert!(known_by_name.contains("n1 c64 h56 w56 o64 k3x3"), "{known_by_name}");
    assert_eq!(known_by_name, known_by_content);
    let mut odd = Model::with_input(&[1, 8, 6, 4]);
    let w = odd.constant("w", &[8, 8, 2, 2]);
    let y = odd.node("ConvTranspose", &["x", &w], vec![]);
    odd.conv(&y, &[4, 8, 3, 3], vec![]);
    let odd = folder.write("odd.onnx", odd.bytes());
    assert!(list(&odd).contains("\nnot measured: v0 is a transposed convolution\n"));
    let args = ["bench", "--problem", "ic8ih9oc8kh3ph1n\"mine\"", "--layers", &odd, "--batch", "1"];
    let (code, out, err) = convbench(&[&args[..], &["--kernel", "direct", "--time", "0.01"]].concat());
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("mine n1 c8 h9 w9 o8 k3x3 s1x1 p1,1,1,1"), "{out}");
    assert!(out.contains("v1 n1 c8 h7 w5 o4 k3x3") && out.contains("not measured: v0 is"), "{out}");
}

#[test]
fn the_command_line_refuses_in_one_line() {
    let folder = Folder::new("refusals");
    let refused = |args: &[&str], want: &str| {
        let (code, out, err) = convbench(&[&["bench"], args].concat());
        assert_eq!((code, out.as_str(), err.lines().count()), (Some(2), "", 1), "{args:?}: {err}");
        assert!(err.contains(want), "{err}\nlacks {want}");
    };
    let file = |name: &str, bytes: &[u8]| folder.write(name, bytes);
    refused(&["--problem", "ic3ih9oc4"], "kh is missing");
    refused(&["--problem", "ic3id9kd3oc4"], "is a 3-D problem");
    refused(
        &["--layers", &file("a", b"ic3ih9kh3oc4\nic3ih9kh3oc4zz\n")],
        "a:2: `ic3ih9kh3oc4zz`: `zz` is no part",
    );
    refused(
        &["--layers", &file("b", b"\n\n--dir=BWD_D\nic3ih9kh3oc4")],
        "b:3: `--dir=BWD_D`: BWD_D is not measured",
    );
    refused(&["--layers", &file("c.onnx", b"conv1 1 c3 h9 w9 o4 k3")], "c.onnx: is no ONNX model");
    refused(&["--layers", &file("d", &[0xff, 0xfe])], "d: is neither text (UTF-8) nor an ONNX model");
    refused(&["--layers", &file("e.onnx", b"")], "e.onnx: is no ONNX model: it has no graph");
    let cut = resnet50().bytes();
    refused(&["--layers", &file("f.onnx", &cut[..cut.len() / 2])], "f.onnx: is no ONNX model, or is cut off");
    refused(&["--layers", &folder.0.display().to_string()], "Is a directory");
    refused(&["--layers", "absent.onnx"], "absent.onnx: No such file");
}
