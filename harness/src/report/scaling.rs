//! What more threads and larger batches bring.

use crate::record::Clock;
use crate::report::results::Results;
use crate::statistics::geometric_mean;

/// Speed-up by more threads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gain {
    /// Time with the fewest threads over time with these.
    pub speed_up: f64,
    /// Speed-up over how many times more threads there are; 1 at best.
    pub efficiency: f64,
}

/// A geometric mean, and the layers behind it.
pub type MeanGain = (Gain, usize);

/// How engines gain from threads, for one state of the caches.
#[derive(Clone, Debug, PartialEq)]
pub struct Threads {
    /// The state of the caches.
    pub clock: Clock,
    /// The fewest threads.
    pub fewest: usize,
    /// The other numbers of threads.
    pub more: Vec<usize>,
    /// Engines, each with the geometric means for each of `more` and the layers behind them.
    pub means: Vec<(usize, Vec<Option<MeanGain>>)>,
    /// Layers, each with the gains of the engines in `means`, for each of `more`.
    pub layers: Vec<(usize, Vec<Vec<Option<Gain>>>)>,
}

/// How engines gain from threads; nothing where there is one number of threads.
pub fn threads(results: &Results) -> Vec<Threads> {
    [Clock::Warm, Clock::Cold].into_iter().filter_map(|clock| threads_of(results, clock)).collect()
}

fn threads_of(results: &Results, clock: Clock) -> Option<Threads> {
    let settings: Vec<(usize, usize)> = results
        .settings
        .iter()
        .enumerate()
        .filter(|(_, setting)| setting.clock == clock && setting.is_plain())
        .map(|(index, setting)| (index, setting.threads))
        .collect();
    let (&(base, fewest), more) = settings.split_first()?;
    if more.is_empty() {
        return None;
    }
    let gain = |case: usize, id: usize, (setting, threads): (usize, usize)| -> Option<Gain> {
        let speed_up = results.timed(case, base, id)?.1 / results.timed(case, setting, id)?.1;
        Some(Gain { speed_up, efficiency: speed_up * fewest as f64 / threads as f64 })
    };
    let cases = 0..results.cases.len();
    let means = (0..results.contestants.len()).filter_map(|id| {
        let of = |&at: &(usize, usize)| {
            let ups: Vec<f64> = cases.clone().filter_map(|case| Some(gain(case, id, at)?.speed_up)).collect();
            let speed_up = geometric_mean(ups.iter().copied())?;
            Some((Gain { speed_up, efficiency: speed_up * fewest as f64 / at.1 as f64 }, ups.len()))
        };
        let means: Vec<_> = more.iter().map(of).collect();
        means.iter().any(Option::is_some).then_some((id, means))
    });
    let means: Vec<_> = means.collect();
    let layers = cases.clone().filter_map(|case| {
        let of = |&(id, _): &(usize, _)| more.iter().map(|&at| gain(case, id, at)).collect::<Vec<_>>();
        let gains: Vec<_> = means.iter().map(of).collect();
        gains.iter().flatten().any(Option::is_some).then_some((case, gains))
    });
    let layers = layers.collect();
    let more = more.iter().map(|(_, threads)| *threads).collect();
    Some(Threads { clock, fewest, more, means, layers })
}

/// A layer with several batches in a setting.
#[derive(Clone, Debug, PartialEq)]
pub struct Batches {
    /// The setting.
    pub setting: usize,
    /// The layer's name.
    pub layer: String,
    /// The batches, growing.
    pub batches: Vec<usize>,
    /// Engines, each with its GFLOP/s for each batch.
    pub speeds: Vec<(usize, Vec<Option<f64>>)>,
}

/// The layers that were measured with several batches.
pub fn batches(results: &Results) -> Vec<Batches> {
    let mut families: Vec<(String, Vec<(usize, usize)>)> = Vec::new();
    for (index, case) in results.cases.iter().enumerate() {
        let Some(spec) = &case.spec else { continue };
        let Ok(one) = spec.with_batch(1) else { continue };
        // A layer that has no name is named by its spec, batch included.
        let name = if case.layer == case.spec_text { String::new() } else { case.layer.clone() };
        let key = format!("{}\n{name}\n{one}", case.network);
        match families.iter_mut().find(|(known, _)| *known == key) {
            Some((_, members)) => members.push((spec.batch(), index)),
            None => families.push((key, vec![(spec.batch(), index)])),
        }
    }
    let mut found = Vec::new();
    for (_, mut members) in families {
        members.sort_unstable();
        let [(_, first), _, ..] = members[..] else { continue };
        for setting in 0..results.settings.len() {
            let speeds = (0..results.contestants.len()).filter_map(|id| {
                let speed = |&(_, case): &(usize, usize)| results.timed(case, setting, id)?.0.gflops;
                let speeds: Vec<_> = members.iter().map(speed).collect();
                (speeds.iter().flatten().count() > 1).then_some((id, speeds))
            });
            let speeds: Vec<_> = speeds.collect();
            if !speeds.is_empty() {
                let batches = members.iter().map(|(batch, _)| *batch).collect();
                let layer = results.cases[first].layer.clone();
                found.push(Batches { setting, layer, batches, speeds });
            }
        }
    }
    found
}
