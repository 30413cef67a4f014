//! What can be measured: our kernels and other libraries' convolutions, behind one trait.

use std::cell::RefCell;
use std::fmt;
use std::time::{Duration, Instant};

use kernels::{Accuracy, ConvSpec, ErrorModel, Kernel, Plan, PlanOptions, Stores, Workspace};

use crate::buffer::Buffer;
use crate::data::Tensors;
use crate::gpu;
use crate::network::{Model, Part};
use crate::peers::made::Made;
use crate::pinning::Pool;
use crate::record::{Gradient, Launches, Precision, Status};

/// A way to compute convolutions.
pub trait Engine: fmt::Debug {
    /// Whose it is: `ours`, or the library's name.
    fn engine(&self) -> &str;

    /// The row's id: a kernel's, or the library's name and the way it was asked for.
    fn id(&self) -> &str;

    /// The library's version, where it has one of its own.
    fn version(&self) -> Option<String> {
        None
    }

    /// What it computes, where that is not the convolution's output.
    fn gradient(&self) -> Option<Gradient> {
        None
    }

    /// What was asked of its rounding errors, where it can be asked.
    fn accuracy(&self) -> Option<Accuracy> {
        None
    }

    /// Where its outputs were asked to go first, where it can be asked.
    fn stores(&self) -> Option<Stores> {
        None
    }

    /// Whether it is timed by a GPU's clock, from and to the GPU's memory: under [`Clock::Device`] and under no
    /// other.
    ///
    /// [`Clock::Device`]: crate::record::Clock::Device
    fn on_device(&self) -> bool {
        false
    }

    /// The GPU that computes, where it is not the CPU.
    fn device(&self) -> Option<String> {
        None
    }

    /// What it computes products in, where that is less than f32.
    fn precision(&self) -> Option<Precision> {
        None
    }

    /// Prepares a convolution: everything that a user does once, packed weights included. The input
    /// is already where the engine wants it when this returns.
    ///
    /// # Errors
    /// Why there will be no time.
    fn prepare<'a>(
        &'a self,
        spec: &ConvSpec,
        io: Io<'a>,
        pool: &'a Pool,
    ) -> Result<Box<dyn Prepared + 'a>, Refusal>;

    /// Prepares a whole network.
    ///
    /// # Errors
    /// Why there will be no time.
    fn network<'a>(&'a self, model: &Model<'a>, pool: &'a Pool) -> Result<Made<'a>, Refusal> {
        let _ = (model, pool);
        Err(Refusal::unsupported("it is measured on single convolutions, not on whole networks"))
    }

    /// What the parts of a run of a network take, where the library tells. Telling costs time: these runs are not
    /// the ones that are timed.
    ///
    /// # Errors
    /// When it fails.
    fn network_parts(&self, model: &Model<'_>, pool: &Pool) -> Result<Vec<Part>, String> {
        let _ = (model, pool);
        Ok(Vec::new())
    }
}

/// The buffers of a convolution, shared by the engines that can work on them in place.
#[derive(Clone, Copy, Debug)]
pub struct Io<'a> {
    /// Input, weights and bias; for gradients `previous` is that by the output.
    pub tensors: &'a Tensors,
    /// The output, in the layout of the spec, or the gradient: [`result`] says how long it is.
    pub output: &'a RefCell<Buffer>,
    /// Scratch memory: in a network all layers share it.
    pub workspace: &'a RefCell<Workspace<'static>>,
}

/// A buffer for what is computed of a convolution: its output, the gradient by its input in the layout of the spec,
/// or those by weights (OIHW) and bias, one behind the other.
pub fn result(spec: &ConvSpec, gradient: Option<Gradient>) -> Buffer {
    Buffer::zeros(match gradient {
        None => spec.output_len(),
        Some(Gradient::BackwardData) => spec.input_len(),
        Some(Gradient::BackwardWeights) => spec.weights_len() + spec.out_channels(),
    })
}

/// Why there is no time for an engine on a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What becomes of the row.
    pub status: Status,
    /// Why.
    pub reason: String,
}

impl Refusal {
    /// The engine's method, or what we know of it, does not cover the convolution.
    pub fn unsupported(reason: impl ToString) -> Self {
        Refusal { status: Status::Unsupported, reason: reason.to_string() }
    }

    /// The engine cannot run here.
    pub fn unavailable(reason: impl ToString) -> Self {
        Refusal { status: Status::Unavailable, reason: reason.to_string() }
    }
}

/// What is known of a prepared convolution before it is timed.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// What runs: a kernel's id with its instruction set, or the library's name for its implementation.
    pub implementation: String,
    /// Time that preparing took.
    pub plan: Duration,
    /// Bytes of scratch memory, where known.
    pub workspace_bytes: Option<usize>,
    /// Bytes of packed weights, where known.
    pub packed_bytes: Option<usize>,
    /// Floating-point operations of a run by the algorithm's own arithmetic, where it is not the
    /// definition's.
    pub own_flops: Option<u64>,
    /// The bound that errors are held against.
    pub error_model: ErrorModel,
    /// Where outputs do go first, of one of our kernels.
    pub stores: Option<Stores>,
    /// How runs are started, by a GPU's clock.
    pub launches: Option<Launches>,
}

/// A convolution that is ready to run.
pub trait Prepared {
    /// What is known of it.
    fn facts(&self) -> &Facts;

    /// The bounds that errors are held against: one, or those of the phases that a gradient by data is made of.
    fn error_models(&self) -> Vec<ErrorModel> {
        vec![self.facts().error_model]
    }

    /// Runs so many times, each from the input that lies ready to an output in the engine's own layout;
    /// how long that took in all.
    ///
    /// # Errors
    /// When the library fails.
    fn time(&mut self, repeats: u64) -> Result<Duration, String>;

    /// Brings the result of the last run to `output` in the layout of the spec; does nothing where the
    /// run itself has written there.
    ///
    /// # Errors
    /// When the library fails.
    fn store(&mut self, output: &mut [f32]) -> Result<(), String>;

    /// Where input and output lie in a layout of the engine's own: brings the input into it and the
    /// output back, once; how long that took.
    fn reorder(&mut self) -> Option<Duration> {
        None
    }
}

/// One of our kernels.
#[derive(Clone, Copy, Debug)]
pub struct Ours {
    /// The kernel.
    pub kernel: &'static dyn Kernel,
    /// What is asked of its rounding errors.
    pub accuracy: Accuracy,
    /// Where its outputs are to go first; on a GPU there is no choice.
    pub stores: Stores,
    /// Whether it is timed by the GPU's clock, from and to the GPU's memory.
    pub on_device: bool,
}

impl Ours {
    /// A kernel as it is by default, from and to the host's memory.
    pub fn new(kernel: &'static dyn Kernel) -> Self {
        Ours { kernel, accuracy: Accuracy::Standard, stores: Stores::Cached, on_device: false }
    }
}

impl Engine for Ours {
    fn engine(&self) -> &str {
        OURS
    }

    fn id(&self) -> &str {
        self.kernel.id()
    }

    fn accuracy(&self) -> Option<Accuracy> {
        Some(self.accuracy)
    }

    fn stores(&self) -> Option<Stores> {
        (!self.on_device).then_some(self.stores)
    }

    fn on_device(&self) -> bool {
        self.on_device
    }

    fn device(&self) -> Option<String> {
        self.kernel.on_gpu().then(gpu::name).flatten()
    }

    fn precision(&self) -> Option<Precision> {
        gpu::precision(self.id())
    }

    fn prepare<'a>(
        &'a self,
        spec: &ConvSpec,
        io: Io<'a>,
        pool: &'a Pool,
    ) -> Result<Box<dyn Prepared + 'a>, Refusal> {
        self.kernel.availability().map_err(Refusal::unavailable)?;
        self.kernel.supports(spec).map_err(Refusal::unsupported)?;
        if self.on_device {
            return gpu::prepare(self.kernel, self.accuracy, spec, io);
        }
        let Ours { accuracy, stores, .. } = *self;
        let options = PlanOptions { threads: pool.threads(), accuracy, stores, ..Default::default() };
        let start = Instant::now();
        let plan = self.kernel.plan(spec, &io.tensors.weights, &options).map_err(Refusal::unsupported)?;
        let facts = Facts {
            implementation: plan.kernel_id().to_owned(),
            plan: start.elapsed(),
            workspace_bytes: Some(4 * plan.workspace_len()),
            packed_bytes: Some(plan.packed_bytes()),
            own_flops: Some(plan.flops()).filter(|&flops| flops != spec.flops()),
            error_model: plan.error_model(),
            stores: Some(plan.stores()),
            launches: None,
        };
        Ok(Box::new(OurPlan { plan, io, pool, facts }))
    }
}

/// The name of our own engine.
pub const OURS: &str = "ours";

struct OurPlan<'a> {
    plan: Box<dyn Plan>,
    io: Io<'a>,
    pool: &'a Pool,
    facts: Facts,
}

impl Prepared for OurPlan<'_> {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn time(&mut self, repeats: u64) -> Result<Duration, String> {
        let OurPlan { plan, io, pool, .. } = self;
        let (output, workspace) = (&mut io.output.borrow_mut()[..], &mut *io.workspace.borrow_mut());
        let tensors = io.tensors;
        pool.run(|| {
            let start = Instant::now();
            for _ in 0..repeats {
                plan.run(&tensors.input, Some(&tensors.bias), output, workspace)
                    .map_err(|e| e.to_string())?;
            }
            Ok(start.elapsed())
        })
    }

    fn store(&mut self, _: &mut [f32]) -> Result<(), String> {
        Ok(())
    }
}
