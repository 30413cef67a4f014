//! oneDNN's C interface, as far as a convolution needs it: the functions of a shared library that was found
//! at run time, with those that versions 2 and 3 do not share.
//!
//! Both versions pass memory descriptors as pointers, so that most functions are called alike; version 2
//! fills a struct of the caller's, version 3 makes an object of its own. Numbers are those of oneDNN's
//! headers that have the same value in both; tags of layouts do not, so layouts are given as strides.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fmt;
use std::path::Path;

use libloading::Library as Shared;

use super::openmp::OpenMp;

/// `dnnl_status_t`.
pub(super) type Status = c_int;
/// `dnnl_engine_t`, `dnnl_memory_t` and other pointers to objects of the library.
pub(super) type Object = *mut c_void;
/// `const dnnl_memory_desc_t *` of version 2, `const_dnnl_memory_desc_t` of version 3.
pub(super) type ConstDescriptor = *const c_void;
/// A function that makes an object without further ado, or destroys one.
pub(super) type Destroy = unsafe extern "C" fn(Object) -> Status;

pub(super) const SUCCESS: Status = 0;
pub(super) const OUT_OF_MEMORY: Status = 1;
pub(super) const UNIMPLEMENTED: Status = 3;
/// What a library says that has not done what it reports to have done.
pub(super) const RUNTIME_ERROR: Status = 5;

pub(super) const ENGINE_CPU: c_int = 1;
pub(super) const STREAM_IN_ORDER: c_uint = 1;
pub(super) const F32: c_int = 3;
/// The layout is the library's choice.
pub(super) const TAG_ANY: c_int = 1;
pub(super) const FORWARD_TRAINING: c_int = 64;
pub(super) const FORWARD_INFERENCE: c_int = 96;
pub(super) const CONVOLUTION_DIRECT: c_int = 1;
pub(super) const CONVOLUTION_WINOGRAD: c_int = 2;

pub(super) const QUERY_MEMORY_CONSUMPTION: c_int = 6;
pub(super) const QUERY_IMPLEMENTATION: c_int = 8;
pub(super) const QUERY_SOURCE: c_int = 129;
pub(super) const QUERY_SOURCE_GRADIENT: c_int = 130;
pub(super) const QUERY_WEIGHTS: c_int = 131;
pub(super) const QUERY_WEIGHTS_GRADIENT: c_int = 132;
pub(super) const QUERY_DESTINATION: c_int = 133;
pub(super) const QUERY_DESTINATION_GRADIENT: c_int = 134;

pub(super) const ARG_SOURCE: c_int = 1;
pub(super) const ARG_DESTINATION: c_int = 17;
pub(super) const ARG_WEIGHTS: c_int = 33;
pub(super) const ARG_BIAS: c_int = 41;
pub(super) const ARG_SOURCE_GRADIENT: c_int = 129;
pub(super) const ARG_DESTINATION_GRADIENT: c_int = 145;
pub(super) const ARG_WEIGHTS_GRADIENT: c_int = 161;
pub(super) const ARG_BIAS_GRADIENT: c_int = 169;

/// Asks `dnnl_memory_create` to allocate.
pub(super) const ALLOCATE: *mut c_void = usize::MAX as *mut c_void;

/// `DNNL_MAX_NDIMS` numbers, `dnnl_dims_t`; the library reads as many as there are dimensions.
pub(super) type Dims = [i64; 12];

/// `dnnl_exec_arg_t`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Argument {
    pub(super) index: c_int,
    pub(super) memory: Object,
}

/// The beginning of `dnnl_version_t`, up to the last field that is read.
#[repr(C)]
struct RawVersion {
    number: [c_int; 3],
    hash: *const c_char,
    cpu_runtime: c_uint,
}

/// Room for version 2's `dnnl_memory_desc_t`: 696 bytes, aligned to 8, in 2.0 to 2.7. Its layout is part of
/// the binary interface, which a major version keeps; there is three times the room.
pub(super) type DescriptorRoom = [u64; 256];
/// Room for version 2's `dnnl_convolution_desc_t`, in which eight memory descriptors lie: 5976 bytes.
pub(super) type OperationRoom = [u64; 2048];

type InitByStrides = unsafe extern "C" fn(Object, c_int, *const i64, c_int, *const i64) -> Status;
type InitByTag = unsafe extern "C" fn(Object, c_int, *const i64, c_int, c_int) -> Status;
type CreateWithStrides = unsafe extern "C" fn(*mut Object, c_int, *const i64, c_int, *const i64) -> Status;
type CreateWithTag = unsafe extern "C" fn(*mut Object, c_int, *const i64, c_int, c_int) -> Status;
/// Operation, kind of propagation, algorithm; descriptors of source, weights, bias, destination; strides,
/// dilation, padding before and after.
type InitConvolution = unsafe extern "C" fn(
    Object,
    c_int,
    c_int,
    ConstDescriptor,
    ConstDescriptor,
    ConstDescriptor,
    ConstDescriptor,
    *const i64,
    *const i64,
    *const i64,
    *const i64,
) -> Status;
/// Operation, algorithm; descriptors of the gradient by the source, weights, gradient by the destination; strides,
/// dilation, padding before and after.
type InitByData = unsafe extern "C" fn(
    Object,
    c_int,
    ConstDescriptor,
    ConstDescriptor,
    ConstDescriptor,
    *const i64,
    *const i64,
    *const i64,
    *const i64,
) -> Status;
/// Operation, algorithm; descriptors of source, gradients by weights, bias and destination; the rest as above.
type InitByWeights = unsafe extern "C" fn(
    Object,
    c_int,
    ConstDescriptor,
    ConstDescriptor,
    ConstDescriptor,
    ConstDescriptor,
    *const i64,
    *const i64,
    *const i64,
    *const i64,
) -> Status;
/// Result, operation, attributes, engine, hint.
type CreatePrimitiveDesc =
    unsafe extern "C" fn(*mut Object, *const c_void, *const c_void, Object, *const c_void) -> Status;
/// Result, engine; as [`InitConvolution`] from the kind of propagation on; attributes.
type CreateConvolution = unsafe extern "C" fn(
    *mut Object,
    Object,
    c_int,
    c_int,
    ConstDescriptor,
    ConstDescriptor,
    ConstDescriptor,
    ConstDescriptor,
    *const i64,
    *const i64,
    *const i64,
    *const i64,
    *const c_void,
) -> Status;
/// Result, engine; as [`InitByData`] from the algorithm on; hint, attributes.
type CreateByData = unsafe extern "C" fn(
    *mut Object,
    Object,
    c_int,
    ConstDescriptor,
    ConstDescriptor,
    ConstDescriptor,
    *const i64,
    *const i64,
    *const i64,
    *const i64,
    Object,
    *const c_void,
) -> Status;
/// Result, engine; as [`InitByWeights`] from the algorithm on; hint, attributes.
type CreateByWeights = unsafe extern "C" fn(
    *mut Object,
    Object,
    c_int,
    ConstDescriptor,
    ConstDescriptor,
    ConstDescriptor,
    ConstDescriptor,
    *const i64,
    *const i64,
    *const i64,
    *const i64,
    Object,
    *const c_void,
) -> Status;
/// Result, source and its engine, destination and its engine, attributes.
type CreateReorder = unsafe extern "C" fn(
    *mut Object,
    ConstDescriptor,
    Object,
    ConstDescriptor,
    Object,
    *const c_void,
) -> Status;

/// What versions 2 and 3 do differently.
#[derive(Clone, Copy, Debug)]
pub(super) enum Generation {
    /// Structs of the caller's.
    Two {
        init_by_strides: InitByStrides,
        init_by_tag: InitByTag,
        init_convolution: InitConvolution,
        init_by_data: InitByData,
        init_by_weights: InitByWeights,
        create_primitive_desc: CreatePrimitiveDesc,
    },
    /// Objects of the library's.
    Three {
        create_with_strides: CreateWithStrides,
        create_with_tag: CreateWithTag,
        destroy_descriptor: Destroy,
        create_convolution: CreateConvolution,
        create_by_data: CreateByData,
        create_by_weights: CreateByWeights,
    },
}

/// The functions of a library that is loaded. It stays loaded until the process ends: it may have left
/// something for each thread that has called it.
#[derive(Debug)]
pub(super) struct Library {
    pub(super) version: Version,
    pub(super) generation: Generation,
    pub(super) create_engine: unsafe extern "C" fn(*mut Object, c_int, usize) -> Status,
    pub(super) destroy_engine: Destroy,
    pub(super) create_stream: unsafe extern "C" fn(*mut Object, Object, c_uint) -> Status,
    pub(super) wait: unsafe extern "C" fn(Object) -> Status,
    pub(super) destroy_stream: Destroy,
    pub(super) create_memory:
        unsafe extern "C" fn(*mut Object, ConstDescriptor, Object, *mut c_void) -> Status,
    pub(super) destroy_memory: Destroy,
    pub(super) descriptor_size: unsafe extern "C" fn(ConstDescriptor) -> usize,
    pub(super) descriptors_equal: unsafe extern "C" fn(ConstDescriptor, ConstDescriptor) -> c_int,
    pub(super) create_reorder: CreateReorder,
    pub(super) query_descriptor: unsafe extern "C" fn(Object, c_int, c_int) -> ConstDescriptor,
    pub(super) query: unsafe extern "C" fn(Object, c_int, c_int, *mut c_void) -> Status,
    pub(super) destroy_primitive_desc: Destroy,
    pub(super) create_primitive: unsafe extern "C" fn(*mut Object, Object) -> Status,
    pub(super) execute: unsafe extern "C" fn(Object, Object, c_int, *const Argument) -> Status,
    pub(super) destroy_primitive: Destroy,
    /// Its threads, where they are OpenMP's.
    pub(super) openmp: Option<OpenMp>,
}

/// A library's version and what its threads are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) number: [c_int; 3],
    runtime: c_uint,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.number;
        write!(f, "{major}.{minor}.{patch}")
    }
}

impl Version {
    /// Whose threads the library uses.
    pub(super) fn runtime(self) -> &'static str {
        match self.runtime {
            1 => "none",
            2 => "OpenMP",
            4 => "TBB",
            8 => "the caller's",
            512 => "SYCL",
            _ => "of a kind that is not known here",
        }
    }
}

impl Library {
    /// The library in a file; a name without a folder that is no file is looked for where the system does.
    ///
    /// # Errors
    /// One line that names the file and says why it is of no use.
    pub(super) fn of_file(path: &Path) -> Result<&'static Library, String> {
        let error = |what: &str| format!("{}: {what}", path.display());
        match path.metadata() {
            // A pipe would be waited for.
            Ok(metadata) if !metadata.is_file() => {
                Err(error("is no file, but must be oneDNN's shared library"))
            }
            // The system does not look into the current folder.
            Ok(_) => Library::load(&std::path::absolute(path).map_err(|e| error(&e.to_string()))?)
                .map_err(|e| error(&e)),
            Err(_) => Library::load(path).map_err(|e| error(&e)),
        }
    }

    /// The library that the system knows by this name.
    ///
    /// # Errors
    /// As [`of_file`](Self::of_file).
    pub(super) fn of_system(name: &str) -> Result<&'static Library, String> {
        Library::load(Path::new(name)).map_err(|what| format!("{name}: {what}"))
    }

    fn load(path: &Path) -> Result<&'static Library, String> {
        // SAFETY: loading runs the library's own start-up code. It is a file that the user has named or
        // the system's oneDNN, and is trusted as every other program that they run.
        let shared = unsafe { Shared::new(path) }.map_err(|error| cause(&error, path))?;
        let library = Library::resolve(&shared)?;
        std::mem::forget(shared);
        Ok(Box::leak(Box::new(library)))
    }

    fn resolve(shared: &Shared) -> Result<Library, String> {
        /// The function of this name.
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the function has the type that oneDNN's header of this version declares.
                *unsafe { shared.get(concat!($name, "\0")) }
                    .map_err(|_| concat!("is no library of oneDNN 2 or 3: it has no ", $name))?
            };
        }
        let version: unsafe extern "C" fn() -> *const RawVersion = function!("dnnl_version");
        // SAFETY: it has no conditions.
        let raw = unsafe { version() };
        // SAFETY: it points to a constant of the library, which in every version begins with three numbers,
        // or is null.
        let number = *unsafe { raw.cast::<[c_int; 3]>().as_ref() }.ok_or("does not know its version")?;
        let [major, minor, patch] = number;
        let generation = match major {
            2 => Generation::Two {
                init_by_strides: function!("dnnl_memory_desc_init_by_strides"),
                init_by_tag: function!("dnnl_memory_desc_init_by_tag"),
                init_convolution: function!("dnnl_dilated_convolution_forward_desc_init"),
                init_by_data: function!("dnnl_dilated_convolution_backward_data_desc_init"),
                init_by_weights: function!("dnnl_dilated_convolution_backward_weights_desc_init"),
                create_primitive_desc: function!("dnnl_primitive_desc_create"),
            },
            3 => Generation::Three {
                create_with_strides: function!("dnnl_memory_desc_create_with_strides"),
                create_with_tag: function!("dnnl_memory_desc_create_with_tag"),
                destroy_descriptor: function!("dnnl_memory_desc_destroy"),
                create_convolution: function!("dnnl_convolution_forward_primitive_desc_create"),
                create_by_data: function!("dnnl_convolution_backward_data_primitive_desc_create"),
                create_by_weights: function!("dnnl_convolution_backward_weights_primitive_desc_create"),
            },
            _ => return Err(format!("is oneDNN {major}.{minor}.{patch}, but must be 2 or 3")),
        };
        // SAFETY: the constant of these versions has the field.
        let version = Version { number, runtime: unsafe { (*raw).cpu_runtime } };
        let library = Library {
            version,
            generation,
            create_engine: function!("dnnl_engine_create"),
            destroy_engine: function!("dnnl_engine_destroy"),
            create_stream: function!("dnnl_stream_create"),
            wait: function!("dnnl_stream_wait"),
            destroy_stream: function!("dnnl_stream_destroy"),
            create_memory: function!("dnnl_memory_create"),
            destroy_memory: function!("dnnl_memory_destroy"),
            descriptor_size: function!("dnnl_memory_desc_get_size"),
            descriptors_equal: function!("dnnl_memory_desc_equal"),
            create_reorder: function!("dnnl_reorder_primitive_desc_create"),
            query_descriptor: function!("dnnl_primitive_desc_query_md"),
            query: function!("dnnl_primitive_desc_query"),
            destroy_primitive_desc: function!("dnnl_primitive_desc_destroy"),
            create_primitive: function!("dnnl_primitive_create"),
            execute: function!("dnnl_primitive_execute"),
            destroy_primitive: function!("dnnl_primitive_destroy"),
            openmp: if version.runtime() == "OpenMP" { OpenMp::of(shared) } else { None },
        };
        let set_cache: unsafe extern "C" fn(c_int) -> Status = function!("dnnl_set_primitive_cache_capacity");
        // Preparing the same convolution again shall cost what it cost the first time.
        // SAFETY: it takes any number that is not negative.
        unsafe { set_cache(0) };
        Ok(library)
    }
}

/// Why a library could not be loaded, without the path.
fn cause(error: &libloading::Error, path: &Path) -> String {
    let source = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
    // The system's message begins with the name of the file.
    match source.split_once(": ") {
        Some((name, what)) if Path::new(name) == path => what.to_owned(),
        _ => source,
    }
    .replace('\n', " ")
}

/// A function of the library that has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) function: &'static str,
    pub(super) status: Status,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.status {
            OUT_OF_MEMORY => "out_of_memory",
            2 => "invalid_arguments",
            UNIMPLEMENTED => "unimplemented",
            4 => "last_impl_reached",
            RUNTIME_ERROR => "runtime_error",
            6 => "not_required",
            status => return write!(f, "{} failed with status {status}", self.function),
        };
        write!(f, "{} failed: {name}", self.function)
    }
}

/// Nothing if a function has succeeded.
pub(super) fn check(function: &'static str, status: Status) -> Result<(), Failure> {
    if status == SUCCESS { Ok(()) } else { Err(Failure { function, status }) }
}

/// A text of the library's; empty if there is none.
///
/// # Safety
/// `text` is null or ends with a zero.
pub(super) unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: not null, and the caller says that it ends.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
