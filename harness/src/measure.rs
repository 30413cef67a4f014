//! Times things in turns: on a shared machine a drift then hits all of them alike.

use std::time::Duration;

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Something to be timed: runs a number of times and says how long that took in all.
pub type Subject<'a> = Box<dyn FnMut(u64) -> Duration + 'a>;

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Time to be spent on each subject's samples.
    pub time: Duration,
    /// A sample repeats its subject until it takes this long.
    pub sample: Duration,
    /// Samples of a subject at least, even if they take longer, unless one alone does.
    pub least: usize,
}

/// A subject that runs this long fills the caches itself; a shorter one runs once untimed before each
/// sample, because another's turn has just been.
const LONG: Duration = Duration::from_millis(20);

impl Effort {
    /// An effort of so much time for each subject.
    pub fn of(time: Duration) -> Self {
        Effort { time, sample: Duration::from_millis(4).min(time / 20), least: 3 }
    }
}

/// Samples a subject has at most.
const MOST_SAMPLES: usize = 10_000;

/// Times the subjects in rounds, in another order each round, until each has had its time. Returns for
/// each its samples, in nanoseconds for one run. `carry_on` is asked before every sample; when it says
/// no, the samples so far are returned.
pub fn in_turns(
    subjects: &mut [Subject<'_>],
    effort: Effort,
    carry_on: &mut dyn FnMut() -> bool,
) -> Vec<Vec<f64>> {
    let mut samples = vec![Vec::new(); subjects.len()];
    let (mut repeats, mut long) = (Vec::new(), Vec::new());
    for subject in &mut *subjects {
        if !carry_on() {
            return samples;
        }
        let (count, each) = warm_up(subject, effort);
        repeats.push(count);
        long.push(each >= LONG);
    }
    let mut spent = vec![Duration::ZERO; subjects.len()];
    let mut order: Vec<usize> = (0..subjects.len()).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    loop {
        order.shuffle(&mut rng);
        let mut done = true;
        for &i in &order {
            let enough = spent[i] >= effort.time
                && (samples[i].len() >= effort.least || spent[i] >= effort.time * samples[i].len() as u32);
            if enough || samples[i].len() >= MOST_SAMPLES {
                continue;
            }
            if !carry_on() {
                return samples;
            }
            done = false;
            if !long[i] {
                spent[i] += subjects[i](1);
            }
            let time = subjects[i](repeats[i]);
            spent[i] += time;
            samples[i].push(time.as_nanos() as f64 / repeats[i] as f64);
        }
        if done {
            return samples;
        }
    }
}

/// Runs a subject until two samples in a row agree, or for a fifth of its time; returns how many
/// repeats make a sample, and how long one takes.
fn warm_up(subject: &mut Subject<'_>, effort: Effort) -> (u64, Duration) {
    let mut repeats = 1u64;
    let mut spent = Duration::ZERO;
    let mut last = f64::INFINITY;
    loop {
        let time = subject(repeats);
        spent += time;
        let each = time.as_nanos() as f64 / repeats as f64;
        let long_enough = time >= effort.sample;
        if spent >= effort.time / 5 || (long_enough && (each / last - 1.0).abs() < 0.05) {
            return (repeats, time / u32::try_from(repeats).unwrap_or(u32::MAX));
        }
        if long_enough {
            last = each;
        } else {
            let want = effort.sample.as_nanos() as f64 / each.max(1.0);
            repeats = (want.ceil() as u64).clamp(repeats + 1, repeats.saturating_mul(1000));
        }
    }
}

/// A sample's middle, spread and how sure the middle is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Statistics {
    /// Samples.
    pub samples: usize,
    /// Median.
    pub median: f64,
    /// Smallest.
    pub min: f64,
    /// Median absolute deviation from the median.
    pub mad: f64,
    /// Lower end of the median's 95 % confidence interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Resamplings of the bootstrap.
const RESAMPLINGS: usize = 400;
/// Samples of a resampling at most: beyond, intervals are as good and only slower to get.
const MOST_RESAMPLED: usize = 500;

impl Statistics {
    /// Of some samples; `None` without any. The confidence interval is a percentile bootstrap.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        let median = median(&mut sorted)?;
        let mut deviations: Vec<f64> = samples.iter().map(|x| (x - median).abs()).collect();
        let mad = self::median(&mut deviations)?;
        let mut rng = ChaCha8Rng::seed_from_u64(samples.len() as u64);
        let size = samples.len().min(MOST_RESAMPLED);
        let mut medians: Vec<f64> = (0..RESAMPLINGS)
            .filter_map(|_| {
                let mut drawn: Vec<f64> =
                    (0..size).map(|_| samples[rng.random_range(0..samples.len())]).collect();
                self::median(&mut drawn)
            })
            .collect();
        medians.sort_by(f64::total_cmp);
        let at = |share: f64| medians[(share * (medians.len() - 1) as f64).round() as usize];
        // A subsample's median scatters more than the whole's, by the square root of the sizes' ratio.
        let narrow = (size as f64 / samples.len() as f64).sqrt();
        Some(Statistics {
            samples: samples.len(),
            median,
            min: sorted[0],
            mad,
            low: median + (at(0.025) - median) * narrow,
            high: median + (at(0.975) - median) * narrow,
        })
    }
}

/// The middle value, of an even number the mean of both; sorts.
fn median(samples: &mut [f64]) -> Option<f64> {
    samples.sort_by(f64::total_cmp);
    let middle = samples.len() / 2;
    match samples.len() {
        0 => None,
        n if n % 2 == 1 => Some(samples[middle]),
        _ => Some((samples[middle - 1] + samples[middle]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_of_known_samples() {
        let s = Statistics::of(&[5.0, 1.0, 2.0, 4.0, 3.0]).unwrap();
        assert_eq!((s.samples, s.median, s.min, s.mad), (5, 3.0, 1.0, 1.0));
        assert!(s.low >= 1.0 && s.low <= 3.0 && s.high >= 3.0 && s.high <= 5.0);
        assert_eq!(Statistics::of(&[1.0, 2.0]).unwrap().median, 1.5);
        assert_eq!(Statistics::of(&[]), None);
        let same = Statistics::of(&[7.0; 2000]).unwrap();
        assert_eq!((same.low, same.high, same.mad), (7.0, 7.0, 0.0));
    }

    /// A clock that a test drives: a run of subject i takes i + 1 ms.
    #[test]
    fn subjects_take_turns_and_get_their_time() {
        let log = std::cell::RefCell::new(Vec::new());
        let subject = |i: usize| -> Subject<'_> {
            let log = &log;
            Box::new(move |repeats| {
                log.borrow_mut().push(i);
                Duration::from_millis(i as u64 + 1) * repeats as u32
            })
        };
        let mut subjects: Vec<Subject<'_>> = (0..3).map(subject).collect();
        let effort = Effort::of(Duration::from_millis(30));
        let samples = in_turns(&mut subjects, effort, &mut || true);
        for (i, samples) in samples.iter().enumerate() {
            assert!(samples.iter().all(|&ns| ns == 1e6 * (i + 1) as f64));
            assert!(samples.len() >= 3, "{i}: {}", samples.len());
        }
        // After the warm-up no subject has another turn (two runs) before one that still has time.
        let log = log.borrow();
        let warm = log.len() - 2 * samples.iter().map(Vec::len).sum::<usize>();
        for round in log[warm..warm + 30].chunks(6) {
            let mut round = round.to_vec();
            round.sort_unstable();
            assert_eq!(round, [0, 0, 1, 1, 2, 2]);
        }
    }

    #[test]
    fn stops_when_told() {
        let mut subjects: Vec<Subject<'_>> = vec![Box::new(Duration::from_millis)];
        let mut left = 5;
        let samples = in_turns(&mut subjects, Effort::of(Duration::from_secs(1)), &mut || {
            left -= 1;
            left >= 0
        });
        assert!(samples[0].len() <= 5);
    }
}
