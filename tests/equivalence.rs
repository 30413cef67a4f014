//! Every kernel on every available instruction set equals the float64 definition: at least a thousand
//! random cases each, and every case that once failed.
//!
//! `CONV_REQUIRE_ISA=avx2,avx512` makes the run fail when one of those was not tested.

use std::fs;
use std::path::Path;

use harness::data::Kind;
use harness::strategy::Case;
use harness::verify::{Request, forms, missing_isas, on_all_cores, run_case, verify};
use kernels::{Activation, ConvSpec, PlanOptions};

const CASES: u64 = 1000;

#[test]
fn random_cases() {
    let request = Request { cases: CASES, seed: 20_240_601, gradient: None, kernels: Vec::new() };
    let summary = verify(&request, &|_| true);
    let failures: Vec<String> = summary.failures.iter().map(ToString::to_string).collect();
    assert!(failures.is_empty(), "{} kernels fail:\n{}", failures.len(), failures.join("\n"));
    assert_eq!(summary.counts.len(), forms().len());
    for count in &summary.counts {
        println!("{:24} {} cases", count.kernel, count.cases);
        assert_eq!(count.cases, CASES, "{}", count.kernel);
    }
}

#[test]
fn required_instruction_sets_are_tested() {
    let missing = missing_isas(&std::env::var("CONV_REQUIRE_ISA").unwrap_or_default());
    assert!(missing.is_empty(), "required, but not tested: {}", missing.join("; "));
}

#[test]
fn cases_that_once_failed() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/regressions.txt");
    let text = fs::read_to_string(path).unwrap();
    let specs: Vec<ConvSpec> = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .filter(|line| !line.is_empty())
        .map(|line| line.parse().unwrap_or_else(|error| panic!("`{line}`: {error}")))
        .collect();
    assert!(!specs.is_empty());
    on_all_cores(&forms(), |kernel| {
        for spec in specs.iter().filter(|spec| kernel.supports(spec).is_ok()) {
            for (kind, threads) in [(Kind::Integer, 1), (Kind::Real, 2), (Kind::Adversarial, 3)] {
                let options = PlanOptions {
                    threads,
                    activation: (threads == 2).then_some(Activation::Relu),
                    accumulate: threads == 3,
                    ..Default::default()
                };
                let case =
                    Case { spec: *spec, options, with_bias: threads > 1, kind, offset: threads, seed: 1 };
                if let Err(what) = run_case(kernel, &case) {
                    panic!("{} on `{spec}` ({kind:?}): {what}", kernel.id());
                }
            }
        }
    });
}
