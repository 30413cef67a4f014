//! `info`, `kernels` and `shape`.

use std::io::Write;
use std::time::Duration;

use harness::gpu::{self, GpuRoof};
use harness::limits::{Bandwidth, bandwidths, peak_gflops};
use harness::machine::{self, Machine, bytes};
use harness::pinning::Pool;
use kernels::backward::{DataPlan, Op, WeightsPlan, kernels_of};
use kernels::{CacheSizes, ConvError, ConvSpec, Effort, Isa, PlanOptions, explain};
use serde_json::json;

use crate::args::OpArg;
use crate::{Outcome, args, refused};

pub(crate) fn info(args: &args::Info, out: &mut dyn Write) -> Outcome {
    let machine = Machine::detect();
    let best = Isa::best().map_err(refused)?;
    let counts: Vec<usize> = if machine.cores > 1 { vec![1, machine.cores] } else { vec![1] };
    let pools: Vec<Pool> = counts.iter().map(|&n| Pool::new(n)).collect::<Result<_, _>>().map_err(refused)?;
    let time = Duration::from_millis(60);
    let mut peaks: Vec<(Isa, Vec<f64>)> = Vec::new();
    for (isa, reason) in machine::instruction_sets() {
        if reason.is_none() {
            let of: Result<Vec<f64>, _> = pools.iter().map(|pool| peak_gflops(isa, pool, time)).collect();
            peaks.push((isa, of.map_err(refused)?));
        }
    }
    let bandwidths = bandwidths(best, CacheSizes::detect(), &pools[0]).map_err(refused)?;
    let gpus = gpu::devices();
    // Kernels run on the first one.
    let gpu_roofs = if gpus.is_ok() { gpu::roofs(&pools[0]) } else { Vec::new() };
    let pinned = pools.iter().all(Pool::is_pinned);
    if args.json {
        let isas: Vec<_> = machine::instruction_sets()
            .into_iter()
            .map(|(isa, reason)| {
                let peak = peaks.iter().find(|(of, _)| *of == isa).map(|(_, peak)| peak);
                json!({
                    "name": isa.name(),
                    "available": reason.is_none(),
                    "reason": reason,
                    "peak_gflops": peak.map(|peak| peak[0]),
                    "peak_gflops_all_cores": peak.and_then(|peak| peak.last()),
                })
            })
            .collect();
        let facts = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "cpu": machine.cpu,
            "cores": machine.cores,
            "platform": machine.platform,
            "l1d_bytes": machine.caches[0],
            "l2_bytes": machine.caches[1],
            "l3_bytes": machine.caches[2],
            "available_memory_bytes": machine.available_memory,
            "pinned": pinned,
            "isas": isas,
            "bandwidth_gb_s": bandwidths,
            "gpus": gpus.as_deref().unwrap_or_default(),
            "gpu_reason": gpus.as_ref().err(),
            "gpu_roofs": gpu_roofs,
        });
        return Ok(writeln!(out, "{facts:#}")?);
    }
    let [l1d, l2, l3] = machine.caches.map(|n| bytes(n as u64));
    writeln!(out, "CPU        {}, {} cores ({})", machine.cpu, machine.cores, machine.platform)?;
    writeln!(out, "caches     L1d {l1d}, L2 {l2}, L3 {l3}")?;
    writeln!(out, "memory     {} can be had", bytes(machine.available_memory))?;
    if !pinned {
        writeln!(out, "pinning    the system does not let threads be kept on their cores: figures scatter")?;
    }
    writeln!(out, "\ninstruction sets: measured multiply-add peak in GFLOP/s")?;
    for (isa, reason) in machine::instruction_sets() {
        match (reason, peaks.iter().find(|(of, _)| *of == isa)) {
            (None, Some((_, peak))) => {
                write!(out, "  {:8} {:6.1} one core", isa.name(), peak[0])?;
                if let [_, all] = peak[..] {
                    write!(out, ", {all:.1} on {} cores", machine.cores)?;
                }
                writeln!(out, "{}", if isa == best { "  (used)" } else { "" })?;
            }
            (reason, _) => writeln!(out, "  {:8} {}", isa.name(), reason.unwrap_or_default())?,
        }
    }
    writeln!(out, "\nbandwidth of one core in GB/s (10⁹ bytes)")?;
    for Bandwidth { level, bytes, read, write, copy } in bandwidths {
        let size = self::bytes(bytes as u64);
        writeln!(out, "  {level:8} {size:>8}  read {read:6.1}  write {write:6.1}  copy {copy:6.1}")?;
    }
    writeln!(out)?;
    match gpus {
        Ok(gpus) => {
            for gpu in &gpus {
                let (memory, l2) = (bytes(gpu.memory_bytes), bytes(gpu.l2_bytes));
                writeln!(out, "GPU        {gpu}, {memory}, L2 {l2}")?;
            }
        }
        Err(reason) => writeln!(out, "GPU        none: {reason}")?,
    }
    for GpuRoof { name, unit, rate, reason } in gpu_roofs {
        match rate {
            Some(rate) => writeln!(out, "  {name:18} {rate:9.0} {unit}")?,
            None => writeln!(out, "  {name:18} not measured: {}", reason.unwrap_or_default())?,
        }
    }
    Ok(())
}

pub(crate) fn kernels(args: &args::Kernels, out: &mut dyn Write) -> Outcome {
    match args.op {
        OpArg::Forward => {}
        OpArg::BackwardData => return backward(Op::BackwardData, args, out),
        OpArg::BackwardWeights => return backward(Op::BackwardWeights, args, out),
    }
    let effort = args.effort.map_or(Effort::Estimate, Effort::from);
    let options = PlanOptions { accuracy: args.accuracy.into(), effort, ..Default::default() };
    if let (Some(spec), Effort::Measure) = (&args.spec, effort) {
        // The plan is what measures; what it has found, `explain` knows. At most five kernels take part.
        machine::check_memory(spec, 5, 1).map_err(refused)?;
        // No kernel's speed depends on values.
        let weights = vec![0.1; spec.weights_len()];
        let auto = kernels::kernel("auto").map_err(refused)?;
        Pool::new(1).map_err(refused)?.run(|| auto.plan(spec, &weights, &options)).map_err(refused)?;
    }
    let rows: Vec<(&str, Option<String>, Option<String>)> = kernels::kernels()
        .map(|kernel| {
            let missing = kernel.availability().err().map(|reason| reason.to_string());
            let refusal = args
                .spec
                .as_ref()
                .and_then(|spec| kernel.supports(spec).err())
                .map(|refusal| format!("does not support {}", refusal.what()));
            (kernel.id(), missing, refusal)
        })
        .collect();
    if args.json {
        let mut list: Vec<_> = rows
            .iter()
            .map(|(id, missing, refusal)| {
                let mut row = json!({"name": id, "available": missing.is_none(), "reason": missing});
                if args.spec.is_some() {
                    row["supported"] = json!(refusal.is_none());
                    row["refusal"] = json!(refusal);
                }
                row
            })
            .collect();
        if let Some(spec) = &args.spec {
            let choice = explain(spec, &options).map_err(refused)?;
            list[0]["choice"] = json!(choice.algorithm);
            list[0]["why"] = json!(choice.reason);
        }
        return Ok(writeln!(out, "{:#}", serde_json::Value::Array(list))?);
    }
    for (id, missing, refusal) in &rows {
        let state = match (missing, refusal) {
            (Some(reason), _) => format!("not available: {reason}"),
            (None, Some(refusal)) => refusal.clone(),
            (None, None) => "available".to_owned(),
        };
        writeln!(out, "{id:24} {state}")?;
    }
    if let Some(spec) = &args.spec {
        let choice = explain(spec, &options).map_err(refused)?;
        let isa = choice.isa.map(|isa| format!("/{isa}")).unwrap_or_default();
        writeln!(out, "\nauto takes {}{isa} for `{spec}`: {}", choice.algorithm, choice.reason)?;
    }
    Ok(())
}

/// The kernels of a backward pass: whether each plans, for the convolution that is given or for the smallest.
fn backward(op: Op, args: &args::Kernels, out: &mut dyn Write) -> Outcome {
    let smallest = "c1 h1 w1 o1 k1".parse().map_err(refused)?;
    let spec = args.spec.unwrap_or(smallest);
    machine::check_memory(&spec, 1, 1).map_err(refused)?;
    let options = PlanOptions { accuracy: args.accuracy.into(), ..Default::default() };
    let weights = vec![0.1; spec.weights_len()];
    let state = |id: &str| match op {
        Op::BackwardWeights => WeightsPlan::new(id, &spec, &options).map(|_| ()),
        _ => DataPlan::new(id, &spec, &weights, &options).map(|_| ()),
    };
    let mut list = Vec::new();
    for id in kernels_of(op) {
        let error = state(id).err();
        let missing = match &error {
            Some(ConvError::Unsupported(_)) if args.spec.is_none() => None,
            error => error.as_ref().map(ToString::to_string),
        };
        if args.json {
            list.push(json!({"name": id, "available": missing.is_none(), "reason": missing}));
        } else {
            writeln!(out, "{id:24} {}", missing.unwrap_or_else(|| "available".to_owned()))?;
        }
    }
    if args.json {
        writeln!(out, "{:#}", serde_json::Value::Array(list))?;
    }
    Ok(())
}

pub(crate) fn shape(args: &args::Shape, out: &mut dyn Write) -> Outcome {
    let spec: ConvSpec = args.spec.join(" ").parse().map_err(refused)?;
    let [rest_h, rest_w] = spec.stride_remainder();
    let [n, o, h, w] = [spec.batch(), spec.out_channels(), spec.out_height(), spec.out_width()];
    if args.json {
        let facts = json!({
            "spec": spec.to_string(),
            "output_shape": spec.output_shape(),
            "out_height": h,
            "out_width": w,
            "input_len": spec.input_len(),
            "weights_len": spec.weights_len(),
            "output_len": spec.output_len(),
            "parameters": spec.parameters(true),
            "parameters_without_bias": spec.parameters(false),
            "macs": spec.macs(),
            "macs_without_padding": spec.macs_without_padding(),
            "flops": spec.flops(),
            "min_bytes": spec.min_bytes(),
            "arithmetic_intensity": spec.arithmetic_intensity(),
            "stride_remainder": [rest_h, rest_w],
        });
        return Ok(writeln!(out, "{facts:#}")?);
    }
    let (kernel, padding, stride) = (spec.dilated_kernel(), spec.padding(), spec.stride());
    writeln!(out, "{spec}")?;
    writeln!(
        out,
        "output        {h}x{w}, {o} activation maps of {n} image{}",
        if n == 1 { "" } else { "s" }
    )?;
    let sum = |size: usize, kernel: usize, pads: usize, stride: usize, result: usize| {
        format!("({size} - {kernel} + {pads})/{stride} + 1 = {result}")
    };
    let (vertical, horizontal) = (padding.top + padding.bottom, padding.left + padding.right);
    writeln!(out, "  height      {}", sum(spec.in_height(), kernel[0], vertical, stride[0], h))?;
    writeln!(out, "  width       {}", sum(spec.in_width(), kernel[1], horizontal, stride[1], w))?;
    for (axis, rest) in [("rows", rest_h), ("columns", rest_w)] {
        if rest > 0 {
            writeln!(
                out,
                "  the stride does not divide: the size is floored, the last {rest} {axis} are not read"
            )?;
        }
    }
    let weights = spec.weights_len();
    writeln!(out, "parameters    {} ({weights} weights + {o} biases)", spec.parameters(true))?;
    writeln!(out, "multiply-adds {} ({} without padding)", spec.macs(), spec.macs_without_padding())?;
    writeln!(out, "bytes         {} at least: input, weights and output once", bytes(spec.min_bytes()))?;
    writeln!(out, "intensity     {:.1} floating-point operations a byte", spec.arithmetic_intensity())?;
    Ok(())
}
