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
    /// Whether it has products of warpgroups, and has not given wrong ones.
    pub(crate) warpgroups: bool,
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

/// Who makes a product on tensor cores together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Team {
    /// A warp: `device/mma.cuh`. Also of kernels that have no such products.
    Warp,
    /// Four warps: `device/wgmma.cuh`.
    Warpgroup,
}

/// How a layer is computed, whatever its size: what packed weights depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settled {
    /// Never [`Method::Auto`].
    pub(crate) method: Method,
    pub(crate) team: Team,
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
    pub(crate) settled: Settled,
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
    /// rounded operands exceed the given ones. One that adds 4 twice loses no more, with a bit more than an f32's as
    /// they found: 2 · (5 + 2)u.
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
        check_sizes(self, spec)
    }
}

/// The kernels count in 32 bits, also the places of the last tile that hold nothing.
const MOST: usize = i32::MAX as usize - 1024;

/// Whether everything that a kernel counts fits 32 bits.
fn check_sizes(method: Method, spec: &ConvSpec) -> Result<(), String> {
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
    let [kh, kw] = spec.kernel();
    let depthwise = method == Method::Depthwise || method == Method::Auto && spec.is_depthwise();
    if window_of(spec) == Window::Wide && !depthwise {
        let [dh, dw] = spec.dilation();
        at_most("a distance of kernel rows", product(&[kh - 1, dh]), 0x7FFF)?;
        at_most("a distance of kernel columns", product(&[kw - 1, dw]), 0xFFFF)?;
    }
    let filters = spec.group_out_channels().checked_next_multiple_of(16);
    let steps = match method {
        // Elements of a channel's tiles.
        Method::Winograd => spec
            .group_in_channels()
            .checked_next_multiple_of(winograd::CHANNELS)
            .and_then(|channels| channels.checked_mul(winograd::ELEMENTS)),
        _ => product(&[spec.group_in_channels(), kh, kw])
            .and_then(|steps| steps.checked_next_multiple_of(STEPS)),
    };
    // Some devices have both parts of split weights.
    let parts = if method == Method::Tf32x3 { 2 } else { 1 };
    let packed =
        steps.zip(filters).and_then(|(steps, filters)| product(&[spec.groups(), parts, steps, filters]));
    at_most("packed weights", packed, MOST)
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
    let settled = settle(method, spec, options, limits)?;
    let mut schedule = resized(settled, spec, options, limits)?;
    schedule.weights = pack::weights(settled, spec, weights)?;
    Ok(schedule)
}

/// Settles what depends on the layer alone.
fn settle(
    method: Method,
    spec: &ConvSpec,
    options: &PlanOptions,
    limits: &Limits,
) -> Result<Settled, ConvError> {
    method.supports(spec).map_err(|what| Unsupported::new(method.id(), what, spec))?;
    let method = match method {
        Method::Auto => choose(spec, options, limits),
        named => named,
    };
    Ok(Settled::new(method, spec, limits))
}

impl Settled {
    fn new(method: Method, spec: &ConvSpec, limits: &Limits) -> Self {
        let products = matches!(method, Method::Tf32x3 | Method::Tf32 | Method::Bf16);
        // Of 32 filters half of a warpgroup's smallest tile would be empty. In NHWC it has no form for channels that
        // are fetched one by one.
        let fits = spec.group_out_channels() > 32
            && (spec.layout() == Layout::Nchw || spec.group_in_channels().is_multiple_of(4));
        let team = if products && limits.warpgroups && fits { Team::Warpgroup } else { Team::Warp };
        Settled { method, team }
    }
}

/// Makes the schedule without weights: those of a plan of the same layer, for which this was settled, serve as they
/// are.
pub(crate) fn resized(
    settled: Settled,
    spec: &ConvSpec,
    options: &PlanOptions,
    limits: &Limits,
) -> Result<Schedule, ConvError> {
    let method = settled.method;
    let unsupported = |what| Unsupported::new(method.id(), what, spec);
    method.supports(spec).map_err(unsupported)?;
    let params = params(settled, spec, options);
    let (launches, scratch_len) = match method {
        Method::Depthwise => Some((vec![depthwise::launch(spec, params)], 0)),
        Method::Winograd => winograd::launch(spec, params, limits).map(|launch| (vec![launch], 0)),
        _ => tiling::best(settled, spec, &params, limits).map(|(_, tiling)| tiling.launches(params)),
    }
    .ok_or_else(|| unsupported(missing(limits)))?;
    let offsets = match method {
        Method::Depthwise | Method::Winograd => Vec::new(),
        _ => pack::offsets(spec, window_of(spec))?,
    };
    Ok(Schedule {
        settled,
        launches,
        weights: Vec::new(),
        offsets,
        scratch_len,
        error_model: method.error_model(spec),
        flops: if method == Method::Winograd { winograd::flops(spec) } else { spec.flops() },
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
        let settled = Settled::new(method, spec, limits);
        let params = params(settled, spec, options);
        tiling::best(settled, spec, &params, limits).map(|(cost, _)| (cost, method))
    };
    let mut costs = vec![tiled(Method::Fp32)];
    if options.accuracy > Accuracy::Strict {
        if has_fast_tf32(limits) && Method::Tf32x3.supports(spec).is_ok() {
            costs.push(tiled(Method::Tf32x3));
        }
        if Method::Winograd.supports(spec).is_ok() {
            let params = params(Settled::new(Method::Winograd, spec, limits), spec, options);
            let launch = winograd::launch(spec, params, limits);
            costs.push(launch.map(|launch| (winograd::cost(&launch, &params, limits), Method::Winograd)));
        }
    }
    let best = costs.into_iter().flatten().min_by(|(a, _), (b, _)| a.total_cmp(b));
    best.map_or(Method::Fp32, |(_, method)| method)
}

/// The parameters that do not depend on tiles. Everything fits: `Method::supports` has looked.
pub(super) fn params(settled: Settled, spec: &ConvSpec, options: &PlanOptions) -> Params {
    let int = |size: usize| size as i32;
    let (weight_pitch, rows) = pack::shape(settled, spec);
    let [in_channel, in_row, in_column] = pack::input_distances(spec);
    let plane = spec.out_height() * spec.out_width();
    let [out_channel, out_pixel] = match spec.layout() {
        Layout::Nchw => [plane, 1],
        Layout::Nhwc => [1, spec.out_channels()],
    };
    // A dilation or stride that moves nothing may be any number.
    let stride = |axis: usize| {
        if [spec.out_height(), spec.out_width()][axis] > 1 { int(spec.stride()[axis]) } else { 1 }
    };
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
        stride_y: stride(0),
        stride_x: stride(1),
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

#[cfg(test)]
mod tests {
    use super::*;

    const METHODS: [Method; 7] = [
        Method::Auto,
        Method::Fp32,
        Method::Tf32x3,
        Method::Tf32,
        Method::Bf16,
        Method::Winograd,
        Method::Depthwise,
    ];

    /// Devices: capability, multiprocessors, KiB of shared memory that a block can have.
    const DEVICES: [((u32, u32), u32, u32); 6] = [
        ((7, 5), 40, 64),
        ((8, 0), 108, 163),
        ((8, 6), 82, 99),
        ((9, 0), 132, 227),
        ((10, 0), 148, 227),
        ((12, 0), 170, 99),
    ];

    fn limits(((major, minor), multiprocessors, kib): ((u32, u32), u32, u32)) -> Limits {
        let warpgroups = (major, minor) == (9, 0);
        Limits { compute_capability: (major, minor), multiprocessors, shared_bytes: kib << 10, warpgroups }
    }

    const H100: Limits = Limits {
        compute_capability: (9, 0),
        multiprocessors: 132,
        shared_bytes: 227 << 10,
        warpgroups: true,
    };

    const SPECS: [&str; 12] = [
        "c1 h1 w1 o1 k1",
        "c3 h32 w32 o10 k5 p2",
        "n64 c64 h56 w56 o64 k3 p1",
        "n64 c512 h7 w7 o512 k3 p1",
        "c512 h7 w7 o512 k3 p1 nhwc",
        "n64 c64 h56 w56 o256 k1",
        "n2 c64 h56 w56 o256 k1 s2 nhwc",
        "n8 c96 h28 w28 o192 k3 s2 p1 d2 g3 nhwc",
        "n8 c144 h28 w28 o144 k3 p1 g144",
        "c5 h9 w40 o7 k3x17 p1",
        "c5 h40 w9 o7 k17x3 p1 nhwc",
        "n64 c3 h224 w224 o64 k7 s2 p3",
    ];

    fn plain(method: Method, text: &str, limits: &Limits) -> Result<Schedule, ConvError> {
        with(method, text, &PlanOptions::default(), limits)
    }

    fn with(
        method: Method,
        text: &str,
        options: &PlanOptions,
        limits: &Limits,
    ) -> Result<Schedule, ConvError> {
        let spec = text.parse().unwrap();
        resized(settle(method, &spec, options, limits)?, &spec, options, limits)
    }

    /// Of every tiling of every convolution on every device: tiles cover the product and none is empty, so do the parts,
    /// and the launch is one that the device takes.
    #[test]
    fn tiles_and_parts_cover_the_product_once() {
        for (text, device) in SPECS.iter().flat_map(|text| DEVICES.map(|device| (text, device))) {
            let (spec, limits): (ConvSpec, _) = (text.parse().unwrap(), limits(device));
            for method in METHODS.into_iter().filter(|method| method.supports(&spec).is_ok()) {
                let settled = Settled::new(method, &spec, &limits);
                for tiling in tiling::all(settled, &spec, &limits) {
                    let (launches, scratch) =
                        tiling.launches(params(settled, &spec, &PlanOptions::default()));
                    let (p, [filters, pixels]) = (launches[0].params, tiling.variant.tile.map(|n| n as i32));
                    let name = tiling.variant.function;
                    let covers =
                        |tiles: i32, size: i32, all: i32| tiles * size >= all && (tiles - 1) * size < all;
                    assert!(covers(p.filter_tiles, filters, p.filters), "{name} of {text}");
                    assert!(covers(p.pixel_tiles, pixels, p.pixels), "{name} of {text}");
                    assert!(covers(p.splits, p.split_steps, p.steps), "{name} of {text}");
                    assert_eq!(p.split_steps as usize % STEPS, 0);
                    let blocks = p.filter_tiles * p.pixel_tiles * p.groups;
                    assert_eq!(launches[0].grid, [blocks as u32, 1, p.splits as u32]);
                    assert_eq!(launches.len(), 1 + usize::from(p.splits > 1));
                    assert_eq!(scratch, if p.splits > 1 { p.splits as usize * spec.output_len() } else { 0 });
                    for launch in &launches {
                        assert!(launch.shared_bytes <= limits.shared_bytes && launch.block <= 1024);
                        assert!(launch.grid[0] > 0 && launch.grid[0] <= i32::MAX as u32);
                    }
                }
            }
        }
    }

    #[test]
    fn fp32_and_auto_run_everything_everywhere() {
        for (text, device) in SPECS.iter().flat_map(|text| DEVICES.map(|device| (text, device))) {
            for method in [Method::Auto, Method::Fp32] {
                let schedule = plain(method, text, &limits(device)).unwrap();
                assert_ne!(schedule.settled.method, Method::Auto);
                assert!(!schedule.launches.is_empty());
            }
        }
    }

    /// More than 32 bits count is refused before anything of that size is made.
    #[test]
    fn what_32_bits_cannot_count_is_refused() {
        for (text, what) in [
            ("c1 h65536 w65536 o1 k1", "an input of 4294967296"),
            ("c1 h32768 w32768 o4 k1", "an output of 4294967296"),
            ("c1 h2 w2 o1 k1 p40000 s80000", "a padded image of 6400320004"),
            ("c65536 h1 w1 o65536 k1", "packed weights of 4294967296"),
            ("c1 h1 w200000 o1 k1x17 d1x5000", "a distance of kernel columns of 80000"),
        ] {
            let spec: ConvSpec = text.parse().unwrap();
            let refusal = Method::Fp32.supports(&spec).unwrap_err();
            assert!(refusal.starts_with(what), "{text}: {refusal}");
            let error = schedule(Method::Fp32, &spec, &[], &PlanOptions::default(), &H100).unwrap_err();
            assert!(matches!(error, ConvError::Unsupported(_)), "{text}: {error}");
        }
    }

    #[test]
    fn old_devices_have_no_tensor_cores_for_this() {
        let turing = limits(DEVICES[0]);
        for method in [Method::Tf32x3, Method::Tf32, Method::Bf16, Method::Winograd] {
            let error = plain(method, "c16 h8 w8 o16 k3 p1", &turing).unwrap_err();
            assert!(error.to_string().contains("compute capability 7.5"), "{error}");
        }
    }

    /// Small layers fill the device by parts of their reduction, large ones do not pay for them.
    #[test]
    fn splits_where_tiles_are_few() {
        let small = plain(Method::Fp32, "c512 h7 w7 o512 k3 p1", &H100).unwrap();
        assert!(small.launches[0].params.splits > 1 && small.launches.len() == 2 && small.scratch_len > 0);
        let large = plain(Method::Fp32, "n64 c256 h56 w56 o256 k3 p1", &H100).unwrap();
        assert_eq!((large.launches.len(), large.scratch_len), (1, 0));
        assert!(large.launches[0].function.ends_with("128x128"));
    }

    #[test]
    fn auto_goes_by_accuracy_and_device() {
        let spec = "n64 c256 h28 w28 o256 k1";
        let of = |text: &str, accuracy, limits: &Limits| {
            let options = PlanOptions { accuracy, ..Default::default() };
            with(Method::Auto, text, &options, limits).unwrap().settled.method
        };
        assert_eq!(of(spec, Accuracy::Standard, &H100), Method::Tf32x3);
        assert_eq!(of(spec, Accuracy::Strict, &H100), Method::Fp32);
        assert_eq!(of(spec, Accuracy::Standard, &limits(DEVICES[5])), Method::Fp32);
        assert_eq!(
            of("n64 c256 h28 w28 o256 k3 p1", Accuracy::Standard, &limits(DEVICES[5])),
            Method::Winograd
        );
        assert_eq!(of("n8 c144 h28 w28 o144 k3 p1 g144", Accuracy::Strict, &H100), Method::Depthwise);
    }

    /// Warpgroups are for the devices that have them and layers that fill their tiles, whatever the size.
    #[test]
    fn warpgroups_go_by_device_and_layer() {
        let without = Limits { warpgroups: false, ..H100 };
        for method in [Method::Tf32x3, Method::Tf32, Method::Bf16] {
            let team = |text: &str, limits: &Limits| {
                let schedule = plain(method, text, limits).unwrap();
                let of_function = schedule.launches[0].function.contains("_warpgroups");
                assert_eq!(of_function, schedule.settled.team == Team::Warpgroup, "{text}");
                schedule.settled.team
            };
            for text in ["c3 h8 w8 o64 k3", "n64 c3 h80 w80 o64 k3", "c4 h8 w8 o33 k1 nhwc"] {
                assert_eq!(team(text, &H100), Team::Warpgroup, "{text}");
                assert_eq!(team(text, &without), Team::Warp, "{text}");
                assert_eq!(team(text, &limits(DEVICES[4])), Team::Warp, "{text}");
            }
            for text in ["c64 h8 w8 o32 k3", "c64 h8 w8 o64 k1 g2", "c6 h8 w8 o64 k1 nhwc"] {
                assert_eq!(team(text, &H100), Team::Warp, "{text}");
            }
        }
        assert_eq!(plain(Method::Fp32, "c64 h8 w8 o64 k3", &H100).unwrap().settled.team, Team::Warp);
    }

    /// Plans of several sizes share packed weights.
    #[test]
    fn packed_weights_do_not_depend_on_the_size() {
        let [one, other] =
            ["c20 h9 w9 o40 k3 p1", "n3 c20 h40 w17 o40 k3 p1"].map(|text| text.parse::<ConvSpec>().unwrap());
        let weights: Vec<f32> = (0..one.weights_len()).map(|i| i as f32).collect();
        for method in METHODS.into_iter().filter(|method| ![Method::Auto, Method::Depthwise].contains(method))
        {
            let of = |spec| schedule(method, spec, &weights, &PlanOptions::default(), &H100).unwrap();
            let (one, other) = (of(&one), of(&other));
            assert_eq!(one.weights, other.weights);
            let layout = |schedule: &Schedule| {
                let params = schedule.launches[0].params;
                [params.weight_pitch, params.weight_group, params.steps, params.channels]
            };
            assert_eq!(layout(&one), layout(&other));
        }
    }
}
