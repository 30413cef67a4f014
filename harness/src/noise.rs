//! How much figures of a run scatter by themselves: what the second rows of the same kernel say.

use crate::record::{Clock, Record, Role};

/// The noise of rows with one number of threads and one state of the caches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Noise {
    /// Nine of ten kernels differ from their own second row by no more than this share of the longer time:
    /// smaller differences between kernels are ties.
    pub floor: f64,
    /// Second rows.
    pub rows: usize,
    /// Those that have an interval.
    pub intervals: usize,
    /// Those whose interval holds a ratio of 1, as 95 of 100 should.
    pub inside: usize,
}

impl Noise {
    /// Of how many times faster second rows are than their first, and the intervals of that; `None` without
    /// any.
    pub fn of(ratios: impl IntoIterator<Item = (f64, Option<(f64, f64)>)>) -> Option<Self> {
        let mut noise = Noise { floor: 0.0, rows: 0, intervals: 0, inside: 0 };
        let mut shares = Vec::new();
        for (ratio, interval) in ratios {
            // The second row may be the faster one.
            shares.push(1.0 - ratio.min(1.0 / ratio));
            if let Some((low, high)) = interval {
                noise.intervals += 1;
                noise.inside += usize::from(low <= 1.0 && 1.0 <= high);
            }
        }
        shares.sort_by(f64::total_cmp);
        noise.rows = shares.len();
        let rank = (shares.len() * 9).div_ceil(10);
        noise.floor = *shares.get(rank.checked_sub(1)?)?;
        Some(noise)
    }
}

/// Whether two times are apart by no more than a noise floor, a share of the longer one.
pub fn is_tie(a: f64, b: f64, floor: f64) -> bool {
    a.max(b) * (1.0 - floor) <= a.min(b)
}

/// The floor of rows with so many threads and such caches; 0 where no kernel has two rows.
pub fn floor(rows: &[Record], threads: usize, clock: Clock) -> f64 {
    let again = |row: &&Record| row.role == Role::Aa && (row.threads, row.clock) == (threads, clock);
    Noise::of(rows.iter().filter(again).filter_map(|row| Some((row.ratio?, None)))).map_or(0.0, |n| n.floor)
}

/// The largest floor over all numbers of threads and states of the caches.
pub fn largest_floor(rows: &[Record]) -> f64 {
    let floors =
        rows.iter().filter(|row| row.role == Role::Aa).map(|row| floor(rows, row.threads, row.clock));
    floors.fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::row;
    use crate::statistics::Ratio;

    #[test]
    fn nine_of_ten_lie_below() {
        let ratios = (0..9).map(|_| (1.01, Some((0.99, 1.02)))).chain([(0.5, Some((0.4, 0.6)))]);
        let noise = Noise::of(ratios).unwrap();
        assert!((noise.floor - (1.0 - 1.0 / 1.01)).abs() < 1e-12, "{noise:?}");
        assert_eq!((noise.rows, noise.intervals, noise.inside), (10, 10, 9));
        assert_eq!(Noise::of([]), None);
    }

    #[test]
    fn ties_are_the_same_both_ways() {
        assert!(is_tie(100.0, 81.0, 0.2) && is_tie(81.0, 100.0, 0.2));
        assert!(!is_tie(100.0, 79.0, 0.2) && !is_tie(79.0, 100.0, 0.2));
    }

    #[test]
    fn each_setting_has_its_own() {
        let mut again = Record { role: Role::Aa, ..row("a", "direct", 100.0) };
        again.set_ratio("direct", Ratio { ratio: 1.25, interval: Some((1.2, 1.3)) });
        let two = Record { threads: 2, ratio: Some(0.5), ..again.clone() };
        let rows = [row("a", "gemm", 50.0), again, two];
        let floors = [1, 2, 3].map(|threads| floor(&rows, threads, Clock::Warm));
        assert!((floors[0] - 0.2).abs() < 1e-12 && floors[1] == 0.5 && floors[2] == 0.0, "{floors:?}");
        assert_eq!(largest_floor(&rows), 0.5);
    }
}
