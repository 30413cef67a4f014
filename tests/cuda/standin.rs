//! Builds the stand-ins for the CUDA driver and NVRTC with the system's C++ compiler and has `kernels` load them.
//!
//! The driver holds every device function of `kernels`, compiled for the CPU; see `emulator.h` and `driver.cpp`. What
//! is built depends on the sources alone and is kept in the target folder under a hash of them, so that a second run
//! builds nothing.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use kernels::cuda::{functions, source_of};
use libloading::Library;

/// Flags of every compilation. Products and sums are not fused unless the source says so.
const FLAGS: &[&str] = &[
    "-std=c++17",
    "-O2",
    "-g0",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-Wall",
    "-Wno-unknown-pragmas",
    "-DCONV_EMULATED",
];

/// Checks of the device sources, which call handlers of the emulator's: rules of the language, and who touches what.
const CHECKS: &[&str] = &["-fsanitize=alignment,signed-integer-overflow,shift,bounds", "-fsanitize=thread"];

/// The variable by which a test process says that another one has told it where everything is.
pub(crate) const CHILD: &str = "CONV_EMULATED_CHILD";

/// Ways in which the emulator runs a kernel: three orders of threads, copies that land late or at once.
pub(crate) const SCHEDULES: usize = 6;

/// Device functions in a translation unit.
const FUNCTIONS: usize = 6;

const EMULATOR: &str = include_str!("emulator.h");
const EMULATOR_TEST: &str = include_str!("emulator_test.cpp");
const DRIVER: &str = include_str!("driver.cpp");
const NVRTC: &str = include_str!("nvrtc.cpp");

/// The stand-ins, loaded by this process and by `kernels`.
#[derive(Debug)]
pub(crate) struct StandIn {
    /// Where they lie, with `emulator-test`.
    pub(crate) folder: PathBuf,
    driver: Library,
    nvrtc: Library,
}

/// The stand-ins, or nothing where they cannot be: the caller's test then has nothing to run. Every test calls this
/// before anything of `kernels`.
pub(crate) fn stand_in() -> Option<&'static StandIn> {
    static STAND_IN: OnceLock<Option<StandIn>> = OnceLock::new();
    STAND_IN.get_or_init(make).as_ref()
}

impl StandIn {
    /// Changes a setting of the driver, see `driver.cpp`.
    pub(crate) fn set(&self, name: &str, value: i64) {
        // SAFETY: the type is the function's in driver.cpp.
        let set: libloading::Symbol<'_, unsafe extern "C" fn(*const u8, i64) -> i32> =
            unsafe { self.driver.get("emulated_set") }.unwrap();
        let name = format!("{name}\0");
        // SAFETY: the name ends with a zero.
        assert_eq!(unsafe { set(name.as_ptr(), value) }, 1, "{name} is no setting");
    }

    /// Sets how the threads of blocks take turns in kernels that the calling thread runs: one of [`SCHEDULES`], with
    /// another shuffle for each number.
    pub(crate) fn schedule(&self, number: usize) {
        self.set("order", (number % 3) as i64);
        self.set("copies", (number / 3 % 2) as i64);
        self.set("seed", number as i64);
    }

    /// Makes a function of the driver fail with a code, each time after some more calls; never, if `after` is negative.
    pub(crate) fn fail(&self, function: &str, after: i64, code: i32) {
        // SAFETY: the type is the function's in driver.cpp.
        let fail: libloading::Symbol<'_, unsafe extern "C" fn(*const u8, i64, i32) -> i32> =
            unsafe { self.driver.get("emulated_fail") }.unwrap();
        let function = format!("{function}\0");
        // SAFETY: the name ends with a zero.
        unsafe { fail(function.as_ptr(), after, code) };
    }

    /// A number that the driver counts, see `driver.cpp`.
    pub(crate) fn get(&self, name: &str) -> i64 {
        number(&self.driver, "emulated_get", name)
    }

    /// A number that NVRTC counts, see `nvrtc.cpp`.
    pub(crate) fn nvrtc(&self, name: &str) -> i64 {
        number(&self.nvrtc, "emulated_nvrtc_get", name)
    }
}

fn number(library: &Library, function: &str, name: &str) -> i64 {
    // SAFETY: the type is that of both functions.
    let get: libloading::Symbol<'_, unsafe extern "C" fn(*const u8) -> i64> =
        unsafe { library.get(function) }.unwrap();
    let name = format!("{name}\0");
    // SAFETY: the name ends with a zero.
    let value = unsafe { get(name.as_ptr()) };
    assert!(value >= 0, "{name} is not counted");
    value
}

/// Builds what is not there yet, loads it, and tells `kernels` where it is.
fn make() -> Option<StandIn> {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".to_owned());
    let version = match Command::new(&compiler).arg("--version").output() {
        Ok(Output { status, stdout, .. })
            if status.success() && cfg!(all(target_os = "linux", target_arch = "x86_64")) =>
        {
            String::from_utf8_lossy(&stdout).into_owned()
        }
        found => {
            let why = format!("no emulated GPU: {compiler} on x86-64 Linux is needed ({found:?})");
            assert!(std::env::var_os("CONV_REQUIRE_CUDA_EMULATOR").is_none(), "{why}");
            println!("skipped: {why}");
            return None;
        }
    };
    let folder = build(&compiler, &version);
    let (driver, nvrtc) = (folder.join("libcuda.so.1"), folder.join("libnvrtc.so.13"));
    if std::env::var_os(CHILD).is_none() {
        // SAFETY: the other threads of this process are tests that wait for this one, and the one that started them.
        unsafe {
            std::env::set_var("CONV_CUDA_DRIVER", &driver);
            std::env::set_var("CONV_NVRTC", &nvrtc);
            std::env::set_var("CONV_CUDA_CACHE", folder.join("cache"));
        }
    }
    // SAFETY: these are the libraries that were built for this.
    let load = |path: &Path| unsafe { Library::new(path) }.unwrap();
    Some(StandIn { driver: load(&driver), nvrtc: load(&nvrtc), folder })
}

/// Flags for the instruction set: fmaf is one instruction where the CPU has it.
fn machine_flags() -> &'static [&'static str] {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        return &["-mavx2", "-mfma"];
    }
    &[]
}

/// Whether a device function is compiled: all of them are, unless `CONV_EMULATED_ONLY` has parts of names, separated by
/// commas.
pub(crate) fn is_wanted(function: &str) -> bool {
    std::env::var("CONV_EMULATED_ONLY")
        .map_or(true, |parts| parts.split(',').any(|part| function.contains(part)))
}

/// The translation units with device functions, by their names. `CONV_EMULATED_SED` is an expression for sed that
/// plants a fault in the device sources: what tests/cuda/mutations.sh is for.
fn units() -> Vec<(String, String)> {
    let names: Vec<&str> = functions().iter().map(|function| function.name).collect();
    let names: Vec<&str> = names.into_iter().filter(|name| is_wanted(name)).collect();
    let unit = |(index, chunk): (usize, &[&str])| {
        (format!("kernels-{index}"), format!("#include \"emulator.h\"\n{}", planted(&source_of(chunk))))
    };
    let mut units: Vec<(String, String)> = names.chunks(FUNCTIONS).enumerate().map(unit).collect();
    let (source, roofs) = harness::gpu::roof_source();
    let kernels: String = roofs.iter().map(|name| format!("CONV_EMULATED_KERNEL({name}, 256)\n")).collect();
    units.push(("kernels-roofs".to_owned(), format!("#include \"emulator.h\"\n{source}\n{kernels}")));
    units
}

fn planted(source: &str) -> String {
    use std::io::Write;
    let Ok(expression) = std::env::var("CONV_EMULATED_SED") else { return source.to_owned() };
    let pipe = std::process::Stdio::piped;
    let mut sed =
        Command::new("sed").args(["-E", "-e", &expression]).stdin(pipe()).stdout(pipe()).spawn().unwrap();
    let mut input = sed.stdin.take().unwrap();
    let text = std::thread::scope(|scope| {
        scope.spawn(move || input.write_all(source.as_bytes()).unwrap());
        sed.wait_with_output().unwrap()
    });
    assert!(text.status.success(), "sed does not take `{expression}`");
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text != source, "`{expression}` changes nothing");
    text
}

/// The folder with everything built.
fn build(compiler: &str, version: &str) -> PathBuf {
    let began = std::time::Instant::now();
    let base = Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulated-gpu");
    let mut sources = units();
    sources.push(("driver".to_owned(), DRIVER.to_owned()));
    sources.push(("nvrtc".to_owned(), NVRTC.to_owned()));
    sources.push(("emulator-test".to_owned(), EMULATOR_TEST.to_owned()));
    let objects = compile(compiler, version, &base.join("objects"), &sources);

    let folder = base.join(format!("{:016x}", hash_of(&objects)));
    if !folder.exists() {
        whole(&folder, |work| {
            fs::create_dir_all(work).unwrap();
            let link = |out: &str, flags: &[&str], wanted: fn(&str) -> bool| {
                let parts = sources.iter().zip(&objects).filter(|((name, _), _)| wanted(name));
                let parts = parts.map(|(_, object)| object);
                run(Command::new(compiler).current_dir(work).args(flags).args(parts).args(["-o", out]));
            };
            // cudarc looks for this name first: where a driver is installed, another would find that one.
            link("libcuda.so.1", &["-shared", "-Wl,-soname,libcuda.so"], |name| {
                name == "driver" || name.starts_with("kernels-")
            });
            link("libnvrtc.so.13", &["-shared", "-Wl,-soname,libnvrtc.so.13"], |name| name == "nvrtc");
            link("emulator-test", &[], |name| name == "emulator-test");
        });
    }
    println!("emulated GPU: {} ({:.1} s)", folder.display(), began.elapsed().as_secs_f64());
    folder
}

fn hash_of(value: &impl Hash) -> u64 {
    let mut hash = DefaultHasher::new();
    value.hash(&mut hash);
    hash.finish()
}

/// Makes a file or folder elsewhere and moves it into place, so that it is whole whenever it is there.
fn whole(path: &Path, make: impl FnOnce(&Path)) {
    let name = path.file_name().unwrap().to_string_lossy();
    let work = path.with_file_name(format!("{}-{name}", std::process::id()));
    make(&work);
    // Another process may have been faster: what it made is as good.
    if let Err(error) = fs::rename(&work, path) {
        assert!(path.exists(), "{}: {error}", path.display());
        let _ = fs::remove_dir_all(&work);
    }
}

/// Compiles what is not there yet, with as many compilers at once as there are cores. Objects are named by a hash of
/// all that they are made from.
fn compile(compiler: &str, version: &str, folder: &Path, sources: &[(String, String)]) -> Vec<PathBuf> {
    let header = folder.join(format!("{:016x}", hash_of(&EMULATOR)));
    if !header.join("emulator.h").exists() {
        fs::create_dir_all(folder).unwrap();
        whole(&header, |work| {
            fs::create_dir_all(work).unwrap();
            fs::write(work.join("emulator.h"), EMULATOR).unwrap();
        });
    }
    let compile = |(name, text): &(String, String)| -> PathBuf {
        let checks = if name.starts_with("kernels-") || name == "emulator-test" { CHECKS } else { &[] };
        let flags: Vec<&str> = FLAGS.iter().chain(machine_flags()).chain(checks).copied().collect();
        let hash = hash_of(&(compiler, version, &flags, EMULATOR, text));
        let (object, source) =
            (folder.join(format!("{name}-{hash:016x}.o")), folder.join(format!("{name}-{hash:016x}.cpp")));
        if !object.exists() {
            whole(&source, |work| fs::write(work, text).unwrap());
            whole(&object, |work| {
                let mut command = Command::new(compiler);
                command.args(&flags).arg("-I").arg(&header).arg("-c").arg(&source).arg("-o").arg(work);
                run(&mut command);
            });
        }
        object
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let mut objects: Vec<(usize, PathBuf)> = std::thread::scope(|scope| {
        let work = || {
            let index = || next.fetch_add(1, Ordering::Relaxed);
            let one = |index: usize| sources.get(index).map(|source| (index, compile(source)));
            std::iter::from_fn(|| one(index())).collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..cores.min(sources.len())).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    objects.sort();
    objects.into_iter().map(|(_, object)| object).collect()
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}:\n{}", String::from_utf8_lossy(&output.stderr));
}
