//! What `auto` loses: its time against that of the best kernel on each layer.

use crate::engine::OURS;
use crate::noise;
use crate::record::{Record, Role, Status};
use crate::report::text::by_layer;
use crate::statistics::geometric_mean;

/// A layer on which `auto` was measured beside other kernels.
#[derive(Clone, Debug, PartialEq)]
pub struct Regret<'a> {
    /// The row of `auto`.
    pub auto: &'a Record,
    /// The fastest other row.
    pub best: &'a Record,
    /// How much longer `auto` takes, as a share of the best one's time; 0 within the run's noise.
    pub share: f64,
}

/// The regret of each layer, number of threads and state of the caches, in the order of the rows.
pub fn regrets(rows: &[Record]) -> Vec<Regret<'_>> {
    by_layer(rows).into_iter().filter_map(|layer| regret(rows, &layer)).collect()
}

fn regret<'a>(rows: &'a [Record], layer: &[&'a Record]) -> Option<Regret<'a>> {
    let ours = |row: &&&Record| row.role == Role::Main && row.status == Status::Ok && row.engine == OURS;
    let auto = *layer.iter().filter(ours).find(|row| row.requested == "auto")?;
    // Of the kernels that were asked for the same.
    let others = layer
        .iter()
        .filter(ours)
        .filter(|row| row.requested != "auto" && row.accuracy == auto.accuracy && row.stores == auto.stores);
    let timed = others.filter(|row| row.median_ns.is_some());
    let best =
        *timed.min_by(|a, b| a.median_ns.unwrap_or(f64::MAX).total_cmp(&b.median_ns.unwrap_or(f64::MAX)))?;
    let share = auto.median_ns? / best.median_ns? - 1.0;
    let floor = noise::floor(rows, auto.threads, auto.clock);
    // What it chose is what is best: the difference is the noise of two rows of one kernel.
    let none = share <= 0.0 || auto.kernel == best.kernel || noise::is_tie(1.0 + share, 1.0, floor);
    Some(Regret { auto, best, share: if none { 0.0 } else { share } })
}

/// Geometric mean and worst of some regrets.
pub fn summary(regrets: &[Regret<'_>]) -> Option<(f64, f64)> {
    let mean = geometric_mean(regrets.iter().map(|regret| 1.0 + regret.share))? - 1.0;
    Some((mean, regrets.iter().map(|regret| regret.share).fold(0.0, f64::max)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::row;

    #[test]
    fn regret_is_against_the_best_other_kernel() {
        let chose = |layer: &str, kernel: &str, ns: f64| Record {
            requested: "auto".to_owned(),
            ..row(layer, kernel, ns)
        };
        let rows = [
            chose("a", "direct/x", 120.0),
            row("a", "direct/x", 121.0),
            row("a", "winograd/x", 100.0),
            chose("b", "direct/x", 105.0),
            row("b", "direct/x", 100.0),
            row("c", "direct/x", 100.0),
        ];
        let regrets = regrets(&rows);
        assert_eq!(regrets.len(), 2);
        assert_eq!((regrets[0].best.kernel.as_str(), regrets[1].share), ("winograd/x", 0.0));
        assert!((regrets[0].share - 0.2).abs() < 1e-12);
        let (mean, worst) = summary(&regrets).unwrap();
        assert!((mean - (1.2f64.sqrt() - 1.0)).abs() < 1e-12 && (worst - 0.2).abs() < 1e-12);
        assert_eq!(summary(&[]), None);
    }

    #[test]
    fn regret_is_against_kernels_of_the_same_accuracy_and_stores() {
        let auto = Record { requested: "auto".to_owned(), ..row("a", "direct/x", 120.0) };
        let relaxed = Record { accuracy: Some("relaxed".to_owned()), ..row("a", "winograd-f6/x", 50.0) };
        let streaming = Record { stores: Some("streaming".to_owned()), ..row("a", "pointwise/x", 60.0) };
        let rows = [auto, relaxed, streaming, row("a", "winograd/x", 100.0)];
        assert_eq!(regrets(&rows)[0].best.kernel, "winograd/x");
    }
}
