//! What cuDNN is told of a convolution: shapes, layouts, the window.

use std::ffi::c_int;

use cudarc::cudnn::{result, sys};
use kernels::{ConvSpec, Layout};

use super::loaded::failure;
use crate::gpu::Failure;
use crate::peers::nchw;

/// Whether cuDNN can describe a convolution.
pub(super) fn supports(spec: &ConvSpec) -> Result<(), String> {
    let padding = spec.padding();
    if padding.top != padding.bottom || padding.left != padding.right {
        return Err("cuDNN pads both sides alike".to_owned());
    }
    Ok(())
}

/// A descriptor that goes when it is dropped.
pub(super) struct Descriptor<T: Copy> {
    pub(super) raw: T,
    destroy: unsafe fn(T) -> Result<(), result::CudnnError>,
}

impl<T: Copy> Drop for Descriptor<T> {
    fn drop(&mut self) {
        // SAFETY: it is alive, and nobody has it after this. What cuDNN says then interests no one.
        let _ = unsafe { (self.destroy)(self.raw) };
    }
}

/// An array of four axes.
pub(super) type Tensor = Descriptor<sys::cudnnTensorDescriptor_t>;
/// The weights.
pub(super) type Filter = Descriptor<sys::cudnnFilterDescriptor_t>;
/// Padding, stride, dilation, groups, and what products may be computed in.
pub(super) type Window = Descriptor<sys::cudnnConvolutionDescriptor_t>;

/// A number that cuDNN takes as an `int`.
fn int(n: usize) -> Result<c_int, Failure> {
    c_int::try_from(n)
        .map_err(|_| Failure::Unsupported(format!("cuDNN counts to {} at most: {n} is too much", c_int::MAX)))
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

/// The weights, in a layout.
pub(super) fn filter(layout: Layout, spec: &ConvSpec) -> Result<Filter, Failure> {
    let raw = result::create_filter_descriptor().map_err(failure)?;
    let filter = Descriptor { raw, destroy: result::destroy_filter_descriptor };
    let [height, width] = spec.kernel();
    let shape = ints([spec.out_channels(), spec.group_in_channels(), height, width])?;
    // SAFETY: the descriptor is alive.
    unsafe { result::set_filter4d_descriptor(raw, FLOAT, format_of(layout), shape) }.map_err(failure)?;
    Ok(filter)
}

/// The window, with what products may be computed in.
pub(super) fn window(spec: &ConvSpec, math: sys::cudnnMathType_t) -> Result<Window, Failure> {
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
pub(super) struct Sides {
    pub(super) input: Tensor,
    pub(super) output: Tensor,
}

impl Sides {
    /// In a layout.
    pub(super) fn new(layout: Layout, spec: &ConvSpec) -> Result<Self, Failure> {
        let (input, output) = (nchw::input_shape(spec), nchw::output_shape(spec));
        Ok(Sides { input: tensor(layout, input)?, output: tensor(layout, output)? })
    }
}

/// Weights from OIHW into the layout: OIHW or OHWI.
pub(super) fn in_layout(spec: &ConvSpec, layout: Layout, weights: &[f32]) -> Vec<f32> {
    let mut to = weights.to_vec();
    if layout == Layout::Nhwc {
        let [height, width] = spec.kernel();
        nchw::transpose(weights, &mut to, spec.group_in_channels(), height * width);
    }
    to
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
}
