//! Engines beside each other over many layers: other libraries, networks, instruction sets, threads, batches.

use crate::record::Status;
use crate::report::document::{Block, Cell, Class, Line, Mark, Plot, Section, Table};
use crate::report::ladder::{self, Ladder};
use crate::report::networks;
use crate::report::numbers::{digits, percent, time, times};
use crate::report::peers::{self, Duels, Mean};
use crate::report::refusals::word;
use crate::report::results::{AUTO, Factor, Results, threads as threads_in_words, time_of};
use crate::report::scaling::{self, Gain};
use crate::report::sections::{by_engine, class, count, fold, layer_cell, of_settings, section, text};

/// Ours beside other libraries.
pub(super) fn peers(results: &Results) -> Option<Section> {
    let mut blocks = of_settings(results, |setting| match peers::duels(results, setting) {
        Some(duels) => duel_blocks(results, &duels),
        None => Vec::new(),
    });
    if !blocks.is_empty() {
        let line = "Ours is auto, or the fastest of ours where auto did not run. × says how many times faster \
                    ours is: the median over pairs of samples taken side by side, with its 95 % interval in \
                    brackets; without brackets the ratio of two medians, where there are no such pairs. A \
                    library's time does not hold the reordering of input and output into a layout of its own, \
                    which stands after a plus sign. Means are geometric, each over the layers that both ran, \
                    whose number stands behind it.";
        blocks.insert(0, text(line));
    }
    section("peers", "Ours beside other libraries", blocks)
}

fn duel_blocks(results: &Results, duels: &Duels<'_>) -> Vec<Block> {
    let names = || duels.peers.iter().map(|&id| results.id(id));
    let heads = names().flat_map(|name| [name.to_owned(), format!("ours × {name}")]);
    let first = ["layer", "ours"].map(str::to_owned).into_iter();
    let last = ["ours × the fastest of them", "what of ours ran"].map(str::to_owned);
    let mut table = Table::new(first.chain(heads).chain(last));
    table.words = vec![table.heads.len() - 1];
    for duel in &duels.duels {
        let ours = time_of(duel.ours).map(time);
        let mut cells = vec![layer_cell(results, duel.case), ours.into()];
        for (row, factor) in &duel.theirs {
            let theirs = row.and_then(|row| {
                let reorder = row.reorder_ns.map_or(String::new(), |ns| format!(" + {}", time(ns)));
                Some(format!("{}{reorder}", time(time_of(row)?)))
            });
            let hint = row.map(|row| row.kernel.clone());
            cells.push(match (theirs, row) {
                (Some(theirs), _) => Cell { hint, ..theirs.into() },
                (None, Some(row)) => {
                    let mark = if row.status == Status::Wrong { Mark::Wrong } else { Mark::Faint };
                    Cell { hint: row.reason.clone(), ..Cell::marked(word(row.status), mark) }
                }
                (None, None) => "".into(),
            });
            cells.push(factor.map_or_else(|| "".into(), factor_cell));
        }
        cells.push(duel.over_best().map_or_else(|| "".into(), |ratio| better(ratio, times(ratio))));
        cells.push(duel.ours.kernel.clone().into());
        table.rows.push(cells);
    }
    let sum = |text: &str| Cell::marked(text, Mark::Sum);
    let mut last = vec![sum("geometric mean"), sum("")];
    for mean in &duels.means.each {
        last.extend([sum(""), sum(&mean_words(mean))]);
    }
    last.extend([sum(&mean_words(&duels.means.best)), sum("")]);
    table.rows.push(last);
    let mut blocks = vec![Block::Table(table)];
    if duels.classes.len() > 1 {
        let heads = names().map(|name| format!("ours × {name}"));
        let last = "ours × the fastest of them".to_owned();
        let mut table = Table::new(["class of layer".to_owned()].into_iter().chain(heads).chain([last]));
        for (class, means) in &duels.classes {
            let cells = means.each.iter().chain([&means.best]).map(|mean| Cell::from(mean_words(mean)));
            table.rows.push([Cell::from(class.clone())].into_iter().chain(cells).collect());
        }
        blocks.push(Block::Table(table));
    }
    blocks
}

/// A factor; the better of the two is marked.
fn factor_cell(factor: Factor) -> Cell {
    let interval =
        factor.interval.map_or(String::new(), |(low, high)| format!(" [{}–{}]", digits(low), digits(high)));
    better(factor.ratio, format!("{}{interval}", times(factor.ratio)))
}

/// What is said of a factor, marked where ours is the better one.
fn better(ratio: f64, words: String) -> Cell {
    Cell::marked(words, if ratio >= 1.0 { Mark::Best } else { Mark::None })
}

/// A mean and its number of layers.
fn mean_words(mean: &Mean) -> String {
    mean.map_or_else(String::new, |(mean, layers)| format!("{} ({layers})", times(mean)))
}

/// Whole networks.
pub(super) fn networks(results: &Results) -> Option<Section> {
    let all = networks::networks(results);
    let mut blocks = of_settings(results, |setting| {
        let mut blocks = Vec::new();
        for network in all.iter().filter(|network| network.setting == setting) {
            let base = results.baseline.map(|base| format!("× {}", results.id(base)));
            let per = match network.batch {
                Some(1) => "time per image".to_owned(),
                Some(n) => format!("time per image, batch {n}"),
                None => "time per pass".to_owned(),
            };
            let mut table =
                Table::new([network.name.clone(), per, base.unwrap_or_default(), "layers".to_owned()]);
            for (rank, total) in network.engines.iter().enumerate() {
                let mark = if rank == 0 && total.ns.is_some() { Mark::Best } else { Mark::None };
                let images = network.batch.unwrap_or(1) as f64;
                table.rows.push(vec![
                    results.id(total.contestant).into(),
                    Cell::marked(total.ns.map(|ns| time(ns / images)).unwrap_or_default(), mark),
                    total.over_baseline.map(times).into(),
                    match total.ns {
                        Some(_) => network.layers.to_string().into(),
                        None => {
                            Cell::marked(format!("only {} of {}", total.layers, network.layers), Mark::Faint)
                        }
                    },
                ]);
            }
            blocks.push(Block::Table(table.without_empty_columns()));
            if !network.missing.is_empty() {
                let missing = network.missing.join(", ");
                blocks.push(Block::Warning(
                    format!("{} has layers that were not measured: {missing}.", network.name).into(),
                ));
            }
        }
        blocks
    });
    if !blocks.is_empty() {
        let line = "The sum over a network's layers of median time × how often the network has the layer; only \
                    for engines that ran all of them. Layers are timed one by one: what they do to each \
                    other's caches is not in the sum.";
        blocks.insert(0, text(line));
    }
    section("networks", "Whole networks", blocks)
}

/// What each instruction set buys.
pub(super) fn ladder(results: &Results) -> Option<Section> {
    let mut blocks =
        of_settings(results, |setting| ladder::ladders(results, setting).iter().map(ladder_table).collect());
    if blocks.is_empty() {
        let line = "There are no rows that show what each instruction set buys. This command makes them:";
        let command = format!("convbench bench --kernel {} --json FILE", ladder::NEEDED);
        return section("ladder", "What each step buys", vec![text(line), Block::Code(command)]);
    }
    let line = "Geometric means over the layers that every step of a table ran. × is how many times faster a \
                step is than the one before it. wide is what the build's target features allow without \
                asking the CPU; of Winograd's variants the fastest counts.";
    blocks.insert(0, text(line));
    section("ladder", "What each step buys", blocks)
}

fn ladder_table(ladder: &Ladder) -> Block {
    let heads =
        [count(ladder.layers, "layer"), "GFLOP/s".into(), "× the step before".into(), "× the first".into()];
    let mut table = Table::new(heads);
    let mut product = 1.0;
    let most = ladder.rungs.iter().map(|rung| rung.1).fold(0.0, f64::max);
    for (name, speed, gain) in &ladder.rungs {
        product *= gain.unwrap_or(1.0);
        table.rows.push(vec![
            (*name).into(),
            Cell { share: Some(speed / most), ..digits(*speed).into() },
            gain.map(times).into(),
            gain.map(|_| times(product)).into(),
        ]);
    }
    Block::Table(table)
}

/// What more threads bring.
pub(super) fn threads(results: &Results) -> Option<Section> {
    let mut blocks = Vec::new();
    for of in scaling::threads(results) {
        let name = |n: &usize| threads_in_words(*n);
        let both = |gain: &Gain| format!("{} ({})", times(gain.speed_up), percent(gain.efficiency));
        let heads = of.more.iter().flat_map(|n| [name(n), "efficiency".to_owned(), "layers".to_owned()]);
        let clock = format!("{} caches", of.clock.name());
        let mut table = Table::new(std::iter::once(clock.clone()).chain(heads));
        for (id, means) in &of.means {
            let cells = means.iter().flat_map(|mean| match mean {
                Some((gain, layers)) => {
                    [times(gain.speed_up), percent(gain.efficiency), layers.to_string()].map(Cell::from)
                }
                None => [const { String::new() }; 3].map(Cell::from),
            });
            table.rows.push(std::iter::once(Cell::from(results.id(*id))).chain(cells).collect());
        }
        blocks.push(Block::Table(table));
        let columns: Vec<usize> = of.means.iter().map(|(id, _)| *id).collect();
        for (index, n) in of.more.iter().enumerate() {
            let rows = of.layers.iter().map(|(case, gains)| {
                let cells =
                    gains.iter().map(|of| Cell::from(of.get(index).copied().flatten().map(|g| both(&g))));
                (*case, cells.collect())
            });
            let table = by_engine(results, &columns, rows);
            blocks.push(fold(format!("Layer by layer: {}, {clock}", name(n)), vec![Block::Table(table)]));
        }
        if blocks.len() == 2 {
            let line = format!(
                "How many times faster than with {}: geometric means over layers, and the share of perfect \
                 scaling (time with {} over n · time with n).",
                name(&of.fewest),
                name(&of.fewest)
            );
            blocks.insert(0, text(line));
        }
    }
    section("threads", "More threads", blocks)
}

/// What larger batches bring.
pub(super) fn batches(results: &Results) -> Option<Section> {
    let all = scaling::batches(results);
    let mut blocks = of_settings(results, |setting| {
        let mut blocks = Vec::new();
        for of in all.iter().filter(|of| of.setting == setting) {
            let heads = of.batches.iter().map(|batch| format!("batch {batch}"));
            let mut table = Table::new(std::iter::once(of.layer.clone()).chain(heads));
            let mut lines = Vec::new();
            for (id, speeds) in &of.speeds {
                let cells = speeds.iter().map(|speed| Cell::from(speed.map(digits)));
                table.rows.push(std::iter::once(Cell::from(results.id(*id))).chain(cells).collect());
                let points = of.batches.iter().zip(speeds);
                let points: Vec<_> = points.filter_map(|(n, speed)| Some((*n as f64, (*speed)?))).collect();
                let class = class_of(results, *id, setting);
                lines.push(Line { name: results.id(*id).to_owned(), class, points });
            }
            blocks.push(Block::Plot(Plot {
                title: format!("{}: GFLOP/s over batch", of.layer),
                x: "images in a batch".to_owned(),
                y: "GFLOP/s".to_owned(),
                roofs: Vec::new(),
                points: Vec::new(),
                lines,
                ticks: of.batches.iter().map(|batch| *batch as f64).collect(),
                legend: Vec::new(),
            }));
            blocks.push(Block::Table(table));
        }
        blocks
    });
    if !blocks.is_empty() {
        blocks.insert(0, text("GFLOP/s of layers that were measured with several batches."));
    }
    section("batches", "Larger batches", blocks)
}

/// The class of whatever an engine ran in a setting; `auto`, which runs several, has one of its own.
fn class_of(results: &Results, id: usize, setting: usize) -> Class {
    if results.id(id) == AUTO {
        return Class::Other;
    }
    let row = (0..results.cases.len()).find_map(|case| results.row(case, setting, id));
    row.map_or(Class::Other, |row| class(results, row))
}
