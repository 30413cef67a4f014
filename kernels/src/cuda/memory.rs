//! Buffers on a GPU.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use cudarc::driver::sys::CUresult as Code;
use cudarc::driver::{CudaSlice, CudaStream, DeviceRepr, DriverError, ValidAsZeroBits};

use super::device::Device;
use crate::error::ConvError;

/// What a plan uploads once and any stream may read from then on.
pub(crate) struct Resident<T>(CudaSlice<T>);

impl<T> Deref for Resident<T> {
    type Target = CudaSlice<T>;
    fn deref(&self) -> &CudaSlice<T> {
        &self.0
    }
}

impl<T> Drop for Resident<T> {
    fn drop(&mut self) {
        // Streams that nobody here knows of may still be reading it. On a GPU that is lost nothing runs any more.
        let _ = self.0.context().synchronize();
    }
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
        let done = self.check("cuStreamSynchronize", stream.synchronize());
        queued.and(done)?;
        Ok(Resident(buffer))
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
