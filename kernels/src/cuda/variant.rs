//! The table of device functions: each row is an instance of a kernel template.
//!
//! A tile is filters × pixels. Which one is taken for a convolution is the choice of
//! [`schedule`](super::schedule).

use super::schedule::Method;
use crate::spec::Layout;

/// Steps of the reduction in a tile: `STEPS` of `device/tiles.cuh`.
pub(crate) const STEPS: usize = 16;

/// How a kernel knows which parts of a window lie inside the image; see `device/tiles.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Window {
    /// A bit for each row and column: kernels of up to 16 × 15.
    Masked,
    /// Coordinates.
    Wide,
}

/// A device function that multiplies tiles.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Variant {
    pub(crate) function: &'static str,
    /// The line of C++ that makes it from its template.
    pub(crate) instance: &'static str,
    pub(crate) method: Method,
    pub(crate) layout: Layout,
    /// Floats fetched at once, see [`pack::width`](super::pack::width).
    pub(crate) width: usize,
    pub(crate) window: Window,
    /// Filters and pixels of a tile.
    pub(crate) tile: [usize; 2],
    pub(crate) threads: u32,
    pub(crate) shared_bytes: u32,
    /// The oldest compute capability that runs it.
    pub(crate) capability: (u32, u32),
    /// Whether its products are those of warpgroups, which no other compute capability has than 9.0.
    pub(crate) warpgroups: bool,
    /// Multiply-adds of a multiprocessor with enough such blocks, in units of what its CUDA cores do at most.
    pub(crate) efficiency: f64,
}

/// f32s of a tile of pixels, see `PixelCopies` in `device/tiles.cuh`.
const fn pixel_floats(layout: Layout, pixels: usize, padding: usize) -> usize {
    match layout {
        Layout::Nchw => STEPS * (pixels + padding),
        Layout::Nhwc => pixels * (STEPS + 4),
    }
}

macro_rules! layout {
    (NCHW) => {
        Layout::Nchw
    };
    (NHWC) => {
        Layout::Nhwc
    };
}

/// A row for `CONV_SIMT`, with its arguments in the same order; then the efficiency.
macro_rules! simt {
    ($name:ident, $layout:ident, $width:literal, $bm:literal, $bn:literal, $tm:literal, $tn:literal,
     $stages:literal, $window:ident, $blocks:literal; $efficiency:literal) => {
        Variant {
            function: stringify!($name),
            instance: concat!(
                "CONV_SIMT(",
                stringify!($name),
                ", ",
                stringify!($layout),
                ", ",
                $width,
                ", ",
                $bm,
                ", ",
                $bn,
                ", ",
                $tm,
                ", ",
                $tn,
                ", ",
                $stages,
                ", ",
                stringify!($window),
                "Window, ",
                $blocks,
                ")\n"
            ),
            method: Method::Fp32,
            layout: layout!($layout),
            width: $width,
            window: Window::$window,
            tile: [$bm, $bn],
            threads: $bm / $tm * ($bn / $tn),
            shared_bytes: (4 * $stages * (STEPS * $bm + pixel_floats(layout!($layout), $bn, 0))) as u32,
            capability: if $stages == 2 { (7, 5) } else { (8, 0) },
            warpgroups: false,
            efficiency: $efficiency,
        }
    };
}

/// A row for `CONV_MMA`, with its arguments in the same order; then the efficiency.
macro_rules! mma {
    ($name:ident, $product:ident, $layout:ident, $width:literal, $bm:literal, $bn:literal, $wm:literal,
     $wn:literal, $stages:literal, $blocks:literal; $efficiency:literal) => {
        Variant {
            function: stringify!($name),
            instance: concat!(
                "CONV_MMA(",
                stringify!($name),
                ", ",
                stringify!($product),
                ", ",
                stringify!($layout),
                ", ",
                $width,
                ", ",
                $bm,
                ", ",
                $bn,
                ", ",
                $wm,
                ", ",
                $wn,
                ", ",
                $stages,
                ", ",
                $blocks,
                ")\n"
            ),
            method: product!($product),
            layout: layout!($layout),
            width: $width,
            window: Window::Masked,
            tile: [$bm, $bn],
            threads: $bm / $wm * ($bn / $wn) * 32,
            shared_bytes: (4 * $stages * (STEPS * $bm + pixel_floats(layout!($layout), $bn, 8))) as u32,
            capability: (8, 0),
            warpgroups: false,
            efficiency: $efficiency,
        }
    };
}

/// A row for `CONV_WARPGROUPS`, with its arguments in the same order; then the efficiency.
macro_rules! warpgroups {
    ($name:ident, $product:ident, $layout:ident, $width:literal, $bm:literal, $bn:literal, $stages:literal,
     $blocks:literal; $efficiency:literal) => {
        Variant {
            function: stringify!($name),
            instance: concat!(
                "CONV_WARPGROUPS(",
                stringify!($name),
                ", ",
                stringify!($product),
                ", ",
                stringify!($layout),
                ", ",
                $width,
                ", ",
                $bm,
                ", ",
                $bn,
                ", ",
                $stages,
                ", ",
                $blocks,
                ")\n"
            ),
            method: product!($product),
            layout: layout!($layout),
            width: $width,
            window: Window::Masked,
            tile: [$bm, $bn],
            threads: $bn * 2,
            shared_bytes: {
                let weights = match product!($product) {
                    Method::Tf32x3 => 2 * STEPS * $bm,
                    Method::Bf16 => STEPS * $bm / 2,
                    _ => STEPS * $bm,
                };
                (4 * $stages * (weights + pixel_floats(layout!($layout), $bn, 8))) as u32
            },
            capability: (9, 0),
            warpgroups: true,
            efficiency: $efficiency,
        }
    };
}

macro_rules! product {
    (TF32X3) => {
        Method::Tf32x3
    };
    (TF32) => {
        Method::Tf32
    };
    (BF16) => {
        Method::Bf16
    };
}

/// Every function that multiplies tiles.
#[rustfmt::skip]
pub(crate) static VARIANTS: &[Variant] = &[
    simt!(conv_fp32_nchw_128x128, NCHW, 1, 128, 128, 8, 8, 3, Masked, 2; 0.8),
    simt!(conv_fp32_nchw_64x128, NCHW, 1, 64, 128, 8, 8, 3, Masked, 4; 0.78),
    simt!(conv_fp32_nchw_128x64, NCHW, 1, 128, 64, 8, 8, 3, Masked, 4; 0.78),
    simt!(conv_fp32_nchw_64x64, NCHW, 1, 64, 64, 8, 4, 3, Masked, 5; 0.65),
    simt!(conv_fp32_nchw_32x128, NCHW, 1, 32, 128, 8, 4, 3, Masked, 4; 0.62),
    simt!(conv_fp32_nchw_16x128, NCHW, 1, 16, 128, 4, 4, 3, Masked, 4; 0.45),
    simt!(conv_fp32_nchw_32x32, NCHW, 1, 32, 32, 4, 4, 3, Masked, 8; 0.45),
    simt!(conv_fp32_nchw4_128x128, NCHW, 4, 128, 128, 8, 8, 3, Masked, 2; 0.83),
    simt!(conv_fp32_nchw4_64x128, NCHW, 4, 64, 128, 8, 8, 3, Masked, 4; 0.81),
    simt!(conv_fp32_nchw4_128x64, NCHW, 4, 128, 64, 8, 8, 3, Masked, 4; 0.81),
    simt!(conv_fp32_nchw4_64x64, NCHW, 4, 64, 64, 8, 4, 3, Masked, 5; 0.68),
    simt!(conv_fp32_nchw4_32x128, NCHW, 4, 32, 128, 8, 4, 3, Masked, 4; 0.65),
    simt!(conv_fp32_nhwc4_128x128, NHWC, 4, 128, 128, 8, 8, 3, Masked, 1; 0.76),
    simt!(conv_fp32_nhwc4_64x128, NHWC, 4, 64, 128, 8, 8, 3, Masked, 3; 0.78),
    simt!(conv_fp32_nhwc4_128x64, NHWC, 4, 128, 64, 8, 8, 3, Masked, 3; 0.78),
    simt!(conv_fp32_nhwc4_64x64, NHWC, 4, 64, 64, 4, 8, 3, Masked, 4; 0.65),
    simt!(conv_fp32_nhwc4_32x128, NHWC, 4, 32, 128, 4, 8, 3, Masked, 4; 0.62),
    simt!(conv_fp32_nhwc4_16x128, NHWC, 4, 16, 128, 4, 4, 3, Masked, 4; 0.45),
    simt!(conv_fp32_nhwc4_32x32, NHWC, 4, 32, 32, 4, 4, 3, Masked, 8; 0.45),
    simt!(conv_fp32_nhwc_64x64, NHWC, 1, 64, 64, 4, 8, 3, Masked, 4; 0.60),
    simt!(conv_fp32_nhwc_32x128, NHWC, 1, 32, 128, 4, 8, 3, Masked, 4; 0.57),
    simt!(conv_fp32_nhwc_16x128, NHWC, 1, 16, 128, 4, 4, 3, Masked, 4; 0.41),
    simt!(conv_fp32_nchw_128x128_staged, NCHW, 1, 128, 128, 8, 8, 2, Masked, 1; 0.6),
    simt!(conv_fp32_nchw_64x64_staged, NCHW, 1, 64, 64, 8, 4, 2, Masked, 3; 0.5),
    simt!(conv_fp32_nchw_32x128_staged, NCHW, 1, 32, 128, 8, 4, 2, Masked, 3; 0.45),
    simt!(conv_fp32_nchw_64x64_wide, NCHW, 1, 64, 64, 8, 4, 2, Wide, 3; 0.45),
    simt!(conv_fp32_nhwc4_128x128_staged, NHWC, 4, 128, 128, 8, 8, 2, Masked, 1; 0.6),
    simt!(conv_fp32_nhwc4_64x64_staged, NHWC, 4, 64, 64, 4, 8, 2, Masked, 3; 0.5),
    simt!(conv_fp32_nhwc4_32x128_staged, NHWC, 4, 32, 128, 4, 8, 2, Masked, 3; 0.45),
    simt!(conv_fp32_nhwc4_64x64_wide, NHWC, 4, 64, 64, 4, 8, 2, Wide, 3; 0.45),
    simt!(conv_fp32_nhwc_64x64_staged, NHWC, 1, 64, 64, 4, 8, 2, Masked, 3; 0.46),
    simt!(conv_fp32_nhwc_64x64_wide, NHWC, 1, 64, 64, 4, 8, 2, Wide, 3; 0.41),
    mma!(conv_tf32x3_nchw_128x128, TF32X3, NCHW, 1, 128, 128, 64, 32, 3, 1; 1.20),
    mma!(conv_tf32x3_nchw_64x128, TF32X3, NCHW, 1, 64, 128, 64, 32, 3, 2; 1.14),
    mma!(conv_tf32x3_nchw_128x64, TF32X3, NCHW, 1, 128, 64, 64, 32, 3, 2; 1.14),
    mma!(conv_tf32x3_nchw_64x64, TF32X3, NCHW, 1, 64, 64, 32, 32, 3, 3; 0.96),
    mma!(conv_tf32x3_nchw_32x128, TF32X3, NCHW, 1, 32, 128, 32, 32, 3, 3; 0.96),
    mma!(conv_tf32x3_nchw4_128x128, TF32X3, NCHW, 4, 128, 128, 64, 32, 3, 1; 1.23),
    mma!(conv_tf32x3_nchw4_64x128, TF32X3, NCHW, 4, 64, 128, 64, 32, 3, 2; 1.17),
    mma!(conv_tf32x3_nchw4_64x64, TF32X3, NCHW, 4, 64, 64, 32, 32, 3, 3; 0.99),
    mma!(conv_tf32x3_nhwc4_128x128, TF32X3, NHWC, 4, 128, 128, 32, 64, 3, 1; 1.20),
    mma!(conv_tf32x3_nhwc4_64x128, TF32X3, NHWC, 4, 64, 128, 32, 64, 3, 2; 1.14),
    mma!(conv_tf32x3_nhwc4_128x64, TF32X3, NHWC, 4, 128, 64, 32, 64, 3, 2; 1.14),
    mma!(conv_tf32x3_nhwc4_64x64, TF32X3, NHWC, 4, 64, 64, 32, 32, 3, 3; 0.96),
    mma!(conv_tf32x3_nhwc4_32x128, TF32X3, NHWC, 4, 32, 128, 32, 32, 3, 3; 0.96),
    mma!(conv_tf32x3_nhwc_64x64, TF32X3, NHWC, 1, 64, 64, 32, 32, 3, 3; 0.88),
    mma!(conv_tf32_nchw_128x128, TF32, NCHW, 1, 128, 128, 64, 32, 4, 1; 3.00),
    mma!(conv_tf32_nchw_64x64, TF32, NCHW, 1, 64, 64, 32, 32, 4, 3; 2.40),
    mma!(conv_tf32_nhwc4_128x128, TF32, NHWC, 4, 128, 128, 32, 64, 4, 1; 3.00),
    mma!(conv_tf32_nhwc4_64x64, TF32, NHWC, 4, 64, 64, 32, 32, 4, 3; 2.40),
    mma!(conv_tf32_nhwc_64x64, TF32, NHWC, 1, 64, 64, 32, 32, 4, 3; 2.21),
    mma!(conv_bf16_nchw_128x128, BF16, NCHW, 1, 128, 128, 64, 32, 4, 1; 4.00),
    mma!(conv_bf16_nchw_64x64, BF16, NCHW, 1, 64, 64, 32, 32, 4, 3; 3.20),
    mma!(conv_bf16_nhwc4_128x128, BF16, NHWC, 4, 128, 128, 32, 64, 4, 1; 4.00),
    mma!(conv_bf16_nhwc4_64x64, BF16, NHWC, 4, 64, 64, 32, 32, 4, 3; 3.20),
    mma!(conv_bf16_nhwc_64x64, BF16, NHWC, 1, 64, 64, 32, 32, 4, 3; 2.94),
    warpgroups!(conv_tf32x3_nchw_128x128_warpgroups, TF32X3, NCHW, 1, 128, 128, 4, 1; 1.90),
    warpgroups!(conv_tf32x3_nchw_64x64_warpgroups, TF32X3, NCHW, 1, 64, 64, 4, 4; 1.50),
    warpgroups!(conv_tf32x3_nhwc4_128x128_warpgroups, TF32X3, NHWC, 4, 128, 128, 4, 1; 1.90),
    warpgroups!(conv_tf32x3_nhwc4_64x64_warpgroups, TF32X3, NHWC, 4, 64, 64, 4, 4; 1.50),
    warpgroups!(conv_tf32_nchw_128x128_warpgroups, TF32, NCHW, 1, 128, 128, 4, 2; 4.50),
    warpgroups!(conv_tf32_nchw_64x64_warpgroups, TF32, NCHW, 1, 64, 64, 4, 5; 3.50),
    warpgroups!(conv_tf32_nhwc4_128x128_warpgroups, TF32, NHWC, 4, 128, 128, 4, 2; 4.50),
    warpgroups!(conv_tf32_nhwc4_64x64_warpgroups, TF32, NHWC, 4, 64, 64, 4, 5; 3.50),
    warpgroups!(conv_bf16_nchw_128x128_warpgroups, BF16, NCHW, 1, 128, 128, 4, 2; 5.50),
    warpgroups!(conv_bf16_nchw_64x64_warpgroups, BF16, NCHW, 1, 64, 64, 4, 5; 4.20),
    warpgroups!(conv_bf16_nhwc4_128x128_warpgroups, BF16, NHWC, 4, 128, 128, 4, 2; 5.50),
    warpgroups!(conv_bf16_nhwc4_64x64_warpgroups, BF16, NHWC, 4, 64, 64, 4, 5; 4.20),
];

/// A device function, for tools and tests that compile or launch it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name, without mangling.
    pub name: &'static str,
    /// The oldest compute capability that runs it.
    pub compute_capability: (u32, u32),
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory of a block.
    pub shared_bytes: u32,
    /// Whether no newer compute capability runs it either.
    pub only: bool,
}

/// Functions that do not multiply tiles, with the lines that make them.
pub(crate) static OTHERS: &[(Function, &str)] = &[(
    Function { name: "conv_reduce", compute_capability: (7, 5), threads: 256, shared_bytes: 0, only: false },
    "CONV_REDUCE(conv_reduce)\n",
)];
