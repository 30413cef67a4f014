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

/// A geometric mean, and over how many layers.
pub type Mean = Option<(f64, usize)>;

/// How many times faster ours is, over some layers.
#[derive(Clone, Debug, PartialEq)]
pub struct Means {
    /// Than each other library, over the layers that both ran.
    pub each: Vec<Mean>,
    /// Than the fastest of them on each layer.
    pub best: Mean,
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
    /// Over all of them.
    pub means: Means,
    /// By class of layer.
    pub classes: Vec<(String, Means)>,
}

impl Duel<'_> {
    /// How many times faster ours is than the fastest of the others.
    pub fn over_best(&self) -> Option<f64> {
        self.theirs.iter().filter_map(|(_, factor)| Some(factor.as_ref()?.ratio)).min_by(f64::total_cmp)
    }
}

fn means(duels: &[&Duel<'_>], peers: usize) -> Means {
    let mean = |ratio: &dyn Fn(&Duel<'_>) -> Option<f64>| {
        let ratios: Vec<f64> = duels.iter().filter_map(|duel| ratio(duel)).collect();
        Some((geometric_mean(ratios.iter().copied())?, ratios.len()))
    };
    Means {
        each: (0..peers).map(|peer| mean(&|duel| Some(duel.theirs.get(peer)?.1.as_ref()?.ratio))).collect(),
        best: mean(&|duel| duel.over_best()),
    }
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
    let mut classes: Vec<(String, Vec<&Duel<'_>>)> = Vec::new();
    for duel in &duels {
        let Some(spec) = &results.cases[duel.case].spec else { continue };
        let class = class(spec);
        match classes.iter_mut().find(|(known, _)| *known == class) {
            Some((_, members)) => members.push(duel),
            None => classes.push((class, vec![duel])),
        }
    }
    let classes = classes.into_iter().map(|(class, of)| (class, means(&of, peers.len()))).collect();
    let means = means(&duels.iter().collect::<Vec<_>>(), peers.len());
    Some(Duels { setting, means, classes, peers, duels })
}
