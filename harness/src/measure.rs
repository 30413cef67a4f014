//! Times things in turns: on a shared machine a drift then hits all of them alike.

use std::time::Duration;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// Something to be timed.
pub struct Subject<'a> {
    /// Runs its plan of some number a number of times and says how long that took in all.
    pub run: Box<dyn FnMut(usize, u64) -> Result<Spent, String> + 'a>,
    /// Plans that take turns, a sample each.
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
/// Samples of a subject at least, even if they take longer than its time, unless one alone does.
const FEWEST: usize = 3;
/// Samples of a subject at most.
const MOST: usize = 1000;

/// A warm-up takes no longer, unless a single run does.
const LONGEST_WARM_UP: Duration = Duration::from_millis(100);

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
            Paced { repeats: 1, untimed: false, turns: 0 }
        }));
    }
    let rounds = pace.iter().map(|paced| paced.turns).max().unwrap_or(0);
    let budget: Duration = subjects.iter().map(|subject| subject.time).sum();
    let mut spent = Duration::ZERO;
    let mut order: Vec<usize> = (0..subjects.len()).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    for round in 0..rounds {
        // The machine may have become slower than it was: half as much again, then it is enough.
        if spent > budget * 3 / 2 && round >= FEWEST {
            break;
        }
        order.shuffle(&mut rng);
        for &i in &order {
            let Paced { repeats, untimed, turns } = pace[i];
            // Turns are spread evenly over the rounds, the first in round 0.
            let due = round == 0 || (round * turns) / rounds != ((round - 1) * turns) / rounds;
            let Ok(taken) = &mut samples[i] else { continue };
            if turns == 0 || !due {
                continue;
            }
            if !carry_on() {
                return samples;
            }
            let plan = taken.len() % subjects[i].plans.max(1);
            let mut turn = || {
                if untimed {
                    spent += (subjects[i].run)(plan, 1)?.total;
                }
                (subjects[i].run)(plan, repeats)
            };
            match turn() {
                Ok(Spent { timed, total }) => {
                    spent += total;
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
    let mut spent = Duration::ZERO;
    let mut last = f64::INFINITY;
    let (repeats, each) = loop {
        let Spent { timed, total } = (subject.run)(0, repeats)?;
        spent += total;
        let each = timed.as_nanos() as f64 / repeats as f64;
        let long_enough = total >= sample || repeats >= subject.most_repeats;
        if spent >= (subject.time / 5).min(LONGEST_WARM_UP)
            || (long_enough && (each / last - 1.0).abs() < 0.05)
        {
            break (repeats, total.div_f64(repeats as f64));
        }
        if long_enough {
            last = each;
        } else {
            let want = repeats as f64 * sample.as_nanos() as f64 / total.as_nanos().max(1) as f64;
            let most = repeats.saturating_mul(1000).min(subject.most_repeats);
            repeats = (want.ceil() as u64).clamp((repeats + 1).min(most), most);
        }
    };
    let untimed = subject.warm && each < LONG;
    let turn = each.mul_f64((repeats + u64::from(untimed)) as f64).max(Duration::from_nanos(100));
    let turns = if turn >= subject.time {
        1
    } else {
        ((subject.time.as_nanos() / turn.as_nanos()) as usize).clamp(FEWEST, MOST)
    };
    Ok(Paced { repeats, untimed, turns })
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
            assert!(samples.iter().enumerate().all(|(turn, sample)| sample.plan == turn % 3));
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
