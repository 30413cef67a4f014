//! `winograd`: 3×3 and 5×5 convolutions with 2.25 to 5 times fewer multiplications.
//!
//! # Idea
//! A tile of m×m outputs of an r×r filter needs (m+r−1)×(m+r−1) inputs. Transformed by constant matrices,
//! input tile and filter are multiplied element by element, (m+r−1)² products instead of (mr)², and the sum
//! over channels can be taken before the result is transformed back:
//! Y = Aᵀ[Σ (G g Gᵀ) ⊙ (Bᵀ d B)]A. For each of the (m+r−1)² elements the sum over channels is a product
//! of two matrices, (tiles × channels)·(channels × filters).
//!
//! | id | tile | products | points | error¹ |
//! |---|---|---|---|---|
//! | `winograd-f2` | F(2×2, 3×3) | 16 for 36 | 0, ±1, ∞ | 0.8 |
//! | `winograd-f4` | F(4×4, 3×3) | 36 for 144 | 0, ±11/16, ±3/2, ∞: half the error of the textbook's 0, ±1, ±2, ∞ | 2.1 |
//! | `winograd-f6` | F(6×6, 3×3) | 64 for 324 | 0, ±1/2, ±1, ±2, ∞ | 8.5 |
//! | `winograd-f2-5x5` | F(2×2, 5×5) | 36 for 100 | as `winograd-f4` | 1.5 |
//!
//! ¹ Root of the mean square of the errors over that of summing in the same precision, 64 to 512 channels,
//! inputs as after a ReLU. `convbench errors` measures it.
//!
//! `winograd` takes the one that should be fastest, `winograd-f6` only under [`Accuracy::Relaxed`].
//!
//! # Data layout
//! ```text
//! weights  U[element][panel][channel][vectors · LANES]      transformed in float64 with the plan
//! input    V[element][tile][channel]    of a chunk of tiles, in most of the level-2 cache
//! products M[element][tile][vectors · LANES]                of a chunk and one panel of filters
//! ```
//! Tiles lie side by side from output (0, 0). NHWC input is read and output written in place; NCHW goes
//! through small bands, a tile row of some channels in, a panel of some tile rows out.
//!
//! # Loop nest
//! ```text
//! for each unit (group, block of tile rows of all images, part of the panels):   parallel
//!     for each chunk of tiles:
//!         for each tile and vector of channels: V = Bᵀ d B
//!         for each panel of filters:
//!             for each element: M = V·U, tiles × filters, in register tiles
//!             for each tile and vector of filters: output = Aᵀ M A, bias, activation
//! ```
//! A chunk is as long as V fits 60 % of the level-2 cache: whole rows of tiles, or a part of one. Each chunk streams
//! all of U: where U comes from memory, chunks are longer, up to 4 MiB of scratch memory, and V is streamed from the
//! third cache.
//!
//! # Register budget
//! The products are the [micro-kernel](crate::microkernel)'s. Transforms hold a row or column of a tile
//! in registers and the tile on the stack.
//!
//! # Supports and refuses
//! 3×3 or 5×5 kernels with stride 1 and dilation 1, groups of at least 8 channels and at most 8192 (`winograd-f6`),
//! 14563 (`-f4`, `-f2-5x5`) or 32768 (`-f2`), any padding, size and batch.
//!
//! # Error model
//! [`ErrorModel::Winograd`]: pixels of a tile are mixed, so an output carries rounding errors of its
//! tile's neighbours, and a NaN or infinity spreads over its tile. k counts the roundings that a term
//! can go through, with multiply and add rounded apart: 1 of the transformed weight; 2 passes of the
//! input transform, i each; 1 product and C additions over the channels; 2 passes of the output
//! transform, o each; bias; previous output: C + 2(i + o) + 4, where i is 1, 4, 5, 4 and o is 2, 4, 4, 4 in
//! the order of the table. The constants of all matrices of input and output are exact in f32.
//!
//! # Source
//! Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016; fused over blocks of
//! tiles as Gelashvili, Shavit and Zlateski, "L3 Fusion: Fast Transformed Convolutions on CPUs", 2019;
//! points of small error: Barabasz, Anderson, Soodhalter, Gregg, ACM TOMS 46(4), 2020.
//!
//! [`ErrorModel::Winograd`]: crate::ErrorModel::Winograd

mod body;
mod chunks;
mod matrices;
mod passes;
mod transform;

use std::marker::PhantomData;

use crate::cache::CacheSizes;
use crate::cpu::Rates;
use crate::error::ConvError;
use crate::kernel::{Accuracy, Plan, PlanOptions};
use crate::packed::Packed;
use crate::registry::{self, Algorithm};
use crate::simd::{Isa, Simd};
use crate::spec::{ConvSpec, Layout};
use transform::Variant;
pub(crate) use transform::{F2, F2R5, F4, F6};

/// One variant.
pub(crate) struct Fixed<V>(PhantomData<V>);

/// What the choice among the variants looks at.
struct Choice {
    name: &'static str,
    /// Rows and columns of its kernels.
    kernel: usize,
    accuracy: Accuracy,
    supports: fn(&ConvSpec) -> Result<(), String>,
    cost: fn(&ConvSpec, Machine) -> f64,
}

const fn choice<V: Variant>() -> Choice {
    Choice {
        name: V::NAME,
        kernel: V::R,
        accuracy: V::ACCURACY,
        supports: supports_variant::<V>,
        cost: cost::<V>,
    }
}

/// Of several that should take as long, the first is taken.
static CHOICES: [Choice; 4] = [choice::<F4>(), choice::<F2>(), choice::<F6>(), choice::<F2R5>()];

/// Whether some variant, asked for by name or not, supports a convolution; if none does, what the first lacks
/// that has a kernel of this size.
pub(crate) fn supports(spec: &ConvSpec) -> Result<(), String> {
    let [kh, kw] = spec.kernel();
    let mut lacks = None;
    for choice in CHOICES.iter().filter(|choice| [choice.kernel; 2] == [kh, kw]) {
        match (choice.supports)(spec) {
            Ok(()) => return Ok(()),
            Err(reason) => lacks = lacks.or(Some(reason)),
        }
    }
    Err(lacks.unwrap_or_else(|| format!("kernel {kh}x{kw} (needs 3x3 or 5x5)")))
}

fn supports_variant<V: Variant>(spec: &ConvSpec) -> Result<(), String> {
    let ([kh, kw], [sh, sw], [dh, dw]) = (spec.kernel(), spec.stride(), spec.dilation());
    if [kh, kw] != [V::R, V::R] {
        return Err(format!("kernel {kh}x{kw} (needs {0}x{0})", V::R));
    }
    if [sh, sw] != [1, 1] {
        return Err(format!("stride {sh}x{sw} (needs 1x1)"));
    }
    if [dh, dw] != [1, 1] {
        return Err(format!("dilation {dh}x{dw} (needs 1x1)"));
    }
    if spec.groups() > 1 && spec.group_in_channels() < FEWEST_CHANNELS {
        return Err(format!(
            "{} channels in a group (needs at least {FEWEST_CHANNELS}, or a single group)",
            spec.group_in_channels()
        ));
    }
    let most = const { chunks::most_channels::<V>() };
    if spec.group_in_channels() > most {
        return Err(format!("{} channels in a group (needs at most {most})", spec.group_in_channels()));
    }
    Ok(())
}

/// Fewest channels of one group among several: below, transforms are all that is done.
const FEWEST_CHANNELS: usize = 8;

impl<V: Variant> Algorithm for Fixed<V> {
    const NAME: &'static str = V::NAME;
    const ACCURACY: Accuracy = V::ACCURACY;

    fn supports(spec: &ConvSpec) -> Result<(), String> {
        supports_variant::<V>(spec)
    }

    fn pack<S: Simd>(
        simd: S,
        spec: &ConvSpec,
        weights: &[f32],
        options: &PlanOptions,
    ) -> Result<Packed, ConvError> {
        body::pack::<S, V>(simd, spec, weights, options)
    }
}

/// The plan of the variant that should be fastest of those that are accurate enough.
pub(crate) fn plan(
    isa: Option<Isa>,
    spec: &ConvSpec,
    weights: &[f32],
    options: &PlanOptions,
) -> Result<Box<dyn Plan>, ConvError> {
    let isa = isa
        .map_or_else(Isa::best, Ok)
        .map_err(|reason| ConvError::Unavailable { kernel: "winograd".to_owned(), reason })?;
    let (choice, _) = fastest(spec, options.accuracy, Machine::detect(isa.lanes(), isa.columns()))
        .ok_or_else(|| ConvError::Option {
            option: "accuracy",
            value: format!("{:?}", options.accuracy),
            expected: "Relaxed for this convolution",
        })?;
    registry::kernel(&format!("{}/{isa}", choice.name))?.plan(spec, weights, options)
}

/// What the choice among the variants depends on besides the convolution.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    /// Of a vector.
    pub(crate) lanes: usize,
    /// Filters of a panel.
    pub(crate) panel: usize,
    pub(crate) rates: Rates,
    pub(crate) caches: CacheSizes,
}

impl Machine {
    /// This machine with vectors of so many lanes and panels of so many filters.
    pub(crate) fn detect(lanes: usize, panel: usize) -> Self {
        Machine { lanes, panel, rates: Rates::detect(lanes), caches: CacheSizes::detect() }
    }
}

/// The variant that should be fastest, and its estimated time.
fn fastest(spec: &ConvSpec, accuracy: Accuracy, machine: Machine) -> Option<(&'static Choice, f64)> {
    CHOICES
        .iter()
        .filter(|choice| choice.accuracy <= accuracy && (choice.supports)(spec).is_ok())
        .map(|choice| (choice, (choice.cost)(spec, machine)))
        .min_by(|a, b| a.1.total_cmp(&b.1))
}

/// Whether some variant should be faster than summing in registers, which runs near the peak.
pub(crate) fn pays(spec: &ConvSpec, accuracy: Accuracy, machine: Machine) -> bool {
    let summing = spec.macs() as f64;
    accuracy != Accuracy::Strict
        && fastest(spec, accuracy, machine).is_some_and(|(_, cost)| cost < 0.9 * summing)
}

/// Estimated time, in multiply-adds of a running register tile: the products, or what is streamed meanwhile
/// where that takes longer, and the transforms. (The constants are rounded from measurements of all variants on
/// layers of 16 to 512 channels.)
fn cost<V: Variant>(spec: &ConvSpec, machine: Machine) -> f64 {
    let lanes = machine.rates.lanes as f64;
    let elements = (V::ALPHA * V::ALPHA) as f64;
    let channels = [spec.group_in_channels(), spec.group_out_channels()];
    // Of a last vector all lanes are moved and multiplied.
    let whole = channels.map(|n| n.next_multiple_of(machine.lanes) as f64);
    let tiles =
        [spec.out_height(), spec.out_width()].map(|n| n.div_ceil(V::M) as f64).iter().product::<f64>();
    let tiles = (spec.groups() * spec.batch()) as f64 * tiles;
    let products = elements * tiles * channels[0] as f64 * whole[1];
    // A transform takes about the time of a multiply-add of a vector for each lane that it moves, and the way
    // between planes and pixels as much again for each pixel.
    let planes = match spec.layout() {
        Layout::Nhwc => 0.0,
        Layout::Nchw => (V::ALPHA * V::M) as f64 * whole[0] + (V::M * V::M) as f64 * whole[1],
    };
    let transforms = lanes * tiles * (elements * (whole[0] + whole[1]) + planes);
    products.max(chunks::chunks::<V>(spec, machine).streaming) + transforms
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On machines of every make, so that what is chosen here does not decide.
    #[test]
    fn larger_tiles_need_relaxed_accuracy() {
        let spec: ConvSpec = "c64 h56 w56 o64 k3 p1".parse().unwrap();
        let xeon = CacheSizes { l1d: 48 << 10, l2: 2 << 20, l3: 32 << 20 };
        let zen4 = CacheSizes { l1d: 32 << 10, l2: 1 << 20, l3: 32 << 20 };
        for (isa, family, caches) in
            [(Isa::Avx512, None, xeon), (Isa::Avx512, Some(25), zen4), (Isa::Avx2, Some(25), zen4)]
        {
            let (lanes, panel) = (isa.lanes(), isa.columns());
            let machine = Machine { lanes, panel, rates: Rates::of(lanes, family), caches };
            let name = |accuracy| fastest(&spec, accuracy, machine).map(|(choice, _)| choice.name);
            assert_eq!(name(Accuracy::Strict), None);
            assert_eq!(name(Accuracy::Standard), Some("winograd-f4"), "{isa} {family:?}");
            assert_eq!(name(Accuracy::Relaxed), Some("winograd-f6"), "{isa} {family:?}");
        }
    }
}
