//! `convbench` as other programs call it: words, JSON fields, exit codes, files.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use harness::npy;
use serde_json::Value;

use common::{CONVBENCH, Folder, command, convbench, good, refusal, stderr};

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&good(args)).unwrap()
}

/// An array in a file of a folder's; its path.
fn write_array(folder: &Folder, name: &str, shape: &[usize], values: &[f32]) -> String {
    let path = folder.path(name);
    npy::write(Path::new(&path), shape, values).unwrap();
    path
}

#[test]
fn shape_does_the_lectures_arithmetic() {
    let text = good(&["shape", "c3 h32 w32 o10 k5 p2"]);
    assert!(text.contains("(32 - 5 + 4)/1 + 1 = 32"), "{text}");
    assert!(text.contains("parameters    760 (750 weights + 10 biases)"), "{text}");
    assert!(good(&["shape", "c1 h7 w7 o1 k3 s3"]).contains("floored"));
    // The spec may also come as several words.
    let facts = json(&["shape", "--json", "c64", "h256", "w256", "o32", "k1"]);
    assert_eq!(facts["output_shape"], serde_json::json!([1, 32, 256, 256]));
    assert_eq!(facts["parameters"], 2080);
    assert_eq!(facts["macs"], 134_217_728u64);
}

#[test]
fn kernels_lists_each_kernel_once() {
    let list = json(&["kernels", "--json", "--spec", "c8 h9 w9 o8 k3 s2"]);
    let rows = list.as_array().unwrap();
    assert_eq!(rows.len(), kernels::kernels().count());
    for row in rows {
        let name = row["name"].as_str().unwrap();
        let available = kernels::kernel(name).unwrap().availability();
        assert_eq!(row["available"], available.is_ok(), "{name}");
        assert_eq!(row["reason"].is_null(), available.is_ok(), "{name}");
    }
    let winograd = rows.iter().find(|row| row["name"] == "winograd").unwrap();
    assert_eq!(winograd["supported"], false);
    assert!(winograd["refusal"].as_str().unwrap().contains("stride 2x2 (needs 1x1)"));
    assert!(good(&["kernels", "--spec", "c8 h16 w16 o8 k1 nhwc"]).contains("auto takes pointwise"));
}

#[test]
fn a_capped_instruction_set_is_not_available() {
    let output = command(&["kernels", "--json"]).env("CONV_ISA", "wide").output().unwrap();
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    let row = |name| list.as_array().unwrap().iter().find(|row| row["name"] == name).unwrap();
    assert_eq!(row("direct/wide")["available"], true);
    assert_eq!(row("direct/avx2")["available"], false);
    assert!(row("direct/avx2")["reason"].as_str().unwrap().contains("CONV_ISA=wide"));
}

#[test]
fn an_unknown_cap_is_refused() {
    for args in [&["info"][..], &["bench", "--time", "0.01"], &["verify", "--cases", "1"]] {
        let output = command(args).env("CONV_ISA", "sse9").output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr(&output).contains("sse9"));
    }
}

#[test]
fn run_computes_a_convolution() {
    let folder = Folder::new("run");
    // The lecture's picture by hand: 3×3 input, 2×2 filter of ones.
    let x = write_array(&folder, "x.npy", &[1, 1, 3, 3], &[1., 2., 3., 4., 5., 6., 7., 8., -90.]);
    let w = write_array(&folder, "w.npy", &[1, 1, 2, 2], &[1.; 4]);
    let b = write_array(&folder, "b.npy", &[1], &[0.5]);
    let y = folder.path("y.npy");
    let run = |more: &[&str]| {
        let args = [&["run", "--input", &x, "--weights", &w, "--output", &y], more].concat();
        good(&args);
        npy::read(Path::new(&y), 4).unwrap()
    };
    for kernel in ["naive", "direct", "im2col-gemm", "auto"] {
        let array = run(&["--kernel", kernel, "--bias", &b]);
        assert_eq!(
            (array.shape, array.values),
            (vec![1, 1, 2, 2], vec![12.5, 16.5, 24.5, -70.5]),
            "{kernel}"
        );
    }
    assert_eq!(run(&["--kernel", "auto", "--relu", "--threads", "2"]).values, [12., 16., 24., 0.]);
    let padded = run(&["--kernel", "naive", "--padding", "1,0,0,1", "--stride", "2,1"]);
    assert_eq!((padded.shape, padded.values), (vec![1, 1, 2, 3], vec![3., 5., 3., 24., -71., -84.]));
    let same = run(&["--kernel", "naive", "--padding", "same"]);
    assert_eq!(same.shape, [1, 1, 3, 3]);
    let dilated = run(&["--kernel", "naive", "--dilation", "2", "--padding", "valid"]);
    assert_eq!((dilated.shape, dilated.values), (vec![1, 1, 1, 1], vec![-79.]));
    // NHWC: the same pixels with two channels side by side, one of them weighed with zeros.
    let pixels: Vec<f32> = (1..=9).flat_map(|i| [i as f32, 100.0]).collect();
    let x2 = write_array(&folder, "x2.npy", &[1, 3, 3, 2], &pixels);
    let w2 = write_array(&folder, "w2.npy", &[1, 2, 2, 2], &[1., 1., 1., 1., 0., 0., 0., 0.]);
    good(&["run", "--kernel", "auto", "--input", &x2, "--weights", &w2, "--layout", "nhwc", "--output", &y]);
    let array = npy::read(Path::new(&y), 4).unwrap();
    assert_eq!((array.shape, array.values), (vec![1, 2, 2, 1], vec![12., 16., 24., 28.]));
    // Two groups of one channel each: NCHW, a filter for each.
    let x3 = write_array(&folder, "x3.npy", &[1, 2, 1, 2], &[1., 2., 3., 4.]);
    let w3 = write_array(&folder, "w3.npy", &[2, 1, 1, 1], &[10., 100.]);
    good(&["run", "--kernel", "auto", "--groups", "2", "--input", &x3, "--weights", &w3, "--output", &y]);
    assert_eq!(npy::read(Path::new(&y), 4).unwrap().values, [10., 20., 300., 400.]);
}

#[test]
fn run_refuses_bad_input_and_leaves_no_file() {
    let folder = Folder::new("run-refusals");
    let x = write_array(&folder, "x.npy", &[1, 2, 3, 3], &[0.; 18]);
    let w = write_array(&folder, "w.npy", &[1, 2, 2, 2], &[0.; 8]);
    let b = write_array(&folder, "b.npy", &[2], &[0.; 2]);
    let y = folder.path("y.npy");
    let before = folder.names("");
    let run = |kernel: &str, more: &[&str]| {
        let args =
            [&["run", "--kernel", kernel, "--input", &x, "--weights", &w, "--output", &y], more].concat();
        let message = refusal(&args);
        assert_eq!(folder.names(""), before, "{more:?}");
        message
    };
    assert!(run("fft", &[]).contains("fft") && run("fft", &[]).contains("direct"));
    assert!(run("pointwise", &[]).contains("pointwise does not support kernel 2x2"));
    assert!(run("auto", &["--bias", &b]).contains("bias has 2 values, but the weights have 1 filters"));
    assert!(run("auto", &["--bias", &x]).contains("must have 1 axes"));
    assert!(run("auto", &["--stride", "0"]).contains("stride"));
    assert!(run("auto", &["--stride", "1,2,3"]).contains("1,2,3"));
    assert!(run("auto", &["--padding", "same,1"]).contains("same,1"));
    assert!(run("auto", &["--dilation", "9"]).contains("10"));
    assert!(run("auto", &["--groups", "2"]).contains("groups"));
    assert!(run("auto", &["--threads", "0"]).contains("threads"));
    assert!(run("auto", &["--padding", "18446744073709551615"]).contains("does not fit"));
    assert!(run("auto", &["--padding", "300000"]).contains("memory can be had"));
    let wrong = write_array(&folder, "w3.npy", &[1, 3, 2, 2], &[0.; 12]);
    let message = refusal(&["run", "--kernel", "auto", "--input", &x, "--weights", &wrong, "--output", &y]);
    assert!(message.contains("weights have 3 channels on axis 1, but 2 input channels in 1 groups need 2"));
    let missing = refusal(&["run", "--kernel", "auto", "--input", "no.npy", "--weights", &w, "--output", &y]);
    assert!(missing.contains("no.npy: No such file"), "{missing}");
    let nowhere = folder.path("no/y.npy");
    let message = refusal(&["run", "--kernel", "auto", "--input", &x, "--weights", &w, "--output", &nowhere]);
    assert!(message.contains("no/y.npy"), "{message}");
    assert!(!Path::new(&y).exists());
}

#[test]
fn bench_writes_complete_rows() {
    let folder = Folder::new("bench");
    let path = folder.path("rows.jsonl");
    let text = good(&[
        "bench",
        "--spec",
        "c8 h9 w9 o8 k3 p1",
        "--kernel",
        "direct,pointwise",
        "--time",
        "0.02",
        "--json",
        &path,
        "--roofs",
    ]);
    assert!(text.contains("GFLOP/s"), "{text}");
    assert_eq!(folder.names(""), ["rows.jsonl"]);
    let rows: Vec<Value> =
        fs::read_to_string(&path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 3);
    const FIELDS: [&str; 29] = [
        "schema",
        "layer",
        "spec",
        "requested",
        "kernel",
        "engine",
        "threads",
        "accuracy",
        "layout",
        "clock",
        "role",
        "status",
        "reason",
        "samples",
        "plans",
        "median_ns",
        "min_ns",
        "mad_ns",
        "ci_low_ns",
        "ci_high_ns",
        "gflops",
        "peak_fraction",
        "workspace_bytes",
        "packed_bytes",
        "plan_ns",
        "max_error",
        "error_bound",
        "error_measure",
        "count",
    ];
    for row in &rows {
        for field in FIELDS {
            assert!(row.get(field).is_some(), "{field}: {row}");
        }
        assert_eq!(
            [&row["clock"], &row["engine"], &row["layout"], &row["accuracy"]],
            ["warm", "ours", "nchw", "standard"]
        );
    }
    let find = |requested: &str, role: &str| {
        rows.iter().find(|row| row["requested"] == requested && row["role"] == role).unwrap()
    };
    let direct = find("direct", "main");
    assert_eq!(direct["status"], "ok");
    assert!(direct["kernel"].as_str().unwrap().starts_with("direct/"));
    let (median, gflops) = (direct["median_ns"].as_f64().unwrap(), direct["gflops"].as_f64().unwrap());
    assert!((gflops * median / (2.0 * 8.0 * 8.0 * 9.0 * 81.0) - 1.0).abs() < 1e-9);
    assert!(direct["peak_fraction"].as_f64().unwrap() > 0.0);
    assert_eq!(find("direct", "aa")["status"], "ok");
    let refused = find("pointwise", "main");
    assert_eq!((&refused["status"], refused["median_ns"].is_null()), (&"unsupported".into(), true));
    assert!(refused["reason"].as_str().unwrap().starts_with("pointwise does not support kernel 3x3"));
}

#[test]
fn bench_adds_little_to_its_measuring_time() {
    let start = std::time::Instant::now();
    good(&["bench", "--spec", "c16 h20 w20 o16 k3 p1", "--kernel", "direct", "--time", "0.2"]);
    let rows = 2.0;
    assert!(start.elapsed().as_secs_f64() < 0.2 * rows + 1.0, "{:?}", start.elapsed());
}

#[test]
fn bench_refuses_bad_input() {
    let folder = Folder::new("bench-refusals");
    assert!(refusal(&["bench", "--spec", "c1 h2 w2 o1 k3"]).contains("3"));
    assert!(refusal(&["bench", "--network", "vgg17"]).contains("known are"));
    assert!(refusal(&["bench", "--layers", "absent.txt"]).contains("absent.txt"));
    let file = folder.write("layers.txt", "good 1 c1 h3 w3 o1 k3\nbad c1 h3 w3 o1 k3\n");
    assert!(refusal(&["bench", "--layers", &file]).contains("layers.txt:2: `c1` is no count"));
    folder.write("layers.txt", [0xff, 0xfe]);
    refusal(&["bench", "--layers", &file]);
    assert!(refusal(&["bench", "--kernel", "fft"]).contains("fft"));
    assert!(refusal(&["bench", "--threads", "0"]).contains("--threads is 0"));
    for time in ["0", "-1", "NaN", "inf", "1e9"] {
        assert!(refusal(&["bench", &format!("--time={time}")]).contains("--time is"), "{time}");
    }
    let json = folder.path("no/rows.jsonl");
    assert!(refusal(&["bench", "--spec", "c1 h3 w3 o1 k3", "--json", &json]).contains("no/rows.jsonl"));
    let output = convbench(&["bench", "--spec", "c1 h5 w5 o1 k3", "--kernel", "pointwise", "--time", "0.01"]);
    assert_eq!(output.status.code(), Some(2));
    let output = convbench(&["bench", "--spec", "n100000 c1000 h1000 w1000 o1000 k3", "--time", "0.01"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("memory can be had"));
}

#[test]
fn bench_lists_without_measuring() {
    let text = good(&["bench", "--network", "resnet50", "--list"]);
    assert!(text.contains("conv5_3x3") && text.contains("networks: default, lenet5"), "{text}");
    let nhwc = good(&["bench", "--network", "lenet5", "--layout", "nhwc", "--list"]);
    assert_eq!(nhwc.matches(" nhwc\n").count(), 3, "{nhwc}");
}

#[test]
fn verify_counts_its_cases() {
    let text = good(&["verify", "--cases", "3", "--seed", "5", "--kernel", "naive,direct/wide"]);
    assert!(
        text.contains("naive") && text.contains("direct/wide") && text.matches("right").count() == 2,
        "{text}"
    );
    let rows = json(&["verify", "--cases", "2", "--kernel", "auto", "--json"]);
    assert_eq!(
        (&rows[0]["name"], &rows[0]["cases"], &rows[0]["status"]),
        (&"auto".into(), &2.into(), &"ok".into())
    );
    assert!(refusal(&["verify", "--cases", "0"]).contains("--cases is 0"));
    assert!(refusal(&["verify", "--cases", "-3"]).contains("-3"));
    assert!(refusal(&["verify", "--kernel", "fft"]).contains("fft"));
}

#[test]
fn gradients_are_verified_and_measured() {
    for (op, kernel, count) in [("backward-data", "direct/wide", 1), ("backward-weights", "product/wide", 1)]
    {
        let text = good(&["verify", "--op", op, "--cases", "9", "--kernel", kernel]);
        assert_eq!(text.matches("right").count(), count, "{text}");
        let bench =
            ["bench", "--op", op, "--spec", "c8 h9 w9 o8 k3 p1", "--time", "0.01", "--kernel", kernel];
        let text = good(&bench);
        assert!(text.contains(&format!("{op}, 1 thread")) && text.contains("GFLOP/s"), "{text}");
        let peer = ["bench", "--op", op, "--spec", "c8 h9 w9 o8 k3 p1", "--peers", "rten", "--time", "0.01"];
        let text = good(&peer);
        assert!(text.contains(&format!("rten is not measured for {op}")), "{text}");
    }
    assert!(
        refusal(&["bench", "--op", "backward-weights", "--kernel", "direct"])
            .contains("this build has auto, product")
    );
    assert!(refusal(&["verify", "--op", "sideways"]).contains("sideways"));
}

#[test]
fn poolings_stand_beside_the_memorys_roof() {
    let rows = json(&["pool", "--time", "0.002", "--layout", "nhwc", "--json"]);
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 26);
    for row in rows {
        assert!(row["of_roof"].as_f64().unwrap() > 0.0 && row["median_ns"].as_f64().unwrap() > 0.0, "{row}");
    }
    assert!(refusal(&["pool", "--threads", "0"]).contains("threads"));
}

#[test]
fn net_times_a_network_and_its_layers() {
    let text = good(&["net", "lenet5", "--batch", "1,3", "--time", "0"]);
    assert_eq!(text.matches("images/s").count(), 2, "{text}");
    assert!(text.contains("lenet5, batch 3, threads 1\n") && text.contains("\nc1+relu1"), "{text}");
    assert!(good(&["net", "resnet50", "--summary"]).ends_with("25 557 032   4 089 184 256\n"));
    let folder = Folder::new("cli-net");
    let file = folder.path("rows.jsonl");
    good(&["net", "lenet5", "--kernel", "direct,naive", "--batch", "1,2", "--time", "0.02", "--json", &file]);
    let results = harness::record::read_all(file.as_ref()).unwrap();
    assert_eq!((results.rows.len(), results.networks.len(), results.interrupted), (0, 4, false));
    for rows in results.networks.chunks(2) {
        let [direct, naive] = rows else { panic!("{rows:?}") };
        let ordered = [direct.min_ns, direct.quarter_ns, direct.median_ns, direct.three_quarters_ns];
        assert!(ordered.is_sorted() && ordered[0].is_some() && direct.samples >= 3, "{direct:?}");
        assert_eq!((direct.parts.len(), direct.difference), (7, Some(0.0)));
        assert!(direct.parts[0].kernel.as_ref().unwrap().starts_with("direct/"), "{direct:?}");
        assert_eq!((naive.requested.as_str(), naive.baseline.as_deref()), ("naive", Some("direct")));
        assert!(naive.difference.unwrap() < 1e-5 && naive.ratio.unwrap() < 0.7, "{naive:?}");
        let sum: f64 = direct.parts_ns();
        assert!((0.5..1.5).contains(&(sum / direct.median_ns.unwrap())), "{direct:?}");
    }
    let page_folder = folder.path("report");
    let verdict = good(&["report", &file, "--output", &page_folder]);
    assert!(verdict.starts_with("lenet5, batch 1, 1 thread: direct "), "{verdict}");
    let page = std::fs::read_to_string(folder.path("report/index.html")).unwrap();
    assert!(page.contains("<title>Whole networks: lenet5</title>") && page.matches("<h2>").count() == 2);
    assert_eq!(page.matches("class=\"part c-direct\"").count(), 4, "bars have convolutions");
    assert!(page.contains("c3+relu3") && page.contains("fully connected") && page.contains("pooling"));
    let markdown = std::fs::read_to_string(folder.path("report/report.md")).unwrap();
    assert!(markdown.contains("| 2, 1, naive |") && !markdown.contains("No row has a time"), "{markdown}");
    assert!(refusal(&["compare", &file, &file]).contains("only of whole networks"));
    let absent = refusal(&["net", "lenet5", "--peers", "onnxruntime", "--onnxruntime", "absent.so"]);
    assert!(absent.contains("absent.so"), "{absent}");
    assert!(refusal(&["net", "lenet5", "--peers", "caffe"]).contains("`caffe` is no peer"));
    assert!(refusal(&["net", "lenet5", "--onnxruntime", "x.so"]).contains("--peers does not name"));
    assert!(refusal(&["net", "lenet6"]).contains("`lenet6`, but must be lenet5"));
    assert!(refusal(&["net", "lenet5", "--batch", "0"]).contains("the batch is 0"));
    assert!(refusal(&["net", "lenet5", "--threads", "0"]).contains("threads"));
    assert!(refusal(&["net", "lenet5", "--kernel", "fft"]).contains("fft"));
    assert!(refusal(&["net", "lenet5", "--time", "-1"]).contains("-1"));
    assert!(refusal(&["net", "resnet50", "--batch", "100000000"]).contains("of memory can be had"));
}

#[test]
fn net_runs_models_on_images() {
    let folder = Folder::new("net-models");
    let (model, output) = (folder.path("lenet.onnx"), folder.path("y.npy"));
    assert!(good(&["net", "lenet5", "--save", &model]).contains("lenet5 with batches of any size is in "));
    let images: Vec<f32> = (0..2 * 784).map(|i| (i % 29) as f32 / 29.0).collect();
    let input = write_array(&folder, "x.npy", &[2, 1, 28, 28], &images);
    let args = ["net", &model, "--input", &input, "--time", "0"];
    let text = good(&[&args[..], &["--output", &output]].concat());
    assert!(text.contains("f5       Linear                    120        48 120"), "{text}");
    assert!(text.contains("largest of 10 outputs") && text.contains("\nimage 1   "), "{text}");
    assert!(text.contains(", batch 2, threads 1\n") && text.contains("c1+relu1 "), "{text}");
    let scores = npy::read(Path::new(&output), 2).unwrap();
    assert_eq!(scores.shape, [2, 10]);
    let file = folder.path("rows.jsonl");
    let largest = |args: &[&str]| {
        good(&[args, &["--json", &file]].concat());
        let rows = harness::record::read_all(file.as_ref()).unwrap().networks;
        rows.into_iter().map(|row| row.largest).collect::<Vec<_>>()
    };
    let rows = largest(&[&args[..], &["--kernel", "naive", "--threads", "1,2"]].concat());
    let (place, best) = rows[1][1][0];
    let value = scores.values[10 + place];
    assert!((value - best).abs() < 1e-5, "{rows:?}\n{scores:?}");
    assert!(scores.values[10..].iter().all(|x| *x <= value));
    // The same weights that the name has.
    let known = largest(&["net", "lenet5", "--input", &input, "--time", "0", "--threads", "1,2"]);
    assert_eq!(known[0], largest(&args)[0]);

    // The batch that a model says.
    let fixed = folder.path("fixed.onnx");
    good(&["net", &model, "--batch", "3", "--save", &fixed]);
    assert!(good(&["net", &fixed, "--time", "0"]).contains("batch 3, threads 1"));
    assert!(good(&["net", &fixed, "--batch", "1,2", "--time", "0"]).contains("batch 2, threads 1"));
    assert!(good(&["net", &fixed, "--summary"]).contains("\noutput "));
}

#[test]
fn net_refuses_models_and_images_in_one_line() {
    let folder = Folder::new("net-refusals");
    let model = folder.path("lenet.onnx");
    good(&["net", "lenet5", "--save", &model]);
    let refused = |input: &str| refusal(&["net", &model, "--input", input]);
    let wide = write_array(&folder, "wide.npy", &[1, 1, 28, 29], &[0.0; 812]);
    assert!(refused(&wide).contains("has shape [1, 1, 28, 29], but the network takes [batch, 1, 28, 28]"));
    let flat = write_array(&folder, "flat.npy", &[1, 784], &[0.0; 784]);
    assert!(refused(&flat).contains("has shape [1, 784], but must have 4 axes"));
    let none = write_array(&folder, "none.npy", &[0, 1, 28, 28], &[]);
    assert!(refused(&none).contains("the batch is 0"));
    assert!(refused(&folder.write("text.npy", "text")).contains("is no .npy file"));
    let two = write_array(&folder, "two.npy", &[2, 1, 28, 28], &[0.0; 1568]);
    let batch = refusal(&["net", &model, "--input", &two, "--batch", "3"]);
    assert!(batch.contains("holds 2 images, but --batch asks for [3]"), "{batch}");
    assert!(refusal(&["net", &model, "--output", "y.npy"]).contains("--input"));
    assert!(refusal(&["net", &folder.path("absent.onnx")]).contains("absent.onnx: No such file"));
    let whole = fs::read(&model).unwrap();
    let cut = folder.write("cut.onnx", &whole[..whole.len() / 2]);
    assert!(refusal(&["net", &cut]).contains("cut.onnx: is no ONNX model, or is cut off"));
    assert!(refusal(&["net", &wide]).contains("wide.npy: is no ONNX model"));
    // Images of a petabyte, of which a stride leaves little.
    let mut huge = cnn::Graph::new(cnn::Shape::image(1, 1 << 24, 1 << 24)).unwrap();
    huge.then("conv", cnn::Conv::new(1, 1, 1).stride(1 << 20)).unwrap();
    let bytes = cnn::onnx::write(&huge, &cnn::Weights::random(&huge, 1).unwrap(), None).unwrap();
    let huge = refusal(&["net", &folder.write("huge.onnx", bytes)]);
    assert!(huge.contains("of memory can be had"), "{huge}");
    let nowhere = refusal(&["net", "lenet5", "--save", &folder.path("no/folder.onnx")]);
    assert!(nowhere.contains("folder.onnx: No such file"), "{nowhere}");
    assert!(refusal(&["net", "lenet5", "--save", &model, "--batch", "1,2"]).contains("must be one number"));
    assert!(refusal(&["net", "lenet5", "--save", &model, "--batch", "0"]).contains("must be one number"));
    assert_eq!(fs::read(&model).unwrap(), whole);
}

#[test]
fn errors_measures_each_kernel_once() {
    let spec = "c8 h6 w7 o4 k3 p1";
    let list = json(&["errors", "--json", "--spec", spec]);
    let ran = |name: &str| {
        let of = |row: &&Value| row["kernel"].as_str().unwrap().split('/').next() == Some(name);
        list.as_array().unwrap().iter().filter(of).cloned().collect::<Vec<Value>>()
    };
    for name in ["naive", "im2col-gemm", "direct", "winograd-f2", "winograd-f4", "winograd-f6"] {
        let [row] = &ran(name)[..] else { panic!("{name}: {list}") };
        assert!(
            row["relative"].as_f64().unwrap() < 1e-4 && row["bound_share"].as_f64().unwrap() <= 1.0,
            "{row}"
        );
    }
    assert_eq!(ran("direct")[0]["times_direct"], 1.0);
    assert!(ran("pointwise").is_empty());
    assert!(refusal(&["errors", "--spec", spec, "--kernel", "pointwise"]).contains("kernel 3x3"));
}

/// Of the usual convolutions those that a kernel is for; one that is asked for, it must be for.
#[test]
fn errors_takes_the_usual_convolutions_that_a_kernel_supports() {
    let of = |kernels: &str| {
        let list = json(&["errors", "--json", "--kernel", kernels]);
        let spec = |row: &Value| row["spec"].as_str().unwrap().split(' ').nth(5).unwrap().to_owned();
        list.as_array().unwrap().iter().map(spec).collect::<Vec<String>>()
    };
    assert_eq!(of("winograd-f4"), ["k3x3"; 3]);
    assert_eq!(of("winograd-f4,winograd-f2-5x5"), ["k3x3", "k3x3", "k3x3", "k5x5", "k5x5", "k5x5"]);
    assert!(refusal(&["errors", "--kernel", "direct,pointwise"]).contains("kernel 3x3"));
    let five = ["errors", "--spec", "c8 h9 w9 o4 k5", "--kernel", "winograd-f4"];
    assert!(refusal(&five).contains("kernel 5x5"));
}

/// Before anything is printed.
#[test]
fn errors_refuses_what_memory_lacks_for() {
    let specs = ["--spec", "c8 h9 w9 o4 k3", "--spec", "n1000000 c1000 h1000 w1000 o1000 k3"];
    assert!(refusal(&[&["errors"][..], &specs].concat()).contains("of memory can be had"));
}

#[test]
fn accuracy_says_what_auto_may_take() {
    let spec = "c64 h56 w56 o64 k3 p1";
    let takes = |accuracy: &str| good(&["kernels", "--spec", spec, "--accuracy", accuracy]);
    assert!(takes("strict").contains("auto takes direct"));
    assert!(takes("standard").contains("auto takes winograd"));
    let bench = ["bench", "--spec", "c8 h12 w12 o8 k3 p1", "--time", "0.002", "--accuracy"];
    let runs = |accuracy: &str| good(&[&bench[..], &[accuracy]].concat());
    assert!(!runs("strict").contains("winograd"));
    assert!(runs("standard").contains("winograd-f4") && !runs("standard").contains("winograd-f6"));
    assert!(runs("relaxed").contains("winograd-f6"));
}

#[test]
fn rows_say_where_outputs_go() {
    let folder = Folder::new("stores");
    let (spec, rows) = ("c8 h5 w7 o32 k1 nhwc", folder.path("rows.jsonl"));
    let bench = ["bench", "--spec", spec, "--kernel", "pointwise,naive", "--time", "0.002", "--json", &rows];
    let says = |stores: &str| {
        good(&[&bench[..], &["--stores", stores]].concat());
        let text = fs::read_to_string(&rows).unwrap();
        let with = |what: &str| text.lines().filter(|row| row.contains(what)).count();
        // All three rows were asked.
        assert_eq!(with(&format!("\"stores\":\"{stores}\"")), 3);
        with("\"streams\":true")
    };
    assert_eq!(says("cached"), 0);
    // Both rows of the first kernel, where a vector is a cache line.
    let lines = if kernels::Isa::best().unwrap() == kernels::Isa::Avx512 { 2 } else { 0 };
    assert_eq!(says("streaming"), lines);
    refusal(&["bench", "--spec", spec, "--stores", "nowhere"]);
}

#[test]
fn auto_may_measure() {
    let kernels = ["kernels", "--spec", "c8 h12 w12 o8 k3 p1", "--effort"];
    let says = |effort: &str| good(&[&kernels[..], &[effort]].concat());
    assert!(says("measure").contains("measured to be the fastest"));
    assert!(!says("estimate").contains("measured"));
    refusal(&[&kernels[..], &["guess"]].concat());
    // There is nothing to be measured.
    refusal(&["kernels", "--effort", "measure"]);
}

#[test]
fn the_rest() {
    assert!(good(&["--version"]).starts_with("convbench 0."));
    for shell in ["bash", "zsh", "fish"] {
        assert!(good(&["completions", shell]).contains("convbench"));
    }
    assert!(good(&["--help"]).contains("verify"));
    assert!(refusal(&[]).contains("a command is missing"));
    assert!(refusal(&["dance"]).contains("dance"));
    assert!(refusal(&["shape"]).contains("SPEC"));
    assert!(refusal(&["shape", "c3 h32 w32 o10 k5 z9"]).contains("z9"));
    let facts = json(&["info", "--json"]);
    assert!(facts["isas"][0]["peak_gflops"].as_f64().unwrap() > 0.0, "{facts}");
    assert!(facts["bandwidth_gb_s"][0]["read"].as_f64().unwrap() > 0.0);
}

/// Output that nobody reads to its end is no error.
#[cfg(unix)]
#[test]
fn a_closed_pipe_is_no_panic() {
    for command in ["kernels", "info", "bench --list", "--help", "completions bash", "shape c1 h3 w3 o1 k3"] {
        let script = format!("{CONVBENCH} {command} | true; exit ${{PIPESTATUS[0]}}");
        let output = Command::new("bash").args(["-c", &script]).output().unwrap();
        assert!(output.status.success(), "{command}: {}", stderr(&output));
        assert!(output.stderr.is_empty(), "{command}: {}", stderr(&output));
    }
}

/// Ctrl-C keeps the complete rows, under the file's name, with a last line that says so.
#[cfg(unix)]
#[test]
fn an_interrupted_bench_keeps_its_rows() {
    let folder = Folder::new("interrupt");
    let path = folder.path("rows.jsonl");
    let args = ["bench", "--network", "lecture", "--kernel", "direct", "--time", "0.3", "--json", &path];
    let child = command(&args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    // Once the first layer's rows are there, or after ten seconds.
    for _ in 0..200 {
        std::thread::sleep(std::time::Duration::from_millis(50));
        if fs::read_to_string(format!("{path}.partial")).is_ok_and(|text| !text.is_empty()) {
            break;
        }
    }
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(folder.names(""), ["rows.jsonl"]);
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.len() >= 3, "{text}");
    assert_eq!(lines.last().unwrap()["status"], "interrupted");
    assert!(lines[..lines.len() - 1].iter().all(|row| row["status"] == "ok"));
}

#[test]
fn kernels_of_backward_passes_are_listed_apart() {
    let data = good(&["kernels", "--op", "backward-data", "--spec", "c4 h8 w8 o4 k3 s2 p1"]);
    assert!(
        data.lines().any(|line| line.starts_with("im2col-gemm ") && line.ends_with(" available")),
        "{data}"
    );
    assert!(
        data.lines().any(|line| line.starts_with("winograd ") && line.contains("does not support")),
        "{data}"
    );
    let weights = good(&["kernels", "--op", "backward-weights"]);
    assert!(weights.lines().any(|line| line.starts_with("product/wide ")), "{weights}");
    assert!(!good(&["kernels"]).contains("product"));
    let json = good(&["kernels", "--op", "backward-weights", "--json"]);
    assert!(json.contains("\"product/wide\""), "{json}");
}
