//! Asks every kernel for a convolution, with or without a GPU: each runs or says why not, and nothing panics.

use kernels::cuda::{Device, DevicePlan, availability};
use kernels::{Accuracy, ConvSpec, Kernel, PlanOptions, kernels};

fn main() -> Result<(), kernels::ConvError> {
    match availability() {
        Ok(()) => println!("CUDA can be used"),
        Err(reason) => println!("{reason}"),
    }
    let spec: ConvSpec = "c8 h12 w12 o8 k3 p1".parse()?;
    let weights = vec![0.5; spec.weights_len()];
    let options = PlanOptions { accuracy: Accuracy::Relaxed, ..Default::default() };
    for kernel in kernels() {
        match run(kernel, &spec, &weights, &options) {
            // A pixel in the middle sees a whole window of ones: 3·3·8·0.5.
            Ok(middle) => println!("{}: {middle}, expected 36", kernel.id()),
            Err(reason) => println!("{reason}"),
        }
    }
    // A device of a number that no machine has, and one that may be there.
    for ordinal in [0, usize::MAX] {
        let plan = Device::get(ordinal)
            .map(|device| DevicePlan::new("cuda", &device, &spec, &weights, None, &options));
        match plan {
            Ok(plan) => println!("GPU {ordinal}: {}", plan?.kernel_id()),
            Err(reason) => println!("GPU {ordinal}: {reason}"),
        }
    }
    println!("came to its end");
    Ok(())
}

fn run(
    kernel: &dyn Kernel,
    spec: &ConvSpec,
    weights: &[f32],
    options: &PlanOptions,
) -> Result<f32, kernels::ConvError> {
    let plan = kernel.plan(spec, weights, options)?;
    let mut output = vec![0.0; spec.output_len()];
    plan.run(&vec![1.0; spec.input_len()], None, &mut output, &mut plan.workspace())?;
    Ok(output[6 * 12 + 6])
}
