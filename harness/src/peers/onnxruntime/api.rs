//! The few functions of ONNX Runtime's C API that a convolution needs, with errors as strings.

use std::borrow::Cow;
use std::ffi::{CStr, CString, OsStr};
use std::fmt;
use std::path::{Path, PathBuf};
use std::ptr;

use ort_sys::{
    ExecutionMode, GraphOptimizationLevel, ONNXTensorElementDataType, OrtAllocatorType, OrtApi, OrtApiBase,
    OrtEnv, OrtIoBinding, OrtLoggingLevel, OrtMemType, OrtSession, OrtSessionOptions, OrtStatusPtr, OrtValue,
    os_char,
};

use crate::buffer::Buffer;
use crate::peers::one_line;

/// The oldest version whose table of functions holds what is declared here. The table only ever grows.
const OLDEST: u32 = 17;

/// ONNX Runtime, loaded and ready to make sessions.
pub(super) struct Library {
    env: Owned<OrtEnv>,
    api: &'static OrtApi,
    version: String,
}

// SAFETY: the environment and the table of functions may be used from several threads at once, says ONNX
// Runtime's documentation.
unsafe impl Sync for Library {}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Library").field("version", &self.version).finish_non_exhaustive()
    }
}

impl Library {
    /// Loads the shared library of a path, or of a name where the system looks for such.
    ///
    /// # Errors
    /// One line, without the path: not there, no shared library, not ONNX Runtime, too old.
    pub(super) fn load(path: &OsStr) -> Result<Self, String> {
        // SAFETY: what a library does when it is loaded is up to whoever named it.
        let library = unsafe { libloading::Library::new(path) }.map_err(|error| one_line(&error))?;
        // SAFETY: every ONNX Runtime has this function, and no other library has one of that name.
        let base =
            unsafe { library.get::<unsafe extern "system" fn() -> *const OrtApiBase>(b"OrtGetApiBase\0") }
                .map(|function| *function)
                .map_err(|_| "is no ONNX Runtime: it has no function OrtGetApiBase".to_owned())?;
        // SAFETY: its result lives as long as the library, which is forever, or is null.
        let base = unsafe { base().as_ref() }.ok_or("has no functions to give")?;
        // SAFETY: the version is a constant string of the library's.
        let version = unsafe { CStr::from_ptr((base.GetVersionString)()) }.to_string_lossy().into_owned();
        if minor(&version).is_none_or(|minor| minor < OLDEST) {
            return Err(format!("is ONNX Runtime {version}, but must be 1.{OLDEST} or newer"));
        }
        // SAFETY: as for `base`; a table of this version starts with all that `OrtApi` declares.
        let api = unsafe { (base.GetApi)(OLDEST).as_ref() }
            .ok_or_else(|| format!("is ONNX Runtime {version}, which lacks version {OLDEST} of its C API"))?;
        // Never unloaded: nobody knows whether the library's threads have gone.
        std::mem::forget(library);
        let level = OrtLoggingLevel::ORT_LOGGING_LEVEL_FATAL;
        let env = own(api, api.ReleaseEnv, |out| {
            // SAFETY: the name is a string, and the result goes into a pointer of ours.
            unsafe { (api.CreateEnv)(level, c"convbench".as_ptr(), out) }
        })?;
        Ok(Library { env, api, version })
    }

    /// The version, e.g. `1.32.0`.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// Whether it can be told for how long idle threads wait busily.
    fn bounds_spinning(&self) -> bool {
        minor(&self.version).is_some_and(|minor| minor >= 26)
    }
}

/// The second number of a version that starts with `1.`.
fn minor(version: &str) -> Option<u32> {
    version.strip_prefix("1.")?.split('.').next()?.parse().ok()
}

/// Something that the library has made and takes back.
struct Owned<T> {
    pointer: *mut T,
    release: unsafe extern "system" fn(*mut T),
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: it came from the library with this function to give it back, and nobody else does.
        unsafe { (self.release)(self.pointer) }
    }
}

// SAFETY: what ONNX Runtime makes belongs to no thread.
unsafe impl<T> Send for Owned<T> {}

/// Has the library make something.
fn own<T>(
    api: &OrtApi,
    release: unsafe extern "system" fn(*mut T),
    make: impl FnOnce(*mut *mut T) -> OrtStatusPtr,
) -> Result<Owned<T>, String> {
    let mut pointer = ptr::null_mut();
    check(api, make(&mut pointer))?;
    if pointer.is_null() {
        return Err("ONNX Runtime made nothing and said nothing".to_owned());
    }
    Ok(Owned { pointer, release })
}

/// The error that a status holds, if it holds one.
fn check(api: &OrtApi, status: OrtStatusPtr) -> Result<(), String> {
    if status.0.is_null() {
        return Ok(());
    }
    // SAFETY: a status that is not null holds a string, and is given back after that was copied.
    let message = unsafe {
        let message = CStr::from_ptr((api.GetErrorMessage)(status.0)).to_string_lossy().replace('\n', " ");
        (api.ReleaseStatus)(status.0);
        message
    };
    Err(format!("ONNX Runtime says: {message}"))
}

/// How far the library may change a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    /// As far as it can, to layouts of its own inside.
    All,
    /// But not to other layouts.
    Extended,
}

/// How long threads without work wait busily for the next run, in microseconds.
pub(super) const SPIN_US: u64 = 1000;

/// How a model is to be run.
struct Options {
    options: Owned<OrtSessionOptions>,
}

impl Options {
    fn new(library: &Library, level: Level, threads: usize) -> Result<Self, String> {
        let api = library.api;
        let options = own(api, api.ReleaseSessionOptions, |out| {
            // SAFETY: the result goes into a pointer of ours.
            unsafe { (api.CreateSessionOptions)(out) }
        })?;
        let level = match level {
            Level::All => GraphOptimizationLevel::ORT_ENABLE_ALL,
            Level::Extended => GraphOptimizationLevel::ORT_ENABLE_EXTENDED,
        };
        let threads = i32::try_from(threads).map_err(|_| format!("{threads} threads are too many"))?;
        let spin = SPIN_US.to_string();
        let (key, value) = if library.bounds_spinning() {
            ("session.intra_op.spin_duration_us", spin.as_str())
        } else {
            ("session.force_spinning_stop", "1")
        };
        let [key, value] = [key, value].map(|text| CString::new(text).unwrap_or_default());
        let raw = options.pointer;
        // SAFETY: the options are alive, and the library copies the strings.
        unsafe {
            check(api, (api.SetSessionGraphOptimizationLevel)(raw, level))?;
            check(api, (api.SetSessionExecutionMode)(raw, ExecutionMode::ORT_SEQUENTIAL))?;
            check(api, (api.SetIntraOpNumThreads)(raw, threads))?;
            check(api, (api.SetInterOpNumThreads)(raw, 1))?;
            check(api, (api.AddSessionConfigEntry)(raw, key.as_ptr(), value.as_ptr()))?;
        }
        Ok(Options { options })
    }

    fn session(&self, library: &Library, model: &[u8]) -> Result<Owned<OrtSession>, String> {
        let api = library.api;
        own(api, api.ReleaseSession, |out| {
            let (env, options) = (library.env.pointer, self.options.pointer);
            // SAFETY: environment and options are alive; the model is read only during the call.
            unsafe { (api.CreateSessionFromArray)(env, model.as_ptr().cast(), model.len(), options, out) }
        })
    }
}

/// Writes to a file what the library makes of a model.
pub(super) fn write_optimized(
    library: &Library,
    model: &[u8],
    level: Level,
    path: &Path,
) -> Result<(), String> {
    let options = Options::new(library, level, 1)?;
    let path = system_string(path.as_os_str());
    // SAFETY: the options are alive, and the library copies the string.
    let status = unsafe { (library.api.SetOptimizedModelFilePath)(options.options.pointer, path.as_ptr()) };
    check(library.api, status)?;
    options.session(library, model).map(drop)
}

/// A path as the library takes it.
fn system_string(path: &OsStr) -> Vec<os_char> {
    #[cfg(windows)]
    return std::os::windows::ffi::OsStrExt::encode_wide(path).chain([0]).collect();
    #[cfg(not(windows))]
    path.as_encoded_bytes().iter().map(|&byte| byte as os_char).chain([0]).collect()
}

/// A buffer to be written by the library.
struct Output {
    /// Never reached while the library may write to it, only kept.
    _memory: Buffer,
    first: *mut f32,
    len: usize,
}

impl Output {
    fn new(len: usize) -> Self {
        let mut memory = Buffer::zeros(len);
        let first = memory.as_mut_ptr();
        Output { _memory: memory, first, len }
    }
}

/// The input or output of a model.
#[derive(Clone, Copy)]
pub(super) struct End<'a> {
    pub(super) name: &'a str,
    pub(super) shape: &'a [usize],
}

/// A model that is ready to run from an input to an output that stay where they are.
pub(super) struct Session<'a> {
    // Dropped in this order: what is bound before the values, these before session and buffers.
    binding: Owned<OrtIoBinding>,
    _values: [Owned<OrtValue>; 2],
    session: Owned<OrtSession>,
    output: Output,
    _input: Cow<'a, Buffer>,
    runtime: &'a Library,
}

// SAFETY: what ONNX Runtime makes belongs to no thread, and the output is memory of ours.
unsafe impl Send for Session<'_> {}

impl<'a> Session<'a> {
    /// Makes a model ready to run; with a path, runs are recorded there until [`end_profile`](Self::end_profile).
    pub(super) fn new(
        library: &'a Library,
        model: &[u8],
        level: Level,
        threads: usize,
        profile: Option<&Path>,
        input: Cow<'a, Buffer>,
        [input_end, output_end]: [End<'_>; 2],
    ) -> Result<Self, String> {
        let api = library.api;
        let options = Options::new(library, level, threads)?;
        if let Some(path) = profile {
            let path = system_string(path.as_os_str());
            // SAFETY: the options are alive, and the library copies the string.
            check(api, unsafe { (api.EnableProfiling)(options.options.pointer, path.as_ptr()) })?;
        }
        let session = options.session(library, model)?;
        let memory = own(api, api.ReleaseMemoryInfo, |out| {
            let (kind, place) = (OrtAllocatorType::OrtDeviceAllocator, OrtMemType::OrtMemTypeDefault);
            // SAFETY: the result goes into a pointer of ours.
            unsafe { (api.CreateCpuMemoryInfo)(kind, place, out) }
        })?;
        let value = |data: *mut f32, len: usize, shape: &[usize]| {
            let shape: Vec<i64> = shape.iter().map(|&n| n as i64).collect();
            let float = ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
            own(api, api.ReleaseValue, |out| {
                let (memory, axes, shape) = (memory.pointer, shape.len(), shape.as_ptr());
                // SAFETY: so many f32s are there as long as the session; memory and shape are copied, and a
                // shape that needs more bytes is an error.
                unsafe {
                    (api.CreateTensorWithDataAsOrtValue)(
                        memory,
                        data.cast(),
                        4 * len,
                        shape,
                        axes,
                        float,
                        out,
                    )
                }
            })
        };
        let output = Output::new(output_end.shape.iter().product());
        // The library does not write to inputs.
        let x = value(input.as_ptr().cast_mut(), input.len(), input_end.shape)?;
        let y = value(output.first, output.len, output_end.shape)?;
        let binding = own(api, api.ReleaseIoBinding, |out| {
            // SAFETY: the session is alive.
            unsafe { (api.CreateIoBinding)(session.pointer, out) }
        })?;
        let name = |end: End<'_>| CString::new(end.name).map_err(|error| error.to_string());
        let (input_name, output_name) = (name(input_end)?, name(output_end)?);
        // SAFETY: all three are alive, the library copies the names, and the values stay so for as long as the binding.
        unsafe {
            check(api, (api.BindInput)(binding.pointer, input_name.as_ptr(), x.pointer))?;
            check(api, (api.BindOutput)(binding.pointer, output_name.as_ptr(), y.pointer))?;
        }
        Ok(Session { binding, _values: [x, y], session, output, _input: input, runtime: library })
    }

    /// Runs the model.
    pub(super) fn run(&mut self) -> Result<(), String> {
        let (session, binding) = (self.session.pointer, self.binding.pointer);
        let api = self.runtime.api;
        // SAFETY: both are alive, and so are the buffers that are bound; nobody reads the output meanwhile,
        // because this borrows the whole.
        check(api, unsafe { (api.RunWithBinding)(session, ptr::null(), binding) })
    }

    /// Ends the recording of runs; the file that it is in.
    pub(super) fn end_profile(&mut self) -> Result<PathBuf, String> {
        let api = self.runtime.api;
        let (mut allocator, mut name) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the session is alive; results go into pointers of ours. The allocator is the library's own.
        unsafe {
            check(api, (api.GetAllocatorWithDefaultOptions)(&mut allocator))?;
            check(api, (api.SessionEndProfiling)(self.session.pointer, allocator, &mut name))?;
        }
        if name.is_null() {
            return Err("ONNX Runtime has recorded nothing".to_owned());
        }
        // SAFETY: it is a string that the allocator made, and is given back after it was copied.
        unsafe {
            let path = CStr::from_ptr(name).to_string_lossy().into_owned();
            check(api, (api.AllocatorFree)(allocator, name.cast()))?;
            Ok(PathBuf::from(path))
        }
    }

    /// The output of the last run.
    pub(super) fn output(&self) -> &[f32] {
        // SAFETY: it is ours, and written only by runs, which borrow the whole mutably.
        unsafe { std::slice::from_raw_parts(self.output.first, self.output.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(
            (minor("1.32.0"), minor("1.9"), minor("2.0.0"), minor("")),
            (Some(32), Some(9), None, None)
        );
    }
}
