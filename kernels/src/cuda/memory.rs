//! Buffers on a GPU.

use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::sync::Arc;

use cudarc::driver::sys::CUresult as Code;
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DeviceRepr, DriverError, ValidAsZeroBits, result};

use super::device::Device;
use crate::error::ConvError;

/// What a plan uploads once and any stream may read from then on.
pub(crate) struct Resident<T>(ManuallyDrop<CudaSlice<T>>);

impl<T> Deref for Resident<T> {
    type Target = CudaSlice<T>;
    fn deref(&self) -> &CudaSlice<T> {
        &self.0
    }
}

impl<T> Drop for Resident<T> {
    fn drop(&mut self) {
        // Streams that nobody here knows of may still be reading it. If they cannot be waited for, because a capture
        // forbids that, or the GPU is lost, the memory is not given back.
        let idle = make_current(self.0.context()).and_then(|()| result::ctx::synchronize());
        if idle.is_ok() {
            // SAFETY: it is dropped here alone.
            unsafe { ManuallyDrop::drop(&mut self.0) };
        }
    }
}

/// Makes a context the thread's own. cudarc's way to do so, which is also the beginning of each of its calls that
/// wait, gives up where something failed before with nobody to tell: what must be waited for is waited for past that.
fn make_current(context: &CudaContext) -> Result<(), DriverError> {
    // SAFETY: the context exists as long as the value that holds it.
    unsafe { result::ctx::set_current(context.cu_ctx()) }
}

impl<T> fmt::Debug for Resident<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resident").field("bytes", &self.0.num_bytes()).finish()
    }
}

impl Device {
    /// A copy of `data` that is complete on return.
    pub(crate) fn upload<T: DeviceRepr + ValidAsZeroBits>(
        &self,
        data: &[T],
    ) -> Result<Resident<T>, ConvError> {
        let stream = self.stream();
        let mut buffer = self.zeros(stream, data.len())?;
        let queued = self.check("cuMemcpyHtoDAsync", stream.memcpy_htod(data, &mut buffer));
        // The copy may be going on even if an error came back: it must not outlive `data`.
        let done = self.wait(stream);
        queued.and(done)?;
        Ok(Resident(ManuallyDrop::new(buffer)))
    }

    /// Waits until a stream has done all that it was given.
    pub(crate) fn wait(&self, stream: &CudaStream) -> Result<(), ConvError> {
        self.check("cuCtxSetCurrent", make_current(stream.context()))?;
        // SAFETY: the stream exists as long as the value that holds it.
        self.check("cuStreamSynchronize", unsafe { result::stream::synchronize(stream.cu_stream()) })
    }

    /// A buffer of zeros, at least one.
    pub(crate) fn zeros<T: DeviceRepr + ValidAsZeroBits>(
        &self,
        stream: &Arc<CudaStream>,
        len: usize,
    ) -> Result<CudaSlice<T>, ConvError> {
        self.working()?;
        // The driver refuses to allocate nothing.
        let len = len.max(1);
        stream.alloc_zeros(len).map_err(|DriverError(code)| match code {
            Code::CUDA_ERROR_OUT_OF_MEMORY => {
                ConvError::DeviceOutOfMemory { bytes: len.saturating_mul(size_of::<T>()) }
            }
            _ => self.error("cuMemAllocAsync", DriverError(code)),
        })
    }
}
