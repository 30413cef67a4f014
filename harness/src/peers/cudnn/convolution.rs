//! A convolution of cuDNN's: the fastest algorithm, runs.

use std::ffi::{c_int, c_void};
use std::rc::Rc;
use std::time::Duration;

use cudarc::cudnn::{result, sys};
use cudarc::driver::{CudaSlice, DevicePtr, DevicePtrMut};
use kernels::{ConvSpec, Layout};

use super::descriptors::{Filter, Sides, Tensor, Window, filter, in_layout, window};
use super::loaded::{Handle, failure};
use super::tf32;
use crate::data::Tensors;
use crate::engine::Refusal;
use crate::gpu::{Buffers, Enqueue, Failure, Gpu};

/// What products may be computed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Math {
    /// f32.
    Fma,
    /// TF32 where that is faster.
    Tf32,
}

/// Bytes that an algorithm may use: less would keep out the fastest ones. Where the GPU has not so much left, half of
/// it, and so on, but no less than the last.
const WORKSPACE: usize = 1 << 30;
const LEAST_WORKSPACE: usize = 16 << 20;
/// Algorithms there are.
const ALGORITHMS: usize = 8;

/// Input and output in the layout that is not the spec's.
struct Other {
    /// As they lie in the shared buffers.
    spec: Sides,
    input: CudaSlice<f32>,
    output: CudaSlice<f32>,
}

/// A convolution with its fastest algorithm.
pub(super) struct Convolution {
    gpu: &'static Gpu,
    handle: Rc<Handle>,
    layout: Layout,
    sides: Sides,
    filter: Filter,
    window: Window,
    algorithm: sys::cudnnConvolutionFwdAlgo_t,
    math: sys::cudnnMathType_t,
    weights: CudaSlice<f32>,
    workspace: CudaSlice<f32>,
    buffers: Rc<Buffers>,
    other: Option<Other>,
}

impl Convolution {
    /// In a layout, with the fastest algorithm of all that cuDNN has for it.
    pub(super) fn new(
        gpu: &'static Gpu,
        handle: &Rc<Handle>,
        spec: &ConvSpec,
        math: Math,
        layout: Layout,
        tensors: &Tensors,
        buffers: &Rc<Buffers>,
    ) -> Result<Self, Failure> {
        gpu.device().context().bind_to_thread()?;
        let weights = gpu.copy_of(&in_layout(spec, layout, &tensors.weights))?;
        let other = if layout == spec.layout() {
            None
        } else {
            let (input, output) = (gpu.zeros(spec.input_len())?, gpu.zeros(spec.output_len())?);
            Some(Other { spec: Sides::new(spec.layout(), spec)?, input, output })
        };
        let asked = match math {
            Math::Fma => sys::cudnnMathType_t::CUDNN_FMA_MATH,
            // Which lets f32 be rounded to TF32.
            Math::Tf32 => sys::cudnnMathType_t::CUDNN_DEFAULT_MATH,
        };
        let mut convolution = Convolution {
            gpu,
            handle: Rc::clone(handle),
            layout,
            sides: Sides::new(layout, spec)?,
            filter: filter(layout, spec)?,
            window: window(spec, asked)?,
            algorithm: sys::cudnnConvolutionFwdAlgo_t::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM,
            math: asked,
            weights,
            // What takes none gets a little.
            workspace: gpu.zeros(4)?,
            buffers: Rc::clone(buffers),
            other,
        };
        if let Some(other) = &mut convolution.other {
            convert(
                gpu,
                handle,
                [&other.spec.input, &convolution.sides.input],
                &buffers.input,
                &mut other.input,
            )?;
            gpu.stream().synchronize()?;
        }
        convolution.find(asked)?;
        Ok(convolution)
    }

    /// Tries all algorithms on the layer's own data, and takes the fastest that is no less than what was asked for.
    fn find(&mut self, asked: sys::cudnnMathType_t) -> Result<(), Failure> {
        let all = largest(self.gpu)?;
        let performances = self.performances(&all)?;
        let allowed = |math| match asked {
            sys::cudnnMathType_t::CUDNN_FMA_MATH => !matches!(
                math,
                sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH
                    | sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION
            ),
            _ => true,
        };
        let best = performances
            .iter()
            .filter(|found| found.status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS)
            .filter(|found| found.memory <= all.num_bytes() && allowed(found.mathType))
            .min_by(|a, b| a.time.total_cmp(&b.time))
            .ok_or_else(|| Failure::Unsupported("cuDNN finds no algorithm for this".to_owned()))?;
        self.algorithm = best.algo;
        if asked != sys::cudnnMathType_t::CUDNN_FMA_MATH {
            self.math = best.mathType;
            // SAFETY: the descriptor is alive.
            unsafe { result::set_convolution_math_type(self.window.raw, self.math) }.map_err(failure)?;
        }
        drop(all);
        self.workspace = self.gpu.zeros(best.memory.div_ceil(4).max(4))?;
        Ok(())
    }

    /// What cuDNN says of each of its algorithms.
    fn performances(
        &mut self,
        workspace: &CudaSlice<f32>,
    ) -> Result<Vec<sys::cudnnConvolutionFwdAlgoPerf_t>, Failure> {
        // SAFETY: numbers, and enums that all have a variant of value 0.
        let mut found: [sys::cudnnConvolutionFwdAlgoPerf_t; ALGORITHMS] = unsafe { std::mem::zeroed() };
        let mut count = 0;
        let stream = self.gpu.stream();
        let mut shared = self.buffers.output.borrow_mut();
        let (input, output) = match &mut self.other {
            Some(other) => (&other.input, &mut other.output),
            None => (&self.buffers.input, &mut *shared),
        };
        let ((x, _x), (w, _w)) = (input.device_ptr(stream), self.weights.device_ptr(stream));
        let ((y, _y), (scratch, _s)) = (output.device_ptr_mut(stream), workspace.device_ptr(stream));
        // SAFETY: handle and descriptors are alive, the buffers are as long as these say, there is room for as many
        // answers as are asked for.
        unsafe {
            sys::cudnnFindConvolutionForwardAlgorithmEx(
                self.handle.raw,
                self.sides.input.raw,
                x as *const c_void,
                self.filter.raw,
                w as *const c_void,
                self.window.raw,
                self.sides.output.raw,
                y as *mut c_void,
                ALGORITHMS as c_int,
                &mut count,
                found.as_mut_ptr(),
                scratch as *mut c_void,
                workspace.num_bytes(),
            )
        }
        .result()
        .map_err(failure)?;
        Ok(found[..usize::try_from(count).unwrap_or(0).min(ALGORITHMS)].to_vec())
    }

    /// Enqueues a run from some input with some weights.
    fn forward(
        &mut self,
        input: Option<&CudaSlice<f32>>,
        weights: Option<&CudaSlice<f32>>,
    ) -> Result<(), Failure> {
        let (one, zero) = (1.0f32, 0.0f32);
        let stream = self.gpu.stream();
        let mut shared = self.buffers.output.borrow_mut();
        let (own, output) = match &mut self.other {
            Some(other) => (&other.input, &mut other.output),
            None => (&self.buffers.input, &mut *shared),
        };
        let bytes = self.workspace.num_bytes();
        let (x, _x) = input.unwrap_or(own).device_ptr(stream);
        let (w, _w) = weights.unwrap_or(&self.weights).device_ptr(stream);
        let ((y, _y), (scratch, _s)) = (output.device_ptr_mut(stream), self.workspace.device_ptr_mut(stream));
        // SAFETY: handle and descriptors are alive, the buffers are as long as these say, and the workspace is as
        // large as the algorithm has asked for.
        unsafe {
            result::convolution_forward(
                self.handle.raw,
                (&raw const one).cast(),
                self.sides.input.raw,
                x as *const c_void,
                self.filter.raw,
                w as *const c_void,
                self.window.raw,
                self.algorithm,
                scratch as *mut c_void,
                bytes,
                (&raw const zero).cast(),
                self.sides.output.raw,
                y as *mut c_void,
            )
        }
        .map_err(failure)
    }

    /// Refuses a convolution that rounds its operands to TF32.
    pub(super) fn refuse_tf32(&mut self, spec: &ConvSpec) -> Result<(), Refusal> {
        let gpu = self.gpu;
        let input = gpu.copy_of(&vec![tf32::VALUE; spec.input_len()])?;
        let weights = gpu.copy_of(&in_layout(spec, self.layout, &tf32::weights(spec)))?;
        self.forward(Some(&input), Some(&weights))?;
        let mut output = vec![f32::NAN; spec.output_len().min(1 << 20)];
        {
            let shared = self.buffers.output.borrow();
            let from = self.other.as_ref().map_or(&*shared, |other| &other.output);
            gpu.stream().memcpy_dtoh(&from.slice(..output.len()), &mut output).map_err(Failure::from)?;
            gpu.stream().synchronize().map_err(Failure::from)?;
        }
        let worst = tf32::worst_share(spec, self.layout, &output);
        if worst <= tf32::MOST {
            return Ok(());
        }
        Err(Refusal::unavailable(format!(
            "cuDNN does not compute in f32: {} is off by {worst:.1e} where f32 products were asked for",
            self.implementation()
        )))
    }

    /// Fills the output with NaN.
    pub(super) fn forget_output(&mut self) -> Result<(), Failure> {
        if let Some(other) = &mut self.other {
            crate::gpu::fill_with_nan(self.gpu, &mut other.output)?;
        }
        self.buffers.forget_output(self.gpu)
    }

    /// Copies the output to the host, in the layout of the spec.
    pub(super) fn store(&mut self, output: &mut [f32]) -> Result<(), Failure> {
        if let Some(other) = &self.other {
            let descriptors = [&self.sides.output, &other.spec.output];
            let mut to = self.buffers.output.borrow_mut();
            convert(self.gpu, &self.handle, descriptors, &other.output, &mut to)?;
        }
        self.buffers.store(self.gpu, output)
    }

    /// How long it takes to bring the input into the other layout and the output back, where it is another.
    pub(super) fn reorder(&mut self) -> Result<Option<Duration>, Failure> {
        let Convolution { gpu, handle, sides, buffers, other, .. } = self;
        let Some(other) = other else { return Ok(None) };
        let mut output = buffers.output.borrow_mut();
        let time = gpu.time(|| {
            convert(gpu, handle, [&other.spec.input, &sides.input], &buffers.input, &mut other.input)?;
            convert(gpu, handle, [&sides.output, &other.spec.output], &other.output, &mut output)
        })?;
        Ok(Some(time))
    }

    /// The algorithm, and the layout.
    pub(super) fn implementation(&self) -> String {
        let name = format!("{:?}", self.algorithm);
        let name = name.trim_start_matches("CUDNN_CONVOLUTION_FWD_ALGO_").to_lowercase().replace('_', "-");
        let layout = match self.layout {
            Layout::Nchw => "nchw",
            Layout::Nhwc => "nhwc",
        };
        let math = match self.math {
            sys::cudnnMathType_t::CUDNN_FMA_MATH => "fma",
            sys::cudnnMathType_t::CUDNN_DEFAULT_MATH => "default",
            _ => "tensor-op",
        };
        format!("{name} {layout} {math}")
    }

    /// Whether it is a Winograd algorithm.
    pub(super) fn is_winograd(&self) -> bool {
        matches!(
            self.algorithm,
            sys::cudnnConvolutionFwdAlgo_t::CUDNN_CONVOLUTION_FWD_ALGO_WINOGRAD
                | sys::cudnnConvolutionFwdAlgo_t::CUDNN_CONVOLUTION_FWD_ALGO_WINOGRAD_NONFUSED
        )
    }

    /// Bytes of its workspace.
    pub(super) fn workspace_bytes(&self) -> usize {
        self.workspace.num_bytes()
    }
}

impl Enqueue for Convolution {
    fn enqueue(&mut self) -> Result<(), Failure> {
        self.forward(None, None)
    }
}

/// The largest workspace that there is room for.
fn largest(gpu: &Gpu) -> Result<CudaSlice<f32>, Failure> {
    let mut bytes = WORKSPACE;
    loop {
        match gpu.zeros(bytes / 4) {
            Err(Failure::Memory(_)) if bytes > LEAST_WORKSPACE => bytes /= 2,
            made => return made,
        }
    }
}

/// Enqueues a change of layout.
fn convert(
    gpu: &Gpu,
    handle: &Handle,
    [from, to]: [&Tensor; 2],
    source: &CudaSlice<f32>,
    target: &mut CudaSlice<f32>,
) -> Result<(), Failure> {
    let (one, zero) = (1.0f32, 0.0f32);
    let ((x, _x), (y, _y)) = (source.device_ptr(gpu.stream()), target.device_ptr_mut(gpu.stream()));
    let (one, zero) = ((&raw const one).cast(), (&raw const zero).cast());
    // SAFETY: handle and descriptors are alive, and the buffers are as long as these say.
    unsafe {
        sys::cudnnTransformTensor(
            handle.raw,
            one,
            from.raw,
            x as *const c_void,
            zero,
            to.raw,
            y as *mut c_void,
        )
    }
    .result()
    .map_err(failure)
}
