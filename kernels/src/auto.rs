//! `auto`: which kernel for which convolution, as plain data.
//!
//! The choice is a pure function of the convolution, the options, the instruction set and the
//! kernels of this build: a list of rules, of which the first that holds and whose kernel supports
//! the convolution wins. [`explain`] shows the choice without making a plan.

use crate::error::{ConvError, Unavailable};
use crate::kernel::{Plan, PlanOptions};
use crate::registry;
use crate::simd::Isa;
use crate::spec::ConvSpec;

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

/// A rule: take `algorithm` where `when` holds, because of `reason`.
struct Rule {
    algorithm: &'static str,
    when: fn(&ConvSpec, &PlanOptions) -> bool,
    reason: &'static str,
}

/// In order of preference.
static RULES: &[Rule] = &[
    Rule {
        algorithm: "depthwise",
        when: |_, _| true,
        reason: "each channel has its own filters: nothing to multiply as matrices, bandwidth decides",
    },
    Rule {
        algorithm: "pointwise",
        when: |_, _| true,
        reason: "a 1x1 kernel is a matrix product of the input as it lies",
    },
    Rule { algorithm: "direct", when: |_, _| true, reason: "sums in registers, without an im2col buffer" },
    Rule { algorithm: "im2col-gemm", when: |_, _| true, reason: "a matrix product covers every shape" },
    Rule {
        algorithm: "naive",
        when: |_, _| true,
        reason: "no other kernel of this build supports the convolution",
    },
];

/// What `auto` takes for a convolution, and why.
///
/// # Errors
/// When `CONV_ISA` holds something that is no instruction set.
pub fn explain(spec: &ConvSpec, options: &PlanOptions) -> Result<Choice, Unavailable> {
    let isa = Isa::best()?;
    let (rule, kernel) = RULES
        .iter()
        .filter_map(|rule| Some((rule, registry::kernel(rule.algorithm).ok()?)))
        .find(|(rule, kernel)| (rule.when)(spec, options) && kernel.supports(spec).is_ok())
        .unwrap_or_else(|| unreachable!("naive supports everything and is in every build"));
    let has_isas = registry::kernels().any(|k| k.algorithm() == kernel.algorithm() && k.isa().is_some());
    Ok(Choice { algorithm: rule.algorithm, isa: has_isas.then_some(isa), reason: rule.reason })
}

pub(crate) fn plan(
    _: Option<Isa>,
    spec: &ConvSpec,
    weights: &[f32],
    options: &PlanOptions,
) -> Result<Box<dyn Plan>, ConvError> {
    let choice = explain(spec, options)
        .map_err(|reason| ConvError::Unavailable { kernel: "auto".to_owned(), reason })?;
    registry::kernel(choice.algorithm)?.plan(spec, weights, options)
}
