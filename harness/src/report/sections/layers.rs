//! Layers: all at a glance, and each with everything that is known of it.

use crate::machine::bytes;
use crate::record::{Record, Role, Status};
use crate::report::document::{Bar, Bars, Block, Cell, Fold, Mark, Section, Table, Warning};
use crate::report::numbers::{digits, percent, time, times};
use crate::report::peers::class as class_of_layer;
use crate::report::refusals::{short, word};
use crate::report::results::{Results, time_of};
use crate::report::sections::{class, layer_cell, layer_id, of_settings, section, speed, text};
use crate::report::standings::Standings;
use crate::report::text::chosen;

/// GFLOP/s of every engine on every layer.
pub(super) fn glance(results: &Results, standings: &[Standings]) -> Option<Section> {
    let mut blocks = of_settings(results, |setting| {
        let standings = &standings[setting];
        // As they are ranked.
        let columns: Vec<usize> = standings.standings.iter().map(|standing| standing.contestant).collect();
        let names = columns.iter().map(|&id| results.id(id));
        let mut table = Table::new(std::iter::once("GFLOP/s").chain(names));
        for case in 0..results.cases.len() {
            let best =
                results.ranked(case, setting).iter().filter_map(|(_, row, _)| speed(row)).fold(0.0, f64::max);
            let cells = columns.iter().map(|&id| {
                let Some(row) = results.row(case, setting, id) else { return "".into() };
                let Some(speed) = speed(row) else {
                    let wrong = row.status == Status::Wrong;
                    let (text, mark) = if wrong { ("WRONG", Mark::Wrong) } else { ("–", Mark::Faint) };
                    return Cell { hint: row.reason.clone(), ..Cell::marked(text, mark) };
                };
                let fastest = standings.is_fastest(results, case, id);
                let mark = if fastest { Mark::Best } else { Mark::None };
                let hint = time_of(row).map(|ns| format!("{}, {}", row.kernel, time(ns)));
                Cell { share: Some(speed / best), hint, ..Cell::marked(digits(speed), mark) }
            });
            let cells: Vec<Cell> = cells.collect();
            if cells.iter().any(|cell| !cell.text.is_empty()) {
                table.rows.push([vec![layer_cell(results, case)], cells].concat());
            }
        }
        if table.rows.is_empty() || columns.is_empty() { Vec::new() } else { vec![Block::Table(table)] }
    });
    if !blocks.is_empty() {
        let line = "GFLOP/s by the definition's arithmetic. Bold: nothing is faster by more than the noise \
                    floor. The deeper the shade, the closer to the fastest. A dash: refused. Names lead to \
                    the layer's details.";
        blocks.insert(0, text(line));
    }
    section("glance", "All layers at a glance", blocks)
}

/// Each layer: bars, and a table of all that is known.
pub(super) fn layers(results: &Results, standings: &[Standings]) -> Option<Section> {
    let folds = (0..results.cases.len()).map(|case| {
        let of = &results.cases[case];
        let mut blocks = vec![Block::Code(of.spec_text.clone())];
        if let Some(spec) = &of.spec {
            let network = match of.network.is_empty() {
                true => String::new(),
                false => format!("{} × in {}; ", of.count, of.network),
            };
            blocks.push(text(format!(
                "{network}{}; {} MFLOP, {} at least, intensity {} flop/byte.",
                class_of_layer(spec),
                digits(spec.flops() as f64 / 1e6),
                bytes(spec.min_bytes()),
                digits(spec.arithmetic_intensity())
            )));
        }
        blocks.extend(of_settings(results, |setting| details(results, case, &standings[setting])));
        blocks.extend(unsupported(results, case));
        Block::Fold(Fold {
            id: layer_id(case),
            title: of.label.clone(),
            detail: summary(results, case),
            open: results.cases.len() == 1 || case == 0,
            blocks,
        })
    });
    let mut blocks: Vec<Block> = folds.collect();
    if !blocks.is_empty() {
        let line = "Bars are GFLOP/s by the definition's arithmetic, with the 95 % interval of the median as a \
                    whisker; the upright line in a bar's track is the roof over it, measured in the same \
                    rounds: multiply-adds, or the bandwidth of the memory that the bytes come from. Winograd \
                    needs fewer multiplications than the definition and may pass it.";
        blocks.insert(0, text(line));
    }
    section("layers", "Layer by layer", blocks)
}

/// The fastest engine in the first setting that has one.
fn summary(results: &Results, case: usize) -> String {
    let best = (0..results.settings.len()).find_map(|setting| {
        let (id, row, ns) = *results.ranked(case, setting).first()?;
        Some(format!("{} {} GFLOP/s, {}", results.id(id), digits(row.gflops?), time(ns)))
    });
    best.unwrap_or_else(|| "no time".to_owned())
}

fn details(results: &Results, case: usize, standings: &Standings) -> Vec<Block> {
    let setting = standings.setting;
    let mut blocks = Vec::new();
    let refused: Vec<&Record> = results.refused(case, setting).collect();
    for row in &refused {
        let reason = row.reason.as_deref().unwrap_or("no reason given");
        let reason = short(reason, &row.requested, &row.spec);
        match row.status {
            // Said once for all settings.
            Status::Unsupported => {}
            Status::Wrong => {
                let text = format!("{} is WRONG: {reason}", row.requested);
                blocks.insert(0, Block::Warning(Warning { text, wrong: true }));
            }
            status => {
                let text = format!("{} is {}: {reason}", row.requested, word(status));
                blocks.push(Block::Warning(text.into()));
            }
        }
    }
    let rows = rows_with_second(results, case, setting);
    if !rows.is_empty() {
        blocks.push(Block::Bars(bars(results, case, standings, &rows)));
        blocks.push(Block::Table(table(results, &rows)));
    }
    blocks
}

/// The engines whose method does not cover a layer, each with the reason.
fn unsupported(results: &Results, case: usize) -> Option<Block> {
    let mut all: Vec<String> = Vec::new();
    for row in (0..results.settings.len()).flat_map(|setting| results.refused(case, setting)) {
        let reason = short(row.reason.as_deref().unwrap_or("no reason given"), &row.requested, &row.spec);
        let reason = reason.strip_prefix("does not support ").unwrap_or(reason);
        let line = format!("{} ({reason})", row.requested);
        if row.status == Status::Unsupported && !all.contains(&line) {
            all.push(line);
        }
    }
    (!all.is_empty()).then(|| text(format!("Do not support it: {}.", all.join(", "))))
}

/// The timed rows of a layer, second rows among them, the fastest first.
fn rows_with_second(results: &Results, case: usize, setting: usize) -> Vec<(usize, &Record)> {
    let again = results.again(case, setting);
    let again = again.filter_map(|(id, row)| Some((id, row, time_of(row)?)));
    let mut rows: Vec<_> = results.ranked(case, setting).into_iter().chain(again).collect();
    rows.sort_by(|a, b| a.2.total_cmp(&b.2));
    rows.into_iter().map(|(id, row, _)| (id, row)).collect()
}

fn name(row: &Record) -> String {
    match row.role {
        Role::Aa => format!("{} again", row.requested),
        Role::Main => row.requested.clone(),
    }
}

/// The name, and what ran where that was chosen.
fn full_name(row: &Record) -> String {
    if chosen(row) { format!("{} = {}", name(row), row.kernel) } else { name(row) }
}

fn bars(results: &Results, case: usize, standings: &Standings, rows: &[(usize, &Record)]) -> Bars {
    let best = rows.iter().filter(|(_, row)| row.role == Role::Main).map(|(id, _)| *id).next();
    let bars = rows.iter().filter_map(|&(id, row)| {
        let value = speed(row)?;
        let median = time_of(row)?;
        let interval = row.ci_low_ns.zip(row.ci_high_ns).filter(|(low, high)| *low > 0.0 && high >= low);
        let tag = match row.role {
            Role::Aa => "",
            Role::Main if Some(id) == best => "fastest",
            Role::Main if standings.is_fastest(results, case, id) => "tie",
            Role::Main => "",
        };
        Some(Bar {
            name: name(row),
            detail: if chosen(row) { row.kernel.clone() } else { String::new() },
            class: class(results, row),
            value,
            interval: interval.map(|(low, high)| (value * median / high, value * median / low)),
            roof: row.roof_gflops.filter(|roof| *roof > 0.0),
            tag,
            again: row.role == Role::Aa,
        })
    });
    let bars: Vec<Bar> = bars.collect();
    let ends =
        bars.iter().flat_map(|bar| [bar.value, bar.roof.unwrap_or(0.0), bar.interval.map_or(0.0, |i| i.1)]);
    Bars { most: ends.fold(f64::MIN_POSITIVE, f64::max), bars }
}

fn table(results: &Results, rows: &[(usize, &Record)]) -> Table {
    let base = results.baseline.map_or("ratio".to_owned(), |base| format!("× {}", results.id(base)));
    let heads = [
        "engine",
        "time",
        "± MAD",
        "GFLOP/s",
        "of roof",
        "by own arithmetic",
        "of error bound",
        &base,
        "plan",
        "first call",
        "reorder",
        "workspace",
        "packed",
    ];
    let mut table = Table::new(heads);
    for (_, row) in rows {
        let size = |n: Option<usize>| Cell::from(n.map(|n| bytes(n as u64)));
        let duration = |ns: Option<f64>| Cell::from(ns.map(time));
        let roof = row.roof_fraction.zip(row.roof.as_ref());
        // A row beside itself has no interval.
        let interval = row.ratio_low.zip(row.ratio_high).filter(|(low, high)| low < high);
        let interval =
            interval.map_or(String::new(), |(low, high)| format!(" [{}–{}]", digits(low), digits(high)));
        // A second row's ratio is to its first.
        let ratio = row.ratio.map(|ratio| format!("{}{interval}", times(ratio)));
        let hint = row.baseline.as_ref().map(|base| format!("compared with {base}"));
        let error = row.max_error.zip(row.error_bound).filter(|(_, bound)| *bound > 0.0);
        let peak = row.peak_fraction.map(|share| format!("{} of peak", percent(share)));
        table.rows.push(vec![
            Cell { hint: Some(row.kernel.clone()), ..full_name(row).into() },
            duration(row.median_ns),
            row.mad_ns.zip(time_of(row)).map(|(mad, time)| percent(mad / time)).into(),
            row.gflops.map(digits).into(),
            Cell { hint: peak, ..roof.map(|(share, name)| format!("{} {name}", percent(share))).into() },
            row.own_gflops
                .map(digits)
                .zip(row.own_fraction.map(percent))
                .map(|(a, b)| format!("{a} ({b})"))
                .into(),
            Cell {
                hint: row.error_measure.clone(),
                ..error.map(|(error, bound)| percent(error / bound)).into()
            },
            Cell { hint, ..ratio.into() },
            duration(row.plan_ns),
            duration(row.first_ns),
            duration(row.reorder_ns),
            size(row.workspace_bytes),
            size(row.packed_bytes),
        ]);
    }
    table.without_empty_columns()
}
