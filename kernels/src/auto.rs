//! `auto`: which kernel for which convolution, as plain data.
//!
//! The choice is a function of the convolution, the options, the instruction set, the CPU's caches and rates and
//! the kernels of this build (and, only if asked for, of what was [measured](crate::choices)): a list of rules,
//! of which the first that holds and whose kernel supports the convolution wins. [`explain`] shows the choice
//! without making a plan.

use crate::cache::CacheSizes;
use crate::cpu::Rates;
use crate::error::{ConvError, Unavailable};
#[cfg(feature = "winograd")]
use crate::kernel::Accuracy;
use crate::kernel::{Effort, Plan, PlanOptions};
use crate::measured;
use crate::registry;
use crate::simd::Isa;
use crate::spec::{ConvSpec, Layout};
#[cfg(feature = "winograd")]
use crate::winograd;

/// What `auto` takes for a convolution, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The kernel's id without an instruction set.
    pub algorithm: &'static str,
    /// The instruction set it will run with; none for a kernel that has only one form.
    pub isa: Option<Isa>,
    /// Why, in a sentence.
    pub reason: &'static str,
}

/// What a rule may look at.
#[derive(Clone, Copy, Debug)]
struct Context<'a> {
    spec: &'a ConvSpec,
    options: &'a PlanOptions,
    isa: Isa,
    rates: Rates,
    caches: CacheSizes,
}

/// A rule: take `algorithm` where `when` holds, because of `reason`.
struct Rule {
    algorithm: &'static str,
    when: fn(Context<'_>) -> bool,
    reason: &'static str,
}

/// In order of preference.
static RULES: &[Rule] = &[
    Rule {
        algorithm: "depthwise",
        // One input channel is one group too, of filters that share their input.
        when: |c| c.spec.groups() > 1,
        reason: "each channel has its own filters: nothing to multiply as matrices, bandwidth decides",
    },
    Rule {
        algorithm: "pointwise",
        when: |c| c.spec.layout() == Layout::Nhwc || planes_should_be_packed(c),
        reason: "a 1x1 kernel is a matrix product of the input as it lies",
    },
    #[cfg(feature = "winograd")]
    Rule {
        algorithm: "winograd",
        when: |c| {
            let (lanes, panel) = (c.isa.lanes(), c.isa.columns());
            let machine = winograd::Machine { lanes, panel, rates: c.rates, caches: c.caches };
            winograd::pays(c.spec, c.options.accuracy, machine)
        },
        reason: "tiles of 3x3 and 5x5 kernels need 2 to 5 times fewer multiplications, more than their transforms cost",
    },
    Rule { algorithm: "direct", when: |_| true, reason: "sums in registers, without an im2col buffer" },
    // What was passed over above because another kernel is faster, in builds that lack the other.
    Rule { algorithm: "pointwise", when: |_| true, reason: "this build has no faster kernel for it" },
    Rule { algorithm: "im2col-gemm", when: |_| true, reason: "a matrix product covers every shape" },
    Rule { algorithm: "depthwise", when: |_| true, reason: "this build has no faster kernel for it" },
    #[cfg(feature = "winograd")]
    Rule {
        algorithm: "winograd",
        when: |c| c.options.accuracy != Accuracy::Strict,
        reason: "this build has no faster kernel for it",
    },
    Rule {
        algorithm: "naive",
        when: |_| true,
        reason: "no other kernel of this build supports the convolution",
    },
];

/// Whether the planes of a 1×1 convolution in NCHW are better packed, in the shadow of the sums, than read where they lie
/// by `direct`.
fn planes_should_be_packed(c: Context<'_>) -> bool {
    let spec = c.spec;
    // Those of an image that the level-2 cache does not hold; also lesser ones where they come from further away, image
    // after image, unless they are so small that they are read nearly line by line. (A stride leaves out rows.)
    let rows = spec.in_height().min(spec.out_height());
    let bytes = 4 * spec.in_channels() * rows * spec.in_width();
    let come_from_afar = bytes * spec.batch() > c.caches.l2
        && bytes > c.caches.l2 / 4
        && spec.in_height() * spec.in_width() > 256;
    bytes > c.caches.l2 || come_from_afar || c.isa.lanes() < MASKED_LANES && packing_costs_less(c)
}

/// Lanes of vectors that can be masked: with those `direct` also reads vectors of pixels in place.
const MASKED_LANES: usize = 16;

/// Where `direct` has filters in the lanes of its vectors, and outputs are transposed: whether it costs less to pack pixels
/// and have them in the lanes, of which the last may be nearly empty. In multiply-adds for each pixel; an element takes
/// about the time of 1.4 multiply-adds of a vector to be packed, of 1.8 to be transposed. Tiles of very short vectors
/// have so few pixels that reading those one by one takes as long as if they were transposed.
fn packing_costs_less(c: Context<'_>) -> bool {
    let pixels = c.spec.out_height() * c.spec.out_width();
    let [channels, filters] = [c.spec.group_in_channels(), c.spec.group_out_channels()].map(|n| n as f64);
    let lanes = c.isa.lanes() as f64;
    let waste = pixels.next_multiple_of(c.isa.lanes()) as f64 / pixels as f64;
    let inputs = if c.isa.lanes() > 4 { 0.0 } else { channels };
    channels * filters * waste + 1.4 * lanes * channels
        < channels * filters + 1.8 * lanes * (inputs + filters)
}

/// What `auto` takes for a convolution, and why. With [`Effort::Measure`] what was measured before; where nothing
/// was, what it would take without measuring.
///
/// # Errors
/// When `CONV_ISA` holds something that is no instruction set.
pub fn explain(spec: &ConvSpec, options: &PlanOptions) -> Result<Choice, Unavailable> {
    let isa = Isa::best()?;
    if options.effort == Effort::Measure
        && let Some(algorithm) = measured::known(spec, options, isa)
    {
        return Ok(choice(algorithm, isa, "measured to be the fastest, or so a list of choices says"));
    }
    Ok(choose(Context {
        spec,
        options,
        isa,
        rates: Rates::detect(isa.lanes()),
        caches: CacheSizes::detect(),
    }))
}

fn choose(context: Context<'_>) -> Choice {
    choose_among(context, &|_| true)
}

/// The choice in a build that has some of the kernels, `naive` among them.
fn choose_among(context: Context<'_>, has: &dyn Fn(&str) -> bool) -> Choice {
    let (rule, kernel) = RULES
        .iter()
        .filter(|rule| has(rule.algorithm))
        .filter_map(|rule| Some((rule, registry::kernel(rule.algorithm).ok()?)))
        .find(|(rule, kernel)| (rule.when)(context) && kernel.supports(context.spec).is_ok())
        .unwrap_or_else(|| unreachable!("naive supports everything and is in every build"));
    debug_assert_eq!(kernel.algorithm(), rule.algorithm);
    choice(rule.algorithm, context.isa, rule.reason)
}

/// The choice of an algorithm.
fn choice(algorithm: &'static str, isa: Isa, reason: &'static str) -> Choice {
    let has_isas = registry::kernels().any(|k| k.algorithm() == algorithm && k.isa().is_some());
    Choice { algorithm, isa: has_isas.then_some(isa), reason }
}

pub(crate) fn plan(
    _: Option<Isa>,
    spec: &ConvSpec,
    weights: &[f32],
    options: &PlanOptions,
) -> Result<Box<dyn Plan>, ConvError> {
    let unavailable = |reason| ConvError::Unavailable { kernel: "auto".to_owned(), reason };
    if options.effort == Effort::Measure {
        let isa = Isa::best().map_err(unavailable)?;
        if measured::known(spec, options, isa).is_none()
            && let Some(plan) = measured::plan(spec, weights, options, isa)
        {
            return Ok(plan);
        }
    }
    let choice = explain(spec, options).map_err(unavailable)?;
    registry::kernel(choice.algorithm)?.plan(spec, weights, options)
}

#[cfg(all(test, feature = "im2col", feature = "direct", feature = "winograd"))]
#[cfg(all(test, feature = "pointwise", feature = "depthwise"))]
mod tests {
    use super::*;

    /// Convolutions and what `auto` takes for them on any machine of its kind: 2 MiB of level-2 cache.
    const CHOICES: [(&str, Isa, &str); 28] = [
        // Depthwise, with and without multiplier.
        ("c32 h112 w112 o32 k3 p1 g32", Isa::Avx512, "depthwise"),
        ("c8 h14 w14 o16 k5 p2 g8 nhwc", Isa::Avx2, "depthwise"),
        // 1x1, with stride too; with padding only the general kernels.
        ("c256 h56 w56 o64 k1", Isa::Avx512, "pointwise"),
        ("c256 h56 w56 o512 k1 s2 nhwc", Isa::Wide, "pointwise"),
        ("c16 h8 w8 o16 k1 p1", Isa::Avx512, "direct"),
        // 49 pixels in four vectors of 16.
        ("c512 h7 w7 o2048 k1", Isa::Avx512, "direct"),
        ("c512 h7 w7 o2048 k1 nhwc", Isa::Avx512, "pointwise"),
        ("c8 h7 w7 o16 k1", Isa::Avx512, "direct"),
        // Planes that are near are read in place, with masks or where their last vector would be too empty.
        ("c64 h56 w56 o64 k1", Isa::Avx512, "direct"),
        ("c64 h56 w56 o64 k1", Isa::Avx2, "pointwise"),
        ("c384 h14 w14 o64 k1", Isa::Avx2, "direct"),
        ("n32 c1024 h14 w14 o256 k1", Isa::Avx512, "direct"),
        // Those from further away are packed.
        ("n32 c256 h28 w28 o256 k1", Isa::Avx512, "pointwise"),
        ("c64 h224 w224 o64 k1", Isa::Avx512, "pointwise"),
        // 3x3 with stride 1 and enough channels.
        ("c64 h56 w56 o64 k3 p1", Isa::Avx512, "winograd"),
        ("c128 h28 w28 o128 k3 p1 nhwc", Isa::Avx2, "winograd"),
        ("c256 h14 w14 o256 k3 p1", Isa::Wide, "winograd"),
        // 5x5.
        ("n4 c96 h27 w27 o256 k5 p2", Isa::Avx512, "winograd"),
        ("n64 c6 h14 w14 o16 k5", Isa::Avx512, "direct"),
        // Groups, if each has channels enough.
        ("c128 h28 w28 o128 k3 p1 g4", Isa::Avx512, "winograd"),
        ("c256 h28 w28 o256 k3 p1 g32 nhwc", Isa::Avx512, "direct"),
        // Too few channels to pay for transforms; too few tiles to pay for weights.
        ("c3 h224 w224 o64 k3 p1", Isa::Avx512, "direct"),
        ("c512 h7 w7 o512 k3 p1 nhwc", Isa::Avx512, "direct"),
        // Not Winograd's: stride, dilation, groups, size.
        ("c128 h56 w56 o128 k3 s2 p1", Isa::Avx512, "direct"),
        ("c64 h56 w56 o64 k3 p2 d2", Isa::Avx512, "direct"),
        ("c128 h56 w56 o128 k3 p1 g32", Isa::Avx512, "direct"),
        ("c3 h224 w224 o64 k7 s2 p3", Isa::Avx512, "direct"),
        ("c1 h28 w28 o6 k5 p2", Isa::Wide, "direct"),
    ];

    #[test]
    fn choices() {
        let caches = CacheSizes { l1d: 48 << 10, l2: 2 << 20, l3: 32 << 20 };
        let options = PlanOptions::default();
        let check = |text: &str, isa: Isa, amd_family: Option<u32>, caches: CacheSizes, want: &str| {
            let spec: ConvSpec = text.parse().unwrap();
            let rates = Rates::of(isa.lanes(), amd_family);
            let choice = choose(Context { spec: &spec, options: &options, isa, rates, caches });
            assert_eq!((choice.algorithm, choice.isa), (want, Some(isa)), "`{text}`: {}", choice.reason);
        };
        for (text, isa, want) in CHOICES {
            check(text, isa, None, caches, want);
        }
        // Where the third cache is close, streamed weights weigh less beside the products.
        let zen4 = CacheSizes { l1d: 32 << 10, l2: 1 << 20, l3: 32 << 20 };
        check("c512 h7 w7 o512 k3 p1", Isa::Avx512, Some(25), zen4, "winograd");
    }

    /// A build of one family takes its kernel for all that it covers, not the definition.
    #[test]
    fn one_family_alone_is_better_than_naive() {
        let options = PlanOptions::default();
        let isa = Isa::Avx512;
        let caches = CacheSizes::FALLBACK;
        for (text, algorithm) in [
            ("c512 h7 w7 o2048 k1", "pointwise"),
            ("c3 h224 w224 o64 k3 p1", "winograd"),
            ("c1 h28 w28 o6 k5 p2", "depthwise"),
            ("c256 h56 w56 o64 k1", "im2col-gemm"),
            ("c64 h56 w56 o64 k3 p1", "direct"),
        ] {
            let spec: ConvSpec = text.parse().unwrap();
            let context =
                Context { spec: &spec, options: &options, isa, rates: Rates::of(isa.lanes(), None), caches };
            let choice = choose_among(context, &|name| name == algorithm || name == "naive");
            assert_eq!(choice.algorithm, algorithm, "`{text}`");
        }
    }

    #[test]
    fn strict_accuracy_rules_winograd_out() {
        let options = PlanOptions { accuracy: crate::Accuracy::Strict, ..Default::default() };
        let spec: ConvSpec = "c64 h56 w56 o64 k3 p1".parse().unwrap();
        assert_eq!(explain(&spec, &options).unwrap().algorithm, "direct");
        assert!(plan(None, &spec, &vec![0.0; spec.weights_len()], &options).is_ok());
    }

    #[test]
    fn every_rule_names_a_kernel_and_the_last_is_for_everything() {
        for rule in RULES {
            assert!(registry::kernel(rule.algorithm).is_ok(), "{}", rule.algorithm);
        }
        assert_eq!(RULES.last().unwrap().algorithm, "naive");
    }
}
