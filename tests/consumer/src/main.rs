//! Links one kernel family and checks one number.

use kernels::{ConvSpec, PlanOptions, kernel};

fn main() -> Result<(), kernels::ConvError> {
    let spec: ConvSpec = "c3 h32 w32 o10 k5 p2".parse()?;
    let weights = vec![0.5; spec.weights_len()];
    let plan = kernel("direct")?.plan(&spec, &weights, &PlanOptions::default())?;
    let mut output = vec![0.0; spec.output_len()];
    plan.run(&vec![1.0; spec.input_len()], None, &mut output, &mut plan.workspace())?;
    // A pixel in the middle sees a whole window of ones: 5·5·3·0.5.
    assert_eq!(output[16 * 32 + 16], 37.5);
    println!("{} computed {spec}", plan.kernel_id());
    Ok(())
}
