//! Whole networks: the convolutions of an image, each as often as the network has it.

use std::collections::HashSet;

use crate::layers;
use crate::report::results::Results;

/// A network in a setting.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// The setting.
    pub setting: usize,
    /// Images in a batch; `None` where its layers differ in that.
    pub batch: Option<usize>,
    /// Layers of different shape that rows are of.
    pub layers: usize,
    /// Names of layers that the network has beside these.
    pub missing: Vec<String>,
    /// Engines, the fastest first; those that lack layers last.
    pub engines: Vec<Total>,
}

/// An engine's time for all convolutions of a network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Total {
    /// The engine.
    pub contestant: usize,
    /// Layers that it ran.
    pub layers: usize,
    /// Sum over layers of median times count, if it ran all.
    pub ns: Option<f64>,
    /// How many times faster than the baseline.
    pub over_baseline: Option<f64>,
}

/// Each network in each setting.
pub fn networks(results: &Results) -> Vec<Network> {
    let mut families: Vec<(&str, Option<usize>, Vec<usize>)> = Vec::new();
    for (index, case) in results.cases.iter().enumerate().filter(|(_, case)| !case.network.is_empty()) {
        // With several batches each is a network of its own; layers of one batch each are one network.
        let twice = results
            .cases
            .iter()
            .filter(|other| (&other.network, &other.layer) == (&case.network, &case.layer));
        let batch = case.spec.map(|spec| spec.batch()).filter(|_| twice.count() > 1);
        match families.iter_mut().find(|(name, of, _)| (*name, *of) == (case.network.as_str(), batch)) {
            Some((.., members)) => members.push(index),
            None => families.push((&case.network, batch, vec![index])),
        }
    }
    let of = |(name, _, members): &(&str, Option<usize>, Vec<usize>)| -> Vec<Network> {
        let settings = 0..results.settings.len();
        settings.filter_map(|setting| network(results, name, members, setting)).collect()
    };
    families.iter().flat_map(of).collect()
}

fn network(results: &Results, name: &str, members: &[usize], setting: usize) -> Option<Network> {
    let members: Vec<usize> = members
        .iter()
        .copied()
        .filter(|&case| (0..results.contestants.len()).any(|id| results.row(case, setting, id).is_some()))
        .collect();
    let total = |contestant: usize| {
        let times = members.iter().filter_map(|&case| {
            Some(results.timed(case, setting, contestant)?.1 * results.cases[case].count as f64)
        });
        let times: Vec<f64> = times.collect();
        (times.len(), (times.len() == members.len()).then(|| times.iter().sum::<f64>()))
    };
    let base = results.baseline.and_then(|base| total(base).1);
    let mut engines: Vec<Total> = (0..results.contestants.len())
        .map(|contestant| {
            let (layers, ns) = total(contestant);
            Total { contestant, layers, ns, over_baseline: ns.and_then(|ns| Some(base? / ns)) }
        })
        .filter(|total| total.layers > 0)
        .collect();
    engines.sort_by(|a, b| {
        let key = |total: &Total| total.ns.unwrap_or(f64::INFINITY);
        key(a).total_cmp(&key(b)).then(b.layers.cmp(&a.layers))
    });
    let mut batches: Vec<usize> =
        members.iter().filter_map(|&case| results.cases[case].spec.map(|spec| spec.batch())).collect();
    batches.sort_unstable();
    batches.dedup();
    // A file of the user's may have the name of a network that the program carries.
    let ran: HashSet<&str> = members.iter().map(|&case| results.cases[case].layer.as_str()).collect();
    let mut known = layers::network(name).unwrap_or_default();
    if !ran.iter().all(|ran| known.iter().any(|layer| layer.name == *ran)) {
        known.clear();
    }
    Some(Network {
        name: name.to_owned(),
        setting,
        batch: if let [batch] = batches[..] { Some(batch) } else { None },
        layers: members.len(),
        missing: known
            .into_iter()
            .map(|layer| layer.name)
            .filter(|layer| !ran.contains(layer.as_str()))
            .collect(),
        engines: if engines.is_empty() { return None } else { engines },
    })
}
