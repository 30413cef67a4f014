//! What engines cost beside their time, and what they refused.

use crate::machine::bytes;
use crate::record::Status;
use crate::report::costs::{self, Memory, Paid};
use crate::report::document::{Block, Cell, Mark, Section, Table};
use crate::report::numbers::{percent, short, times};
use crate::report::refusals::{self, word};
use crate::report::results::{Results, threads};
use crate::report::sections::{by_engine, count, fold, of_settings, section, text};

/// Workspace and packed weights.
pub(super) fn memory(results: &Results) -> Option<Section> {
    let mut blocks = Vec::new();
    for memory in costs::memory(results) {
        if blocks.is_empty() {
            let line = "Workspace is scratch memory of a run, packed are the weights as a plan holds them. For \
                        comparison the matrix that im2col makes of one image, one group at a time: \
                        C/g · KH · KW · OH · OW · 4 bytes; and the weights as they are given.";
            blocks.push(text(line));
        }
        let name = results.settings[memory.setting].label_of_any_caches();
        blocks.push(Block::Table(memory_summary(results, &memory, &name)));
        let size = |n: Option<usize>| n.map_or("–".to_owned(), |n| bytes(n as u64));
        let heads = ["layer", "weights", "im2col matrix"].map(str::to_owned).into_iter();
        let mut table =
            Table::new(heads.chain(memory.contestants.iter().map(|&id| results.id(id).to_owned())));
        for layer in &memory.layers {
            let mut cells = vec![
                super::layer_cell(results, layer.case),
                bytes(layer.weights).into(),
                layer.im2col.map(bytes).into(),
            ];
            cells.extend(layer.engines.iter().map(|sizes| match sizes {
                (None, None) => "".into(),
                (workspace, packed) => Cell::from(format!("{} + {}", size(*workspace), size(*packed))),
            }));
            table.rows.push(cells);
        }
        let title = format!("Layer by layer: workspace + packed weights, {name}");
        blocks.push(fold(title, vec![Block::Table(table)]));
    }
    section("memory", "Memory", blocks)
}

fn memory_summary(results: &Results, memory: &Memory, name: &str) -> Table {
    let mut table = Table::new([
        name,
        "largest workspace",
        "largest share of im2col's matrix",
        "packed weights, all layers",
        "of the weights given",
        "layers",
    ]);
    for (index, &id) in memory.contestants.iter().enumerate() {
        let of = || memory.layers.iter().map(|layer| (layer, layer.engines[index]));
        let workspace = of().filter_map(|(_, (workspace, _))| workspace).max();
        let share = of().filter_map(|(layer, (workspace, _))| {
            Some(workspace? as f64 / layer.im2col.filter(|&bytes| bytes > 0)? as f64)
        });
        let packed: Vec<(u64, u64)> =
            of().filter_map(|(layer, (_, packed))| Some((packed? as u64, layer.weights))).collect();
        let sum = packed
            .iter()
            .fold((0u64, 0u64), |sum, of| (sum.0.saturating_add(of.0), sum.1.saturating_add(of.1)));
        let layers = of().filter(|(_, sizes)| *sizes != (None, None)).count();
        table.rows.push(vec![
            results.id(id).into(),
            workspace.map(|n| bytes(n as u64)).into(),
            share.max_by(f64::total_cmp).map(percent).into(),
            (!packed.is_empty()).then(|| bytes(sum.0)).into(),
            (sum.1 > 0).then(|| times(sum.0 as f64 / sum.1 as f64)).into(),
            layers.to_string().into(),
        ]);
    }
    table
}

/// Plans and first calls.
pub(super) fn starts(results: &Results) -> Option<Section> {
    let mut blocks = of_settings(results, |setting| {
        let Some(starts) = costs::starts(results, setting) else { return Vec::new() };
        let base = starts.baseline.map(|base| results.id(base)).unwrap_or_default();
        let mut table = Table::new([
            "engine".to_owned(),
            "plan / run".to_owned(),
            "first call / run".to_owned(),
            "runs until paid".to_owned(),
            "never paid".to_owned(),
            "layers".to_owned(),
        ]);
        for start in &starts.engines {
            let never = (start.never > 0).then(|| count(start.never, "layer"));
            table.rows.push(vec![
                results.id(start.contestant).into(),
                start.plan.map(short).into(),
                start.first.map(short).into(),
                start.paid.map(short).into(),
                never.into(),
                start.layers.to_string().into(),
            ]);
        }
        let mut blocks = vec![Block::Table(table.without_empty_columns())];
        if !starts.layers.is_empty() {
            let columns: Vec<usize> = starts.engines.iter().map(|start| start.contestant).collect();
            let rows = starts.layers.iter().map(|(case, paids)| {
                let cells = paids.iter().map(|paid| match paid {
                    Some(Paid::After(runs)) => runs.to_string().into(),
                    Some(Paid::Never) => Cell::marked("never", Mark::Faint),
                    None => "".into(),
                });
                (*case, cells.collect())
            });
            let table = by_engine(results, &columns, rows).without_empty_columns();
            let title = format!("Layer by layer: runs until a plan has paid against {base}");
            blocks.push(fold(title, vec![Block::Table(table)]));
        }
        blocks
    });
    if !blocks.is_empty() {
        let base = results.baseline.map(|base| results.id(base)).unwrap_or("the baseline");
        let line = format!(
            "A plan packs weights and settles blocking, once; the first call also touches its memory for the \
             first time. Both in units of a run's median time; medians over layers. A plan has paid after n \
             runs when plan and n runs together take less time than {base} with its own plan."
        );
        blocks.insert(0, text(line));
    }
    section("plans", "Plans and first calls", blocks)
}

/// Warm against cold caches.
pub(super) fn cold(results: &Results) -> Option<Section> {
    let mut blocks = Vec::new();
    for cold in costs::cold(results) {
        if blocks.is_empty() {
            let line = "How many times longer a run takes when input, weights and output come from memory \
                        instead of whichever cache holds them; geometric means over layers.";
            blocks.push(text(line));
        }
        let name = threads(cold.threads);
        let mut table = Table::new([name.as_str(), "cold / warm", "layers"]);
        for (id, mean, layers) in &cold.means {
            table.rows.push(vec![results.id(*id).into(), times(*mean).into(), layers.to_string().into()]);
        }
        blocks.push(Block::Table(table));
        let columns: Vec<usize> = cold.means.iter().map(|(id, ..)| *id).collect();
        let rows = cold
            .layers
            .iter()
            .map(|(case, ratios)| (*case, ratios.iter().map(|ratio| Cell::from(ratio.map(times))).collect()));
        let table = by_engine(results, &columns, rows);
        blocks.push(fold(format!("Layer by layer: cold / warm, {name}"), vec![Block::Table(table)]));
    }
    section("cold", "Warm against cold", blocks)
}

/// Rows without a time.
pub(super) fn refusals(results: &Results) -> Option<Section> {
    let all = refusals::refusals(results);
    let mut table = Table::new(["engine", "what", "why", "layers", "rows"]);
    table.words = vec![1, 2, 3];
    for refusal in &all {
        let mark = if refusal.status == Status::Wrong { Mark::Wrong } else { Mark::None };
        let layers = match refusal.layers.len() {
            n if n > 6 => format!("{}, … {n} in all", refusal.layers[..5].join(", ")),
            _ => refusal.layers.join(", "),
        };
        table.rows.push(vec![
            refusal.contestant.clone().into(),
            Cell::marked(word(refusal.status), mark),
            refusal.reason.clone().into(),
            Cell { hint: Some(refusal.layers.join(", ")), ..layers.into() },
            refusal.rows.to_string().into(),
        ]);
    }
    let blocks = if all.is_empty() {
        vec![text("None: every engine that was asked for ran on every layer.")]
    } else {
        vec![Block::Table(table)]
    };
    section("refusals", "Refusals", blocks)
}
