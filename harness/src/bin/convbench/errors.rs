//! `errors`: how large rounding errors are.

use std::io::Write;

use harness::errors::{Errors, Reference, USUAL};
use kernels::{ConvSpec, Kernel};
use serde_json::json;

use crate::verify::named;
use crate::{Outcome, Stop, args, refused};

pub(crate) fn errors(args: &args::Errors, out: &mut dyn Write) -> Outcome {
    kernels::Isa::best().map_err(refused)?;
    let named = named(&args.kernel)?;
    let specs = specs(&args.spec, &named)?;
    for spec in &specs {
        Reference::check_memory(spec).map_err(refused)?;
    }
    let kernels: Vec<&dyn Kernel> = match &named[..] {
        [] => kernels::kernels()
            .filter(|kernel| kernel.isa().is_none() && kernel.availability().is_ok())
            .collect(),
        named => named.to_vec(),
    };
    let direct = kernels::kernel("direct").map_err(refused)?;
    let mut rows = Vec::new();
    for (index, spec) in specs.iter().enumerate() {
        if !args.json {
            writeln!(out, "{}{spec}", if index == 0 { "" } else { "\n" })?;
            let heads = ["rms error", "× direct", "largest", "in units", "of bound"];
            let [rms, growth, largest, units, bound] = heads;
            writeln!(out, "{:24} {rms:>9} {growth:>8} {largest:>9} {units:>8} {bound:>8}", "kernel")?;
        }
        let reference = Reference::new(spec, 0);
        let of_direct = direct.supports(spec).ok().and_then(|()| reference.errors(direct).ok());
        for kernel in kernels.iter().filter(|kernel| kernel.supports(spec).is_ok()) {
            // These run as others do.
            if named.is_empty() && ["auto", "winograd", "cuda"].contains(&kernel.algorithm()) {
                continue;
            }
            let found = match &of_direct {
                Some(found) if kernel.id() == direct.id() => found.clone(),
                _ => reference.errors(*kernel).map_err(refused)?,
            };
            let of_direct = of_direct.as_ref().map(|direct| direct.relative);
            let base = of_direct.filter(|direct| *direct > 0.0 && direct.is_finite());
            let growth = base.map(|direct| found.relative / direct);
            if !args.json {
                print(&found, growth, out)?;
            }
            rows.push((spec, found, growth));
        }
    }
    if args.json {
        let rows = rows.iter().map(|(spec, found, growth)| object(spec, found, *growth)).collect();
        writeln!(out, "{:#}", serde_json::Value::Array(rows))?;
    }
    judged(rows.iter().map(|(_, found, _)| found))
}

/// The convolutions that are asked for, all of which every kernel that is named must support; or the usual ones, of
/// which each must support one.
fn specs(asked: &[ConvSpec], named: &[&dyn Kernel]) -> Result<Vec<ConvSpec>, Stop> {
    let usual = || USUAL.iter().map(|text| text.parse().map_err(refused)).collect::<Result<Vec<_>, _>>();
    let all = if asked.is_empty() { usual()? } else { asked.to_vec() };
    for kernel in named {
        let refusals: Vec<_> = all.iter().filter_map(|spec| kernel.supports(spec).err()).collect();
        let allowed = if asked.is_empty() { all.len() - 1 } else { 0 };
        if refusals.len() > allowed {
            return Err(refused(&refusals[0]));
        }
    }
    let wanted =
        |spec: &ConvSpec| named.is_empty() || named.iter().any(|kernel| kernel.supports(spec).is_ok());
    Ok(all.into_iter().filter(wanted).collect())
}

fn print(found: &Errors, growth: Option<f64>, out: &mut dyn Write) -> Outcome {
    let Errors { kernel, relative, largest, units, share, mismatch } = found;
    let growth = growth.map_or("–".to_owned(), |growth| format!("{growth:.2}"));
    let share = share * 100.0;
    writeln!(out, "{kernel:24} {relative:>9.2e} {growth:>8} {largest:>9.2e} {units:>8.1} {share:>6.1} %")?;
    if let Some(mismatch) = mismatch {
        writeln!(out, "{kernel} is WRONG: {mismatch}")?;
    }
    Ok(())
}

fn object(spec: &ConvSpec, found: &Errors, growth: Option<f64>) -> serde_json::Value {
    json!({
        "spec": spec.to_string(),
        "kernel": found.kernel,
        "relative": found.relative,
        "times_direct": growth,
        "largest": found.largest,
        "units": found.units,
        "bound_share": found.share,
        "status": if found.mismatch.is_some() { "wrong" } else { "ok" },
        "reason": found.mismatch.map(|mismatch| mismatch.to_string()),
    })
}

/// Fails if a result is wrong.
fn judged<'a>(results: impl Iterator<Item = &'a Errors> + Clone) -> Outcome {
    let wrong = results.clone().filter(|found| found.mismatch.is_some()).count();
    match wrong {
        0 => Ok(()),
        _ => Err(Stop::Failed(format!("{wrong} of {} results are wrong", results.count()))),
    }
}

#[cfg(test)]
mod tests {
    use harness::check::Mismatch;

    use super::*;

    #[test]
    fn wrong_results_fail() {
        let right = Errors {
            kernel: "direct".to_owned(),
            relative: 1e-7,
            largest: 1e-7,
            units: 1.0,
            share: 0.5,
            mismatch: None,
        };
        let mismatch = Mismatch { position: [0; 4], got: f32::NAN, want: 1.0, allowed: 0.1 };
        let wrong = Errors { relative: f64::INFINITY, mismatch: Some(mismatch), ..right.clone() };
        assert!(judged([&right, &right].into_iter()).is_ok());
        let outcome = judged([&right, &wrong].into_iter());
        assert!(
            matches!(&outcome, Err(Stop::Failed(what)) if what == "1 of 2 results are wrong"),
            "{outcome:?}"
        );
        let mut text = Vec::new();
        print(&wrong, None, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("direct is WRONG: output [n 0, o 0, y 0, x 0] is NaN"), "{text}");
        assert_eq!(object(&"c1 h1 w1 o1 k1".parse().unwrap(), &wrong, None)["status"], "wrong");
    }
}
