//! The CUDA driver, found without a panic: cudarc panics where the driver's library or a function of it is
//! missing, so both are looked for here before anything of cudarc is called.
//!
//! The library is opened by its own dlopen and stays open; cudarc later opens it by name and gets the same one.
//! (cudarc's own `is_culib_present` exists only in programs in which no crate links CUDA.)

use std::error::Error;
use std::ffi::{CStr, OsStr, OsString, c_char, c_int, c_uint};
use std::sync::OnceLock;

use cudarc::driver::sys::CUdevice_attribute_enum as Attribute;
use libloading::Library;

use crate::error::Unavailable;

/// The oldest driver, by the CUDA version it supports: its compiler speaks C++17 and knows capability 8.0.
const OLDEST: (u32, u32) = (12, 0);

/// Names of the driver's library, in the order in which cudarc tries them.
const NAMES: &[&str] = if cfg!(windows) { &["nvcuda.dll"] } else { &["libcuda.so", "libcuda.so.1"] };

/// Every function that this crate calls, itself or through cudarc.
const FUNCTIONS: &[&str] = &[
    "cuInit",
    "cuDriverGetVersion",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceGetAttribute",
    "cuDeviceTotalMem_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuCtxSynchronize",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuModuleGetFunction",
    "cuFuncSetAttribute",
    "cuMemAlloc_v2",
    "cuMemAllocAsync",
    "cuMemFree_v2",
    "cuMemFreeAsync",
    "cuMemsetD8Async",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamSynchronize",
    "cuLaunchKernel",
];

/// What the driver says of a GPU; asking takes no context, and with it none of the GPU's memory.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) name: String,
    pub(crate) compute_capability: (u32, u32),
    pub(crate) multiprocessors: u32,
    /// Shared memory that a block may ask for, at most.
    pub(crate) shared_bytes: u32,
    pub(crate) memory_bytes: usize,
}

/// The driver, started.
#[derive(Debug)]
pub(crate) struct Driver {
    loaded: Library,
    /// The newest CUDA version it supports.
    pub(crate) version: (u32, u32),
    pub(crate) devices: Vec<Facts>,
}

impl Driver {
    /// The driver of this process, looked for once.
    pub(crate) fn get() -> Result<&'static Driver, Unavailable> {
        static DRIVER: OnceLock<Result<Driver, Unavailable>> = OnceLock::new();
        DRIVER
            .get_or_init(|| Driver::open(named("CONV_CUDA_DRIVER").as_deref()))
            .as_ref()
            .map_err(Clone::clone)
    }

    /// Loads the library, the system's if no path is given, and starts it.
    fn open(path: Option<&OsStr>) -> Result<Driver, Unavailable> {
        let (name, library) = match path {
            Some(path) => (path.to_string_lossy().into_owned(), load(path)),
            None => (NAMES[NAMES.len() - 1].to_owned(), by_name()),
        };
        let library = library.map_err(|reason| Unavailable::NoDriver { library: name.clone(), reason })?;
        let lacks = |function| Unavailable::DriverLacks { library: name.clone(), function };
        if let Some(missing) = FUNCTIONS.iter().find(|function| !has(&library, function)) {
            return Err(lacks(missing));
        }
        if path.is_some() && !by_name().is_ok_and(|found| same(&library, &found)) {
            let reason = format!(
                "cudarc looks for {}, which is another library: the file needs that name as its SONAME",
                NAMES.join(", then ")
            );
            return Err(Unavailable::NoDriver { library: name, reason });
        }
        let (version, devices) = Calls::of(&library).ok_or_else(|| lacks(FUNCTIONS[0]))?.facts()?;
        Ok(Driver { loaded: library, version, devices })
    }

    /// What is known of a GPU.
    pub(crate) fn device(&self, ordinal: usize) -> Result<&Facts, Unavailable> {
        let count = self.devices.len();
        self.devices.get(ordinal).ok_or(Unavailable::NoDevice { ordinal, count })
    }

    /// Whether the driver has a function; through cudarc one that it lacks is a panic.
    pub(crate) fn has(&self, function: &str) -> bool {
        has(&self.loaded, function)
    }
}

/// The value of an environment variable that names a file; empty is as good as unset.
pub(crate) fn named(variable: &str) -> Option<OsString> {
    std::env::var_os(variable).filter(|value| !value.is_empty())
}

/// Opens a library, or says why that cannot be.
pub(crate) fn load(name: impl AsRef<OsStr>) -> Result<Library, String> {
    // SAFETY: what is opened are libraries of NVIDIA's, or what the environment names in their place; starting
    // them has no condition.
    unsafe { Library::new(name.as_ref()) }.map_err(|e| {
        let said = e.source().map_or_else(|| e.to_string(), |cause| cause.to_string());
        said.replace('\n', " ")
    })
}

/// The library that cudarc will find.
fn by_name() -> Result<Library, String> {
    let mut reason = String::new();
    for name in NAMES {
        match load(name) {
            Ok(library) => return Ok(library),
            Err(e) => reason = e,
        }
    }
    Err(reason)
}

/// The address of a function in a library.
pub(crate) fn address(library: &Library, function: &str) -> Option<*const ()> {
    // SAFETY: the symbol is only looked at, as an address.
    let symbol = unsafe { library.get::<*const ()>(function) };
    symbol.ok().map(|symbol| *symbol).filter(|address| !address.is_null())
}

fn has(library: &Library, function: &str) -> bool {
    address(library, function).is_some()
}

fn same(a: &Library, b: &Library) -> bool {
    address(a, FUNCTIONS[0]) == address(b, FUNCTIONS[0])
}

/// The functions that are called before cudarc is. Codes come back as numbers: one that this crate's bindings do not
/// know would be no valid value of cudarc's enum.
struct Calls {
    init: unsafe extern "C" fn(c_uint) -> c_int,
    version: unsafe extern "C" fn(*mut c_int) -> c_int,
    error_name: unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int,
    count: unsafe extern "C" fn(*mut c_int) -> c_int,
    device: unsafe extern "C" fn(*mut c_int, c_int) -> c_int,
    name: unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int,
    attribute: unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int,
    memory: unsafe extern "C" fn(*mut usize, c_int) -> c_int,
}

impl Calls {
    fn of(library: &Library) -> Option<Calls> {
        // SAFETY: the types are those of cuda.h.
        unsafe {
            Some(Calls {
                init: *library.get("cuInit").ok()?,
                version: *library.get("cuDriverGetVersion").ok()?,
                error_name: *library.get("cuGetErrorName").ok()?,
                count: *library.get("cuDeviceGetCount").ok()?,
                device: *library.get("cuDeviceGet").ok()?,
                name: *library.get("cuDeviceGetName").ok()?,
                attribute: *library.get("cuDeviceGetAttribute").ok()?,
                memory: *library.get("cuDeviceTotalMem_v2").ok()?,
            })
        }
    }

    /// Starts the driver and asks for its version and its GPUs.
    fn facts(&self) -> Result<((u32, u32), Vec<Facts>), Unavailable> {
        let mut version = 0;
        // SAFETY: the pointer is to a number of the right type, here and below.
        self.checked("cuDriverGetVersion", unsafe { (self.version)(&mut version) })?;
        let version = version_of(version);
        if version < OLDEST {
            return Err(Unavailable::DriverTooOld { version, needed: OLDEST });
        }
        // SAFETY: zero is the only flag there is.
        let started = unsafe { (self.init)(0) };
        if started == NO_DEVICE {
            return Ok((version, Vec::new()));
        }
        self.checked("cuInit", started)?;
        let mut count = 0;
        // SAFETY: as above.
        self.checked("cuDeviceGetCount", unsafe { (self.count)(&mut count) })?;
        let devices = (0..count).map(|ordinal| self.device_facts(ordinal)).collect::<Result<_, _>>()?;
        Ok((version, devices))
    }

    fn device_facts(&self, ordinal: c_int) -> Result<Facts, Unavailable> {
        let mut device = 0;
        // SAFETY: the pointers are to numbers of the right types; the device is one that the driver gave.
        self.checked("cuDeviceGet", unsafe { (self.device)(&mut device, ordinal) })?;
        let attribute = |which: Attribute| -> Result<u32, Unavailable> {
            let mut value = 0;
            // SAFETY: as above.
            let code = unsafe { (self.attribute)(&mut value, which as c_int, device) };
            self.checked("cuDeviceGetAttribute", code)?;
            Ok(u32::try_from(value).unwrap_or(0))
        };
        let mut memory_bytes = 0;
        // SAFETY: as above.
        self.checked("cuDeviceTotalMem", unsafe { (self.memory)(&mut memory_bytes, device) })?;
        let mut name = [0; 256];
        // SAFETY: the pointer is to as many characters as the call is told, less one that stays zero.
        self.checked("cuDeviceGetName", unsafe {
            (self.name)(name.as_mut_ptr().cast(), name.len() as c_int - 1, device)
        })?;
        Ok(Facts {
            name: CStr::from_bytes_until_nul(&name).unwrap_or_default().to_string_lossy().into_owned(),
            compute_capability: (
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            memory_bytes,
        })
    }

    fn checked(&self, call: &'static str, code: c_int) -> Result<(), Unavailable> {
        if code == 0 {
            return Ok(());
        }
        let mut name = std::ptr::null();
        // SAFETY: the pointer is to a pointer, which the driver sets to a constant string or to null.
        let named = unsafe { (self.error_name)(code, &mut name) } == 0 && !name.is_null();
        let code = if named {
            // SAFETY: a string of the driver's that ends with a zero and lives as long as the library.
            unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
        } else {
            format!("error {code}")
        };
        Err(Unavailable::DriverFailed { call, code })
    }
}

/// cuInit's code where there is a driver and no GPU.
const NO_DEVICE: c_int = 100;

/// CUDA's versions are 1000 times the major plus 10 times the minor number.
fn version_of(number: c_int) -> (u32, u32) {
    let number = u32::try_from(number).unwrap_or(0);
    (number / 1000, number % 1000 / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_driver_is_a_reason() {
        let path = "/nowhere/libcuda.so.1";
        let error = Driver::open(Some(OsStr::new(path))).unwrap_err();
        assert!(matches!(&error, Unavailable::NoDriver { library, .. } if library == path), "{error}");
        let message = error.to_string();
        assert!(message.contains(path) && message.contains("CONV_CUDA_DRIVER"), "{message}");
        assert!(!message.contains('\n'), "{message}");
    }

    /// Any library that is at hand everywhere is no driver.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_library_that_is_no_driver_is_a_reason() {
        let error = Driver::open(Some(OsStr::new("libc.so.6"))).unwrap_err();
        assert_eq!(error, Unavailable::DriverLacks { library: "libc.so.6".to_owned(), function: "cuInit" });
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(version_of(13_000), (13, 0));
        assert_eq!(version_of(12_080), (12, 8));
        assert_eq!(version_of(-1), (0, 0));
        assert!(version_of(11_080) < OLDEST);
    }

    /// Whatever this machine has, asking is no panic and gives the same answer again.
    #[test]
    fn asking_gives_one_answer() {
        let answer = || Driver::get().map(|driver| driver.devices.len());
        assert_eq!(answer(), answer());
    }
}
