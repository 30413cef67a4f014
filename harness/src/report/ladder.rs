//! What each step buys: from plain loops over instruction sets to another algorithm.

use crate::record::Record;
use crate::report::results::{Results, factor};
use crate::statistics::geometric_mean;

/// A step: its name, and which kernel that ran stands on it.
type Rung = (&'static str, fn(&str) -> bool);

const RUNGS: [Rung; 5] = [
    ("naive", |kernel| kernel == "naive"),
    ("direct/wide", |kernel| kernel == "direct/wide"),
    ("direct/avx2", |kernel| kernel == "direct/avx2"),
    ("direct/avx512", |kernel| kernel == "direct/avx512"),
    ("winograd", |kernel| kernel.starts_with("winograd")),
];

/// Kernels whose rows make a ladder.
pub const NEEDED: &str = "naive,direct/wide,direct/avx2,direct/avx512,winograd";

/// Geometric means over the layers that all rungs of a ladder ran.
#[derive(Clone, Debug, PartialEq)]
pub struct Ladder {
    /// The setting.
    pub setting: usize,
    /// Layers.
    pub layers: usize,
    /// Each rung's name, its GFLOP/s, and how many times faster than the rung below it is.
    pub rungs: Vec<(&'static str, f64, Option<f64>)>,
}

/// The ladders of a setting: over the layers that every rung ran; if that is fewer, first the one without
/// Winograd, which covers the fewest. None with fewer than two instruction sets.
pub fn ladders(results: &Results, setting: usize) -> Vec<Ladder> {
    let rung = |case: usize, (name, stands): &Rung| -> Option<&Record> {
        let ranked = results.ranked(case, setting);
        // What `auto` took is not a rung of its own; of several variants the fastest counts.
        let of = |requested: &str| requested.split(['/', '-']).next() == name.split(['/', '-']).next();
        ranked.iter().find(|(id, row, _)| of(results.id(*id)) && stands(&row.kernel)).map(|(_, row, _)| *row)
    };
    let cases = 0..results.cases.len();
    let present: Vec<&Rung> =
        RUNGS.iter().filter(|of| cases.clone().any(|case| rung(case, of).is_some())).collect();
    if present.iter().filter(|(name, _)| name.starts_with("direct/")).count() < 2 {
        return Vec::new();
    }
    let ladder = |of: &[&Rung]| -> Option<Ladder> {
        let complete: Vec<Vec<&Record>> = cases
            .clone()
            .filter_map(|case| of.iter().map(|step| rung(case, step)).collect::<Option<Vec<_>>>())
            .collect();
        let rungs = of.iter().enumerate().map(|(step, (name, _))| {
            let speed = geometric_mean(complete.iter().filter_map(|rows| rows[step].gflops))?;
            let below = step.checked_sub(1);
            let gains = below.map(|below| {
                complete.iter().filter_map(move |rows| Some(factor(rows[step], rows[below])?.ratio))
            });
            Some((*name, speed, gains.and_then(geometric_mean)))
        });
        Some(Ladder { setting, layers: complete.len(), rungs: rungs.collect::<Option<Vec<_>>>()? })
    };
    let without: Vec<&Rung> = present.iter().copied().filter(|(name, _)| *name != "winograd").collect();
    let whole = ladder(&present);
    let lower = if without.len() < present.len() { ladder(&without) } else { None };
    let more = lower.filter(|lower| whole.as_ref().is_none_or(|whole| whole.layers < lower.layers));
    more.into_iter().chain(whole).collect()
}
