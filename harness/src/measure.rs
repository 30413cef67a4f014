//! Times things in turns: on a shared machine a drift then hits all of them alike.

use std::time::Duration;

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Something to be timed.
pub struct Subject<'a> {
    /// Runs its plan of some number a number of times and says how long that took in all.
    pub run: Box<dyn FnMut(usize, u64) -> Result<Spent, String> + 'a>,
    /// Plans that take turns, a sample each: every plan once, in another order each time.
    pub plans: usize,
    /// Time to be spent on its samples.
    pub time: Duration,
    /// Whether it is run once untimed before each sample, because another's turn has just emptied the
    /// caches.
    pub warm: bool,
    /// Runs of a sample at most.
    pub most_repeats: u64,
}

/// How long some runs took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent {
    /// The runs themselves.
    pub timed: Duration,
    /// With what had to be done between them.
    pub total: Duration,
}

impl Spent {
    /// Runs with nothing between them.
    pub fn all(timed: Duration) -> Self {
        Spent { timed, total: timed }
    }
}

/// One sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// The round in which it was taken.
    pub round: usize,
    /// The plan that ran.
    pub plan: usize,
    /// Nanoseconds of one run.
    pub ns: f64,
}

/// A run this long fills the caches itself: it needs no untimed one before it.
const LONG: Duration = Duration::from_millis(20);
/// Samples of a subject at least, even if they take longer than its time, unless one alone does; those are
/// taken once.
const FEWEST: usize = 3;
/// Samples of a subject at most.
const MOST: usize = 1000;

/// A warm-up takes no longer, unless a single run does.
const LONGEST_WARM_UP: Duration = Duration::from_millis(100);
/// Samples of it, where what begins and ends one takes longer.
const MOST_TRIES: usize = 10;

/// How long a sample repeats its subject, at least.
pub fn sample_time(time: Duration) -> Duration {
    Duration::from_millis(4).min(time / 20)
}

/// What the warm-up found out about a subject.
struct Paced {
    repeats: u64,
    untimed: bool,
    /// Rounds in which it takes part.
    turns: usize,
    /// What all its turns should take together.
    expected: Duration,
}

impl Paced {
    const FAILED: Paced = Paced { repeats: 1, untimed: false, turns: 0, expected: Duration::ZERO };

    /// Whether so many samples are too few to stop at.
    fn lacks(&self, taken: usize) -> bool {
        taken < FEWEST.min(self.turns)
    }

    /// Whether it has a turn in this one of some rounds: they are spread evenly, the first in round 0.
    fn is_due(&self, round: usize, rounds: usize) -> bool {
        let turns = |round: usize| round * self.turns / rounds;
        self.turns > 0 && (round == 0 || turns(round) != turns(round - 1))
    }
}

/// The order in which the plans of a subject run. In one that repeats itself, whoever is paired with every
/// second sample would meet every second plan alone.
struct Order {
    plans: Vec<usize>,
    next: usize,
    rng: ChaCha8Rng,
}

impl Order {
    fn new(plans: usize, seed: u64) -> Self {
        Order { plans: (0..plans.max(1)).collect(), next: 0, rng: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// The next plan: each comes once before any comes again.
    fn next(&mut self) -> usize {
        if self.next == 0 {
            self.plans.shuffle(&mut self.rng);
        }
        let plan = self.plans[self.next];
        self.next = (self.next + 1) % self.plans.len();
        plan
    }
}

/// Times the subjects in rounds, in another order each round. All take part from the first round to the
/// last, those whose samples take longer in fewer rounds. Returns for each its samples, or what made it
/// fail. `carry_on` is asked before every sample; when it says no, the samples so far are returned.
pub fn in_turns(
    subjects: &mut [Subject<'_>],
    carry_on: &mut dyn FnMut() -> bool,
) -> Vec<Result<Vec<Sample>, String>> {
    let mut samples: Vec<Result<Vec<Sample>, String>> = subjects.iter().map(|_| Ok(Vec::new())).collect();
    let mut pace = Vec::new();
    for (subject, samples) in subjects.iter_mut().zip(&mut samples) {
        if !carry_on() {
            return Vec::from_iter(subjects.iter().map(|_| Ok(Vec::new())));
        }
        pace.push(warm_up(subject).unwrap_or_else(|failure| {
            *samples = Err(failure);
            Paced::FAILED
        }));
    }
    let rounds = pace.iter().map(|paced| paced.turns).max().unwrap_or(0);
    let mut spent = vec![Duration::ZERO; subjects.len()];
    let mut order: Vec<usize> = (0..subjects.len()).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut plans: Vec<Order> =
        subjects.iter().map(|subject| Order::new(subject.plans, rng.random())).collect();
    for round in 0..rounds {
        order.shuffle(&mut rng);
        for &i in &order {
            let Ok(taken) = &mut samples[i] else { continue };
            // The machine may have become slower than it was: half as much again, then a subject goes on only where
            // it has too few samples.
            let late = spent[i] > pace[i].expected * 3 / 2;
            let due = if late { pace[i].lacks(taken.len()) } else { pace[i].is_due(round, rounds) };
            if !due {
                continue;
            }
            if !carry_on() {
                return samples;
            }
            let plan = plans[i].next();
            let Paced { repeats, untimed, .. } = pace[i];
            let mut turn = || {
                if untimed {
                    spent[i] += (subjects[i].run)(plan, 1)?.total;
                }
                (subjects[i].run)(plan, repeats)
            };
            match turn() {
                Ok(Spent { timed, total }) => {
                    spent[i] += total;
                    taken.push(Sample { round, plan, ns: timed.as_nanos() as f64 / repeats as f64 });
                }
                Err(failure) => samples[i] = Err(failure),
            }
        }
    }
    samples
}

/// Runs a subject until two samples in a row agree, or for a fifth of its time but no longer than 100 ms, and finds
/// its pace.
fn warm_up(subject: &mut Subject<'_>) -> Result<Paced, String> {
    let sample = sample_time(subject.time);
    let mut repeats = 1u64;
    let (mut spent, mut tries) = (Duration::ZERO, 0);
    let mut last = f64::INFINITY;
    let (repeats, Spent { timed, total }) = loop {
        let taken = (subject.run)(0, repeats)?;
        let each = taken.timed.as_nanos() as f64 / repeats as f64;
        // With cold caches there is something between any two runs. Warm ones follow each other, and what begins
        // and ends a sample (a library's threads) must not be most of it.
        let length = if subject.warm { taken.timed } else { taken.total };
        spent += length;
        tries += 1;
        let long_enough = length >= sample || repeats >= subject.most_repeats;
        if spent >= (subject.time / 5).min(LONGEST_WARM_UP)
            || tries == MOST_TRIES
            || (long_enough && (each / last - 1.0).abs() < 0.05)
        {
            break (repeats, taken);
        }
        if long_enough {
            last = each;
        } else {
            let want = repeats as f64 * sample.as_nanos() as f64 / length.as_nanos().max(1) as f64;
            let most = repeats.saturating_mul(1000).min(subject.most_repeats);
            repeats = (want.ceil() as u64).clamp((repeats + 1).min(most), most);
        }
    };
    let each = timed.div_f64(repeats as f64);
    let untimed = subject.warm && each < LONG;
    let before = if untimed { total.saturating_sub(timed) + each } else { Duration::ZERO };
    let turn = (total + before).max(Duration::from_nanos(100));
    let turns = if turn >= subject.time {
        1
    } else {
        ((subject.time.as_nanos() / turn.as_nanos()) as usize).clamp(FEWEST, MOST)
    };
    // A subject that takes longer than its time takes none of the others'.
    let expected = turn.saturating_mul(u32::try_from(turns).unwrap_or(u32::MAX)).max(subject.time);
    Ok(Paced { repeats, untimed, turns, expected })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    /// A clock that a test drives: a run of subject i takes as many milliseconds as it says.
    fn subject<'a>(log: &'a RefCell<Vec<usize>>, i: usize, millis: u64, time: u64) -> Subject<'a> {
        let run = move |_: usize, repeats: u64| {
            log.borrow_mut().push(i);
            Ok(Spent::all(Duration::from_millis(millis * repeats)))
        };
        Subject {
            run: Box::new(run),
            plans: 3,
            time: Duration::from_millis(time),
            warm: false,
            most_repeats: u64::MAX,
        }
    }

    #[test]
    fn subjects_take_turns_over_the_whole_run() {
        let log = RefCell::new(Vec::new());
        let mut subjects: Vec<_> =
            [2, 4, 30].into_iter().enumerate().map(|(i, millis)| subject(&log, i, millis, 300)).collect();
        let samples: Vec<Vec<Sample>> =
            in_turns(&mut subjects, &mut || true).into_iter().map(Result::unwrap).collect();
        for (samples, millis) in samples.iter().zip([2.0, 4.0, 30.0]) {
            assert!(samples.iter().all(|sample| sample.ns == 1e6 * millis), "{samples:?}");
            assert!(samples.windows(2).all(|pair| pair[0].round < pair[1].round));
            // Every plan has its turn before one has its next.
            assert!(samples.chunks_exact(3).all(|cycle| {
                let plans: Vec<usize> = cycle.iter().map(|sample| sample.plan).collect();
                [0, 1, 2].iter().all(|plan| plans.contains(plan))
            }));
        }
        // 4 ms a sample (two runs of the first subject), of 300 ms: 75 rounds; 10 turns for the slow one.
        assert_eq!(samples.iter().map(Vec::len).collect::<Vec<_>>(), [75, 75, 10]);
        assert_eq!((samples[2][0].round, samples[2][9].round / 10), (0, 6));
        // No subject has its next turn before another that is due in the same round.
        let log = log.borrow();
        let turns = log.len() - samples.iter().map(Vec::len).sum::<usize>();
        let first: Vec<usize> = log[turns..turns + 3].to_vec();
        assert!([0, 1, 2].iter().all(|i| first.contains(i)), "{first:?}");
    }

    /// Whoever has a quarter of another's turns meets all the other's plans, and all plans have the same share.
    #[test]
    fn plans_do_not_go_in_step_with_rounds() {
        let log = RefCell::new(Vec::new());
        let of = |i, millis| Subject { plans: 8, ..subject(&log, i, millis, 400) };
        let taken = in_turns(&mut [of(0, 4), of(1, 16)], &mut || true);
        let [many, few] = [0, 1].map(|i| taken[i].clone().unwrap());
        assert_eq!((many.len(), few.len()), (100, 25));
        for samples in [&many, &few] {
            let counts =
                [0, 1, 2, 3, 4, 5, 6, 7].map(|plan| samples.iter().filter(|s| s.plan == plan).count());
            assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
        }
        let beside = many.iter().filter(|sample| few.iter().any(|other| other.round == sample.round));
        let met: std::collections::BTreeSet<usize> = beside.map(|sample| sample.plan).collect();
        assert!(met.len() >= 7, "{met:?}");
    }

    /// One that alone takes longer than the time of all is sampled once, and the others as if it were not there.
    #[test]
    fn a_slow_subject_takes_no_samples_from_the_others() {
        let log = RefCell::new(Vec::new());
        let mut subjects = [9000, 4, 30].map(|millis| subject(&log, 0, millis, 300));
        let taken = in_turns(&mut subjects, &mut || true);
        assert_eq!(taken.iter().map(|taken| taken.as_ref().unwrap().len()).collect::<Vec<_>>(), [1, 75, 10]);
    }

    /// On a machine that has become much slower nothing goes on but what has too few samples.
    #[test]
    fn a_slower_machine_still_gives_each_its_fewest_samples() {
        let log = RefCell::new(Vec::new());
        let slowing = |millis: u64| {
            let log = &log;
            let run = move |_: usize, repeats: u64| {
                log.borrow_mut().push(0);
                // Two samples of each of both warm up.
                let slower = if log.borrow().len() > 4 { 1000 } else { 1 };
                Ok(Spent::all(Duration::from_millis(millis * repeats * slower)))
            };
            Subject { run: Box::new(run), ..subject(log, 0, millis, 300) }
        };
        let taken = in_turns(&mut [slowing(4), slowing(60)], &mut || true);
        assert_eq!(taken.iter().map(|taken| taken.as_ref().unwrap().len()).collect::<Vec<_>>(), [3, 3]);
    }

    #[test]
    fn a_sample_longer_than_its_time_is_taken_once() {
        let log = RefCell::new(Vec::new());
        let mut subjects = vec![subject(&log, 0, 50, 10)];
        assert_eq!(in_turns(&mut subjects, &mut || true)[0].as_ref().unwrap().len(), 1);
    }

    #[test]
    fn short_subjects_run_untimed_first() {
        let log = RefCell::new(Vec::new());
        let mut subjects = vec![Subject { warm: true, ..subject(&log, 0, 5, 100) }];
        let samples = in_turns(&mut subjects, &mut || true)[0].as_ref().unwrap().len();
        // Two runs a turn: ten turns of 100 ms, after two samples of warm-up.
        assert_eq!((samples, log.borrow().len()), (10, 2 + 2 * 10));
    }

    /// What a library does before and after its runs is no reason for a sample of a single one.
    #[test]
    fn samples_are_long_whatever_begins_and_ends_them() {
        let longest = |warm: bool, before: u64, between: u64| {
            let most = RefCell::new(0);
            let run = |_: usize, repeats: u64| {
                most.replace_with(|&mut most| repeats.max(most));
                let total = Duration::from_micros(before + repeats * (10 + between));
                Ok(Spent { timed: Duration::from_micros(10 * repeats), total })
            };
            let time = Duration::from_millis(300);
            let subject = Subject { run: Box::new(run), plans: 1, time, warm, most_repeats: u64::MAX };
            let taken = in_turns(&mut [subject], &mut || true)[0].as_ref().unwrap().len();
            (most.into_inner(), taken)
        };
        // 4 ms of runs; a turn is 5 + 4 ms and, untimed before it, 5 ms and a run.
        assert_eq!(longest(true, 5000, 0), (400, 21));
        // Longer than all of warm-up may take.
        assert_eq!(longest(true, 70_000, 0).0, 400);
        // With what is between, 4 ms.
        assert_eq!(longest(false, 0, 1990), (2, 75));
    }

    #[test]
    fn stops_when_told() {
        let log = RefCell::new(Vec::new());
        let mut subjects = vec![subject(&log, 0, 1, 1000)];
        let mut left = 5;
        let samples = in_turns(&mut subjects, &mut || {
            left -= 1;
            left >= 0
        });
        assert_eq!(samples[0].as_ref().unwrap().len(), 4);
    }

    #[test]
    fn a_failure_ends_its_subject_alone() {
        let log = RefCell::new(Vec::new());
        let mut left = 8;
        let failing = Subject {
            run: Box::new(move |_, repeats| {
                left -= 1;
                if left > 0 {
                    Ok(Spent::all(Duration::from_millis(4 * repeats)))
                } else {
                    Err("lost".to_owned())
                }
            }),
            plans: 1,
            time: Duration::from_millis(100),
            warm: false,
            most_repeats: 1,
        };
        let mut subjects = vec![subject(&log, 0, 4, 100), failing];
        let samples = in_turns(&mut subjects, &mut || true);
        assert_eq!(samples[0].as_ref().unwrap().len(), 25);
        assert_eq!(samples[1], Err("lost".to_owned()));
    }
}
