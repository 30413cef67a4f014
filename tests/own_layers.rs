//! Layers of one's own: models in ONNX's format, and benchdnn's problems.

mod models;

use std::collections::BTreeMap;

use harness::layers::{self, Layer, Skipped};
use harness::onnx::{self, proto};
use proptest::prelude::*;

use models::{Model, int, ints, resnet50, value_info, window};

/// What only these tests ask of a model.
impl Model {
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

fn text(name: &str, value: &str) -> proto::Attribute {
    proto::Attribute { name: name.to_owned(), s: value.as_bytes().to_vec(), kind: 3, ..Default::default() }
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
            "not measured: v1 has 3 spatial axes, but only 1 or 2 are supported",
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
