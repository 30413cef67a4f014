//! Plans on buffers of the device: streams, graphs, and what callers may get wrong.

use harness::data::{self, Kind, Tensors};
use kernels::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use kernels::cuda::{Device, DevicePlan};
use kernels::{Activation, ConvError, ConvSpec, PlanOptions, Workspace, kernel};

use super::standin::{StandIn, stand_in};

/// One convolution of each kind of kernel.
const SPECS: [(&str, &str); 7] = [
    ("cuda", "n2 c20 h9 w10 o24 k3 p1"),
    ("cuda-fp32", "n1 c260 h6 w6 o40 k3 p1 nhwc"),
    ("cuda-tf32x3", "n2 c16 h9 w9 o40 k3 s2 p1 nhwc"),
    ("cuda-tf32", "n2 c16 h9 w9 o40 k1 nhwc"),
    ("cuda-bf16", "n1 c32 h7 w9 o33 k3 p1"),
    ("cuda-winograd", "n2 c16 h9 w10 o24 k3 p1"),
    ("cuda-depthwise", "n2 c20 h9 w10 o20 k3 p1 g20"),
];

/// Runs a plan once on a stream of its own, on memory that holds NaN.
///
/// # Errors
/// What a call says.
pub(crate) fn run(plan: &DevicePlan, tensors: &Tensors, accumulate: bool) -> Result<Vec<f32>, String> {
    let text = |e: &dyn std::fmt::Debug| format!("{e:?}");
    let stream = plan.device().context().new_stream().map_err(|e| text(&e))?;
    let input = stream.clone_htod(&tensors.input[..]).map_err(|e| text(&e))?;
    // SAFETY: the driver fills new memory with NaN; whoever reads it before it is written will be noticed.
    let mut output = unsafe { stream.alloc::<f32>(plan.spec().output_len()) }.map_err(|e| text(&e))?;
    if accumulate {
        stream.memcpy_htod(&tensors.previous[..], &mut output).map_err(|e| text(&e))?;
    }
    // SAFETY: as above.
    let mut scratch = unsafe { stream.alloc::<f32>(plan.scratch_len().max(1)) }.map_err(|e| text(&e))?;
    plan.enqueue(&stream, &input.as_view(), &mut output.as_view_mut(), Some(&mut scratch.as_view_mut()))
        .map_err(|e| e.to_string())?;
    let mut result = vec![0.0; plan.spec().output_len()];
    stream.memcpy_dtoh(&output, &mut result).map_err(|e| text(&e))?;
    stream.synchronize().map_err(|e| text(&e))?;
    Ok(result)
}

/// What the ordinary plan of the same kernel gives for slices of the host.
fn on_host(id: &str, spec: &ConvSpec, tensors: &Tensors, options: &PlanOptions) -> Vec<f32> {
    let plan = kernel(id).unwrap().plan(spec, &tensors.weights, options).unwrap();
    let mut output = vec![f32::NAN; spec.output_len()];
    plan.run(&tensors.input, Some(&tensors.bias), &mut output, &mut Workspace::default()).unwrap();
    output
}

fn each(f: impl Fn(&StandIn, &str, &ConvSpec, &Tensors, &DevicePlan, &PlanOptions)) {
    let Some(stand_in) = stand_in() else { return };
    let device = Device::get(0).unwrap();
    for (id, text) in SPECS {
        let spec: ConvSpec = text.parse().unwrap();
        let tensors = data::tensors(&spec, Kind::Real, 3);
        let options = PlanOptions { activation: Some(Activation::Relu), ..Default::default() };
        let plan =
            DevicePlan::new(id, &device, &spec, &tensors.weights, Some(&tensors.bias), &options).unwrap();
        f(stand_in, id, &spec, &tensors, &plan, &options);
    }
}

/// Buffers of the device give the bits that slices of the host give, for a new plan and for a resized one.
#[test]
fn equals_the_plan_for_slices() {
    each(|_, id, spec, tensors, plan, options| {
        let want = on_host(id, spec, tensors, options);
        assert_eq!(run(plan, tensors, false).unwrap(), want, "{id}");
        let larger = spec.with_batch(3).unwrap();
        let more = data::tensors(&larger, Kind::Real, 4);
        let more = Tensors { weights: tensors.weights.clone(), bias: tensors.bias.clone(), ..more };
        let resized = plan.resized(&larger).unwrap();
        assert_eq!(run(&resized, &more, false).unwrap(), on_host(id, &larger, &more, options), "{id}");
    });
}

/// A captured run can be replayed on other inputs in the same buffers.
#[test]
fn runs_are_captured_and_replayed() {
    each(|_, id, spec, tensors, plan, options| {
        let stream = plan.device().context().new_stream().unwrap();
        let mut input = stream.clone_htod(&tensors.input[..]).unwrap();
        let mut output = stream.alloc_zeros::<f32>(spec.output_len()).unwrap();
        let mut scratch = stream.alloc_zeros::<f32>(plan.scratch_len().max(1)).unwrap();
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        let captured = plan.enqueue(
            &stream,
            &input.as_view(),
            &mut output.as_view_mut(),
            Some(&mut scratch.as_view_mut()),
        );
        let graph = stream.end_capture(CUgraphInstantiate_flags(0)).unwrap().unwrap();
        captured.unwrap();
        for seed in [3, 8, 9] {
            let other = data::tensors(spec, Kind::Real, seed);
            let other = Tensors { weights: tensors.weights.clone(), bias: tensors.bias.clone(), ..other };
            stream.memcpy_htod(&other.input[..], &mut input).unwrap();
            graph.launch().unwrap();
            let got = stream.clone_dtoh(&output).unwrap();
            stream.synchronize().unwrap();
            assert_eq!(got, on_host(id, spec, &other, options), "{id}");
        }
    });
}

/// Several threads may enqueue runs of one plan, each on a stream of its own.
#[test]
fn plans_are_shared_by_threads() {
    each(|_, id, spec, tensors, plan, options| {
        let want = on_host(id, spec, tensors, options);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| assert_eq!(run(plan, tensors, false).unwrap(), want, "{id}"));
            }
        });
    });
}

/// A plan may go while its run has only been enqueued.
#[test]
fn a_plan_may_go_before_its_run() {
    let Some(_) = stand_in() else { return };
    let device = Device::get(0).unwrap();
    for (id, text) in SPECS {
        let spec: ConvSpec = text.parse().unwrap();
        let tensors = data::tensors(&spec, Kind::Real, 3);
        let stream = device.context().new_stream().unwrap();
        let input = stream.clone_htod(&tensors.input[..]).unwrap();
        let mut output = stream.alloc_zeros::<f32>(spec.output_len()).unwrap();
        {
            let bias = Some(&tensors.bias[..]);
            let plan = DevicePlan::new(id, &device, &spec, &tensors.weights, bias, &PlanOptions::default());
            let plan = plan.unwrap();
            let mut scratch = stream.alloc_zeros::<f32>(plan.scratch_len().max(1)).unwrap();
            let (mut to, mut scratch) = (output.as_view_mut(), scratch.as_view_mut());
            plan.enqueue(&stream, &input.as_view(), &mut to, Some(&mut scratch)).unwrap();
        }
        let got = stream.clone_dtoh(&output).unwrap();
        stream.synchronize().unwrap();
        assert_eq!(got, on_host(id, &spec, &tensors, &PlanOptions::default()), "{id}");
    }
}

/// What is wrong with a call's buffers is said before anything is enqueued.
#[test]
fn wrong_buffers_are_refused() {
    each(|_, id, spec, tensors, plan, _| {
        let context = plan.device().context();
        let (stream, other) = (context.new_stream().unwrap(), context.new_stream().unwrap());
        let input = stream.clone_htod(&tensors.input[..]).unwrap();
        let mut output = stream.alloc_zeros::<f32>(spec.output_len()).unwrap();
        let len = plan.scratch_len();
        let mut scratch = stream.alloc_zeros::<f32>(len.max(1)).unwrap();
        let short = plan.enqueue(
            &stream,
            &input.slice(1..),
            &mut output.as_view_mut(),
            Some(&mut scratch.as_view_mut()),
        );
        let want = ConvError::BufferLength {
            buffer: "input",
            actual: spec.input_len() - 1,
            expected: spec.input_len(),
        };
        assert_eq!(short, Err(want), "{id}");
        let short = plan.enqueue(
            &stream,
            &input.as_view(),
            &mut output.slice_mut(1..),
            Some(&mut scratch.as_view_mut()),
        );
        assert!(matches!(short, Err(ConvError::BufferLength { buffer: "output", .. })), "{id}: {short:?}");
        if len > 0 {
            let none = plan.enqueue(&stream, &input.as_view(), &mut output.as_view_mut(), None);
            assert_eq!(none, Err(ConvError::WorkspaceTooSmall { actual: 0, needed: len }), "{id}");
        }
        let longer = stream.alloc_zeros::<f32>(spec.input_len() + 1).unwrap();
        let askew = plan.enqueue(
            &stream,
            &longer.slice(1..),
            &mut output.as_view_mut(),
            Some(&mut scratch.as_view_mut()),
        );
        assert_eq!(askew, Err(ConvError::Alignment { buffer: "input", actual: 4, expected: 16 }), "{id}");
        let foreign = plan.enqueue(
            &other,
            &input.as_view(),
            &mut output.as_view_mut(),
            Some(&mut scratch.as_view_mut()),
        );
        assert!(matches!(foreign, Err(ConvError::Stream { .. })), "{id}: {foreign:?}");
        let elsewhere = Device::get(1).unwrap().context().new_stream().unwrap();
        let foreign = plan.enqueue(
            &elsewhere,
            &input.as_view(),
            &mut output.as_view_mut(),
            Some(&mut scratch.as_view_mut()),
        );
        assert!(matches!(foreign, Err(ConvError::Stream { .. })), "{id}: {foreign:?}");
    });
}
