//! `compare` and `regret`: what rows of results say against each other.

use std::io::Write;
use std::path::PathBuf;

use harness::compare::{Change, Comparison, Measure, Verdict, compare as compared, unlike_machines};
use harness::record::{self, Record};
use harness::regret::{Regret, regrets, summary};
use harness::report::numbers::time;
use harness::report::results::place;
use harness::report::text::text_table;
use serde_json::json;

use crate::{Outcome, Stop, args, bench, refused};

pub(crate) fn compare(args: &args::Compare, out: &mut dyn Write) -> Outcome {
    if !(0.0..100.0).contains(&args.threshold) {
        return Err(refused(format!("--threshold is {}, but must be 0 to less than 100 %", args.threshold)));
    }
    let (base, base_stopped) = record::read(&args.base).map_err(refused)?;
    let (new, new_stopped) = record::read(&args.new).map_err(refused)?;
    for (path, stopped) in [(&args.base, base_stopped), (&args.new, new_stopped)] {
        if stopped && !args.json {
            writeln!(out, "{}: the run was stopped before all rows were measured", path.display())?;
        }
    }
    if !args.any_machine
        && let Some(difference) = unlike_machines(&base, &new)
    {
        return Err(refused(format!(
            "the machines are unlike: {difference} (--any-machine compares anyway)"
        )));
    }
    let measure = if args.relative { Measure::Relative } else { Measure::Time };
    let comparison = compared(&base, &new, measure);
    if comparison.changes.is_empty() {
        return Err(refused(
            "no row of one run is in the other: network, layer, spec, kernel, threads, clock, accuracy and stores must \
             agree",
        ));
    }
    if args.json {
        let rows: Vec<_> = comparison.changes.iter().map(change_json).collect();
        writeln!(out, "{:#}", serde_json::Value::Array(rows))?;
    } else {
        print(&comparison, args.all, out)?;
    }
    match comparison.regressions(args.threshold / 100.0) {
        0 => Ok(()),
        n => Err(Stop::Failed(format!(
            "{n} of {} rows are slower by more than {} % or have lost their time",
            comparison.changes.len(),
            args.threshold
        ))),
    }
}

/// Rows of some files.
fn read(paths: &[PathBuf]) -> Result<Vec<Record>, Stop> {
    let mut all = Vec::new();
    for path in paths {
        all.extend(record::read(path).map_err(refused)?.0);
    }
    Ok(all)
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Faster => "faster",
        Verdict::Tie => "tie",
        Verdict::Slower => "slower",
        Verdict::Lost => "lost",
    }
}

fn change_json(change: &Change<'_>) -> serde_json::Value {
    let Change { base, new, speed, verdict } = change;
    json!({
        "layer": base.layer,
        "spec": base.spec,
        "requested": base.requested,
        "threads": base.threads,
        "accuracy": base.accuracy,
        "stores": base.stores,
        "clock": base.clock,
        "verdict": word(*verdict),
        "speed": speed.map(|speed| speed[0]),
        "speed_low": speed.map(|speed| speed[1]),
        "speed_high": speed.map(|speed| speed[2]),
        "base_ns": base.median_ns,
        "new_ns": new.median_ns,
        "reason": new.reason,
    })
}

fn print(comparison: &Comparison<'_>, all: bool, out: &mut dyn Write) -> Outcome {
    let Comparison { changes, unpaired, noise, mean, machine } = comparison;
    let mut shown: Vec<&Change<'_>> =
        changes.iter().filter(|change| all || change.verdict != Verdict::Tie).collect();
    // What got slower first.
    let speed = |change: &Change<'_>| change.speed.map_or(0.0, |speed| speed[0]);
    shown.sort_by(|a, b| speed(a).total_cmp(&speed(b)));
    let cells = |change: &&Change<'_>| {
        let Change { base, new, speed, verdict } = change;
        let speed = speed.map_or_else(
            || new.reason.clone().unwrap_or_default(),
            |[speed, low, high]| format!("{speed:.3} ({low:.3} to {high:.3})"),
        );
        let took = |row: &Record| row.median_ns.map(time).unwrap_or_default();
        let mut layer = format!("{} {}, {}", base.layer, base.requested, place(base.threads, base.clock));
        // What is not asked by default.
        for (asked, usual) in [(&base.accuracy, "standard"), (&base.stores, "cached")] {
            if let Some(asked) = asked.as_ref().filter(|asked| *asked != usual) {
                layer = format!("{layer}, {asked}");
            }
        }
        vec![layer, word(*verdict).to_owned(), took(base), took(new), speed]
    };
    if !shown.is_empty() {
        let rows: Vec<Vec<String>> = shown.iter().map(cells).collect();
        writeln!(out, "{}", text_table(&["row", "is", "base", "new", "speed, base = 1"], &rows))?;
    }
    let count = |verdict| changes.iter().filter(|change| change.verdict == verdict).count();
    writeln!(
        out,
        "{} faster, {} slower, {} ties within noise ({:.1} %) and intervals, {} lost; {unpaired} rows in one run only",
        count(Verdict::Faster),
        count(Verdict::Slower),
        count(Verdict::Tie),
        100.0 * noise,
        count(Verdict::Lost),
    )?;
    if let Some(mean) = mean {
        writeln!(out, "geometric mean of the speeds: {mean:.3}")?;
    }
    if let Some(machine) = machine.filter(|machine| (machine - 1.0).abs() > 0.02) {
        let percent = 100.0 * (machine - 1.0);
        writeln!(out, "the machine's own peak changed by {percent:+.1} %: --relative cancels that")?;
    }
    Ok(())
}

pub(crate) fn regret(args: &args::Regret, out: &mut dyn Write) -> Outcome {
    let rows = if args.results.is_empty() { bench::rows(&args.what)? } else { read(&args.results)? };
    let regrets = regrets(&rows);
    let Some((mean, worst)) = summary(&regrets) else {
        return Err(refused("no layer has both a row of auto and one of another kernel"));
    };
    if args.json {
        let rows: Vec<_> = regrets
            .iter()
            .map(|Regret { auto, best, share }| {
                json!({
                    "layer": auto.layer,
                    "spec": auto.spec,
                    "threads": auto.threads,
                    "clock": auto.clock,
                    "auto": auto.kernel,
                    "auto_ns": auto.median_ns,
                    "best": best.kernel,
                    "best_ns": best.median_ns,
                    "regret": share,
                })
            })
            .collect();
        return Ok(writeln!(out, "{:#}", serde_json::Value::Array(rows))?);
    }
    let cells = |Regret { auto, best, share }: &Regret<'_>| {
        let percent = if *share > 0.0 { format!("{:.1} %", 100.0 * share) } else { "none".to_owned() };
        let layer = format!("{}, {}", auto.layer, place(auto.threads, auto.clock));
        let took = |row: &Record| row.median_ns.map(time).unwrap_or_default();
        vec![layer, auto.kernel.clone(), took(auto), best.kernel.clone(), took(best), percent]
    };
    let cells: Vec<Vec<String>> = regrets.iter().map(cells).collect();
    let heads = ["layer", "auto took", "time", "best", "time", "regret"];
    writeln!(out, "{}", text_table(&heads, &cells))?;
    let (mean, worst) = (100.0 * mean, 100.0 * worst);
    Ok(writeln!(out, "regret of auto: {mean:.1} % in the geometric mean, {worst:.1} % at worst")?)
}
