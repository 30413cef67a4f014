//! A convolution of cuDNN's: descriptors, the fastest algorithm, runs.

use std::ffi::{c_int, c_void};
use std::rc::Rc;
use std::time::Duration;

use cudarc::cudnn::{result, sys};
use cudarc::driver::{CudaSlice, DevicePtr, DevicePtrMut};
use kernels::{ConvSpec, Layout};

use super::library::{Handle, failure};
use crate::data::Tensors;
use crate::engine::Refusal;
use crate::gpu::{Buffers, Enqueue, Failure, Gpu};
use crate::peers::nchw;

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

/// Whether cuDNN can describe a convolution.
pub(super) fn supports(spec: &ConvSpec) -> Result<(), String> {
    let padding = spec.padding();
    if padding.top != padding.bottom || padding.left != padding.right {
        return Err("cuDNN pads both sides alike".to_owned());
    }
    Ok(())
}

/// A descriptor that goes when it is dropped.
struct Descriptor<T: Copy> {
    raw: T,
    destroy: unsafe fn(T) -> Result<(), result::CudnnError>,
}

impl<T: Copy> Drop for Descriptor<T> {
    fn drop(&mut self) {
        // SAFETY: it is alive, and nobody has it after this. What cuDNN says then interests no one.
        let _ = unsafe { (self.destroy)(self.raw) };
    }
}

type Tensor = Descriptor<sys::cudnnTensorDescriptor_t>;
type Filter = Descriptor<sys::cudnnFilterDescriptor_t>;
type Window = Descriptor<sys::cudnnConvolutionDescriptor_t>;

/// A number that cuDNN takes as an `int`.
fn int(n: usize) -> Result<c_int, Failure> {
    c_int::try_from(n)
        .map_err(|_| Failure::Other(format!("cuDNN counts to {} at most: {n} is too much", c_int::MAX)))
}

fn ints(extents: [usize; 4]) -> Result<[c_int; 4], Failure> {
    let [a, b, c, d] = extents;
    Ok([int(a)?, int(b)?, int(c)?, int(d)?])
}

fn format_of(layout: Layout) -> sys::cudnnTensorFormat_t {
    match layout {
        Layout::Nchw => sys::cudnnTensorFormat_t::CUDNN_TENSOR_NCHW,
        Layout::Nhwc => sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC,
    }
}

const FLOAT: sys::cudnnDataType_t = sys::cudnnDataType_t::CUDNN_DATA_FLOAT;

fn tensor(layout: Layout, shape: [usize; 4]) -> Result<Tensor, Failure> {
    let raw = result::create_tensor_descriptor().map_err(failure)?;
    let tensor = Descriptor { raw, destroy: result::destroy_tensor_descriptor };
    let shape = ints(shape)?;
    // SAFETY: the descriptor is alive.
    unsafe { result::set_tensor4d_descriptor(raw, format_of(layout), FLOAT, shape) }.map_err(failure)?;
    Ok(tensor)
}

fn filter(layout: Layout, spec: &ConvSpec) -> Result<Filter, Failure> {
    let raw = result::create_filter_descriptor().map_err(failure)?;
    let filter = Descriptor { raw, destroy: result::destroy_filter_descriptor };
    let [height, width] = spec.kernel();
    let shape = ints([spec.out_channels(), spec.group_in_channels(), height, width])?;
    // SAFETY: the descriptor is alive.
    unsafe { result::set_filter4d_descriptor(raw, FLOAT, format_of(layout), shape) }.map_err(failure)?;
    Ok(filter)
}

fn window(spec: &ConvSpec, math: sys::cudnnMathType_t) -> Result<Window, Failure> {
    let raw = result::create_convolution_descriptor().map_err(failure)?;
    let window = Descriptor { raw, destroy: result::destroy_convolution_descriptor };
    let (padding, [sy, sx], [dy, dx]) = (spec.padding(), spec.stride(), spec.dilation());
    let [top, left, sy, sx] = ints([padding.top, padding.left, sy, sx])?;
    let (dy, dx, groups) = (int(dy)?, int(dx)?, int(spec.groups())?);
    let mode = sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
    // SAFETY: the descriptor is alive, here and below.
    unsafe { result::set_convolution2d_descriptor(raw, top, left, sy, sx, dy, dx, mode, FLOAT) }
        .map_err(failure)?;
    // SAFETY: as above.
    unsafe { result::set_convolution_group_count(raw, groups) }.map_err(failure)?;
    // SAFETY: as above.
    unsafe { result::set_convolution_math_type(raw, math) }.map_err(failure)?;
    Ok(window)
}

/// Input and output in one layout.
struct Sides {
    input: Tensor,
    output: Tensor,
}

impl Sides {
    fn new(layout: Layout, spec: &ConvSpec) -> Result<Self, Failure> {
        let (input, output) = (nchw::input_shape(spec), nchw::output_shape(spec));
        Ok(Sides { input: tensor(layout, input)?, output: tensor(layout, output)? })
    }
}

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
        let mut weights = gpu.zeros(spec.weights_len())?;
        gpu.stream().memcpy_htod(&in_layout(spec, layout, &tensors.weights)[..], &mut weights)?;
        gpu.stream().synchronize()?;
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
            .ok_or_else(|| Failure::Other("cuDNN finds no algorithm for this".to_owned()))?;
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

    /// Refuses a convolution that rounds its operands to TF32, seen from one that is run on 1 + 2⁻¹² everywhere, with
    /// weights of 1: in TF32 that is 1, and each output too small by 2⁻¹² of itself, whatever the order of the
    /// sums, where f32 errs by some 2⁻²⁴ of it.
    pub(super) fn refuse_tf32(&mut self, spec: &ConvSpec) -> Result<(), Refusal> {
        let gpu = self.gpu;
        let same = |value: f32, len: usize| -> Result<CudaSlice<f32>, Failure> {
            let mut buffer = gpu.zeros(len)?;
            gpu.stream().memcpy_htod(&vec![value; len][..], &mut buffer)?;
            gpu.stream().synchronize()?;
            Ok(buffer)
        };
        let value = 1.0 + 1.0 / 4096.0;
        let input = same(value, spec.input_len())?;
        let weights = same(1.0, spec.weights_len())?;
        self.forward(Some(&input), Some(&weights))?;
        let mut output = vec![f32::NAN; spec.output_len().min(1 << 20)];
        {
            let shared = self.buffers.output.borrow();
            let from = self.other.as_ref().map_or(&*shared, |other| &other.output);
            gpu.stream().memcpy_dtoh(&from.slice(..output.len()), &mut output).map_err(Failure::from)?;
            gpu.stream().synchronize().map_err(Failure::from)?;
        }
        let worst = worst_share(spec, self.layout, value, &output);
        if worst <= 1.0 / 16384.0 {
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

/// Weights from OIHW into the layout: OIHW or OHWI.
fn in_layout(spec: &ConvSpec, layout: Layout, weights: &[f32]) -> Vec<f32> {
    let mut to = weights.to_vec();
    if layout == Layout::Nhwc {
        let [height, width] = spec.kernel();
        nchw::transpose(weights, &mut to, spec.group_in_channels(), height * width);
    }
    to
}

/// The largest share by which outputs, the first ones of all, differ from what `value` everywhere gives with weights
/// of 1.
fn worst_share(spec: &ConvSpec, layout: Layout, value: f32, output: &[f32]) -> f64 {
    let padding = spec.padding();
    let taps = |axis: usize, before: usize, size: usize, at: usize| {
        let (stride, dilation) = (spec.stride()[axis], spec.dilation()[axis]);
        let inside = |tap: &usize| (before..before + size).contains(&(at * stride + tap * dilation));
        (0..spec.kernel()[axis]).filter(inside).count()
    };
    let rows: Vec<usize> =
        (0..spec.out_height()).map(|y| taps(0, padding.top, spec.in_height(), y)).collect();
    let columns: Vec<usize> =
        (0..spec.out_width()).map(|x| taps(1, padding.left, spec.in_width(), x)).collect();
    let pixels = spec.out_height() * spec.out_width();
    let share = |(index, got): (usize, &f32)| {
        let pixel = match layout {
            Layout::Nchw => index,
            Layout::Nhwc => index / spec.out_channels(),
        } % pixels;
        let (row, column) = (rows[pixel / spec.out_width()], columns[pixel % spec.out_width()]);
        let want = (row * column * spec.group_in_channels()) as f64 * f64::from(value);
        let error = (f64::from(*got) - want).abs();
        match error / want {
            _ if error == 0.0 => 0.0,
            // A NaN is as wrong as can be.
            share if share.is_nan() => f64::INFINITY,
            share => share,
        }
    };
    output.iter().enumerate().map(share).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asymmetric_padding_is_refused() {
        assert!(supports(&"c1 h5 w5 o1 k3 p1".parse().unwrap()).is_ok());
        assert!(supports(&"c1 h5 w5 o1 k3 p0,1,0,1".parse().unwrap()).is_ok());
        assert!(supports(&"c1 h5 w5 o1 k3 p0,0,1,0".parse().unwrap()).is_err());
    }

    #[test]
    fn weights_lie_as_the_layout_wants() {
        let spec: ConvSpec = "c2 h3 w3 o2 k1x2".parse().unwrap();
        let weights: Vec<f32> = (0..8).map(|n| n as f32).collect();
        assert_eq!(in_layout(&spec, Layout::Nchw, &weights), weights);
        assert_eq!(in_layout(&spec, Layout::Nhwc, &weights), [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
    }

    /// f32 passes, in both layouts and with everything that changes how many taps an output has; operands that were
    /// rounded to TF32 do not.
    #[test]
    fn rounded_operands_show() {
        for text in ["n2 c6 h7 w5 o4 k3 p1 s2", "c3 h9 w9 o2 k3x2 d2 p2", "c4 h4 w4 o4 k3 p2 g2"] {
            for (layout, suffix) in [(Layout::Nchw, ""), (Layout::Nhwc, " nhwc")] {
                let spec: ConvSpec = format!("{text}{suffix}").parse().unwrap();
                let output = |value: f32| {
                    let plan = kernels::kernel("naive").unwrap();
                    let weights = vec![1.0; spec.weights_len()];
                    let plan = plan.plan(&spec, &weights, &Default::default()).unwrap();
                    let mut output = vec![0.0; spec.output_len()];
                    let input = vec![value; spec.input_len()];
                    plan.run(&input, None, &mut output, &mut plan.workspace()).unwrap();
                    output
                };
                let value = 1.0 + 1.0 / 4096.0;
                assert!(worst_share(&spec, layout, value, &output(value)) < 1e-6, "{spec}");
                let rounded = worst_share(&spec, layout, value, &output(1.0));
                assert!(rounded > 1.0 / 8192.0, "{spec}: {rounded}");
                let nan = [f32::NAN, 0.0];
                assert_eq!(worst_share(&spec, layout, value, &nan), f64::INFINITY, "{spec}");
            }
        }
    }
}
