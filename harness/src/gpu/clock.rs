//! The GPU with its stream and its clock: two events around what is enqueued between them.

use std::ffi::c_int;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use cudarc::driver::sys::{
    CUdevice_attribute, CUevent, CUevent_flags, CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode,
};
use cudarc::driver::{CudaEvent, CudaGraph, CudaSlice, CudaStream, DriverError};
use kernels::cuda::Device;

use crate::engine::Refusal;
use crate::gpu::Description;
use crate::record::{Launches, Status};

/// Why something could not be done on a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Its memory does not suffice for so many bytes.
    Memory(usize),
    /// What computes there does not cover the convolution.
    Unsupported(String),
    /// Anything else.
    Other(String),
}

impl From<DriverError> for Failure {
    fn from(error: DriverError) -> Self {
        Failure::Other(format!("CUDA: {:?}", error.0))
    }
}

impl From<Failure> for String {
    fn from(failure: Failure) -> String {
        match failure {
            Failure::Memory(bytes) => {
                format!("{} of the GPU's memory could not be had", crate::machine::bytes(bytes as u64))
            }
            Failure::Unsupported(reason) | Failure::Other(reason) => reason,
        }
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Refusal {
        let status = match failure {
            Failure::Memory(_) => Status::TooLarge,
            Failure::Unsupported(_) => Status::Unsupported,
            Failure::Other(_) => Status::Unavailable,
        };
        Refusal { status, reason: failure.into() }
    }
}

/// The first GPU, a stream of ours on it, and the events that time what is on the stream.
pub(crate) struct Gpu {
    device: Arc<Device>,
    stream: Arc<CudaStream>,
    events: Mutex<[CudaEvent; 2]>,
    elapsed: Elapsed,
}

/// What is called here beyond what `kernels` calls. Through cudarc, a function that a driver lacks would be a panic.
const FUNCTIONS: &[&str] = &[
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuMemsetD8Async",
    "cuStreamBeginCapture_v2",
    "cuStreamEndCapture",
];

static GPU: LazyLock<Result<Gpu, String>> = LazyLock::new(Gpu::open);

impl Gpu {
    /// The GPU, the same one each time.
    ///
    /// # Errors
    /// Why there is none that kernels could run on.
    pub(crate) fn get() -> Result<&'static Gpu, String> {
        GPU.as_ref().map_err(Clone::clone)
    }

    fn open() -> Result<Gpu, String> {
        kernels::cuda::availability().map_err(|reason| reason.to_string())?;
        let device = Device::get(0).map_err(|reason| reason.to_string())?;
        if let Some(missing) = FUNCTIONS.iter().find(|function| !device.driver_has(function)) {
            return Err(format!("the CUDA driver has no {missing}, without which nothing can be timed"));
        }
        let named = |error: DriverError| String::from(Failure::from(error));
        let context = device.context();
        let stream = context.new_stream().map_err(named)?;
        let event = || context.new_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).map_err(named);
        let events = Mutex::new([event()?, event()?]);
        let elapsed = elapsed()?;
        Ok(Gpu { stream, events, elapsed, device })
    }

    /// The device.
    pub(crate) fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// The stream on which everything that is timed runs.
    pub(crate) fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// The device's name.
    pub(crate) fn name(&self) -> String {
        self.device.name().to_owned()
    }

    /// A property of the device; 0 where it is not known.
    pub(crate) fn attribute(&self, attribute: CUdevice_attribute) -> usize {
        let value = self.device.context().attribute(attribute).unwrap_or(0);
        usize::try_from(value).unwrap_or(0)
    }

    /// So many zeros in the GPU's memory.
    pub(crate) fn zeros(&self, len: usize) -> Result<CudaSlice<f32>, Failure> {
        self.stream.alloc_zeros(len).map_err(|error| match error.0 {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => Failure::Memory(4 * len),
            _ => error.into(),
        })
    }

    /// A copy in the GPU's memory, complete when this returns.
    pub(crate) fn copy_of(&self, values: &[f32]) -> Result<CudaSlice<f32>, Failure> {
        let mut copy = self.zeros(values.len())?;
        self.stream.memcpy_htod(values, &mut copy)?;
        self.stream.synchronize()?;
        Ok(copy)
    }

    /// How long what is enqueued on the stream takes there.
    pub(crate) fn time(&self, enqueue: impl FnOnce() -> Result<(), Failure>) -> Result<Duration, Failure> {
        // Events that a panicking thread has left are recorded anew.
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let [begin, end] = &*events;
        begin.record(&self.stream)?;
        if let Err(failure) = enqueue() {
            // Whatever was enqueued before still uses buffers that the caller may give up now. What failed first is
            // the reason.
            let _ = self.stream.synchronize();
            return Err(failure);
        }
        end.record(&self.stream)?;
        end.synchronize()?;
        let mut milliseconds = 0.0f32;
        // SAFETY: both events are alive, were recorded, and the last one has come to pass.
        let status = unsafe { (self.elapsed)(&mut milliseconds, begin.cu_event(), end.cu_event()) };
        if status != 0 {
            return Err(Failure::Other(format!("CUDA: the time between two events is not known ({status})")));
        }
        Duration::try_from_secs_f64(f64::from(milliseconds) * 1e-3)
            .map_err(|_| Failure::Other(format!("CUDA: {milliseconds} ms passed between two events")))
    }
}

/// `cuEventElapsedTime`. Every driver has it; the one that the bindings for CUDA 13 would call came with 12.8.
type Elapsed = unsafe extern "C" fn(*mut f32, CUevent, CUevent) -> c_int;

/// The driver's, which is loaded already: what cudarc finds.
fn elapsed() -> Result<Elapsed, String> {
    const FILES: &[&str] = if cfg!(windows) { &["nvcuda.dll"] } else { &["libcuda.so", "libcuda.so.1"] };
    const NAME: &str = "cuEventElapsedTime";
    for &file in FILES {
        // SAFETY: it is in the process already, so nothing of it is run.
        let Ok(library) = (unsafe { libloading::Library::new(file) }) else { continue };
        // SAFETY: the type is the function's, of every version of CUDA.
        let found = unsafe { library.get::<Elapsed>(NAME) }.map(|symbol| *symbol);
        // It stays as long as the process: so does the pointer.
        std::mem::forget(library);
        if let Ok(found) = found {
            return Ok(found);
        }
    }
    Err(format!("the CUDA driver has no {NAME}"))
}

/// The GPUs there are.
pub(super) fn devices() -> Result<Vec<Description>, String> {
    let first = Gpu::get()?;
    let describe = |device: &Device| {
        let (major, minor) = device.compute_capability();
        let l2 =
            device.context().attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE).unwrap_or(0);
        let version = |(major, minor): (u32, u32)| format!("{major}.{minor}");
        Description {
            name: device.name().to_owned(),
            compute_capability: [major, minor],
            multiprocessors: device.multiprocessors(),
            memory_bytes: device.memory_bytes() as u64,
            l2_bytes: u64::try_from(l2).unwrap_or(0),
            driver: version(device.driver_version()),
            nvrtc: version(device.nvrtc_version()),
        }
    };
    let others = (1..).map_while(|ordinal| Device::get(ordinal).ok());
    Ok(std::iter::once(first.device.clone()).chain(others).map(|device| describe(&device)).collect())
}

/// Something that is enqueued on the GPU's stream again and again.
pub(crate) trait Enqueue {
    /// Enqueues it once, without waiting for anything.
    fn enqueue(&mut self) -> Result<(), Failure>;
}

/// How something is run many times: by calls, or, where a call takes about as long as the run, as a graph of many
/// runs that was recorded before.
pub(crate) struct Runs {
    /// The graph and its runs.
    graph: Option<(CudaGraph, u64)>,
}

/// Runs no longer than this go by graph: a call, ours or another library's, takes some microseconds.
const SHORT: Duration = Duration::from_micros(100);
/// Runs of a trial.
const TRIES: u32 = 5;
/// What a graph should take, and its runs at most and at least.
const GRAPH: Duration = Duration::from_micros(500);
const GRAPH_RUNS: (u128, u128) = (4, 64);

impl Runs {
    /// Tries how long a run takes, and records a graph for a short one.
    pub(crate) fn new(gpu: &Gpu, work: &mut dyn Enqueue) -> Result<Self, Failure> {
        let calls = Runs { graph: None };
        // The first run may load what it needs, which says nothing of the others.
        gpu.time(|| work.enqueue())?;
        let mut each = gpu.time(|| work.enqueue())?;
        if each <= 10 * SHORT {
            each = calls.time(gpu, work, TRIES.into())? / TRIES;
        }
        if each > SHORT {
            return Ok(calls);
        }
        let (fewest, most) = GRAPH_RUNS;
        let runs = (GRAPH.as_nanos() / each.as_nanos().max(1)).clamp(fewest, most) as u64;
        // What cannot be recorded is called.
        Ok(Runs { graph: record(gpu, work, runs).ok().flatten().map(|graph| (graph, runs)) })
    }

    /// How runs are started.
    pub(crate) fn launches(&self) -> Launches {
        if self.graph.is_some() { Launches::Graph } else { Launches::Calls }
    }

    /// Runs so many times; how long that takes. With a graph it is the time of the whole graphs that so many runs
    /// hold, for as many runs; fewer runs than one graph has are called.
    pub(crate) fn time(&self, gpu: &Gpu, work: &mut dyn Enqueue, repeats: u64) -> Result<Duration, Failure> {
        match &self.graph {
            Some((graph, runs)) if repeats >= *runs => {
                let replays = repeats / runs;
                let time = gpu.time(|| (0..replays).try_for_each(|_| Ok(graph.launch()?)))?;
                Ok(time.mul_f64(repeats as f64 / (replays * runs) as f64))
            }
            _ => gpu.time(|| (0..repeats).try_for_each(|_| work.enqueue())),
        }
    }
}

/// A graph of so many runs, if the stream can record them.
fn record(gpu: &Gpu, work: &mut dyn Enqueue, runs: u64) -> Result<Option<CudaGraph>, Failure> {
    let stream = gpu.stream();
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
    let enqueued = (0..runs).try_for_each(|_| work.enqueue());
    // Ended whatever happened: the stream is to run again.
    let graph = stream.end_capture(CUgraphInstantiate_flags(0));
    enqueued?;
    let graph = graph?;
    if let Some(graph) = &graph {
        // Its first launch brings it to the GPU.
        graph.launch()?;
        stream.synchronize()?;
    }
    Ok(graph)
}
