//! Plans of one layer at many sizes: whatever size a plan was made for, resized it gives the bits of a plan of
//! its own.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use harness::data;
use harness::strategy::{Case, resizing_for};
use harness::verify::{check_run, forms, on_all_cores, output, same_bits};
use kernels::{ConvError, ConvSpec, Kernel, Layout, Plan, PlanOptions, Workspace, kernel};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

const CASES: u32 = 150;

/// Makes a plan for `origin`, resizes it to a case, and compares it with the definition and with a new plan of
/// the same kernel. Whether it gives the same bits as that one.
fn check(kernel: &dyn Kernel, origin: &ConvSpec, case: &Case) -> Result<bool, String> {
    let tensors = data::tensors(&case.spec, case.kind, case.seed);
    let first = kernel.plan(origin, &tensors.weights, &case.options).map_err(|e| e.to_string())?;
    let resized = first.resized(&case.spec).map_err(|e| e.to_string())?;
    let held = (first.kernel_id().to_owned(), first.packed_bytes());
    // The weights stay as long as one of the plans.
    drop(first);
    if (resized.kernel_id(), resized.packed_bytes(), resized.spec()) != (&held.0, held.1, &case.spec) {
        return Err(format!("{held:?} became {resized:?}"));
    }
    check_run(resized.as_ref(), case, &tensors)?;
    let new = kernels::kernel(resized.kernel_id())
        .and_then(|kernel| kernel.plan(&case.spec, &tensors.weights, &case.options))
        .map_err(|e| e.to_string())?;
    let facts = |plan: &dyn Plan| (plan.threads(), plan.error_model(), plan.flops(), plan.packed_bytes());
    let same = same_bits(
        &output(resized.as_ref(), case, &tensors).map_err(|e| e.to_string())?,
        &output(new.as_ref(), case, &tensors).map_err(|e| e.to_string())?,
    );
    // `direct` has two forms of packed weights, which sum in different orders; its own tests compare each.
    if resized.kernel_id().starts_with("direct/") {
        return Ok(same);
    }
    if facts(resized.as_ref()) != facts(new.as_ref()) || resized.workspace_len() != new.workspace_len() {
        return Err("a new plan has other threads, errors, operations, weights or scratch memory".to_owned());
    }
    if same { Ok(true) } else { Err("a new plan gives other bits".to_owned()) }
}

#[test]
fn random_sizes() {
    on_all_cores(&forms(), |kernel| {
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
        let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
        let (resized, same) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let mut runner = TestRunner::new_with_rng(config, rng);
        let result = runner.run(&resizing_for(kernel), |(origin, case)| {
            let bits = check(kernel, &origin, &case).map_err(TestCaseError::fail)?;
            resized.fetch_add(usize::from(origin != case.spec), Ordering::Relaxed);
            same.fetch_add(usize::from(bits), Ordering::Relaxed);
            Ok(())
        });
        assert!(result.is_ok(), "{}: {}", kernel.id(), result.unwrap_err());
        let (resized, same) = (resized.into_inner(), same.into_inner());
        assert!(resized > CASES as usize * 9 / 10, "{}: only {resized} are resized", kernel.id());
        assert!(same > CASES as usize / 2, "{}: only {same} have the bits of a new plan", kernel.id());
    });
}

/// Wherever one comes from, and however often: a size has one result.
#[test]
fn sizes_in_any_order() {
    for text in ["c40 h12 w12 o24 k3 p1", "c40 h12 w12 o24 k3 p1 nhwc"] {
        let one: ConvSpec = text.parse().unwrap();
        let weights: Vec<f32> = (0..one.weights_len()).map(|i| (i % 89) as f32 * 0.37 - 11.0).collect();
        for kernel in forms().into_iter().filter(|kernel| kernel.supports(&one).is_ok()) {
            let plan = kernel.plan(&one, &weights, &PlanOptions::default()).unwrap();
            let run = |plan: &dyn Plan| {
                let spec = plan.spec();
                let input: Vec<f32> = (0..spec.input_len()).map(|i| (i % 97) as f32 * 0.61 - 23.0).collect();
                let mut output = vec![0.0; spec.output_len()];
                plan.run(&input, None, &mut output, &mut Workspace::default()).unwrap();
                output
            };
            let before = run(plan.as_ref());
            let large = one.to_builder().batch(3).input_size(31, 17).build().unwrap();
            let grown = plan.resized(&large).unwrap();
            let again = grown.resized(&one).unwrap().resized(&large).unwrap();
            assert!(same_bits(&run(grown.as_ref()), &run(again.as_ref())), "{} on `{large}`", kernel.id());
            assert!(same_bits(&before, &run(plan.as_ref())), "{}: the first plan changed", kernel.id());
            let back = again.resized(&one).unwrap();
            assert!(same_bits(&before, &run(back.as_ref())), "{} on `{one}`", kernel.id());
        }
    }
}

#[test]
fn other_convolutions_are_refused_by_the_field_that_differs() {
    let spec: ConvSpec = "c4 h6 w6 o8 k3 p1".parse().unwrap();
    let plan = |id: &str, spec: &ConvSpec| {
        kernel(id).unwrap().plan(spec, &vec![1.0; spec.weights_len()], &PlanOptions::default()).unwrap()
    };
    let cases = [
        ("c6 h6 w6 o8 k3 p1", "in_channels", "6", "4"),
        ("c4 h6 w6 o2 k3 p1", "out_channels", "2", "8"),
        ("n2 c4 h6 w6 o8 k3x2 p1", "kernel", "3x2", "3x3"),
        ("c4 h9 w6 o8 k3 p1 s2x1", "stride", "2x1", "1x1"),
        ("c4 h6 w6 o8 k3 p2 d1x2", "dilation", "1x2", "1x1"),
        ("c4 h6 w6 o8 k3 p1 g4", "groups", "4", "1"),
        ("c4 h6 w6 o8 k3 p1 nhwc", "layout", "nhwc", "nchw"),
    ];
    for id in ["auto", "naive", "im2col-gemm", "direct", "winograd"] {
        let plan = plan(id, &spec);
        for (text, field, actual, expected) in cases {
            let error = plan.resized(&text.parse().unwrap()).unwrap_err();
            let want = ConvError::Resize { field, actual: actual.to_owned(), expected: expected.to_owned() };
            assert_eq!(error, want, "{id}");
            let start = format!("{field} is {actual}, but must stay {expected}");
            assert!(error.to_string().starts_with(&start), "{error}");
        }
    }
    // What the weights do not know of may change, all at once.
    let other: ConvSpec = "n3 c4 h9 w11 o8 k3 p0,1,2,3".parse().unwrap();
    assert_eq!(plan("winograd", &spec).resized(&other).unwrap().spec(), &other);
    assert!(plan("direct", &spec).resized(&spec.with_layout(Layout::Nhwc)).is_err());
}

/// A size that the kernel's method does not cover is a refusal as it is of a new plan.
#[test]
fn unsupported_sizes_are_refused() {
    let (mut refused, mut taken) = (HashSet::new(), HashSet::new());
    for (spec, size) in [
        // Rows that no band holds, and padding that a product in place cannot have.
        ("c64 h6 w6 o64 k3 p1", "c64 h6 w100000000 o64 k3 p1"),
        ("c6 h6 w6 o6 k3 p1 g6", "c6 h6 w100000000 o6 k3 p1 g6"),
        ("c64 h6 w6 o64 k1", "c64 h6 w6 o64 k1 p1"),
    ] {
        let (spec, size): (ConvSpec, ConvSpec) = (spec.parse().unwrap(), size.parse().unwrap());
        for kernel in forms().into_iter().filter(|kernel| kernel.supports(&spec).is_ok()) {
            let plan = kernel.plan(&spec, &vec![1.0; spec.weights_len()], &PlanOptions::default()).unwrap();
            let resized = plan.resized(&size);
            match kernels::kernel(plan.kernel_id()).unwrap().supports(&size) {
                Ok(()) => {
                    assert_eq!(resized.unwrap().spec(), &size, "{}", kernel.id());
                    taken.insert(kernel.algorithm());
                }
                Err(refusal) => {
                    assert_eq!(resized.unwrap_err(), ConvError::Unsupported(refusal));
                    refused.insert(kernel.algorithm());
                }
            }
        }
    }
    for algorithm in ["auto", "direct", "pointwise", "depthwise"] {
        assert!(refused.contains(algorithm), "{algorithm} refused nothing");
    }
    // Their scratch memory holds parts of rows.
    for algorithm in ["winograd", "winograd-f2", "winograd-f4", "winograd-f6", "im2col-gemm"] {
        assert!(taken.contains(algorithm) && !refused.contains(algorithm), "{algorithm} refused a size");
    }
}
