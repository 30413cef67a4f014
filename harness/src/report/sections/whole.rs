//! Whole networks, run from image to scores.

use crate::engine::OURS;
use crate::network::{NetworkRow, Part};
use crate::record::Status;
use crate::report::document::{Block, Cell, Class, Mark, Section, Stack, Stacks, Table};
use crate::report::numbers::{digits, percent, time, times};
use crate::report::refusals::word;
use crate::report::results::{Results, threads};
use crate::report::sections::{fold, section, text};

/// What parts of a run are gathered to: a name, a colour, and the kinds of layers.
const KINDS: [(&str, Class, &[&str]); 5] = [
    ("convolutions", Class::Direct, &["Conv"]),
    ("fully connected", Class::Winograd, &["Linear"]),
    ("pooling", Class::Depthwise, &["MaxPool", "AvgPool", "GlobalAvgPool"]),
    ("reordering", Class::Peer(0), &["Reorder"]),
    ("the other layers", Class::Im2col, &[]),
];
/// What lies between the parts of a run.
const BETWEEN: (&str, Class) = ("between layers", Class::Naive);

/// A run whose parts are not known.
const UNTOLD: (&str, Class) = ("not told apart", Class::Other);

/// The names of the networks, each once.
pub(super) fn names(results: &Results) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for row in &results.networks {
        if !names.contains(&row.network.as_str()) {
            names.push(&row.network);
        }
    }
    names
}

/// A line for each network and setting: how ours stands.
pub(super) fn verdict(results: &Results) -> Vec<String> {
    let line = |of: Vec<&NetworkRow>| {
        let ours = of.iter().find(|row| row.engine == OURS)?;
        let median = ours.median_ns?;
        let peers = of
            .iter()
            .filter(|row| row.engine != OURS)
            .filter_map(|peer| Some(format!("{} {}", times(faster(ours, peer)?), peer.requested)));
        let peers: Vec<String> = peers.collect();
        let beside = if peers.is_empty() { String::new() } else { format!(": {}", peers.join(", ")) };
        let (network, setting) = (&ours.network, setting(ours));
        Some(format!("{network}, {setting}: {} {}{beside}", ours.requested, time(median)))
    };
    settings(results).into_iter().filter_map(line).collect()
}

/// The rows of each network, batch and number of threads.
fn settings(results: &Results) -> Vec<Vec<&NetworkRow>> {
    let mut settings: Vec<Vec<&NetworkRow>> = Vec::new();
    for row in &results.networks {
        let of = |row: &NetworkRow| (row.network.clone(), row.batch, row.threads);
        match settings.iter_mut().find(|rows| rows.first().is_some_and(|first| of(first) == of(row))) {
            Some(rows) => rows.push(row),
            None => settings.push(vec![row]),
        }
    }
    settings
}

fn setting(row: &NetworkRow) -> String {
    format!("batch {}, {}", row.batch, threads(row.threads))
}

/// How many times faster ours is than a peer.
fn faster(ours: &NetworkRow, peer: &NetworkRow) -> Option<f64> {
    match (&peer.baseline, peer.ratio) {
        (Some(base), Some(ratio)) if *base == ours.requested => Some(1.0 / ratio),
        _ => Some(peer.median_ns? / ours.median_ns?),
    }
}

pub(super) fn whole(results: &Results) -> Option<Section> {
    let names = names(results);
    let mut blocks = Vec::new();
    for name in &names {
        let of = || settings(results).into_iter().filter(|rows| rows[0].network == *name);
        let rows: Vec<&NetworkRow> = of().flatten().collect();
        if names.len() > 1 {
            blocks.push(text(format!("{name}:")));
        }
        blocks.extend(stacks(&rows));
        blocks.push(Block::Table(table(&of().collect::<Vec<_>>())));
        let ours = rows.iter().filter(|row| !row.parts.is_empty() && row.engine == OURS);
        blocks.extend(ours.map(|row| {
            fold(format!("{name}, {}: {} layer by layer", setting(row), row.requested), vec![layers(row)])
        }));
    }
    if !blocks.is_empty() {
        let line = "Each engine ran the same network with the same weights on the same images, in turns, after its \
                    outputs were compared. Bars are milliseconds for an image, by what the time went to. Ours \
                    measures its parts in the runs that are timed. A library's parts are of runs of their own, in \
                    which it records them; they are scaled to the time of the runs that were not recorded. In \
                    brackets the 95 % interval.";
        blocks.insert(0, text(line));
    }
    section("whole", "Whole networks", blocks)
}

/// The share of a run that each of [`KINDS`] takes, and what lies between.
fn shares(row: &NetworkRow) -> Vec<(&'static str, Class, f64)> {
    let Some(median) = row.median_ns else { return Vec::new() };
    let is_of = |part: &Part, kinds: &[&str]| kinds.contains(&part.kind.as_str());
    let named = |part: &Part| KINDS.iter().any(|(.., kinds)| is_of(part, kinds));
    if row.parts.is_empty() {
        return vec![(UNTOLD.0, UNTOLD.1, 1.0)];
    }
    let all = row.parts_ns();
    // A record of runs that are slower for being recorded says only how they are made up.
    let whole = if row.engine == OURS { all.max(median) } else { all };
    let share = |ns: f64| if whole > 0.0 { ns / whole } else { 0.0 };
    let mut shares: Vec<(&str, Class, f64)> = KINDS
        .iter()
        .map(|(name, class, kinds)| {
            let own = row.parts.iter().filter(|part| match kinds.is_empty() {
                true => !named(part),
                false => is_of(part, kinds),
            });
            (*name, *class, share(own.map(|part| part.median_ns).sum()))
        })
        .collect();
    let rest = 1.0 - shares.iter().map(|(.., share)| share).sum::<f64>();
    shares.push((BETWEEN.0, BETWEEN.1, rest.max(0.0)));
    shares
}

fn stacks(rows: &[&NetworkRow]) -> Option<Block> {
    let mut legend: Vec<(Class, String)> = Vec::new();
    let bars = rows.iter().filter_map(|row| {
        let each = row.median_ns? / 1e6 / row.batch as f64;
        let parts = shares(row).into_iter().filter(|(.., share)| *share > 0.0);
        let parts: Vec<(Class, String, f64)> =
            parts.map(|(name, class, share)| (class, name.to_owned(), share * each)).collect();
        for (class, name, _) in &parts {
            if !legend.iter().any(|(known, _)| known == class) {
                legend.push((*class, name.clone()));
            }
        }
        Some(Stack { name: row.requested.clone(), detail: setting(row), parts, value: each })
    });
    let bars: Vec<Stack> = bars.collect();
    let most = bars.iter().map(|bar| bar.value).fold(f64::MIN_POSITIVE, f64::max);
    (!bars.is_empty()).then_some(Block::Stacks(Stacks { unit: "ms an image", most, bars, legend }))
}

/// All numbers of the rows.
fn table(settings: &[Vec<&NetworkRow>]) -> Table {
    let heads = [
        "batch, threads, engine",
        "median",
        "quartiles",
        "fastest",
        "images/s",
        "GFLOP/s",
        "ours is faster",
        "prepared in",
        "first run",
        "difference of outputs",
    ];
    let kinds = KINDS.iter().map(|(name, ..)| *name).chain([BETWEEN.0]);
    let mut table = Table::new(heads.into_iter().chain(kinds));
    for rows in settings {
        let ours = rows.iter().find(|row| row.engine == OURS);
        let best = rows.iter().filter_map(|row| row.median_ns).fold(f64::INFINITY, f64::min);
        for row in rows {
            let name = format!("{}, {}, {}", row.batch, row.threads, row.requested);
            let name = Cell { hint: row.version.clone(), ..name.into() };
            let Some(median) = row.median_ns else {
                let mark = if row.status == Status::Wrong { Mark::Wrong } else { Mark::Faint };
                let status = Cell { hint: row.reason.clone(), ..Cell::marked(word(row.status), mark) };
                let empty = vec![Cell::default(); table.heads.len() - 2];
                table.rows.push([vec![name, status], empty].concat());
                continue;
            };
            let mark = if median <= best { Mark::Best } else { Mark::None };
            let quartiles = row.quarter_ns.zip(row.three_quarters_ns);
            let ratio = ours.filter(|_| row.engine != OURS).and_then(|ours| faster(ours, row));
            // The row's interval is of its own ratio, ours is its inverse.
            let is_of_ours = row.baseline.as_ref() == ours.map(|ours| &ours.requested);
            let interval = row.ratio_low.zip(row.ratio_high).filter(|_| is_of_ours);
            let interval = interval.map_or(String::new(), |(low, high)| {
                format!(" [{}–{}]", digits(1.0 / high), digits(1.0 / low))
            });
            let mut cells = vec![
                name,
                Cell::marked(time(median), mark),
                quartiles.map(|(a, b)| format!("{}–{}", time(a), time(b))).into(),
                row.min_ns.map(time).into(),
                row.images_per_second.map(digits).into(),
                row.gflops.map(digits).into(),
                ratio.map(|ratio| format!("{}{interval}", times(ratio))).into(),
                row.plan_ns.map(time).into(),
                row.first_ns.map(time).into(),
                row.difference.filter(|_| row.engine != OURS).map(|by| format!("{by:.0e}")).into(),
            ];
            let parts = if row.parts.is_empty() { Vec::new() } else { shares(row) };
            let in_parts = parts.iter().map(|(.., share)| match *share > 0.0 {
                true => Cell { hint: Some(percent(*share)), ..time(share * median).into() },
                false => Cell::default(),
            });
            cells.extend(in_parts);
            cells.resize(table.heads.len(), Cell::default());
            table.rows.push(cells);
        }
    }
    table.without_empty_columns()
}

/// The parts of a run.
fn layers(row: &NetworkRow) -> Block {
    let mut table = Table::new(["layer", "time", "share", "GFLOP/s", "by"]);
    table.words = vec![4];
    let (all, most) = (row.parts_ns(), row.parts.iter().map(|part| part.median_ns).fold(0.0, f64::max));
    for part in &row.parts {
        table.rows.push(vec![
            part.name.clone().into(),
            Cell { share: Some(part.median_ns / most.max(f64::MIN_POSITIVE)), ..time(part.median_ns).into() },
            percent(part.median_ns / all).into(),
            (part.gflops > 0.0).then(|| digits(part.gflops)).into(),
            part.kernel.clone().unwrap_or_else(|| part.kind.clone()).into(),
        ]);
    }
    Block::Table(table)
}
