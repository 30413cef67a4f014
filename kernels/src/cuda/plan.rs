//! What a plan on a GPU is, whoever brings the buffers.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::sys::CUdeviceptr;
use cudarc::driver::{CudaFunction, CudaStream, DevicePtr, result};

use super::device::Device;
use super::memory::Resident;
use super::schedule::{self, Launch, Method, Schedule, Settled};
use crate::error::ConvError;
use crate::kernel::{self, ErrorModel, PlanOptions};
use crate::spec::ConvSpec;

/// What plans of a layer share, whatever their size.
#[derive(Debug)]
struct Layer {
    device: Arc<Device>,
    settled: Settled,
    options: PlanOptions,
    weights: Resident<f32>,
}

/// A convolution of one size on a GPU, without bias and buffers.
#[derive(Debug)]
pub(super) struct Prepared {
    layer: Arc<Layer>,
    pub(super) spec: ConvSpec,
    launches: Vec<(CudaFunction, Launch)>,
    offsets: Resident<[i32; 2]>,
    /// f32s of scratch memory on the GPU.
    pub(super) scratch_len: usize,
    pub(super) error_model: ErrorModel,
    pub(super) flops: u64,
}

/// Where an argument lies, for the driver to copy.
fn pointer<T>(argument: &T) -> *mut c_void {
    std::ptr::from_ref(argument).cast_mut().cast()
}

/// Addresses of a run's buffers on the GPU.
#[derive(Clone, Copy)]
pub(super) struct Addresses {
    pub(super) input: CUdeviceptr,
    /// Zero for none.
    pub(super) bias: CUdeviceptr,
    pub(super) output: CUdeviceptr,
    pub(super) scratch: CUdeviceptr,
}

impl Prepared {
    pub(super) fn new(
        method: Method,
        device: &Arc<Device>,
        spec: &ConvSpec,
        weights: &[f32],
        options: &PlanOptions,
    ) -> Result<Prepared, ConvError> {
        let prepare = || {
            let mut schedule = schedule::schedule(method, spec, weights, options, &device.limits())?;
            let weights = device.upload(&std::mem::take(&mut schedule.weights))?;
            let layer =
                Layer { device: Arc::clone(device), settled: schedule.settled, options: *options, weights };
            Prepared::of(Arc::new(layer), spec, schedule)
        };
        let trusted = device.distrusted().is_none();
        match prepare() {
            // A function turned out to be wrong here: the next schedule has none of its kind.
            Err(_) if trusted && device.distrusted().is_some() => prepare(),
            outcome => outcome,
        }
    }

    fn of(layer: Arc<Layer>, spec: &ConvSpec, schedule: Schedule) -> Result<Prepared, ConvError> {
        let Schedule { launches, offsets, scratch_len, error_model, flops, .. } = schedule;
        let device = &layer.device;
        let offsets = device.upload(&offsets)?;
        let launches = launches
            .into_iter()
            .map(|launch| Ok((device.function(launch.function, launch.shared_bytes)?, launch)))
            .collect::<Result<_, ConvError>>()?;
        Ok(Prepared { layer, spec: *spec, launches, offsets, scratch_len, error_model, flops })
    }

    pub(super) fn resized(&self, spec: &ConvSpec) -> Result<Prepared, ConvError> {
        kernel::check_resize(spec, &self.spec)?;
        let Layer { device, settled, options, .. } = &*self.layer;
        device.working()?;
        let schedule = schedule::resized(*settled, spec, options, &device.limits())?;
        Prepared::of(Arc::clone(&self.layer), spec, schedule)
    }

    /// Enqueues a run. Neither waits nor allocates.
    ///
    /// # Safety
    /// The addresses are those of buffers in the device's memory, of the spec's lengths and the scratch memory's, that
    /// stay until the stream has passed the run, and that nothing else writes meanwhile.
    pub(super) unsafe fn launch(&self, stream: &CudaStream, addresses: Addresses) -> Result<(), ConvError> {
        let Layer { device, weights, .. } = &*self.layer;
        device.working()?;
        device.check("cuCtxSetCurrent", device.context().bind_to_thread())?;
        let (weights, _weights_read) = weights.device_ptr(stream);
        let (offsets, _offsets_read) = self.offsets.device_ptr(stream);
        let Addresses { input, bias, output, scratch } = addresses;
        for (function, launch) in &self.launches {
            // SAFETY: the caller vouches for the buffers, and the layer has the weights and offsets.
            unsafe {
                launch_on(device, stream, function, launch, [input, weights, offsets, bias, output, scratch])
            }?;
        }
        Ok(())
    }

    pub(super) fn device(&self) -> &Arc<Device> {
        &self.layer.device
    }

    pub(super) fn options(&self) -> &PlanOptions {
        &self.layer.options
    }

    /// The functions that run, in order.
    pub(super) fn functions(&self) -> impl Iterator<Item = &'static str> {
        self.launches.iter().map(|(_, launch)| launch.function)
    }

    pub(super) fn kernel_id(&self) -> &'static str {
        self.layer.settled.method.id()
    }

    pub(super) fn packed_bytes(&self) -> usize {
        self.layer.weights.num_bytes()
    }
}

/// Enqueues a kernel on the addresses of input, weights, offsets, bias, output and scratch memory. The context is the
/// thread's own.
///
/// # Safety
/// Each is zero, where the kernel looks for that, or a buffer in the device's memory, of the length that the launch was
/// made for, that stays until the stream has passed the kernel; nothing else writes to it, or reads output and scratch
/// memory, meanwhile.
pub(super) unsafe fn launch_on(
    device: &Device,
    stream: &CudaStream,
    function: &CudaFunction,
    launch: &Launch,
    addresses: [CUdeviceptr; 6],
) -> Result<(), ConvError> {
    let [input, weights, offsets, bias, output, scratch] = addresses.each_ref().map(pointer);
    let params = pointer(&launch.params);
    let mut arguments = [input, weights, offsets, bias, output, scratch, params];
    let [x, y, z] = launch.grid;
    // SAFETY: every kernel takes these six pointers and then `Params`; it stays within buffers of the lengths that the
    // schedule was made for, which the caller vouches for. The driver copies the arguments.
    device.check("cuLaunchKernel", unsafe {
        result::launch_kernel(
            function.cu_function(),
            (x, y, z),
            (launch.block, 1, 1),
            launch.shared_bytes,
            stream.cu_stream(),
            &mut arguments,
        )
    })
}
