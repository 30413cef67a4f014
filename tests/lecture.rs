//! The lecture's own numbers, and the arithmetic of a convolution's description.

use harness::strategy;
use kernels::{ConvSpec, ConvSpecBuilder, Layout, Padding, SpecError};
use proptest::prelude::*;

fn spec(text: &str) -> ConvSpec {
    text.parse().unwrap_or_else(|error| panic!("`{text}`: {error}"))
}

fn output(text: &str) -> [usize; 3] {
    let spec = spec(text);
    [spec.out_channels(), spec.out_height(), spec.out_width()]
}

#[test]
fn a_5x5_filter_over_a_32x32x3_image_gives_28x28() {
    assert_eq!(output("c3 h32 w32 o1 k5"), [1, 28, 28]);
    assert_eq!(output("c3 h32 w32 o6 k5"), [6, 28, 28]);
    // A second layer on those six maps.
    assert_eq!(output("c6 h28 w28 o10 k5"), [10, 24, 24]);
}

#[test]
fn padding_by_two_keeps_the_size() {
    assert_eq!(output("c3 h32 w32 o10 k5 p2"), [10, 32, 32]);
    assert_eq!(output("c3 h32 w32 o10 k5 psame"), [10, 32, 32]);
    // (F − 1)/2 keeps it for every odd filter.
    for filter in [1, 3, 5, 7, 11] {
        assert_eq!(output(&format!("c1 h32 w32 o1 k{filter} p{}", (filter - 1) / 2)), [1, 32, 32]);
    }
}

#[test]
fn ten_5x5x3_filters_have_760_parameters() {
    let spec = spec("c3 h32 w32 o10 k5 p2");
    assert_eq!((spec.parameters(true), spec.parameters(false)), (760, 750));
}

#[test]
fn a_7x7_input_at_each_stride() {
    assert_eq!(output("c1 h7 w7 o1 k3"), [1, 5, 5]);
    assert_eq!(output("c1 h7 w7 o1 k3 s2"), [1, 3, 3]);
    // (7 − 3)/3 + 1 = 2.33: it does not fit, frameworks floor.
    assert_eq!(output("c1 h7 w7 o1 k3 s3"), [1, 2, 2]);
    assert_eq!(spec("c1 h7 w7 o1 k3 s3").stride_remainder(), [1, 1]);
    assert_eq!(spec("c1 h7 w7 o1 k3 s2").stride_remainder(), [0, 0]);
    assert_eq!(output("c1 h7 w7 o1 k3 p1"), [1, 7, 7]);
}

#[test]
fn a_1x1_convolution_changes_the_depth_alone() {
    let spec = spec("c64 h256 w256 o32 k1");
    assert_eq!(spec.output_shape(), [1, 32, 256, 256]);
    assert_eq!(spec.macs(), 256 * 256 * 64 * 32);
    assert_eq!(output("c64 h56 w56 o32 k1"), [32, 56, 56]);
}

#[test]
fn first_layers_of_the_networks() {
    assert_eq!(output("c3 h227 w227 o96 k11 s4"), [96, 55, 55]);
    assert_eq!(spec("c3 h227 w227 o96 k11 s4").parameters(false), 34_848);
    assert_eq!(output("c3 h224 w224 o64 k3 p1"), [64, 224, 224]);
    assert_eq!(output("c3 h224 w224 o64 k7 s2 p3"), [64, 112, 112]);
}

#[test]
fn bytes_and_intensity_count_everything_once() {
    let spec = spec("c3 h32 w32 o10 k5 p2");
    let bytes = 4 * (3 * 32 * 32 + 10 * 3 * 25 + 10 * 32 * 32) as u64;
    assert_eq!(spec.min_bytes(), bytes);
    assert_eq!(spec.flops(), 2 * 10 * 32 * 32 * 75);
    assert_eq!(spec.arithmetic_intensity(), spec.flops() as f64 / bytes as f64);
}

/// Multiply-adds whose input is no padding, counted one by one.
fn counted_macs(spec: &ConvSpec) -> u64 {
    let Padding { top, left, .. } = spec.padding();
    let inside = |out: usize, tap: usize, axis: usize, before: usize, size: usize| {
        let at = out * spec.stride()[axis] + tap * spec.dilation()[axis];
        at >= before && at - before < size
    };
    let mut count = 0;
    for y in 0..spec.out_height() {
        for r in (0..spec.kernel()[0]).filter(|&r| inside(y, r, 0, top, spec.in_height())) {
            let _ = r;
            for x in 0..spec.out_width() {
                count +=
                    (0..spec.kernel()[1]).filter(|&s| inside(x, s, 1, left, spec.in_width())).count() as u64;
            }
        }
    }
    count * (spec.batch() * spec.out_channels() * spec.in_channels() / spec.groups()) as u64
}

proptest! {
    #[test]
    fn specs_come_back_from_their_strings(spec in strategy::spec()) {
        let text = spec.to_string();
        prop_assert_eq!(text.parse::<ConvSpec>().unwrap(), spec);
        prop_assert_eq!(spec.to_builder().build().unwrap(), spec);
        prop_assert_eq!(text.ends_with(" nhwc"), spec.layout() == Layout::Nhwc);
    }

    #[test]
    fn multiply_adds_are_counted_right(spec in strategy::spec()) {
        prop_assert_eq!(spec.macs_without_padding(), counted_macs(&spec));
        let [n, o, h, w] = spec.output_shape();
        let out = if spec.layout() == Layout::Nchw { n * o * h * w } else { spec.output_len() };
        let window = spec.weights_len() / spec.out_channels();
        prop_assert_eq!(spec.macs(), (out * window) as u64);
        prop_assert!(spec.macs_without_padding() <= spec.macs());
    }

    #[test]
    fn any_text_is_a_spec_or_an_error(text in "([a-z]{0,2}[0-9x,]{0,6} ?){0,12}") {
        if let Ok(spec) = text.parse::<ConvSpec>() {
            prop_assert_eq!(spec.to_string().parse::<ConvSpec>().unwrap(), spec);
        }
    }

    #[test]
    fn any_characters_are_a_spec_or_an_error(text in "\\PC{0,60}") {
        prop_assert!(text.parse::<ConvSpec>().is_err());
    }

    /// Whatever numbers: an error, or a convolution none of whose counts overflow.
    #[test]
    fn any_numbers_are_a_spec_or_an_error(numbers in prop::collection::vec(number(), 17), nhwc: bool) {
        let [n, c, h, w, o, kh, kw, sh, sw, top, left, bottom, right, dh, dw, g, _] = numbers[..] else {
            unreachable!("seventeen numbers");
        };
        let built = ConvSpec::builder()
            .batch(n).in_channels(c).input_size(h, w).out_channels(o).kernel(kh, kw).stride(sh, sw)
            .padding(Padding { top, left, bottom, right }).dilation(dh, dw).groups(g)
            .layout(if nhwc { Layout::Nhwc } else { Layout::Nchw })
            .build();
        if let Ok(spec) = built {
            let counts = [spec.input_len(), spec.weights_len(), spec.output_len(), spec.parameters(true)];
            prop_assert!(counts.iter().all(|&n| n > 0 && n <= isize::MAX as usize / 4));
            prop_assert!(spec.macs() >= spec.macs_without_padding());
            prop_assert!(spec.flops() >= spec.macs() && spec.min_bytes() > 0);
            prop_assert!(spec.arithmetic_intensity().is_finite());
            for kernel in kernels::kernels() {
                // Says so or not, but says it without panicking.
                let _ = kernel.supports(&spec);
            }
            let _ = kernels::explain(&spec, &kernels::PlanOptions::default());
        }
    }
}

/// Small numbers, and those next to where products and sums overflow.
fn number() -> impl Strategy<Value = usize> {
    prop_oneof![
        6 => 0..8usize,
        2 => 8..5000usize,
        1 => (0..64u32, 0..3usize).prop_map(|(bit, less)| (1usize << bit).wrapping_sub(less)),
    ]
}

#[test]
fn wrong_descriptions_name_the_value() {
    let error = |text: &str| text.parse::<ConvSpec>().unwrap_err();
    assert_eq!(error("c0 h3 w3 o1 k3"), SpecError::Zero { field: "in_channels" });
    assert_eq!(error("c0 h3 w3 o1 k3").to_string(), "in_channels is 0, but must be at least 1");
    for (text, field) in [
        ("n0 c1 h3 w3 o1 k3", "batch"),
        ("c1 h0 w3 o1 k3", "in_height"),
        ("c1 h3 w0 o1 k3", "in_width"),
        ("c1 h3 w3 o0 k3", "out_channels"),
        ("c1 h3 w3 o1 k0", "kernel"),
        ("c1 h3 w3 o1 k3 s0", "stride"),
        ("c1 h3 w3 o1 k3 d0", "dilation"),
        ("c1 h3 w3 o1 k3 g0", "groups"),
    ] {
        assert!(
            matches!(error(text), SpecError::Zero { field: f } if f.contains(field)),
            "{text}: {:?}",
            error(text)
        );
    }
    assert_eq!(error("c1 h3 w3 k3"), SpecError::Missing { field: "out_channels" });
    assert!(matches!(ConvSpecBuilder::default().build(), Err(SpecError::Missing { .. })));
    assert_eq!(
        error("c6 h3 w3 o4 k3 g3"),
        SpecError::Groups { groups: 3, field: "out_channels", channels: 4 }
    );
    assert_eq!(
        error("c5 h3 w3 o4 k3 g2"),
        SpecError::Groups { groups: 2, field: "in_channels", channels: 5 }
    );
    assert_eq!(
        error("c1 h3 w9 o1 k5 p0,0,1,0"),
        SpecError::KernelTooLarge { axis: "height", kernel: 5, padded_input: 4 }
    );
    assert_eq!(
        error("c1 h9 w9 o1 k1x5 d1x3").to_string(),
        "kernel width 13 (with dilation) is larger than the padded input width 9"
    );
    assert!(matches!(error("c4294967296 h4294967296 w1 o1 k1"), SpecError::Overflow { .. }));
    assert!(matches!(error("c1 h1 w1 o1 k1 p18446744073709551615"), SpecError::Overflow { .. }));
    for text in [
        "c1 h3 w3 o1 k3 q7",
        "c1 c1 h3 w3 o1 k3",
        "c1 h3 w3 o1 k3x3x3",
        "c-1 h3 w3 o1 k3",
        "c1.5 h3 w3 o1 k3",
    ] {
        assert!(matches!(error(text), SpecError::Parse { .. }), "{text}: {:?}", error(text));
    }
    assert!(error("c1 h3 w3 o1 k3 q7").to_string().contains("`q7`"));
}
