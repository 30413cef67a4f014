//! What samples say: their middle, how sure it is, and how two subjects compare.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::measure::Sample;

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
    /// The median's 95 % confidence interval; none of too few samples.
    pub interval: Option<(f64, f64)>,
}

impl Statistics {
    /// Of some samples, in the order in which they were taken; `None` without any.
    pub fn of(samples: &[Sample]) -> Option<Self> {
        let values: Vec<(usize, f64)> = samples.iter().map(|sample| (sample.plan, sample.ns)).collect();
        let mut sorted: Vec<f64> = samples.iter().map(|sample| sample.ns).collect();
        let median = median(&mut sorted)?;
        let mut deviations: Vec<f64> = sorted.iter().map(|x| (x - median).abs()).collect();
        let mad = self::median(&mut deviations)?;
        let interval = interval(&values, median);
        Some(Statistics { samples: samples.len(), median, min: sorted[0], mad, interval })
    }
}

/// How many times faster one subject is than another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// Median over pairs of samples taken side by side of the other's time over this one's.
    pub ratio: f64,
    /// Its 95 % confidence interval; none of too few pairs.
    pub interval: Option<(f64, f64)>,
}

impl Ratio {
    /// Of a baseline's and a subject's samples: each sample of whoever has fewer is paired with the other's
    /// that is nearest in rounds. `None` without any.
    pub fn paired(baseline: &[Sample], subject: &[Sample]) -> Option<Self> {
        let pairs: Vec<(Sample, Sample)> = if baseline.len() < subject.len() {
            nearest(baseline, subject).collect()
        } else {
            nearest(subject, baseline).map(|(own, base)| (base, own)).collect()
        };
        let by = |plan: &dyn Fn(&(Sample, Sample)) -> usize| -> Vec<(usize, f64)> {
            pairs.iter().map(|pair| (plan(pair), pair.0.ns / pair.1.ns)).collect()
        };
        let (by_base, by_own) = (by(&|pair| pair.0.plan), by(&|pair| pair.1.plan));
        let ratio = median(&mut by_own.iter().map(|(_, ratio)| *ratio).collect::<Vec<_>>())?;
        let of_own = interval(&by_own, ratio);
        // Where the plans of both go in step, those of one side stand for those of the other.
        let interval = if by_base == by_own {
            of_own
        } else {
            of_own.zip(interval(&by_base, ratio)).map(|(own, base)| {
                let far = |own: f64, base: f64| (own - ratio).hypot(base - ratio);
                (ratio - far(own.0, base.0), ratio + far(own.1, base.1))
            })
        };
        Some(Ratio { ratio, interval })
    }
}

/// Each sample of `few` with the one of `many` that was taken in the nearest round.
fn nearest<'a>(few: &'a [Sample], many: &'a [Sample]) -> impl Iterator<Item = (Sample, Sample)> + 'a {
    few.iter().filter_map(|&sample| {
        let after = many.partition_point(|other| other.round < sample.round);
        let candidates = [after.checked_sub(1), Some(after)];
        let other = candidates
            .into_iter()
            .flatten()
            .filter_map(|i| many.get(i))
            .min_by_key(|other| other.round.abs_diff(sample.round))?;
        Some((sample, *other))
    })
}

/// Samples that an interval needs: the extremes of five hold the median only 94 times in 100.
const FEWEST: usize = 6;

/// Resamplings of the bootstrap.
const RESAMPLINGS: usize = 400;

/// A 95 % confidence interval of the median of values, each with the plan it is of: a percentile bootstrap in
/// two stages. Plans are drawn first, because two of one kernel differ by where their memory lies; of each that
/// was drawn then blocks of neighbouring samples, because on a shared machine neighbours are alike. It always
/// holds the median itself.
fn interval(values: &[(usize, f64)], median: f64) -> Option<(f64, f64)> {
    if values.len() < FEWEST {
        return None;
    }
    let mut plans: Vec<Vec<f64>> = Vec::new();
    for &(plan, value) in values {
        if plans.len() <= plan {
            plans.resize(plan + 1, Vec::new());
        }
        plans[plan].push(value);
    }
    plans.retain(|plan| !plan.is_empty());
    let count = plans.len();
    let mut rng = ChaCha8Rng::seed_from_u64(values.len() as u64);
    let mut drawn = Vec::with_capacity(2 * values.len());
    let mut medians: Vec<f64> = (0..RESAMPLINGS)
        .filter_map(|_| {
            drawn.clear();
            for _ in 0..count {
                draw(&plans[rng.random_range(0..count)], &mut rng, &mut drawn);
            }
            self::median(&mut drawn)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    let at = |share: f64| medians[(share * (medians.len() - 1) as f64).round() as usize];
    // Drawn from themselves, a few plans differ less than plans do.
    let wider = if count > 1 { (count as f64 / (count - 1) as f64).sqrt() } else { 1.0 };
    let end = |share: f64| median + wider * (at(share) - median);
    Some((end(0.025).min(median), end(0.975).max(median)))
}

/// Draws as many samples as there are, in blocks of neighbours.
fn draw(samples: &[f64], rng: &mut ChaCha8Rng, drawn: &mut Vec<f64>) {
    let block = (samples.len() as f64).sqrt().ceil() as usize;
    let end = drawn.len() + samples.len();
    while drawn.len() < end {
        let first = rng.random_range(0..=samples.len() - block);
        drawn.extend_from_slice(&samples[first..first + block]);
    }
    drawn.truncate(end);
}

/// The middle value, of an even number the mean of both; sorts.
pub fn median(samples: &mut [f64]) -> Option<f64> {
    samples.sort_by(f64::total_cmp);
    let middle = samples.len() / 2;
    match samples.len() {
        0 => None,
        n if n % 2 == 1 => Some(samples[middle]),
        _ => Some((samples[middle - 1] + samples[middle]) / 2.0),
    }
}

/// The geometric mean of positive numbers; `None` without any.
pub fn geometric_mean(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (mut count, mut logs) = (0, 0.0);
    for value in values {
        count += 1;
        logs += value.ln();
    }
    (count > 0).then(|| (logs / f64::from(count)).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(rounds: impl Iterator<Item = usize>, ns: impl Fn(usize) -> f64) -> Vec<Sample> {
        rounds.map(|round| Sample { round, plan: 0, ns: ns(round) }).collect()
    }

    fn of(values: &[f64]) -> Option<Statistics> {
        Statistics::of(&samples(0..values.len(), |round| values[round]))
    }

    #[test]
    fn statistics_of_known_samples() {
        let s = of(&[5.0, 1.0, 2.0, 4.0, 3.0]).unwrap();
        assert_eq!((s.samples, s.median, s.min, s.mad, s.interval), (5, 3.0, 1.0, 1.0, None));
        assert_eq!(of(&[1.0, 2.0]).unwrap().median, 1.5);
        assert_eq!(of(&[]), None);
        let same = of(&[7.0; 2000]).unwrap();
        assert_eq!((same.interval, same.mad), (Some((7.0, 7.0)), 0.0));
    }

    /// Of two hundred draws from one distribution about 190 intervals hold its median.
    #[test]
    fn intervals_hold_the_median_as_often_as_they_say() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let hits = (0..200)
            .filter(|_| {
                let draw: Vec<f64> = (0..100).map(|_| rng.random::<f64>().powi(2)).collect();
                let (low, high) = of(&draw).unwrap().interval.unwrap();
                low <= 0.25 && 0.25 <= high
            })
            .count();
        assert!((176..=200).contains(&hits), "{hits} of 200");
    }

    /// Where plans differ more than their samples scatter, intervals still hold what plans have in the middle.
    #[test]
    fn intervals_know_that_plans_differ() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let hits = (0..200)
            .filter(|_| {
                let plans: Vec<f64> = (0..8).map(|_| rng.random_range(-1.0..1.0)).collect();
                let sample = |round: usize, rng: &mut ChaCha8Rng| {
                    let ns = 100.0 + plans[round % 8] + rng.random_range(-0.1..0.1);
                    Sample { round, plan: round % 8, ns }
                };
                let taken: Vec<Sample> = (0..96).map(|round| sample(round, &mut rng)).collect();
                let (low, high) = Statistics::of(&taken).unwrap().interval.unwrap();
                low <= 100.0 && 100.0 <= high
            })
            .count();
        assert!((176..=200).contains(&hits), "{hits} of 200");
    }

    /// Plans on either side make a ratio unsure, whether they go in step or not.
    #[test]
    fn ratios_know_the_plans_of_both_sides() {
        let of = |plans: usize, spread: f64| -> Vec<Sample> {
            let ns = |round: usize| 100.0 + spread * (round % plans) as f64 + 0.01 * (round % 7) as f64;
            (0..96).map(|round| Sample { round, plan: round % plans, ns: ns(round) }).collect()
        };
        let width = |a: &[Sample], b: &[Sample]| {
            let (low, high) = Ratio::paired(a, b).unwrap().interval.unwrap();
            high - low
        };
        let (alike, unlike) = (of(5, 0.0), of(8, 1.0));
        assert!(width(&alike, &alike) < 0.001);
        assert!(width(&alike, &unlike) > 0.01 && width(&unlike, &alike) > 0.01);
    }

    /// A drift that hits both alike is not in the ratio.
    #[test]
    fn pairs_cancel_drift() {
        let drift = |round: usize| 1.0 + round as f64 / 10.0;
        let fast = samples(0..100, |round| 100.0 * drift(round));
        let slow = samples((0..100).step_by(5), |round| 300.0 * drift(round));
        let ratio = Ratio::paired(&slow, &fast).unwrap();
        let (low, high) = ratio.interval.unwrap();
        assert!((ratio.ratio - 3.0).abs() < 1e-12 && low > 2.999 && high < 3.001, "{ratio:?}");
        let inverse = Ratio::paired(&fast, &slow).unwrap();
        assert!((inverse.ratio - 1.0 / 3.0).abs() < 1e-12);
        // Where rounds differ the nearest counts.
        let ratio = Ratio::paired(&samples([10].into_iter(), |_| 2.0), &fast).unwrap();
        assert_eq!(ratio.ratio, 2.0 / 200.0);
        assert_eq!(Ratio::paired(&[], &fast), None);
    }

    #[test]
    fn geometric_means() {
        assert!((geometric_mean([1.0, 4.0]).unwrap() - 2.0).abs() < 1e-12);
        assert_eq!(geometric_mean([]), None);
    }
}
