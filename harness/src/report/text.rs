//! Rows for the terminal.

use std::fmt::Write;

use crate::engine::OURS;
use crate::record::{Record, Role};
use crate::report::numbers::{digits, percent, time, times};
use crate::report::refusals::word;
use crate::report::results::{Results, Setting, Source};
use crate::report::standings::Standings;

/// Rows of one layer, one number of threads and one state of the caches, the fastest first; those without a
/// time last.
pub fn by_layer(rows: &[Record]) -> Vec<Vec<&Record>> {
    let mut layers: Vec<Vec<&Record>> = Vec::new();
    for row in rows {
        let same = |other: &&Record| {
            (&other.layer, &other.spec, Setting::of(other)) == (&row.layer, &row.spec, Setting::of(row))
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

/// The cells of a row in a table, as [`heads`] names them.
pub fn cells(row: &Record) -> [String; 7] {
    let kernel = match row.role {
        Role::Main if chosen(row) => format!("{} = {}", row.requested, row.kernel),
        Role::Main => row.kernel.clone(),
        Role::Aa => format!("{} again", row.kernel),
    };
    let (Some(median), Some(mad), Some(gflops)) = (row.median_ns, row.mad_ns, row.gflops) else {
        let status = word(row.status).to_owned();
        let mut cells: [String; 7] = Default::default();
        (cells[0], cells[1]) = (kernel, status);
        return cells;
    };
    let interval = row.ratio_low.zip(row.ratio_high);
    let interval =
        interval.map_or(String::new(), |(low, high)| format!(" [{}–{}]", digits(low), digits(high)));
    let roof = row.roof_fraction.zip(row.roof.as_deref());
    let error = match (row.max_error, row.error_bound) {
        (Some(error), Some(bound)) if bound > 0.0 => percent(error / bound),
        _ => String::new(),
    };
    [
        kernel,
        time(median),
        format!("±{}", percent(mad / median)),
        digits(gflops),
        roof.map(|(share, roof)| format!("{} {roof}", percent(share))).unwrap_or_default(),
        row.ratio.map(|ratio| format!("{}{interval}", times(ratio))).unwrap_or_default(),
        error,
    ]
}

/// The heads of [`cells`] of some rows: speeds are over their baseline's (of a second row over its first's).
pub fn heads(rows: &[&Record]) -> [String; 7] {
    let baseline = rows.iter().find(|row| row.role == Role::Main).and_then(|row| row.baseline.as_deref());
    let ratio = baseline.map_or("speed".to_owned(), |baseline| format!("× {baseline}"));
    let words = ["kernel", "time", "spread", "GFLOP/s", "of roof", &ratio, "of error bound"];
    words.map(str::to_owned)
}

/// A table as text: the first column to the left, the others to the right.
pub fn text_table(heads: &[impl AsRef<str>], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([heads[column].as_ref().chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let mut text = String::new();
    let heads: Vec<String> = heads.iter().map(|head| head.as_ref().to_owned()).collect();
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
    let source =
        Source { name: String::new(), rows: rows.to_vec(), networks: Vec::new(), interrupted: false };
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
