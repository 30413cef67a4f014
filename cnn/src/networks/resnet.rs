//! Residual networks.

use super::channels;
use crate::graph::Value;
use crate::{BatchNorm, Conv, Error, Graph, Layer, Linear, Pool, Shape};

/// Adds a convolution and its batch normalisation.
fn normalised(net: &mut Graph, names: [&str; 2], conv: Conv, input: Value) -> Result<Value, Error> {
    let outputs = conv.out_channels;
    let value = net.push(names[0], conv.no_bias(), &[input])?;
    net.push(names[1], BatchNorm::new(outputs), &[value])
}

/// Two 3×3 convolutions, or three with a narrow middle (`bottleneck`), and what they are added to.
fn block(net: &mut Graph, name: &str, width: usize, stride: usize, bottleneck: bool) -> Result<(), Error> {
    let input = net.last();
    let inputs = channels(net.output_shape());
    let outputs = if bottleneck { 4 * width } else { width };
    let convolutions = match bottleneck {
        true => vec![
            Conv::new(inputs, width, 1),
            Conv::new(width, width, 3).stride(stride).padding(1),
            Conv::new(width, outputs, 1),
        ],
        false => {
            vec![Conv::new(inputs, width, 3).stride(stride).padding(1), Conv::new(width, width, 3).padding(1)]
        }
    };
    let last = convolutions.len();
    let mut branch = input;
    for (i, conv) in (1..).zip(convolutions) {
        let names = [format!("{name}.conv{i}"), format!("{name}.bn{i}")];
        branch = normalised(net, names.each_ref().map(String::as_str), conv, branch)?;
        if i < last {
            branch = net.push(&format!("{name}.relu{i}"), Layer::RELU, &[branch])?;
        }
    }
    let shortcut = if stride == 1 && inputs == outputs {
        input
    } else {
        let names = [format!("{name}.downsample.0"), format!("{name}.downsample.1")];
        let conv = Conv::new(inputs, outputs, 1).stride(stride);
        normalised(net, names.each_ref().map(String::as_str), conv, input)?
    };
    net.push(&format!("{name}.add"), Layer::Add, &[branch, shortcut])?;
    net.then(&format!("{name}.relu"), Layer::RELU)?;
    Ok(())
}

fn resnet(image: Shape, classes: usize, blocks: [usize; 4], bottleneck: bool) -> Result<Graph, Error> {
    let mut net = Graph::new(image)?;
    let stem = Conv::new(channels(image), 64, 7).stride(2).padding(3);
    normalised(&mut net, ["conv1", "bn1"], stem, Graph::INPUT)?;
    net.then("relu", Layer::RELU)?;
    net.then("maxpool", Layer::MaxPool(Pool::new(3).stride(2).padding(1)))?;
    for (i, count) in blocks.into_iter().enumerate() {
        for j in 0..count {
            let stride = if i > 0 && j == 0 { 2 } else { 1 };
            block(&mut net, &format!("layer{}.{j}", i + 1), 64 << i, stride, bottleneck)?;
        }
    }
    net.then("avgpool", Layer::GlobalAvgPool)?;
    net.then("flatten", Layer::Flatten)?;
    net.then("fc", Linear::new(net.output_shape().len(), classes))?;
    Ok(net)
}

pub(super) fn resnet18(image: Shape, classes: usize) -> Result<Graph, Error> {
    resnet(image, classes, [2, 2, 2, 2], false)
}

pub(super) fn resnet50(image: Shape, classes: usize) -> Result<Graph, Error> {
    resnet(image, classes, [3, 4, 6, 3], true)
}
