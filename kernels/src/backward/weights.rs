//! The gradients by weights and bias: `product`, a product over pixels in the register tile.

use super::bands::Bands;
use super::bias;
use super::columns::Columns;
use crate::buffer::{self, LINE};
use crate::error::ConvError;
use crate::kernel::{ErrorModel, PlanOptions, check_len};
use crate::parallel::{self, SharedOutput};
use crate::simd::{Isa, Simd, Token, with_token};
use crate::spec::{ConvSpec, Padding};
use crate::workspace::Workspace;

/// The ids of kernels.
pub(super) const IDS: [&str; 5] = ["auto", "product", "product/wide", "product/avx2", "product/avx512"];

/// The gradients of a convolution by its weights and its bias, ready to run.
///
/// # How
/// `grad_weights[o][c][r][s]` is the sum over all output pixels of the gradient there, of filter o, times the input pixel
/// that tap (r, s) sees in channel c: a product over pixels, in the register tile. Where many filters share the work of
/// unrolling the input, and where there is none, for 1×1 kernels, it is one of matrices, whose result lies as the weights
/// do. Else bands of the input are read in place, with taps that share their pixels. Threads never share a sum.
#[derive(Debug)]
pub struct WeightsPlan {
    spec: ConvSpec,
    id: String,
    token: Token,
    options: PlanOptions,
    threads: usize,
    /// Boxed, because it is large.
    method: Box<Method>,
}

/// What a run reads and writes.
pub(super) struct Operands<'a> {
    pub(super) spec: &'a ConvSpec,
    pub(super) input: &'a [f32],
    pub(super) grad_output: &'a [f32],
    pub(super) grad_weights: SharedOutput,
    /// Whether gradients are added to what there is.
    pub(super) accumulate: bool,
}

/// How the product is made.
#[derive(Debug)]
enum Method {
    Columns(Columns),
    Bands(Bands),
}

/// Filters of a group that make unrolling the input for a kernel of several taps worth its time.
const MANY_FILTERS: usize = 128;

/// f32s of scratch memory that a thread may have: 4 MiB.
pub(super) const MOST_SCRATCH: usize = 1 << 20;

impl Method {
    fn new<S: Simd>(simd: S, spec: &ConvSpec, threads: usize) -> Result<Self, ConvError> {
        let pointwise = spec.kernel() == [1, 1] && spec.padding() == Padding::none();
        if !pointwise && spec.group_out_channels() < MANY_FILTERS {
            let bands = Bands::new(simd, spec, threads)?;
            if bands.scratch_len(spec) <= MOST_SCRATCH {
                return Ok(Method::Bands(bands));
            }
        }
        Ok(Method::Columns(Columns::new(simd, spec, threads)?))
    }
}

impl WeightsPlan {
    /// Prepares the gradients by weights and bias of `spec`, the forward convolution. The kernel is `auto`, `product`
    /// or one with an instruction set, as [`kernels_of`](super::kernels_of) lists them.
    ///
    /// With [`accumulate`](PlanOptions::accumulate) gradients are added to what there is; there is no activation.
    ///
    /// # Errors
    /// When there is no such kernel or it is not available, an option makes no sense, or memory for a table cannot be
    /// had.
    pub fn new(id: &str, spec: &ConvSpec, options: &PlanOptions) -> Result<Self, ConvError> {
        options.check()?;
        if !IDS.contains(&id) {
            let id = id.chars().take(40).collect();
            return Err(ConvError::UnknownKernel { id, known: "auto, product".to_owned() });
        }
        if let Some(activation) = options.activation {
            let value = format!("{activation:?}");
            return Err(ConvError::Option { option: "activation", value, expected: "left out" });
        }
        let unavailable = |reason| ConvError::Unavailable { kernel: id.to_owned(), reason };
        let named =
            Isa::ALL.into_iter().find(|isa| id.split_once('/').is_some_and(|(_, name)| name == isa.name()));
        let isa = named.map_or_else(Isa::best, Ok).map_err(unavailable)?;
        let token = isa.token().map_err(unavailable)?;
        let threads = parallel::worthwhile(options.threads, spec);
        let method = with_token!(token, s => Method::new(s, spec, threads))?;
        Ok(WeightsPlan {
            spec: *spec,
            id: format!("product/{isa}"),
            token,
            options: *options,
            threads,
            method: Box::new(method),
        })
    }

    /// The forward convolution.
    pub fn spec(&self) -> &ConvSpec {
        &self.spec
    }

    /// The id of the kernel that runs, with its instruction set.
    pub fn kernel_id(&self) -> &str {
        &self.id
    }

    /// Threads that a run uses at most.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The bound of rounding errors, of weights and bias: sums of as many products as there are output pixels.
    pub fn error_model(&self) -> ErrorModel {
        let passes = match &*self.method {
            Method::Columns(columns) => columns.passes(&self.spec),
            Method::Bands(bands) => bands.passes(&self.spec),
        };
        let pixels = self.spec.output_len() / self.spec.out_channels();
        ErrorModel::Sum { k: (pixels + passes) as f64 + 3.0 }
    }

    /// f32s of scratch memory that a run needs.
    pub fn workspace_len(&self) -> usize {
        self.at_once() * self.scratch_len() + LINE - 1
    }

    /// Units of work, which share no sums.
    fn units(&self) -> usize {
        match &*self.method {
            Method::Columns(columns) => columns.units(&self.spec),
            Method::Bands(bands) => bands.units(&self.spec),
        }
    }

    /// Units that run at once. Threads may also share a unit's bands.
    fn at_once(&self) -> usize {
        match &*self.method {
            Method::Columns(_) => self.units().min(self.threads),
            Method::Bands(_) if self.units() >= self.threads => self.threads,
            Method::Bands(_) => 1,
        }
    }

    /// f32s of a unit's scratch memory, whole cache lines.
    fn scratch_len(&self) -> usize {
        match &*self.method {
            Method::Columns(columns) => columns.scratch_len(),
            Method::Bands(bands) => bands.scratch_len(&self.spec),
        }
    }

    /// Computes the gradients by the weights (OIHW) and, if asked for, by the bias. `input` and `grad_output` are in the
    /// layout of the spec. Allocates nothing, except that an owned workspace which is too small grows.
    ///
    /// # Errors
    /// When a buffer has the wrong length or a borrowed workspace is too small; the gradients are then untouched.
    pub fn run(
        &self,
        input: &[f32],
        grad_output: &[f32],
        grad_weights: &mut [f32],
        grad_bias: Option<&mut [f32]>,
        workspace: &mut Workspace<'_>,
    ) -> Result<(), ConvError> {
        let spec = &self.spec;
        check_len("input", input.len(), spec.input_len())?;
        check_len("grad_output", grad_output.len(), spec.output_len())?;
        check_len("grad_weights", grad_weights.len(), spec.weights_len())?;
        if let Some(grad_bias) = &grad_bias {
            check_len("grad_bias", grad_bias.len(), spec.out_channels())?;
        }
        let needed = self.workspace_len();
        let each = self.scratch_len();
        let scratch = buffer::align(workspace.reserve(needed)?, self.at_once() * each)
            .ok_or(ConvError::WorkspaceTooSmall { actual: 0, needed })?;
        if let Some(grad_bias) = grad_bias {
            with_token!(self.token, s => {
                bias::sums(s, spec, self.threads, self.options.accumulate, grad_output, grad_bias);
            });
        }
        let operands = Operands {
            spec,
            input,
            grad_output,
            grad_weights: SharedOutput::new(grad_weights),
            accumulate: self.options.accumulate,
        };
        let threads = if self.at_once() > 1 { 1 } else { self.threads };
        parallel::for_each_range(self.at_once(), self.units(), scratch, each, &|units, scratch| {
            for unit in units {
                with_token!(self.token, s => match &*self.method {
                    Method::Columns(columns) => columns.unit(s, unit, &operands, scratch),
                    Method::Bands(bands) => bands.unit(s, unit, threads, &operands, scratch),
                });
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Long reductions, long rows, wide windows and many filters: scratch memory stays within its limit.
    #[test]
    fn scratch_memory_is_bounded() {
        for text in [
            "c4096 h7 w7 o64 k3 p1",
            "c40000 h2 w2 o16 k1",
            "c3000 h1 w5000 o8 k1x3",
            "c64 h1 w100000 o128 k1x9",
            "c64 h1 w100000 o128 k1 s7 p1",
            "c64 h300 w300 o128 k3 d80",
            "n64 c512 h7 w7 o2048 k1",
            "n2 c512 h64 w64 o512 k3 p1",
            "c512 h128 w128 o256 k1",
        ] {
            for layout in [crate::Layout::Nchw, crate::Layout::Nhwc] {
                let spec = text.parse::<ConvSpec>().unwrap().with_layout(layout);
                for id in IDS.into_iter().filter(|id| id.contains('/')) {
                    for threads in [1, 3] {
                        let options = PlanOptions { threads, ..PlanOptions::default() };
                        let Ok(plan) = WeightsPlan::new(id, &spec, &options) else { continue };
                        let most = threads * MOST_SCRATCH + LINE - 1;
                        assert!(plan.workspace_len() <= most, "`{spec}` {id}: {}", plan.workspace_len());
                    }
                }
            }
        }
    }
}
