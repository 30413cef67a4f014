//! Matrix products on every available instruction set equal their definition; what is refused.

use harness::matmul::{Case, case, run_case};
use kernels::matmul::{Matmul, Product, multiply};
use kernels::{Activation, ConvError, Isa, PlanOptions, SpecError};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

const CASES: u32 = 600;

fn isas() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.availability().is_ok())
}

#[test]
fn random_cases() {
    for isa in isas() {
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[13; 32]);
        let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
        let result = TestRunner::new_with_rng(config, rng)
            .run(&case(), |case| run_case(isa, &case).map_err(TestCaseError::fail));
        assert!(result.is_ok(), "{isa}: {}", result.unwrap_err());
    }
}

/// So many terms that threads are used: one row of many columns, many rows of few, and several passes.
#[test]
fn large_products_and_threads() {
    let plain = PlanOptions { threads: 3, ..Default::default() };
    let adding = PlanOptions { accumulate: true, activation: Some(Activation::Relu), ..plain };
    for isa in isas() {
        for (sizes, options) in [
            ([1, 700, 3000], plain),
            ([1, 700, 3000], adding),
            ([500, 10, 400], plain),
            ([120, 90, 300], plain),
        ] {
            for (transposed, packed) in [([true, false], false), ([false, true], true)] {
                let case = Case { sizes, transposed, packed, options, with_bias: true, offset: 3, seed: 1 };
                run_case(isa, &case).unwrap_or_else(|what| panic!("{isa}, {case:?}: {what}"));
            }
        }
    }
}

#[test]
fn bad_sizes_and_buffers_are_errors() {
    let options = PlanOptions::default();
    let wrong = |buffer, actual, expected| Err(ConvError::BufferLength { buffer, actual, expected });
    assert_eq!(Matmul::new(2, 3, &[0.0; 5], true, &options).map(|_| ()), wrong("b", 5, 6));
    assert_eq!(
        Matmul::new(0, 3, &[], true, &options).map(|_| ()),
        Err(ConvError::Spec(SpecError::Zero { field: "k" }))
    );
    let huge = Matmul::new(usize::MAX, 3, &[], true, &options).map(|_| ());
    assert!(matches!(huge, Err(ConvError::Spec(SpecError::Overflow { .. }))));
    let none = PlanOptions { threads: 0, ..options };
    assert!(matches!(
        Matmul::new(1, 1, &[0.0], true, &none),
        Err(ConvError::Option { option: "threads", .. })
    ));
    let plan = Matmul::new(2, 3, &[0.0; 6], false, &options).unwrap();
    assert_eq!(plan.run(&[0.0; 5], None, &mut [0.0; 6]), wrong("a", 5, 4));
    assert_eq!(plan.run(&[0.0; 4], None, &mut [0.0; 5]), wrong("c", 5, 6));
    assert_eq!(plan.run(&[0.0; 4], Some(&[0.0]), &mut [0.0; 6]), wrong("bias", 1, 3));
    assert_eq!(plan.run(&[], None, &mut []), Ok(()));
    let product = Product::new(2, 2, 2);
    assert_eq!(multiply(&product, &[0.0; 4], &[0.0; 3], &mut [0.0; 4], &options), wrong("b", 3, 4));
}
