//! What a page says: analyses turned into text, tables and figures.

mod beginning;
mod comparisons;
mod costs;
mod layers;
mod roofline;
mod whole;

use crate::engine::OURS;
use crate::record::Record;
use crate::report::document::{Block, Cell, Class, Document, Fold, Section, Table};
use crate::report::results::{Results, time_of};
use crate::report::standings::Standings;

/// The page of some results.
pub fn document(results: &Results) -> Document {
    let standings: Vec<Standings> =
        (0..results.settings.len()).map(|setting| Standings::of(results, setting)).collect();
    let mut document = beginning::beginning(results, &standings);
    let sections = [
        whole::whole(results),
        beginning::ranking(results, &standings),
        comparisons::peers(results),
        layers::glance(results, &standings),
        layers::layers(results, &standings),
        roofline::roofline(results),
        comparisons::networks(results),
        comparisons::ladder(results),
        comparisons::threads(results),
        comparisons::batches(results),
        costs::memory(results),
        costs::starts(results),
        costs::cold(results),
        beginning::noise(results, &standings),
        costs::refusals(results),
        beginning::provenance(results),
    ];
    document.sections = sections.into_iter().flatten().collect();
    document
}

/// A section, if there is anything in it.
fn section(id: &'static str, title: &str, blocks: Vec<Block>) -> Option<Section> {
    (!blocks.is_empty()).then(|| Section { id, title: title.to_owned(), blocks })
}

fn text(text: impl ToString) -> Block {
    Block::Text(text.to_string())
}

fn fold(title: impl ToString, blocks: Vec<Block>) -> Block {
    Block::Fold(Fold { title: title.to_string(), blocks, ..Fold::default() })
}

/// The blocks of each setting, without those that say nothing.
fn of_settings(results: &Results, blocks: impl Fn(usize) -> Vec<Block>) -> Vec<Block> {
    let all = results.settings.iter().enumerate().map(|(index, setting)| (setting, blocks(index)));
    all.filter(|(_, blocks)| !blocks.is_empty())
        .map(|(setting, blocks)| Block::Of(*setting, blocks))
        .collect()
}

/// A table whose rows are layers and whose columns are engines.
fn by_engine(results: &Results, columns: &[usize], rows: impl Iterator<Item = (usize, Vec<Cell>)>) -> Table {
    let heads = std::iter::once("layer").chain(columns.iter().map(|&id| results.id(id)));
    let mut table = Table::new(heads);
    table.rows = rows.map(|(case, cells)| [vec![layer_cell(results, case)], cells].concat()).collect();
    table
}

/// A layer's name, which leads to its details.
fn layer_cell(results: &Results, case: usize) -> Cell {
    let of = &results.cases[case];
    Cell { link: Some(layer_id(case)), hint: Some(of.spec_text.clone()), ..of.label.clone().into() }
}

/// The name of a layer's details in links.
fn layer_id(case: usize) -> String {
    format!("layer-{}", case + 1)
}

/// So many of something.
fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// The colour and shape of a row.
fn class(results: &Results, row: &Record) -> Class {
    if row.engine != OURS {
        let peers = results.peers();
        return Class::Peer(peers.iter().position(|&id| results.id(id) == row.requested).unwrap_or(0));
    }
    match row.kernel.split(['/', '-']).next().unwrap_or_default() {
        "naive" => Class::Naive,
        "im2col" => Class::Im2col,
        "direct" => Class::Direct,
        "winograd" => Class::Winograd,
        "pointwise" => Class::Pointwise,
        "depthwise" => Class::Depthwise,
        _ => Class::Other,
    }
}

/// A row's speed, if it has one that can be drawn.
fn speed(row: &Record) -> Option<f64> {
    time_of(row)?;
    row.gflops.filter(|gflops| *gflops > 0.0 && gflops.is_finite())
}
