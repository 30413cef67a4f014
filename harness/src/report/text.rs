//! Rows for the terminal.

use std::fmt::Write;

use crate::engine::OURS;
use crate::record::{Record, Role};
use crate::report::numbers::{digits, percent, time, times};
use crate::report::refusals::word;
use crate::report::results::{Results, Source};
use crate::report::standings::Standings;

/// Rows of one layer, one number of threads and one state of the caches, the fastest first; those without a
/// time last.
pub fn by_layer(rows: &[Record]) -> Vec<Vec<&Record>> {
    let mut layers: Vec<Vec<&Record>> = Vec::new();
    for row in rows {
        let same = |other: &&Record| {
            let place = |row: &Record| (row.threads, row.clock);
            (&other.layer, &other.spec, place(other)) == (&row.layer, &row.spec, place(row))
        };
        match layers.iter_mut().find(|layer| layer.first().is_some_and(same)) {
            Some(layer) => layer.push(row),
            None => layers.push(vec![row]),
        }
    }
    for layer in &mut layers {
        let time = |row: &Record| row.median_ns.unwrap_or(f64::INFINITY);
        layer.sort_by(|a, b| time(a).total_cmp(&time(b)));
    }
    layers
}

/// Whether what ran was chosen among several algorithms or implementations.
pub fn chosen(row: &Record) -> bool {
    let algorithm = |id: &str| id.split('/').next().unwrap_or_default().to_owned();
    row.engine != OURS || algorithm(&row.kernel) != algorithm(&row.requested)
}

/// The lines of a row in a table: kernel, time, spread, speed, share of the peak, error.
pub fn cells(row: &Record) -> [String; 6] {
    let kernel = match row.role {
        Role::Main if chosen(row) => format!("{} = {}", row.requested, row.kernel),
        Role::Main => row.kernel.clone(),
        Role::Aa => format!("{} again", row.kernel),
    };
    let (Some(median), Some(mad), Some(gflops)) = (row.median_ns, row.mad_ns, row.gflops) else {
        let status = word(row.status).to_owned();
        return [kernel, status, String::new(), String::new(), String::new(), String::new()];
    };
    let error = match (row.max_error, row.error_bound) {
        (Some(error), Some(bound)) if bound > 0.0 => percent(error / bound),
        _ => String::new(),
    };
    [
        kernel,
        time(median),
        format!("±{}", percent(mad / median)),
        digits(gflops),
        row.peak_fraction.map(percent).unwrap_or_default(),
        error,
    ]
}

/// The heads of [`cells`].
pub const HEADS: [&str; 6] = ["kernel", "time", "spread", "GFLOP/s", "of peak", "of error bound"];

/// A table as text: the first column to the left, the others to the right.
pub fn text_table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([heads[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let mut text = String::new();
    let heads: Vec<String> = heads.iter().map(|&head| head.to_owned()).collect();
    for row in std::iter::once(&heads).chain(rows) {
        let mut line = String::new();
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            // Writing to a String cannot fail.
            let _ = match column {
                0 => write!(line, "{cell:width$}"),
                _ => write!(line, "  {cell:>width$}"),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// How engines stand in each setting, as text.
pub fn ranking_text(rows: &[Record]) -> String {
    let source = Source { name: String::new(), rows: rows.to_vec(), interrupted: false };
    let results = Results::of(vec![source]);
    let tables = (0..results.settings.len()).map(|setting| {
        let of = Standings::of(&results, setting);
        let over = results.baseline.map_or("ratio".to_owned(), |base| format!("× {}", results.id(base)));
        let heads = [results.settings[setting].label(), "layers".into(), "fastest on".into(), over];
        let heads = [&heads[..], &["of the fastest".to_owned()]].concat();
        let heads: Vec<&str> = heads.iter().map(String::as_str).collect();
        let rows = of.standings.iter().map(|standing| {
            vec![
                results.id(standing.contestant).to_owned(),
                standing.own.layers.to_string(),
                standing.fastest.to_string(),
                standing.own.over_baseline.map(|(mean, _)| times(mean)).unwrap_or_default(),
                percent(standing.own.of_fastest),
            ]
        });
        text_table(&heads, &rows.collect::<Vec<_>>())
    });
    tables.collect::<Vec<_>>().join("\n")
}
