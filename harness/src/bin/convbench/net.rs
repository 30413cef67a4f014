//! `net`: whole networks.

use std::io::Write;
use std::time::Duration;

use cnn::{InferenceOptions, networks};
use harness::machine::bytes;
use harness::network::{self, Timed};
use serde_json::json;

use crate::{Outcome, args, refused};

pub(crate) fn net(args: &args::Net, out: &mut dyn Write) -> Outcome {
    let graph = networks::network(&args.network).map_err(refused)?;
    if args.summary {
        return Ok(writeln!(out, "{}", graph.summary())?);
    }
    let time = Duration::try_from_secs_f64(args.time)
        .map_err(|_| refused(format!("--time is {}, but must be a number of seconds", args.time)))?;
    let mut rows = Vec::new();
    for &batch in &args.batch {
        for &threads in &args.threads {
            let options = InferenceOptions {
                batch,
                threads,
                kernel: args.kernel.clone(),
                accuracy: args.accuracy.into(),
                ..Default::default()
            };
            let timed = network::time(&graph, &options, time).map_err(refused)?;
            if args.json {
                rows.push(json!({ "network": args.network, "kernel": args.kernel, "timed": timed }));
            } else {
                write(args, &timed, out)?;
            }
        }
    }
    match args.json {
        true => Ok(writeln!(out, "{:#}", json!(rows))?),
        false => Ok(()),
    }
}

fn write(args: &args::Net, timed: &Timed, out: &mut dyn Write) -> Outcome {
    let Timed { batch, threads, runs, median_ms, fastest_ms, images_per_second, gflops, .. } = timed;
    let [activations, scratch, weights] = timed.bytes.map(|n| bytes(n as u64));
    let name = &args.network;
    writeln!(
        out,
        "{name} by {}, batch {batch}, threads {threads}: {median_ms:.2} ms (median of {runs}, fastest \
         {fastest_ms:.2}), {images_per_second:.1} images/s, {gflops:.0} GFLOP/s",
        args.kernel
    )?;
    writeln!(out, "memory: activations {activations}, scratch {scratch}, packed weights {weights}")?;
    let longest = timed.layers.iter().map(|part| part.name.chars().count()).max().unwrap_or(0).max(5);
    writeln!(out, "{:<longest$}  {:>8}  {:>6}  {:>7}  kernel", "layer", "ms", "share", "GFLOP/s")?;
    for part in &timed.layers {
        let gflops = if part.gflops > 0.0 { format!("{:.0}", part.gflops) } else { String::new() };
        writeln!(
            out,
            "{:<longest$}  {:>8.3}  {:>5.1}%  {gflops:>7}  {}",
            part.name,
            part.median_ms,
            100.0 * part.share,
            part.kernel.as_deref().unwrap_or(part.kind),
        )?;
    }
    Ok(writeln!(out)?)
}
