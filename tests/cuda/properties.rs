//! Every kernel on random convolutions, and every device function in every schedule, against the float64 definition.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use harness::check::{Exactness, Sampling, verdict};
use harness::data::{self, Kind};
use harness::strategy::{Case, case_for};
use harness::verify::{on_all_cores, run_seed, same_bits};
use kernels::cuda::{Device, DevicePlan, functions};
use kernels::{ConvError, ConvSpec, Kernel, Layout, PlanOptions};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::standin::{SCHEDULES, StandIn, is_wanted, stand_in};

/// Random cases of each kernel.
const CASES: u64 = 36;

/// Runs of each function: one in each schedule, two of each kind of data.
const RUNS: usize = SCHEDULES;

/// Cases that are drawn in search of one for a function that has not had its runs.
const DRAWS: usize = 2000;

/// Sizes that random convolutions rarely have: large tiles full and with tails on both sides, windows of many rows or
/// columns, long reductions of few outputs. Each in both layouts.
const LARGE: [&str; 31] = [
    "c36 h8 w24 o124 k1",
    "c40 h8 w24 o128 k1",
    "c20 h8 w16 o30 k1",
    "c40 h8 w16 o128 k1",
    "c36 h8 w16 o64 k1",
    "c40 h8 w8 o128 k1",
    "c20 h8 w8 o64 k1",
    "c24 h8 w16 o32 k1",
    "c28 h10 w12 o120 k1",
    "n2 c16 h6 w10 o60 k1",
    "c12 h8 w8 o128 k3 p1",
    "c6 h20 w20 o200 k3 p1",
    "c8 h17 w19 o130 k3 p1",
    "n2 c4 h16 w16 o256 k3 p1",
    "n3 c8 h16 w17 o128 k3 s2 p1",
    "c20 h13 w21 o129 k1",
    "c16 h23 w23 o257 k1",
    "c12 h18 w18 o60 k3 p1",
    "n2 c16 h12 w13 o72 k2x3 p1",
    "c16 h12 w12 o128 k3 p1 g2",
    "c40 h12 w11 o260 k3x2 d2x1 p1 g2",
    "c3 h30 w25 o70 k17x3 p2",
    "c4 h24 w29 o140 k2x16 p3",
    "c1 h40 w23 o5 k18 p1",
    "c4 h40 w40 o8 k17x16 p4 s3 d2",
    "c300 h4 w4 o70 k3 p1",
    "c520 h3 w3 o130 k1",
    "c9 h40 w40 o16 k3 p1",
    "c5 h33 w34 o30 k3 p1",
    "n2 c32 h18 w20 o96 k3 p1",
    "c20 h31 w33 o20 k3 p1 g20",
];

/// The kernels that run on GPUs.
pub(crate) fn gpu_kernels() -> Vec<&'static dyn Kernel> {
    let all: Vec<_> = kernels::kernels().filter(|kernel| kernel.on_gpu()).collect();
    assert!(all.len() >= 7, "{all:?}");
    all
}

/// The stand-in, with which a kernel's fault fails one run and not all that come after it.
fn gentle() -> Option<&'static StandIn> {
    /// CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, which leaves the context as it is.
    const MILD: i64 = 701;
    let stand_in = stand_in()?;
    stand_in.set("fault", MILD);
    Some(stand_in)
}

/// The emulator finds the faults that it says it finds, and nothing where there is none.
#[test]
fn the_emulator_reports_faults() {
    let Some(stand_in) = stand_in() else { return };
    let output = Command::new(stand_in.folder.join("emulator-test")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn random_cases_of_every_kernel() {
    let Some(stand_in) = gentle() else { return };
    let kernels = gpu_kernels();
    let outcomes = on_all_cores(&kernels, |kernel| {
        assert_eq!(kernel.availability(), Ok(()));
        (0..CASES).find_map(|case| {
            stand_in.schedule(case as usize);
            run_seed(kernel, 20_261_126 + case).err()
        })
    });
    for kernel in &kernels {
        println!("{:16} {CASES} cases", kernel.id());
    }
    let failures: Vec<String> = outcomes.iter().flatten().map(ToString::to_string).collect();
    assert!(failures.is_empty(), "{} kernels fail:\n{}", failures.len(), failures.join("\n"));
}

/// Draws cases for every kernel on every emulated GPU until each function has had its runs; those with few
/// multiprocessors fill up on small problems, as large GPUs do on large ones.
#[test]
fn every_function_in_every_schedule() {
    let Some(stand_in) = gentle() else { return };
    let devices: Vec<_> = (0..5).map(|ordinal| Device::get(ordinal).unwrap()).collect();
    let names = functions().into_iter().map(|function| function.name).filter(|name| is_wanted(name));
    let runs: Mutex<BTreeMap<&str, usize>> = Mutex::new(names.map(|name| (name, 0)).collect());
    let failures = Mutex::new(Vec::new());
    let draws = AtomicUsize::new(0);
    let mut work: Vec<_> = gpu_kernels();
    work.retain(|kernel| kernel.id() != "cuda");
    on_all_cores(&work, |kernel| {
        let mut runner =
            TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]));
        let strategy = case_for(kernel);
        for draw in 0..DRAWS {
            if runs.lock().unwrap().values().all(|&runs| runs >= RUNS) || !failures.lock().unwrap().is_empty()
            {
                break;
            }
            draws.fetch_add(1, Ordering::Relaxed);
            let mut case = strategy.new_tree(&mut runner).unwrap().current();
            let device = &devices[draw % devices.len()];
            if draw / devices.len() % 2 == 0 {
                let at = draw / devices.len() / 2;
                let spec: ConvSpec = LARGE[at % LARGE.len()].parse().unwrap();
                let layout = [Layout::Nchw, Layout::Nhwc][at / LARGE.len() % 2];
                case.spec = spec.with_layout(layout);
                if kernel.supports(&case.spec).is_err() {
                    continue;
                }
            }
            let plan = match plan(kernel, device, &case, None) {
                Ok(plan) => plan,
                // Too old for some kernels, and of some functions there are only a few.
                Err(ConvError::Unavailable { .. } | ConvError::Unsupported(_)) => continue,
                Err(ConvError::DeviceCode { .. }) if only_a_few() && device.distrusted().is_none() => {
                    continue;
                }
                Err(e) => {
                    let on = format!("{} on GPU {}", kernel.id(), device.ordinal());
                    failures.lock().unwrap().push(format!("{on}, {case:?}: {e}"));
                    break;
                }
            };
            let fewest = {
                let mut runs = runs.lock().unwrap();
                let had = plan.functions().map(|name| runs[name]).min();
                let Some(fewest) = had.filter(|&fewest| fewest < RUNS) else { continue };
                plan.functions().for_each(|name| *runs.get_mut(name).unwrap() += 1);
                fewest
            };
            stand_in.schedule(fewest);
            case.kind = Kind::ALL[fewest / 2 % Kind::ALL.len()];
            if let Err(what) = check(kernel, device, &case) {
                let on = format!("{} on GPU {} (schedule {fewest})", kernel.id(), device.ordinal());
                failures.lock().unwrap().push(format!("{on}, {case:?}: {what}"));
            }
        }
    });
    let runs = runs.into_inner().unwrap();
    println!("{} cases drawn", draws.into_inner());
    for (name, count) in &runs {
        println!("{name:40} {count:4} runs, {:5} launches", stand_in.get(name));
    }
    let mut failures = failures.into_inner().unwrap();
    for device in devices {
        failures.extend(device.distrusted().map(|name| format!("{name} is wrong when it is tried")));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    // Of a few functions that were compiled alone not each may be what is taken.
    if only_a_few() {
        assert!(runs.values().sum::<usize>() >= RUNS, "the functions had only few runs");
        return;
    }
    for (name, count) in runs {
        assert!(count >= RUNS && stand_in.get(name) >= RUNS as i64, "{name} had only {count} runs");
    }
}

/// Whether only some functions were compiled.
fn only_a_few() -> bool {
    std::env::var_os("CONV_EMULATED_ONLY").is_some()
}

fn plan(
    kernel: &dyn Kernel,
    device: &std::sync::Arc<Device>,
    case: &Case,
    tensors: Option<&data::Tensors>,
) -> Result<DevicePlan, ConvError> {
    let zeros = vec![0.0; if tensors.is_none() { case.spec.weights_len() } else { 0 }];
    let weights = tensors.map_or(&zeros[..], |tensors| &tensors.weights[..]);
    let bias = tensors.filter(|_| case.with_bias).map(|tensors| &tensors.bias[..]);
    DevicePlan::new(kernel.id(), device, &case.spec, weights, bias, &case.options)
}

/// Sums of one sign, long enough that hardware which truncates would lose more than the bound allows if they were
/// not promoted to sums that round.
#[test]
fn long_sums_of_one_sign() {
    let Some(stand_in) = gentle() else { return };
    // With one multiprocessor: a reduction is not cut into shorter parts. The second one has no warpgroups.
    let devices = [1, 3].map(|ordinal| Device::get(ordinal).unwrap());
    let mut ran = 0;
    for text in ["c9600 h5 w5 o64 k1", "c9600 h5 w5 o64 k1 nhwc"] {
        let spec: ConvSpec = text.parse().unwrap();
        let mut tensors = data::tensors(&spec, Kind::Real, 11);
        for buffer in [&mut tensors.input, &mut tensors.weights] {
            buffer.iter_mut().enumerate().for_each(|(i, x)| *x = 0.5 + (i * 7919 % 4099) as f32 / 8192.0);
        }
        let kernels = gpu_kernels().into_iter().filter(|kernel| kernel.supports(&spec).is_ok());
        for (kernel, device) in kernels.flat_map(|kernel| devices.each_ref().map(|device| (kernel, device))) {
            let options = PlanOptions::default();
            let plan = match DevicePlan::new(kernel.id(), device, &spec, &tensors.weights, None, &options) {
                Ok(plan) => plan,
                // Where only a few functions were compiled.
                Err(_) if only_a_few() => continue,
                Err(e) => panic!("{}: {e}", kernel.id()),
            };
            if !plan.functions().all(is_wanted) {
                continue;
            }
            stand_in.schedule(ran);
            let output = super::device::run(&plan, &tensors, false).unwrap();
            let model = plan.error_model();
            let verdict =
                verdict(&spec, model, &tensors, false, &options, &output, Sampling::All, Exactness::Bound);
            let mismatch = verdict.mismatch.map(|mismatch| mismatch.to_string());
            assert_eq!(mismatch, None, "{} on `{text}`, GPU {}", kernel.id(), device.ordinal());
            ran += 1;
        }
    }
    println!("{ran} runs");
    assert!(ran >= 10 || only_a_few(), "{ran} runs");
}

/// Runs a case twice on buffers of the device, whose memory is NaN where nothing was written, and compares.
fn check(kernel: &dyn Kernel, device: &std::sync::Arc<Device>, case: &Case) -> Result<(), String> {
    let tensors = data::tensors(&case.spec, case.kind, case.seed);
    let plan = plan(kernel, device, case, Some(&tensors)).map_err(|e| e.to_string())?;
    let mut first: Option<Vec<f32>> = None;
    for _ in 0..2 {
        let output = super::device::run(&plan, &tensors, case.options.accumulate)?;
        let exactness = if case.kind == Kind::Integer { Exactness::Integers } else { Exactness::Bound };
        let verdict = verdict(
            &case.spec,
            plan.error_model(),
            &tensors,
            case.with_bias,
            &case.options,
            &output,
            Sampling::All,
            exactness,
        );
        if let Some(mismatch) = verdict.mismatch {
            return Err(mismatch.to_string());
        }
        if first.as_ref().is_some_and(|first| !same_bits(first, &output)) {
            return Err("a second run gives other bits".to_owned());
        }
        first = Some(output);
    }
    Ok(())
}
