//! What an engine costs beside its time: memory, planning, its first call, caches that are cold.

use kernels::ConvSpec;

use crate::record::{Clock, Record};
use crate::report::results::{Results, Setting, time_of};
use crate::statistics::{geometric_mean, median};

/// Bytes of the matrix that im2col makes of one image, one group at a time.
pub fn im2col_bytes(spec: &ConvSpec) -> Option<u64> {
    let [height, width] = spec.kernel();
    let extents = [spec.group_in_channels(), height, width, spec.out_height(), spec.out_width(), 4];
    extents.into_iter().try_fold(1u64, |product, n| product.checked_mul(n as u64))
}

/// What layers need to be held in memory, in a setting.
#[derive(Clone, Debug, PartialEq)]
pub struct Memory {
    /// The setting.
    pub setting: usize,
    /// Engines of which anything is known.
    pub contestants: Vec<usize>,
    /// Each layer's bytes: of its weights, of im2col's matrix, and of each engine's workspace and packed
    /// weights.
    pub layers: Vec<MemoryOf>,
}

/// What a layer needs.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryOf {
    /// The layer.
    pub case: usize,
    /// Bytes of its weights.
    pub weights: u64,
    /// Bytes of im2col's matrix.
    pub im2col: Option<u64>,
    /// For each engine bytes of workspace and of packed weights.
    pub engines: Vec<(Option<usize>, Option<usize>)>,
}

/// Memory for each number of threads; the state of the caches does not matter to it.
pub fn memory(results: &Results) -> Vec<Memory> {
    let mut seen = Vec::new();
    let mut all = Vec::new();
    for (setting, of) in results.settings.iter().enumerate() {
        let kind = (of.threads, of.clock == Clock::Device, of.precision, of.gradient);
        if !seen.contains(&kind) {
            seen.push(kind);
            all.push(memory_of(results, setting));
        }
    }
    all.retain(|memory| !memory.contestants.is_empty() && !memory.layers.is_empty());
    all
}

fn memory_of(results: &Results, setting: usize) -> Memory {
    let cases = 0..results.cases.len();
    let sizes = |case: usize, id: usize| {
        let row = results.timed(case, setting, id).map(|(row, _)| row);
        row.map_or((None, None), |row| (row.workspace_bytes, row.packed_bytes))
    };
    let known = |id: &usize| cases.clone().any(|case| sizes(case, *id) != (None, None));
    let contestants: Vec<usize> = (0..results.contestants.len()).filter(known).collect();
    let layers = cases.clone().filter_map(|case| {
        let spec = results.cases[case].spec.as_ref()?;
        let weights = 4 * spec.weights_len() as u64;
        let engines: Vec<_> = contestants.iter().map(|&id| sizes(case, id)).collect();
        let any = engines.iter().any(|sizes| *sizes != (None, None));
        any.then_some(MemoryOf { case, weights, im2col: im2col_bytes(spec), engines })
    });
    Memory { setting, layers: layers.collect(), contestants: contestants.clone() }
}

/// What it costs to begin, in a setting.
#[derive(Clone, Debug, PartialEq)]
pub struct Starts {
    /// The setting.
    pub setting: usize,
    /// The baseline, where it has rows.
    pub baseline: Option<usize>,
    /// Engines; medians over their layers.
    pub engines: Vec<Start>,
    /// Each layer, with the runs after which each engine has paid for its plan.
    pub layers: Vec<(usize, Vec<Option<Paid>>)>,
}

/// What it costs an engine to begin.
#[derive(Clone, Debug, PartialEq)]
pub struct Start {
    /// The engine.
    pub contestant: usize,
    /// Layers.
    pub layers: usize,
    /// Time of the plan over that of a run; the median over layers.
    pub plan: Option<f64>,
    /// Time of the first run over that of a run.
    pub first: Option<f64>,
    /// Runs after which plan and runs together take less time than the baseline's: the median over the
    /// layers on which they ever do.
    pub paid: Option<f64>,
    /// Layers on which they never do.
    pub never: usize,
}

/// When a plan has paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paid {
    /// After so many runs.
    After(u64),
    /// A run is no faster than the baseline's.
    Never,
}

/// After how many runs an engine with its plan has taken less time than the baseline with its own.
pub fn paid(row: &Record, base: &Record) -> Option<Paid> {
    let (own, other) = (time_of(row)?, time_of(base)?);
    let extra = row.plan_ns? - base.plan_ns?;
    if own >= other {
        return Some(Paid::Never);
    }
    // More runs than anyone makes end at u64's largest.
    Some(Paid::After((extra / (other - own)).ceil().max(1.0) as u64))
}

/// What it costs to begin.
pub fn starts(results: &Results, setting: usize) -> Option<Starts> {
    let cases = 0..results.cases.len();
    let baseline = results.baseline;
    let of_base = |case: usize, id: usize| {
        let base = baseline.filter(|base| *base != id)?;
        paid(results.timed(case, setting, id)?.0, results.timed(case, setting, base)?.0)
    };
    let engines = (0..results.contestants.len()).filter_map(|contestant| {
        let rows: Vec<(usize, &Record, f64)> = cases
            .clone()
            .filter_map(|case| results.timed(case, setting, contestant).map(|(row, time)| (case, row, time)))
            .collect();
        let middle = |f: &dyn Fn(&Record) -> Option<f64>| {
            let mut shares: Vec<f64> =
                rows.iter().filter_map(|(_, row, time)| Some(f(row)? / time)).collect();
            median(&mut shares)
        };
        let paids: Vec<Paid> = rows.iter().filter_map(|(case, ..)| of_base(*case, contestant)).collect();
        let mut runs: Vec<f64> = paids
            .iter()
            .filter_map(|paid| match paid {
                Paid::After(runs) => Some(*runs as f64),
                Paid::Never => None,
            })
            .collect();
        let start = Start {
            contestant,
            layers: rows.len(),
            plan: middle(&|row| row.plan_ns),
            first: middle(&|row| row.first_ns),
            paid: median(&mut runs),
            never: paids.len() - runs.len(),
        };
        (start.plan.is_some() || start.first.is_some()).then_some(start)
    });
    let engines: Vec<Start> = engines.collect();
    if engines.is_empty() {
        return None;
    }
    let layers = cases.clone().filter_map(|case| {
        let paids: Vec<_> = engines.iter().map(|start| of_base(case, start.contestant)).collect();
        paids.iter().any(Option::is_some).then_some((case, paids))
    });
    Some(Starts { setting, baseline, layers: layers.collect(), engines })
}

/// What cold caches cost, for a number of threads.
#[derive(Clone, Debug, PartialEq)]
pub struct Cold {
    /// Threads.
    pub threads: usize,
    /// Engines, with the geometric mean of cold over warm time and the layers behind it.
    pub means: Vec<(usize, f64, usize)>,
    /// Each layer with the ratio of each engine in `means`.
    pub layers: Vec<(usize, Vec<Option<f64>>)>,
}

/// What cold caches cost; nothing where there is no pair of warm and cold rows.
pub fn cold(results: &Results) -> Vec<Cold> {
    let find = |wanted: Setting| results.settings.iter().position(|setting| *setting == wanted);
    let warm = results.settings.iter().enumerate();
    let warm = warm.filter(|(_, of)| of.clock == Clock::Warm && of.is_plain());
    warm.filter_map(|(warm, setting)| {
        let cold = find(Setting { clock: Clock::Cold, ..*setting })?;
        let ratio = |case: usize, id: usize| {
            Some(results.timed(case, cold, id)?.1 / results.timed(case, warm, id)?.1)
        };
        let cases = 0..results.cases.len();
        let means: Vec<(usize, f64, usize)> = (0..results.contestants.len())
            .filter_map(|id| {
                let ratios: Vec<f64> = cases.clone().filter_map(|case| ratio(case, id)).collect();
                Some((id, geometric_mean(ratios.iter().copied())?, ratios.len()))
            })
            .collect();
        let layers: Vec<_> = cases
            .clone()
            .filter_map(|case| {
                let ratios: Vec<_> = means.iter().map(|(id, ..)| ratio(case, *id)).collect();
                ratios.iter().any(Option::is_some).then_some((case, ratios))
            })
            .collect();
        (!means.is_empty()).then_some(Cold { threads: setting.threads, means, layers })
    })
    .collect()
}
