//! What is missing, what fails and what gives out on the way to a GPU: each is a typed error, leaves nothing behind, and
//! kernels for CPUs go on. Tests that spoil the driver run in processes of their own.

use std::process::Command;
use std::sync::Arc;

use harness::data::{self, Kind, Tensors};
use kernels::cuda::cudarc::driver::{DriverError, sys};
use kernels::cuda::{Device, DevicePlan, availability};
use kernels::{Accuracy, ConvError, ConvSpec, PlanOptions, Unavailable, Workspace, kernel};

use super::device;
use super::properties::gpu_kernels;
use super::standin::{CHILD, StandIn, stand_in};

/// Runs an ignored test of this file in a process of its own; what it printed.
fn in_child(test: &str, variables: &[(&str, &str)]) -> String {
    let test = format!("cuda::faults::{test}");
    let output = Command::new(std::env::current_exe().unwrap())
        .args([&test, "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{test} with {variables:?} ends with {}:\n{text}", output.status);
    assert!(text.contains("1 passed"), "{test} was not run:\n{text}");
    text.into_owned()
}

const SPEC: &str = "c8 h9 w10 o12 k3 p1";

fn tensors(text: &str) -> (ConvSpec, Tensors) {
    let spec: ConvSpec = text.parse().unwrap();
    (spec, data::tensors(&spec, Kind::Integer, 5))
}

/// A convolution by a kernel of the list; small integers, so that all that sum agree bit for bit.
fn convolve(id: &str, spec: &ConvSpec, tensors: &Tensors) -> Result<Vec<f32>, ConvError> {
    let plan = kernel(id)?.plan(spec, &tensors.weights, &PlanOptions::default())?;
    let mut output = vec![f32::NAN; spec.output_len()];
    plan.run(&tensors.input, Some(&tensors.bias), &mut output, &mut Workspace::default())?;
    Ok(output)
}

/// Kernels for CPUs work, whatever has become of the GPU.
fn cpu_goes_on() {
    let (spec, tensors) = tensors(SPEC);
    let want = convolve("naive", &spec, &tensors).unwrap();
    for id in ["auto", "direct", "im2col-gemm"] {
        assert_eq!(convolve(id, &spec, &tensors).unwrap(), want, "{id}");
    }
}

// ---- What is missing ----------------------------------------------------------------------------------------------

#[test]
fn what_is_missing_is_a_reason() {
    let Some(stand_in) = stand_in() else { return };
    let nvrtc = stand_in.folder.join("libnvrtc.so.13");
    let cases: &[(&str, &str, &str)] = &[
        ("CONV_CUDA_DRIVER", "/nowhere/libcuda.so.1", "/nowhere/libcuda.so.1 could not be loaded"),
        ("CONV_CUDA_DRIVER", nvrtc.to_str().unwrap(), "has no cu"),
        ("CONV_EMULATED", "devices=0", "finds no GPU"),
        ("CONV_EMULATED", "version=11080", "supports CUDA 11.8, but must be one that supports 12.0"),
        ("CONV_EMULATED", "capability=61", "no longer knows compute capability 6.1"),
        ("CONV_EMULATED_FAIL", "cuInit:0:999", "cuInit says CUDA_ERROR_UNKNOWN"),
        ("CONV_EMULATED_FAIL", "cuInit:0:803", "cuInit says CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"),
        ("CONV_EMULATED_FAIL", "cuDriverGetVersion:0:34", "cuDriverGetVersion says CUDA_ERROR_STUB_LIBRARY"),
        ("CONV_EMULATED_FAIL", "cuDeviceGetCount:0:3", "cuDeviceGetCount says CUDA_ERROR_NOT_INITIALIZED"),
        (
            "CONV_EMULATED_FAIL",
            "cuDeviceGetAttribute:2:1",
            "cuDeviceGetAttribute says CUDA_ERROR_INVALID_VALUE",
        ),
        ("CONV_EMULATED_FAIL", "cuDeviceGetName:0:12345", "cuDeviceGetName says error 12345"),
        ("CONV_NVRTC", "/nowhere/libnvrtc.so.13", "NVRTC could not be loaded: /nowhere/libnvrtc.so.13"),
        ("CONV_EMULATED_NVRTC", "version=11080", "NVRTC 11.8 is too old"),
        ("CONV_EMULATED_NVRTC", "version=14000", "NVRTC 14.0 is too new for the driver"),
    ];
    for &(variable, value, reason) in cases {
        let text = in_child("child_has_no_gpu", &[(variable, value)]);
        assert!(text.contains(reason), "{variable}={value}: no `{reason}` in\n{text}");
        assert!(!text.contains("panicked"), "{variable}={value}:\n{text}");
    }
}

#[test]
#[ignore = "run by another test in a process of its own"]
fn child_has_no_gpu() {
    let Some(_) = stand_in() else { return };
    let (spec, tensors) = tensors(SPEC);
    let reason = availability().unwrap_err();
    println!("{reason}");
    for kernel in gpu_kernels() {
        assert_eq!(kernel.availability(), Err(reason.clone()));
        let error = ConvError::Unavailable { kernel: kernel.id().to_owned(), reason: reason.clone() };
        assert_eq!(convolve(kernel.id(), &spec, &tensors), Err(error));
    }
    assert_eq!(Device::get(0).unwrap_err(), reason);
    cpu_goes_on();
}

/// A GPU that is too old for tensor cores, and one of which the compiler does not know yet.
#[test]
fn old_and_new_gpus() {
    let Some(_) = stand_in() else { return };
    in_child("child_is_old", &[("CONV_EMULATED", "capability=75,shared=65536,multiprocessors=40")]);
    in_child("child_is_new", &[("CONV_EMULATED", "capability=130,version=13010")]);
}

#[test]
#[ignore = "run by another test in a process of its own"]
fn child_is_old() {
    let Some(_) = stand_in() else { return };
    let (spec, tensors) = tensors("c16 h9 w10 o12 k3 p1 nhwc");
    let want = convolve("naive", &spec, &tensors).unwrap();
    for id in ["cuda", "cuda-fp32"] {
        assert_eq!(convolve(id, &spec, &tensors).unwrap(), want, "{id}");
    }
    for id in ["cuda-tf32", "cuda-tf32x3", "cuda-bf16"] {
        let error = convolve(id, &spec, &tensors).unwrap_err();
        let ConvError::Unavailable { reason: Unavailable::ComputeCapability { actual, needed, .. }, .. } =
            error
        else {
            panic!("{id}: {error}");
        };
        assert_eq!((actual, needed), ((7, 5), (8, 0)), "{id}");
    }
}

#[test]
#[ignore = "run by another test in a process of its own"]
fn child_is_new() {
    let Some(_) = stand_in() else { return };
    let (spec, tensors) = tensors(SPEC);
    assert_eq!(Device::get(0).unwrap().compute_capability(), (13, 0));
    assert_eq!(convolve("cuda", &spec, &tensors).unwrap(), convolve("naive", &spec, &tensors).unwrap());
}

/// Kernels that cannot be compiled or loaded, contexts and streams that cannot be had.
#[test]
fn what_fails_on_the_way_to_a_plan_is_an_error() {
    let Some(_) = stand_in() else { return };
    let cases: &[(&str, &str, &str)] = &[
        ("CONV_EMULATED_FAIL", "cuDevicePrimaryCtxRetain:0:2", "CUDA_ERROR_OUT_OF_MEMORY"),
        ("CONV_EMULATED_FAIL", "cuCtxSetCurrent:0:201", "CUDA_ERROR_INVALID_CONTEXT"),
        ("CONV_EMULATED_FAIL", "cuStreamCreate:0:2", "CUDA_ERROR_OUT_OF_MEMORY"),
        ("CONV_EMULATED_FAIL", "cuModuleLoadData:0:200", "cuModuleLoadData says CUDA_ERROR_INVALID_IMAGE"),
        (
            "CONV_EMULATED_FAIL",
            "cuModuleLoadData:0:209",
            "cuModuleLoadData says CUDA_ERROR_NO_BINARY_FOR_GPU",
        ),
        ("CONV_EMULATED_FAIL", "cuModuleGetFunction:0:500", "cuModuleGetFunction says CUDA_ERROR_NOT_FOUND"),
        ("CONV_EMULATED_NVRTC", "fail=6", "error: told to fail"),
        ("CONV_EMULATED_NVRTC", "fail=1", "NVRTC_ERROR_OUT_OF_MEMORY"),
    ];
    for &(variable, value, reason) in cases {
        let text = in_child("child_makes_no_plan", &[(variable, value), ("CONV_CUDA_CACHE", "")]);
        assert!(text.contains(reason), "{variable}={value}: no `{reason}` in\n{text}");
        assert!(!text.contains("panicked"), "{variable}={value}:\n{text}");
    }
}

#[test]
#[ignore = "run by another test in a process of its own"]
fn child_makes_no_plan() {
    let Some(stand_in) = stand_in() else { return };
    let (spec, tensors) = tensors(SPEC);
    assert_eq!(availability(), Ok(()));
    for _ in 0..2 {
        let error = convolve("cuda-fp32", &spec, &tensors).unwrap_err();
        println!("{error}");
        cpu_goes_on();
    }
    assert_eq!(stand_in.nvrtc("programs"), 0);
}

// ---- What fails on the way ----------------------------------------------------------------------------------------

/// The driver's functions that a plan calls after it has a device.
const CALLS: &[&str] = &[
    "cuCtxSetCurrent",
    "cuCtxSynchronize",
    "cuMemAllocAsync",
    "cuMemFreeAsync",
    "cuMemsetD8Async",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamSynchronize",
    "cuLaunchKernel",
];

/// Everything that plans do, on slices of the host and on buffers of the device.
fn scenario(spec: &ConvSpec, tensors: &Tensors, want: &[f32], more: &[f32]) -> Result<(), String> {
    let text = |e: ConvError| format!("{e:?}");
    let options = PlanOptions::default();
    let plan = kernel("cuda-fp32").map_err(text)?.plan(spec, &tensors.weights, &options).map_err(text)?;
    let mut output = vec![f32::NAN; spec.output_len()];
    let bias = Some(&tensors.bias[..]);
    plan.run(&tensors.input, bias, &mut output, &mut Workspace::default()).map_err(text)?;
    assert_eq!(output, want);
    let twice = spec.with_batch(2).unwrap();
    let input = [&tensors.input[..], &tensors.input[..]].concat();
    let mut output = vec![f32::NAN; twice.output_len()];
    let resized = plan.resized(&twice).map_err(text)?;
    resized.run(&input, bias, &mut output, &mut Workspace::default()).map_err(text)?;
    assert_eq!(output, more);
    let device = Device::get(0).map_err(|e| format!("{e:?}"))?;
    let plan = DevicePlan::new("cuda", &device, spec, &tensors.weights, bias, &options).map_err(text)?;
    assert_eq!(device::run(&plan, tensors, false)?, want);
    Ok(())
}

/// What lives on the device, but for its kernels: those that were loaded once stay.
fn living(stand_in: &StandIn) -> Vec<(&'static str, i64)> {
    ["buffers", "bytes", "pinned", "streams", "events", "graphs"]
        .map(|name| (name, stand_in.get(name)))
        .to_vec()
}

#[test]
fn each_call_of_the_driver_may_fail() {
    let Some(_) = stand_in() else { return };
    let text = in_child("child_has_calls_that_fail", &[]);
    let planted: usize =
        text.lines().find_map(|line| line.strip_prefix("failures planted: ")?.parse().ok()).unwrap();
    println!("{planted} failures planted");
    assert!(planted >= 60, "{planted}");
}

#[test]
#[ignore = "run by another test in a process of its own"]
fn child_has_calls_that_fail() {
    /// CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_OUT_OF_MEMORY: neither ends the use of the device.
    const CODES: [i32; 2] = [1, 2];
    let Some(stand_in) = stand_in() else { return };
    // Split into parts, so that there are two launches and scratch memory.
    let (spec, tensors) = tensors("c260 h5 w5 o12 k3 p1");
    let want = convolve("naive", &spec, &tensors).unwrap();
    let more = [&want[..], &want[..]].concat();
    let scenario = || scenario(&spec, &tensors, &want, &more);
    scenario().unwrap();
    let mut planted = 0;
    for &function in CALLS {
        for code in CODES {
            for after in 0.. {
                // What releases that failed have left is there for good.
                let before = living(stand_in);
                let calls = stand_in.get(function);
                stand_in.fail(function, after, code);
                let outcome = scenario();
                stand_in.fail(function, -1, 0);
                if stand_in.get(function) - calls <= after {
                    assert_eq!(outcome, Ok(()), "{function} was not called {after} times");
                    break;
                }
                planted += 1;
                let release =
                    ["cuMemFreeAsync", "cuStreamDestroy_v2", "cuCtxSynchronize"].contains(&function);
                match &outcome {
                    // A release has nobody to tell; a later call may.
                    Ok(()) => {
                        assert!(release || function == "cuCtxSetCurrent", "{function} failed unnoticed")
                    }
                    Err(text) => {
                        let told = [
                            "Device {",
                            "DeviceOutOfMemory {",
                            "DriverError(",
                            "DriverFailed {",
                            "the CUDA driver's ",
                            "of the GPU's memory could not be had",
                        ];
                        assert!(told.iter().any(|start| text.contains(start)), "{function}, {code}: {text}");
                    }
                }
                // What a release failed to tell comes with the next call that asks.
                if release || function == "cuCtxSetCurrent" {
                    let _ = scenario();
                }
                assert_eq!(scenario(), Ok(()), "after {function} failed with {code} at call {after}");
                cpu_goes_on();
                if !release && function != "cuCtxSetCurrent" {
                    assert_eq!(living(stand_in), before, "{function} failed with {code} at call {after}");
                }
            }
        }
    }
    println!("failures planted: {planted}");
}

/// An error that ends the use of the device comes back from everything that needs it, and from nothing else.
#[test]
fn a_lost_device_is_an_error() {
    let Some(_) = stand_in() else { return };
    for (function, code, name) in [
        ("cuLaunchKernel", "700", "CUDA_ERROR_ILLEGAL_ADDRESS"),
        ("cuStreamSynchronize", "719", "CUDA_ERROR_LAUNCH_FAILED"),
        ("cuMemcpyDtoHAsync_v2", "999", "CUDA_ERROR_UNKNOWN"),
        ("cuMemcpyHtoDAsync_v2", "716", "CUDA_ERROR_MISALIGNED_ADDRESS"),
        ("cuMemAllocAsync", "214", "CUDA_ERROR_ECC_UNCORRECTABLE"),
    ] {
        let variables = [("CONV_TEST_CALL", function), ("CONV_TEST_CODE", code)];
        let text = in_child("child_loses_the_device", &variables);
        assert!(text.contains(name) && !text.contains("panicked"), "{function} with {code}:\n{text}");
    }
}

#[test]
#[ignore = "run by another test in a process of its own"]
fn child_loses_the_device() {
    let Some(stand_in) = stand_in() else { return };
    let call = std::env::var("CONV_TEST_CALL").unwrap_or_else(|_| "cuLaunchKernel".to_owned());
    let code: i32 = std::env::var("CONV_TEST_CODE").map_or(700, |code| code.parse().unwrap());
    let (spec, tensors) = tensors(SPEC);
    let options = PlanOptions::default();
    let device = Device::get(0).unwrap();
    let on_device = DevicePlan::new("cuda", &device, &spec, &tensors.weights, None, &options).unwrap();
    // Not run yet: its buffers are still to be made.
    let plan = kernel("cuda").unwrap().plan(&spec, &tensors.weights, &options).unwrap();
    let stream = device.context().new_stream().unwrap();
    let input = stream.clone_htod(&tensors.input[..]).unwrap();
    let mut output = stream.alloc_zeros::<f32>(spec.output_len()).unwrap();
    let mut scratch = stream.alloc_zeros::<f32>(on_device.scratch_len().max(1)).unwrap();

    stand_in.fail(&call, 0, code);
    stand_in.set("lost", i64::from(code));
    let mut host = vec![0.0; spec.output_len()];
    let lost = |outcome: Result<(), ConvError>, what: &str| match outcome {
        Err(error @ ConvError::DeviceLost { .. }) => println!("{what}: {error}"),
        other => panic!("{what}: {other:?}"),
    };
    lost(plan.run(&tensors.input, None, &mut host, &mut Workspace::default()), "run");
    {
        let (mut to, mut scratch) = (output.as_view_mut(), scratch.as_view_mut());
        lost(on_device.enqueue(&stream, &input.as_view(), &mut to, Some(&mut scratch)), "enqueue");
    }
    lost(plan.resized(&spec.with_batch(2).unwrap()).map(|_| ()), "resized");
    lost(on_device.resized(&spec.with_batch(2).unwrap()).map(|_| ()), "resized on the device");
    lost(
        DevicePlan::new("cuda", &device, &spec, &tensors.weights, None, &options).map(|_| ()),
        "a new plan on the device",
    );
    let error = convolve("cuda", &spec, &tensors).unwrap_err();
    let gone = |reason: &Unavailable| matches!(reason, Unavailable::DeviceLost { .. });
    assert!(matches!(&error, ConvError::Unavailable { reason, .. } if gone(reason)), "{error}");
    assert!(gone(&Device::get(0).unwrap_err()));
    assert!(gone(&kernel("cuda").unwrap().availability().unwrap_err()));
    cpu_goes_on();
    // Other GPUs, and a driver that has come to itself, change nothing for this one.
    stand_in.fail(&call, -1, 0);
    stand_in.set("lost", 0);
    lost(plan.run(&tensors.input, None, &mut host, &mut Workspace::default()), "run");
    let other = Device::get(1).unwrap();
    let plan_there = DevicePlan::new("cuda", &other, &spec, &tensors.weights, Some(&tensors.bias), &options);
    let want = convolve("naive", &spec, &tensors).unwrap();
    assert_eq!(device::run(&plan_there.unwrap(), &tensors, false).unwrap(), want);
    drop((plan, on_device, input, output, scratch, stream));
    cpu_goes_on();
}

/// What a run that was only enqueued reads is there when it runs, even if nobody could wait for it.
#[test]
fn weights_stay_while_they_may_be_read() {
    let Some(_) = stand_in() else { return };
    in_child("child_drops_plans_that_are_read", &[]);
}

#[test]
#[ignore = "run by another test in a process of its own"]
fn child_drops_plans_that_are_read() {
    let Some(_) = stand_in() else { return };
    let (spec, tensors) = tensors(SPEC);
    let want = convolve("naive", &spec, &tensors).unwrap();
    let device = Device::get(0).unwrap();
    let (context, bias) = (device.context(), Some(&tensors.bias[..]));
    let plan =
        || DevicePlan::new("cuda-fp32", &device, &spec, &tensors.weights, bias, &PlanOptions::default());
    for captures in [false, true] {
        let (stream, captured) = (context.new_stream().unwrap(), context.new_stream().unwrap());
        let input = stream.clone_htod(&tensors.input[..]).unwrap();
        let mut output = stream.alloc_zeros::<f32>(spec.output_len()).unwrap();
        let dropped = plan().unwrap();
        let mut scratch = stream.alloc_zeros::<f32>(dropped.scratch_len().max(1)).unwrap();
        let (mut to, mut scratch) = (output.as_view_mut(), scratch.as_view_mut());
        dropped.enqueue(&stream, &input.as_view(), &mut to, Some(&mut scratch)).unwrap();
        if captures {
            // Nothing may be waited for.
            let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
            captured.begin_capture(mode).unwrap();
            drop(dropped);
            assert!(captured.end_capture(sys::CUgraphInstantiate_flags(0)).is_err());
        } else {
            // Somebody else's failure, which comes with the next call of cudarc's.
            context.record_err(Err::<(), _>(DriverError(sys::CUresult::CUDA_ERROR_INVALID_VALUE)));
            drop(dropped);
        }
        // What plans were loaded by goes on, and with it what they have given back.
        let _other = plan().unwrap();
        let got = stream.clone_dtoh(&output).unwrap();
        stream.synchronize().unwrap();
        assert_eq!(got, want, "with a capture: {captures}");
    }
}

/// A GPU whose products of warpgroups are wrong is found out before a plan uses them; what runs instead is right.
#[test]
fn wrong_products_of_warpgroups_are_not_used() {
    let Some(_) = stand_in() else { return };
    in_child("child_has_right_products", &[]);
    in_child("child_has_wrong_products", &[("CONV_EMULATED", "wrong_products=1")]);
}

/// What warpgroups multiply on GPUs that have them, in both layouts.
const FOR_WARPGROUPS: [&str; 2] = ["c8 h9 w10 o40 k3 p1", "c8 h9 w10 o40 k3 p1 nhwc"];

/// Plans and runs; whether warpgroups multiply.
fn by_warpgroups(id: &str, device: &Arc<Device>, text: &str) -> bool {
    let (spec, tensors) = tensors(text);
    let options = PlanOptions { accuracy: Accuracy::Relaxed, ..Default::default() };
    let plan = DevicePlan::new(id, device, &spec, &tensors.weights, Some(&tensors.bias), &options).unwrap();
    let got = super::device::run(&plan, &tensors, false).unwrap();
    assert_eq!(got, convolve("naive", &spec, &tensors).unwrap(), "{id} on `{text}`");
    plan.functions().any(|name| name.contains("warpgroups"))
}

#[test]
#[ignore = "run by another test in a process of its own"]
fn child_has_right_products() {
    let Some(stand_in) = stand_in() else { return };
    let (hopper, ampere) = (Device::get(1).unwrap(), Device::get(3).unwrap());
    for id in ["cuda-tf32x3", "cuda-tf32", "cuda-bf16"] {
        for text in FOR_WARPGROUPS {
            assert!(
                by_warpgroups(id, &hopper, text) && !by_warpgroups(id, &ampere, text),
                "{id} on `{text}`"
            );
        }
    }
    assert_eq!((hopper.distrusted(), ampere.distrusted()), (None, None));
    // A function that is first needed for another size, and wrong: the weights are packed for its like.
    let hopper = Device::get(0).unwrap();
    let (spec, tensors) = tensors("c8 h4 w4 o128 k1");
    let plan = |spec| {
        DevicePlan::new("cuda-tf32", &hopper, spec, &tensors.weights, None, &PlanOptions::default()).unwrap()
    };
    let small = plan(&spec);
    stand_in.set("wrong_products", 1);
    let large = spec.with_batch(4096).unwrap();
    let error = small.resized(&large).unwrap_err();
    assert!(error.to_string().contains("wrong results"), "{error}");
    assert!(hopper.distrusted().is_some_and(|name| name.contains("128x128")), "{:?}", hopper.distrusted());
    assert!(plan(&large).functions().all(|name| !name.contains("warpgroups")));
}

#[test]
#[ignore = "run by another test in a process of its own"]
fn child_has_wrong_products() {
    let Some(_) = stand_in() else { return };
    let hopper = Device::get(1).unwrap();
    for id in ["cuda-tf32x3", "cuda-tf32", "cuda-bf16"] {
        for text in FOR_WARPGROUPS {
            assert!(!by_warpgroups(id, &hopper, text), "{id} on `{text}`");
        }
    }
    let distrusted = hopper.distrusted().unwrap();
    assert!(distrusted.starts_with("conv_tf32x3_") && distrusted.ends_with("_warpgroups"), "{distrusted}");
}

/// The device's memory gives out for one convolution and is there for the next.
#[test]
fn memory_gives_out() {
    let Some(_) = stand_in() else { return };
    in_child("child_has_little_memory", &[("CONV_EMULATED", "memory=200000")]);
}

#[test]
#[ignore = "run by another test in a process of its own"]
fn child_has_little_memory() {
    let Some(stand_in) = stand_in() else { return };
    let (spec, tensors) = tensors(SPEC);
    let want = convolve("naive", &spec, &tensors).unwrap();
    assert_eq!(convolve("cuda", &spec, &tensors).unwrap(), want);
    let before = living(stand_in);
    let options = PlanOptions::default();
    // Weights that do not fit, then an input that does not.
    for (text, bytes) in [("c128 h3 w3 o64 k3 p1", 128 * 64 * 9 * 4), ("c1 h300 w300 o1 k3", 300 * 300 * 4)] {
        let large: ConvSpec = text.parse().unwrap();
        let other = data::tensors(&large, Kind::Integer, 1);
        let error = convolve("cuda-fp32", &large, &other).unwrap_err();
        let ConvError::DeviceOutOfMemory { bytes: asked } = error else { panic!("{text}: {error}") };
        assert!(asked >= bytes, "{text}: {asked} bytes");
        assert_eq!(living(stand_in), before, "{text}");
        assert_eq!(convolve("cuda", &spec, &tensors).unwrap(), want, "after {text}");
    }
    // Plans until there is no more, then again when they have gone.
    for _ in 0..2 {
        let mut plans = Vec::new();
        let error = loop {
            match kernel("cuda").unwrap().plan(&spec, &tensors.weights, &options) {
                Ok(plan) => plans.push(plan),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, ConvError::DeviceOutOfMemory { .. }) && plans.len() > 3, "{error}");
        drop(plans);
        assert_eq!(living(stand_in), before);
    }
    cpu_goes_on();
}

/// Plans that come and go leave nothing on the device.
#[test]
fn a_thousand_plans_leave_nothing() {
    let Some(_) = stand_in() else { return };
    in_child("child_makes_a_thousand_plans", &[]);
}

#[test]
#[ignore = "run by another test in a process of its own"]
fn child_makes_a_thousand_plans() {
    let Some(stand_in) = stand_in() else { return };
    let specs = ["c4 h5 w5 o6 k3 p1", "c8 h5 w5 o8 k1 nhwc", "c6 h5 w5 o6 k3 p1 g6"];
    let made = || {
        for text in specs {
            let (spec, tensors) = tensors(text);
            for kernel in gpu_kernels().into_iter().filter(|kernel| kernel.supports(&spec).is_ok()) {
                let plan = kernel.plan(&spec, &tensors.weights, &PlanOptions::default()).unwrap();
                let mut output = vec![0.0; spec.output_len()];
                plan.run(&tensors.input, None, &mut output, &mut Workspace::default()).unwrap();
                plan.resized(&spec.with_batch(2).unwrap()).unwrap();
            }
        }
    };
    made();
    let before = living(stand_in);
    let compiled = stand_in.nvrtc("compiled");
    let mut plans = 0;
    while plans < 1000 {
        made();
        plans += 3 * specs.len();
    }
    assert_eq!(living(stand_in), before);
    assert_eq!(stand_in.nvrtc("compiled"), compiled, "kernels were compiled again");
    assert_eq!(stand_in.nvrtc("programs"), 0);
}

/// Sizes beyond what kernels count are refused by name, before any memory is asked for.
#[test]
fn sizes_beyond_32_bits_are_refused() {
    let Some(_) = stand_in() else { return };
    for text in [
        "c1 h70000 w70000 o1 k3",
        "n70000 c1 h200 w200 o1 k1 nhwc",
        "c1 h40 w40 o2000000 k1",
        "n100000 c1 h1 w1 o30000 k1 nhwc",
        "c1 h1 w1 o1 k1 p50000",
        "c2 h3 w1 o2 k3x1 p2000000000,0,2000000000,0 d2000000000x1 s2000000000x1",
    ] {
        let Ok(spec) = text.parse::<ConvSpec>() else { panic!("`{text}` is no convolution") };
        for kernel in gpu_kernels() {
            let refusal = kernel.supports(&spec).expect_err(kernel.id());
            let weights = vec![0.0; spec.weights_len()];
            let error = kernel.plan(&spec, &weights, &PlanOptions::default()).unwrap_err();
            assert_eq!(error, ConvError::Unsupported(refusal), "{} on `{text}`", kernel.id());
        }
    }
}
