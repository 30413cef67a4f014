//! NVRTC, the compiler that turns kernels into code for the GPU at hand. It is loaded at run time and called through
//! its own functions rather than cudarc's, which panic where the library is missing.

use std::ffi::{CStr, CString, OsStr, OsString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libloading::Library;

use super::driver::{load, named};
use crate::error::{ConvError, Unavailable};

/// The oldest NVRTC whose language the kernels are written in.
const OLDEST: (u32, u32) = (12, 0);

/// What every kernel is compiled with, beside the architecture.
const OPTIONS: &[&str] = &["--std=c++17"];

/// The compiler of this process.
#[derive(Debug)]
pub(crate) struct Compiler {
    calls: Calls,
    pub(crate) version: (u32, u32),
    /// Architectures it can compile for: 10 times the major plus the minor compute capability.
    architectures: Vec<u32>,
    // They stay open as long as their functions may be called.
    _library: Library,
    _builtins: Vec<Library>,
}

/// What code is compiled for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// `sm_90a` for machine code of that GPU, `compute_90` for code that the driver translates.
    architecture: String,
    machine_code: bool,
}

impl Target {
    /// Whether the code may have products of warpgroups.
    pub(crate) fn has_warpgroups(&self) -> bool {
        self.architecture == "sm_90a"
    }
}

impl Compiler {
    /// The compiler for a driver of this version, looked for once.
    pub(crate) fn get(driver: (u32, u32)) -> Result<&'static Compiler, Unavailable> {
        static COMPILER: OnceLock<Result<Compiler, Unavailable>> = OnceLock::new();
        COMPILER
            .get_or_init(|| Compiler::find(named("CONV_NVRTC").as_deref(), driver))
            .as_ref()
            .map_err(Clone::clone)
    }

    /// The library of this path; without one the first of the system's that goes with the driver.
    fn find(path: Option<&OsStr>, driver: (u32, u32)) -> Result<Compiler, Unavailable> {
        let names = path.map_or_else(|| candidates(driver.0), |path| vec![path.to_owned()]);
        let mut failure = None;
        for name in &names {
            match Compiler::open(name, driver) {
                Ok(compiler) => return Ok(compiler),
                // One that is there says more than another that is not.
                Err(e) if failure.is_none() || matches!(e, Unavailable::Compiler { .. }) => failure = Some(e),
                Err(_) => {}
            }
        }
        Err(failure
            .unwrap_or(Unavailable::NoCompiler { library: "libnvrtc".to_owned(), reason: String::new() }))
    }

    fn open(name: &OsStr, driver: (u32, u32)) -> Result<Compiler, Unavailable> {
        let no = |reason| Unavailable::NoCompiler { library: name.to_string_lossy().into_owned(), reason };
        // It looks for its builtins by name only: those beside it must be open before.
        let builtins = builtins_beside(Path::new(name));
        let library = load(name).map_err(no)?;
        let calls = Calls::of(&library).map_err(|function| no(format!("it has no function {function}")))?;
        let (version, architectures) =
            calls.facts().map_err(|code| no(format!("it does not start: error {code}")))?;
        let unfit = |problem: &str| Unavailable::Compiler { version, problem: problem.to_owned() };
        if version < OLDEST {
            return Err(unfit(&format!("is too old: {}.{} or newer would do", OLDEST.0, OLDEST.1)));
        }
        if version.0 > driver.0 {
            let problem =
                format!("is too new for the driver, which takes code of CUDA {} or older", driver.0);
            return Err(unfit(&problem));
        }
        Ok(Compiler { calls, version, architectures, _library: library, _builtins: builtins })
    }

    /// What to compile for, so that a GPU of this compute capability runs it.
    pub(crate) fn target(
        &self,
        compute_capability: (u32, u32),
        driver: (u32, u32),
    ) -> Result<Target, Unavailable> {
        target(&self.architectures, compute_capability, self.version <= driver)
            .map_err(|problem| Unavailable::Compiler { version: self.version, problem })
    }

    /// Everything beside the source that the code depends on.
    pub(crate) fn describe(&self, target: &Target) -> String {
        let (major, minor) = self.version;
        format!("NVRTC {major}.{minor} {} {}", target.architecture, OPTIONS.join(" "))
    }

    /// Compiles the source of a kernel.
    pub(crate) fn compile(
        &self,
        function: &'static str,
        source: &str,
        target: &Target,
    ) -> Result<Vec<u8>, ConvError> {
        let failed = |problem| ConvError::DeviceCode { function, problem };
        let architecture = format!("--gpu-architecture={}", target.architecture);
        let strings = [source, function, &architecture].into_iter().chain(OPTIONS.iter().copied());
        let strings: Vec<CString> = strings
            .map(CString::new)
            .collect::<Result<_, _>>()
            .map_err(|e| failed(format!("its source has a zero byte: {e}")))?;
        let options: Vec<*const c_char> = strings[2..].iter().map(|option| option.as_ptr()).collect();

        let program = self.calls.program(&strings[0], &strings[1]).map_err(|code| failed(self.says(code)))?;
        // SAFETY: the program exists; the options are strings that outlive the call.
        let code = unsafe { (self.calls.compile)(program.handle, options.len() as c_int, options.as_ptr()) };
        if code != 0 {
            let log = program.bytes(self.calls.log_size, self.calls.log).unwrap_or_default();
            return Err(failed(match first_error(&String::from_utf8_lossy(&log)) {
                Some(line) if code == COMPILATION => line,
                Some(line) => format!("{}: {line}", self.says(code)),
                None => self.says(code),
            }));
        }
        let (size, bytes) = if target.machine_code {
            (self.calls.cubin_size, self.calls.cubin)
        } else {
            (self.calls.ptx_size, self.calls.ptx)
        };
        let image = program.bytes(size, bytes).map_err(|code| failed(self.says(code)))?;
        if image.is_empty() {
            return Err(failed(format!("NVRTC made no code for {}", target.architecture)));
        }
        Ok(image)
    }

    fn says(&self, code: c_int) -> String {
        // SAFETY: every number may be asked about; the answer is a constant string or null.
        let text = unsafe { (self.calls.error)(code) };
        if text.is_null() {
            return format!("NVRTC error {code}");
        }
        // SAFETY: it ends with a zero and lives as long as the library.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }
}

/// Machine code where the compiler knows the GPU. Where it does not, code for the newest one before it, which the
/// driver translates, if it is `translatable`: no newer than the driver.
fn target(architectures: &[u32], (major, minor): (u32, u32), translatable: bool) -> Result<Target, String> {
    let wanted = 10 * major + minor;
    if architectures.contains(&wanted) {
        // The warpgroup instructions of 9.0 are not in code that is meant to run on later GPUs too.
        let suffix = if wanted == 90 { "a" } else { "" };
        return Ok(Target { architecture: format!("sm_{wanted}{suffix}"), machine_code: true });
    }
    let known = || architectures.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    match architectures.iter().filter(|&&known| known < wanted).max() {
        Some(before) if translatable => {
            Ok(Target { architecture: format!("compute_{before}"), machine_code: false })
        }
        Some(_) => Err(format!(
            "does not know compute capability {major}.{minor} (only {}) and is newer than the driver, which could \
             translate its code otherwise",
            known()
        )),
        None => Err(format!("no longer knows compute capability {major}.{minor}, only {}", known())),
    }
}

/// Names and paths under which NVRTC may be found, the newest that goes with the driver first.
fn candidates(driver_major: u32) -> Vec<OsString> {
    let majors = (OLDEST.0..=driver_major.clamp(OLDEST.0, OLDEST.0 + 20)).rev();
    if cfg!(windows) {
        return majors.map(|major| format!("nvrtc64_{major}0_0.dll").into()).collect();
    }
    let names: Vec<String> =
        majors.map(|major| format!("libnvrtc.so.{major}")).chain(["libnvrtc.so".to_owned()]).collect();
    let toolkits = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(named).map(PathBuf::from);
    let folders = toolkits.chain([PathBuf::from("/usr/local/cuda")]).map(|folder| folder.join("lib64"));
    let in_folders = folders.flat_map(|folder| {
        names.iter().map(move |name| folder.join(name).into_os_string()).collect::<Vec<_>>()
    });
    names.iter().map(OsString::from).chain(in_folders).collect()
}

/// Opens the builtins that lie in the folder of a library given by path.
fn builtins_beside(library: &Path) -> Vec<Library> {
    let Some(folder) = library.parent().filter(|folder| !folder.as_os_str().is_empty()) else {
        return Vec::new();
    };
    let Ok(entries) = folder.read_dir() else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok())
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("libnvrtc-builtins.so"))
        .filter_map(|entry| load(entry.path()).ok())
        .collect()
}

/// The line of a log that says what is wrong.
fn first_error(log: &str) -> Option<String> {
    let mut lines =
        log.lines().map(|line| line.trim_matches(['\0', ' ', '\t'])).filter(|line| !line.is_empty());
    let first = lines.clone().find(|line| line.contains("error")).or_else(|| lines.next())?;
    Some(first.chars().take(200).collect())
}

type Handle = *mut c_void;
type SizeOf = unsafe extern "C" fn(Handle, *mut usize) -> c_int;
type BytesOf = unsafe extern "C" fn(Handle, *mut c_char) -> c_int;

/// NVRTC's functions.
#[derive(Clone, Copy, Debug)]
struct Calls {
    version: unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int,
    architecture_count: unsafe extern "C" fn(*mut c_int) -> c_int,
    architectures: unsafe extern "C" fn(*mut c_int) -> c_int,
    error: unsafe extern "C" fn(c_int) -> *const c_char,
    create: unsafe extern "C" fn(
        *mut Handle,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> c_int,
    compile: unsafe extern "C" fn(Handle, c_int, *const *const c_char) -> c_int,
    destroy: unsafe extern "C" fn(*mut Handle) -> c_int,
    log_size: SizeOf,
    log: BytesOf,
    cubin_size: SizeOf,
    cubin: BytesOf,
    ptx_size: SizeOf,
    ptx: BytesOf,
}

impl Calls {
    /// The functions of a library, or the name of one that it lacks.
    fn of(library: &Library) -> Result<Calls, &'static str> {
        fn function<F: Copy>(library: &Library, name: &'static str) -> Result<F, &'static str> {
            // SAFETY: the types above are those of nvrtc.h.
            unsafe { library.get::<F>(name) }.map(|function| *function).map_err(|_| name)
        }
        Ok(Calls {
            version: function(library, "nvrtcVersion")?,
            architecture_count: function(library, "nvrtcGetNumSupportedArchs")?,
            architectures: function(library, "nvrtcGetSupportedArchs")?,
            error: function(library, "nvrtcGetErrorString")?,
            create: function(library, "nvrtcCreateProgram")?,
            compile: function(library, "nvrtcCompileProgram")?,
            destroy: function(library, "nvrtcDestroyProgram")?,
            log_size: function(library, "nvrtcGetProgramLogSize")?,
            log: function(library, "nvrtcGetProgramLog")?,
            cubin_size: function(library, "nvrtcGetCUBINSize")?,
            cubin: function(library, "nvrtcGetCUBIN")?,
            ptx_size: function(library, "nvrtcGetPTXSize")?,
            ptx: function(library, "nvrtcGetPTX")?,
        })
    }

    /// Version and architectures, or an error code.
    fn facts(&self) -> Result<((u32, u32), Vec<u32>), c_int> {
        let (mut major, mut minor, mut count) = (0, 0, 0);
        // SAFETY: the pointers are to numbers of the right type.
        ok(unsafe { (self.version)(&mut major, &mut minor) })?;
        // SAFETY: as above.
        ok(unsafe { (self.architecture_count)(&mut count) })?;
        let number = |n: c_int| u32::try_from(n).unwrap_or(0);
        let mut architectures: Vec<c_int> = vec![0; number(count).min(1000) as usize];
        if architectures.len() as u64 == u64::from(number(count)) {
            // SAFETY: there is room for as many numbers as the library said.
            ok(unsafe { (self.architectures)(architectures.as_mut_ptr()) })?;
        }
        Ok(((number(major), number(minor)), architectures.into_iter().map(number).collect()))
    }

    fn program(&self, source: &CStr, name: &CStr) -> Result<Program, c_int> {
        let mut handle = std::ptr::null_mut();
        let none = std::ptr::null();
        // SAFETY: the strings end with a zero and outlive the call; there are no headers.
        ok(unsafe { (self.create)(&mut handle, source.as_ptr(), name.as_ptr(), 0, none, none) })?;
        Ok(Program { handle, destroy: self.destroy })
    }
}

/// A program that goes when it is dropped.
struct Program {
    handle: Handle,
    destroy: unsafe extern "C" fn(*mut Handle) -> c_int,
}

impl Program {
    /// What a pair of functions gives: a size, then as many bytes.
    fn bytes(&self, size: SizeOf, bytes: BytesOf) -> Result<Vec<u8>, c_int> {
        let mut len = 0;
        // SAFETY: the program exists.
        ok(unsafe { size(self.handle, &mut len) })?;
        let mut data = Vec::new();
        data.try_reserve_exact(len).map_err(|_| OUT_OF_MEMORY)?;
        data.resize(len, 0_u8);
        if len > 0 {
            // SAFETY: there is room for as many bytes as the library said.
            ok(unsafe { bytes(self.handle, data.as_mut_ptr().cast()) })?;
        }
        Ok(data)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: the program exists, and nobody has its handle after this.
        unsafe { (self.destroy)(&mut self.handle) };
    }
}

/// NVRTC's own codes for these.
const OUT_OF_MEMORY: c_int = 1;
const COMPILATION: c_int = 6;

fn ok(code: c_int) -> Result<(), c_int> {
    if code == 0 { Ok(()) } else { Err(code) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_compiler_is_a_reason() {
        let open = |path: &str| Compiler::find(Some(OsStr::new(path)), (13, 0)).unwrap_err();
        let missing = open("/nowhere/libnvrtc.so.13");
        assert!(matches!(&missing, Unavailable::NoCompiler { .. }), "{missing}");
        let message = missing.to_string();
        assert!(message.contains("/nowhere/libnvrtc.so.13") && message.contains("CONV_NVRTC"), "{message}");
        if cfg!(target_os = "linux") {
            let other = open("libc.so.6").to_string();
            assert!(other.contains("nvrtcVersion"), "{other}");
        }
    }

    #[test]
    fn candidates_go_with_the_driver() {
        let names = candidates(13);
        assert!(
            cfg!(windows) || names[..3] == ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"],
            "{names:?}"
        );
        assert!(!candidates(12).iter().any(|name| name.to_string_lossy().contains("13")));
        assert!(candidates(u32::MAX).len() < 1000);
    }

    #[test]
    fn targets_are_machine_code_where_the_compiler_knows_the_gpu() {
        let architectures = [75, 80, 86, 89, 90, 100];
        let choose =
            |cc, translatable| target(&architectures, cc, translatable).map(|target| target.architecture);
        assert_eq!(choose((8, 0), false).as_deref(), Ok("sm_80"));
        assert_eq!(choose((9, 0), false).as_deref(), Ok("sm_90a"));
        let warpgroups =
            |capability| target(&architectures, capability, true).map(|target| target.has_warpgroups());
        assert_eq!([(8, 9), (9, 0), (10, 0), (10, 3)].map(warpgroups), [false, true, false, false].map(Ok));
        // A GPU that is newer than the compiler.
        assert_eq!(choose((12, 1), true).as_deref(), Ok("compute_100"));
        assert!(choose((12, 1), false).unwrap_err().contains("12.1 (only 75, 80"));
        assert!(choose((7, 0), true).unwrap_err().contains("no longer knows compute capability 7.0"));
        assert!(target(&[], (9, 0), true).is_err());
    }

    #[test]
    fn the_line_with_the_error_is_found() {
        let log =
            "conv(3): warning #177-D: unused\n\nconv(7): error: identifier \"x\" is undefined\n1 error\0";
        assert_eq!(first_error(log).unwrap(), "conv(7): error: identifier \"x\" is undefined");
        assert_eq!(first_error("\n  odd\n").unwrap(), "odd");
        assert_eq!(first_error("\0"), None);
    }
}
