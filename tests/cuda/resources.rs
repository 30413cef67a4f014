//! Every device function compiled by a real NVRTC for real GPUs: that it compiles, that no register is spilled, that
//! its shared memory is there, and a table of what it takes, kernels/src/cuda/RESOURCES.md.
//!
//! Only where CONV_NVRTC_REAL names the library; no GPU is needed. `CONV_WRITE_RESOURCES=1` writes the table anew.

use std::collections::BTreeMap;
use std::ffi::{CString, c_char, c_int, c_void};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use kernels::cuda::{Function, functions, source_of};
use libloading::{Library, Symbol};

/// An architecture, the compute capability it is for, and the shared memory that a block and a multiprocessor have.
struct Architecture {
    name: &'static str,
    capability: (u32, u32),
    block_bytes: u32,
    multiprocessor_bytes: u32,
    threads: u32,
}

const fn architecture(
    name: &'static str,
    capability: (u32, u32),
    block_kib: u32,
    multiprocessor_kib: u32,
    threads: u32,
) -> Architecture {
    Architecture {
        name,
        capability,
        block_bytes: block_kib << 10,
        multiprocessor_bytes: multiprocessor_kib << 10,
        threads,
    }
}

const ARCHITECTURES: &[Architecture] = &[
    architecture("sm_75", (7, 5), 64, 64, 1024),
    architecture("sm_80", (8, 0), 163, 164, 2048),
    architecture("sm_86", (8, 6), 99, 100, 1536),
    architecture("sm_89", (8, 9), 99, 100, 1536),
    architecture("sm_90a", (9, 0), 227, 228, 2048),
    architecture("sm_100", (10, 0), 227, 228, 2048),
    architecture("sm_120", (12, 0), 99, 100, 1536),
];

/// The version that the table is made with; others allocate other registers.
const TABLE_VERSION: (c_int, c_int) = (13, 0);

/// Registers of a multiprocessor.
const REGISTERS: u32 = 65_536;

/// What a function takes on an architecture.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Taken {
    registers: u32,
    /// Bytes of each thread's own memory.
    stack: u32,
    spilled: u32,
    /// Bytes of shared memory beside the dynamic one.
    shared: u32,
}

impl Taken {
    /// Blocks that a multiprocessor holds at once.
    fn blocks(self, function: &Function, on: &Architecture) -> u32 {
        let warps = function.threads / 32;
        // Registers are given to warps in pieces of 256.
        let by_registers = REGISTERS / ((self.registers * 32).next_multiple_of(256) * warps).max(1);
        let system = if on.capability.0 >= 8 { 1024 } else { 0 };
        let by_shared = on.multiprocessor_bytes / (function.shared_bytes + self.shared + system).max(1);
        by_registers.min(by_shared).min(on.threads / function.threads).min(32)
    }
}

/// The number before some words of a line.
fn number_before(line: &str, words: &str) -> Option<u32> {
    line[..line.find(words)?]
        .rsplit(|c: char| !c.is_ascii_digit())
        .find(|text| !text.is_empty())?
        .parse()
        .ok()
}

/// What ptxas says of each function.
fn read_log(log: &str) -> BTreeMap<String, Taken> {
    let (mut all, mut current) = (BTreeMap::new(), String::new());
    for line in log.lines() {
        if let Some(rest) = line.split("Compiling entry function '").nth(1) {
            current = rest.split('\'').next().unwrap_or_default().to_owned();
            all.insert(current.clone(), Taken::default());
        }
        let Some(taken) = all.get_mut(&current) else { continue };
        if let Some(bytes) = number_before(line, " bytes stack frame") {
            taken.stack = bytes;
        }
        for words in [" bytes spill stores", " bytes spill loads"] {
            taken.spilled += number_before(line, words).unwrap_or(0);
        }
        if let Some(registers) = number_before(line, " registers") {
            taken.registers = registers;
            taken.shared = number_before(line, " bytes smem").unwrap_or(0);
        }
    }
    all
}

/// NVRTC, by the path in CONV_NVRTC_REAL, with its builtins, which it looks for by name.
struct Nvrtc {
    loaded: Library,
    _builtins: Vec<Library>,
}

type Program = *mut c_void;
type SizeOf = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type BytesOf = unsafe extern "C" fn(Program, *mut c_char) -> c_int;

impl Nvrtc {
    fn open(path: &Path) -> Nvrtc {
        let beside = std::fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
        let builtins = beside.filter(|path| path.to_string_lossy().contains("libnvrtc-builtins.so"));
        // SAFETY: these are NVIDIA's libraries, or what the environment names in their place.
        let open = |path: PathBuf| unsafe { Library::new(path) }.unwrap();
        Nvrtc { _builtins: builtins.map(open).collect(), loaded: open(path.to_owned()) }
    }

    fn get<F>(&self, name: &str) -> Symbol<'_, F> {
        // SAFETY: callers give the types of nvrtc.h.
        unsafe { self.loaded.get(name) }.unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn version(&self) -> (c_int, c_int) {
        let version = self.get::<unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int>("nvrtcVersion");
        let (mut major, mut minor) = (0, 0);
        // SAFETY: the pointers are to numbers of the right type.
        assert_eq!(unsafe { version(&mut major, &mut minor) }, 0);
        (major, minor)
    }

    /// Compiles to machine code; what the compiler and ptxas say.
    fn compile(&self, source: &str, architecture: &str) -> Result<String, String> {
        type Create = unsafe extern "C" fn(
            *mut Program,
            *const c_char,
            *const c_char,
            c_int,
            *const *const c_char,
            *const *const c_char,
        ) -> c_int;
        type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
        let source = CString::new(source).unwrap();
        let options = [
            CString::new(format!("--gpu-architecture={architecture}")).unwrap(),
            c"--std=c++17".to_owned(),
            c"--ptxas-options=-v".to_owned(),
        ];
        let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let mut program: Program = std::ptr::null_mut();
        let none = std::ptr::null();
        // SAFETY: source and name are strings that end with a zero; there are no headers.
        let made = unsafe {
            self.get::<Create>("nvrtcCreateProgram")(
                &mut program,
                source.as_ptr(),
                c"conv".as_ptr(),
                0,
                none,
                none.cast(),
            )
        };
        assert_eq!(made, 0);
        // SAFETY: the program exists; the options are strings that end with a zero.
        let code = unsafe {
            self.get::<Compile>("nvrtcCompileProgram")(program, options.len() as c_int, options.as_ptr())
        };
        let log = self.bytes(program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog");
        let size =
            if code == 0 { self.bytes(program, "nvrtcGetCUBINSize", "nvrtcGetCUBIN").len() } else { 0 };
        // SAFETY: the program exists and is not used any more.
        unsafe {
            self.get::<unsafe extern "C" fn(*mut Program) -> c_int>("nvrtcDestroyProgram")(&mut program)
        };
        let log = String::from_utf8_lossy(&log).into_owned();
        if code == 0 && size > 0 { Ok(log) } else { Err(log) }
    }

    fn bytes(&self, program: Program, size: &str, bytes: &str) -> Vec<u8> {
        let mut len = 0;
        // SAFETY: the program exists; the pointer is to a number of the right type.
        assert_eq!(unsafe { self.get::<SizeOf>(size)(program, &mut len) }, 0, "{size}");
        let mut data = vec![0_u8; len];
        // SAFETY: there is room for as many bytes as NVRTC said.
        assert_eq!(unsafe { self.get::<BytesOf>(bytes)(program, data.as_mut_ptr().cast()) }, 0, "{bytes}");
        data
    }
}

/// Whether a function is for an architecture.
fn is_for(function: &Function, architecture: &Architecture) -> bool {
    let fits = if function.only {
        function.compute_capability == architecture.capability
    } else {
        function.compute_capability <= architecture.capability
    };
    fits && function.shared_bytes <= architecture.block_bytes
}

#[test]
fn functions_compile_for_every_architecture_without_spills() {
    let Some(path) = std::env::var_os("CONV_NVRTC_REAL").filter(|path| !path.is_empty()) else {
        println!("skipped: CONV_NVRTC_REAL names no NVRTC");
        return;
    };
    let nvrtc = Nvrtc::open(Path::new(&path));
    let all = functions();
    let mut work: Vec<(usize, usize)> = Vec::new();
    for (a, architecture) in ARCHITECTURES.iter().enumerate() {
        work.extend(all.iter().enumerate().filter(|(_, f)| is_for(f, architecture)).map(|(f, _)| (f, a)));
    }
    let taken: Mutex<BTreeMap<(usize, usize), Taken>> = Mutex::default();
    let failures = Mutex::new(Vec::new());
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(&(f, a)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (function, architecture) = (&all[f], &ARCHITECTURES[a]);
                    let on = format!("{} for {}", function.name, architecture.name);
                    let fail = |what: String| failures.lock().unwrap().push(format!("{on}: {what}"));
                    match nvrtc.compile(&source_of(&[function.name]), architecture.name) {
                        Err(log) => fail(log),
                        Ok(log) => match read_log(&log).get(function.name) {
                            None => fail(format!("ptxas does not name it:\n{log}")),
                            Some(&found) => {
                                if found.spilled > 0 {
                                    fail(format!("{} bytes are spilled", found.spilled));
                                }
                                let bytes = found.shared + function.shared_bytes;
                                if bytes > architecture.block_bytes {
                                    fail(format!("{bytes} bytes of shared memory"));
                                }
                                if found.blocks(function, architecture) == 0 {
                                    fail("no multiprocessor can hold a block".to_owned());
                                }
                                taken.lock().unwrap().insert((f, a), found);
                            }
                        },
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    println!("{} functions compiled", work.len());
    if nvrtc.version() == TABLE_VERSION {
        compare(&table(&all, &taken.into_inner().unwrap()));
    }
}

fn table(all: &[Function], taken: &BTreeMap<(usize, usize), Taken>) -> String {
    let mut text = String::from(
        "# What the device functions take\n\n\
         Registers of a thread / blocks that a multiprocessor holds at once, as NVRTC 13.0 compiles them; a dash where a\n\
         function is not for the architecture. None spills. Made by `tests/cuda/resources.rs`; registers vary by one or two.\n\n",
    );
    let names: Vec<&str> = ARCHITECTURES.iter().map(|architecture| architecture.name).collect();
    writeln!(text, "| function | threads | shared bytes | {} |", names.join(" | ")).unwrap();
    writeln!(text, "|---|---|---|{}", "---|".repeat(names.len())).unwrap();
    for (f, function) in all.iter().enumerate() {
        let cell = |(a, architecture)| match taken.get(&(f, a)) {
            Some(taken) => format!("{} / {}", taken.registers, taken.blocks(function, architecture)),
            None => "–".to_owned(),
        };
        let cells: Vec<String> = ARCHITECTURES.iter().enumerate().map(cell).collect();
        let Function { name, threads, shared_bytes, .. } = function;
        writeln!(text, "| `{name}` | {threads} | {shared_bytes} | {} |", cells.join(" | ")).unwrap();
    }
    text
}

/// Compares the table with the one in the repository, or writes it.
fn compare(table: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernels/src/cuda/RESOURCES.md");
    if std::env::var_os("CONV_WRITE_RESOURCES").is_some() {
        std::fs::write(&path, table).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        without_registers(&kept) == without_registers(table),
        "RESOURCES.md is out of date; CONV_WRITE_RESOURCES=1 writes it. Now:\n{table}"
    );
}

#[test]
fn logs_are_read() {
    let log = "ptxas info    : 0 bytes gmem\n\
               ptxas info    : Compiling entry function 'conv_a' for 'sm_90a'\n\
               ptxas info    : Function properties for conv_a\n    \
               8 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads\n\
               ptxas info    : Used 168 registers, used 1 barriers, 8 bytes cumulative stack size, 512 bytes smem\n\
               ptxas info    : Compiling entry function 'conv_b' for 'sm_90a'\n\
               ptxas info    : Used 32 registers, used 0 barriers\n";
    let all = read_log(log);
    assert_eq!(all["conv_a"], Taken { registers: 168, stack: 8, spilled: 28, shared: 512 });
    assert_eq!(all["conv_b"], Taken { registers: 32, ..Taken::default() });
}

/// The table without registers: NVRTC's choice of them varies by one or two from run to run.
fn without_registers(table: &str) -> String {
    let cell = |cell: &str| cell.rsplit(" / ").next().unwrap_or(cell).trim().to_owned();
    let line = |line: &str| {
        if line.starts_with("| `") {
            line.split('|').map(cell).collect::<Vec<_>>().join("|")
        } else {
            line.to_owned()
        }
    };
    table.lines().map(line).collect::<Vec<_>>().join("\n")
}
