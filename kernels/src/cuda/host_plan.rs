//! Plans on a GPU for slices of the host, under the contract of every other kernel.
//!
//! Slices are copied straight to buffers that the plan keeps and back: the driver moves them through pinned memory of
//! its own, which is no slower than one thread that copies to pinned memory here first. What copies cost is
//! what [`DevicePlan`](super::DevicePlan) spares.

use std::sync::{Arc, Mutex};

use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DevicePtrMut};

use super::device::{Device, lock};
use super::plan::{Addresses, Prepared};
use super::schedule::Method;
use crate::error::ConvError;
use crate::kernel::{self, ErrorModel, Plan, PlanOptions};
use crate::spec::ConvSpec;
use crate::workspace::Workspace;

/// A plan whose runs take turns: one set of buffers, made by the first run.
#[derive(Debug)]
pub(super) struct HostPlan {
    prepared: Prepared,
    buffers: Mutex<Option<Buffers>>,
}

/// What a run needs on the GPU, and the stream that all of it belongs to.
#[derive(Debug)]
struct Buffers {
    stream: Arc<CudaStream>,
    input: CudaSlice<f32>,
    bias: CudaSlice<f32>,
    output: CudaSlice<f32>,
    scratch: CudaSlice<f32>,
}

impl HostPlan {
    pub(super) fn new(
        method: Method,
        device: &Arc<Device>,
        spec: &ConvSpec,
        weights: &[f32],
        options: &PlanOptions,
    ) -> Result<HostPlan, ConvError> {
        Ok(HostPlan::of(Prepared::new(method, device, spec, weights, options)?))
    }

    fn of(prepared: Prepared) -> HostPlan {
        HostPlan { prepared, buffers: Mutex::new(None) }
    }

    /// Copies, runs and copies back, all of it in the stream.
    fn enqueue(
        &self,
        buffers: &mut Buffers,
        input: &[f32],
        bias: Option<&[f32]>,
        output: &mut [f32],
    ) -> Result<(), ConvError> {
        let (device, stream) = (self.prepared.device(), &buffers.stream);
        let upload = |from: &[f32], to: &mut CudaSlice<f32>| {
            device.check("cuMemcpyHtoDAsync", stream.memcpy_htod(from, to))
        };
        upload(input, &mut buffers.input)?;
        if let Some(bias) = bias {
            upload(bias, &mut buffers.bias)?;
        }
        if self.prepared.options().accumulate {
            upload(output, &mut buffers.output)?;
        }
        {
            let (input, _read) = buffers.input.device_ptr(stream);
            let (address, _read) = buffers.bias.device_ptr(stream);
            let (output, _written) = buffers.output.device_ptr_mut(stream);
            let (scratch, _written) = buffers.scratch.device_ptr_mut(stream);
            let addresses = Addresses { input, bias: bias.map_or(0, |_| address), output, scratch };
            // SAFETY: the buffers were made for this plan; they are used in their own stream alone, under a lock, and
            // go in that stream's order.
            unsafe { self.prepared.launch(stream, addresses) }?;
        }
        device.check("cuMemcpyDtoHAsync", stream.memcpy_dtoh(&buffers.output, output))
    }
}

impl Buffers {
    fn new(prepared: &Prepared) -> Result<Buffers, ConvError> {
        let (device, spec) = (prepared.device(), &prepared.spec);
        let stream = device.check("cuStreamCreate", device.context().new_stream())?;
        Ok(Buffers {
            input: device.zeros(&stream, spec.input_len())?,
            bias: device.zeros(&stream, spec.out_channels())?,
            output: device.zeros(&stream, spec.output_len())?,
            scratch: device.zeros(&stream, prepared.scratch_len)?,
            stream,
        })
    }
}

impl Plan for HostPlan {
    fn spec(&self) -> &ConvSpec {
        &self.prepared.spec
    }

    fn kernel_id(&self) -> &str {
        self.prepared.kernel_id()
    }

    fn error_model(&self) -> ErrorModel {
        self.prepared.error_model
    }

    fn flops(&self) -> u64 {
        self.prepared.flops
    }

    fn threads(&self) -> usize {
        1
    }

    fn workspace_len(&self) -> usize {
        0
    }

    fn packed_bytes(&self) -> usize {
        self.prepared.packed_bytes()
    }

    fn resized(&self, spec: &ConvSpec) -> Result<Box<dyn Plan>, ConvError> {
        Ok(Box::new(HostPlan::of(self.prepared.resized(spec)?)))
    }

    fn run(
        &self,
        input: &[f32],
        bias: Option<&[f32]>,
        output: &mut [f32],
        _workspace: &mut Workspace<'_>,
    ) -> Result<(), ConvError> {
        kernel::check_buffers(&self.prepared.spec, input, bias, output)?;
        let device = self.prepared.device();
        device.working()?;
        let mut buffers = lock(&self.buffers);
        let buffers = match &mut *buffers {
            Some(buffers) => buffers,
            empty => empty.insert(Buffers::new(&self.prepared)?),
        };
        let enqueued = self.enqueue(buffers, input, bias, output);
        // Whatever was enqueued reads and writes the caller's slices: none of it may go on after this returns.
        let done = device.wait(&buffers.stream);
        enqueued.and(done)
    }
}
