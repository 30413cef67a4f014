//! The clock's two states: warm runs use the same buffers again and again, cold ones rotate through more
//! memory than the last cache holds.

use std::fmt;
use std::time::{Duration, Instant};

use kernels::{CacheSizes, Isa, roof};

use crate::engine::Prepared;
use crate::measure::Spent;
use crate::pinning::Pool;

/// Sets of buffers at most.
const MOST_SETS: usize = 64;

/// What a third cache may hold of which nothing is known.
const UNKNOWN_CACHE: usize = 64 << 20;

/// How many sets of buffers a rotation over cold caches has for a convolution of so many bytes, and how many
/// bytes of other memory are read before each run, so that a round through all sets touches a quarter more
/// than the last cache holds.
pub fn sets_and_ballast(bytes: u64, caches: CacheSizes) -> (usize, usize) {
    // Where no third cache is reported there may be one all the same.
    let last = if caches.l3 == 0 { caches.l2.max(UNKNOWN_CACHE) } else { caches.l3.max(caches.l2) };
    let target = last as u64 / 4 * 5;
    let sets = target.div_ceil(bytes.max(1)).clamp(2, MOST_SETS as u64);
    let rest = target.saturating_sub(sets * bytes);
    (sets as usize, rest.div_ceil(sets) as usize)
}

/// A convolution that is ready to run, on one set of buffers or on several in turn.
pub struct Rotation<'a> {
    sets: Vec<Box<dyn Prepared + 'a>>,
    next: usize,
    ballast: Option<Ballast<'a>>,
}

/// Memory that is read between runs on every core, to empty the caches of what a small layer leaves there.
#[derive(Clone, Copy, Debug)]
pub struct Ballast<'a> {
    /// The memory.
    pub memory: &'a [f32],
    /// f32s to be read before each run.
    pub each: usize,
    /// Where the runs are.
    pub pool: &'a Pool,
    /// What to read with.
    pub isa: Isa,
}

impl Ballast<'_> {
    fn sweep(&self, turn: usize) {
        let turns = (self.memory.len() / self.each.max(1)).max(1);
        let first = turn % turns * self.each;
        let part = &self.memory[first..(first + self.each).min(self.memory.len())];
        // The same kernel has run on this instruction set.
        self.pool.on_each(|_| roof::read(self.isa, part).unwrap_or(0));
    }
}

impl fmt::Debug for Rotation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rotation").field("sets", &self.sets.len()).field("ballast", &self.ballast).finish()
    }
}

impl<'a> Rotation<'a> {
    /// Runs of one of some plans, all on the same buffers.
    pub fn warm(plans: Vec<Box<dyn Prepared + 'a>>) -> Self {
        Rotation { sets: plans, next: 0, ballast: None }
    }

    /// Runs on each set in turn, after ballast was read.
    pub fn cold(sets: Vec<Box<dyn Prepared + 'a>>, ballast: Ballast<'a>) -> Self {
        Rotation { sets, next: 0, ballast: Some(ballast) }
    }

    /// Plans; for cold caches each has buffers of its own.
    pub fn sets(&self) -> usize {
        self.sets.len()
    }

    /// Runs so many times: the plan of this number, or with cold caches all in turn.
    ///
    /// # Errors
    /// When a library fails.
    pub fn time(&mut self, plan: usize, repeats: u64) -> Result<Spent, String> {
        let start = Instant::now();
        let Some(ballast) = self.ballast else {
            let plan = plan % self.sets.len();
            let timed = self.sets[plan].time(repeats)?;
            return Ok(Spent { timed, total: start.elapsed() });
        };
        let mut timed = Duration::ZERO;
        for _ in 0..repeats {
            ballast.sweep(self.next);
            let set = self.next % self.sets.len();
            timed += self.sets[set].time(1)?;
            self.next = self.next.wrapping_add(1);
        }
        Ok(Spent { timed, total: start.elapsed() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_touches_more_than_the_last_cache_holds() {
        let caches = CacheSizes { l1d: 32 << 10, l2: 1 << 20, l3: 32 << 20 };
        for bytes in [1, 1000, 100_000, 1 << 20, 30 << 20, 500 << 20] {
            let (sets, ballast) = sets_and_ballast(bytes, caches);
            let touched = sets as u64 * (bytes + ballast as u64);
            assert!((2..=64).contains(&sets) && touched >= 40 << 20, "{bytes}: {sets}, {ballast}");
        }
        assert_eq!(sets_and_ballast(20 << 20, caches), (2, 0));
        assert_eq!(sets_and_ballast(8 << 20, CacheSizes { l3: 0, ..caches }).0, 10);
    }

    /// Notes which set ran.
    struct Noting<'a>(usize, &'a std::cell::RefCell<Vec<usize>>);

    impl Prepared for Noting<'_> {
        fn facts(&self) -> &crate::engine::Facts {
            unreachable!("no test asks")
        }
        fn time(&mut self, repeats: u64) -> Result<Duration, String> {
            self.1.borrow_mut().extend((0..repeats).map(|_| self.0));
            Ok(Duration::from_millis(repeats))
        }
        fn store(&mut self, _: &mut [f32]) -> Result<(), String> {
            Ok(())
        }
    }

    /// Cold runs take every set in turn, one run each, and only the runs are timed; warm ones stay with the
    /// plan they are told.
    #[test]
    fn sets_take_turns() {
        let log = std::cell::RefCell::new(Vec::new());
        let sets: Vec<Box<dyn Prepared + '_>> =
            (0..3).map(|set| Box::new(Noting(set, &log)) as Box<dyn Prepared + '_>).collect();
        let pool = Pool::new(1).unwrap();
        let memory = vec![1.0; 4096];
        let ballast = Ballast { memory: &memory, each: 1024, pool: &pool, isa: Isa::Wide };
        let mut rotation = Rotation::cold(sets, ballast);
        assert_eq!(rotation.time(0, 4).unwrap().timed, Duration::from_millis(4));
        rotation.time(0, 1).unwrap();
        assert_eq!(*log.borrow(), [0, 1, 2, 0, 1]);
        let plans = vec![Box::new(Noting(7, &log)) as Box<dyn Prepared + '_>, Box::new(Noting(8, &log))];
        let mut warm = Rotation::warm(plans);
        assert_eq!(warm.time(1, 2).unwrap().timed, Duration::from_millis(2));
        warm.time(0, 1).unwrap();
        assert_eq!(log.borrow()[5..], [8, 8, 7]);
    }
}
