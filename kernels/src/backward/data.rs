//! The gradient by data: phases of stride-1 convolutions over the gradient by the output.

use std::ops::Range;

use super::phases::{Phase, phases};
use crate::buffer;
use crate::error::ConvError;
use crate::kernel::{ErrorModel, Plan, PlanOptions, check_len};
use crate::parallel::{self, SharedOutput};
use crate::registry;
use crate::spec::{ConvSpec, Layout, Padding};
use crate::workspace::Workspace;

/// f32s of gradients by the input that wait in scratch memory to be put in place: images are taken together as far.
const WAITING: usize = 1 << 19;

/// The gradient of a convolution by its input, ready to run: its transposed convolution, with an input of the forward
/// output's shape and an output of the forward input's.
///
/// # How
/// With stride 1 it is one convolution with flipped filters, inputs and outputs exchanged, by any kernel of the forward
/// pass. With a stride, input pixels a stride apart meet the same taps: each such phase is a convolution of stride 1
/// with some of the taps, whose outputs are then put between each other.
///
/// # Example: transposed convolution
/// ```
/// use kernels::backward::DataPlan;
/// use kernels::{ConvSpec, PlanOptions, Workspace};
///
/// // 2×2 pixels become 4×4: the forward convolution goes from 4×4 to 2×2.
/// let forward: ConvSpec = "c1 h4 w4 o1 k2 s2".parse()?;
/// let plan = DataPlan::new("auto", &forward, &[1., 2., 3., 4.], &PlanOptions::default())?;
/// let mut large = [0.0; 16];
/// plan.run(&[1., 0., 0., 10.], Some(&[0.5]), &mut large, &mut Workspace::default())?;
/// assert_eq!(large[..4], [1.5, 2.5, 0.5, 0.5]);
/// assert_eq!(large[12..], [0.5, 0.5, 30.5, 40.5]);
/// # Ok::<(), kernels::ConvError>(())
/// ```
#[derive(Debug)]
pub struct DataPlan {
    spec: ConvSpec,
    id: String,
    threads: usize,
    parts: Vec<Part>,
    /// Whether the phases reach every pixel of the input.
    complete: bool,
    /// Images that run together.
    images: usize,
}

/// A phase of both axes.
#[derive(Debug)]
struct Part {
    axes: [Phase; 2],
    /// For as many images as run together, and for what is left of the batch.
    plans: [Option<Box<dyn Plan>>; 2],
    /// Only some of the gradient by the output is met.
    cropped: bool,
    /// The outputs are the gradient as it is.
    in_place: bool,
}

impl DataPlan {
    /// Prepares the gradient by data of `spec`, the *forward* convolution, with its weights (OIHW). The kernel is one
    /// that [`kernels`](crate::kernels) lists, and computes every phase.
    ///
    /// Of the options [`accumulate`](PlanOptions::accumulate) must be off and there is no activation.
    ///
    /// # Errors
    /// As [`Kernel::plan`](crate::Kernel::plan), of the convolution that a phase is. Only `auto`, `naive`,
    /// `im2col-gemm` and `direct` cover most; with `winograd` the stride is 1.
    pub fn new(id: &str, spec: &ConvSpec, weights: &[f32], options: &PlanOptions) -> Result<Self, ConvError> {
        let kernel = registry::kernel(id)?;
        options.check()?;
        check_len("weights", weights.len(), spec.weights_len())?;
        let unused = |option, value: String| Err(ConvError::Option { option, value, expected: "left out" });
        if options.accumulate {
            return unused("accumulate", "true".to_owned());
        }
        if let Some(activation) = options.activation {
            return unused("activation", format!("{activation:?}"));
        }
        let [vertical, horizontal] = [phases(spec, 0), phases(spec, 1)];
        let places = |phases: &[Phase]| phases.iter().map(|phase| phase.count).sum::<usize>();
        let complete = places(&vertical) == spec.in_height() && places(&horizontal) == spec.in_width();
        let pixels = |phases: &[Phase]| phases.iter().map(|phase| phase.count).max().unwrap_or(0);
        let image = spec.in_channels() * pixels(&vertical) * pixels(&horizontal);
        let single = spec.stride() == [1, 1] && complete;
        let images = if single { spec.batch() } else { (WAITING / image.max(1)).clamp(1, spec.batch()) };
        let mut parts = Vec::new();
        for row in &vertical {
            for column in &horizontal {
                let axes = [row.clone(), column.clone()];
                let convolution = convolution(spec, &axes, images)?;
                let plan = kernel.plan(&convolution, &taps(spec, weights, &axes)?, options)?;
                let left = spec.batch() % images;
                let rest = match left {
                    0 => None,
                    _ => Some(plan.resized(&convolution.with_batch(left)?)?),
                };
                let cropped = row.rows != (0..spec.out_height()) || column.rows != (0..spec.out_width());
                parts.push(Part { axes, plans: [Some(plan), rest], cropped, in_place: single });
            }
        }
        // That of the phase with the most taps.
        let most = parts.iter().filter_map(|part| part.plans[0].as_ref()).max_by_key(|plan| plan.flops());
        let id = most.map_or(id, |plan| plan.kernel_id()).to_owned();
        let elements = (spec.input_len() as u64).saturating_add(spec.output_len() as u64);
        let threads = parallel::worthwhile_for(options.threads, elements.saturating_mul(4));
        Ok(DataPlan { spec: *spec, id, threads, parts, complete, images })
    }

    /// The forward convolution.
    pub fn spec(&self) -> &ConvSpec {
        &self.spec
    }

    /// The id of the kernel that runs, of the phase with the most taps if they differ.
    pub fn kernel_id(&self) -> &str {
        &self.id
    }

    /// The bounds that the phases promise for their rounding errors, each of its own convolution. A pixel that no tap
    /// meets is the bias, exactly.
    pub fn error_models(&self) -> impl Iterator<Item = ErrorModel> {
        self.parts.iter().filter_map(|part| part.plans[0].as_ref()).map(|plan| plan.error_model())
    }

    /// Floating-point operations of a run, by the arithmetic of the kernels.
    pub fn flops(&self) -> u64 {
        let plans = |part: &Part| {
            let flops = |plan: &Option<Box<dyn Plan>>| plan.as_ref().map_or(0, |plan| plan.flops());
            let whole = (self.spec.batch() / self.images) as u64;
            flops(&part.plans[0]).saturating_mul(whole).saturating_add(flops(&part.plans[1]))
        };
        self.parts.iter().map(plans).fold(0, u64::saturating_add)
    }

    /// Bytes of packed weights.
    pub fn packed_bytes(&self) -> usize {
        self.parts.iter().filter_map(|part| part.plans[0].as_ref()).map(|plan| plan.packed_bytes()).sum()
    }

    /// f32s of scratch memory that a run needs.
    pub fn workspace_len(&self) -> usize {
        let plans =
            self.parts.iter().flat_map(|part| part.plans.iter().flatten().map(move |plan| (part, plan)));
        plans.map(|(part, plan)| part.waiting(plan.spec()) + plan.workspace_len()).max().unwrap_or(0)
    }

    /// Computes the gradient by the input, or, with a bias (a value for each *input* channel), the transposed
    /// convolution. What `grad_input` held is not read. Allocates nothing, except that an owned workspace grows.
    ///
    /// # Errors
    /// When a buffer has the wrong length or a borrowed workspace is too small; `grad_input` is then untouched.
    pub fn run(
        &self,
        grad_output: &[f32],
        bias: Option<&[f32]>,
        grad_input: &mut [f32],
        workspace: &mut Workspace<'_>,
    ) -> Result<(), ConvError> {
        let spec = &self.spec;
        check_len("grad_output", grad_output.len(), spec.output_len())?;
        check_len("grad_input", grad_input.len(), spec.input_len())?;
        if let Some(bias) = bias {
            check_len("bias", bias.len(), spec.in_channels())?;
        }
        let scratch = workspace.reserve(self.workspace_len())?;
        if !self.complete {
            fill(spec, bias, grad_input);
        }
        let (from, to) = (spec.output_len() / spec.batch(), spec.input_len() / spec.batch());
        for first in (0..spec.batch()).step_by(self.images) {
            let images = self.images.min(spec.batch() - first);
            let grad_output = &grad_output[first * from..][..images * from];
            let grad_input = &mut grad_input[first * to..][..images * to];
            for part in &self.parts {
                let plan = part.plans[usize::from(images < self.images)].as_deref();
                // There is one for both numbers of images that occur.
                let Some(plan) = plan else { continue };
                part.run(spec, plan, self.threads, grad_output, bias, grad_input, scratch)?;
            }
        }
        Ok(())
    }
}

/// The bias, or zeros.
fn fill(spec: &ConvSpec, bias: Option<&[f32]>, output: &mut [f32]) {
    let Some(bias) = bias else { return output.fill(0.0) };
    match spec.layout() {
        Layout::Nchw => {
            let planes = output.chunks_exact_mut(spec.in_height() * spec.in_width());
            planes.zip(bias.iter().cycle()).for_each(|(plane, &bias)| plane.fill(bias));
        }
        Layout::Nhwc => output.chunks_exact_mut(bias.len()).for_each(|pixel| pixel.copy_from_slice(bias)),
    }
}

/// The convolution of a phase: channels exchanged, over what it meets of the gradient by the output.
fn convolution(spec: &ConvSpec, [row, column]: &[Phase; 2], images: usize) -> Result<ConvSpec, ConvError> {
    let padding = Padding {
        top: row.padding[0],
        left: column.padding[0],
        bottom: row.padding[1],
        right: column.padding[1],
    };
    let builder = ConvSpec::builder()
        .batch(images)
        .in_channels(spec.out_channels())
        .input_size(row.rows.len(), column.rows.len())
        .out_channels(spec.in_channels())
        .kernel(row.taps, column.taps)
        .padding(padding)
        .dilation(row.dilation, column.dilation)
        .groups(spec.groups())
        .layout(spec.layout());
    Ok(builder.build()?)
}

/// The weights of a phase's convolution: its taps from last to first, channels exchanged.
fn taps(spec: &ConvSpec, weights: &[f32], [row, column]: &[Phase; 2]) -> Result<Vec<f32>, ConvError> {
    let (channels, filters) = (spec.group_in_channels(), spec.group_out_channels());
    let [height, width] = spec.kernel();
    let mut taps = buffer::try_vec(spec.in_channels() * filters * row.taps * column.taps)?;
    for c in 0..spec.in_channels() {
        for o in 0..filters {
            let filter = ((c / channels * filters + o) * channels + c % channels) * height * width;
            for r in (0..row.taps).rev().map(|tap| row.tap + tap * row.tap_step) {
                let columns = (0..column.taps).rev().map(|tap| column.tap + tap * column.tap_step);
                taps.extend(columns.map(|s| weights[filter + r * width + s]));
            }
        }
    }
    Ok(taps)
}

impl Part {
    /// f32s of scratch memory beside that of the plan: what is met of the gradient by the output, and the phase's
    /// outputs.
    fn waiting(&self, convolution: &ConvSpec) -> usize {
        let met = if self.cropped { convolution.input_len() } else { 0 };
        let outputs = if self.in_place { 0 } else { convolution.output_len() };
        met + outputs
    }

    fn run(
        &self,
        spec: &ConvSpec,
        plan: &dyn Plan,
        threads: usize,
        grad_output: &[f32],
        bias: Option<&[f32]>,
        grad_input: &mut [f32],
        scratch: &mut [f32],
    ) -> Result<(), ConvError> {
        let convolution = plan.spec();
        let met_len = if self.cropped { convolution.input_len() } else { 0 };
        let (met, scratch) = scratch.split_at_mut(met_len);
        let from = if self.cropped {
            self.crop(spec, convolution.batch(), threads, grad_output, met);
            met
        } else {
            grad_output
        };
        if self.in_place {
            return plan.run(from, bias, grad_input, &mut Workspace::from_slice(scratch));
        }
        let (outputs, scratch) = scratch.split_at_mut(convolution.output_len());
        plan.run(from, bias, outputs, &mut Workspace::from_slice(scratch))?;
        self.place(spec, convolution.batch(), threads, outputs, grad_input);
        Ok(())
    }

    /// Copies what the phase meets of the gradient by the output.
    fn crop(&self, spec: &ConvSpec, images: usize, threads: usize, from: &[f32], to: &mut [f32]) {
        let (planes, pixel) = planes(spec, images, spec.out_channels());
        let [rows, columns] = [0, 1].map(|axis| self.axes[axis].rows.clone());
        let len = columns.len() * pixel;
        each_row(threads, planes, rows.len(), len, to, &|plane, row, to| {
            let row = plane * spec.out_height() + rows.start + row;
            to.copy_from_slice(&from[(row * spec.out_width() + columns.start) * pixel..][..len]);
        });
    }

    /// Puts the phase's outputs in their places of the gradient by the input.
    fn place(&self, spec: &ConvSpec, images: usize, threads: usize, from: &[f32], to: &mut [f32]) {
        let (planes, pixel) = planes(spec, images, spec.in_channels());
        let [row, column] = &self.axes;
        let ([vertical, horizontal], len) = (spec.stride(), column.count * pixel);
        let (to_len, to) = (spec.in_width() * pixel, SharedOutput::new(to));
        parallel::for_each_range(threads, planes * row.count, &mut [], 0, &|range, _| {
            for index in range {
                let from = &from[index * len..][..len];
                let y = index / row.count * spec.in_height() + row.first + index % row.count * vertical;
                // SAFETY: a row of the gradient, which no other index has.
                let to = unsafe { std::slice::from_raw_parts_mut(to.at(y * to_len), to_len) };
                let to = &mut to[column.first * pixel..];
                if pixel == 1 {
                    to.iter_mut().step_by(horizontal).zip(from).for_each(|(to, from)| *to = *from);
                } else {
                    let pixels =
                        to.chunks_mut(horizontal.saturating_mul(pixel)).zip(from.chunks_exact(pixel));
                    pixels.for_each(|(to, from)| to[..pixel].copy_from_slice(from));
                }
            }
        });
    }
}

/// Planes of images of so many channels, and f32s of a pixel in each.
fn planes(spec: &ConvSpec, images: usize, channels: usize) -> (usize, usize) {
    match spec.layout() {
        Layout::Nchw => (images * channels, 1),
        Layout::Nhwc => (images, channels),
    }
}

/// Calls `f` with plane, row and the row's place in `to`, which holds `planes` of `rows` of `len`.
fn each_row(
    threads: usize,
    planes: usize,
    rows: usize,
    len: usize,
    to: &mut [f32],
    f: &(dyn Fn(usize, usize, &mut [f32]) + Sync),
) {
    let to = SharedOutput::new(&mut to[..planes * rows * len]);
    parallel::for_each_range(threads, planes * rows, &mut [], 0, &|range: Range<usize>, _| {
        for index in range {
            // SAFETY: a row that no other index has.
            let row = unsafe { std::slice::from_raw_parts_mut(to.at(index * len), len) };
            f(index / rows, index % rows, row);
        }
    });
}
