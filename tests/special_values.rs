//! What NaN and infinity do, as the front page of `kernels` says.

use harness::verify::forms;
use kernels::{Activation, ConvSpec, ErrorModel, Layout, PlanOptions, Workspace};

const SPECS: [&str; 8] = [
    "c5 h9 w11 o7 k3 p1",
    "c5 h9 w11 o7 k3 p1 nhwc",
    "c20 h8 w8 o33 k3",
    "c8 h10 w9 o8 k3 s2 p1 g8",
    "c8 h10 w9 o8 k3 p1 g8 nhwc",
    "c6 h7 w9 o10 k1",
    "c6 h7 w9 o10 k1 s2 nhwc",
    "c2 h12 w13 o3 k5x3 s1x2 p2,1 d1x2",
];

fn index(spec: &ConvSpec, shape: [usize; 4], [n, c, y, x]: [usize; 4]) -> usize {
    match (spec.layout(), shape) {
        (Layout::Nchw, [_, channels, h, w]) => ((n * channels + c) * h + y) * w + x,
        (Layout::Nhwc, [_, h, w, channels]) => ((n * h + y) * w + x) * channels + c,
    }
}

/// Whether the window of output (y, x) holds input (iy, ix).
fn holds(spec: &ConvSpec, [y, x]: [usize; 2], [iy, ix]: [usize; 2]) -> bool {
    let before = [spec.padding().top, spec.padding().left];
    (0..2).all(|axis| {
        let (out, at) = ([y, x][axis] * spec.stride()[axis], [iy, ix][axis] + before[axis]);
        at >= out
            && (at - out) % spec.dilation()[axis] == 0
            && (at - out) / spec.dilation()[axis] < spec.kernel()[axis]
    })
}

/// The values of an output for an input of ones with one other value in channel 1 at (4, 5).
fn with_value(
    value: f32,
    activation: Option<Activation>,
    check: impl Fn(&str, &ConvSpec, ErrorModel, [usize; 2], bool, f32),
) {
    for text in SPECS {
        let spec: ConvSpec = text.parse().unwrap();
        let mut input = vec![1.0; spec.input_len()];
        input[index(&spec, spec.input_shape(), [0, 1, 4, 5])] = value;
        let weights = vec![1.0; spec.weights_len()];
        for kernel in forms().into_iter().filter(|kernel| kernel.supports(&spec).is_ok()) {
            for threads in [1, 2] {
                let options = PlanOptions { threads, activation, ..Default::default() };
                let plan = kernel.plan(&spec, &weights, &options).unwrap();
                let mut output = vec![0.0; spec.output_len()];
                plan.run(&input, None, &mut output, &mut Workspace::default()).unwrap();
                let group = 1 / spec.group_in_channels();
                for o in 0..spec.out_channels() {
                    for y in 0..spec.out_height() {
                        for x in 0..spec.out_width() {
                            let reached =
                                o / spec.group_out_channels() == group && holds(&spec, [y, x], [4, 5]);
                            let got = output[index(&spec, spec.output_shape(), [0, o, y, x])];
                            check(kernel.id(), &spec, plan.error_model(), [y, x], reached, got);
                        }
                    }
                }
            }
        }
    }
}

/// Whether a value at (4, 5) may show at an output that does not read it: in Winograd's tiles.
fn may_spread(spec: &ConvSpec, model: ErrorModel, [y, x]: [usize; 2]) -> bool {
    let ErrorModel::Winograd { transform, .. } = model else { return false };
    let before = [spec.padding().top, spec.padding().left];
    (0..2).all(|axis| {
        let first = [y, x][axis] / transform.output * transform.output;
        let at = [4, 5][axis] + before[axis];
        at >= first && at < first + transform.output + transform.kernel - 1
    })
}

#[test]
fn nan_reaches_every_output_that_reads_it_and_no_other() {
    for activation in [None, Some(Activation::Relu), Some(Activation::Clamp { min: -1.0, max: 1.0 })] {
        with_value(f32::NAN, activation, |kernel, spec, model, at, reached, got| {
            if reached {
                assert!(got.is_nan(), "{kernel} on `{spec}` at {at:?}: {got}");
            } else if !may_spread(spec, model, at) {
                assert!(got.is_finite(), "{kernel} on `{spec}` at {at:?}: {got}");
            }
        });
    }
}

#[test]
fn infinity_reaches_every_output_that_reads_it_and_no_other() {
    for value in [f32::INFINITY, f32::NEG_INFINITY] {
        with_value(value, None, |kernel, spec, model, at, reached, got| match (reached, model) {
            (true, ErrorModel::Sum { .. }) => assert_eq!(got, value, "{kernel} on `{spec}` at {at:?}"),
            (true, _) => assert!(!got.is_finite(), "{kernel} on `{spec}` at {at:?}: {got}"),
            (false, _) if may_spread(spec, model, at) => {}
            (false, _) => assert!(got.is_finite(), "{kernel} on `{spec}` at {at:?}: {got}"),
        });
    }
}

#[test]
fn a_filter_with_nan_leaves_the_others_alone() {
    for text in SPECS {
        let spec: ConvSpec = text.parse().unwrap();
        let mut weights = vec![1.0; spec.weights_len()];
        weights[spec.weights_len() / spec.out_channels()] = f32::NAN; // of filter 1
        let input = vec![1.0; spec.input_len()];
        for kernel in forms().into_iter().filter(|kernel| kernel.supports(&spec).is_ok()) {
            let plan = kernel.plan(&spec, &weights, &PlanOptions::default()).unwrap();
            let mut output = vec![0.0; spec.output_len()];
            plan.run(&input, None, &mut output, &mut Workspace::default()).unwrap();
            let value =
                |o: usize, y: usize, x: usize| output[index(&spec, spec.output_shape(), [0, o, y, x])];
            for y in 0..spec.out_height() {
                for x in 0..spec.out_width() {
                    for o in (0..spec.out_channels()).filter(|&o| o != 1) {
                        assert!(value(o, y, x).is_finite(), "{} on `{spec}`: filter {o}", kernel.id());
                    }
                }
            }
            let middle = value(1, spec.out_height() / 2, spec.out_width() / 2);
            assert!(middle.is_nan(), "{} on `{spec}`: {middle}", kernel.id());
        }
    }
}

/// What the output held before matters only to a plan that accumulates.
#[test]
fn the_previous_output_is_not_read() {
    for text in SPECS {
        let spec: ConvSpec = text.parse().unwrap();
        let (input, weights) = (vec![1.0; spec.input_len()], vec![1.0; spec.weights_len()]);
        for kernel in forms().into_iter().filter(|kernel| kernel.supports(&spec).is_ok()) {
            let plan = kernel.plan(&spec, &weights, &PlanOptions::default()).unwrap();
            let mut output = vec![f32::NAN; spec.output_len()];
            plan.run(&input, None, &mut output, &mut Workspace::default()).unwrap();
            assert!(output.iter().all(|y| y.is_finite()), "{} on `{spec}`", kernel.id());
        }
    }
}
