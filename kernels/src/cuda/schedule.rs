//! What runs on the device for a convolution: plain data, made without a device.

use super::params::Params;
use super::tiling;
use super::variant::{STEPS, Window};
use super::{depthwise, pack, winograd};
use crate::error::{ConvError, Unsupported};
use crate::kernel::{Accuracy, ErrorModel, PlanOptions};
use crate::spec::{ConvSpec, Layout};

/// What of a device a schedule depends on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Limits {
    pub(crate) compute_capability: (u32, u32),
    pub(crate) multiprocessors: u32,
    /// The most shared memory that a block can ask for.
    pub(crate) shared_bytes: u32,
}

/// A way to compute a convolution on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// Chooses among those below with the accuracy of f32.
    Auto,
    /// Tiles on CUDA cores.
    Fp32,
    /// Tiles on tensor cores, each product as three of TF32.
    Tf32x3,
    /// Tiles on tensor cores, operands rounded to TF32.
    Tf32,
    /// Tiles on tensor cores, operands rounded to bfloat16.
    Bf16,
    /// F(2×2, 3×3).
    Winograd,
    /// One input channel for each group.
    Depthwise,
}

/// A kernel's launch.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Launch {
    pub(crate) function: &'static str,
    pub(crate) grid: [u32; 3],
    pub(crate) block: u32,
    pub(crate) shared_bytes: u32,
    pub(crate) params: Params,
}

/// All that a device needs for a convolution.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    /// What [`Method::Auto`] became.
    pub(crate) method: Method,
    /// In order, on one stream.
    pub(crate) launches: Vec<Launch>,
    /// Packed; empty if they were not asked for.
    pub(crate) weights: Vec<f32>,
    pub(crate) offsets: Vec<[i32; 2]>,
    /// f32s of device memory that a run needs besides.
    pub(crate) scratch_len: usize,
    pub(crate) error_model: ErrorModel,
    pub(crate) flops: u64,
}

impl Method {
    /// The id of the kernel.
    pub(crate) const fn id(self) -> &'static str {
        match self {
            Method::Auto => "cuda",
            Method::Fp32 => "cuda-fp32",
            Method::Tf32x3 => "cuda-tf32x3",
            Method::Tf32 => "cuda-tf32",
            Method::Bf16 => "cuda-bf16",
            Method::Winograd => "cuda-winograd",
            Method::Depthwise => "cuda-depthwise",
        }
    }

    /// The bound of the rounding errors.
    ///
    /// A tensor core adds 8 products to a sum by aligning all of them to the largest and truncating, each of
    /// the 9 and their sum by less than 2⁻²³ = 2u of the largest: 20u, by Fasi et al., "Numerical behavior of
    /// NVIDIA tensor cores" (2021), for which no vendor vouches. That is 2.5u for each step, a little more for what
    /// rounded operands exceed the given ones.
    fn error_model(self, spec: &ConvSpec) -> ErrorModel {
        let steps = pack::steps(spec).1 as f64;
        // One for the bias, one for the previous output, one for the parts.
        let ends = 3.0;
        match self {
            Method::Auto | Method::Fp32 | Method::Depthwise => ErrorModel::sum(spec),
            // Six products of 8 steps are truncated; the sums of tiles are added in f32. Splitting leaves out
            // 8u of a product: 4u for small·small, 2u for the last place of each operand.
            Method::Tf32x3 => ErrorModel::Rounded {
                k: 6.0 * 20.5 + 8.0 + steps / STEPS as f64 + ends,
                operand: 2f64.powi(-135),
            },
            // 2 · 2⁻¹¹ + 2⁻²² of a product.
            Method::Tf32 => ErrorModel::Rounded { k: 16388.0 + 2.6 * steps + ends, operand: 2f64.powi(-136) },
            // 2 · 2⁻⁸ + 2⁻¹⁶ of a product.
            Method::Bf16 => {
                ErrorModel::Rounded { k: 131328.0 + 2.6 * steps + ends, operand: 2f64.powi(-133) }
            }
            Method::Winograd => winograd::error_model(spec),
        }
    }

    /// Whether the method covers a convolution; if not, what of it is not supported.
    pub(crate) fn supports(self, spec: &ConvSpec) -> Result<(), String> {
        let [kh, kw] = spec.kernel();
        match self {
            Method::Tf32x3 | Method::Tf32 | Method::Bf16 if window_of(spec) == Window::Wide => {
                return Err(format!("kernel {kh}x{kw} (needs at most 16x15)"));
            }
            Method::Depthwise if !spec.is_depthwise() => {
                let (groups, channels) = (spec.groups(), spec.in_channels());
                return Err(format!("{groups} groups of {channels} channels (needs a channel in each)"));
            }
            Method::Winograd => winograd::supports(spec)?,
            _ => {}
        }
        check_sizes(spec)
    }
}

/// The kernels count in 32 bits.
const MOST: usize = i32::MAX as usize;

/// Whether everything that a kernel counts fits 32 bits.
fn check_sizes(spec: &ConvSpec) -> Result<(), String> {
    let at_most = |what: &str, size: Option<usize>, most: usize| match size {
        Some(size) if size <= most => Ok(()),
        Some(size) => Err(format!("{what} of {size} (at most {most})")),
        None => Err(format!("{what} beyond the address space (at most {most})")),
    };
    let product = |sizes: &[usize]| sizes.iter().try_fold(1usize, |all, &size| all.checked_mul(size));
    at_most("an input", Some(spec.input_len()), MOST)?;
    at_most("an output", Some(spec.output_len()), MOST)?;
    // Offsets within a window, and the coordinates of its corner.
    let [height, width] = spec.padded_input();
    at_most("a padded image", product(&[spec.in_channels(), height, width]), MOST)?;
    let [sh, sw] = spec.stride();
    at_most("a stride", Some(sh.max(sw)), MOST)?;
    // Dilation of a kernel of one row or column moves nothing.
    let [kh, kw] = spec.kernel();
    if window_of(spec) == Window::Wide {
        let [dh, dw] = spec.dilation();
        at_most("a distance of kernel rows", product(&[kh - 1, dh]), 0x7FFF)?;
        at_most("a distance of kernel columns", product(&[kw - 1, dw]), 0xFFFF)?;
    }
    let steps =
        product(&[spec.group_in_channels(), kh, kw]).and_then(|steps| steps.checked_next_multiple_of(STEPS));
    let filters = spec.group_out_channels().checked_next_multiple_of(16);
    let packed = steps.zip(filters).and_then(|(steps, filters)| product(&[spec.groups(), steps, filters]));
    at_most("packed weights", packed, MOST)?;
    // Winograd's, 16 elements for each channel.
    if [kh, kw] == [3, 3] {
        let channels = spec.group_in_channels().checked_next_multiple_of(8);
        let packed = channels
            .zip(filters)
            .and_then(|(channels, filters)| product(&[spec.groups(), 16, channels, filters]));
        at_most("packed weights", packed, MOST)?;
    }
    Ok(())
}

/// How the parts of a convolution's windows are told apart.
pub(super) fn window_of(spec: &ConvSpec) -> Window {
    let [kh, kw] = spec.kernel();
    if kh <= 16 && kw <= 15 { Window::Masked } else { Window::Wide }
}

/// Makes the schedule, with packed weights.
pub(crate) fn schedule(
    method: Method,
    spec: &ConvSpec,
    weights: &[f32],
    options: &PlanOptions,
    limits: &Limits,
) -> Result<Schedule, ConvError> {
    let mut schedule = resized(method, spec, options, limits)?;
    schedule.weights = pack::weights(schedule.method, spec, weights)?;
    Ok(schedule)
}

/// Makes the schedule without weights: those of a plan of the same layer, whose settled `method` this is, serve
/// as they are.
pub(crate) fn resized(
    method: Method,
    spec: &ConvSpec,
    options: &PlanOptions,
    limits: &Limits,
) -> Result<Schedule, ConvError> {
    let unsupported = |what| Unsupported::new(method.id(), what, spec);
    method.supports(spec).map_err(unsupported)?;
    let settled = match method {
        Method::Auto => choose(spec, options, limits),
        named => named,
    };
    let params = params(settled, spec, options);
    let (launches, scratch_len) = match settled {
        Method::Depthwise => Some((vec![depthwise::launch(spec, params)], 0)),
        Method::Winograd => winograd::launch(spec, params, limits).map(|launch| (vec![launch], 0)),
        _ => tiling::best(settled, spec, &params, limits).map(|(_, tiling)| tiling.launches(params)),
    }
    .ok_or_else(|| unsupported(missing(limits)))?;
    let offsets = match settled {
        Method::Depthwise | Method::Winograd => Vec::new(),
        _ => pack::offsets(spec, window_of(spec))?,
    };
    Ok(Schedule {
        method: settled,
        launches,
        weights: Vec::new(),
        offsets,
        scratch_len,
        error_model: settled.error_model(spec),
        flops: if settled == Method::Winograd { winograd::flops(spec) } else { spec.flops() },
    })
}

/// Why no function runs.
fn missing(limits: &Limits) -> String {
    let (major, minor) = limits.compute_capability;
    format!(
        "compute capability {major}.{minor} with {} bytes of shared memory a block (needs 8.0 and more)",
        limits.shared_bytes
    )
}

/// Whether the device's tensor cores do three products of TF32 in less time than its CUDA cores one of f32:
/// data-centre devices' do, others multiply TF32 at one to two times the rate of f32.
fn has_fast_tf32(limits: &Limits) -> bool {
    matches!(limits.compute_capability, (8, 0) | (9, 0) | (10, 0 | 3))
}

/// The method of f32's accuracy that should take least time.
fn choose(spec: &ConvSpec, options: &PlanOptions, limits: &Limits) -> Method {
    if Method::Depthwise.supports(spec).is_ok() {
        return Method::Depthwise;
    }
    let tiled = |method: Method| {
        let params = params(method, spec, options);
        tiling::best(method, spec, &params, limits).map(|(cost, _)| (cost, method))
    };
    let mut costs = vec![tiled(Method::Fp32)];
    if options.accuracy > Accuracy::Strict {
        if has_fast_tf32(limits) && Method::Tf32x3.supports(spec).is_ok() {
            costs.push(tiled(Method::Tf32x3));
        }
        if Method::Winograd.supports(spec).is_ok() {
            let params = params(Method::Winograd, spec, options);
            let launch = winograd::launch(spec, params, limits);
            costs.push(launch.map(|launch| (winograd::cost(&launch, &params, limits), Method::Winograd)));
        }
    }
    let best = costs.into_iter().flatten().min_by(|(a, _), (b, _)| a.total_cmp(b));
    best.map_or(Method::Fp32, |(_, method)| method)
}

/// The parameters that do not depend on tiles. Everything fits: `Method::supports` has looked.
fn params(method: Method, spec: &ConvSpec, options: &PlanOptions) -> Params {
    let int = |size: usize| size as i32;
    let (weight_pitch, rows) = pack::shape(method, spec);
    let [in_channel, in_row, in_column] = pack::input_distances(spec);
    let plane = spec.out_height() * spec.out_width();
    let [out_channel, out_pixel] = match spec.layout() {
        Layout::Nchw => [plane, 1],
        Layout::Nhwc => [1, spec.out_channels()],
    };
    // A dilation that moves nothing may be any number.
    let dilation = |axis: usize| if spec.kernel()[axis] > 1 { int(spec.dilation()[axis]) } else { 1 };
    let (min, max) = options.limits();
    Params {
        pixels: int(spec.batch() * plane),
        filters: int(spec.group_out_channels()),
        groups: int(spec.groups()),
        steps: int(pack::steps(spec).1),
        splits: 1,
        split_steps: int(pack::steps(spec).1),
        filter_tiles: 1,
        pixel_tiles: 1,
        weight_pitch: int(weight_pitch),
        weight_group: int(rows * weight_pitch),
        channels: int(spec.group_in_channels()),
        in_height: int(spec.in_height()),
        in_width: int(spec.in_width()),
        out_height: int(spec.out_height()),
        out_width: int(spec.out_width()),
        kernel_height: int(spec.kernel()[0]),
        kernel_width: int(spec.kernel()[1]),
        stride_y: int(spec.stride()[0]),
        stride_x: int(spec.stride()[1]),
        pad_top: int(spec.padding().top),
        pad_left: int(spec.padding().left),
        dilation_y: dilation(0),
        dilation_x: dilation(1),
        in_image: int(spec.in_channels() * spec.in_height() * spec.in_width()),
        in_channel: int(in_channel),
        in_row: int(in_row),
        in_column: int(in_column),
        out_image: int(spec.out_channels() * plane),
        out_channel: int(out_channel),
        out_pixel: int(out_pixel),
        out_len: int(spec.output_len()),
        accumulate: int(usize::from(options.accumulate)),
        min,
        max,
    }
}
