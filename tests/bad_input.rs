//! What a kernel is given wrongly is a typed error that names it, before any work.

use std::collections::HashSet;

use kernels::{Accuracy, Activation, ConvError, ConvSpec, Layout, PlanOptions, Workspace, kernel, kernels};

const SPEC: &str = "c4 h6 w6 o5 k3 p1";

fn spec() -> ConvSpec {
    SPEC.parse().unwrap()
}

/// Every kernel that can run `spec` here.
fn able() -> impl Iterator<Item = &'static dyn kernels::Kernel> {
    kernels().filter(|kernel| kernel.availability().is_ok() && kernel.supports(&spec()).is_ok())
}

#[test]
fn wrong_lengths_are_refused_and_leave_the_output_alone() {
    let spec = spec();
    let weights = vec![1.0; spec.weights_len()];
    let (input, bias) = (vec![1.0; spec.input_len()], vec![1.0; spec.out_channels()]);
    assert!(able().count() > 3);
    for kernel in able() {
        let short = kernel.plan(&spec, &weights[1..], &PlanOptions::default()).unwrap_err();
        let want = ConvError::BufferLength { buffer: "weights", actual: 179, expected: 180 };
        assert_eq!(short, want, "{}", kernel.id());
        let plan = kernel.plan(&spec, &weights, &PlanOptions::default()).unwrap();
        let mut output = vec![7.0; spec.output_len()];
        let mut run = |input: &[f32], bias: Option<&[f32]>, len: usize| {
            let error = plan.run(input, bias, &mut output[..len], &mut Workspace::default()).unwrap_err();
            assert!(output.iter().all(|&y| y == 7.0), "{} wrote", kernel.id());
            error
        };
        let length = |buffer, actual, expected| ConvError::BufferLength { buffer, actual, expected };
        assert_eq!(run(&input[1..], None, 180), length("input", 143, 144));
        assert_eq!(run(&input, None, 179), length("output", 179, 180));
        assert_eq!(run(&input, Some(&bias[1..]), 180), length("bias", 4, 5));
        assert_eq!(run(&[], None, 0), length("input", 0, 144));
        assert_eq!(length("bias", 4, 5).to_string(), "bias has 4 elements, but must have 5");
    }
}

#[test]
fn a_borrowed_workspace_too_small_is_refused() {
    let spec = spec();
    let (input, weights) = (vec![1.0; spec.input_len()], vec![1.0; spec.weights_len()]);
    for kernel in able() {
        let plan = kernel.plan(&spec, &weights, &PlanOptions::default()).unwrap();
        let needed = plan.workspace_len();
        if needed == 0 {
            continue;
        }
        let mut output = vec![7.0; spec.output_len()];
        let mut memory = vec![0.0; needed - 1];
        let error = plan.run(&input, None, &mut output, &mut Workspace::from_slice(&mut memory)).unwrap_err();
        assert_eq!(error, ConvError::WorkspaceTooSmall { actual: needed - 1, needed }, "{}", kernel.id());
        assert!(output.iter().all(|&y| y == 7.0));
    }
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let spec = spec();
    let weights = vec![1.0; spec.weights_len()];
    let options = |threads, activation| PlanOptions { threads, activation, ..Default::default() };
    let clamp = |min, max| Some(Activation::Clamp { min, max });
    for kernel in able() {
        for (options, value) in [
            (options(0, None), "0"),
            (options(1, clamp(2.0, 1.0)), "2..=1"),
            (options(1, clamp(f32::NAN, 1.0)), "NaN"),
            (options(1, clamp(0.0, f32::NAN)), "NaN"),
        ] {
            let error = kernel.plan(&spec, &weights, &options).unwrap_err();
            assert!(matches!(error, ConvError::Option { .. }), "{}: {error}", kernel.id());
            assert!(error.to_string().contains(value), "{error}");
        }
    }
}

#[test]
fn a_winograd_kernel_by_name_does_not_pretend_to_be_strict() {
    let options = PlanOptions { accuracy: Accuracy::Strict, ..Default::default() };
    let spec = spec();
    let weights = vec![1.0; spec.weights_len()];
    for kernel in able() {
        let plan = kernel.plan(&spec, &weights, &options);
        if kernel.id().starts_with("winograd") {
            assert!(matches!(plan, Err(ConvError::Option { option: "accuracy", .. })), "{}", kernel.id());
        } else {
            assert!(matches!(plan.unwrap().error_model(), kernels::ErrorModel::Sum { .. }));
        }
    }
}

#[test]
fn unknown_kernels_and_unsupported_convolutions_are_named() {
    let error = kernel("fft").unwrap_err();
    assert!(
        matches!(&error, ConvError::UnknownKernel { id, known } if id == "fft" && known.contains("direct"))
    );
    for id in ["", "direct/", "direct/sse9", "DIRECT", "direct/avx512/x", &"x".repeat(10_000)] {
        let error = kernel(id).unwrap_err();
        assert!(error.to_string().len() < 400, "{error}");
    }
    let spec: ConvSpec = "c4 h6 w6 o4 k5 s2 p2".parse().unwrap();
    let weights = vec![1.0; spec.weights_len()];
    for kernel in kernels().filter(|kernel| kernel.availability().is_ok()) {
        let plan = kernel.plan(&spec, &weights, &PlanOptions::default());
        match kernel.supports(&spec) {
            Ok(()) => assert!(plan.is_ok(), "{}", kernel.id()),
            Err(refusal) => {
                let message = plan.unwrap_err().to_string();
                assert_eq!(message, refusal.to_string());
                let want = format!("{} does not support {} ({spec})", kernel.id(), refusal.what());
                assert_eq!(message, want);
            }
        }
    }
}

/// A convolution of terabytes may be described, asked about and refused; nothing is taken for it.
#[test]
fn sizes_beyond_memory_are_errors() {
    let spec: ConvSpec = "n1 c1000000 h1000 w1000 o1000000 k3 p1".parse().unwrap();
    for kernel in kernels().filter(|kernel| kernel.availability().is_ok()) {
        let error = kernel.plan(&spec, &[], &PlanOptions::default()).unwrap_err();
        assert!(
            matches!(error, ConvError::BufferLength { buffer: "weights", .. } | ConvError::Unsupported(_)),
            "{}: {error}",
            kernel.id()
        );
    }
    // Wide images of one channel: the weights are there, and scratch memory stays bounded.
    let spec: ConvSpec = "c1 h100000000 w100000000 o1 k3 p1".parse().unwrap();
    for kernel in kernels().filter(|kernel| kernel.availability().is_ok()) {
        if let Ok(plan) = kernel.plan(&spec, &[1.0; 9], &PlanOptions::default()) {
            let workspace = plan.workspace_len();
            assert!(workspace < 1 << 32, "{}: {workspace}", kernel.id());
        }
    }
}

/// Strides and dilations that are never taken may be as long as numbers go, and a batch may be as large as a spec can count.
#[test]
fn numbers_at_the_end_of_their_range_do_no_harm() {
    const FAR: usize = 1 << 62;
    let mut ran = HashSet::new();
    for text in [
        "c16 h3 w3 o16 k3 g16",
        "c32 h3 w3 o20 k3",
        "c3 h3 w3 o20 k3",
        "c16 h1 w1 o16 k1",
        "c4 h3 w3 o8 k3 g2",
    ] {
        for stride in [[FAR, 1], [1, FAR], [FAR, FAR], [usize::MAX, usize::MAX]] {
            for layout in [Layout::Nchw, Layout::Nhwc] {
                let spec: ConvSpec = text.parse().unwrap();
                let builder = spec.with_layout(layout).to_builder().stride(stride[0], stride[1]);
                let spec = builder.build().unwrap();
                let (input, weights) = (vec![1.0; spec.input_len()], vec![1.0; spec.weights_len()]);
                for kernel in kernels().filter(|kernel| kernel.supports(&spec).is_ok()) {
                    let Ok(plan) = kernel.plan(&spec, &weights, &PlanOptions::default()) else { continue };
                    let mut output = vec![0.0; spec.output_len()];
                    plan.run(&input, None, &mut output, &mut plan.workspace()).unwrap();
                    let want = (spec.weights_len() / spec.out_channels()) as f32;
                    assert!(output.iter().all(|&y| y == want), "{} on `{spec}`: {output:?}", kernel.id());
                    ran.insert((kernel.algorithm(), stride));
                }
            }
        }
    }
    // Dilations of kernels of one row or column.
    for (text, dilation) in [
        ("c16 h1 w1 o16 k1", [FAR, FAR]),
        ("c16 h3 w1 o20 k3x1", [1, FAR]),
        ("c3 h1 w5 o20 k1x3", [FAR, 1]),
        ("c8 h1 w1 o8 k1 g8", [FAR, FAR]),
        ("c4 h1 w3 o8 k1x3 g2", [usize::MAX, 1]),
    ] {
        for layout in [Layout::Nchw, Layout::Nhwc] {
            let spec: ConvSpec = text.parse().unwrap();
            let builder = spec.with_layout(layout).to_builder().dilation(dilation[0], dilation[1]);
            let spec = builder.build().unwrap();
            let (input, weights) = (vec![1.0; spec.input_len()], vec![1.0; spec.weights_len()]);
            for kernel in kernels().filter(|kernel| kernel.supports(&spec).is_ok()) {
                let plan = kernel.plan(&spec, &weights, &PlanOptions::default());
                // On machines that lack its instruction set.
                let Ok(plan) = plan else {
                    assert!(kernel.availability().is_err(), "{} on `{spec}`", kernel.id());
                    continue;
                };
                let mut output = vec![0.0; spec.output_len()];
                plan.run(&input, None, &mut output, &mut plan.workspace()).unwrap();
                let want = (spec.weights_len() / spec.out_channels()) as f32;
                assert!(output.iter().all(|&y| y == want), "{} on `{spec}`: {output:?}", kernel.id());
            }
        }
    }
    let spec: ConvSpec = format!("n{} c64 h1 w1 o64 k3 p1", (1u64 << 47)).parse().unwrap();
    let weights = vec![1.0; spec.weights_len()];
    for kernel in kernels().filter(|kernel| kernel.algorithm().starts_with("winograd")) {
        if let Ok(plan) = kernel.plan(&spec, &weights, &PlanOptions::default()) {
            assert!(plan.flops() >= spec.flops(), "{}: {}", kernel.id(), plan.flops());
            ran.insert((kernel.algorithm(), [1, 1]));
        }
    }
    for algorithm in ["naive", "auto", "im2col-gemm", "direct", "depthwise", "pointwise"] {
        for stride in [[FAR, 1], [1, FAR], [FAR, FAR], [usize::MAX, usize::MAX]] {
            assert!(ran.contains(&(algorithm, stride)), "{algorithm} did not run with stride {stride:?}");
        }
    }
    for algorithm in ["winograd", "winograd-f2", "winograd-f4", "winograd-f6"] {
        assert!(ran.contains(&(algorithm, [1, 1])), "{algorithm} made no plan");
    }
}
