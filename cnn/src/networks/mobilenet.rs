//! MobileNetV2: inverted residuals with linear bottlenecks.

use super::channels;
use crate::{BatchNorm, Conv, Error, Graph, Layer, Linear, Shape};

/// Adds a convolution and its batch normalisation, named `name.i` and `name.i+1`.
fn normalised(net: &mut Graph, name: &str, i: usize, conv: Conv) -> Result<(), Error> {
    let outputs = conv.out_channels;
    net.then(&format!("{name}.{i}"), conv.no_bias())?;
    net.then(&format!("{name}.{}", i + 1), BatchNorm::new(outputs))?;
    Ok(())
}

/// The same, with ReLU6 behind it.
fn activated(net: &mut Graph, name: &str, conv: Conv) -> Result<(), Error> {
    normalised(net, name, 0, conv)?;
    net.then(&format!("{name}.2"), Layer::RELU6)?;
    Ok(())
}

/// 1×1 to `expansion` times the channels, 3×3 each for itself, 1×1 to `outputs`; added to the input where
/// shapes allow.
fn inverted_residual(
    net: &mut Graph,
    name: &str,
    expansion: usize,
    outputs: usize,
    stride: usize,
) -> Result<(), Error> {
    let input = net.last();
    let inputs = channels(net.output_shape());
    let hidden = inputs * expansion;
    let mut next = 0;
    if expansion > 1 {
        activated(net, &format!("{name}.conv.0"), Conv::new(inputs, hidden, 1))?;
        next = 1;
    }
    let depthwise = Conv::new(hidden, hidden, 3).stride(stride).padding(1).groups(hidden);
    activated(net, &format!("{name}.conv.{next}"), depthwise)?;
    normalised(net, &format!("{name}.conv"), next + 1, Conv::new(hidden, outputs, 1))?;
    if stride == 1 && inputs == outputs {
        net.push(&format!("{name}.add"), Layer::Add, &[input, net.last()])?;
    }
    Ok(())
}

pub(super) fn mobilenet_v2(image: Shape, classes: usize) -> Result<Graph, Error> {
    /// Expansion, output channels, blocks, stride of the first one.
    const STAGES: [[usize; 4]; 7] = [
        [1, 16, 1, 1],
        [6, 24, 2, 2],
        [6, 32, 3, 2],
        [6, 64, 4, 2],
        [6, 96, 3, 1],
        [6, 160, 3, 2],
        [6, 320, 1, 1],
    ];
    let mut net = Graph::new(image)?;
    activated(&mut net, "features.0", Conv::new(channels(image), 32, 3).stride(2).padding(1))?;
    let mut number = 1;
    for [expansion, outputs, blocks, stride] in STAGES {
        for block in 0..blocks {
            let stride = if block == 0 { stride } else { 1 };
            inverted_residual(&mut net, &format!("features.{number}"), expansion, outputs, stride)?;
            number += 1;
        }
    }
    activated(&mut net, "features.18", Conv::new(320, 1280, 1))?;
    net.then("avgpool", Layer::GlobalAvgPool)?;
    net.then("flatten", Layer::Flatten)?;
    net.then("classifier.0", Layer::Dropout(0.2))?;
    net.then("classifier.1", Linear::new(1280, classes))?;
    Ok(net)
}
