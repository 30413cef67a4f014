//! Backward passes equal their definition: random cases for every kernel on every available instruction set, finite
//! differences, sizes that use threads and several blocks; what is refused.

use std::sync::atomic::{AtomicUsize, Ordering};

use harness::check::{Exactness, Sampling};
use harness::data;
use harness::gradients::{Case, case, run_data, run_weights, tensors, verdict};
use harness::oracle::Oracle;
use harness::record::Gradient;
use harness::verify::{forms, ids};
use kernels::backward::{DataPlan, Op, WeightsPlan, kernels_of};
use kernels::{ConvError, ConvSpec, ErrorModel, PlanOptions, Workspace, kernels};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

const CASES: u32 = 400;

fn on_random_cases(seed: u8, check: impl Fn(Case) -> Result<(), String>) -> Result<(), String> {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    TestRunner::new_with_rng(config, rng)
        .run(&case(), |case| check(case).map_err(TestCaseError::fail))
        .map_err(|error| error.to_string())
}

#[test]
fn random_gradients_by_data() {
    for kernel in forms() {
        let covered = AtomicUsize::new(0);
        let result = on_random_cases(17, |case| {
            covered.fetch_add(usize::from(run_data(kernel.id(), &case)?), Ordering::Relaxed);
            Ok(())
        });
        assert!(result.is_ok(), "{}: {}", kernel.id(), result.unwrap_err());
        let covered = covered.into_inner();
        println!("{:24} {covered} of {CASES} cases", kernel.id());
        let winograd = kernel.algorithm().starts_with("winograd");
        assert!(covered > 10 || winograd, "{}: only {covered} cases", kernel.id());
        let general = ["naive", "im2col-gemm"].contains(&kernel.algorithm());
        assert!(covered == CASES as usize || !general, "{}: only {covered} cases", kernel.id());
    }
}

#[test]
fn random_gradients_by_weights() {
    let products = ids(Some(Gradient::BackwardWeights));
    assert!(!products.is_empty());
    for id in products {
        let result = on_random_cases(19, |case| run_weights(id, &case));
        assert!(result.is_ok(), "{id}: {}", result.unwrap_err());
    }
}

/// Gradients by data of a size that Winograd takes, the phases of a stride among them, are within its own bound; what
/// is wrong is told.
#[test]
fn gradients_by_winograd_are_within_its_bound() {
    let specs = [
        "n2 c20 h13 w17 o35 k3 p1",
        "c33 h20 w9 o16 k3 p2,0,1,2 nhwc",
        "c24 h14 w14 o24 k5 p2 nhwc",
        // Phases of 4×4, 4×3, 3×4 and 3×3 taps; some rows meet nothing.
        "c16 h30 w30 o32 k7 s2 p3",
    ];
    let mut compared = 0;
    for spec in specs.map(|text| text.parse::<ConvSpec>().unwrap()) {
        let tensors = data::tensors(&spec, data::Kind::Real, 3);
        for kernel in forms() {
            let options = PlanOptions { threads: 2, accuracy: kernel.accuracy(), ..Default::default() };
            let Ok(plan) = DataPlan::new(kernel.id(), &spec, &tensors.weights, &options) else { continue };
            let mut grad_input = vec![f32::NAN; spec.input_len()];
            plan.run(&tensors.previous, None, &mut grad_input, &mut Workspace::default()).unwrap();
            let models: Vec<ErrorModel> = plan.error_models().collect();
            compared += models.iter().filter(|model| matches!(model, ErrorModel::Winograd { .. })).count();
            let judge = |grads: &[f32]| {
                let (of, all) = (Gradient::BackwardData, Sampling::All);
                verdict(of, &spec, &models, &tensors, grads, all, Exactness::Bound)
            };
            assert!(judge(&grad_input).is_right(), "{} on `{spec}`", kernel.id());
            *grad_input.last_mut().unwrap() += 1.0;
            let at = [spec.batch(), spec.in_channels(), spec.in_height(), spec.in_width()].map(|n| n - 1);
            assert_eq!(judge(&grad_input).mismatch.map(|mismatch| mismatch.position), Some(at));
        }
    }
    assert!(compared > 0 || !kernels().any(|kernel| kernel.algorithm().starts_with("winograd")));
}

/// The loss, a sum of outputs times their gradients, moves by the gradient where a pixel or a weight moves.
#[test]
fn gradients_are_finite_differences() {
    for text in [
        "n2 c2 h6 w5 o3 k3x2 s2x1 p1",
        "c4 h5 w6 o4 k3 p1 d2x1 g2 nhwc",
        "c3 h7 w7 o3 k2 s3 p0,1,2,0 g3",
        "c2 h4 w4 o2 k1 s2 nhwc",
    ] {
        let spec: ConvSpec = text.parse().unwrap();
        let case = Case {
            spec,
            threads: 1,
            with_bias: false,
            accumulate: false,
            integers: false,
            offset: 0,
            seed: 5,
        };
        let ours = tensors(&case);
        let mut tensors = data::tensors(&spec, data::Kind::Real, 7);
        let options = PlanOptions::default();
        let (mut by_data, mut by_weights) = (vec![0.0; spec.input_len()], vec![0.0; spec.weights_len()]);
        let (grads, mut workspace) = (&ours.grad_output, Workspace::default());
        let plan = DataPlan::new("auto", &spec, &tensors.weights, &options).unwrap();
        plan.run(grads, None, &mut by_data, &mut workspace).unwrap();
        let plan = WeightsPlan::new("auto", &spec, &options).unwrap();
        plan.run(&tensors.input, grads, &mut by_weights, None, &mut workspace).unwrap();
        let loss = |tensors: &data::Tensors| -> f64 {
            let oracle = Oracle::new(&spec, tensors, &options, false, ErrorModel::Sum { k: 1.0 });
            oracle.positions().map(|at| oracle.sum(at).value * f64::from(grads[oracle.index(at)])).sum()
        };
        for i in 0..spec.input_len() + spec.weights_len() {
            let by = i.checked_sub(spec.input_len());
            let mut values = [0.0; 2];
            for (value, step) in values.iter_mut().zip([-1.0, 2.0]) {
                // A step of one either way: the loss is linear in both.
                match by {
                    None => tensors.input[i] += step,
                    Some(weight) => tensors.weights[weight] += step,
                }
                *value = loss(&tensors);
            }
            let got = match by {
                None => {
                    tensors.input[i] -= 1.0;
                    by_data[i]
                }
                Some(weight) => {
                    tensors.weights[weight] -= 1.0;
                    by_weights[weight]
                }
            };
            let slope = (values[1] - values[0]) / 2.0;
            assert!((f64::from(got) - slope).abs() < 1e-3, "`{text}` {i}: {got} for {slope}");
        }
    }
}

/// Threads, several bands, filters in several blocks, images apart in scratch memory, more groups than threads.
#[test]
fn large_gradients() {
    for text in [
        "n2 c20 h64 w64 o40 k3 p1",
        "n2 c20 h64 w64 o40 k3 s2 p1 nhwc",
        "c260 h7 w7 o270 k3 p1",
        "n3 c64 h100 w100 o6 k2 s2",
        "n2 c40 h30 w30 o40 k3 p1 g40",
        "n2 c96 h24 w24 o48 k1 nhwc",
        // Rows that would collide, operands exchanged, strides; filters shared by threads, panels on cache lines.
        "n3 c96 h16 w32 o20 k1",
        "n2 c70 h40 w40 o24 k1 s2 nhwc",
        "n2 c70 h41 w41 o24 k1 s3",
        "n5 c64 h7 w7 o1600 k1",
        "c1104 h9 w9 o130 k1 s2",
        // Unrolled: parts of images, of rows, several images together, steps for which bands would be too large.
        "n2 c40 h33 w33 o130 k3 p1",
        "c3 h2 w1200 o130 k1x3 p0,1,0,1",
        "n5 c20 h6 w6 o130 k3 s2 p1 g1 nhwc",
        "c2300 h3 w3 o20 k4 p2",
    ] {
        let spec: ConvSpec = text.parse().unwrap();
        for integers in [true, false] {
            let case = Case {
                spec,
                threads: 3,
                with_bias: true,
                accumulate: integers,
                integers,
                offset: 3,
                seed: 2,
            };
            assert_eq!(run_data("auto", &Case { integers: false, ..case.clone() }).err(), None, "`{text}`");
            run_weights("auto", &case).unwrap_or_else(|what| panic!("`{text}`: {what}"));
        }
    }
}

#[test]
fn lists_and_refusals() {
    let forward: Vec<&str> = kernels().map(|kernel| kernel.id()).collect();
    assert_eq!(kernels_of(Op::Forward), forward);
    assert_eq!(kernels_of(Op::BackwardData), forward);
    assert!(kernels_of(Op::BackwardWeights).iter().all(|id| *id == "auto" || !forward.contains(id)));
    let spec: ConvSpec = "c2 h4 w4 o3 k3".parse().unwrap();
    let (weights, options) = (vec![0.0; spec.weights_len()], PlanOptions::default());
    let unknown = WeightsPlan::new("naive", &spec, &options).map(|_| ());
    assert!(matches!(unknown, Err(ConvError::UnknownKernel { .. })));
    let accumulate = PlanOptions { accumulate: true, ..options };
    let refused = DataPlan::new("auto", &spec, &weights, &accumulate).map(|_| ());
    assert!(matches!(refused, Err(ConvError::Option { option: "accumulate", .. })));
    let wrong = |buffer, actual, expected| Err(ConvError::BufferLength { buffer, actual, expected });
    assert_eq!(DataPlan::new("auto", &spec, &[0.0], &options).map(|_| ()), wrong("weights", 1, 54));
    let plan = DataPlan::new("auto", &spec, &weights, &options).unwrap();
    let mut workspace = Workspace::default();
    assert_eq!(plan.run(&[0.0], None, &mut [0.0; 32], &mut workspace), wrong("grad_output", 1, 12));
    assert_eq!(plan.run(&[0.0; 12], None, &mut [0.0; 31], &mut workspace), wrong("grad_input", 31, 32));
    let plan = WeightsPlan::new("auto", &spec, &options).unwrap();
    let mut to = vec![0.0; 54];
    assert_eq!(plan.run(&[0.0; 32], &[0.0; 12], &mut to, Some(&mut [0.0]), &mut workspace), {
        wrong("grad_bias", 1, 3)
    });
    let mut none = [];
    let short = plan.run(&[0.0; 32], &[0.0; 12], &mut to, None, &mut Workspace::from_slice(&mut none));
    assert!(matches!(short, Err(ConvError::WorkspaceTooSmall { .. })));
}
