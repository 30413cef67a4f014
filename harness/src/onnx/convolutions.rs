//! The convolutions of a model.

use kernels::{ConvSpec, Padding};
use prost::Message;

use super::attributes::{int, ints};
use super::infer::{Values, order, title};
use super::proto::{Graph, Model, Node};
use super::value::{Axis, Op, Stop, Value};
use super::window::{Window, numbers};
use super::wire;
use crate::layers::{Collection, Layer, LayerError, Same, Skipped, token};
use crate::machine;

/// The first byte of a model, the tag of its version: text does not begin with it.
pub const FIRST_BYTE: u8 = 0x08;

/// The layers of a model: its convolutions, those of one shape counted as one, and those that cannot be measured.
///
/// Shapes follow from the model's inputs through the operators of feed-forward networks, and from what the file
/// states; a batch without a size is 1. Weights are not looked at, only their shapes: they may lie in another
/// file. `source` is the file's name, for errors and for the network's name.
///
/// # Errors
/// When the bytes are no model; when a convolution's shape is not known, with the node where knowledge ends; when
/// there is no convolution.
pub fn layers(bytes: &[u8], source: &str) -> Result<(Vec<Layer>, Vec<Skipped>), LayerError> {
    let error = |what: String| LayerError::whole(source, what);
    let graph = decode(bytes).map_err(error)?;
    let mut collection = Collection::new(source, Same::Spec);
    let mut skipped = Vec::new();
    let mut values = Values::of(&graph);
    for node in order(&graph).map_err(error)? {
        let mut skip = |reason: &str| {
            skipped.push(Skipped { name: name(node), reason: reason.to_owned() });
        };
        if !is_known_domain(node) {
            values.infer(node);
            continue;
        }
        match node.op_type.as_str() {
            "Conv" | "FusedConv" => {
                let convolution = convolution(&values.op(node)).map_err(|stop| error(refusal(node, stop)))?;
                match convolution.spec {
                    Ok(spec) => collection.add(&name(node), 1, spec),
                    Err(reason) => skip(&reason),
                }
                values.set(node, Ok(vec![Value::of_shape(convolution.output)]));
                continue;
            }
            "ConvTranspose" => skip("is a transposed convolution"),
            "QLinearConv" | "ConvInteger" => skip("computes with 8-bit integers, not f32"),
            "DeformConv" => skip("is a deformable convolution"),
            "If" | "Loop" | "Scan" => skip("is control flow, whose inside is not looked at"),
            _ => {}
        }
        values.infer(node);
    }
    let layers = collection.into_layers();
    match (layers.is_empty(), skipped.first()) {
        (false, _) => Ok((layers, skipped)),
        (true, None) => Err(error("no convolution in it".to_owned())),
        (true, Some(Skipped { name, reason })) => {
            let count = skipped.len();
            Err(error(format!(
                "no convolution in it that can be measured ({count} skipped: `{name}` {reason})"
            )))
        }
    }
}

fn decode(bytes: &[u8]) -> Result<Graph, String> {
    const NO_MODEL: &str = "is no ONNX model, or is cut off";
    let needed = wire::decoded_size(bytes).ok_or(NO_MODEL)?;
    let available = machine::available_memory();
    if needed > available {
        let [needed, available] = [needed, available].map(machine::bytes);
        return Err(format!("needs up to {needed} to be read, but only {available} of memory can be had"));
    }
    let model = Model::decode(bytes).map_err(|_| NO_MODEL)?;
    match model.graph {
        Some(graph) if !graph.node.is_empty() => Ok(graph),
        Some(_) => Err("is an ONNX model without nodes, or no ONNX model".to_owned()),
        None => Err("is no ONNX model: it has no graph".to_owned()),
    }
}

/// Whether an operator is one of ONNX's own, or of ONNX Runtime's additions to them.
pub(super) fn is_known_domain(node: &Node) -> bool {
    matches!(node.domain.as_str(), "" | "ai.onnx" | "com.microsoft")
}

fn name(node: &Node) -> String {
    let name = if node.name.is_empty() { node.output.first() } else { Some(&node.name) };
    match name.map(|name| token(name)) {
        Some(name) if !name.is_empty() => name,
        _ => node.op_type.clone(),
    }
}

fn refusal(node: &Node, stop: Stop) -> String {
    match stop {
        Stop::Here(what) => format!("convolution {}: {what}", title(node)),
        Stop::Before(why) => {
            format!("convolution {}: the shape of its input is not known: {why}", title(node))
        }
    }
}

/// A convolution, if it can be a layer, and the shape of its output in any case.
struct Convolution {
    spec: Result<ConvSpec, String>,
    output: Vec<Axis>,
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

fn convolution(op: &Op) -> Result<Convolution, Stop> {
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
            let reason = format!("has {axes} spatial axes, but only 1 or 2 can be measured");
            return Ok(Convolution { spec: Err(reason), output });
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
    Ok(Convolution { spec: Ok(spec), output })
}
