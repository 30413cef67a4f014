//! How the command line takes layers of one's own.

mod common;
mod models;

use common::{Folder, convbench, good, refusal, stderr, stdout};
use models::{Model, resnet50};

#[test]
fn the_command_line_takes_three_formats() {
    let folder = Folder::new("layers-formats");
    let list = |file: &str| {
        let output = convbench(&["bench", "--list", "--layers", file]);
        assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""), "{file}");
        stdout(&output)
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
    let out = good(&[&args[..], &["--kernel", "direct", "--time", "0.01"]].concat());
    assert!(out.contains("mine n1 c8 h9 w9 o8 k3x3 s1x1 p1,1,1,1"), "{out}");
    assert!(out.contains("v1 n1 c8 h7 w5 o4 k3x3") && out.contains("not measured: v0 is"), "{out}");
}

#[test]
fn the_command_line_refuses_in_one_line() {
    let folder = Folder::new("layers-refusals");
    let json = folder.path("rows.jsonl");
    let refused = |args: &[&str], want: &str| {
        let message = refusal(&[&["bench", "--json", &json], args].concat());
        assert!(message.contains(want), "{message}\nlacks {want}");
        assert!(!folder.names("").iter().any(|name| name.starts_with("rows")), "{message}");
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
    refused(&["--layers", &folder.path("")], "Is a directory");
    refused(&["--layers", "absent.onnx"], "absent.onnx: No such file");
}
