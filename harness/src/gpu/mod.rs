//! GPUs as engines: what runs there is timed by the GPU's own clock, from and to its own memory.
//!
//! - [`Ours`](crate::engine::Ours) that are `on_device` have input, output and weights in the GPU's memory;
//! - [`peak`] and [`stream`] are the GPU's roofs: multiply-adds of its parts, traffic of its level-2 cache and
//!   memory;
//! - [`devices`] says what GPUs there are, or why there is none.
//!
//! What the same kernels cost a caller whose slices lie in the host's memory is another row: there they are
//! like any other kernel, copies included.
//!
//! Without the feature `cuda` all of this is there and says so.

#[cfg(feature = "cuda")]
mod buffers;
#[cfg(feature = "cuda")]
mod clock;
#[cfg(feature = "cuda")]
mod resident;
#[cfg(feature = "cuda")]
mod roofs;

use std::time::Duration;

#[cfg(not(feature = "cuda"))]
use kernels::{Accuracy, ConvSpec, Kernel};
use serde::Serialize;

#[cfg(not(feature = "cuda"))]
use crate::engine::{Io, Prepared, Refusal};
use crate::limits::{Roof, Traffic, fastest};
use crate::pinning::Pool;
use crate::record::{Precision, Record};

#[cfg(feature = "cuda")]
pub(crate) use buffers::{Buffers, fill_with_nan};
#[cfg(feature = "cuda")]
pub(crate) use clock::{Enqueue, Failure, Gpu, Runs};
#[cfg(feature = "cuda")]
pub(crate) use resident::prepare;

/// Why a build without the feature `cuda` has nothing of a GPU.
pub const WITHOUT: &str = "this convbench was built without the feature `cuda` (cargo run --release --features cuda \
                           --bin convbench)";

/// What a kernel computes products in, by its id, where that is less than f32.
pub fn precision(id: &str) -> Option<Precision> {
    [Precision::Tf32, Precision::Bf16]
        .into_iter()
        .find(|precision| id.strip_prefix("cuda-") == Some(precision.name()))
}

/// A part of a GPU that multiplies and adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unit {
    /// The cores, in f32.
    Fp32,
    /// The tensor cores, on f32 rounded to TF32.
    Tf32,
    /// The tensor cores, on BF16.
    Bf16,
}

impl Unit {
    /// All of them.
    pub const ALL: [Unit; 3] = [Unit::Fp32, Unit::Tf32, Unit::Bf16];

    /// The part whose peak a row is held against. A kernel that makes f32 products of several TF32 ones is held
    /// against those.
    pub fn of(row: &Record) -> Self {
        let says = |word: &str| row.requested.contains(word) || row.kernel.contains(word);
        if says("bf16") {
            Unit::Bf16
        } else if says("tf32") {
            Unit::Tf32
        } else {
            Unit::Fp32
        }
    }

    /// The word.
    pub fn name(self) -> &'static str {
        match self {
            Unit::Fp32 => "fp32",
            Unit::Tf32 => "tf32",
            Unit::Bf16 => "bf16",
        }
    }
}

/// A level of a GPU's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// `GPU L2` or `GPU memory`.
    pub name: &'static str,
    /// Bytes of a buffer that is certain to lie there.
    pub buffer: usize,
}

/// What is known of a GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Description {
    /// Its name.
    pub name: String,
    /// Its compute capability.
    pub compute_capability: [u32; 2],
    /// Its multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of its memory.
    pub memory_bytes: u64,
    /// Bytes of its level-2 cache.
    pub l2_bytes: u64,
    /// CUDA's version that the driver has, as `13.0`.
    pub driver: String,
    /// The version of NVRTC, which compiles kernels.
    pub nvrtc: String,
}

impl std::fmt::Display for Description {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Description { name, compute_capability: [major, minor], multiprocessors, driver, nvrtc, .. } =
            self;
        write!(
            f,
            "{name}, compute capability {major}.{minor}, {multiprocessors} multiprocessors, CUDA {driver}, NVRTC \
             {nvrtc}"
        )
    }
}

/// The GPUs there are.
///
/// # Errors
/// Why there is none that kernels could run on.
pub fn devices() -> Result<Vec<Description>, String> {
    #[cfg(feature = "cuda")]
    return clock::devices();
    #[cfg(not(feature = "cuda"))]
    Err(WITHOUT.to_owned())
}

/// The GPU that kernels run on, by name.
pub fn name() -> Option<String> {
    #[cfg(feature = "cuda")]
    return Gpu::get().ok().map(Gpu::name);
    #[cfg(not(feature = "cuda"))]
    None
}

/// Refuses to plan with one of our kernels in the GPU's memory.
#[cfg(not(feature = "cuda"))]
pub(crate) fn prepare<'a>(
    _: &dyn Kernel,
    _: Accuracy,
    _: &ConvSpec,
    _: Io<'a>,
) -> Result<Box<dyn Prepared + 'a>, Refusal> {
    Err(Refusal::unavailable(WITHOUT))
}

/// Multiply-adds in registers.
///
/// # Errors
/// Why they cannot be measured.
pub fn peak(unit: Unit) -> Result<Box<dyn Roof>, String> {
    #[cfg(feature = "cuda")]
    return roofs::peak(unit);
    #[cfg(not(feature = "cuda"))]
    Err(format!("{}: {WITHOUT}", unit.name()))
}

/// Reading, writing or copying a buffer that lies in a level.
///
/// # Errors
/// Why that cannot be measured.
pub fn stream(traffic: Traffic, level: Level) -> Result<Box<dyn Roof>, String> {
    #[cfg(feature = "cuda")]
    return roofs::stream(traffic, level);
    #[cfg(not(feature = "cuda"))]
    Err(format!("{traffic:?}, {}: {WITHOUT}", level.name))
}

/// The source of the kernels that roofs are measured with, and the names of those that every GPU can run; each is
/// launched with 256 threads.
#[cfg(feature = "cuda")]
#[doc(hidden)]
pub fn roof_source() -> (&'static str, &'static [&'static str]) {
    (roofs::SOURCE, &["roof_fp32", "roof_tf32", "roof_bf16", "roof_read", "roof_write", "roof_copy"])
}

/// The levels of the GPU's memory.
///
/// # Errors
/// Why there is no GPU.
pub fn levels() -> Result<[Level; 2], String> {
    #[cfg(feature = "cuda")]
    return Gpu::get().map(roofs::levels);
    #[cfg(not(feature = "cuda"))]
    Err(WITHOUT.to_owned())
}

/// The level in which so many bytes lie that are used again and again.
///
/// # Errors
/// Why there is no GPU.
pub fn level_of(bytes: u64) -> Result<Level, String> {
    #[cfg(feature = "cuda")]
    return Gpu::get().map(|gpu| roofs::level_of(gpu, bytes));
    #[cfg(not(feature = "cuda"))]
    Err(format!("{bytes} bytes: {WITHOUT}"))
}

/// A roof of the GPU, or why it was not measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GpuRoof {
    /// What it is of, as `fp32 peak` or `GPU L2 read`.
    pub name: String,
    /// What it is counted in: `GFLOP/s` or `GB/s` (10⁹ bytes).
    pub unit: &'static str,
    /// How much of that was measured.
    pub rate: Option<f64>,
    /// Why nothing was.
    pub reason: Option<String>,
}

/// Time for each of the GPU's roofs.
const ROOF_TIME: Duration = Duration::from_millis(40);

/// All roofs of the GPU that kernels run on: the fastest of short runs.
pub fn roofs(pool: &Pool) -> Vec<GpuRoof> {
    let measured = |name: String, unit, roof: Result<Box<dyn Roof>, String>| {
        let rate = roof.map(|roof| fastest(roof.as_ref(), pool, ROOF_TIME, Duration::from_millis(2)));
        let (rate, reason) = match rate {
            Ok(rate) if rate > 0.0 => (Some(rate), None),
            Ok(_) => (None, Some("it fails when it is timed".to_owned())),
            Err(reason) => (None, Some(reason)),
        };
        GpuRoof { name, unit, rate, reason }
    };
    let peaks = Unit::ALL.map(|unit| measured(format!("{} peak", unit.name()), "GFLOP/s", peak(unit)));
    let traffics = [(Traffic::Read, "read"), (Traffic::Write, "write"), (Traffic::Copy, "copy")];
    let streams = levels().into_iter().flatten().flat_map(|level| {
        traffics
            .map(|(traffic, word)| measured(format!("{} {word}", level.name), "GB/s", stream(traffic, level)))
    });
    let peaks = peaks.into_iter();
    peaks.chain(streams).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::row;

    #[test]
    fn ids_say_in_what() {
        assert_eq!([precision("cuda-tf32"), precision("cuda-tf32x3")], [Some(Precision::Tf32), None]);
        assert_eq!([precision("cuda-bf16"), precision("tf32")], [Some(Precision::Bf16), None]);
        let unit = |requested: &str, kernel: &str| {
            Unit::of(&Record { requested: requested.to_owned(), ..row("a", kernel, 1.0) })
        };
        // What was chosen counts.
        assert_eq!(unit("cuda", "cuda-tf32x3/conv_tf32x3_nchw_128x128"), Unit::Tf32);
        assert_eq!(unit("cuda", "cuda-winograd/conv_winograd_nchw"), Unit::Fp32);
        assert_eq!(unit("cudnn-tf32", "implicit-precomp-gemm nhwc"), Unit::Tf32);
        assert_eq!(unit("cudnn", "winograd nchw"), Unit::Fp32);
        assert_eq!(unit("cuda-bf16", "cuda-bf16"), Unit::Bf16);
    }
}
