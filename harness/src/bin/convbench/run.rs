//! `run`: a kernel on arrays from files.

use std::io::Write;

use harness::machine;
use harness::npy::{self, Array};
use harness::pinning::Pool;
use kernels::{Activation, ConvSpec, Padding, PlanOptions};

use crate::args::{self, LayoutArg, PaddingArg};
use crate::{Outcome, Stop, refused};

pub(crate) fn run(args: &args::Run, out: &mut dyn Write) -> Outcome {
    let kernel = kernels::kernel(&args.kernel).map_err(refused)?;
    kernel.availability().map_err(|reason| refused(format!("{} is not available: {reason}", kernel.id())))?;
    if args.output.is_dir() {
        return Err(refused(format!("{}: is a folder", args.output.display())));
    }
    let input = npy::read(&args.input, 4).map_err(refused)?;
    let weights = npy::read(&args.weights, 4).map_err(refused)?;
    let bias = args.bias.as_ref().map(|path| npy::read(path, 1)).transpose().map_err(refused)?;
    let spec = spec(args, &input, &weights)?;
    if let Some(bias) = &bias
        && bias.shape != [spec.out_channels()]
    {
        let want = spec.out_channels();
        return Err(refused(format!(
            "bias has {} values, but the weights have {want} filters",
            bias.shape[0]
        )));
    }
    kernel.supports(&spec).map_err(refused)?;
    machine::check_memory(&spec, 1, 1).map_err(refused)?;
    let options = PlanOptions {
        threads: args.threads,
        activation: args.relu.then_some(Activation::Relu),
        accuracy: args.accuracy.into(),
        ..Default::default()
    };
    let plan = kernel.plan(&spec, &weights.values, &options).map_err(refused)?;
    let pool = Pool::new(plan.threads()).map_err(refused)?;
    let mut output = vec![0.0; spec.output_len()];
    let mut workspace = plan.workspace();
    let bias = bias.as_ref().map(|bias| &bias.values[..]);
    pool.run(|| plan.run(&input.values, bias, &mut output, &mut workspace)).map_err(refused)?;
    npy::write(&args.output, &spec.output_shape(), &output).map_err(refused)?;
    let shape = spec.output_shape().map(|n| n.to_string()).join("x");
    Ok(writeln!(out, "{} computed {spec}: {shape} in {}", plan.kernel_id(), args.output.display())?)
}

fn spec(args: &args::Run, input: &Array, weights: &Array) -> Result<ConvSpec, Stop> {
    let [n, channels, height, width] = match (args.layout, &input.shape[..]) {
        (LayoutArg::Nchw, &[n, c, h, w]) | (LayoutArg::Nhwc, &[n, h, w, c]) => [n, c, h, w],
        _ => return Err(refused(format!("input has shape {:?}, but must have 4 axes", input.shape))),
    };
    let [filters, group_channels, kernel_height, kernel_width] = match weights.shape[..] {
        [o, c, h, w] => [o, c, h, w],
        _ => return Err(refused(format!("weights have shape {:?}, but must have 4 axes", weights.shape))),
    };
    let builder = ConvSpec::builder()
        .batch(n)
        .in_channels(channels)
        .input_size(height, width)
        .out_channels(filters)
        .kernel(kernel_height, kernel_width)
        .stride(args.stride[0], args.stride[1])
        .dilation(args.dilation[0], args.dilation[1])
        .groups(args.groups)
        .layout(args.layout.into());
    let builder = match args.padding {
        PaddingArg::Same => builder.padding_same(),
        PaddingArg::Numbers([top, left, bottom, right]) => {
            builder.padding(Padding { top, left, bottom, right })
        }
    };
    let spec = builder.build().map_err(refused)?;
    if group_channels != spec.group_in_channels() {
        return Err(refused(format!(
            "weights have {group_channels} channels on axis 1, but {channels} input channels in {} groups need {}",
            args.groups,
            spec.group_in_channels()
        )));
    }
    Ok(spec)
}
