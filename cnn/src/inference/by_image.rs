//! Which layers of a batch are computed image by image.
//!
//! A batch goes through a layer as a whole, or one image after the other goes through many layers. In the first way
//! weights are read once for all images, but the maps of all of them are written to memory and read again; in the
//! second an image's maps stay in the caches, and threads take images of their own, which share nothing. Early layers
//! have large maps and few weights, late ones the opposite: so the first layers go image by image, up to where this
//! saves most.

use std::mem;

use crate::fusion::{Fused, Readers, fuse};
use crate::graph::{Graph, Value};
use crate::layer::Layer;

/// A layer and what is computed along with it.
pub(super) struct Group {
    pub(super) first: usize,
    pub(super) fused: Fused,
}

impl Group {
    /// The nodes.
    fn nodes(&self) -> impl Iterator<Item = usize> {
        [self.first].into_iter().chain(self.fused.nodes.iter().copied())
    }
}

/// The steps' layers, in order.
pub(super) fn groups(graph: &Graph, readers: &Readers, fusing: bool) -> Vec<Group> {
    let mut done = vec![false; graph.nodes().len()];
    let mut groups = Vec::new();
    for (first, node) in graph.nodes().iter().enumerate() {
        let handed_on = readers.root(Value(first + 1)) != Value(first + 1);
        if handed_on || mem::replace(&mut done[first], true) {
            continue;
        }
        let sums = matches!(node.layer(), Layer::Conv(_) | Layer::Linear(_));
        let fused = if sums && fusing { fuse(graph, readers, first) } else { Fused::default() };
        // A layer that is computed along with an earlier one waits for no step of its own.
        fused.nodes.iter().for_each(|&node| done[node] = true);
        groups.push(Group { first, fused });
    }
    groups
}

/// How many of the first groups go image by image, and the only value that the others read of them; `None` where
/// all go as a whole batch.
pub(super) fn by_image(graph: &Graph, readers: &Readers, groups: &[Group]) -> Option<(usize, Value)> {
    let mut best = None;
    let (mut saved, mut most) = (0i128, 0);
    for (i, group) in groups.iter().enumerate() {
        saved += gain(graph, group);
        if saved > most
            && let Some(value) = only_value(graph, readers, groups, i + 1)
        {
            (best, most) = (Some((i + 1, value)), saved);
        }
    }
    best
}

/// Values that are not moved between memory and caches for each image, if a group goes image by image, less the weights
/// that are moved again. A map is written, for which its memory is read first, and read again; weights are only read.
fn gain(graph: &Graph, group: &Group) -> i128 {
    let len = |value: Value| graph.shape(value).len() as i128;
    let first = &graph.nodes()[group.first];
    let read: i128 = first.inputs().iter().map(|&input| len(input)).sum();
    let weights = group.nodes().flat_map(|node| graph.nodes()[node].parameters());
    let weights: i128 = weights.map(|place| graph.parameters()[place].len() as i128).sum();
    3 * (read + len(Value(group.first + 1))) - weights
}

/// The only value of the first groups that is read by the others, if there is one and nothing has to change it.
fn only_value(graph: &Graph, readers: &Readers, groups: &[Group], count: usize) -> Option<Value> {
    let (first, rest) = groups.split_at(count);
    let last = readers.root(graph.last());
    if rest.is_empty() {
        return Some(last);
    }
    let made: Vec<Value> = first.iter().flat_map(Group::nodes).map(|node| Value(node + 1)).collect();
    let reads = rest.iter().flat_map(Group::nodes).flat_map(|node| graph.nodes()[node].inputs());
    let mut across =
        reads.map(|&value| readers.root(value)).filter(|v| *v == Graph::INPUT || made.contains(v));
    let value = across.next()?;
    let changed = rest.iter().any(|group| group.fused.sum == Some(value));
    let fits = value != Graph::INPUT && value != last && !changed && across.all(|other| other == value);
    fits.then_some(value)
}

/// Threads that take images of their own: as many as there are, unless too many of them would wait for the last
/// images; then all compute each image together.
pub(super) fn workers(batch: usize, threads: usize) -> usize {
    let rounds = batch.div_ceil(threads);
    // Seven of eight threads have work.
    if 8 * batch >= 7 * rounds * threads { threads } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::networks;

    /// What goes image by image, by the names of the last layers.
    #[test]
    fn networks_are_cut_where_maps_become_small() {
        let cut = |name: &str| {
            let graph = networks::network(name).unwrap();
            let readers = Readers::new(&graph);
            let groups = groups(&graph, &readers, true);
            by_image(&graph, &readers, &groups).map(|(_, value)| graph.name(value).to_owned())
        };
        assert_eq!(cut("vgg16").as_deref(), Some("features.23"));
        assert_eq!(cut("lenet5").as_deref(), Some("s4"));
        assert!(cut("resnet50").unwrap().starts_with("layer3.5."), "{:?}", cut("resnet50"));
        assert!(cut("mobilenet_v2").unwrap().starts_with("features.17."), "{:?}", cut("mobilenet_v2"));
    }

    #[test]
    fn threads_take_images_unless_many_would_wait() {
        let pairs = [(8, 2), (8, 1), (3, 2), (2, 4), (7, 8), (15, 8), (9, 8)];
        assert_eq!(pairs.map(|(batch, threads)| workers(batch, threads)), [2, 1, 1, 1, 8, 8, 1]);
    }
}
