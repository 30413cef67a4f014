//! Pooling on every available instruction set equals its definition, both ways: random cases, cases by hand, the
//! derivative by finite differences, and what is refused.

use harness::pooling::{Case, Reference, Values, case, run_case, tensors};
use kernels::pool::{PoolPlan, PoolSpec, Pooling};
use kernels::{ConvError, Isa, Layout, Padding};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

const CASES: u32 = 1000;

fn isas() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.availability().is_ok())
}

#[test]
fn random_cases() {
    for isa in isas() {
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[11; 32]);
        let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
        let result = TestRunner::new_with_rng(config, rng)
            .run(&case(), |case| run_case(isa, &case).map_err(TestCaseError::fail));
        assert!(result.is_ok(), "{isa}: {}", result.unwrap_err());
    }
}

const POOLINGS: [Pooling; 3] = [
    Pooling::Max,
    Pooling::Average { count_include_pad: false },
    Pooling::Average { count_include_pad: true },
];

/// Every width around the vectors' lengths: whole vectors, cut ones, and windows that padding cuts beside them.
#[test]
fn every_small_width() {
    let windows = (1..=40).flat_map(|width| (1..=3).map(move |kernel| (width, kernel)));
    for (width, kernel) in windows.filter(|(width, kernel)| width >= kernel) {
        for (stride, dilation, left) in [(1, 1, 0), (1, 1, 1), (1, 2, 0), (2, 1, 0), (2, 1, 1), (2, 2, 1)] {
            let builder = PoolSpec::builder().channels(2).input_size(3, width).kernel(2, kernel);
            let padding = Padding { left: left.min(kernel - 1), ..Padding::none() };
            let builder = builder.stride(1, stride).dilation(1, dilation).padding(padding);
            let Ok(spec) = builder.build() else { continue };
            for (isa, pooling) in isas().flat_map(|isa| POOLINGS.map(|pooling| (isa, pooling))) {
                let case = Case { spec, pooling, values: Values::Ties, threads: 1, offset: 0, seed: 1 };
                run_case(isa, &case).unwrap_or_else(|what| panic!("{isa}, {case:?}: {what}"));
            }
        }
    }
}

/// Windows that stay in registers, at every width around the vectors' lengths and with every padding: in the first and
/// the last vector, with ties, with NaN and infinities.
#[test]
fn square_windows_of_every_width() {
    for (width, (kernel, stride)) in (1..=40).flat_map(|w| [(2, 2), (3, 1), (3, 2)].map(|window| (w, window)))
    {
        for pads in 0..8 {
            let pad = |side: usize| (pads >> side & 1).min(kernel - 1);
            let padding = Padding { left: pad(0), right: pad(1), top: pad(2), bottom: pad(2) };
            let builder = PoolSpec::builder().channels(2).input_size(5, width).kernel(kernel, kernel);
            let Ok(spec) = builder.stride(stride, stride).padding(padding).ceil_mode(pads == 7).build()
            else {
                continue;
            };
            for (isa, pooling) in isas().flat_map(|isa| POOLINGS.map(|pooling| (isa, pooling))) {
                for values in [Values::Ties, Values::Special] {
                    let case = Case { spec, pooling, values, threads: 1, offset: 0, seed: width as u64 };
                    run_case(isa, &case).unwrap_or_else(|what| panic!("{isa}, {case:?}: {what}"));
                }
            }
        }
    }
}

/// −∞ everywhere: the first pixel of a window takes its gradient, not the padding before it.
#[test]
fn the_least_value_is_no_padding() {
    for ((kernel, stride), layout) in [(2, 2), (3, 1), (3, 2), (5, 1)]
        .into_iter()
        .flat_map(|w| [Layout::Nchw, Layout::Nhwc].map(|l| (w, l)))
    {
        let builder = PoolSpec::builder().channels(3).input_size(19, 21).kernel(kernel, kernel);
        let builder = builder.stride(stride, stride).padding(Padding::uniform(1)).layout(layout);
        let spec = builder.build().unwrap();
        let input = vec![f32::NEG_INFINITY; spec.input_len()];
        let grads = vec![1.0; spec.output_len()];
        for isa in isas() {
            let plan = PoolPlan::on(isa, &spec, Pooling::Max, 1).unwrap();
            let mut grad_input = vec![f32::NAN; spec.input_len()];
            plan.backward(&input, &grads, &mut grad_input).unwrap();
            assert_eq!(
                grad_input.iter().sum::<f32>(),
                grads.len() as f32,
                "{isa} {kernel} {stride} {layout:?}"
            );
        }
    }
}

/// Sizes beyond the buffers of a row, and so many pixels that threads are used.
#[test]
fn long_rows_large_windows_and_threads() {
    let spec = |channels, height, width| PoolSpec::builder().channels(channels).input_size(height, width);
    let cases = [
        spec(1, 3, 5000).kernel(2, 3).stride(1, 1),
        spec(1, 3, 5000).kernel(3, 3).stride(1, 2).padding(Padding::uniform(1)),
        spec(2, 2, 4000).kernel(1, 1500).stride(1, 2).padding(Padding { left: 700, ..Padding::none() }),
        spec(1, 2, 5000).kernel(2, 3).dilation(1, 1200).stride(1, 900).ceil_mode(true),
        spec(1, 900, 4).kernel(700, 2).stride(100, 1),
        spec(5, 300, 300).kernel(3, 3).stride(2, 2).padding(Padding::uniform(1)),
        spec(4, 150, 170).kernel(3, 3).stride(1, 1).padding(Padding::uniform(1)),
        spec(70, 90, 90).kernel(2, 2).batch(1),
        spec(3, 400, 400).kernel(400, 400),
        spec(2, 7, 30).kernel(1, 3).dilation(usize::MAX, 1).stride(1, 1),
        spec(2, 30, 7)
            .kernel(3, 1)
            .dilation(1, usize::MAX)
            .stride(2, 1)
            .padding(Padding { top: 1, ..Padding::none() }),
    ];
    for isa in isas() {
        for builder in &cases {
            for layout in [Layout::Nchw, Layout::Nhwc] {
                for pooling in POOLINGS {
                    let spec = builder.clone().layout(layout).build().unwrap();
                    let case = Case { spec, pooling, values: Values::Ties, threads: 3, offset: 1, seed: 5 };
                    run_case(isa, &case).unwrap_or_else(|what| panic!("{isa}, {case:?}: {what}"));
                }
            }
        }
    }
    let large = cases[5].clone().build().unwrap();
    assert_eq!(PoolPlan::new(&large, Pooling::Max, 3).unwrap().threads(), 3);
}

/// Values that PyTorch and ONNX document, worked out by hand.
#[test]
fn averages_count_as_pytorch_and_onnx_do() {
    let average = |ceil_mode, count_include_pad| {
        let builder = PoolSpec::builder().channels(1).input_size(1, 4).kernel(1, 3).stride(1, 2);
        let padding = Padding { left: 1, right: 1, ..Padding::none() };
        let spec = builder.padding(padding).ceil_mode(ceil_mode).build().unwrap();
        let plan = PoolPlan::new(&spec, Pooling::Average { count_include_pad }, 1).unwrap();
        let mut output = vec![0.0; spec.output_len()];
        plan.run(&[6.0, 12.0, 18.0, 24.0], &mut output).unwrap();
        output
    };
    // Windows: (pad) 6 12 | 12 18 24 | and, rounded up, 24 (pad) and one place beyond the padding.
    assert_eq!(average(false, false), [9.0, 18.0]);
    assert_eq!(average(false, true), [6.0, 18.0]);
    assert_eq!(average(true, false), [9.0, 18.0, 24.0]);
    assert_eq!(average(true, true), [6.0, 18.0, 12.0]);
}

/// The gradient by each pixel is what moving that pixel changes.
#[test]
fn gradients_are_finite_differences() {
    const STEP: f32 = 1e-3;
    for layout in [Layout::Nchw, Layout::Nhwc] {
        for pooling in POOLINGS {
            let builder = PoolSpec::builder().channels(3).input_size(6, 5).kernel(3, 2).stride(2, 1);
            let spec = builder.padding(Padding::uniform(1)).layout(layout).build().unwrap();
            let reference = Reference::new(&spec, pooling);
            let case = Case { spec, pooling, values: Values::Distinct, threads: 1, offset: 0, seed: 3 };
            let grad_output = tensors(&case).1;
            // Further apart than a step, so that no maximum moves.
            let mut input: Vec<f32> = (0..spec.input_len()).map(|i| (i * 37 % 90) as f32 / 16.0).collect();
            let mut grad_input = vec![f32::NAN; input.len()];
            PoolPlan::new(&spec, pooling, 1)
                .unwrap()
                .backward(&input, &grad_output, &mut grad_input)
                .unwrap();
            let loss = |input: &[f32]| -> f64 {
                let output = reference.forward(input);
                output.iter().zip(&grad_output).map(|(y, &g)| y.value * f64::from(g)).sum()
            };
            for i in 0..input.len() {
                let middle = input[i];
                let [low, high] = [middle - STEP, middle + STEP].map(|value| {
                    input[i] = value;
                    (f64::from(value), loss(&input))
                });
                input[i] = middle;
                let slope = (high.1 - low.1) / (high.0 - low.0);
                let got = f64::from(grad_input[i]);
                assert!((got - slope).abs() < 1e-6, "{pooling:?} {layout} {i}: {got} for {slope}");
            }
        }
    }
}

#[test]
fn bad_buffers_and_options_are_errors() {
    let spec = PoolSpec::global(1, 2, 3, 3, Layout::Nchw).unwrap();
    let plan = PoolPlan::new(&spec, Pooling::Max, 1).unwrap();
    let (input, mut short) = (vec![0.0; 18], vec![0.0; 1]);
    let wrong = |buffer, actual, expected| Err(ConvError::BufferLength { buffer, actual, expected });
    assert_eq!(plan.run(&input, &mut short), wrong("output", 1, 2));
    assert_eq!(plan.run(&[], &mut [0.0; 2]), wrong("input", 0, 18));
    assert_eq!(plan.backward(&input, &short, &mut [0.0; 18]), wrong("grad_output", 1, 2));
    assert_eq!(plan.backward(&input, &[0.0; 2], &mut short), wrong("grad_input", 1, 18));
    assert!(matches!(
        PoolPlan::new(&spec, Pooling::Max, 0),
        Err(ConvError::Option { option: "threads", .. })
    ));
}
