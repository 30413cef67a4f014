//! How much figures of a run scatter by themselves: what the second rows of the same kernel say.

use crate::record::{Clock, Record, Role};

/// The noise of the rows with one number of threads and one state of the caches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Floor {
    /// Threads.
    pub threads: usize,
    /// State of the caches.
    pub clock: Clock,
    /// Nine of ten kernels differ from their own second row by no more than this share of their time:
    /// smaller differences between kernels are ties.
    pub share: f64,
    /// Second rows.
    pub rows: usize,
    /// Those of them whose interval holds a ratio of 1, as 95 of 100 should.
    pub inside: usize,
}

/// The noise of each number of threads and state of the caches, in the order of the rows.
pub fn floors(rows: &[Record]) -> Vec<Floor> {
    let mut places: Vec<(usize, Clock)> = Vec::new();
    for row in rows.iter().filter(|row| row.role == Role::Aa && row.ratio.is_some()) {
        if !places.contains(&(row.threads, row.clock)) {
            places.push((row.threads, row.clock));
        }
    }
    places.into_iter().map(|(threads, clock)| floor(rows, threads, clock)).collect()
}

/// The noise of rows with so many threads and such caches; 0 where there is no second row.
pub fn floor(rows: &[Record], threads: usize, clock: Clock) -> Floor {
    let again = |row: &&Record| row.role == Role::Aa && (row.threads, row.clock) == (threads, clock);
    let mut shares = Vec::new();
    let mut inside = 0;
    for row in rows.iter().filter(again) {
        let (Some(ratio), Some(low), Some(high)) = (row.ratio, row.ratio_low, row.ratio_high) else {
            continue;
        };
        // A second row may be the faster one: the difference counts, as a share of the longer time.
        shares.push(1.0 - ratio.min(1.0 / ratio));
        inside += usize::from(low <= 1.0 && 1.0 <= high);
    }
    shares.sort_by(f64::total_cmp);
    let rank = (shares.len() * 9).div_ceil(10);
    let share = rank.checked_sub(1).and_then(|i| shares.get(i)).copied().unwrap_or(0.0);
    Floor { threads, clock, share, rows: shares.len(), inside }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::row;
    use crate::statistics::Ratio;

    fn again(ratio: f64, low: f64, high: f64) -> Record {
        let mut row = Record { role: Role::Aa, ..row("a", "direct", 100.0) };
        row.set_ratio("direct", Ratio { ratio, low, high });
        row
    }

    #[test]
    fn nine_of_ten_lie_below() {
        let mut rows: Vec<Record> = (0..9).map(|_| again(1.01, 0.99, 1.02)).collect();
        rows.push(again(0.5, 0.4, 0.6));
        rows.push(row("a", "gemm", 50.0));
        let floor = floor(&rows, 1, Clock::Warm);
        assert!((floor.share - (1.0 - 1.0 / 1.01)).abs() < 1e-12, "{floor:?}");
        assert_eq!((floor.rows, floor.inside), (10, 9));
        assert_eq!(floors(&rows), [floor]);
        assert_eq!(super::floor(&rows, 2, Clock::Warm).share, 0.0);
    }
}
