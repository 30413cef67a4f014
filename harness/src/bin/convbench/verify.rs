//! `verify`: random convolutions on every kernel.

use std::io::Write;

use harness::record::Gradient;
use harness::verify::Request;
use kernels::Kernel;
use kernels::backward::Op;
use serde_json::json;

use crate::{Outcome, Stop, args, progress, refused};

/// The kernels that ids name.
///
/// # Errors
/// An id that is unknown, or a kernel that is not available.
pub(crate) fn named(ids: &[String]) -> Result<Vec<&'static dyn Kernel>, Stop> {
    ids.iter()
        .map(|id| {
            let kernel = kernels::kernel(id).map_err(refused)?;
            let unavailable = |reason| refused(format!("{id} is not available: {reason}"));
            kernel.availability().map_err(unavailable)?;
            Ok(kernel)
        })
        .collect()
}

pub(crate) fn verify(args: &args::Verify, out: &mut dyn Write) -> Outcome {
    kernels::Isa::best().map_err(refused)?;
    if args.cases == 0 {
        return Err(refused("--cases is 0, but must be at least 1"));
    }
    let op = args.op.into();
    let gradient = Gradient::of(op);
    let kernels = match &args.kernel[..] {
        [] => harness::verify::ids(gradient),
        ids if op == Op::BackwardWeights => crate::bench::ids(op, ids)?,
        ids => named(ids)?.iter().map(|kernel| kernel.id()).collect(),
    };
    progress::catch_interrupts();
    let bar = progress::bar(args.cases.saturating_mul(kernels.len() as u64));
    let (cases, count) = (args.cases, kernels.len());
    let request = Request { cases, seed: args.seed, gradient, kernels };
    let summary = harness::verify::verify(&request, &|kernel| {
        bar.set_message(kernel.to_owned());
        bar.inc(1);
        !progress::interrupted()
    });
    bar.finish_and_clear();
    if args.json {
        let rows: Vec<_> = summary
            .counts
            .iter()
            .map(|count| {
                let failure = summary.failures.iter().find(|failure| failure.kernel == count.kernel);
                json!({
                    "name": count.kernel,
                    "cases": count.cases,
                    "status": if failure.is_some() { "wrong" } else { "ok" },
                    "reason": failure.map(ToString::to_string),
                })
            })
            .collect();
        writeln!(out, "{:#}", serde_json::Value::Array(rows))?;
    } else {
        for count in &summary.counts {
            let failed = summary.failures.iter().any(|failure| failure.kernel == count.kernel);
            let verdict = if failed { "WRONG" } else { "right" };
            writeln!(out, "{:24} {:>8} cases  {verdict}", count.kernel, count.cases)?;
        }
        for failure in &summary.failures {
            writeln!(out, "\n{failure}")?;
        }
    }
    if !summary.failures.is_empty() {
        return Err(Stop::Failed(format!("{} of {count} kernels are wrong", summary.failures.len())));
    }
    if progress::interrupted() {
        return Err(Stop::Failed("stopped before all cases were run".to_owned()));
    }
    Ok(())
}
