//! oneDNN as a peer: right on every kind of convolution, tidy, and a reason where there is none.
//!
//! The tests that need the library take the system's, or the files that CONV_ONEDNN names, with colons
//! between them. Where there is none they say so and pass, unless CONV_REQUIRE_PEERS names `onednn`.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use harness::bench::{blank, sampling, verified};
use harness::buffer::Buffer;
use harness::data::{self, Kind, Tensors};
use harness::engine::{Engine, Io, Refusal, result};
use harness::layers::Layer;
use harness::peers::{self, Paths};
use harness::pinning::Pool;
use harness::record::{Clock, Gradient, Record, Status};
use kernels::{ConvSpec, Workspace};

/// Whoever measures memory wants no others beside.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

fn find(onednn: Vec<PathBuf>) -> Result<Vec<Box<dyn Engine>>, String> {
    find_for(onednn, None)
}

fn find_for(onednn: Vec<PathBuf>, of: Option<Gradient>) -> Result<Vec<Box<dyn Engine>>, String> {
    peers::find(&["onednn".to_owned()], &Paths { onednn, ..Default::default() }, of)
}

/// The engines there are; none if there is no library.
fn engines() -> Vec<Box<dyn Engine>> {
    engines_of(None)
}

fn engines_of(gradient: Option<Gradient>) -> Vec<Box<dyn Engine>> {
    let files = variable("CONV_ONEDNN");
    let files = files.split(':').filter(|file| !file.is_empty()).map(PathBuf::from);
    let mut engines = find_for(files.collect(), gradient).unwrap();
    engines.retain(|engine| engine.version().is_some());
    if engines.is_empty() {
        let required = variable("CONV_REQUIRE_PEERS").split(',').any(|peer| peer.trim() == "onednn");
        assert!(!required, "CONV_REQUIRE_PEERS names onednn, but the system has no library of it");
        eprintln!("skipped: the system has no library of oneDNN");
    }
    engines
}

/// The buffers of a convolution.
struct Buffers {
    tensors: Tensors,
    output: RefCell<Buffer>,
    workspace: RefCell<Workspace<'static>>,
}

impl Buffers {
    fn new(spec: &ConvSpec, gradient: Option<Gradient>) -> Self {
        let tensors = data::tensors(spec, Kind::Real, 1);
        let output = RefCell::new(result(spec, gradient));
        Buffers { tensors, output, workspace: RefCell::default() }
    }

    fn io(&self) -> Io<'_> {
        Io { tensors: &self.tensors, output: &self.output, workspace: &self.workspace }
    }
}

/// What becomes of a convolution that an engine is asked for.
fn row(engine: &dyn Engine, spec: &str, pool: &Pool) -> (Record, Result<(), Refusal>) {
    let layer = Layer::of_spec(spec.parse().unwrap());
    let buffers = Buffers::new(&layer.spec, engine.gradient());
    let mut row = blank(&layer, engine, pool, Clock::Warm, None);
    let outcome = verified(engine, &layer, buffers.io(), pool, sampling(&layer), &mut row).map(drop);
    (row, outcome)
}

/// Whether a library whose threads are not OpenMP's was asked for several.
fn one_thread_only(outcome: &Result<(), Refusal>) -> bool {
    let refusal = outcome.as_ref().err();
    refusal.is_some_and(|refusal| refusal.reason.contains(" runs on one thread here: of its threads ("))
}

const SPECS: [&str; 18] = [
    "c1 h1 w1 o1 k1",
    "c64 h14 w14 o64 k3 p1",
    "c3 h32 w32 o16 k7 s2 p3",
    "c16 h17 w13 o24 k3x2 s2x1 p1,0,2,1",
    "c5 h11 w12 o7 k3 p0,2,1,0",
    "c16 h20 w20 o16 k3 p2 d2",
    "c8 h21 w19 o8 k3x3 p3,1 d3x1 s2",
    "c32 h12 w12 o48 k3 p1 g4",
    "c6 h12 w12 o9 k3 p1 g3",
    "c32 h15 w15 o32 k3 p1 g32",
    "c32 h16 w16 o32 k3 s2 p0,0,1,1 g32",
    "c12 h9 w9 o24 k5 p2 g12",
    "n3 c16 h10 w10 o32 k3 p1",
    "c64 h14 w14 o64 k1 nhwc",
    "n2 c16 h13 w11 o20 k3 s2 p1 nhwc",
    "c24 h14 w14 o24 k3 p1 g24 nhwc",
    "c16 h12 w12 o16 k3 p2 d2 g2 nhwc",
    "c256 h1 w1 o100 k1",
];

#[test]
fn results_are_right() {
    let _alone = alone();
    let engines = engines();
    for threads in [1, 2] {
        let pool = Pool::new(threads).unwrap();
        for engine in engines.iter().filter(|engine| !engine.id().ends_with("winograd")) {
            for spec in SPECS {
                let (row, outcome) = row(engine.as_ref(), spec, &pool);
                if threads > 1 && one_thread_only(&outcome) {
                    continue;
                }
                assert_eq!(outcome, Ok(()), "{} on {spec}, {threads} threads", engine.id());
                assert!(!row.kernel.is_empty() && row.kernel != row.requested, "{row:?}");
                assert!(row.plan_ns.unwrap() > 0.0 && row.first_ns.unwrap() > 0.0, "{row:?}");
                assert!(row.packed_bytes.unwrap() >= 4 * spec.parse::<ConvSpec>().unwrap().weights_len());
                assert!(row.workspace_bytes.is_some());
                assert_eq!((row.engine.as_str(), row.engine_version), ("onednn", engine.version()));
            }
        }
    }
}

#[test]
fn gradients_are_right() {
    let _alone = alone();
    let pool = Pool::new(1).unwrap();
    for of in [Gradient::BackwardData, Gradient::BackwardWeights] {
        for engine in engines_of(Some(of)) {
            for spec in SPECS {
                let (row, outcome) = row(engine.as_ref(), spec, &pool);
                assert_eq!(outcome, Ok(()), "{} on {spec}, {}", engine.id(), of.name());
                assert_eq!((row.op, row.engine.as_str()), (Some(of), "onednn"));
                assert!(row.first_ns.unwrap() > 0.0 && row.max_error.unwrap() <= row.error_bound.unwrap());
            }
        }
    }
}

/// A direct convolution reads and writes blocks of channels: bringing them there and back takes time, and
/// brings the same result each time.
#[test]
fn reordering_is_timed() {
    let _alone = alone();
    let pool = Pool::new(1).unwrap();
    for engine in engines().iter().filter(|engine| !engine.id().ends_with("winograd")) {
        let (row, outcome) = row(engine.as_ref(), "c64 h28 w28 o64 k3 p1", &pool);
        assert_eq!(outcome, Ok(()));
        assert!(row.reorder_ns.unwrap() > 0.0, "{row:?}");
    }
}

/// Runs and reordering may come in any number and order.
#[test]
fn runs_can_be_repeated() {
    let _alone = alone();
    let pool = Pool::new(1).unwrap();
    let spec: ConvSpec = "c16 h20 w20 o16 k3 p1".parse().unwrap();
    let buffers = Buffers::new(&spec, None);
    for engine in engines().iter().filter(|engine| !engine.id().ends_with("winograd")) {
        let mut prepared = engine.prepare(&spec, buffers.io(), &pool).unwrap();
        let mut stored = [(); 2].map(|()| vec![f32::NAN; spec.output_len()]);
        for output in &mut stored {
            assert!(prepared.time(3).unwrap().as_nanos() > 0);
            prepared.reorder();
            prepared.store(output).unwrap();
        }
        assert!(stored[0] == stored[1] && stored[0].iter().all(|y| y.is_finite()));
        let error = prepared.store(&mut [0.0; 3]).unwrap_err();
        assert!(error.starts_with("oneDNN "), "{error}");
    }
}

/// Version 2 has Winograd's algorithm for AVX-512, by name; version 3 has none.
#[test]
fn winograd_is_a_row_of_its_own() {
    let _alone = alone();
    let pool = Pool::new(1).unwrap();
    for engine in engines().iter().filter(|engine| engine.id().ends_with("winograd")) {
        for spec in ["c64 h56 w56 o64 k3 p1", "n8 c128 h28 w28 o128 k3 p1"] {
            let (row, outcome) = row(engine.as_ref(), spec, &pool);
            let has = kernels::Isa::Avx512.availability().is_ok();
            match engine.version().unwrap().split('.').next() {
                Some("2") if has => {
                    assert_eq!(outcome, Ok(()), "{row:?}");
                    assert!(row.kernel.contains("wino"), "{}", row.kernel);
                    assert!(row.error_measure.unwrap().contains("G g G'"));
                }
                Some("3") => {
                    let Refusal { status, reason } = outcome.unwrap_err();
                    let want = " has no Winograd convolution for this (unimplemented)";
                    assert!(status == Status::Unsupported && reason.ends_with(want), "{reason}");
                }
                _ => eprintln!("skipped: no AVX-512"),
            }
        }
        let (_, outcome) = row(engine.as_ref(), "c64 h28 w28 o64 k3 s2 p1", &pool);
        assert_eq!(outcome.unwrap_err().status, Status::Unsupported);
    }
}

/// Plans are made and dropped by the thousand: memory stays as it is.
#[cfg(target_os = "linux")]
#[test]
fn plans_leave_nothing_behind() {
    let _alone = alone();
    let resident = || -> usize {
        let statm = fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let spec: ConvSpec = "c16 h6 w6 o16 k1".parse().unwrap();
    let buffers = Buffers::new(&spec, None);
    for (threads, plans) in [(1, 1000), (2, 300)] {
        let pool = Pool::new(threads).unwrap();
        for engine in engines().iter().filter(|engine| !engine.id().ends_with("winograd")) {
            let plan = |_| {
                let mut prepared = engine.prepare(&spec, buffers.io(), &pool)?;
                prepared.time(1).map_err(Refusal::unavailable).map(drop)
            };
            if threads > 1 && one_thread_only(&plan(0)) {
                continue;
            }
            (0..100).try_for_each(plan).unwrap();
            let before = resident();
            (0..plans).try_for_each(plan).unwrap();
            let more = resident().saturating_sub(before);
            // A plan holds tens of KiB.
            assert!(more < plans << 10, "{more} bytes more after {plans} plans with {}", engine.id());
        }
    }
}

/// The error of a file that is no library of oneDNN.
fn refused(file: &Path) -> String {
    let error = find(vec![file.to_owned()]).err().unwrap();
    assert!(!error.contains('\n') && error.starts_with(&format!("{}: ", file.display())), "{error}");
    error
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("conv-onednn-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Folder(folder)
    }

    fn file(&self, name: &str, contents: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, contents).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn files_that_are_no_library_are_named() {
    let folder = Folder::new("files");
    for (name, contents) in
        [("empty", &b""[..]), ("text.so", b"a library"), ("elf.so", b"\x7fELF\x02\x01\x01")]
    {
        let path = folder.file(name, contents);
        let error = refused(&path);
        // The name stands there once.
        assert_eq!(error.matches(name).count(), 1, "{error}");
    }
    assert!(refused(&folder.0).ends_with("is no file, but must be oneDNN's shared library"));
    refused(Path::new("/no/such/libdnnl.so"));
    refused(Path::new("no-such-libdnnl.so"));
}

#[cfg(target_os = "linux")]
#[test]
fn other_libraries_are_told_apart() {
    for other in ["libm.so.6", "libc.so.6"] {
        let error = refused(Path::new(other));
        assert!(error.ends_with("is no library of oneDNN 2 or 3: it has no dnnl_version"), "{error}");
    }
}

/// Libraries that claim to be some version of oneDNN but have nothing else.
#[test]
fn versions_are_checked() {
    let folder = Folder::new("versions");
    let source = |major: &str, result: &str| {
        format!(
            "#[repr(C)] pub struct Version([i32; 3], usize, u32, u32); \
             pub static VERSION: Version = Version([{major}, 7, 1], 0, 2, 0); \
             #[unsafe(no_mangle)] pub extern \"C\" fn dnnl_version() -> *const Version {{ {result} }}"
        )
    };
    let versions = [
        ("1", "&VERSION", "is oneDNN 1.7.1, but must be 2 or 3"),
        ("2", "&VERSION", "it has no dnnl_memory_desc_init_by_strides"),
        ("3", "&VERSION", "it has no dnnl_memory_desc_create_with_strides"),
        ("4", "&VERSION", "is oneDNN 4.7.1, but must be 2 or 3"),
        ("3", "std::ptr::null()", "does not know its version"),
    ];
    for (index, (major, result, want)) in versions.into_iter().enumerate() {
        let code = folder.file(&format!("v{index}.rs"), source(major, result).as_bytes());
        let library = folder.0.join(format!("v{index}.so"));
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let status = Command::new(rustc)
            .args(["--edition", "2024", "--crate-type", "cdylib", "-o"])
            .args([&library, &code])
            .status();
        assert!(status.unwrap().success());
        let error = refused(&library);
        assert!(error.ends_with(want), "{error}");
    }
}

/// Two libraries are two peers, each with two ids.
#[test]
fn libraries_are_told_apart() {
    let _alone = alone();
    let one = engines();
    let Some(version) = one.first().and_then(|engine| engine.version()) else { return };
    let Some(file) = library_file() else {
        eprintln!("skipped: the library's file is not known");
        return;
    };
    let ids: Vec<String> =
        find(vec![file.clone(), file]).unwrap().iter().map(|engine| engine.id().to_owned()).collect();
    let name = format!("onednn-{version}");
    let want = [&name, &format!("{name}-winograd"), &format!("{name}-2"), &format!("{name}-2-winograd")];
    assert!(ids.iter().eq(want), "{ids:?}");
}

/// A file that can be given.
fn library_file() -> Option<PathBuf> {
    let files = variable("CONV_ONEDNN");
    match files.split(':').next() {
        Some(file) if !file.is_empty() => Some(file.into()),
        _ => ["libdnnl.so.3", "libdnnl.so.2"]
            .into_iter()
            .map(PathBuf::from)
            .find(|file| find(vec![file.clone()]).is_ok()),
    }
}

/// Without a library there are engines all the same: they say why there is no time.
#[test]
fn an_engine_without_a_library_says_so() {
    let engines = find(Vec::new()).unwrap();
    let ids: Vec<&str> = engines.iter().map(|engine| engine.id()).collect();
    assert_eq!(ids, ["onednn", "onednn-winograd"]);
    if engines[0].version().is_none() {
        let (_, outcome) = row(engines[0].as_ref(), "c1 h3 w3 o1 k3", &Pool::new(1).unwrap());
        let Refusal { status, reason } = outcome.unwrap_err();
        assert_eq!(status, Status::Unavailable);
        assert!(
            reason.starts_with("the system has no library of oneDNN (") && !reason.contains('\n'),
            "{reason}"
        );
    }
}

/// A library that was named and cannot be used stops the program before it measures anything.
#[test]
fn a_named_library_must_be_there() {
    let output = Command::new(env!("CARGO_BIN_EXE_convbench"))
        .args(["bench", "--spec", "c1 h3 w3 o1 k3", "--peers", "onednn", "--onednn", "/no/such/libdnnl.so"])
        .output()
        .unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{message}");
    assert!(message.starts_with("convbench: /no/such/libdnnl.so: "), "{message}");
    assert_eq!(message.matches('\n').count(), 1, "{message}");
}

/// Nor is one named in vain.
#[test]
fn a_named_library_must_be_asked_for() {
    for (option, peers) in [("onednn", "onnxruntime"), ("onnxruntime", "onednn,rten"), ("onednn", "")] {
        let library = format!("--{option}=/no/such/library.so");
        let peers: Vec<&str> = if peers.is_empty() { vec![] } else { vec!["--peers", peers] };
        let output = Command::new(env!("CARGO_BIN_EXE_convbench"))
            .args(["bench", "--list", "--spec", "c1 h3 w3 o1 k3", &library])
            .args(peers)
            .output()
            .unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        let want = format!("convbench: --{option} is given, but --peers does not name {option}, nor all\n");
        assert_eq!((output.status.code(), message), (Some(2), want));
    }
    let list = ["bench", "--list", "--spec", "c1 h3 w3 o1 k3", "--onednn=x", "--peers=all"];
    assert!(Command::new(env!("CARGO_BIN_EXE_convbench")).args(list).output().unwrap().status.success());
}

#[test]
fn unknown_names_are_errors() {
    let error =
        peers::find(&["onednn".to_owned(), "onedn".to_owned()], &Paths::default(), None).err().unwrap();
    assert!(error.starts_with("`onedn` is no peer; known are all, "), "{error}");
    assert!(peers::find(&[], &Paths::default(), None).unwrap().is_empty());
}
