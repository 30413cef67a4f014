//! cuDNN as it is loaded, and its handle.

use std::ffi::OsStr;
use std::fmt;
use std::path::Path;

use cudarc::cudnn::{result, sys};

use crate::gpu::{Failure, Gpu};
use crate::peers::one_line;

/// Names under which cudarc looks for the library, of those that there are on Linux, in its order.
const NAMES: &[&str] = &["libcudnn.so", "libcudnn.so.9"];

/// What is used of it. Through cudarc, a function that a library lacks would be a panic.
const FUNCTIONS: &[&str] = &[
    "cudnnGetVersion",
    "cudnnCreate",
    "cudnnDestroy",
    "cudnnSetStream",
    "cudnnCreateTensorDescriptor",
    "cudnnSetTensor4dDescriptor",
    "cudnnDestroyTensorDescriptor",
    "cudnnCreateFilterDescriptor",
    "cudnnSetFilter4dDescriptor",
    "cudnnDestroyFilterDescriptor",
    "cudnnCreateConvolutionDescriptor",
    "cudnnSetConvolution2dDescriptor",
    "cudnnSetConvolutionMathType",
    "cudnnSetConvolutionGroupCount",
    "cudnnDestroyConvolutionDescriptor",
    "cudnnFindConvolutionForwardAlgorithmEx",
    "cudnnConvolutionForward",
    "cudnnTransformTensor",
];

/// cuDNN, which cudarc will find.
#[derive(Debug)]
pub(super) struct Library {
    /// As `9.19.0`.
    pub(super) version: String,
    /// It stays as long as anything of it may be called.
    _loaded: libloading::Library,
}

impl Library {
    /// Of a file.
    ///
    /// # Errors
    /// One line that names the file.
    pub(super) fn of_file(path: &Path) -> Result<Self, String> {
        let named = |error: String| format!("{}: {error}", path.display());
        if path.is_dir() {
            return Err(named(
                "is a folder, but must be cuDNN's shared library, as libcudnn.so.9".to_owned(),
            ));
        }
        // The loader would look for a bare name elsewhere.
        let whole = std::fs::canonicalize(path).map_err(|error| named(error.to_string()))?;
        let loaded = load(whole.as_os_str()).map_err(named)?;
        // cudarc looks by name alone, and finds what is loaded already.
        match by_name() {
            Ok(found) if address(&found) == address(&loaded) => Library::checked(loaded).map_err(named),
            _ => Err(named(format!(
                "is not what is found as {}: the file needs that name as its SONAME, and no other library may have \
                 it",
                NAMES.join(" or ")
            ))),
        }
    }

    /// Where the system looks for shared libraries.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn of_system() -> Result<Self, String> {
        let loaded = by_name().map_err(|error| {
            format!("the system has no library of cuDNN 9 ({error}); --cudnn FILE names one")
        })?;
        Library::checked(loaded)
    }

    fn checked(loaded: libloading::Library) -> Result<Self, String> {
        for &name in FUNCTIONS {
            // SAFETY: the symbol is only looked for.
            if unsafe { loaded.get::<*const ()>(name) }.is_err() {
                return Err(format!("is no cuDNN, or an unknown version of it: it has no {name}"));
            }
        }
        // SAFETY: the function was found just now, and is of this type in all versions.
        let version = unsafe {
            loaded.get::<unsafe extern "C" fn() -> usize>("cudnnGetVersion").map(|version| version())
        };
        let version = version.map_err(|error| error.to_string())?;
        // Since 9 the major number has two digits more.
        let (major, rest) =
            if version >= 90_000 { (version / 10_000, version % 10_000) } else { (version / 1000, 0) };
        if major != 9 {
            return Err(format!("cuDNN {major} has another interface than 9, which is known here"));
        }
        Ok(Library { version: format!("{major}.{}.{}", rest / 100, rest % 100), _loaded: loaded })
    }
}

fn load(name: impl AsRef<OsStr>) -> Result<libloading::Library, String> {
    // SAFETY: what is opened is cuDNN, or what was named in its place; starting it has no condition.
    unsafe { libloading::Library::new(name.as_ref()) }.map_err(|error| one_line(&error))
}

/// The library that cudarc will find.
fn by_name() -> Result<libloading::Library, String> {
    let mut reason = String::new();
    for name in NAMES {
        match load(name) {
            Ok(loaded) => return Ok(loaded),
            Err(error) => reason = error,
        }
    }
    Err(reason)
}

fn address(loaded: &libloading::Library) -> Option<*const ()> {
    // SAFETY: the symbol is only looked at, as an address.
    unsafe { loaded.get::<*const ()>(FUNCTIONS[1]) }.ok().map(|symbol| *symbol)
}

/// cuDNN's state on a GPU, bound to the stream on which everything is timed.
pub(super) struct Handle {
    pub(super) raw: sys::cudnnHandle_t,
}

impl Handle {
    /// The library is there as long as the process: whoever has it keeps it.
    pub(super) fn new(_: &Library, gpu: &Gpu) -> Result<Self, Failure> {
        gpu.device().context().bind_to_thread()?;
        let handle = Handle { raw: result::create_handle().map_err(failure)? };
        // SAFETY: both are alive, and the stream is as long as the process.
        unsafe { result::set_stream(handle.raw, gpu.stream().cu_stream().cast()) }.map_err(failure)?;
        Ok(handle)
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").finish_non_exhaustive()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: it is alive, and nobody has it after this. What it says then interests no one.
        let _ = unsafe { result::destroy_handle(self.raw) };
    }
}

/// What cuDNN says.
pub(super) fn failure(error: result::CudnnError) -> Failure {
    use sys::cudnnStatus_t as Status;
    let words = format!("cuDNN: {:?}", error.0);
    match error.0 {
        Status::CUDNN_STATUS_NOT_SUPPORTED
        | Status::CUDNN_STATUS_NOT_SUPPORTED_SHAPE
        | Status::CUDNN_STATUS_NOT_SUPPORTED_LAYOUT
        | Status::CUDNN_STATUS_NOT_SUPPORTED_PADDING => Failure::Unsupported(words),
        _ => Failure::Other(words),
    }
}
