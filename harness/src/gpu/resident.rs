//! One of our kernels with everything in the GPU's memory, by the GPU's clock.

use std::rc::Rc;
use std::time::{Duration, Instant};

use cudarc::driver::CudaSlice;
use kernels::cuda::DevicePlan;
use kernels::{Accuracy, ConvError, ConvSpec, Kernel, PlanOptions};

use crate::engine::{Facts, Io, Prepared, Refusal};
use crate::gpu::{Buffers, Enqueue, Failure, Gpu, Runs};
use crate::record::Status;

/// A plan and the memory that it works on.
struct Work {
    gpu: &'static Gpu,
    plan: DevicePlan,
    buffers: Rc<Buffers>,
    scratch: Option<CudaSlice<f32>>,
}

impl Enqueue for Work {
    fn enqueue(&mut self) -> Result<(), Failure> {
        let Work { gpu, plan, buffers, scratch } = self;
        let mut output = buffers.output.borrow_mut();
        let mut scratch = scratch.as_mut().map(CudaSlice::as_view_mut);
        plan.enqueue(gpu.stream(), &buffers.input.as_view(), &mut output.as_view_mut(), scratch.as_mut())
            .map_err(|error| Failure::Other(error.to_string()))
    }
}

struct ResidentPlan {
    work: Work,
    runs: Runs,
    facts: Facts,
}

/// What becomes of a row whose plan cannot be made.
fn refusal(error: ConvError) -> Refusal {
    match error {
        ConvError::DeviceOutOfMemory { .. } => {
            Refusal { status: Status::TooLarge, reason: error.to_string() }
        }
        ConvError::Unavailable { .. }
        | ConvError::Device { .. }
        | ConvError::DeviceCode { .. }
        | ConvError::DeviceLost { .. } => Refusal::unavailable(error),
        _ => Refusal::unsupported(error),
    }
}

/// Plans, with the weights brought to the GPU; input and output lie there when this returns.
pub(crate) fn prepare<'a>(
    kernel: &dyn Kernel,
    accuracy: Accuracy,
    spec: &ConvSpec,
    io: Io<'a>,
) -> Result<Box<dyn Prepared + 'a>, Refusal> {
    let gpu = Gpu::get().map_err(Refusal::unavailable)?;
    let options = PlanOptions { accuracy, ..Default::default() };
    let start = Instant::now();
    let tensors = io.tensors;
    let plan =
        DevicePlan::new(kernel.id(), gpu.device(), spec, &tensors.weights, Some(&tensors.bias), &options)
            .map_err(refusal)?;
    gpu.stream().synchronize().map_err(Failure::from)?;
    let time = start.elapsed();
    let buffers = Buffers::of(gpu, spec, tensors)?;
    let scratch = match plan.scratch_len() {
        0 => None,
        len => Some(gpu.zeros(len)?),
    };
    let facts = Facts {
        implementation: implementation(&plan),
        plan: time,
        workspace_bytes: Some(4 * plan.scratch_len()),
        packed_bytes: Some(plan.packed_bytes()),
        own_flops: Some(plan.flops()).filter(|&flops| flops != spec.flops()),
        error_model: plan.error_model(),
        stores: None,
        launches: None,
    };
    let mut work = Work { gpu, plan, buffers, scratch };
    let runs = Runs::new(gpu, &mut work)?;
    work.buffers.forget_output(gpu)?;
    let facts = Facts { launches: Some(runs.launches()), ..facts };
    Ok(Box::new(ResidentPlan { work, runs, facts }))
}

/// The kernel that was chosen, and the functions that it launches.
fn implementation(plan: &DevicePlan) -> String {
    let functions: Vec<&str> = plan.functions().collect();
    format!("{}/{}", plan.kernel_id(), functions.join("+"))
}

impl Prepared for ResidentPlan {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn time(&mut self, repeats: u64) -> Result<Duration, String> {
        Ok(self.runs.time(self.work.gpu, &mut self.work, repeats)?)
    }

    fn store(&mut self, output: &mut [f32]) -> Result<(), String> {
        Ok(self.work.buffers.store(self.work.gpu, output)?)
    }
}
