//! Who is fastest: the noise of a run, and how engines stand over all layers of a setting.

use crate::noise::{Noise, is_tie};
use crate::record::Record;
use crate::report::results::{CHOOSERS, Results, factor, time_of};
use crate::statistics::geometric_mean;

/// The noise of a setting; `None` where no kernel ran twice.
pub fn noise(results: &Results, setting: usize) -> Option<Noise> {
    let again = |case: usize| {
        results.again(case, setting).filter_map(move |(id, again)| {
            let (first, _) = results.timed(case, setting, id)?;
            let factor = time_of(again).and_then(|_| factor(again, first))?;
            Some((factor.ratio, factor.interval))
        })
    };
    Noise::of((0..results.cases.len()).flat_map(again))
}

/// Geometric means over some layers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Means {
    /// Layers.
    pub layers: usize,
    /// Speed over that of the fastest engine on each layer; 1 at best.
    pub of_fastest: f64,
    /// Speed over the baseline's, and the layers that both ran.
    pub over_baseline: Option<(f64, usize)>,
}

/// How an engine stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Standing {
    /// The engine.
    pub contestant: usize,
    /// Layers on which nothing was faster than it by more than the noise.
    pub fastest: usize,
    /// Over the layers that all compared engines ran; `None` for one that is not compared.
    pub common: Option<Means>,
    /// Over its own layers.
    pub own: Means,
}

/// How all engines of a setting stand.
#[derive(Clone, Debug, PartialEq)]
pub struct Standings {
    /// The setting.
    pub setting: usize,
    /// Its noise.
    pub noise: Option<Noise>,
    /// Layers that any engine ran.
    pub layers: usize,
    /// Layers that all compared engines ran.
    pub common: Vec<usize>,
    /// The engines, the best first.
    pub standings: Vec<Standing>,
}

/// An engine's mean is compared with others' if it ran this share of the layers: a specialist would shrink
/// the layers that all have in common to its own.
pub const COVERAGE: f64 = 0.9;

impl Standings {
    /// Of a setting.
    pub fn of(results: &Results, setting: usize) -> Self {
        let noise = noise(results, setting);
        let ranked: Vec<_> = (0..results.cases.len()).map(|case| results.ranked(case, setting)).collect();
        let ran = |case: usize, id: usize| ranked[case].iter().any(|(other, ..)| *other == id);
        let layers: Vec<usize> = (0..ranked.len()).filter(|&case| !ranked[case].is_empty()).collect();
        let covered =
            |id: usize| -> Vec<usize> { layers.iter().copied().filter(|&case| ran(case, id)).collect() };
        let all = 0..results.contestants.len();
        let own: Vec<(usize, Vec<usize>)> =
            all.map(|id| (id, covered(id))).filter(|(_, cases)| !cases.is_empty()).collect();
        let general = |cases: &[usize]| cases.len() as f64 >= COVERAGE * layers.len() as f64;
        let compared: Vec<usize> =
            own.iter().filter(|(_, cases)| general(cases)).map(|(id, _)| *id).collect();
        let common: Vec<usize> =
            layers.iter().copied().filter(|&case| compared.iter().all(|&id| ran(case, id))).collect();
        let means = |id: usize, cases: &[usize]| {
            let of_fastest = geometric_mean(cases.iter().filter_map(|&case| {
                let (_, _, best) = ranked[case].first()?;
                Some(best / results.timed(case, setting, id)?.1)
            }))?;
            let ratios: Vec<f64> = cases
                .iter()
                .filter_map(|&case| {
                    let (base, _) = results.timed(case, setting, results.baseline?)?;
                    Some(factor(results.timed(case, setting, id)?.0, base)?.ratio)
                })
                .collect();
            let over_baseline = geometric_mean(ratios.iter().copied()).map(|mean| (mean, ratios.len()));
            Some(Means { layers: cases.len(), of_fastest, over_baseline })
        };
        let floor = noise.map_or(0.0, |noise| noise.floor);
        let mut standings: Vec<Standing> = own
            .iter()
            .filter_map(|(id, cases)| {
                let fastest = cases.iter().filter(|&&case| within(&ranked[case], floor, *id)).count();
                let common = if compared.contains(id) { means(*id, &common) } else { None };
                Some(Standing { contestant: *id, fastest, common, own: means(*id, cases)? })
            })
            .collect();
        standings
            .sort_by(|a, b| b.fastest.cmp(&a.fastest).then(b.own.of_fastest.total_cmp(&a.own.of_fastest)));
        Standings { setting, noise, layers: layers.len(), common, standings }
    }

    /// The engine that the verdict is about: the one that chooses, or the best where it did not run.
    pub fn champion(&self, results: &Results) -> Option<&Standing> {
        let auto = self.standings.iter().find(|standing| CHOOSERS.contains(&results.id(standing.contestant)));
        auto.or_else(|| self.standings.first())
    }

    /// Whether nothing is faster than an engine on a layer by more than the noise.
    pub fn is_fastest(&self, results: &Results, case: usize, contestant: usize) -> bool {
        let floor = self.noise.map_or(0.0, |noise| noise.floor);
        within(&results.ranked(case, self.setting), floor, contestant)
    }
}

/// Whether an engine's time is behind the best by no more than the noise.
fn within(ranked: &[(usize, &Record, f64)], floor: f64, contestant: usize) -> bool {
    let best = ranked.first().map_or(0.0, |(_, _, best)| *best);
    ranked.iter().any(|(id, _, time)| *id == contestant && is_tie(*time, best, floor))
}
