//! Input and output of a convolution in the GPU's memory, shared by all plans of a layer.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use cudarc::driver::{CudaSlice, DevicePtrMut, result};

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
    /// A copy of the input, and room for the output. Plans of the same tensors share them: whoever holds them also
    /// borrows the tensors, so an address stands for what lies there.
    pub(crate) fn of(gpu: &Gpu, tensors: &Tensors, output_len: usize) -> Result<Rc<Self>, Failure> {
        let last = LAST.with_borrow(Weak::upgrade);
        if let Some(last) = last.filter(|last| std::ptr::eq(last.tensors, tensors)) {
            return Ok(last);
        }
        let mut input = gpu.zeros(tensors.input.len())?;
        gpu.stream().memcpy_htod(&tensors.input[..], &mut input)?;
        gpu.stream().synchronize()?;
        let output = RefCell::new(gpu.zeros(output_len)?);
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
