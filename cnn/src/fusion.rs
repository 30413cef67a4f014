//! Which layers inference computes in one pass with the convolution or linear layer before them.

use kernels::Activation;

use crate::graph::{Graph, Value};
use crate::layer::Layer;

/// Values by the layer that really makes them, and who reads them.
pub(crate) struct Readers {
    /// For each value the one whose memory it is: layers that change nothing hand theirs on.
    root: Vec<Value>,
    /// For each value the nodes that read it, or it under another name.
    nodes: Vec<Vec<usize>>,
}

impl Readers {
    pub(crate) fn new(graph: &Graph) -> Self {
        let mut root = vec![Graph::INPUT];
        let mut nodes = vec![Vec::new()];
        for (i, node) in graph.nodes().iter().enumerate() {
            let value = Value(i + 1);
            let inputs: Vec<Value> = node.inputs().iter().map(|input| root[input.0]).collect();
            let changes_nothing = matches!(node.layer(), Layer::Flatten | Layer::Dropout(_));
            // The network's input is the caller's memory: it is copied, not handed on.
            let handed_on = changes_nothing && inputs[0] != Graph::INPUT;
            root.push(if handed_on { inputs[0] } else { value });
            nodes.push(Vec::new());
            if !handed_on {
                inputs.iter().for_each(|input| nodes[input.0].push(i));
            }
        }
        Readers { root, nodes }
    }

    /// The value whose memory this is.
    pub(crate) fn root(&self, value: Value) -> Value {
        self.root[value.0]
    }

    /// The nodes that read a root.
    pub(crate) fn of(&self, root: Value) -> &[usize] {
        &self.nodes[root.0]
    }
}

/// What a convolution or linear layer does beside its sums.
#[derive(Debug, Default)]
pub(crate) struct Fused {
    /// The node of a batch normalisation whose factors go into the weights.
    pub(crate) norm: Option<usize>,
    /// What the sums are added to, in its own memory.
    pub(crate) sum: Option<Value>,
    /// What comes last.
    pub(crate) activation: Option<Activation>,
    /// The nodes that are done with.
    pub(crate) nodes: Vec<usize>,
}

/// What can follow node `first` (a convolution or linear layer) in one pass: a batch normalisation, the sum with a
/// value that is there already and that nobody reads later, an activation; in this order, each if the one before
/// is its only reader.
pub(crate) fn fuse(graph: &Graph, readers: &Readers, first: usize) -> Fused {
    let mut fused = Fused::default();
    let mut value = Value(first + 1);
    let output = readers.root(graph.last());
    while let [next] = readers.of(value)
        && value != output
        && graph.nodes()[*next].shape() == graph.shape(value)
    {
        let next = *next;
        let node = &graph.nodes()[next];
        match node.layer() {
            Layer::BatchNorm(_) if fused.norm.is_none() && fused.sum.is_none() => fused.norm = Some(next),
            Layer::Add if fused.sum.is_none() => {
                let inputs = [0, 1].map(|i| readers.root(node.inputs()[i]));
                let other = if inputs[0] == value { inputs[1] } else { inputs[0] };
                // Made before, read before, and memory of our own: then it may be changed.
                let there = other != Graph::INPUT && other.0 <= first && other != output;
                let read = readers.of(other).iter().all(|&reader| reader < first || reader == next);
                if !(there && read) {
                    break;
                }
                fused.sum = Some(other);
            }
            Layer::Activation(activation) => {
                fused.activation = Some(*activation);
                fused.nodes.push(next);
                break;
            }
            _ => break,
        }
        fused.nodes.push(next);
        value = Value(next + 1);
    }
    fused
}
