//! Ours beside other libraries: layer by layer, by class of layer, and over all.

use kernels::ConvSpec;

use crate::record::Record;
use crate::report::results::{Factor, Results, factor};
use crate::statistics::geometric_mean;

/// What kind of layer a convolution is.
pub fn class(spec: &ConvSpec) -> String {
    let [height, width] = spec.kernel();
    let strided = if spec.stride() == [1, 1] { "" } else { ", strided" };
    let dilated = if spec.dilation() == [1, 1] { "" } else { ", dilated" };
    let groups = match spec.groups() {
        1 => "",
        _ if spec.is_depthwise() => "depthwise ",
        _ => "grouped ",
    };
    format!("{groups}{height}×{width}{strided}{dilated}")
}

/// Ours beside others on a layer.
#[derive(Clone, Debug)]
pub struct Duel<'a> {
    /// The layer.
    pub case: usize,
    /// Ours: `auto`, or the fastest of ours where `auto` has no time.
    pub ours: &'a Record,
    /// Each other library: its row if there is one, and how many times faster ours is.
    pub theirs: Vec<(Option<&'a Record>, Option<Factor>)>,
}

/// Ours beside others in a setting.
#[derive(Clone, Debug)]
pub struct Duels<'a> {
    /// The setting.
    pub setting: usize,
    /// The others that have a time on any layer.
    pub peers: Vec<usize>,
    /// The layers that ours and at least one other ran.
    pub duels: Vec<Duel<'a>>,
    /// Layers that ours and all others ran.
    pub common: usize,
    /// How many times faster ours is than each over these layers; geometric means.
    pub means: Vec<Option<f64>>,
    /// The same by class of layer: class, layers, means.
    pub classes: Vec<(String, usize, Vec<Option<f64>>)>,
}

/// Ours beside others; `None` where no other library has a time.
pub fn duels(results: &Results, setting: usize) -> Option<Duels<'_>> {
    let cases = 0..results.cases.len();
    let ran = |id: &usize| cases.clone().any(|case| results.timed(case, setting, *id).is_some());
    let peers: Vec<usize> = results.peers().into_iter().filter(ran).collect();
    if peers.is_empty() {
        return None;
    }
    let duels: Vec<Duel<'_>> = cases
        .filter_map(|case| {
            let (_, ours, _) = results.ours(case, setting)?;
            let theirs: Vec<_> = peers
                .iter()
                .map(|&peer| {
                    let row = results.row(case, setting, peer);
                    (row, row.and_then(|row| factor(ours, row)))
                })
                .collect();
            theirs.iter().any(|(_, factor)| factor.is_some()).then_some(Duel { case, ours, theirs })
        })
        .collect();
    let complete: Vec<&Duel<'_>> =
        duels.iter().filter(|duel| duel.theirs.iter().all(|(_, factor)| factor.is_some())).collect();
    let means = |of: &[&Duel<'_>]| -> Vec<Option<f64>> {
        let ratio = |duel: &&Duel<'_>, peer: usize| Some(duel.theirs.get(peer)?.1?.ratio);
        (0..peers.len()).map(|peer| geometric_mean(of.iter().filter_map(|duel| ratio(duel, peer)))).collect()
    };
    let mut classes: Vec<(String, Vec<&Duel<'_>>)> = Vec::new();
    for &duel in &complete {
        let Some(spec) = &results.cases[duel.case].spec else { continue };
        let class = class(spec);
        match classes.iter_mut().find(|(known, _)| *known == class) {
            Some((_, members)) => members.push(duel),
            None => classes.push((class, vec![duel])),
        }
    }
    Some(Duels {
        setting,
        common: complete.len(),
        means: means(&complete),
        classes: classes.iter().map(|(class, of)| (class.clone(), of.len(), means(of))).collect(),
        peers,
        duels,
    })
}
