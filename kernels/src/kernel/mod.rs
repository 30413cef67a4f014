//! The interface: a [`Kernel`] makes a [`Plan`], a plan runs.

mod error_model;
mod options;

use std::fmt;
use std::sync::Arc;

use crate::buffer::{self, LINE};
use crate::error::{ConvError, Unavailable, Unsupported};
use crate::packed::Packed;
use crate::simd::Isa;
use crate::spec::ConvSpec;
use crate::workspace::Workspace;

pub use error_model::{ErrorModel, WinogradTransform};
pub(crate) use options::check_threads;
pub use options::{Accuracy, Activation, Effort, PlanOptions, Stores};

/// One way to compute a convolution. Get one by its id from [`kernel`](crate::kernel), or all of
/// them from [`kernels`](crate::kernels).
pub trait Kernel: Send + Sync + fmt::Debug {
    /// The id, `algorithm[-variant][/isa]`.
    fn id(&self) -> &str;

    /// The algorithm and its variant: the id without its instruction set.
    fn algorithm(&self) -> &str;

    /// The instruction set that the id names, if it names one.
    fn isa(&self) -> Option<Isa>;

    /// Whether it runs on a GPU, on copies of the caller's slices. `auto` never takes such a kernel.
    fn on_gpu(&self) -> bool {
        false
    }

    /// The accuracy that must be asked of a plan, at most, for `auto` or `winograd` to take the kernel. Under
    /// [`Accuracy::Strict`] only kernels of that accuracy are taken, even by name.
    fn accuracy(&self) -> Accuracy;

    /// Whether the kernel can run on this machine.
    ///
    /// # Errors
    /// The reason why not.
    fn availability(&self) -> Result<(), Unavailable>;

    /// Whether the kernel's method covers a convolution. Says nothing about the machine.
    ///
    /// # Errors
    /// What it does not support.
    fn supports(&self, spec: &ConvSpec) -> Result<(), Unsupported>;

    /// Prepares a convolution: packs the weights (`OIHW`, `spec.weights_len()` f32s) into the form
    /// that the kernel reads and settles blocking and threads. Costs a pass or a few over the
    /// weights; the plan may then be run any number of times, from several threads at once.
    ///
    /// # Errors
    /// When the kernel is not available here or does not support the convolution, the weights have
    /// the wrong length, an option makes no sense, or memory for the packed weights cannot be had.
    fn plan(
        &self,
        spec: &ConvSpec,
        weights: &[f32],
        options: &PlanOptions,
    ) -> Result<Box<dyn Plan>, ConvError>;
}

/// A convolution that is ready to run: it owns its packed weights, and it is the proof that this
/// machine can run it.
pub trait Plan: Send + Sync + fmt::Debug {
    /// The convolution.
    fn spec(&self) -> &ConvSpec;

    /// The id of the kernel that runs, with its instruction set: `auto` and `direct` become
    /// something like `direct/avx512`.
    fn kernel_id(&self) -> &str;

    /// The bound that the kernel promises for its rounding errors.
    fn error_model(&self) -> ErrorModel;

    /// Floating-point operations of a run by the algorithm's own arithmetic, transforms included; for
    /// kernels that sum the definition's products [`ConvSpec::flops`].
    fn flops(&self) -> u64 {
        self.spec().flops()
    }

    /// Threads that a run uses at most.
    fn threads(&self) -> usize;

    /// Where a run's outputs go first, of what [`PlanOptions::stores`] asked for.
    ///
    /// ```
    /// use kernels::{ConvSpec, PlanOptions, Stores, kernel};
    ///
    /// let options = PlanOptions { stores: Stores::Streaming, ..Default::default() };
    /// let spec: ConvSpec = "c64 h56 w56 o64 k3 p1".parse()?;
    /// let plan = kernel("naive")?.plan(&spec, &vec![0.0; spec.weights_len()], &options)?;
    /// assert_eq!(plan.stores(), Stores::Cached);
    /// # Ok::<(), kernels::ConvError>(())
    /// ```
    fn stores(&self) -> Stores {
        Stores::Cached
    }

    /// f32s of scratch memory that a run needs.
    fn workspace_len(&self) -> usize;

    /// Bytes of packed weights that the plan holds. Plans made by [`resized`](Self::resized) hold the same
    /// ones: count them once.
    fn packed_bytes(&self) -> usize;

    /// A plan of the same kernel, options and weights for another batch, image size or padding: an engine
    /// whose inputs vary in size makes one plan of a layer and resizes it.
    ///
    /// The packed weights are shared, neither packed again nor copied; what depends on the size (blocking,
    /// shares of the threads, scratch memory) is settled anew, in microseconds. Each of the plans runs
    /// without the other, and the last one to go frees the weights.
    ///
    /// The kernel stays as well, whatever `auto` or `winograd` would choose for the new size: where
    /// [`explain`](crate::explain) names another algorithm than [`kernel_id`](Self::kernel_id), a new plan may
    /// be faster. Outputs are, bit for bit, those of a new plan of the kernel that runs. Only `direct` packs
    /// weights in one of two forms, by the size of the output, and keeps the form it has: a new plan might
    /// take the other one, sum in another order (with the same [error model](Self::error_model)) and, where
    /// one of the widths is much less than a vector's, be about twice as fast.
    ///
    /// ```
    /// use kernels::{ConvSpec, PlanOptions, Workspace, kernel};
    ///
    /// let one: ConvSpec = "c16 h20 w20 o8 k3 p1".parse()?;
    /// let weights = vec![1.0; one.weights_len()];
    /// let plan = kernel("auto")?.plan(&one, &weights, &PlanOptions::default())?;
    ///
    /// let mut workspace = Workspace::default(); // grows to what the largest needs
    /// for batch in [1, 4, 2] {
    ///     let plan = plan.resized(&one.with_batch(batch)?)?;
    ///     let input = vec![1.0; plan.spec().input_len()];
    ///     let mut output = vec![0.0; plan.spec().output_len()];
    ///     plan.run(&input, None, &mut output, &mut workspace)?;
    ///     assert_eq!(output.len(), batch * 8 * 20 * 20);
    ///     assert!((output[10 * 20 + 10] - 16.0 * 9.0).abs() < 1e-3);
    /// }
    /// # Ok::<(), kernels::ConvError>(())
    /// ```
    ///
    /// # Errors
    /// [`ConvError::Resize`] names the first field beside batch, `in_height`, `in_width` and padding in which
    /// `spec` differs; [`ConvError::Unsupported`] when the kernel's method does not cover the new size;
    /// [`ConvError::OutOfMemory`] when a table of the new size cannot be had.
    fn resized(&self, spec: &ConvSpec) -> Result<Box<dyn Plan>, ConvError>;

    /// Computes `output = activation(convolution(input) + bias [+ output])`.
    ///
    /// `input` and `output` are in the layout of the [`spec`](Self::spec), `bias` has one value for
    /// each output channel. Without [`PlanOptions::accumulate`] the previous output is not read.
    /// Allocates nothing, except that an owned workspace which is too small grows.
    ///
    /// # Errors
    /// When a buffer has the wrong length or a borrowed workspace is too small; the output is then
    /// untouched. A kernel on a GPU may also fail there, in the middle of a run.
    fn run(
        &self,
        input: &[f32],
        bias: Option<&[f32]>,
        output: &mut [f32],
        workspace: &mut Workspace<'_>,
    ) -> Result<(), ConvError>;

    /// A workspace of full size for this plan. (If memory cannot be had it is empty, and `run`
    /// reports that.)
    fn workspace(&self) -> Workspace<'static> {
        let mut workspace = Workspace::default();
        // A failure shows again, as an error, when the workspace is used.
        let _ = workspace.reserve(self.workspace_len());
        workspace
    }
}

/// Buffers of one run, of the right lengths.
#[derive(Debug)]
pub(crate) struct Io<'a> {
    pub(crate) input: &'a [f32],
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) output: &'a mut [f32],
}

/// What an algorithm makes of a convolution of one size; [`Prepared`] is the plan around it.
pub(crate) trait Body: Send + Sync + fmt::Debug {
    /// f32s of scratch memory; it comes aligned to a cache line, with any contents.
    fn scratch_len(&self) -> usize;
    /// Threads that a run uses.
    fn threads(&self) -> usize;
    /// The bound that is promised.
    fn error_model(&self) -> ErrorModel;
    /// Floating-point operations of a run, where they are not the definition's.
    fn flops(&self) -> Option<u64> {
        None
    }
    /// Where outputs go first.
    fn stores(&self) -> Stores {
        Stores::Cached
    }
    /// Runs; buffers and scratch have been checked.
    fn run(&self, io: Io<'_>, scratch: &mut [f32]);
}

/// A plan: an algorithm's body behind the checks that are the same for all.
#[derive(Debug)]
pub(crate) struct Prepared {
    spec: ConvSpec,
    kernel_id: String,
    /// What the kernel says of a convolution, asked again for each size.
    supports: Supports,
    packed: Arc<Packed>,
    body: Box<dyn Body>,
}

/// Whether a method covers a convolution; if not, what of it is not supported.
pub(crate) type Supports = fn(&ConvSpec) -> Result<(), String>;

impl Prepared {
    /// A plan for a convolution that the kernel supports.
    pub(crate) fn new(
        spec: &ConvSpec,
        kernel_id: String,
        supports: Supports,
        packed: Arc<Packed>,
    ) -> Result<Self, ConvError> {
        let body = packed.body(spec)?;
        Ok(Prepared { spec: *spec, kernel_id, supports, packed, body })
    }
}

impl Plan for Prepared {
    fn spec(&self) -> &ConvSpec {
        &self.spec
    }

    fn kernel_id(&self) -> &str {
        &self.kernel_id
    }

    fn error_model(&self) -> ErrorModel {
        self.body.error_model()
    }

    fn flops(&self) -> u64 {
        self.body.flops().unwrap_or_else(|| self.spec.flops())
    }

    fn threads(&self) -> usize {
        self.body.threads()
    }

    fn stores(&self) -> Stores {
        self.body.stores()
    }

    fn workspace_len(&self) -> usize {
        match self.body.scratch_len() {
            0 => 0,
            // Room to start on a cache line wherever the memory begins.
            len => len + LINE - 1,
        }
    }

    fn packed_bytes(&self) -> usize {
        self.packed.bytes()
    }

    fn resized(&self, spec: &ConvSpec) -> Result<Box<dyn Plan>, ConvError> {
        check_resize(spec, &self.spec)?;
        (self.supports)(spec).map_err(|what| Unsupported::new(&self.kernel_id, what, spec))?;
        let packed = Arc::clone(&self.packed);
        Ok(Box::new(Prepared::new(spec, self.kernel_id.clone(), self.supports, packed)?))
    }

    fn run(
        &self,
        input: &[f32],
        bias: Option<&[f32]>,
        output: &mut [f32],
        workspace: &mut Workspace<'_>,
    ) -> Result<(), ConvError> {
        check_buffers(&self.spec, input, bias, output)?;
        let needed = self.workspace_len();
        let scratch = buffer::align(workspace.reserve(needed)?, self.body.scratch_len())
            .ok_or(ConvError::WorkspaceTooSmall { actual: 0, needed })?;
        self.body.run(Io { input, bias, output }, scratch);
        Ok(())
    }
}

/// The checks of every `plan`, before any work, of a kernel of this accuracy: under [`Accuracy::Strict`] no other is
/// taken, even by name.
pub(crate) fn check_plan(
    accuracy: Accuracy,
    spec: &ConvSpec,
    weights: &[f32],
    options: &PlanOptions,
) -> Result<(), ConvError> {
    options.check()?;
    check_len("weights", weights.len(), spec.weights_len())?;
    if options.accuracy != Accuracy::Strict || accuracy == Accuracy::Strict {
        return Ok(());
    }
    Err(ConvError::Option {
        option: "accuracy",
        value: "Strict".to_owned(),
        expected: "Standard or Relaxed for a kernel that does not just sum products in f32",
    })
}

/// The checks of every `resized`: `spec` is the plan's own `was` but for its size.
pub(crate) fn check_resize(spec: &ConvSpec, was: &ConvSpec) -> Result<(), ConvError> {
    match spec.difference_beyond_size(was) {
        None => Ok(()),
        Some((field, actual, expected)) => Err(ConvError::Resize { field, actual, expected }),
    }
}

/// The checks of every `run`, before any work.
pub(crate) fn check_buffers(
    spec: &ConvSpec,
    input: &[f32],
    bias: Option<&[f32]>,
    output: &[f32],
) -> Result<(), ConvError> {
    check_len("input", input.len(), spec.input_len())?;
    check_len("output", output.len(), spec.output_len())?;
    bias.map_or(Ok(()), |bias| check_len("bias", bias.len(), spec.out_channels()))
}

pub(crate) fn check_len(buffer: &'static str, actual: usize, expected: usize) -> Result<(), ConvError> {
    if actual == expected { Ok(()) } else { Err(ConvError::BufferLength { buffer, actual, expected }) }
}
