//! What samples say: their middle, how sure it is, and how two subjects compare.

use std::collections::BTreeMap;

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
        let mut sorted: Vec<f64> = samples.iter().map(|sample| sample.ns).collect();
        let median = median(&mut sorted)?;
        let mut deviations: Vec<f64> = sorted.iter().map(|x| (x - median).abs()).collect();
        let mad = self::median(&mut deviations)?;
        let logs: Vec<f64> = samples.iter().map(|sample| (seen(sample.ns) / seen(median)).ln()).collect();
        let plans = samples.iter().map(|sample| sample.plan).collect();
        let interval = interval(median, &logs, &[plans]);
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
        let ratios: Vec<f64> = pairs.iter().map(|(base, own)| seen(base.ns) / seen(own.ns)).collect();
        let ratio = median(&mut ratios.clone())?;
        let logs: Vec<f64> = ratios.iter().map(|each| (each / ratio).ln()).collect();
        let plans_of_base = pairs.iter().map(|(base, _)| base.plan).collect();
        let plans_of_own = pairs.iter().map(|(_, own)| own.plan).collect();
        Some(Ratio { ratio, interval: interval(ratio, &logs, &[plans_of_base, plans_of_own]) })
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

/// A time of which logarithms and ratios can be taken: a coarse clock may see none.
fn seen(ns: f64) -> f64 {
    ns.max(1e-3)
}

/// A 95 % confidence interval of a median of positive values, given the logarithms of the values over it in the
/// order in which they were taken, and the plan that each is of; of ratios there are two, one on either side. Its
/// ends are positive and on either side of the median. Each is as far away as the furthest of
///
/// - the ranks between which the median of independent samples lies;
/// - a percentile bootstrap of all samples, in blocks of neighbours, because on a shared machine neighbours are alike,
///   of whichever plan they are; and of each plan's samples by themselves;
/// - what plans differ by, because two of one kernel differ by where their memory lies: t standard errors, with
///   as few degrees of freedom as there are plans less 1.
fn interval(median: f64, logs: &[f64], plans_of_sides: &[Vec<usize>]) -> Option<(f64, f64)> {
    if logs.len() < FEWEST {
        return None;
    }
    let mut rng = ChaCha8Rng::seed_from_u64(logs.len() as u64);
    let (mut below, mut above) = between_ranks(logs);
    let mut reach = |mut medians: Vec<f64>| {
        medians.sort_by(f64::total_cmp);
        let at = |share: f64| medians[(share * (medians.len() - 1) as f64).round() as usize];
        (below, above) = (below.max(-at(0.025)), above.max(at(0.975)));
    };
    reach(resampled(&[logs.to_vec()], &mut rng, |draw, _| draw));
    let mut of_samples = f64::INFINITY;
    let mut of_plans = Vec::new();
    for plans in plans_of_sides {
        let plans = by_plan(logs, plans);
        let within = resampled(&plans, &mut rng, |draw, _| draw);
        of_samples = of_samples.min(mean_square(&within));
        if let Some(freedom @ 1..) = plans.len().checked_sub(1) {
            let both = resampled(&plans, &mut rng, |_, rng| rng.random_range(0..plans.len()));
            // Drawn from themselves, a few plans differ less than plans do.
            let widen = plans.len() as f64 / freedom as f64;
            of_plans.push(Variance {
                estimate: widen * (mean_square(&both) - mean_square(&within)).max(0.0),
                freedom: freedom as f64,
            });
        }
        reach(within);
    }
    let of_plans = Variance::sum(&of_plans, of_samples);
    let far = student(of_plans.freedom) * of_plans.estimate.sqrt();
    Some((median * (-below.max(far)).exp(), median * above.max(far).exp()))
}

/// A variance as it is estimated from a few things.
#[derive(Clone, Copy, Debug)]
struct Variance {
    estimate: f64,
    /// Degrees of freedom.
    freedom: f64,
}

impl Variance {
    /// Of the sum of independent things, with Satterthwaite's effective degrees of freedom ("An approximate
    /// distribution of estimates of variance components", Biometrics Bulletin 2, 1946). Each estimate holds what
    /// they have in common.
    fn sum(all: &[Variance], common: f64) -> Variance {
        let sum: f64 = all.iter().map(|variance| variance.estimate).sum();
        let least = all.iter().map(|variance| variance.estimate).fold(common, f64::min);
        let squares: f64 = all.iter().map(|variance| variance.estimate.powi(2) / variance.freedom).sum();
        let twice = all.len().saturating_sub(1) as f64;
        Variance {
            estimate: sum - twice * least,
            freedom: if squares > 0.0 { sum.powi(2) / squares } else { f64::INFINITY },
        }
    }
}

/// Degrees of freedom and the quantile of Student's distribution that 95 % lie within.
const STUDENT: [(f64, f64); 9] = [
    (1.0, 12.706),
    (2.0, 4.303),
    (3.0, 3.182),
    (4.0, 2.776),
    (5.0, 2.571),
    (7.0, 2.365),
    (10.0, 2.228),
    (20.0, 2.086),
    (f64::INFINITY, 1.960),
];

/// How many standard errors 95 % of estimates lie within: the table, between whose lines ln t is nearly straight
/// over 1/freedom.
fn student(freedom: f64) -> f64 {
    let at = 1.0 / freedom.max(1.0);
    let after = STUDENT.partition_point(|(freedom, _)| 1.0 / freedom > at).clamp(1, STUDENT.len() - 1);
    let [(x0, y0), (x1, y1)] = [after - 1, after].map(|i| (1.0 / STUDENT[i].0, STUDENT[i].1.ln()));
    (y0 + (y1 - y0) * (at - x0) / (x1 - x0)).exp()
}

/// How far below and above 0 the ranks lie that hold the median of independent values 95 times in 100: of the sign
/// test, in its normal approximation (Conover, "Practical Nonparametric Statistics").
fn between_ranks(values: &[f64]) -> (f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    let rank = (((n + 1) as f64 / 2.0 - 0.98 * (n as f64).sqrt()) as usize).max(1);
    ((-sorted[rank - 1]).max(0.0), sorted[n - rank].max(0.0))
}

/// Values by their plans, those without any left out.
fn by_plan(values: &[f64], plans: &[usize]) -> Vec<Vec<f64>> {
    let mut all: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for (value, plan) in values.iter().zip(plans) {
        all.entry(*plan).or_default().push(*value);
    }
    all.into_values().collect()
}

/// Medians of resamplings: each draws as often as there are plans, `choose` says which, and of each that was drawn
/// blocks of samples.
fn resampled(
    plans: &[Vec<f64>],
    rng: &mut ChaCha8Rng,
    choose: impl Fn(usize, &mut ChaCha8Rng) -> usize,
) -> Vec<f64> {
    let mut drawn = Vec::new();
    (0..RESAMPLINGS)
        .map(|_| {
            drawn.clear();
            for draw_number in 0..plans.len() {
                draw(&plans[choose(draw_number, rng)], rng, &mut drawn);
            }
            middle(&mut drawn)
        })
        .collect()
}

/// Of values around 0.
fn mean_square(values: &[f64]) -> f64 {
    values.iter().map(|x| x * x).sum::<f64>() / values.len() as f64
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

/// The median of some values, without sorting them all.
fn middle(values: &mut [f64]) -> f64 {
    let (half, even) = (values.len() / 2, values.len().is_multiple_of(2));
    let (below, middle, _) = values.select_nth_unstable_by(half, f64::total_cmp);
    let before = below.iter().copied().reduce(f64::max).filter(|_| even);
    before.unwrap_or(*middle).midpoint(*middle)
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
    use rand::seq::SliceRandom;

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

    /// About normal, with this standard deviation.
    fn normal(deviation: f64, rng: &mut ChaCha8Rng) -> f64 {
        deviation * ((0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0)
    }

    /// So many samples of each of some plans, which take turns in an order that is shuffled each time: plans
    /// scatter about 100 as their samples do about them.
    fn scattered(
        plans: usize,
        each: usize,
        [between, within]: [f64; 2],
        rng: &mut ChaCha8Rng,
    ) -> Vec<Sample> {
        let means: Vec<f64> = (0..plans).map(|_| normal(between, rng)).collect();
        let mut order: Vec<usize> = (0..plans).collect();
        let mut samples = Vec::new();
        for _ in 0..each {
            order.shuffle(rng);
            for &plan in &order {
                let ns = 100.0 * (means[plan] + normal(within, rng)).exp();
                samples.push(Sample { round: samples.len(), plan, ns });
            }
        }
        samples
    }

    fn holds(interval: Option<(f64, f64)>, value: f64) -> bool {
        interval.is_some_and(|(low, high)| 0.0 < low && low <= value && value <= high)
    }

    /// However few plans there are, and however much they differ.
    #[test]
    fn intervals_know_how_few_plans_there_are() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        for plans in [2, 3, 4, 8] {
            for (between, most) in [(0.05, 297), (0.01, 300), (0.003, 300)] {
                let hits = (0..300)
                    .filter(|_| {
                        let taken = scattered(plans, 12, [between, 0.01], &mut rng);
                        holds(Statistics::of(&taken).unwrap().interval, 100.0)
                    })
                    .count();
                assert!((270..=most).contains(&hits), "{plans} plans, {between}: {hits} of 300");
            }
        }
    }

    /// A slow spell of the machine hits whichever plans run meanwhile: many plans do not make it many spells.
    #[test]
    fn intervals_know_spells_that_plans_share() {
        let mut rng = ChaCha8Rng::seed_from_u64(6);
        for plans in [1, 8] {
            let hits = (0..300)
                .filter(|_| {
                    let mut taken = scattered(plans, 160 / plans, [0.0, 0.002], &mut rng);
                    for spell in taken.chunks_mut(8) {
                        let slow = normal(0.02, &mut rng).exp();
                        spell.iter_mut().for_each(|sample| sample.ns *= slow);
                    }
                    holds(Statistics::of(&taken).unwrap().interval, 100.0)
                })
                .count();
            assert!((255..=300).contains(&hits), "{plans} plans: {hits} of 300");
        }
    }

    /// A peer has one plan, and may have few samples.
    #[test]
    fn intervals_know_how_few_samples_there_are() {
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        for samples in [6, 8, 12, 25] {
            let hits = (0..300)
                .filter(|_| {
                    let taken = scattered(1, samples, [0.0, 0.02], &mut rng);
                    holds(Statistics::of(&taken).unwrap().interval, 100.0)
                })
                .count();
            assert!((276..=300).contains(&hits), "{samples} samples: {hits} of 300");
        }
    }

    /// Two rows of one kernel, each with plans of its own, are as fast as each other.
    #[test]
    fn ratios_of_a_kernel_with_itself_hold_one() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        for plans in [2, 3, 8] {
            for between in [0.0, 0.01, 0.05] {
                let hits = (0..300)
                    .filter(|_| {
                        let [a, b] = [0, 1].map(|_| scattered(plans, 10, [between, 0.01], &mut rng));
                        holds(Ratio::paired(&a, &b).unwrap().interval, 1.0)
                    })
                    .count();
                assert!(hits >= 276, "{plans} plans, {between}: {hits} of 300");
            }
        }
    }

    /// However much samples scatter, no time is negative and no ratio below 0.
    #[test]
    fn ends_are_positive() {
        let wild = |fast: f64, plans: usize| -> Vec<Sample> {
            let ns = |plan: usize| if plan == 0 { fast } else { 1000.0 * fast };
            (0..18).map(|round| Sample { round, plan: round % plans, ns: ns(round % plans) }).collect()
        };
        let (low, high) = Statistics::of(&wild(1.0, 2)).unwrap().interval.unwrap();
        assert!(0.0 < low && low <= 1.0 && high >= 1000.0 && high.is_finite(), "{low} to {high}");
        let (low, high) = Ratio::paired(&wild(1.0, 2), &wild(1.0, 3)).unwrap().interval.unwrap();
        assert!(0.0 < low && low <= 0.001 && high >= 1000.0 && high.is_finite(), "{low} to {high}");
        // A clock that sees nothing.
        let none = Ratio::paired(&wild(0.0, 2), &wild(0.0, 3)).unwrap();
        assert_eq!((none.ratio, none.interval), (1.0, Some((1.0, 1.0))));
    }

    #[test]
    fn quantiles_of_student() {
        for (freedom, t) in [
            (0.5, 12.706),
            (1.0, 12.706),
            (1.5, 6.08),
            (6.0, 2.447),
            (15.0, 2.131),
            (30.0, 2.042),
            (1e9, 1.960),
        ] {
            assert!((student(freedom) / t - 1.0).abs() < 0.02, "{freedom}: {}", student(freedom));
        }
        assert_eq!(student(f64::INFINITY), 1.960);
    }

    #[test]
    fn degrees_of_freedom_are_satterthwaites() {
        let of = |estimate, freedom| Variance { estimate, freedom };
        let sum = Variance::sum(&[of(2.0, 4.0), of(2.0, 4.0)], 0.5);
        assert_eq!((sum.estimate, sum.freedom), (3.5, 8.0));
        // What cannot be seen of one side is not taken off the other.
        let sum = Variance::sum(&[of(2.0, 4.0), of(0.0, 1.0)], 0.5);
        assert_eq!((sum.estimate, sum.freedom), (2.0, 4.0));
    }

    #[test]
    fn ranks_are_those_of_the_sign_test() {
        let ranks = |n: usize| {
            let values: Vec<f64> = (1..=n).map(|i| i as f64 - (n + 1) as f64 / 2.0).collect();
            let (below, above) = between_ranks(&values);
            ((n + 1) as f64 / 2.0 - below, (n + 1) as f64 / 2.0 + above)
        };
        // Which hold the median 96.9, 97.9 and 96.5 times in 100.
        assert_eq!([ranks(6), ranks(10), ranks(100)], [(1.0, 6.0), (2.0, 9.0), (40.0, 61.0)]);
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
