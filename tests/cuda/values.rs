//! NaN and infinity on the GPU do what the definition says, wherever a kernel sums its products.

use kernels::{Activation, ConvSpec, ErrorModel, PlanOptions, Workspace, kernel};

use super::properties::gpu_kernels;
use super::standin::stand_in;

const SPECS: [&str; 7] = [
    "c5 h9 w11 o7 k3 p1",
    "c8 h9 w11 o7 k3 p1 nhwc",
    "c20 h8 w8 o33 k3",
    "c8 h10 w9 o8 k3 s2 p1 g8",
    "c8 h10 w9 o8 k3 p1 g8 nhwc",
    "c6 h7 w9 o10 k1 s2 nhwc",
    "c2 h12 w13 o3 k5x3 s1x2 p2,1 d1x2",
];

fn output(
    id: &str,
    spec: &ConvSpec,
    input: &[f32],
    weights: &[f32],
    bias: &[f32],
    options: &PlanOptions,
) -> Vec<f32> {
    let plan = kernel(id).unwrap().plan(spec, weights, options).unwrap();
    let mut output = vec![f32::NAN; spec.output_len()];
    plan.run(input, Some(bias), &mut output, &mut Workspace::default()).unwrap();
    output
}

/// An output of the kernel that is the definition, the same before its activation, and what may stand in its place.
fn agrees(want: f32, sum: f32, got: f32, model: ErrorModel) -> bool {
    // Transforms mix the outputs of a tile.
    let mixes = matches!(model, ErrorModel::Winograd { .. });
    if want.is_nan() {
        got.is_nan()
    } else if sum.is_infinite() {
        // They, and split operands, make infinities of both signs, and so a NaN of their sum.
        got == want || (!matches!(model, ErrorModel::Sum { .. }) && !got.is_finite())
    } else {
        // Small integers, which every kernel sums exactly or nearly.
        (got - want).abs() <= 1e-3 || (mixes && !got.is_finite())
    }
}

#[test]
fn special_values_reach_what_reads_them_and_nothing_else() {
    let Some(_) = stand_in() else { return };
    for text in SPECS {
        let spec: ConvSpec = text.parse().unwrap();
        let (ones, weights) = (vec![1.0; spec.input_len()], vec![1.0; spec.weights_len()]);
        let bias = vec![2.0; spec.out_channels()];
        for kernel in gpu_kernels().into_iter().filter(|kernel| kernel.supports(&spec).is_ok()) {
            let plan = kernel.plan(&spec, &weights, &PlanOptions::default()).unwrap();
            let model = plan.error_model();
            let compare =
                |what: &str, input: &[f32], weights: &[f32], bias: &[f32], options: &PlanOptions| {
                    let want = output("naive", &spec, input, weights, bias, options);
                    let sums = output("naive", &spec, input, weights, bias, &PlanOptions::default());
                    let got = output(kernel.id(), &spec, input, weights, bias, options);
                    for (i, ((&want, &sum), &got)) in want.iter().zip(&sums).zip(&got).enumerate() {
                        let id = kernel.id();
                        assert!(
                            agrees(want, sum, got, model),
                            "{id} on `{spec}`, {what}: output {i} is {got}, not {want}"
                        );
                    }
                };
            // Also a NaN of low bits alone, which formats of fewer bits do not have.
            let low_bits = f32::from_bits(0x7f80_0001);
            for value in [f32::NAN, -f32::NAN, low_bits, f32::INFINITY, f32::NEG_INFINITY] {
                for activation in [None, Some(Activation::Relu)] {
                    let options = PlanOptions { activation, ..Default::default() };
                    let mut input = ones.clone();
                    input[spec.input_len() / 2] = value;
                    compare(&format!("{value} in the input"), &input, &weights, &bias, &options);
                    let mut special = bias.clone();
                    special[spec.out_channels() / 2] = value;
                    compare(&format!("{value} in the bias"), &ones, &weights, &special, &options);
                    // Padding may be multiplied by it.
                    if spec.padding().top == 0 {
                        let mut special = weights.clone();
                        special[spec.weights_len() / 2] = value;
                        compare(&format!("{value} in the weights"), &ones, &special, &bias, &options);
                    }
                }
            }
            // Sums beyond the largest f32, and terms near it, but not so near that fewer bits round them to infinity.
            let options = PlanOptions::default();
            let largest = vec![3.0e38; spec.input_len()];
            let tiny = vec![0.0; spec.weights_len()];
            compare("large numbers times zero", &largest, &tiny, &bias, &options);
            let got = output(kernel.id(), &spec, &largest, &vec![4.0; spec.weights_len()], &bias, &options);
            assert!(got.iter().all(|y| !y.is_finite()), "{} on `{spec}` does not overflow", kernel.id());
        }
    }
}
