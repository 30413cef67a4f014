//! `convbench trace`: its page is whole or not there, its numbers are the definition's, its figures exist.

mod common;

use std::fs;

use cnn::{Weights, networks};
use common::{Folder, convbench, good, refusal};
use harness::data::Tensors;
use harness::oracle::Oracle;
use harness::trace::{Options, Subject, Trace};
use kernels::{ConvSpec, ErrorModel, PlanOptions};

/// The number of this name on a page.
fn number(page: &str, id: &str) -> f64 {
    let start = format!("<data id=\"{id}\" value=\"");
    let (_, rest) = page.split_once(&start).unwrap_or_else(|| panic!("no number `{id}`"));
    rest.split_once('"').unwrap().0.parse().unwrap()
}

fn traced(spec: &str, at: Option<[usize; 3]>) -> Trace {
    let spec = spec.parse().unwrap();
    Trace::new(&Options { at, ..Options::new(Subject::Spec(spec)) }).unwrap()
}

/// What is written out on the page is the oracle's, for windows in the padding, with strides and dilation, in groups.
#[test]
fn numbers_are_the_oracles() {
    let cases = [
        ("c3 h8 w8 o4 k3 p1", None),
        ("c3 h8 w8 o4 k3 p1", Some([3, 0, 7])),
        ("c2 h11 w14 o3 k3x2 s2x3 d2x1 p2,0,1,3", Some([2, 1, 1])),
        ("c16 h9 w7 o4 k5 p2 g2", Some([3, 4, 6])),
        ("c6 h5 w5 o12 k1 g6", Some([11, 2, 2])),
    ];
    for (text, at) in cases {
        let trace = traced(text, at);
        let spec: ConvSpec = text.parse().unwrap();
        let Tensors { input, .. } = &trace.case.tensors;
        assert!(input.iter().filter(|x| **x > 0.1).count() * 8 > input.len(), "{text}: nothing is drawn");
        let model = ErrorModel::Sum { k: 1.0 };
        let options = PlanOptions::default();
        let oracle = Oracle::new(&spec, &trace.case.tensors, &options, true, model);
        let [o, y, x] = trace.case.at;
        let want = oracle.sum([0, o, y, x]).value;
        for id in ["sum", "im2col-product"] {
            assert!((number(&trace.page, id) - want).abs() < 1e-12, "{text}: {id}");
        }
        assert!((number(&trace.page, "given") - want).abs() < 1e-5, "{text}");
        assert!(number(&trace.page, "sum-difference") < 1e-5, "{text}");
        assert_eq!(number(&trace.page, "out-height") as usize, spec.out_height(), "{text}");
        assert_eq!(number(&trace.page, "out-width") as usize, spec.out_width(), "{text}");
        let rows = spec.weights_len() / spec.out_channels();
        assert_eq!(number(&trace.page, "im2col-rows") as usize, rows, "{text}");
        assert_eq!(number(&trace.page, "im2col-columns") as usize, spec.out_height() * spec.out_width());
        match spec.kernel() {
            [3, 3] | [5, 5] => {
                assert!((number(&trace.page, "winograd-given") - want).abs() < 1e-4, "{text}");
                assert!(number(&trace.page, "winograd-difference") < 1e-12, "{text}");
                assert!(number(&trace.page, "winograd-kernel-difference") < 1e-4, "{text}");
            }
            _ => assert!(trace.page.contains("does not cover this layer"), "{text}"),
        }
    }
}

/// All maps of a network are there, with the values that the network gives, and the page needs nothing but itself.
#[test]
fn a_network_is_traced_whole() {
    let folder = Folder::new("trace-network");
    let (out, weights) = (folder.path("lenet"), folder.path("lenet5.safetensors"));
    let net = networks::lenet5().unwrap();
    Weights::random(&net, 5).unwrap().save(weights.as_ref()).unwrap();
    let printed = good(&["trace", "lenet5", "--weights", &weights, "--layer", "c3", "--output", &out]);
    let page = fs::read_to_string(format!("{out}/index.html")).unwrap();
    let names = folder.names("lenet");
    assert_eq!(names.len(), 17, "{names:?}");
    assert!(printed.contains("16 pictures"), "{printed}");
    for name in names.iter().filter(|name| name.ends_with(".png")) {
        assert!(page.contains(&format!("data-file=\"{name}\"")), "{name}");
        let bytes = fs::read(format!("{out}/{name}")).unwrap();
        let reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
        assert!(reader.info().width >= 20 && reader.info().height >= 7, "{name}");
    }
    for row in net.summary().rows.iter().filter(|row| row.kind != "Flatten") {
        assert!(page.contains(&format!("data-layer=\"{}\"", row.name)), "{}", row.name);
        assert!(page.contains(&row.shape), "{}", row.name);
    }
    assert!(page.contains("lenet5.safetensors") && page.contains("10×10×16") || page.contains("16×10×10"));
    for outside in ["http://", "https://", "src=\"/", "@import", "<script"] {
        assert!(!page.contains(outside), "{outside}");
    }
    // A second one takes its place.
    good(&["trace", "--spec", "c1 h6 w6 o2 k3", "--output", &out]);
    assert_eq!(folder.names("lenet").len(), 7);
    assert_eq!(folder.names("").len(), 2);
}

/// A picture of another size and a bare array both become the network's input.
#[test]
fn images_are_read() {
    let folder = Folder::new("trace-images");
    let png_file = folder.path("digit.png");
    let mut encoder = png::Encoder::new(fs::File::create(&png_file).unwrap(), 2, 2);
    encoder.set_color(png::ColorType::Rgb);
    let pixels = [255, 0, 0, 255, 0, 0, 0, 0, 255, 0, 0, 255];
    encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
    let spec: ConvSpec = "c3 h2 w2 o1 k1".parse().unwrap();
    let input = |file: &str, spec: ConvSpec| {
        let options = Options { image: Some(file.into()), ..Options::new(Subject::Spec(spec)) };
        Trace::new(&options).unwrap().case.tensors.input.to_vec()
    };
    assert_eq!(input(&png_file, spec), [1., 1., 0., 0., 0., 0., 0., 0., 0., 0., 1., 1.]);
    let grey = input(&png_file, "c1 h1 w1 o1 k1".parse().unwrap());
    assert!((grey[0] - (0.299 + 0.114) / 2.0).abs() < 1e-6, "{grey:?}");
    let npy_file = folder.path("x.npy");
    let values: Vec<f32> = (0..12).map(|i| i as f32).collect();
    harness::npy::write(npy_file.as_ref(), &[3, 2, 2], &values).unwrap();
    assert_eq!(input(&npy_file, spec), values);
}

#[test]
fn what_cannot_be_traced_is_refused_in_a_line() {
    let folder = Folder::new("trace-refusals");
    let out = folder.path("out");
    let refused = |args: &[&str], want: &str| {
        let message = refusal(&[&["trace"], args, &["--output", &out]].concat());
        assert!(message.contains(want), "{message}\nlacks {want}");
        assert!(!folder.names("").iter().any(|name| name.starts_with("out")), "{message}");
    };
    refused(&[], "<NETWORK");
    refused(&["lenet6"], "`lenet6`, but must be lenet5");
    refused(&["lenet5", "--spec", "c3 h8 w8 o4 k3"], "cannot be used with");
    refused(&["--spec", "c3 h2 w8 o4 k3"], "kernel");
    refused(&["--spec", "c30000 h30000 w30000 o4 k3"], "memory");
    refused(&["lenet5", "--layer", "c2"], "no convolution is called `c2`; there are c1, c3");
    refused(&["lenet5", "--at", "6,0,0"], "output 6,0,0 is not there: `c1` gives 6×28×28");
    refused(&["lenet5", "--at", "0,0"], "three numbers");
    refused(&["lenet5", "--kernel", "fft"], "fft");
    refused(&["lenet5", "--image", "absent.png"], "absent.png: No such file");
    refused(&["lenet5", "--weights", "absent.safetensors"], "absent.safetensors");
    let file = |name: &str, bytes: &[u8]| folder.write(name, bytes);
    refused(&["lenet5", "--image", &file("a.png", b"no picture")], "a.png: is no PNG image");
    let mut png_bytes = Vec::new();
    let encoder = png::Encoder::new(&mut png_bytes, 40_000, 40_000);
    encoder.write_header().unwrap().write_chunk(png::chunk::IDAT, b"x").unwrap();
    refused(
        &["lenet5", "--image", &file("huge.png", &png_bytes)],
        "huge.png: 40000×40000 pixels are too many",
    );
    harness::npy::write(folder.path("x.npy").as_ref(), &[1, 27, 28], &[0.0; 756]).unwrap();
    refused(
        &["lenet5", "--image", &folder.path("x.npy")],
        "has shape [1, 27, 28], but the network takes [1, 28, 28]",
    );
    harness::npy::write(folder.path("nan.npy").as_ref(), &[1, 1], &[f32::NAN]).unwrap();
    refused(&["--spec", "c1 h1 w1 o1 k1", "--image", &folder.path("nan.npy")], "every value must be finite");
    // Somebody's folder stays as it is.
    let mine = folder.path("mine");
    fs::create_dir(&mine).unwrap();
    fs::write(format!("{mine}/index.html"), "mine").unwrap();
    let message = refusal(&["trace", "lenet5", "--output", &mine]);
    assert!(message.contains("holds index.html, which no trace has written"), "{message}");
    assert_eq!(fs::read_to_string(format!("{mine}/index.html")).unwrap(), "mine");
    let output = convbench(&["trace", "lenet5", "--output", &format!("{mine}/index.html/x")]);
    assert_eq!(output.status.code(), Some(2));
}

/// The words of a command line, as a shell splits them.
fn words(line: &str) -> Vec<String> {
    let parts = line.split('"').enumerate().flat_map(|(i, part)| match i % 2 {
        0 => part.split_whitespace().map(str::to_owned).collect(),
        _ => vec![part.to_owned()],
    });
    parts.collect()
}

/// The lecture's commands, from another folder, where a trained network's weights would be.
#[test]
fn the_lectures_commands_run() {
    let folder = Folder::new("trace-lecture");
    let weights = folder.path("target/lenet/lenet5.safetensors");
    fs::create_dir_all(folder.path("target/lenet")).unwrap();
    let net = networks::lenet5().unwrap();
    Weights::random(&net, 1).unwrap().save(weights.as_ref()).unwrap();
    let start = "cargo run --release --bin convbench -- ";
    let text = include_str!("../cnn/LECTURE.md");
    let commands: Vec<Vec<String>> =
        text.lines().filter_map(|line| line.strip_prefix(start)).map(words).collect();
    assert!(commands.len() >= 8, "{commands:?}");
    for mut args in commands {
        if args[0] == "net" && !args.contains(&"--summary".to_owned()) {
            // The first of several batches and numbers of threads, as briefly as can be.
            args.iter_mut().for_each(|arg| *arg = arg.split(',').next().unwrap_or_default().to_owned());
            args.extend(["--time", "0"].map(str::to_owned));
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let output = common::command(&args).current_dir(folder.path("")).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", common::stderr(&output));
    }
    assert_eq!(folder.names("target/trace").len(), 5);
}
