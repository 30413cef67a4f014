//! Plans on a GPU for buffers that are there already.

use std::sync::Arc;

use cudarc::driver::sys::CUdeviceptr;
use cudarc::driver::{CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut, DeviceSlice};

use super::device::Device;
use super::memory::Resident;
use super::plan::{Addresses, Prepared};
use super::schedule::Method;
use crate::error::{ConvError, Unsupported};
use crate::kernel::{self, ErrorModel, PlanOptions};
use crate::spec::ConvSpec;

/// A convolution that is ready to run on buffers in a GPU's memory, as part of whatever else a stream does.
///
/// It computes what [`Plan::run`](crate::Plan::run) does, with a bias that is settled with the weights. Input and
/// output are f32s in the layout of the spec. Packed weights and bias stay in the GPU's memory; plans that
/// [`resized`](Self::resized) makes share them.
///
/// ```
/// use kernels::cuda::{Device, DevicePlan};
/// use kernels::{Activation, ConvSpec, PlanOptions};
///
/// fn run() -> Result<(), Box<dyn std::error::Error>> {
///     let device = Device::get(0)?;
///     let spec: ConvSpec = "n8 c64 h56 w56 o64 k3 p1 nhwc".parse()?;
///     let (weights, bias) = (vec![0.01; spec.weights_len()], vec![0.5; spec.out_channels()]);
///     let options = PlanOptions { activation: Some(Activation::Relu), ..Default::default() };
///     let plan = DevicePlan::new("cuda", &device, &spec, &weights, Some(&bias), &options)?;
///
///     let stream = device.context().new_stream()?;
///     let input = stream.clone_htod(&vec![1.0_f32; spec.input_len()])?;
///     let mut output = stream.alloc_zeros::<f32>(spec.output_len())?;
///     let mut scratch = stream.alloc_zeros::<f32>(plan.scratch_len().max(1))?;
///     plan.enqueue(&stream, &input.as_view(), &mut output.as_view_mut(), Some(&mut scratch.as_view_mut()))?;
///     let output = stream.clone_dtoh(&output)?;
///     stream.synchronize()?;
///     // A pixel in the middle: 64·9·0.01 + 0.5.
///     assert!((output[(28 * 56 + 28) * 64] - 6.26).abs() < 1e-3);
///     Ok(())
/// }
/// if let Err(reason) = run() {
///     println!("{reason}"); // on a machine without a GPU
/// }
/// ```
#[derive(Debug)]
pub struct DevicePlan {
    prepared: Prepared,
    bias: Option<Arc<Resident<f32>>>,
}

impl DevicePlan {
    /// Prepares a convolution for a GPU: packs the weights (`OIHW`), uploads them and the bias (one value for each
    /// output channel), and compiles the kernels that it needs if no process of this user did so before. Of the
    /// options, `threads`, `effort` and `stores` mean nothing here.
    ///
    /// # Errors
    /// - [`ConvError::UnknownKernel`] if `kernel_id` is not the id of a kernel on GPUs: `cuda`, `cuda-fp32` …
    /// - [`ConvError::Unavailable`] if the GPU is too old for it.
    /// - What [`Kernel::plan`](crate::Kernel::plan) reports of spec, weights and options, and a bias of the wrong
    ///   length.
    /// - What a GPU may lack or fail at: [`ConvError::DeviceOutOfMemory`], [`ConvError::DeviceCode`],
    ///   [`ConvError::Device`], [`ConvError::DeviceLost`].
    pub fn new(
        kernel_id: &str,
        device: &Arc<Device>,
        spec: &ConvSpec,
        weights: &[f32],
        bias: Option<&[f32]>,
        options: &PlanOptions,
    ) -> Result<DevicePlan, ConvError> {
        let method = Method::of(kernel_id)?;
        method
            .check(device.name(), device.compute_capability())
            .map_err(|reason| ConvError::Unavailable { kernel: kernel_id.to_owned(), reason })?;
        method.supports(spec).map_err(|what| Unsupported::new(kernel_id, what, spec))?;
        kernel::check_plan(method.accuracy(), spec, weights, options)?;
        if let Some(bias) = bias {
            kernel::check_len("bias", bias.len(), spec.out_channels())?;
        }
        let prepared = Prepared::new(method, device, spec, weights, options)?;
        let bias = bias.map(|bias| device.upload(bias).map(Arc::new)).transpose()?;
        Ok(DevicePlan { prepared, bias })
    }

    /// A plan of the same layer for another batch, image size or padding, with the same weights and bias in the
    /// GPU's memory, as [`Plan::resized`](crate::Plan::resized).
    ///
    /// # Errors
    /// As [`Plan::resized`](crate::Plan::resized), and what a GPU may lack or fail at.
    pub fn resized(&self, spec: &ConvSpec) -> Result<DevicePlan, ConvError> {
        Ok(DevicePlan { prepared: self.prepared.resized(spec)?, bias: self.bias.clone() })
    }

    /// The convolution.
    pub fn spec(&self) -> &ConvSpec {
        &self.prepared.spec
    }

    /// The id of the kernel that runs: `cuda` becomes what it chose.
    pub fn kernel_id(&self) -> &str {
        self.prepared.kernel_id()
    }

    /// The names of the functions that a run launches, in order, with the size of their tiles.
    pub fn functions(&self) -> impl Iterator<Item = &'static str> {
        self.prepared.functions()
    }

    /// The GPU.
    pub fn device(&self) -> &Arc<Device> {
        self.prepared.device()
    }

    /// The bound that the kernel promises for its rounding errors.
    pub fn error_model(&self) -> ErrorModel {
        self.prepared.error_model
    }

    /// Floating-point operations of a run, as [`Plan::flops`](crate::Plan::flops).
    pub fn flops(&self) -> u64 {
        self.prepared.flops
    }

    /// Bytes of packed weights in the GPU's memory. Plans made by [`resized`](Self::resized) hold the same ones.
    pub fn packed_bytes(&self) -> usize {
        self.prepared.packed_bytes()
    }

    /// f32s of scratch memory that a run needs, or 0.
    pub fn scratch_len(&self) -> usize {
        self.prepared.scratch_len
    }

    /// Enqueues a run on a stream of the device's [context](Device::context). Returns at once: neither waits for the
    /// GPU nor allocates, so that it may be captured in a graph.
    ///
    /// `input` and `output` have the spec's lengths, `scratch` at least [`scratch_len`](Self::scratch_len) f32s; what
    /// scratch memory holds means nothing before and after. All of them were allocated on this stream, whose order
    /// then also holds for their release (a per-thread stream is another one in each thread). Without
    /// [`PlanOptions::accumulate`] the previous output is not read.
    ///
    /// A graph that holds a run reads the plan's weights: the plan must be there as long as it is launched. Dropping
    /// a plan waits until the GPU is idle; during a capture that forbids that, its memory is not given back.
    ///
    /// # Errors
    /// Before any work [`ConvError::BufferLength`], [`ConvError::WorkspaceTooSmall`] for scratch memory,
    /// [`ConvError::Stream`] for a buffer of another stream or a stream of another device and
    /// [`ConvError::Alignment`] for a view that does not start at a multiple of 16 bytes; then what a GPU may fail at.
    /// An error of the kernel itself shows in a later call.
    pub fn enqueue(
        &self,
        stream: &CudaStream,
        input: &CudaView<'_, f32>,
        output: &mut CudaViewMut<'_, f32>,
        scratch: Option<&mut CudaViewMut<'_, f32>>,
    ) -> Result<(), ConvError> {
        let spec = &self.prepared.spec;
        kernel::check_len("input", input.len(), spec.input_len())?;
        kernel::check_len("output", output.len(), spec.output_len())?;
        let (actual, needed) = (scratch.as_ref().map_or(0, |scratch| scratch.len()), self.scratch_len());
        if actual < needed {
            return Err(ConvError::WorkspaceTooSmall { actual, needed });
        }
        if **stream.context() != **self.device().context() {
            return Err(ConvError::Stream { buffer: "stream" });
        }
        check_stream("input", input, stream)?;
        check_stream("output", output, stream)?;
        let (bias, _bias_read) = match &self.bias {
            Some(bias) => Some(bias.device_ptr(stream)).unzip(),
            None => (None, None),
        };
        let (scratch, _scratch_written) = match scratch {
            Some(scratch) => {
                check_stream("scratch", scratch, stream)?;
                Some(scratch.device_ptr_mut(stream)).unzip()
            }
            None => (None, None),
        };
        let (input, _read) = input.device_ptr(stream);
        let (output, _written) = output.device_ptr_mut(stream);
        let addresses = Addresses { input, bias: bias.unwrap_or(0), output, scratch: scratch.unwrap_or(0) };
        check_alignment("input", addresses.input)?;
        check_alignment("output", addresses.output)?;
        check_alignment("scratch", addresses.scratch)?;
        // SAFETY: lengths and alignment were checked; the buffers are allocated and freed in the order of the stream,
        // weights and bias are freed when the GPU is idle, and nobody else has the output or the scratch memory.
        unsafe { self.prepared.launch(stream, addresses) }
    }
}

/// What belongs to a stream is there until the stream has passed its last use.
fn check_stream(
    buffer: &'static str,
    slice: &impl DeviceSlice<f32>,
    stream: &CudaStream,
) -> Result<(), ConvError> {
    if **slice.stream() == *stream { Ok(()) } else { Err(ConvError::Stream { buffer }) }
}

/// Vectors of four f32s lie at multiples of their size.
fn check_alignment(buffer: &'static str, address: CUdeviceptr) -> Result<(), ConvError> {
    const VECTOR: CUdeviceptr = 16;
    match address % VECTOR {
        0 => Ok(()),
        actual => Err(ConvError::Alignment { buffer, actual, expected: VECTOR }),
    }
}
