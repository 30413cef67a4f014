//! The convolutions of a model.

use kernels::{ConvSpec, Padding};
use prost::bytes::Bytes;

use super::attributes::{int, ints};
use super::decode;
use super::infer::{Values, order, title};
use super::proto::Node;
use super::value::{Axis, Op, Stop};
use super::window::{Window, numbers};
use crate::Error;

/// A convolution of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What the file calls its node, or the node's output; may be empty.
    pub name: String,
    /// Its operator.
    pub operator: String,
    /// Its shape, or why it cannot be computed here.
    pub spec: Result<ConvSpec, String>,
}

/// The convolutions of a model, whatever else is in it.
///
/// Shapes follow from the model's inputs through the operators of feed-forward networks, and from what the file
/// states; a batch without a size is 1. Weights are not looked at, only their shapes: they may lie in another
/// file.
///
/// # Errors
/// When the bytes are no model; when a convolution's shape is not known, with the node where knowledge ends.
pub fn convolutions(bytes: &[u8]) -> Result<Vec<Found>, Error> {
    find(bytes).map_err(Error::Model)
}

fn find(bytes: &[u8]) -> Result<Vec<Found>, String> {
    let graph = decode(Bytes::copy_from_slice(bytes))?.graph.unwrap_or_default();
    let mut found = Vec::new();
    let mut values = Values::of(&graph);
    for node in order(&graph)? {
        let mut add = |spec| found.push(Found { name: name(node), operator: node.op_type.clone(), spec });
        let mut skip = |reason: &str| add(Err(reason.to_owned()));
        match node.op_type.as_str() {
            _ if !is_known_domain(node) => {}
            "Conv" | "FusedConv" => add(shapes(&values.op(node)).map_err(|stop| refusal(node, stop))?.spec),
            "ConvTranspose" => skip("is a transposed convolution"),
            "QLinearConv" | "ConvInteger" => skip("computes with 8-bit integers, not f32"),
            "DeformConv" => skip("is a deformable convolution"),
            "If" | "Loop" | "Scan" => skip("is control flow, whose inside is not looked at"),
            _ => {}
        }
        values.infer(node);
    }
    Ok(found)
}

/// Whether an operator is one of ONNX's own, or of ONNX Runtime's additions to them.
pub(super) fn is_known_domain(node: &Node) -> bool {
    matches!(node.domain.as_str(), "" | "ai.onnx" | "com.microsoft")
}

fn name(node: &Node) -> String {
    let name = if node.name.is_empty() { node.output.first() } else { Some(&node.name) };
    name.cloned().unwrap_or_default()
}

fn refusal(node: &Node, stop: Stop) -> String {
    match stop {
        Stop::Here(what) => format!("convolution {}: {what}", title(node)),
        Stop::Before(why) => {
            format!("convolution {}: the shape of its input is not known: {why}", title(node))
        }
    }
}

/// A convolution, if it can be computed here, and the shape of its output in any case.
pub(super) struct Shapes {
    pub(super) spec: Result<ConvSpec, String>,
    pub(super) output: Vec<Axis>,
}

/// One of the two axes of a layer.
struct Side {
    input: usize,
    kernel: usize,
    stride: usize,
    dilation: usize,
    padding: [usize; 2],
}

impl Side {
    const ONE: Self = Side { input: 1, kernel: 1, stride: 1, dilation: 1, padding: [0, 0] };

    fn of(window: &Window, axis: usize, input: usize) -> Self {
        Side {
            input,
            kernel: window.kernel[axis],
            stride: window.stride[axis],
            dilation: window.dilation[axis],
            padding: window.padding(axis, input),
        }
    }
}

/// What the shapes of a convolution's input and weights make of its attributes.
pub(super) fn shapes(op: &Op) -> Result<Shapes, Stop> {
    let (input, weights) = (op.value(0)?, op.value(1)?);
    let unknown = |what: &str, name: String| Stop::Here(format!("{what} of `{name}` is not known"));
    let [batch, channels, sizes @ ..] = input.shape.as_slice() else {
        return Err(format!(
            "its input `{}` has {} axes, but must have 3 or more",
            op.input_name(0),
            input.shape.len()
        )
        .into());
    };
    if weights.shape.len() != input.shape.len() {
        return Err(format!(
            "its weights have {} axes, but its input `{}` has {}",
            weights.shape.len(),
            op.input_name(0),
            input.shape.len()
        )
        .into());
    }
    let known = |shape: &[Axis]| shape.iter().copied().collect::<Option<Vec<usize>>>();
    let weights = known(&weights.shape).ok_or_else(|| unknown("the shape", op.input_name(1)))?;
    let [filters, group_channels, kernel @ ..] = weights.as_slice() else {
        return Err("its weights have too few axes".into());
    };
    let channels = channels.ok_or_else(|| unknown("the number of channels", op.input_name(0)))?;
    let sizes = known(sizes).ok_or_else(|| unknown("the height or width", op.input_name(0)))?;
    if let Some(stated) = ints(op.node, "kernel_shape") {
        let stated = numbers("kernel_shape", stated, kernel.len(), 1)?;
        if stated != kernel {
            return Err(format!("its kernel_shape is {stated:?}, but its weights are of {kernel:?}").into());
        }
    }
    let groups = match int(op.node, "group") {
        None => 1,
        Some(groups) => numbers("group", &[groups], 1, 1)?[0],
    };
    if group_channels.checked_mul(groups) != Some(channels) {
        return Err(format!(
            "its input `{}` has {channels} channels, but its weights are for {group_channels} in {groups} groups",
            op.input_name(0)
        )
        .into());
    }
    let window = Window::of(op.node, kernel)?;
    let mut output = vec![*batch, Some(*filters)];
    for (axis, &size) in sizes.iter().enumerate() {
        output.push(Some(window.output(axis, size)?));
    }
    // One with a single axis is a row.
    let (height, width) = match sizes.len() {
        1 => (Side::ONE, Side::of(&window, 0, sizes[0])),
        2 => (Side::of(&window, 0, sizes[0]), Side::of(&window, 1, sizes[1])),
        axes => {
            let reason = format!("has {axes} spatial axes, but only 1 or 2 are supported");
            return Ok(Shapes { spec: Err(reason), output });
        }
    };
    let spec = ConvSpec::builder()
        .batch(batch.unwrap_or(1))
        .in_channels(channels)
        .input_size(height.input, width.input)
        .out_channels(*filters)
        .kernel(height.kernel, width.kernel)
        .stride(height.stride, width.stride)
        .dilation(height.dilation, width.dilation)
        .padding(Padding {
            top: height.padding[0],
            left: width.padding[0],
            bottom: height.padding[1],
            right: width.padding[1],
        })
        .groups(groups)
        .build()
        .map_err(|error| error.to_string())?;
    Ok(Shapes { spec: Ok(spec), output })
}
