//! Input and output of a convolution in the GPU's memory, shared by all plans of a layer.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use cudarc::driver::{CudaSlice, DevicePtrMut, result};
use kernels::ConvSpec;

use crate::data::Tensors;
use crate::gpu::{Failure, Gpu};

/// The buffers of a convolution, in the layout of its spec.
pub(crate) struct Buffers {
    /// The tensors that the input is a copy of.
    tensors: *const Tensors,
    /// The input.
    pub(crate) input: CudaSlice<f32>,
    /// The output.
    pub(crate) output: RefCell<CudaSlice<f32>>,
}

thread_local! {
    /// The last that were made, as long as a plan uses them.
    static LAST: RefCell<Weak<Buffers>> = const { RefCell::new(Weak::new()) };
}

impl Buffers {
    /// A copy of the input, and room for the output, as long as the spec says. Plans of the same tensors share them:
    /// whoever holds them also borrows the tensors, so an address stands for what lies there.
    pub(crate) fn of(gpu: &Gpu, spec: &ConvSpec, tensors: &Tensors) -> Result<Rc<Self>, Failure> {
        check(spec, tensors).map_err(Failure::Other)?;
        let last = LAST.with_borrow(Weak::upgrade);
        let fits = |last: &Rc<Buffers>| {
            std::ptr::eq(last.tensors, tensors) && last.output.borrow().len() == spec.output_len()
        };
        if let Some(last) = last.filter(fits) {
            return Ok(last);
        }
        let input = gpu.copy_of(&tensors.input)?;
        let output = RefCell::new(gpu.zeros(spec.output_len())?);
        let buffers = Rc::new(Buffers { tensors, input, output });
        LAST.set(Rc::downgrade(&buffers));
        Ok(buffers)
    }

    /// Fills the output with NaN: what another plan has left there would hide an output that is not written.
    pub(crate) fn forget_output(&self, gpu: &Gpu) -> Result<(), Failure> {
        fill_with_nan(gpu, &mut self.output.borrow_mut())
    }

    /// Copies the output to the host.
    pub(crate) fn store(&self, gpu: &Gpu, output: &mut [f32]) -> Result<(), Failure> {
        store(gpu, &self.output.borrow(), output)
    }
}

/// Refuses tensors of another convolution, which a library on the GPU would read beyond their end.
fn check(spec: &ConvSpec, tensors: &Tensors) -> Result<(), String> {
    let lens = [
        ("input", tensors.input.len(), spec.input_len()),
        ("weights", tensors.weights.len(), spec.weights_len()),
        ("bias", tensors.bias.len(), spec.out_channels()),
    ];
    match lens.iter().find(|(_, actual, needed)| actual != needed) {
        Some((name, actual, needed)) => Err(format!("{name} has {actual} elements, but must have {needed}")),
        None => Ok(()),
    }
}

/// Fills a buffer with NaN.
pub(crate) fn fill_with_nan(gpu: &Gpu, buffer: &mut CudaSlice<f32>) -> Result<(), Failure> {
    let bytes = buffer.num_bytes();
    let (address, _recorded) = buffer.device_ptr_mut(gpu.stream());
    // SAFETY: so many bytes are the buffer's; an f32 of ones is a NaN.
    unsafe { result::memset_d8_async(address, 0xff, bytes, gpu.stream().cu_stream()) }?;
    Ok(gpu.stream().synchronize()?)
}

/// Copies a buffer to the host.
pub(crate) fn store(gpu: &Gpu, buffer: &CudaSlice<f32>, output: &mut [f32]) -> Result<(), Failure> {
    if output.len() != buffer.len() {
        return Err(Failure::Other(format!("{} values do not go into {}", buffer.len(), output.len())));
    }
    gpu.stream().memcpy_dtoh(buffer, output)?;
    Ok(gpu.stream().synchronize()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Kind, tensors};

    #[test]
    fn tensors_of_another_convolution_are_refused() {
        let spec = |text: &str| text.parse::<ConvSpec>().unwrap();
        let own = spec("c2 h3 w3 o4 k3 p1");
        let tensors = tensors(&own, Kind::Real, 0);
        assert_eq!(check(&own, &tensors), Ok(()));
        for (other, name) in [
            ("c2 h3 w4 o4 k3 p1", "input has 18 elements, but must have 24"),
            ("c2 h3 w3 o4 k1", "weights has 72 elements, but must have 8"),
            ("c2 h3 w3 o8 k3 g2 p1", "bias has 4 elements, but must have 8"),
        ] {
            assert_eq!(check(&spec(other), &tensors), Err(name.to_owned()));
        }
    }
}
