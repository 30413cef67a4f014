//! proptest strategies for convolutions: valid by construction, and reaching every tail.

use kernels::{Accuracy, Activation, ConvSpec, Kernel, Layout, Padding, PlanOptions, Stores};
use proptest::prelude::*;
use proptest::sample::select;

use crate::data::Kind;

/// Multiply-accumulates that a case may have: enough for several blocks of everything, few enough for
/// thousands of cases.
const MOST_MACS: u64 = 400_000;

/// A shape family. A kernel is tested with those that it supports; each kernel supports one at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    /// Anything.
    General,
    /// 3×3, stride 1, mostly dense: Winograd's.
    Square3,
    /// 5×5, the same.
    Square5,
    /// 1×1 without padding.
    Pointwise,
    /// groups = input channels.
    Depthwise,
    /// A few channels a group.
    Grouped,
    /// One to three input channels, large kernels and strides: first layers.
    FirstLayer,
}

const FAMILIES: [Family; 7] = [
    Family::General,
    Family::Square3,
    Family::Square5,
    Family::Pointwise,
    Family::Depthwise,
    Family::Grouped,
    Family::FirstLayer,
];

/// A test case: a convolution and how it is run.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// The convolution.
    pub spec: ConvSpec,
    /// Options of the plan.
    pub options: PlanOptions,
    /// Whether a bias is given.
    pub with_bias: bool,
    /// What the data are like.
    pub kind: Kind,
    /// f32s by which the buffers are moved off their natural alignment.
    pub offset: usize,
    /// Seed of the data.
    pub seed: u64,
}

/// Numbers before they are made to fit each other.
#[derive(Clone, Debug)]
struct Raw {
    family: usize,
    batch: usize,
    channels: [usize; 2],
    groups: usize,
    size: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    padding: [usize; 4],
    nhwc: bool,
}

/// Channel counts around the lengths of vectors and tiles.
fn channels() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 1..=9usize, 3 => 10..=40usize, 1 => select(vec![47, 48, 49, 63, 64, 65, 66, 96, 100])]
}

fn extent() -> impl Strategy<Value = usize> {
    prop_oneof![3 => 1..=8usize, 3 => 9..=20usize, 2 => 21..=40usize, 2 => select(vec![56, 63, 64, 65, 70])]
}

fn small() -> impl Strategy<Value = usize> {
    prop_oneof![5 => 1..=3usize, 2 => 4..=7usize, 1 => 8..=11usize]
}

fn step() -> impl Strategy<Value = usize> {
    prop_oneof![5 => Just(1usize), 3 => Just(2usize), 2 => 3..=5usize, 1 => 6..=13usize]
}

fn pad() -> impl Strategy<Value = usize> {
    prop_oneof![4 => Just(0usize), 4 => Just(1usize), 2 => 2..=3usize, 1 => 4..=12usize]
}

fn raw() -> impl Strategy<Value = Raw> {
    let shape = (0..FAMILIES.len(), 1..=3usize, [channels(), channels()], 1..=12usize, [extent(), extent()]);
    let window = ([small(), small()], [step(), step()], [step(), step()], [pad(), pad(), pad(), pad()]);
    (shape, window, any::<bool>()).prop_map(
        |((family, batch, channels, groups, size), (kernel, stride, dilation, padding), nhwc)| Raw {
            family,
            batch,
            channels,
            groups,
            size,
            kernel,
            stride,
            dilation,
            padding,
            nhwc,
        },
    )
}

impl Raw {
    /// The convolution of a family that these numbers stand for; every `Raw` gives a valid one.
    fn spec(&self, family: Family) -> Option<ConvSpec> {
        let Raw { batch, channels: [mut c, mut o], mut groups, .. } = *self;
        let Raw { mut kernel, mut stride, mut dilation, mut padding, .. } = *self;
        match family {
            Family::General => {
                groups = if groups > 4 { 1 } else { groups };
                (c, o) = (c.next_multiple_of(groups), o.next_multiple_of(groups));
            }
            Family::Square3 | Family::Square5 => {
                let side = if family == Family::Square3 { 3 } else { 5 };
                (kernel, stride, dilation) = ([side; 2], [1, 1], [1, 1]);
                groups = groups.saturating_sub(9).max(1);
                if groups > 1 {
                    // Winograd's groups have 8 channels at least.
                    (c, o) = (groups * (8 + c % 11), groups * (1 + o % 9));
                }
            }
            Family::Pointwise => {
                (kernel, padding) = ([1, 1], [0; 4]);
                groups = if groups > 3 { 1 } else { groups };
                (c, o) = (c.next_multiple_of(groups), o.next_multiple_of(groups));
            }
            Family::Depthwise => (groups, o) = (c, c * (1 + o % 3)),
            Family::Grouped => (c, o) = (groups * (1 + c % 9), groups * (1 + o % 9)),
            Family::FirstLayer => (c, groups) = (1 + c % 3, 1),
        }
        if matches!(family, Family::Depthwise) && self.groups > 3 {
            // The common forms more often than chance would have it.
            let side = if self.groups > 8 { 5 } else { 3 };
            (kernel, dilation, stride) = ([side, side], [1, 1], [stride[0].min(2), stride[0].min(2)]);
        }
        let mut size = self.size;
        loop {
            let mut padding = padding;
            for axis in 0..2 {
                // A kernel that is too large for the padded input gets more padding at the end.
                let reach = dilation[axis] * (kernel[axis] - 1) + 1;
                let padded = size[axis] + padding[axis] + padding[axis + 2];
                padding[axis + 2] += reach.saturating_sub(padded);
            }
            let [top, left, bottom, right] = padding;
            let spec = ConvSpec::builder()
                .batch(batch)
                .in_channels(c)
                .input_size(size[0], size[1])
                .out_channels(o)
                .kernel(kernel[0], kernel[1])
                .stride(stride[0], stride[1])
                .padding(Padding { top, left, bottom, right })
                .dilation(dilation[0], dilation[1])
                .groups(groups)
                .layout(if self.nhwc { Layout::Nhwc } else { Layout::Nchw })
                .build()
                .ok()?;
            if spec.macs() <= MOST_MACS {
                return Some(spec);
            }
            // Smaller images first: channel tails are what channels are for.
            // One axis before the other, so that long rows and high columns survive.
            let axis = (self.channels[0] + self.channels[1]) % 2;
            let axis = if size[axis] > 1 { axis } else { 1 - axis };
            match size[axis] {
                extent if extent > 1 => size[axis] = extent * 2 / 3,
                _ if groups == 1 && (c > 1 || o > 1) => (c, o) = (c.div_ceil(2), o.div_ceil(2)),
                // With much padding no image is small enough.
                _ if groups > 1 && matches!(family, Family::Square3 | Family::Square5) => {
                    (c, o, groups) = (c / groups, o / groups, 1);
                }
                _ => return None,
            }
        }
    }
}

/// Any valid convolution.
pub fn spec() -> impl Strategy<Value = ConvSpec> {
    raw().prop_map(|raw| {
        FAMILIES[raw.family..]
            .iter()
            .chain(&FAMILIES)
            .find_map(|&family| raw.spec(family))
            .unwrap_or_else(fallback)
    })
}

/// Any valid convolution that a kernel supports.
pub fn spec_for(kernel: &'static dyn Kernel) -> impl Strategy<Value = ConvSpec> {
    raw().prop_map(move |raw| {
        FAMILIES[raw.family..]
            .iter()
            .chain(&FAMILIES)
            .filter_map(|&family| raw.spec(family))
            .find(|spec| kernel.supports(spec).is_ok())
            .unwrap_or_else(fallback)
    })
}

/// A convolution that every kernel but those for other kernel sizes supports; it shows as an
/// unsupported case where a kernel fits no family at all.
#[allow(clippy::expect_used)]
fn fallback() -> ConvSpec {
    ConvSpec::builder()
        .in_channels(1)
        .input_size(3, 3)
        .out_channels(1)
        .kernel(3, 3)
        .build()
        .expect("a constant that the tests below build")
}

/// A case that a kernel supports.
pub fn case_for(kernel: &'static dyn Kernel) -> impl Strategy<Value = Case> {
    let activation = prop_oneof![
        3 => Just(None),
        1 => Just(Some(Activation::Relu)),
        1 => Just(Some(Activation::Clamp { min: -1.5, max: 6.0 })),
    ];
    let kind = select(Kind::ALL.to_vec());
    let accuracy = prop_oneof![3 => Just(Accuracy::Standard), 1 => Just(Accuracy::Relaxed)];
    let stores = prop_oneof![3 => Just(Stores::Cached), 1 => Just(Stores::Streaming)];
    let how = (
        1..=3usize,
        activation,
        prop::bool::weighted(0.3),
        (accuracy, stores),
        any::<bool>(),
        kind,
        0..16usize,
    );
    (spec_for(kernel), how, 0..u64::MAX).prop_map(
        |(spec, (threads, activation, accumulate, (accuracy, stores), with_bias, kind, offset), seed)| Case {
            spec,
            options: PlanOptions { threads, activation, accumulate, accuracy, stores, ..Default::default() },
            with_bias,
            kind,
            offset,
            seed,
        },
    )
}

/// A case that a kernel supports, after the same layer at another batch, image size and padding, which the
/// kernel supports too.
pub fn resizing_for(kernel: &'static dyn Kernel) -> impl Strategy<Value = (ConvSpec, Case)> {
    let size = (1..=5usize, [extent(), extent()], [pad(), pad(), pad(), pad()]);
    (case_for(kernel), size).prop_map(move |(case, (batch, [height, width], [top, left, bottom, right]))| {
        let other = case.spec.to_builder().batch(batch).input_size(height, width);
        let padded = other.clone().padding(Padding { top, left, bottom, right });
        // Large enough for any window.
        let [reach_y, reach_x] = case.spec.dilated_kernel();
        let large = other.clone().input_size(height + reach_y, width + reach_x);
        let origin = [padded, other, large]
            .into_iter()
            .filter_map(|builder| builder.build().ok())
            .find(|spec| kernel.supports(spec).is_ok())
            .unwrap_or(case.spec);
        (origin, case)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    #[test]
    fn the_fallback_is_a_convolution() {
        assert_eq!(fallback().out_height(), 1);
    }

    /// Every tail and corner that the strategies promise is in fact reached.
    #[test]
    fn specs_reach_the_corners() {
        let mut runner = TestRunner::deterministic();
        let specs: Vec<ConvSpec> =
            (0..4000).map(|_| spec().new_tree(&mut runner).unwrap().current()).collect();
        let reached = |what: &str, f: &dyn Fn(&ConvSpec) -> bool| {
            let count = specs.iter().filter(|spec| f(spec)).count();
            assert!(count >= 10, "{what}: only {count} of {}", specs.len());
        };
        reached("one output", &|s| s.out_height() == 1 && s.out_width() == 1);
        reached("kernel above input", &|s| s.dilated_kernel()[0] > s.in_height());
        reached("stride above kernel", &|s| s.stride()[0] > s.dilated_kernel()[0] && s.out_height() > 1);
        reached("padding above kernel", &|s| s.padding().top >= s.dilated_kernel()[0]);
        reached("asymmetric padding", &|s| s.padding().left != s.padding().right);
        reached("dilation", &|s| s.dilation()[1] > 1 && s.kernel()[1] > 1);
        reached("rectangular kernel", &|s| s.kernel()[0] != s.kernel()[1]);
        reached("groups", &|s| s.groups() > 1 && s.groups() < s.in_channels());
        reached("multiplier", &|s| s.is_depthwise() && s.out_channels() > s.in_channels() && s.groups() > 1);
        reached("batch", &|s| s.batch() > 1);
        reached("nhwc", &|s| s.layout() == Layout::Nhwc);
        reached("winograd", &|s| s.kernel() == [3, 3] && s.stride() == [1, 1] && s.in_channels() > 16);
        reached("winograd 5x5", &|s| {
            s.kernel() == [5, 5] && s.stride() == [1, 1] && s.dilation() == [1, 1] && s.in_channels() > 16
        });
        for modulus in [4, 8, 16, 32] {
            for rest in [0, 1, modulus - 1] {
                reached("filters", &|s| {
                    s.group_out_channels() % modulus == rest && s.out_channels() > modulus
                });
                reached("columns", &|s| s.out_width() % modulus == rest && s.out_width() > modulus);
            }
        }
    }
}
