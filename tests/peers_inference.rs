//! ONNX Runtime, rten, tract and candle are right on every kind of convolution; where they cannot be had, it
//! is said why.

mod peers_common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use harness::bench::{blank, sampling, verified};
use harness::network::{Bench, Request};
use harness::peers::{NAMES, Paths, find};
use harness::pinning::Pool;
use harness::provenance::Run;
use harness::record::{Clock, Status};
use kernels::{ConvSpec, Layout};
use peers_common::{Task, peer, skip};

const SPECS: [&str; 15] = [
    "c16 h12 w14 o32 k3 p1",
    "c3 h17 w19 o16 k7 s2 p3",
    "c32 h9 w9 o64 k1",
    "c16 h10 w10 o16 k1 s2",
    "c8 h11 w13 o8 k3x2 s2x1 p1,0,2,1",
    "c8 h15 w15 o16 k3 p2 d2",
    "c5 h16 w12 o7 k3x3 d1x3 p1",
    "c16 h8 w8 o32 k3 p1 g4",
    "c32 h10 w11 o32 k3 p1 g32",
    "c12 h10 w11 o24 k5 s2 p2 g12",
    "n3 c16 h8 w9 o16 k3 p1",
    "c1 h6 w7 o1 k2",
    "c16 h12 w14 o32 k3 p1 nhwc",
    "n2 c24 h9 w7 o24 k3 p1 g24 nhwc",
    "n2 c6 h9 w7 o10 k3 s2 p0,0,1,1 nhwc",
];

/// What candle's convolution has no parameters for.
const NOT_CANDLES: [&str; 3] = [SPECS[4], SPECS[6], SPECS[14]];

/// Compares a peer with the float64 definition; says how many convolutions it did.
fn is_right(name: &str) -> usize {
    let peer = peer(name);
    let mut done = 0;
    for threads in [1, 2] {
        let pool = Pool::new(threads).unwrap();
        for text in SPECS {
            let task = Task::new(text);
            let Task { layer, output, .. } = &task;
            let mut row = blank(layer, peer.as_ref(), &pool, Clock::Warm, None);
            match verified(peer.as_ref(), layer, task.io(), &pool, sampling(layer), &mut row) {
                Err(refusal) if refusal.status == Status::Unavailable => {
                    skip(name, &refusal.reason);
                    return 0;
                }
                Err(refusal) => panic!("{name} on {text}, {threads} threads: {refusal:?}"),
                Ok(mut prepared) => {
                    done += 1;
                    assert!(row.engine_version.is_some() && row.plan_ns > Some(0.0), "{row:?}");
                    let nhwc = layer.spec.layout() == Layout::Nhwc;
                    assert_eq!(row.reorder_ns.is_some(), nhwc, "{row:?}");
                    // Later runs give the same.
                    let first = output.borrow().clone();
                    output.borrow_mut().fill(f32::NAN);
                    prepared.time(3).unwrap();
                    prepared.store(&mut output.borrow_mut()).unwrap();
                    assert_eq!(first, *output.borrow(), "{name} on {text}");
                }
            }
        }
    }
    done
}

#[test]
fn onnxruntime_is_right() {
    assert!([0, 2 * SPECS.len()].contains(&is_right("onnxruntime")));
}

#[test]
fn rten_is_right() {
    assert_eq!(is_right("rten"), built_in(2 * SPECS.len()));
}

#[test]
fn tract_is_right() {
    assert_eq!(is_right("tract"), built_in(2 * SPECS.len()));
}

/// In a program of its own: how many threads candle has is settled when a program begins.
#[test]
fn candle_is_right() {
    let file = std::env::temp_dir().join(format!("harness-candle-{}.jsonl", std::process::id()));
    let mut command = Command::new(env!("CARGO_BIN_EXE_convbench"));
    command.args(["bench", "--peers", "candle", "--threads", "1,2", "--kernel", "naive", "--time", "0.001"]);
    for spec in SPECS {
        command.args(["--spec", spec]);
    }
    let output = command.arg("--json").arg(&file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (rows, _) = harness::record::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let of_candle: Vec<_> = rows.iter().filter(|row| row.engine == "candle").collect();
    assert_eq!(of_candle.len(), 2 * SPECS.len());
    let not = NOT_CANDLES.map(|spec| spec.parse::<ConvSpec>().unwrap().to_string());
    let mut done = 0;
    for row in of_candle {
        let reason = row.reason.as_deref().unwrap_or_default();
        match row.status {
            Status::Unavailable => skip("candle", reason),
            Status::Unsupported => assert!(not.contains(&row.spec) && reason.contains("one for"), "{row:?}"),
            status => {
                assert_eq!(status, Status::Ok, "{row:?}");
                done += 1;
            }
        }
    }
    assert_eq!(done, built_in(2 * (SPECS.len() - NOT_CANDLES.len())));
}

/// Convolutions that an engine of the feature does: none without the feature.
fn built_in(convolutions: usize) -> usize {
    if cfg!(feature = "peers") { convolutions } else { 0 }
}

#[test]
fn names_are_known_or_refused() {
    let names = |names: &[&str]| -> Vec<String> { names.iter().map(|name| (*name).to_owned()).collect() };
    let error = find(&names(&["rten", "tvm"]), &Paths::default(), None).unwrap_err();
    assert!(error.starts_with("`tvm` is no peer; known are all, "), "{error}");
    assert!(NAMES.iter().all(|name| error.contains(name)), "{error}");
    let some = find(&names(&["candle", "rten", "candle"]), &Paths::default(), None).unwrap();
    assert_eq!(some.iter().map(|peer| peer.engine()).collect::<Vec<_>>(), ["rten", "candle"]);
    let all = find(&names(&["all", "rten"]), &Paths::default(), None).unwrap();
    for name in NAMES {
        assert!(all.iter().any(|peer| peer.engine().starts_with(name)), "{name}");
    }
    assert!(find(&[], &Paths::default(), None).unwrap().is_empty());
}

/// Each is a way to name something that is not ONNX Runtime.
fn wrong_libraries() -> Vec<(PathBuf, &'static str)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut wrong = vec![
        (PathBuf::from("/no/libonnxruntime.so"), "No such file"),
        (root.join("Cargo.toml"), ""),
        (root, "is a folder, but must be ONNX Runtime's shared library"),
    ];
    // The library that every program here has.
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    if let Some(path) = maps.split_whitespace().find(|word| word.contains("/libc.so")) {
        wrong.push((path.into(), "is no ONNX Runtime: it has no function OrtGetApiBase"));
    }
    wrong
}

#[test]
fn a_path_that_was_given_must_be_right() {
    for (path, reason) in wrong_libraries() {
        let paths = Paths { onnxruntime: Some(path.clone()), ..Default::default() };
        let error = find(&["onnxruntime".to_owned()], &paths, None).unwrap_err();
        let start = format!("{}: ", path.display());
        assert!(error.starts_with(&start) && error.contains(reason), "{error}");
        assert!(error.len() > start.len() + 5 && !error.contains('\n'), "{error}");
        let output = Command::new(env!("CARGO_BIN_EXE_convbench"))
            .args(["bench", "--spec", "c4 h5 w5 o4 k3", "--peers", "onnxruntime", "--onnxruntime"])
            .arg(&path)
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            (output.status.code(), said.as_str()),
            (Some(2), format!("convbench: {error}\n").as_str())
        );
    }
}

/// Whole networks give the same as ours, with folded normalisations, on two threads too. (AlexNet and VGG-16 have a
/// hundred million weights: `convbench net vgg16 --peers onnxruntime` compares them as well.)
#[test]
fn networks_are_the_same() {
    for name in ["onnxruntime", "tract"] {
        let peers = [peer(name)];
        let networks = [
            ("lenet5", [1, 28, 28]),
            ("resnet18", [3, 40, 48]),
            ("resnet50", [3, 33, 40]),
            ("mobilenet_v2", [3, 40, 33]),
        ];
        for (network, shape) in networks {
            let shape = cnn::Shape::image(shape[0], shape[1], shape[2]);
            let graph = cnn::networks::sized(network, shape, 7).unwrap();
            let request = Request {
                name: network,
                graph: &graph,
                kernels: &["auto".to_owned()],
                accuracy: kernels::Accuracy::Standard,
                peers: &peers,
                time: Duration::from_millis(5),
                run: Arc::new(Run::new("test".to_owned())),
            };
            let bench = Bench::new(request, None).unwrap();
            for (batch, threads) in [(1, 1), (3, 2)] {
                let rows = bench.measure(batch, threads, None, &mut || true).unwrap().rows;
                let theirs = &rows[1];
                if theirs.status == Status::Unavailable {
                    skip(name, theirs.reason.as_deref().unwrap());
                    break;
                }
                assert_eq!(theirs.status, Status::Ok, "{theirs:?}");
                assert!(theirs.difference.unwrap() < 1e-5 && theirs.ratio.unwrap() > 0.0, "{theirs:?}");
                assert!(theirs.version.is_some() && theirs.first_ns > Some(0.0), "{theirs:?}");
                let convolutions = theirs.parts.iter().filter(|part| part.kind == "Conv").count();
                let told = graph.nodes().iter().filter(|node| node.layer().kind() == "Conv").count();
                assert_eq!(convolutions, if name == "onnxruntime" { told } else { 0 }, "{theirs:?}");
            }
        }
    }
}

/// A library of another age, made on the spot.
#[test]
fn an_old_library_is_refused() {
    let folder = std::env::temp_dir().join(format!("harness-peers-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let source = "
        #[repr(C)]
        pub struct Base {
            api: extern \"system\" fn(u32) -> *const u8,
            version: extern \"system\" fn() -> *const u8,
        }
        extern \"system\" fn api(_: u32) -> *const u8 { std::ptr::null() }
        extern \"system\" fn version() -> *const u8 { c\"VERSION\".as_ptr().cast() }
        static BASE: Base = Base { api, version };
        #[unsafe(no_mangle)]
        pub extern \"system\" fn OrtGetApiBase() -> *const Base { &BASE }";
    for (version, reason) in [
        ("1.16.3", "is ONNX Runtime 1.16.3, but must be 1.17 or newer"),
        ("2.0.0", "is ONNX Runtime 2.0.0, but must be 1.17 or newer"),
        ("1.40.0", "is ONNX Runtime 1.40.0, which lacks version 17 of its C API"),
    ] {
        let (file, library) = (folder.join("old.rs"), folder.join(format!("old-{version}.so")));
        std::fs::write(&file, source.replace("VERSION", version)).unwrap();
        let rustc = Command::new("rustc")
            .args(["--edition=2024", "--crate-type=cdylib", "-o"])
            .args([&library, &file])
            .output();
        let Ok(output) = rustc else { return println!("skipped: there is no rustc to make libraries with") };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let paths = Paths { onnxruntime: Some(library.clone()), ..Default::default() };
        let error = find(&["onnxruntime".to_owned()], &paths, None).unwrap_err();
        assert_eq!(error, format!("{}: {reason}", library.display()));
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Without the feature its engines are there and say how to get them.
#[cfg(not(feature = "peers"))]
#[test]
fn engines_of_the_feature_say_how_to_get_them() {
    let pool = Pool::new(1).unwrap();
    let task = Task::new("c4 h5 w5 o4 k3");
    for name in ["rten", "tract", "candle"] {
        let peer = peer(name);
        let refusal = peer.prepare(&task.layer.spec, task.io(), &pool).err().unwrap();
        assert_eq!(refusal.status, Status::Unavailable);
        assert!(refusal.reason.contains("without the feature `peers`"), "{}", refusal.reason);
        assert!(refusal.reason.contains("--features peers"), "{}", refusal.reason);
    }
}
