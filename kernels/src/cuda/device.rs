//! A GPU of this process: its context, the kernels that are loaded on it, and whether it still works.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use cudarc::driver::sys::{CUfunction_attribute_enum as FunctionAttribute, CUresult as Code};
use cudarc::driver::{CudaContext, CudaFunction, CudaStream, DriverError};
use cudarc::nvrtc::Ptx;

use super::cache::{self, Cache};
use super::driver::{Driver, Facts};
use super::nvrtc::{Compiler, Target};
use super::schedule::Limits;
use super::variant::VARIANTS;
use super::{source, trial};
use crate::error::{ConvError, Unavailable};

/// Shared memory that a block gets without asking for more.
const PLAIN_SHARED_BYTES: u32 = 48 << 10;

/// A GPU that kernels can run on.
///
/// There is one for each GPU of a process, made by the first [`get`](Self::get) and kept to the end. It holds the
/// GPU's primary context, which programs share with other libraries, and the kernels that were compiled so far.
///
/// ```
/// use kernels::cuda::Device;
///
/// match Device::get(0) {
///     Ok(device) => println!("{} with {} multiprocessors", device.name(), device.multiprocessors()),
///     Err(reason) => println!("{reason}"), // no driver, no GPU, no compiler …
/// }
/// ```
pub struct Device {
    ordinal: usize,
    facts: &'static Facts,
    driver: &'static Driver,
    compiler: &'static Compiler,
    target: Target,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    functions: Mutex<HashMap<&'static str, Slot>>,
    cache: Cache,
    lost: OnceLock<Lost>,
    distrusted: OnceLock<&'static str>,
}

/// The GPUs that are in use.
static DEVICES: Mutex<Vec<Arc<Device>>> = Mutex::new(Vec::new());

/// A function's place, locked while it is compiled: others can be compiled at the same time.
type Slot = Arc<Mutex<Option<Loaded>>>;

struct Loaded {
    function: CudaFunction,
    /// Shared memory that it may be launched with.
    shared_bytes: u32,
}

/// How a GPU stopped working.
#[derive(Debug)]
struct Lost {
    call: &'static str,
    code: String,
}

impl Lost {
    fn reason(&self) -> Unavailable {
        Unavailable::DeviceLost { code: self.code.clone() }
    }

    fn error(&self) -> ConvError {
        ConvError::DeviceLost { call: self.call, code: self.code.clone() }
    }
}

impl Device {
    /// The GPU with this number, counted from 0 as the driver does (`CUDA_VISIBLE_DEVICES` may hide some).
    ///
    /// The first call for a GPU makes its context, in some tenths of a second.
    ///
    /// # Errors
    /// The reason why there is no such GPU here, or why it cannot be used: no driver, none that is new enough, no GPU
    /// of this number, no compiler that goes with both, or a GPU that stopped working before.
    pub fn get(ordinal: usize) -> Result<Arc<Device>, Unavailable> {
        let mut devices = lock(&DEVICES);
        if let Some(device) = devices.iter().find(|device| device.ordinal == ordinal) {
            device.available()?;
            return Ok(Arc::clone(device));
        }
        // A failure is not kept: what is lacking, memory say, may be there at the next call.
        let device = Arc::new(Device::new(ordinal)?);
        devices.push(Arc::clone(&device));
        Ok(device)
    }

    fn new(ordinal: usize) -> Result<Device, Unavailable> {
        let Requirements { driver, facts, compiler, target } = requirements(ordinal)?;
        let failed = |call| move |e: DriverError| Unavailable::DriverFailed { call, code: code_name(e) };
        let context = CudaContext::new(ordinal).map_err(failed("cuDevicePrimaryCtxRetain"))?;
        // SAFETY: what tracking does for buffers that several streams use is settled otherwise: buffers of plans are
        // complete before a plan can be used and freed when the GPU is idle, a run uses buffers of its own stream
        // alone, and `context` tells callers. On the other side, events for each buffer would cost calls in each
        // launch, and none that were recorded outside may show up while a graph is captured.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(failed("cuStreamCreate"))?;
        Ok(Device {
            ordinal,
            facts,
            driver,
            compiler,
            target,
            context,
            stream,
            functions: Mutex::default(),
            cache: Cache::of_user(),
            lost: OnceLock::new(),
            distrusted: OnceLock::new(),
        })
    }

    /// Its number.
    pub fn ordinal(&self) -> usize {
        self.ordinal
    }

    /// Its name, as the driver gives it.
    pub fn name(&self) -> &str {
        &self.facts.name
    }

    /// Its compute capability, major and minor.
    pub fn compute_capability(&self) -> (u32, u32) {
        self.facts.compute_capability
    }

    /// Its number of multiprocessors.
    pub fn multiprocessors(&self) -> u32 {
        self.facts.multiprocessors
    }

    /// Bytes of its memory, used or not.
    pub fn memory_bytes(&self) -> usize {
        self.facts.memory_bytes
    }

    /// The newest CUDA version that its driver supports, major and minor.
    pub fn driver_version(&self) -> (u32, u32) {
        self.driver.version
    }

    /// The version of the compiler that makes its kernels.
    pub fn nvrtc_version(&self) -> (u32, u32) {
        self.compiler.version
    }

    /// Whether the driver has a function: cudarc panics where one is called that a driver lacks.
    pub fn driver_has(&self, function: &str) -> bool {
        self.driver.has(function)
    }

    /// The function that gave wrong results when it was tried, if one did.
    ///
    /// Products of warpgroups, which only compute capability 9.0 has, run behind the program's back on operands whose
    /// place in shared memory is encoded in bits. So each function that makes them is tried once in a process, on a
    /// small convolution of whole numbers, before a plan uses it. If the result is not exact, new plans use products of
    /// warps instead: [`DevicePlan::functions`](super::DevicePlan::functions) says which functions a plan has.
    pub fn distrusted(&self) -> Option<&'static str> {
        self.distrusted.get().copied()
    }

    /// Its context, to make streams and buffers with.
    ///
    /// cudarc's tracking of buffers by events is off: work on different streams, and the release of buffers that
    /// another stream than their own uses, is for the caller to put in order.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// The stream of what plans upload once.
    pub(crate) fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits {
            compute_capability: self.facts.compute_capability,
            multiprocessors: self.facts.multiprocessors,
            shared_bytes: self.facts.shared_bytes,
            warpgroups: self.target.has_warpgroups() && self.distrusted().is_none(),
        }
    }

    /// A function of the kernels, compiled and loaded if it is not there yet, that may be launched with so much
    /// dynamic shared memory.
    pub(crate) fn function(&self, name: &'static str, shared_bytes: u32) -> Result<CudaFunction, ConvError> {
        self.working()?;
        let slot = Arc::clone(lock(&self.functions).entry(name).or_default());
        let mut slot = lock(&slot);
        let loaded = match &mut *slot {
            Some(loaded) => loaded,
            empty => {
                let function = self.load(name)?;
                let mut loaded = Loaded { function, shared_bytes: PLAIN_SHARED_BYTES };
                self.try_out(name, &mut loaded)?;
                empty.insert(loaded)
            }
        };
        self.allow(loaded, shared_bytes)?;
        Ok(loaded.function.clone())
    }

    /// Lets a function be launched with so much shared memory.
    fn allow(&self, loaded: &mut Loaded, shared_bytes: u32) -> Result<(), ConvError> {
        if shared_bytes > loaded.shared_bytes {
            self.check("cuCtxSetCurrent", self.context.bind_to_thread())?;
            let attribute = FunctionAttribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let bytes = i32::try_from(shared_bytes).unwrap_or(i32::MAX);
            self.check("cuFuncSetAttribute", loaded.function.set_attribute(attribute, bytes))?;
            loaded.shared_bytes = shared_bytes;
        }
        Ok(())
    }

    /// An error if the function is one that must be tried, and is wrong: from then on the device is not trusted with
    /// such functions.
    fn try_out(&self, name: &'static str, loaded: &mut Loaded) -> Result<(), ConvError> {
        let Some(variant) = VARIANTS.iter().find(|variant| variant.function == name && variant.warpgroups)
        else {
            return Ok(());
        };
        self.allow(loaded, variant.shared_bytes)?;
        if trial::is_right(self, variant, &loaded.function)? {
            return Ok(());
        }
        self.distrusted.get_or_init(|| name);
        Err(ConvError::DeviceCode {
            function: name,
            problem: "it gives wrong results on this GPU".to_owned(),
        })
    }

    fn load(&self, name: &'static str) -> Result<CudaFunction, ConvError> {
        self.load_source(name, &source::source_of(&[name]))
    }

    /// A function of any source, for tools: compiled, kept and loaded as those of the kernels.
    #[doc(hidden)]
    pub fn load_source(&self, name: &'static str, source: &str) -> Result<CudaFunction, ConvError> {
        let source_hash = cache::hash(source.as_bytes());
        let key = format!("{name} {source_hash:032x} {}", self.compiler.describe(&self.target));
        let code = match self.cache.get(name, &key) {
            Some(code) => code,
            None => {
                let code = self.compiler.compile(name, source, &self.target)?;
                self.cache.put(name, &key, &code);
                code
            }
        };
        let failed = |call: &'static str, e| match self.error(call, e) {
            ConvError::Device { call, code } => {
                ConvError::DeviceCode { function: name, problem: format!("{call} says {code}") }
            }
            other => other,
        };
        let module =
            self.context.load_module(Ptx::from_binary(code)).map_err(|e| failed("cuModuleLoadData", e))?;
        module.load_function(name).map_err(|e| failed("cuModuleGetFunction", e))
    }

    /// The outcome of a call, with which the GPU may turn out to be lost.
    pub(crate) fn check<T>(
        &self,
        call: &'static str,
        outcome: Result<T, DriverError>,
    ) -> Result<T, ConvError> {
        outcome.map_err(|e| self.error(call, e))
    }

    pub(crate) fn error(&self, call: &'static str, e: DriverError) -> ConvError {
        let (fatal, code) = (ends_the_context(e.0), code_name(e));
        if fatal {
            self.lost.get_or_init(|| Lost { call, code }).error()
        } else {
            ConvError::Device { call, code }
        }
    }

    /// An error if the GPU is lost.
    pub(crate) fn working(&self) -> Result<(), ConvError> {
        self.lost().map_or(Ok(()), |lost| Err(lost.error()))
    }

    /// The reason why it cannot be used, if it is lost.
    fn available(&self) -> Result<(), Unavailable> {
        self.lost().map_or(Ok(()), |lost| Err(lost.reason()))
    }

    fn lost(&self) -> Option<&Lost> {
        // What failed while something was dropped, with nobody to tell, cudarc would tell whoever calls next. It is no
        // failure of theirs, unless nothing works any more.
        if let Err(e) = self.context.check_err() {
            self.error("a release of buffers", e);
        }
        self.lost.get()
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device")
            .field("ordinal", &self.ordinal)
            .field("name", &self.name())
            .finish_non_exhaustive()
    }
}

/// What a GPU needs to be used.
struct Requirements {
    driver: &'static Driver,
    facts: &'static Facts,
    compiler: &'static Compiler,
    target: Target,
}

/// Looks for what a GPU needs; that makes no context.
fn requirements(ordinal: usize) -> Result<Requirements, Unavailable> {
    let driver = Driver::get()?;
    let facts = driver.device(ordinal)?;
    let compiler = Compiler::get(driver.version)?;
    let target = compiler.target(facts.compute_capability, driver.version)?;
    Ok(Requirements { driver, facts, compiler, target })
}

/// What is known of a GPU that can be used: everything it needs is there, and it was not lost before.
pub(crate) fn usable(ordinal: usize) -> Result<&'static Facts, Unavailable> {
    let Requirements { facts, .. } = requirements(ordinal)?;
    if let Some(device) = lock(&DEVICES).iter().find(|device| device.ordinal == ordinal) {
        device.available()?;
    }
    Ok(facts)
}

/// The name of a driver's code, for example `CUDA_ERROR_INVALID_VALUE`.
fn code_name(DriverError(code): DriverError) -> String {
    format!("{code:?}")
}

/// Whether everything in the context fails from here on: the driver says of these that the process must end.
fn ends_the_context(code: Code) -> bool {
    matches!(
        code,
        Code::CUDA_ERROR_DEINITIALIZED
            | Code::CUDA_ERROR_ECC_UNCORRECTABLE
            | Code::CUDA_ERROR_NVLINK_UNCORRECTABLE
            | Code::CUDA_ERROR_CONTAINED
            | Code::CUDA_ERROR_ILLEGAL_ADDRESS
            | Code::CUDA_ERROR_LAUNCH_TIMEOUT
            | Code::CUDA_ERROR_CONTEXT_IS_DESTROYED
            | Code::CUDA_ERROR_ASSERT
            | Code::CUDA_ERROR_HARDWARE_STACK_ERROR
            | Code::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | Code::CUDA_ERROR_MISALIGNED_ADDRESS
            | Code::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | Code::CUDA_ERROR_INVALID_PC
            | Code::CUDA_ERROR_LAUNCH_FAILED
            | Code::CUDA_ERROR_TENSOR_MEMORY_LEAK
            | Code::CUDA_ERROR_EXTERNAL_DEVICE
            | Code::CUDA_ERROR_UNKNOWN
    )
}

/// Locks, whatever happened to whoever held the lock before: what is behind these locks is whole at any time.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
