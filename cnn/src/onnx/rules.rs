//! What each operator makes of shapes.

use super::attributes::{float, floats, int, ints, tensor};
use super::convolutions::{self, is_known_domain};
use super::rearrange;
use super::value::{Axis, Numbers, Op, Stop, Value, axis, product};
use super::window::{TOO_LARGE, Window, numbers};

type Outputs = Result<Vec<Value>, Stop>;

/// What is known of a node's outputs; of its first ones, if there are many.
pub(super) fn infer(op: &Op) -> Outputs {
    if !is_known_domain(op.node) {
        return Err("an operator that is not known here".into());
    }
    let one = |value: Result<Value, Stop>| value.map(|value| vec![value]);
    match op.node.op_type.as_str() {
        "Relu"
        | "LeakyRelu"
        | "Elu"
        | "Selu"
        | "Celu"
        | "ThresholdedRelu"
        | "PRelu"
        | "Clip"
        | "Sigmoid"
        | "HardSigmoid"
        | "HardSwish"
        | "Swish"
        | "Mish"
        | "Gelu"
        | "Tanh"
        | "Softplus"
        | "Softsign"
        | "Erf"
        | "Abs"
        | "Neg"
        | "Exp"
        | "Log"
        | "Sqrt"
        | "Reciprocal"
        | "Sign"
        | "Sin"
        | "Cos"
        | "Not"
        | "Round"
        | "IsNaN"
        | "IsInf"
        | "Shrink"
        | "ImageScaler"
        | "Scale"
        | "Affine"
        | "QuickGelu"
        | "FastGelu"
        | "BatchNormalization"
        | "InstanceNormalization"
        | "LayerNormalization"
        | "GroupNormalization"
        | "LpNormalization"
        | "MeanVarianceNormalization"
        | "LRN"
        | "Softmax"
        | "LogSoftmax"
        | "Hardmax"
        | "QuantizeLinear"
        | "DequantizeLinear"
        | "DynamicQuantizeLinear"
        | "Dropout"
        | "CumSum"
        | "Trilu" => one(Ok(Value::of_shape(op.value(0)?.shape.clone()))),
        "Identity" => one(op.value(0).cloned()),
        "Cast" | "CastLike" | "Floor" | "Ceil" => one(converted(op)),
        "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Mod" | "Min" | "Max" | "Sum" | "Mean" | "And" | "Or"
        | "Xor" | "Equal" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual" | "Where" => {
            one(elementwise(op))
        }
        "MaxPool" | "AveragePool" | "LpPool" => pooled(op),
        "GlobalAveragePool" | "GlobalMaxPool" | "GlobalLpPool" => one(globally_pooled(op)),
        "ReduceMean" | "ReduceSum" | "ReduceMax" | "ReduceMin" | "ReduceProd" | "ReduceL1" | "ReduceL2"
        | "ReduceSumSquare" | "ReduceLogSum" | "ReduceLogSumExp" => one(reduced(op)),
        "ArgMax" | "ArgMin" => one(argument(op)),
        "Gemm" => one(gemm(op)),
        "MatMul" => one(matmul(op)),
        "ConvTranspose" => one(transposed_convolution(op)),
        "Conv" | "FusedConv" => one(convolutions::shapes(op).map(|shapes| Value::of_shape(shapes.output))),
        "QLinearConv" => one(convolution(op, 3)),
        "ConvInteger" | "DeformConv" => one(convolution(op, 1)),
        "Resize" | "Upsample" => one(resized(op)),
        "Constant" => one(constant(op)),
        "ConstantOfShape" => one(constant_of_shape(op)),
        "Shape" => one(shape(op)),
        "Concat" => one(rearrange::concat(op)),
        "Split" => rearrange::split(op),
        "Slice" => one(rearrange::slice(op)),
        "Gather" => one(rearrange::gather(op)),
        "Flatten" => one(rearrange::flatten(op)),
        "Reshape" => one(rearrange::reshape(op)),
        "Squeeze" => one(rearrange::squeeze(op)),
        "Unsqueeze" => one(rearrange::unsqueeze(op)),
        "Transpose" => one(rearrange::transpose(op)),
        "Pad" => one(rearrange::pad(op)),
        "Expand" => one(rearrange::expand(op)),
        "Tile" => one(rearrange::tile(op)),
        "DepthToSpace" => one(rearrange::depth_to_space(op)),
        "SpaceToDepth" => one(rearrange::space_to_depth(op)),
        _ => Err("an operator that is not known here".into()),
    }
}

/// Elements that shapes are computed from may be rounded and converted.
fn converted(op: &Op) -> Result<Value, Stop> {
    const FLOAT: i64 = 1;
    const INT32: i64 = 6;
    const INT64: i64 = 7;
    let mut value = op.value(0)?.clone();
    let to = int(op.node, "to");
    value.numbers = match (op.node.op_type.as_str(), value.numbers, to) {
        ("Floor", Some(Numbers::Floats(v)), _) => {
            Some(Numbers::Floats(v.into_iter().map(f32::floor).collect()))
        }
        ("Ceil", Some(Numbers::Floats(v)), _) => {
            Some(Numbers::Floats(v.into_iter().map(f32::ceil).collect()))
        }
        ("Cast", Some(Numbers::Floats(v)), Some(INT32 | INT64)) => {
            Some(Numbers::Ints(v.into_iter().map(|x| x as i64).collect()))
        }
        ("Cast", Some(Numbers::Ints(v)), Some(FLOAT)) => {
            Some(Numbers::Floats(v.into_iter().map(|n| n as f32).collect()))
        }
        ("Cast", same @ Some(Numbers::Floats(_)), Some(FLOAT)) => same,
        ("Cast", same @ Some(Numbers::Ints(_)), Some(INT32 | INT64)) => same,
        _ => None,
    };
    Ok(value)
}

fn elementwise(op: &Op) -> Result<Value, Stop> {
    let values = op.values()?;
    let first = values.first().ok_or("it has no inputs")?;
    // Before version 7 the second input was fitted to the first.
    if int(op.node, "broadcast") == Some(1) {
        return Ok(Value::of_shape(first.shape.clone()));
    }
    let mut shape = Vec::new();
    for value in &values {
        shape = broadcast(&shape, &value.shape)?;
    }
    let numbers = match values.as_slice() {
        [a, b] => arithmetic(op, a, b),
        _ => None,
    };
    Ok(Value { shape, numbers })
}

/// The arithmetic that shapes are computed with.
fn arithmetic(op: &Op, a: &Value, b: &Value) -> Option<Numbers> {
    let whole = |a: i64, b: i64| match op.node.op_type.as_str() {
        "Add" => a.checked_add(b),
        "Sub" => a.checked_sub(b),
        "Mul" => a.checked_mul(b),
        "Div" => a.checked_div(b),
        _ => None,
    };
    let float = |a: f32, b: f32| match op.node.op_type.as_str() {
        "Add" => Some(a + b),
        "Sub" => Some(a - b),
        "Mul" => Some(a * b),
        "Div" => Some(a / b),
        _ => None,
    };
    match (a.numbers.as_ref()?, b.numbers.as_ref()?) {
        (Numbers::Ints(a), Numbers::Ints(b)) => pairwise(a, b, whole).map(Numbers::Ints),
        (Numbers::Floats(a), Numbers::Floats(b)) => pairwise(a, b, float).map(Numbers::Floats),
        _ => None,
    }
}

/// Applies to elements side by side, or to one and each of the others.
fn pairwise<T: Copy>(a: &[T], b: &[T], f: impl Fn(T, T) -> Option<T>) -> Option<Vec<T>> {
    match (a, b) {
        (a, b) if a.len() == b.len() => a.iter().zip(b).map(|(&a, &b)| f(a, b)).collect(),
        (&[a], b) => b.iter().map(|&b| f(a, b)).collect(),
        (a, &[b]) => a.iter().map(|&a| f(a, b)).collect(),
        _ => None,
    }
}

/// The shape to which two are stretched, as NumPy does.
pub(super) fn broadcast(a: &[Axis], b: &[Axis]) -> Result<Vec<Axis>, String> {
    let axes = a.len().max(b.len());
    let from_end = |shape: &[Axis], i: usize| match (i + shape.len()).checked_sub(axes) {
        Some(index) => shape[index],
        None => Some(1),
    };
    let axis = |i: usize| match (from_end(a, i), from_end(b, i)) {
        (Some(a), Some(b)) if a == b || b == 1 => Ok(Some(a)),
        (Some(1), b) => Ok(b),
        (a, Some(1)) => Ok(a),
        (Some(a), Some(b)) => Err(format!("extents {a} and {b} of its inputs do not go together")),
        (Some(n), None) | (None, Some(n)) => Ok(Some(n)),
        (None, None) => Ok(None),
    };
    (0..axes).map(axis).collect()
}

/// Batch and channels of an input, and its spatial axes.
fn spatial(value: &Value) -> Result<(&[Axis], &[Axis]), String> {
    match value.shape.len() {
        0..=2 => Err(format!("its input has {} axes, but must have 3 or more", value.shape.len())),
        _ => Ok(value.shape.split_at(2)),
    }
}

fn pooled(op: &Op) -> Outputs {
    let input = op.value(0)?;
    let (batch, sizes) = spatial(input)?;
    let window = Window::of_attributes(op.node, sizes.len())?;
    let mut shape = batch.to_vec();
    for (axis, size) in sizes.iter().enumerate() {
        shape.push(size.map(|size| window.output(axis, size)).transpose()?);
    }
    // The second output holds where the first's values were.
    Ok(vec![Value::of_shape(shape); 2])
}

fn globally_pooled(op: &Op) -> Result<Value, Stop> {
    let (batch, sizes) = spatial(op.value(0)?)?;
    Ok(Value::of_shape([batch, &vec![Some(1); sizes.len()]].concat()))
}

fn reduced(op: &Op) -> Result<Value, Stop> {
    let input = &op.value(0)?.shape;
    let axes = op.ints_of("axes", 1)?.unwrap_or_default();
    if axes.is_empty() && int(op.node, "noop_with_empty_axes") == Some(1) {
        return Ok(Value::of_shape(input.clone()));
    }
    let mut gone = vec![axes.is_empty(); input.len()];
    for &n in axes {
        gone[axis(n, input.len())?] = true;
    }
    Ok(Value::of_shape(without(input, &gone, int(op.node, "keepdims").unwrap_or(1) != 0)))
}

fn argument(op: &Op) -> Result<Value, Stop> {
    let input = &op.value(0)?.shape;
    let mut gone = vec![false; input.len()];
    gone[op.axis(0, input.len())?] = true;
    Ok(Value::of_shape(without(input, &gone, int(op.node, "keepdims").unwrap_or(1) != 0)))
}

/// A shape with 1 for some axes, or without them.
fn without(shape: &[Axis], gone: &[bool], keep: bool) -> Vec<Axis> {
    let axes = shape.iter().zip(gone);
    axes.filter(|(_, gone)| keep || !**gone).map(|(axis, gone)| if *gone { Some(1) } else { *axis }).collect()
}

fn gemm(op: &Op) -> Result<Value, Stop> {
    let (a, b) = (&op.value(0)?.shape, &op.value(1)?.shape);
    let ([a_rows, a_columns], [b_rows, b_columns]) = (a.as_slice(), b.as_slice()) else {
        return Err("its inputs are no matrices".into());
    };
    let is_transposed = |name: &str| int(op.node, name).unwrap_or(0) != 0;
    let rows = if is_transposed("transA") { a_columns } else { a_rows };
    let columns = if is_transposed("transB") { b_rows } else { b_columns };
    Ok(Value::of_shape(vec![*rows, *columns]))
}

fn matmul(op: &Op) -> Result<Value, Stop> {
    let (a, b) = (&op.value(0)?.shape, &op.value(1)?.shape);
    let shape = match (a.as_slice(), b.as_slice()) {
        ([_], [_]) => Vec::new(),
        ([_], [batch @ .., _, columns]) => [batch, &[*columns]].concat(),
        ([batch @ .., rows, _], [_]) => [batch, &[*rows]].concat(),
        ([a_batch @ .., rows, _], [b_batch @ .., _, columns]) => {
            [broadcast(a_batch, b_batch)?, vec![*rows, *columns]].concat()
        }
        _ => return Err("it multiplies a single number".into()),
    };
    Ok(Value::of_shape(shape))
}

/// Kernel extents of weights, by their input.
fn kernel(op: &Op, weights: usize, axes: usize) -> Result<Vec<usize>, Stop> {
    let shape = &op.value(weights)?.shape;
    let kernel: Option<Vec<usize>> = shape.iter().skip(2).copied().collect();
    match kernel {
        Some(kernel) if kernel.len() == axes => Ok(kernel),
        _ => Err(format!("the shape of `{}` is not that of its weights", op.input_name(weights)).into()),
    }
}

fn convolution(op: &Op, weights: usize) -> Result<Value, Stop> {
    let (batch, sizes) = spatial(op.value(0)?)?;
    let window = Window::of(op.node, &kernel(op, weights, sizes.len())?)?;
    let mut shape = vec![batch[0], op.value(weights)?.shape[0]];
    for (axis, size) in sizes.iter().enumerate() {
        shape.push(size.map(|size| window.output(axis, size)).transpose()?);
    }
    Ok(Value::of_shape(shape))
}

fn transposed_convolution(op: &Op) -> Result<Value, Stop> {
    let (batch, sizes) = spatial(op.value(0)?)?;
    let axes = sizes.len();
    let window = Window::of(op.node, &kernel(op, 1, axes)?)?;
    let groups = int(op.node, "group").map_or(Ok(1), |n| numbers("group", &[n], 1, 1).map(|n| n[0]))?;
    let filters = op.value(1)?.shape[1].and_then(|n| n.checked_mul(groups));
    let mut shape = vec![batch[0], filters];
    if let Some(sizes) = ints(op.node, "output_shape") {
        shape.extend(numbers("output_shape", sizes, axes, 1)?.into_iter().map(Some));
        return Ok(Value::of_shape(shape));
    }
    let more = match ints(op.node, "output_padding") {
        None => vec![0; axes],
        Some(values) => numbers("output_padding", values, axes, 0)?,
    };
    for (axis, size) in sizes.iter().enumerate() {
        shape.push(size.map(|size| window.transposed(axis, size, more[axis])).transpose()?);
    }
    Ok(Value::of_shape(shape))
}

fn resized(op: &Op) -> Result<Value, Stop> {
    let input = &op.value(0)?.shape;
    if ints(op.node, "axes").is_some() {
        return Err("a resizing of some axes only is not followed".into());
    }
    if let Some(sizes) = op.optional(3)?.and_then(Value::ints) {
        let sizes = numbers("sizes", sizes, input.len(), 1)?;
        return Ok(Value::of_shape(sizes.into_iter().map(Some).collect()));
    }
    // Version 10 has scales second, later ones third.
    let third = op.optional(2)?.filter(|value| value.count() != Some(0));
    let scales = match (floats(op.node, "scales"), third.or(op.optional(1)?)) {
        (Some(scales), _) => scales,
        (None, Some(Value { numbers: Some(Numbers::Floats(scales)), .. })) => scales,
        _ => return Err("its sizes are not constant".into()),
    };
    if scales.len() != input.len() {
        return Err(format!(
            "its scales are {} numbers, but its input has {} axes",
            scales.len(),
            input.len()
        )
        .into());
    }
    let scaled = |size: usize, scale: f32| {
        let scaled = (size as f64 * f64::from(scale)).floor();
        if (1.0..1e15).contains(&scaled) {
            Ok(scaled as usize)
        } else {
            Err(format!("its scale {scale} makes no size"))
        }
    };
    let axes =
        input.iter().zip(scales).map(|(size, &scale)| size.map(|size| scaled(size, scale)).transpose());
    Ok(Value::of_shape(axes.collect::<Result<_, _>>()?))
}

fn constant(op: &Op) -> Result<Value, Stop> {
    let node = op.node;
    if let Some(tensor) = tensor(node, "value") {
        return Ok(Value::of_tensor(tensor)?);
    }
    let scalar = |numbers| Ok(Value::with_numbers(Vec::new(), numbers));
    match (
        int(node, "value_int"),
        ints(node, "value_ints"),
        float(node, "value_float"),
        floats(node, "value_floats"),
    ) {
        (Some(n), ..) => scalar(Numbers::Ints(vec![n])),
        (_, Some(list), ..) => Ok(Value::list(Numbers::Ints(list.to_vec()))),
        (_, _, Some(x), _) => scalar(Numbers::Floats(vec![x])),
        (.., Some(list)) => Ok(Value::list(Numbers::Floats(list.to_vec()))),
        _ => Err("a constant of a kind that is not known here".into()),
    }
}

fn constant_of_shape(op: &Op) -> Result<Value, Stop> {
    let shape = numbers("shape", op.constant(0)?, op.constant(0)?.len(), 0)?;
    let shape: Vec<Axis> = shape.into_iter().map(Some).collect();
    let count = product(&shape).ok_or(TOO_LARGE)?;
    let element = match tensor(op.node, "value") {
        Some(tensor) => Value::of_tensor(tensor)?.numbers,
        None => Some(Numbers::Floats(vec![0.0])),
    };
    let numbers = match (element, count) {
        (Some(Numbers::Ints(n)), 0..=64) if n.len() == 1 => Some(Numbers::Ints(n.repeat(count))),
        (Some(Numbers::Floats(x)), 0..=64) if x.len() == 1 => Some(Numbers::Floats(x.repeat(count))),
        _ => None,
    };
    Ok(Value { shape, numbers })
}

fn shape(op: &Op) -> Result<Value, Stop> {
    let shape = &op.value(0)?.shape;
    let bound = |name: &str, default: usize| match int(op.node, name) {
        None => default,
        Some(n) if n < 0 => shape.len().saturating_sub(n.unsigned_abs() as usize),
        Some(n) => (n as usize).min(shape.len()),
    };
    let (start, end) = (bound("start", 0), bound("end", shape.len()));
    let part = shape.get(start..end).unwrap_or_default();
    let numbers: Option<Vec<i64>> =
        part.iter().map(|axis| axis.and_then(|n| i64::try_from(n).ok())).collect();
    Ok(match numbers {
        Some(numbers) => Value::list(Numbers::Ints(numbers)),
        None => Value::of_shape(vec![Some(part.len())]),
    })
}
