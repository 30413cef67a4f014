//! Two runs side by side: what got faster, what got slower, and what is only noise.

use crate::noise;
use crate::record::{Record, Role, Status};
use crate::statistics::geometric_mean;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Times.
    Time,
    /// Times over that of the run's own baseline: what slows the whole machine down cancels.
    Relative,
}

/// What became of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Faster, beyond noise and intervals.
    Faster,
    /// Neither is certain.
    Tie,
    /// Slower, beyond noise and intervals.
    Slower,
    /// There was a time, and now there is a reason why not.
    Lost,
}

/// A row of both runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Change<'a> {
    /// The row of the first run.
    pub base: &'a Record,
    /// The row of the second.
    pub new: &'a Record,
    /// Speed of the second over that of the first, with the ends of its interval; absent when lost.
    pub speed: Option<[f64; 3]>,
    /// What it means.
    pub verdict: Verdict,
}

/// Two runs side by side.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison<'a> {
    /// Rows of both.
    pub changes: Vec<Change<'a>>,
    /// Rows that only one of them has.
    pub unpaired: usize,
    /// The larger of the runs' noise floors over all rows.
    pub noise: f64,
    /// Geometric mean of the speeds.
    pub mean: Option<f64>,
    /// Geometric mean of the multiply-add peaks of the second run over the first: what the machine itself
    /// changed.
    pub machine: Option<f64>,
}

/// Why runs on these machines are not compared: the first pair of unlike ones.
pub fn unlike_machines(base: &[Record], new: &[Record]) -> Option<String> {
    let runs = |rows: &[Record]| {
        let mut runs = Vec::new();
        for row in rows {
            if !runs.contains(&row.run) {
                runs.push(row.run.clone());
            }
        }
        runs
    };
    let news = runs(new);
    runs(base).iter().find_map(|base| {
        news.iter().find_map(|new| match (base, new) {
            (Some(base), Some(new)) => base.unlike(new),
            _ => Some("a machine that the results do not name".to_owned()),
        })
    })
}

/// Pairs the rows of two runs.
pub fn compare<'a>(base: &'a [Record], new: &'a [Record], measure: Measure) -> Comparison<'a> {
    let (base_rows, new_rows) = (unique(base), unique(new));
    let partner = |row: &Record, rows: &[&'a Record]| rows.iter().copied().find(|other| same_row(row, other));
    let pairs: Vec<(&Record, &Record)> =
        base_rows.iter().filter_map(|base| Some((*base, partner(base, &new_rows)?))).collect();
    let unpaired = base_rows.len() - pairs.len()
        + new_rows.iter().filter(|new| partner(new, &base_rows).is_none()).count();
    let noise = noise::largest_floor(base).max(noise::largest_floor(new));
    let machine = geometric_mean(
        pairs
            .iter()
            .filter_map(|(base, new)| Some(new.peak_gflops? / base.peak_gflops?))
            .filter(|x| *x > 0.0),
    );
    let changes: Vec<Change<'_>> = pairs
        .into_iter()
        .filter(|(base, _)| base.status == Status::Ok)
        .map(|(base, new)| {
            let speed = speed(base, new, measure);
            let verdict = match speed {
                _ if new.status != Status::Ok => Verdict::Lost,
                Some([_, low, _]) if low > 1.0 && !noise::is_tie(low, 1.0, noise) => Verdict::Faster,
                Some([_, _, high]) if high < 1.0 && !noise::is_tie(high, 1.0, noise) => Verdict::Slower,
                _ => Verdict::Tie,
            };
            Change { base, new, speed, verdict }
        })
        .collect();
    let mean = geometric_mean(changes.iter().filter_map(|change| Some(change.speed?[0])));
    Comparison { changes, unpaired, noise, mean, machine }
}

/// The rows of kernels; where one occurs several times, the last.
fn unique(rows: &[Record]) -> Vec<&Record> {
    let mut all: Vec<&Record> = Vec::new();
    for row in rows.iter().filter(|row| row.role == Role::Main) {
        match all.iter_mut().find(|other| same_row(other, row)) {
            Some(other) => *other = row,
            None => all.push(row),
        }
    }
    all
}

fn same_row(a: &Record, b: &Record) -> bool {
    fn key(row: &Record) -> impl PartialEq + use<'_> {
        (row.threads, row.clock, row.op, &row.accuracy, &row.stores, &row.device)
    }
    let names = |row: &Record| [&row.network, &row.layer, &row.spec, &row.requested].map(String::clone);
    key(a) == key(b) && names(a) == names(b)
}

/// Speed of `new` over `base`, and its interval: both ends are as far as both rows' own intervals allow.
fn speed(base: &Record, new: &Record, measure: Measure) -> Option<[f64; 3]> {
    let speeds = match measure {
        Measure::Time => [
            base.median_ns? / new.median_ns?,
            base.ci_low_ns? / new.ci_high_ns?,
            base.ci_high_ns? / new.ci_low_ns?,
        ],
        Measure::Relative if base.baseline == new.baseline => {
            [new.ratio? / base.ratio?, new.ratio_low? / base.ratio_high?, new.ratio_high? / base.ratio_low?]
        }
        Measure::Relative => return None,
    };
    speeds.iter().all(|speed| speed.is_finite() && *speed > 0.0).then_some(speeds)
}

impl Comparison<'_> {
    /// Rows that became slower by more than a share of their speed, and rows that were lost.
    pub fn regressions(&self, threshold: f64) -> usize {
        let regressed = |change: &&Change<'_>| match change.verdict {
            Verdict::Lost => true,
            Verdict::Slower => change.speed.is_some_and(|[speed, ..]| speed < 1.0 - threshold),
            Verdict::Tie | Verdict::Faster => false,
        };
        self.changes.iter().filter(regressed).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Gradient;
    use crate::record::tests::row;
    use crate::statistics::Ratio;

    fn timed(kernel: &str, ns: f64, spread: f64) -> Record {
        let mut row = row("a", kernel, ns);
        (row.ci_low_ns, row.ci_high_ns) = (Some(ns * (1.0 - spread)), Some(ns * (1.0 + spread)));
        row
    }

    #[test]
    fn rows_are_judged_beyond_noise_and_intervals() {
        let base =
            [timed("a", 100.0, 0.01), timed("b", 100.0, 0.01), timed("c", 100.0, 0.2), timed("x", 1.0, 0.0)];
        let mut new =
            [timed("a", 50.0, 0.01), timed("b", 111.0, 0.01), timed("c", 130.0, 0.2), timed("y", 1.0, 0.0)];
        let comparison = compare(&base, &new, Measure::Time);
        let verdicts: Vec<Verdict> = comparison.changes.iter().map(|change| change.verdict).collect();
        assert_eq!(verdicts, [Verdict::Faster, Verdict::Slower, Verdict::Tie]);
        assert_eq!(
            (comparison.unpaired, comparison.regressions(0.05), comparison.regressions(0.2)),
            (2, 1, 0)
        );
        assert!((comparison.changes[0].speed.unwrap()[0] - 2.0).abs() < 1e-12);
        new[0].status = Status::Wrong;
        assert_eq!(compare(&base, &new, Measure::Time).changes[0].verdict, Verdict::Lost);
        assert_eq!(compare(&base, &new, Measure::Time).regressions(1.0), 1);
    }

    /// Of a row that occurs twice the last counts, and nothing is counted below zero.
    #[test]
    fn rows_may_occur_twice() {
        let base = [timed("a", 100.0, 0.0), timed("a", 200.0, 0.0), timed("b", 1.0, 0.0)];
        let comparison = compare(&base, &base[..1], Measure::Time);
        assert_eq!((comparison.changes.len(), comparison.unpaired), (1, 1));
        assert_eq!(comparison.changes[0].base.median_ns, Some(200.0));
    }

    /// What may have other errors, or stores otherwise, may well be faster: it is another row.
    #[test]
    fn rows_of_other_accuracies_and_stores_are_others() {
        let cached = |ns: f64| Record { stores: Some("cached".to_owned()), ..timed("a", ns, 0.0) };
        let relaxed = Record { accuracy: Some("relaxed".to_owned()), ..cached(50.0) };
        let streaming = Record { stores: Some("streaming".to_owned()), ..cached(50.0) };
        for other in [relaxed, streaming] {
            let base = [cached(100.0), other.clone()];
            let new = [other, cached(100.0)];
            let comparison = compare(&base, &new, Measure::Time);
            assert_eq!((comparison.changes.len(), comparison.unpaired), (2, 0));
            assert!(comparison.changes.iter().all(|change| change.verdict == Verdict::Tie));
            let comparison = compare(&base[..1], &new[..1], Measure::Time);
            assert_eq!((comparison.changes.len(), comparison.unpaired), (0, 2));
        }
    }

    #[test]
    fn gradients_are_rows_of_their_own() {
        let forward = timed("a", 100.0, 0.0);
        let backward = Record { op: Some(Gradient::BackwardData), ..timed("a", 50.0, 0.0) };
        let (base, new) = ([forward.clone(), backward.clone()], [backward, forward]);
        let comparison = compare(&base, &new, Measure::Time);
        assert_eq!((comparison.changes.len(), comparison.unpaired), (2, 0));
        assert!(comparison.changes.iter().all(|change| change.verdict == Verdict::Tie));
    }

    /// Too few samples for an interval say nothing for certain.
    #[test]
    fn without_intervals_nothing_is_certain() {
        let bare = |ns: f64| Record { ci_low_ns: None, ci_high_ns: None, ..timed("a", ns, 0.0) };
        let (base, new) = ([bare(100.0)], [bare(500.0)]);
        let comparison = compare(&base, &new, Measure::Time);
        assert_eq!((comparison.changes[0].verdict, comparison.changes[0].speed), (Verdict::Tie, None));
    }

    #[test]
    fn noise_makes_ties() {
        let base = [timed("a", 100.0, 0.001)];
        let mut again = Record { role: Role::Aa, ..timed("a", 90.0, 0.001) };
        again.set_ratio("a", Ratio { ratio: 1.11, interval: Some((1.1, 1.12)) });
        let new = [timed("a", 105.0, 0.001), again];
        let comparison = compare(&base, &new, Measure::Time);
        assert_eq!(comparison.changes[0].verdict, Verdict::Tie);
        assert!((comparison.noise - (1.0 - 1.0 / 1.11)).abs() < 1e-12);
    }

    #[test]
    fn relative_speeds_cancel_a_slower_machine() {
        let relative = |ns: f64| {
            let mut row = timed("a", ns, 0.0);
            row.set_ratio("gemm", Ratio { ratio: 2.0, interval: Some((1.99, 2.01)) });
            row
        };
        let (base, new) = ([relative(100.0)], [relative(150.0)]);
        assert_eq!(compare(&base, &new, Measure::Relative).changes[0].verdict, Verdict::Tie);
        assert_eq!(compare(&base, &new, Measure::Time).changes[0].verdict, Verdict::Slower);
    }

    #[test]
    fn unlike_machines_are_told_apart() {
        let run = crate::provenance::Run::new("test".to_owned());
        let other = crate::provenance::Run { cpu: "another".to_owned(), ..run.clone() };
        let of = |run: &crate::provenance::Run| {
            [Record { run: Some(std::sync::Arc::new(run.clone())), ..row("a", "b", 1.0) }]
        };
        assert_eq!(unlike_machines(&of(&run), &of(&run)), None);
        assert!(unlike_machines(&of(&run), &of(&other)).unwrap().starts_with("CPU "));
        assert!(unlike_machines(&of(&run), &[row("a", "b", 1.0)]).is_some());
    }
}
