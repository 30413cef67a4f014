//! `errors`: how large rounding errors are.

use std::io::Write;

use harness::errors::{USUAL, of};
use harness::machine;
use kernels::{ConvSpec, Kernel};
use serde_json::json;

use crate::verify::named;
use crate::{Outcome, args, refused};

pub(crate) fn errors(args: &args::Errors, out: &mut dyn Write) -> Outcome {
    kernels::Isa::best().map_err(refused)?;
    let specs: Vec<ConvSpec> = match &args.spec[..] {
        [] => USUAL.iter().map(|text| text.parse().map_err(refused)).collect::<Result<_, _>>()?,
        specs => specs.to_vec(),
    };
    let named = named(&args.kernel)?;
    for (kernel, spec) in named.iter().flat_map(|kernel| specs.iter().map(move |spec| (kernel, spec))) {
        kernel.supports(spec).map_err(refused)?;
    }
    let mut rows = Vec::new();
    for spec in &specs {
        machine::check_memory(spec, 1, 1).map_err(refused)?;
        let kernels: Vec<&dyn Kernel> = if named.is_empty() {
            kernels::kernels().filter(|kernel| kernel.isa().is_none()).collect()
        } else {
            named.clone()
        };
        if !args.json {
            writeln!(out, "{}{spec}", if rows.is_empty() { "" } else { "\n" })?;
            let heads = ["rms error", "× direct", "largest", "in units", "of bound"];
            let [rms, growth, largest, units, bound] = heads;
            writeln!(out, "{:24} {rms:>9} {growth:>8} {largest:>9} {units:>8} {bound:>8}", "kernel")?;
        }
        let direct = kernels::kernel("direct").map_err(refused)?;
        let direct = of(direct, spec, 0).ok().map(|found| found.relative);
        for kernel in kernels {
            if kernel.supports(spec).is_err() {
                continue;
            }
            let found = of(kernel, spec, 0).map_err(refused)?;
            // `winograd` runs as one of its own variants.
            let other = found.kernel.split('/').next() != Some(kernel.algorithm());
            if named.is_empty() && other {
                continue;
            }
            let growth = direct.filter(|direct| *direct > 0.0).map(|direct| found.relative / direct);
            if !args.json {
                let growth = growth.map_or("–".to_owned(), |growth| format!("{growth:.2}"));
                writeln!(
                    out,
                    "{:24} {:>9.2e} {growth:>8} {:>9.2e} {:>8.1} {:>6.1} %",
                    found.kernel,
                    found.relative,
                    found.largest,
                    found.units,
                    found.share * 100.0
                )?;
            }
            rows.push(json!({
                "spec": spec.to_string(),
                "kernel": found.kernel,
                "relative": found.relative,
                "times_direct": growth,
                "largest": found.largest,
                "units": found.units,
                "bound_share": found.share,
            }));
        }
    }
    if args.json {
        writeln!(out, "{:#}", serde_json::Value::Array(rows))?;
    }
    Ok(())
}
