//! What each operator is as a layer.

use kernels::{Activation, Padding};

use super::attributes::{float, int};
use super::constants::{floats, truth};
use super::convolutions::shapes;
use super::proto::{Node, Tensor};
use super::read::{Flow, Made, Reader};
use super::value::{Axis, Numbers, Op, Stop, shown};
use super::window::Window;
use crate::layer::{BatchNorm, Conv, Layer, Linear, Lrn, Pool};

/// The operators that are read, for errors.
const SUPPORTED: &str = "Add, AveragePool, BatchNormalization, Clip, Constant, Conv, Dropout, Flatten, Gemm, \
                         GlobalAveragePool, Identity, LRN, MatMul, MaxPool, Relu, Reshape, Softmax, Squeeze, Sum, Unsqueeze";

/// What a node is that reads a value of the network.
pub(super) fn make<'a>(reader: &Reader<'a>, node: &'a Node) -> Result<Made<'a>, Stop> {
    let at = At { reader, node, op: reader.values.op(node) };
    match node.op_type.as_str() {
        "Shape" => Ok(Made::Numbers),
        "Identity" => at.flow(0).map(Made::Same),
        "Conv" => at.conv(),
        "MaxPool" => at.pool(true).map(Layer::MaxPool).and_then(|layer| at.plain(layer)),
        "AveragePool" => {
            let counts = int(node, "count_include_pad").unwrap_or(0) != 0;
            at.pool(counts).map(Layer::AvgPool).and_then(|layer| at.plain(layer))
        }
        "GlobalAveragePool" => at.plain(Layer::GlobalAvgPool),
        "Gemm" => at.gemm(),
        "MatMul" => at.matmul(),
        "Relu" => at.plain(Layer::RELU),
        "Clip" => at.clip(),
        "BatchNormalization" => at.batch_norm(),
        "LRN" => at.plain(at.lrn()?),
        "Softmax" => at.plain(Layer::Softmax { axis: at.softmax_axis()? }),
        "Flatten" | "Reshape" | "Squeeze" | "Unsqueeze" => at.reshape(),
        "Add" | "Sum" => at.add(),
        "Dropout" => at.dropout(),
        _ => Err(format!("the operator is not supported; supported are {SUPPORTED}").into()),
    }
}

/// A node, and what is known of what it reads.
struct At<'r, 'a> {
    reader: &'r Reader<'a>,
    node: &'a Node,
    op: Op<'r>,
}

impl<'a> At<'_, 'a> {
    /// An input that is a value of the network.
    fn flow(&self, index: usize) -> Result<Flow, Stop> {
        let name = self.node.input.get(index).map_or("", String::as_str);
        let constant =
            || format!("its input `{}` must be a value of the network, not a constant", shown(name));
        self.reader.flows.get(name).copied().ok_or_else(|| constant().into())
    }

    /// A constant of the file that is an input.
    fn tensor(&self, index: usize) -> Result<&'a Tensor, Stop> {
        let name = self.node.input.get(index).map_or("", String::as_str);
        let missing = || match name {
            "" => format!("it has no input {index}"),
            name => format!("its input `{}` must be a constant of the file", shown(name)),
        };
        self.reader.constants.get(name).copied().ok_or_else(|| missing().into())
    }

    /// The constant of an input, which must have these extents.
    fn values(&self, index: usize, extents: &[usize]) -> Result<Vec<f32>, Stop> {
        let tensor = self.tensor(index)?;
        if !extents.iter().map(|&n| n as i64).eq(tensor.dims.iter().copied()) {
            let (name, dims) = (shown(&tensor.name), shown_dims(tensor));
            return Err(
                format!("its constant `{name}` is of shape {dims}, but must be of {extents:?}").into()
            );
        }
        Ok(floats(tensor)?)
    }

    /// Whether an input is there.
    fn has(&self, index: usize) -> bool {
        self.node.input.get(index).is_some_and(|name| !name.is_empty())
    }

    /// A single number, by input (of newer versions) or attribute.
    fn number(&self, index: usize, name: &str) -> Result<Option<f32>, Stop> {
        if !self.has(index) {
            return Ok(float(self.node, name));
        }
        match self.op.value(index)?.numbers.as_ref() {
            Some(Numbers::Floats(values)) if values.len() == 1 => Ok(Some(values[0])),
            _ => {
                let name = self.op.input_name(index);
                Err(format!("its {name} (input {index}) must be a constant of one float32").into())
            }
        }
    }

    /// A layer without weights that keeps the number of axes.
    fn plain(&self, layer: Layer) -> Result<Made<'a>, Stop> {
        let flow = self.flow(0)?;
        Ok(Made::Layer { layer, inputs: vec![flow.value], weights: vec![], axes: flow.axes, also: None })
    }

    fn conv(&self) -> Result<Made<'a>, Stop> {
        let flow = self.flow(0)?;
        let spec = shapes(&self.op)?.spec?;
        let outputs = spec.out_channels();
        let mut weights = vec![floats(self.tensor(1)?)?];
        let mut also = None;
        if self.has(2) {
            weights.push(self.values(2, &[outputs])?);
        } else if let Some((sum, bias)) = self.bias_behind(outputs, flow.axes)? {
            weights.push(bias);
            also = Some(sum);
        }
        let layer = Conv {
            in_channels: spec.in_channels(),
            out_channels: outputs,
            kernel: spec.kernel(),
            stride: spec.stride(),
            padding: spec.padding(),
            dilation: spec.dilation(),
            groups: spec.groups(),
            bias: weights.len() == 2,
            algorithm: None,
        };
        Ok(Made::Layer { layer: layer.into(), inputs: vec![flow.value], weights, axes: flow.axes, also })
    }

    /// The sum with one number for each channel that follows this node, if nothing else reads what it gives.
    fn bias_behind(&self, channels: usize, axes: usize) -> Result<Option<(&'a str, Vec<f32>)>, Stop> {
        let Some(own) = self.node.output.first() else { return Ok(None) };
        let readers = self.reader.readers.get(own.as_str()).map_or(&[][..], Vec::as_slice);
        let &[sum] = readers else { return Ok(None) };
        let (true, [a, b], [output]) = (
            sum.op_type == "Add" && sum.domain == self.node.domain,
            sum.input.as_slice(),
            sum.output.as_slice(),
        ) else {
            return Ok(None);
        };
        let other = if a == own { b } else { a };
        let Some(tensor) = self.reader.constants.get(other.as_str()) else { return Ok(None) };
        // Shapes are fitted from the end; the channels are the second of all axes.
        let behind = axes - 2;
        let Some(place) = tensor.dims.len().checked_sub(behind + 1) else { return Ok(None) };
        let fits = |(i, &n): (usize, &i64)| n == if i == place { channels as i64 } else { 1 };
        if place > 1 || !tensor.dims.iter().enumerate().all(fits) || own == self.reader.output {
            return Ok(None);
        }
        Ok(Some((output, floats(tensor)?)))
    }

    fn pool(&self, count_include_pad: bool) -> Result<Pool, Stop> {
        let flow = self.flow(0)?;
        let Some(axes @ 1..) = flow.axes.checked_sub(2) else {
            return Err("its input is a row of features, but must have 3 or 4 axes".into());
        };
        let window = Window::of_attributes(self.node, axes)?;
        let [_, height, width] = self.reader.net.shape(flow.value).volume();
        // One with a single axis is a row.
        let sizes = &[height, width][2 - axes..];
        let pads: Vec<[usize; 2]> =
            sizes.iter().enumerate().map(|(axis, &n)| window.padding(axis, n)).collect();
        let image = |values: &[usize]| match *values {
            [height, width] => [height, width],
            _ => [1, values[0]],
        };
        let [[top, bottom], [left, right]] = match *pads.as_slice() {
            [vertical, horizontal] => [vertical, horizontal],
            _ => [[0; 2], pads[0]],
        };
        Ok(Pool {
            window: image(&window.kernel),
            stride: image(&window.stride),
            padding: Padding { top, left, bottom, right },
            dilation: image(&window.dilation),
            ceil_mode: int(self.node, "ceil_mode").unwrap_or(0) != 0,
            count_include_pad,
        })
    }

    /// Features of an input that must be a row of them for each image.
    fn features(&self) -> Result<(Flow, usize), Stop> {
        let flow = self.flow(0)?;
        match flow.axes {
            2 => Ok((flow, self.reader.net.shape(flow.value).len())),
            axes => {
                Err(format!("its input `{}` has {axes} axes, but must have 2", self.op.input_name(0)).into())
            }
        }
    }

    /// A constant matrix that an input is, with its extents.
    fn matrix(&self, index: usize) -> Result<(Vec<f32>, [usize; 2]), Stop> {
        let tensor = self.tensor(index)?;
        match tensor.dims.as_slice() {
            &[rows, columns] if rows > 0 && columns > 0 => {
                Ok((floats(tensor)?, [rows, columns].map(|n| n as usize)))
            }
            _ => {
                let (name, dims) = (shown(&tensor.name), shown_dims(tensor));
                Err(format!("its constant `{name}` is of shape {dims}, but must be a matrix").into())
            }
        }
    }

    fn gemm(&self) -> Result<Made<'a>, Stop> {
        let is_transposed = |name: &str| int(self.node, name).unwrap_or(0) != 0;
        if is_transposed("transA") {
            return Err("its transA makes columns of images, which is not supported".into());
        }
        let (flow, inputs) = self.features()?;
        let (mut weights, extents) = self.matrix(1)?;
        let [alpha, beta] = ["alpha", "beta"].map(|name| float(self.node, name).unwrap_or(1.0));
        let outputs = if is_transposed("transB") { extents[0] } else { extents[1] };
        if !is_transposed("transB") {
            weights = transposed(&weights, extents);
        }
        self.check_inputs(inputs, weights.len() / outputs)?;
        weights.iter_mut().for_each(|w| *w *= alpha);
        let mut bias = vec![0.0; outputs];
        if self.has(2) {
            let tensor = self.tensor(2)?;
            let summands = floats(tensor)?;
            let columns = match tensor.dims.as_slice() {
                [] | [1] | [1, 1] => 1,
                &[n] | &[1, n] if n == outputs as i64 => outputs,
                _ => {
                    let (name, dims) = (shown(&tensor.name), shown_dims(tensor));
                    return Err(format!(
                        "its constant `{name}` is of shape {dims}, but must be of [{outputs}]"
                    )
                    .into());
                }
            };
            bias.iter_mut().enumerate().for_each(|(i, b)| *b = beta * summands[i % columns]);
        }
        self.linear(flow, [inputs, outputs], vec![weights, bias], None)
    }

    fn matmul(&self) -> Result<Made<'a>, Stop> {
        let (flow, inputs) = self.features()?;
        let (weights, extents) = self.matrix(1)?;
        let outputs = extents[1];
        self.check_inputs(inputs, extents[0])?;
        let (also, bias) = match self.bias_behind(outputs, flow.axes)? {
            Some((sum, bias)) => (Some(sum), bias),
            None => (None, vec![0.0; outputs]),
        };
        self.linear(flow, [inputs, outputs], vec![transposed(&weights, extents), bias], also)
    }

    fn check_inputs(&self, given: usize, wanted: usize) -> Result<(), Stop> {
        if given == wanted {
            return Ok(());
        }
        let name = self.op.input_name(0);
        Err(format!("its input `{name}` has {given} features, but its matrix is for {wanted}").into())
    }

    fn linear(
        &self,
        flow: Flow,
        [inputs, outputs]: [usize; 2],
        weights: Vec<Vec<f32>>,
        also: Option<&'a str>,
    ) -> Result<Made<'a>, Stop> {
        let layer = Linear::new(inputs, outputs).into();
        Ok(Made::Layer { layer, inputs: vec![flow.value], weights, axes: 2, also })
    }

    fn clip(&self) -> Result<Made<'a>, Stop> {
        let min = self.number(1, "min")?.unwrap_or(f32::NEG_INFINITY);
        let max = self.number(2, "max")?.unwrap_or(f32::INFINITY);
        self.plain(Layer::Activation(Activation::Clamp { min, max }))
    }

    fn batch_norm(&self) -> Result<Made<'a>, Stop> {
        if int(self.node, "training_mode").unwrap_or(0) != 0 {
            return Err("its training_mode is not supported: networks are read to be run".into());
        }
        if int(self.node, "spatial") == Some(0) {
            return Err("statistics for each pixel (spatial = 0) are not supported".into());
        }
        let flow = self.flow(0)?;
        let [channels, ..] = self.reader.net.shape(flow.value).volume();
        let weights = (1..5).map(|index| self.values(index, &[channels])).collect::<Result<_, _>>()?;
        let norm = BatchNorm {
            channels,
            epsilon: float(self.node, "epsilon").unwrap_or(1e-5),
            // ONNX counts what stays.
            momentum: 1.0 - float(self.node, "momentum").unwrap_or(0.9),
        };
        Ok(Made::Layer { layer: norm.into(), inputs: vec![flow.value], weights, axes: flow.axes, also: None })
    }

    fn lrn(&self) -> Result<Layer, Stop> {
        let size = int(self.node, "size")
            .and_then(|n| usize::try_from(n).ok())
            .ok_or("its size must be a number of at least 1")?;
        let or = |name: &str, default: f32| float(self.node, name).unwrap_or(default);
        Ok(Lrn { size, alpha: or("alpha", 1e-4), beta: or("beta", 0.75), k: or("bias", 1.0) }.into())
    }

    /// The axis of a softmax, counted without the batch.
    fn softmax_axis(&self) -> Result<usize, Stop> {
        let flow = self.flow(0)?;
        // Before version 13 all axes from this one on are taken together.
        let together = self.reader.version < 13;
        let axis = self.op.axis(if together { 1 } else { -1 }, flow.axes)?;
        let Some(axis) = axis.checked_sub(1) else {
            return Err("its axis is that of the batch, which is not supported".into());
        };
        let extents = self.reader.net.shape(flow.value).dims();
        // One spatial axis is the second of an image's.
        let axis = if flow.axes == 3 { 2 * axis } else { axis };
        if together && extents[axis + 1..].iter().any(|&n| n > 1) {
            return Err("a softmax of several axes together is not supported".into());
        }
        Ok(axis)
    }

    /// A row of features for each image, or nothing new.
    fn reshape(&self) -> Result<Made<'a>, Stop> {
        let flow = self.flow(0)?;
        let given = self.op.value(0)?.shape.as_slice();
        let made = self.node.output.first().and_then(|name| self.reader.values.get(name));
        let made = made.ok_or("what shape it makes is not known before it runs")?.shape.as_slice();
        let features = self.reader.net.shape(flow.value).len();
        // With batches of 1 the shape alone does not tell.
        let keeps_batch = self.node.op_type != "Flatten" || self.op.axis(1, given.len().max(2))? == 1;
        if made == given && self.node.op_type != "Flatten" {
            return Ok(Made::Same(flow));
        }
        match (given, made) {
            (&[batch, ..], &[same, Some(all)]) if batch == same && all == features && keeps_batch => {
                if flow.axes == 2 {
                    return Ok(Made::Same(flow));
                }
                let inputs = vec![flow.value];
                Ok(Made::Layer { layer: Layer::Flatten, inputs, weights: vec![], axes: 2, also: None })
            }
            _ => {
                let [given, made] = [given, made].map(shown_shape);
                Err(format!("makes {made} of {given}; supported is a row of features for each image").into())
            }
        }
    }

    fn add(&self) -> Result<Made<'a>, Stop> {
        if self.node.input.len() != 2 {
            return Err(format!("it adds {} values; supported are 2", self.node.input.len()).into());
        }
        let flows = match [self.flow(0), self.flow(1)] {
            [Ok(a), Ok(b)] => [a, b],
            _ => {
                return Err(
                    "it adds a constant; supported are sums of two values of the network, and one number \
                            for each channel directly behind Conv or MatMul"
                        .into(),
                );
            }
        };
        if flows[0].axes != flows[1].axes {
            return Err("its inputs differ in their numbers of axes, which is not supported".into());
        }
        let inputs = flows.map(|flow| flow.value).to_vec();
        Ok(Made::Layer { layer: Layer::Add, inputs, weights: vec![], axes: flows[0].axes, also: None })
    }

    fn dropout(&self) -> Result<Made<'a>, Stop> {
        if self.has(2) && truth(self.tensor(2)?) != Some(false) {
            return Err("its training_mode is not supported: networks are read to be run".into());
        }
        self.plain(Layer::Dropout(self.number(1, "ratio")?.unwrap_or(0.5)))
    }
}

/// The matrix with rows and columns exchanged.
fn transposed(values: &[f32], [rows, columns]: [usize; 2]) -> Vec<f32> {
    (0..values.len()).map(|i| values[i % rows * columns + i / rows]).collect()
}

fn shown_dims(tensor: &Tensor) -> String {
    format!("{:?}", &tensor.dims[..tensor.dims.len().min(16)])
}

fn shown_shape(shape: &[Axis]) -> String {
    let extents: Vec<String> =
        shape.iter().map(|axis| axis.map_or("?".to_owned(), |n| n.to_string())).collect();
    format!("[{}]", extents.join(", "))
}
