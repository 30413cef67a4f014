//! The definition of every layer in float64, term by term, and networks to try it on.

use cnn::{BatchNorm, Conv, Graph, Layer, Linear, Lrn, Node, Pool, Shape, Value, Weights};
use kernels::Activation;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Tensors of parameters, in the graph's order.
pub(crate) type Parameters = Vec<Vec<f64>>;

pub(crate) fn parameters(graph: &Graph, weights: &Weights) -> Parameters {
    let values = |i| weights.values(i).unwrap().iter().map(|&w| f64::from(w)).collect();
    (0..graph.parameters().len()).map(values).collect()
}

/// Weights as training might have left them: no zeros, no ones.
pub(crate) fn used_weights(graph: &Graph, seed: u64) -> Weights {
    let mut weights = Weights::random(graph, seed).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(!seed);
    for (i, parameter) in graph.parameters().iter().enumerate() {
        use cnn::Role;
        let range = match parameter.role {
            Role::Weight => continue,
            Role::Bias | Role::Mean => -0.2..0.2,
            Role::Scale | Role::Variance => 0.7..1.4,
        };
        weights.values_mut(i).unwrap().fill_with(|| rng.random_range(range.clone()));
    }
    weights
}

pub(crate) fn images(graph: &Graph, batch: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..batch * graph.input_shape().len()).map(|_| rng.random_range(-1.0..1.0)).collect()
}

fn volume(shape: Shape) -> [usize; 3] {
    match shape {
        Shape::Image { channels, height, width } => [channels, height, width],
        Shape::Features(n) => [n, 1, 1],
    }
}

/// How batch normalisation normalises.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Mode {
    Inference,
    Training,
}

/// The output of a layer for a batch, from what it reads.
pub(crate) fn layer(
    graph: &Graph,
    node: &Node,
    parameters: &Parameters,
    inputs: &[&[f64]],
    batch: usize,
    mode: Mode,
) -> Vec<f64> {
    let given = graph.shape(node.inputs()[0]);
    let x = inputs[0];
    let own = &parameters[node.parameters()];
    let [channels, height, width] = volume(given);
    let pixels = height * width;
    let out = volume(node.shape());
    match node.layer() {
        Layer::Conv(conv) => convolution(conv, own, x, batch, [height, width], out),
        Layer::Linear(linear) => {
            let (inputs, outputs) = (linear.in_features, linear.out_features);
            let row = |n: usize, o: usize| {
                let products = own[0][o * inputs..][..inputs].iter().zip(&x[n * inputs..]);
                own[1][o] + products.map(|(w, x)| w * x).sum::<f64>()
            };
            (0..batch * outputs).map(|i| row(i / outputs, i % outputs)).collect()
        }
        Layer::MaxPool(pool) => pooling(pool, x, batch, [channels, height, width], out, |window, _| {
            window.iter().copied().fold(f64::NEG_INFINITY, f64::max)
        }),
        Layer::AvgPool(pool) => pooling(pool, x, batch, [channels, height, width], out, |window, padded| {
            let count = if pool.count_include_pad { padded } else { window.len() };
            window.iter().sum::<f64>() / count as f64
        }),
        Layer::GlobalAvgPool => {
            x.chunks_exact(pixels).map(|map| map.iter().sum::<f64>() / pixels as f64).collect()
        }
        Layer::Activation(Activation::Relu) => x.iter().map(|x| x.max(0.0)).collect(),
        Layer::Activation(Activation::Clamp { min, max }) => {
            x.iter().map(|x| x.clamp(f64::from(*min), f64::from(*max))).collect()
        }
        Layer::Lrn(lrn) => {
            let at = |i: usize| {
                let (n, c, pixel) = (i / (channels * pixels), i / pixels % channels, i % pixels);
                let before = (lrn.size - 1) / 2;
                let window = c.saturating_sub(before)..(c + lrn.size - before).min(channels);
                let squares: f64 = window.map(|c| x[(n * channels + c) * pixels + pixel].powi(2)).sum();
                let d = f64::from(lrn.k) + f64::from(lrn.alpha) / lrn.size as f64 * squares;
                x[i] / d.powf(f64::from(lrn.beta))
            };
            (0..x.len()).map(at).collect()
        }
        Layer::BatchNorm(norm) => {
            let mut y = vec![0.0; x.len()];
            for c in 0..channels {
                let of_channel = |i: &usize| i / pixels % channels == c;
                let places: Vec<usize> = (0..x.len()).filter(of_channel).collect();
                let count = places.len() as f64;
                let (mean, variance) = match mode {
                    Mode::Inference => (own[2][c], own[3][c]),
                    Mode::Training => {
                        let mean = places.iter().map(|&i| x[i]).sum::<f64>() / count;
                        (mean, places.iter().map(|&i| (x[i] - mean).powi(2)).sum::<f64>() / count)
                    }
                };
                for i in places {
                    y[i] =
                        own[0][c] * (x[i] - mean) / (variance + f64::from(norm.epsilon)).sqrt() + own[1][c];
                }
            }
            y
        }
        Layer::Add => x.iter().zip(inputs[1]).map(|(a, b)| a + b).collect(),
        Layer::Flatten | Layer::Dropout(_) => x.to_vec(),
        Layer::Softmax { axis } => {
            let place = |i: usize| {
                let mut place =
                    [i / (channels * pixels), i / pixels % channels, i / width % height, i % width];
                place[axis + 1] = usize::MAX;
                place
            };
            let sum = |i: usize| -> f64 {
                (0..x.len()).filter(|&j| place(j) == place(i)).map(|j| x[j].exp()).sum()
            };
            (0..x.len()).map(|i| x[i].exp() / sum(i)).collect()
        }
        other => panic!("no definition of {other:?}"),
    }
}

fn convolution(
    conv: &Conv,
    own: &[Vec<f64>],
    x: &[f64],
    batch: usize,
    [height, width]: [usize; 2],
    [outputs, rows, columns]: [usize; 3],
) -> Vec<f64> {
    let (depth, filters) = (conv.in_channels / conv.groups, outputs / conv.groups);
    let mut y = vec![0.0; batch * outputs * rows * columns];
    for (i, y) in y.iter_mut().enumerate() {
        let (n, o) = (i / (outputs * rows * columns), i / (rows * columns) % outputs);
        let (row, column) = (i / columns % rows, i % columns);
        let mut sum = if conv.bias { own[1][o] } else { 0.0 };
        for c in 0..depth {
            let plane = (n * conv.in_channels + o / filters * depth + c) * height * width;
            for r in 0..conv.kernel[0] {
                let at = row * conv.stride[0] + r * conv.dilation[0];
                let Some(at) = at.checked_sub(conv.padding.top).filter(|at| *at < height) else { continue };
                for s in 0..conv.kernel[1] {
                    let along = column * conv.stride[1] + s * conv.dilation[1];
                    let Some(along) = along.checked_sub(conv.padding.left).filter(|along| *along < width)
                    else {
                        continue;
                    };
                    let w = own[0][((o * depth + c) * conv.kernel[0] + r) * conv.kernel[1] + s];
                    sum += w * x[plane + at * width + along];
                }
            }
        }
        *y = sum;
    }
    y
}

/// `reduce` gets the window's pixels and how many it has with padding.
fn pooling(
    pool: &Pool,
    x: &[f64],
    batch: usize,
    [channels, height, width]: [usize; 3],
    [_, rows, columns]: [usize; 3],
    reduce: impl Fn(&[f64], usize) -> f64,
) -> Vec<f64> {
    let mut y = Vec::new();
    for map in 0..batch * channels {
        for i in 0..rows * columns {
            let start = [i / columns * pool.stride[0], i % columns * pool.stride[1]];
            let mut window = Vec::new();
            let mut padded = 0;
            for r in 0..pool.window[0] {
                for s in 0..pool.window[1] {
                    let [at, along] = [start[0] + r * pool.dilation[0], start[1] + s * pool.dilation[1]];
                    let p = pool.padding;
                    // What ceil mode has beyond the padding is nothing.
                    padded += usize::from(at < height + p.top + p.bottom && along < width + p.left + p.right);
                    if let (Some(at), Some(along)) = (at.checked_sub(p.top), along.checked_sub(p.left))
                        && at < height
                        && along < width
                    {
                        window.push(x[(map * height + at) * width + along]);
                    }
                }
            }
            y.push(reduce(&window, padded));
        }
    }
    y
}

/// The outputs of all layers for a batch, the input first.
pub(crate) fn network(
    graph: &Graph,
    parameters: &Parameters,
    images: &[f64],
    batch: usize,
    mode: Mode,
) -> Vec<Vec<f64>> {
    let mut values = vec![images.to_vec()];
    for node in graph.nodes() {
        let inputs: Vec<&[f64]> =
            node.inputs().iter().map(|input| values[place(graph, *input)].as_slice()).collect();
        let output = layer(graph, node, parameters, &inputs, batch, mode);
        values.push(output);
    }
    values
}

/// 0 for the network's input, else one more than the node's number.
pub(crate) fn place(graph: &Graph, value: Value) -> usize {
    let name = graph.name(value);
    graph.nodes().iter().position(|node| node.name() == name).map_or(0, |i| i + 1)
}

/// Small networks that together have every layer, each with what is special about it.
pub(crate) fn small_networks() -> Vec<(&'static str, Graph)> {
    let chain = |input: Shape, layers: Vec<Layer>| {
        let mut net = Graph::new(input).unwrap();
        for (i, layer) in layers.into_iter().enumerate() {
            net.then(&format!("l{i}"), layer).unwrap();
        }
        net
    };
    let end = |net: &mut Graph| {
        net.then("flatten", Layer::Flatten).unwrap();
        net.then("scores", Linear::new(net.output_shape().len(), 4)).unwrap();
    };
    let conv = |i, o, k| Conv::new(i, o, k);
    let mut nets = vec![
        ("plain", chain(Shape::image(2, 7, 6), vec![conv(2, 5, 3).padding(1).into(), Layer::RELU])),
        (
            "strided",
            chain(
                Shape::image(3, 9, 8),
                vec![conv(3, 4, 3).stride(2).padding(1).into(), conv(4, 3, 2).into()],
            ),
        ),
        (
            "groups",
            chain(Shape::image(4, 6, 7), vec![conv(4, 6, 3).groups(2).padding(2).into(), Layer::RELU6]),
        ),
        ("depthwise", chain(Shape::image(5, 8, 8), vec![conv(5, 5, 3).groups(5).stride(2).no_bias().into()])),
        (
            "uneven",
            chain(
                Shape::image(2, 9, 7),
                vec![
                    conv(2, 3, 1).into(),
                    Layer::Conv(Conv {
                        kernel: [3, 2],
                        stride: [2, 1],
                        dilation: [2, 3],
                        padding: kernels::Padding { top: 3, left: 0, bottom: 1, right: 2 },
                        ..conv(3, 4, 1)
                    }),
                ],
            ),
        ),
        (
            "max",
            chain(
                Shape::image(2, 7, 7),
                vec![conv(2, 3, 2).into(), Layer::MaxPool(Pool::new(3).stride(2).padding(1))],
            ),
        ),
        (
            "average",
            chain(
                Shape::image(2, 8, 8),
                vec![
                    conv(2, 3, 2).into(),
                    Layer::AvgPool(Pool { ceil_mode: true, ..Pool::new(2).padding(1) }),
                    conv(3, 3, 1).into(),
                    Layer::AvgPool(Pool { count_include_pad: false, ..Pool::new(3).stride(1).padding(1) }),
                ],
            ),
        ),
        (
            "apart",
            chain(
                Shape::image(2, 7, 9),
                vec![
                    conv(2, 3, 1).into(),
                    Layer::MaxPool(Pool { dilation: [2, 3], ..Pool::new(2).stride(1) }),
                    Layer::Softmax { axis: 2 },
                    Layer::AvgPool(Pool { dilation: [2, 1], ..Pool::new(2).stride(1) }),
                    Layer::SOFTMAX,
                    Layer::Softmax { axis: 1 },
                ],
            ),
        ),
        ("global", chain(Shape::image(2, 5, 4), vec![conv(2, 6, 2).into(), Layer::GlobalAvgPool])),
        (
            "lrn",
            chain(
                Shape::image(2, 4, 3),
                vec![conv(2, 7, 2).into(), Lrn { size: 4, alpha: 0.5, beta: 0.75, k: 1.5 }.into()],
            ),
        ),
        (
            "norm",
            chain(
                Shape::image(2, 5, 5),
                vec![
                    conv(2, 4, 3).into(),
                    BatchNorm::new(4).into(),
                    Layer::RELU,
                    conv(4, 3, 2).no_bias().into(),
                    BatchNorm::new(3).into(),
                ],
            ),
        ),
        (
            "features",
            chain(
                Shape::image(1, 4, 4),
                vec![
                    Layer::Flatten,
                    Linear::new(16, 9).into(),
                    BatchNorm::new(9).into(),
                    Layer::RELU,
                    Layer::SOFTMAX,
                ],
            ),
        ),
    ];
    nets.iter_mut().for_each(|(_, net)| end(net));

    // A residual block whose shortcut changes, one whose does not, and one that reads a value thrice.
    let mut net = Graph::new(Shape::image(3, 8, 8)).unwrap();
    let first = net.then("conv1", conv(3, 6, 3).padding(1).stride(2).no_bias()).unwrap();
    net.then("bn1", BatchNorm::new(6)).unwrap();
    net.then("relu1", Layer::RELU).unwrap();
    let branch = net.then("conv2", conv(6, 6, 3).padding(1)).unwrap();
    let short = net.push("short", conv(3, 6, 1).stride(2).no_bias(), &[Graph::INPUT]).unwrap();
    let short = net.push("bn", BatchNorm::new(6), &[short]).unwrap();
    let sum = net.push("add1", Layer::Add, &[branch, short]).unwrap();
    net.then("relu2", Layer::RELU).unwrap();
    net.then("conv3", conv(6, 6, 3).padding(1)).unwrap();
    net.push("add2", Layer::Add, &[sum, net.last()]).unwrap();
    let twice = net.then("relu3", Layer::RELU).unwrap();
    net.push("add3", Layer::Add, &[twice, twice]).unwrap();
    net.push("add4", Layer::Add, &[net.last(), first]).unwrap();
    end(&mut net);
    nets.push(("residual", net));
    nets
}
