//! What rows of a benchmark say: a ranking for the terminal, a page to look at.

use std::fmt::Write;

use crate::engine::OURS;
use crate::record::{Record, Role, Status};

/// How a kernel stands over all its layers.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// The id as it was asked for.
    pub kernel: String,
    /// Threads.
    pub threads: usize,
    /// Layers it ran on.
    pub layers: usize,
    /// Layers on which nothing was faster than it by more than the run's noise.
    pub first: usize,
    /// Geometric mean of its speed over that of the fastest kernel on each of its layers; 1 at best.
    pub share_of_best: f64,
}

/// Rows of one layer and one number of threads, the fastest first; those without a time last.
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

/// How far apart a layer's two rows of the same kernel are, as a share of their time.
pub fn noise(layer: &[&Record]) -> f64 {
    let again = layer.iter().find(|row| row.role == Role::Aa);
    let first =
        again.and_then(|again| layer.iter().find(|r| r.role == Role::Main && r.requested == again.requested));
    match (again.and_then(|row| row.median_ns), first.and_then(|row| row.median_ns)) {
        (Some(a), Some(b)) => (a / b - 1.0).abs(),
        _ => 0.0,
    }
}

/// Standings, the best first; fewer threads before more. `auto` stands beside the kernels it chose.
pub fn ranking(rows: &[Record]) -> Vec<Standing> {
    let mut standings: Vec<(Standing, f64)> = Vec::new();
    for layer in by_layer(rows) {
        let noise = noise(&layer);
        let main = || layer.iter().filter(|row| row.role == Role::Main && row.status == Status::Ok);
        let Some(best) = main().find_map(|row| row.median_ns) else { continue };
        for row in main() {
            let Some(time) = row.median_ns else { continue };
            let known =
                standings.iter().position(|(s, _)| s.kernel == row.requested && s.threads == row.threads);
            let index = known.unwrap_or_else(|| {
                let (kernel, threads) = (row.requested.clone(), row.threads);
                standings.push((Standing { kernel, threads, layers: 0, first: 0, share_of_best: 0.0 }, 0.0));
                standings.len() - 1
            });
            let (standing, logs) = &mut standings[index];
            standing.layers += 1;
            standing.first += usize::from(time <= best * (1.0 + noise));
            *logs += (best / time).ln();
        }
    }
    let mut standings: Vec<Standing> = standings
        .into_iter()
        .map(|(standing, logs)| Standing { share_of_best: (logs / standing.layers as f64).exp(), ..standing })
        .collect();
    standings.sort_by(|a, b| {
        a.threads
            .cmp(&b.threads)
            .then(b.first.cmp(&a.first))
            .then(b.share_of_best.total_cmp(&a.share_of_best))
    });
    standings
}

/// Time in the unit that reads best.
pub fn time(ns: f64) -> String {
    match ns {
        ns if ns < 1e3 => format!("{ns:.0} ns"),
        ns if ns < 1e6 => format!("{:.1} µs", ns / 1e3),
        ns if ns < 1e9 => format!("{:.2} ms", ns / 1e6),
        ns => format!("{:.2} s", ns / 1e9),
    }
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
        let status = match row.status {
            Status::Ok => "not measured",
            Status::Unsupported => "unsupported",
            Status::Unavailable => "unavailable",
            Status::Wrong => "WRONG",
            Status::TooLarge => "too large",
        };
        return [kernel, status.to_owned(), String::new(), String::new(), String::new(), String::new()];
    };
    let error = match (row.max_error, row.error_bound) {
        (Some(error), Some(bound)) if bound > 0.0 => format!("{:.1} %", 100.0 * error / bound),
        _ => String::new(),
    };
    [
        kernel,
        time(median),
        format!("±{:.1} %", 100.0 * mad / median),
        format!("{gflops:.1}"),
        row.peak_fraction.map(|share| format!("{:.0} %", 100.0 * share)).unwrap_or_default(),
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

/// A table in Markdown.
fn markdown_table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let heads: Vec<String> = heads.iter().map(|&head| head.to_owned()).collect();
    let rule: Vec<String> =
        (0..heads.len()).map(|i| if i == 0 { "---" } else { "---:" }.to_owned()).collect();
    let rows: String = rows.iter().map(|row| line(row)).collect();
    line(&heads) + &line(&rule) + &rows
}

fn ranking_rows(rows: &[Record]) -> Vec<Vec<String>> {
    ranking(rows)
        .into_iter()
        .map(|s| {
            let share = format!("{:.0} %", 100.0 * s.share_of_best);
            vec![s.kernel, s.threads.to_string(), s.layers.to_string(), s.first.to_string(), share]
        })
        .collect()
}

const RANKING_HEADS: [&str; 5] = ["kernel", "threads", "layers", "fastest on", "speed, fastest = 100 %"];

/// The ranking as text.
pub fn ranking_text(rows: &[Record]) -> String {
    text_table(&RANKING_HEADS, &ranking_rows(rows))
}

/// The page: machine, ranking, each layer.
pub fn markdown(title: &str, machine: &str, rows: &[Record]) -> String {
    let mut page = format!("# {title}\n\n{machine}\n\n## Ranking\n\n");
    page += &markdown_table(&RANKING_HEADS, &ranking_rows(rows));
    page += "\nA kernel is among the fastest on a layer when it is behind by no more than the two rows of the \
             same kernel differ there. Speeds are geometric means over the layers that a kernel covers.\n";
    for layer in by_layer(rows) {
        let Some(first) = layer.first() else { continue };
        let threads =
            if first.threads == 1 { "1 thread".into() } else { format!("{} threads", first.threads) };
        let _ = write!(page, "\n## {}, {threads}\n\n`{}`\n\n", first.layer, first.spec);
        let cells: Vec<Vec<String>> = layer.iter().map(|row| cells(row).to_vec()).collect();
        page += &markdown_table(&HEADS, &cells);
        for row in layer.iter().filter(|row| row.status != Status::Ok) {
            let reason = row.reason.as_deref().unwrap_or_default();
            let _ = writeln!(page, "\n{}: {reason}", row.requested);
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Ours;
    use crate::layers::Layer;
    use crate::record::{Clock, Roofs};

    fn row(layer: &str, kernel: &str, role: Role, median: f64) -> Record {
        let spec = "c1 h3 w3 o1 k3".parse().unwrap();
        let layer = Layer { name: layer.to_owned(), ..Layer::of_spec(spec) };
        let samples = [median; 3];
        let statistics = crate::statistics::Statistics::of(&samples).unwrap();
        let pool = crate::pinning::Pool::new(1).unwrap();
        let naive = Ours(kernels::kernel("naive").unwrap());
        let mut row = crate::bench::blank(&layer, &naive, &pool, Clock::Warm, None);
        (row.requested, row.kernel, row.role) = (kernel.to_owned(), kernel.to_owned(), role);
        row.set_times(&statistics, &spec, None);
        row.gflops = Some(10.0);
        row.set_roofs(Roofs { peak: 2.0, bandwidth: 1e9, level: "L1" });
        row
    }

    #[test]
    fn ranks_by_layers_won_within_the_noise() {
        let rows = [
            row("a", "direct", Role::Main, 100.0),
            row("a", "direct", Role::Aa, 103.0),
            row("a", "gemm", Role::Main, 102.0),
            row("a", "slow", Role::Main, 400.0),
            row("b", "direct", Role::Main, 200.0),
            row("b", "gemm", Role::Main, 100.0),
        ];
        let ranking = ranking(&rows);
        let names: Vec<&str> = ranking.iter().map(|s| s.kernel.as_str()).collect();
        assert_eq!(names, ["gemm", "direct", "slow"]);
        assert_eq!((ranking[0].layers, ranking[0].first), (2, 2));
        assert_eq!((ranking[1].layers, ranking[1].first), (2, 1));
        assert!((ranking[1].share_of_best - 0.5f64.sqrt()).abs() < 1e-12);
        assert_eq!((ranking[2].first, ranking[2].share_of_best), (0, 0.25));
    }

    #[test]
    fn tables_line_up() {
        let rows = vec![vec!["a".to_owned(), "10 µs".to_owned()], vec!["long".to_owned(), "1 s".to_owned()]];
        assert_eq!(text_table(&["k", "time"], &rows), "k      time\na     10 µs\nlong    1 s\n");
        let page = markdown("T", "M", &[row("a", "direct", Role::Main, 100.0)]);
        assert!(page.contains("| direct | 100 ns | ±0.0 % | 10.0 | 500 % |"), "{page}");
    }
}
