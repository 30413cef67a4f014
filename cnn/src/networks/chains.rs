//! Networks without branches: LeNet-5, AlexNet, VGG-16.

use super::channels;
use crate::{Conv, Error, Graph, Layer, Linear, Pool, Shape};

pub(super) fn lenet5(image: Shape, classes: usize) -> Result<Graph, Error> {
    let mut net = Graph::new(image)?;
    net.then("c1", Conv::new(channels(image), 6, 5).padding(2))?;
    net.then("relu1", Layer::RELU)?;
    net.then("s2", Layer::MaxPool(Pool::new(2)))?;
    net.then("c3", Conv::new(6, 16, 5))?;
    net.then("relu3", Layer::RELU)?;
    net.then("s4", Layer::MaxPool(Pool::new(2)))?;
    net.then("flatten", Layer::Flatten)?;
    net.then("f5", Linear::new(net.output_shape().len(), 120))?;
    net.then("relu5", Layer::RELU)?;
    net.then("f6", Linear::new(120, 84))?;
    net.then("relu6", Layer::RELU)?;
    net.then("output", Linear::new(84, classes))?;
    Ok(net)
}

/// Adds layers whose names count up, as those of PyTorch's `Sequential` do.
struct Counted<'a> {
    net: &'a mut Graph,
    prefix: &'static str,
    next: usize,
}

impl Counted<'_> {
    fn then(&mut self, layer: impl Into<Layer>) -> Result<(), Error> {
        self.net.then(&format!("{}.{}", self.prefix, self.next), layer)?;
        self.next += 1;
        Ok(())
    }
}

pub(super) fn alexnet(image: Shape, classes: usize) -> Result<Graph, Error> {
    let mut net = Graph::new(image)?;
    let mut features = Counted { net: &mut net, prefix: "features", next: 0 };
    let pool = || Layer::MaxPool(Pool::new(3).stride(2));
    features.then(Conv::new(channels(image), 64, 11).stride(4).padding(2))?;
    features.then(Layer::RELU)?;
    features.then(pool())?;
    features.then(Conv::new(64, 192, 5).padding(2))?;
    features.then(Layer::RELU)?;
    features.then(pool())?;
    for (inputs, outputs) in [(192, 384), (384, 256), (256, 256)] {
        features.then(Conv::new(inputs, outputs, 3).padding(1))?;
        features.then(Layer::RELU)?;
    }
    features.then(pool())?;
    net.then("flatten", Layer::Flatten)?;
    let inputs = net.output_shape().len();
    let mut classifier = Counted { net: &mut net, prefix: "classifier", next: 0 };
    for inputs in [inputs, 4096] {
        classifier.then(Layer::Dropout(0.5))?;
        classifier.then(Linear::new(inputs, 4096))?;
        classifier.then(Layer::RELU)?;
    }
    classifier.then(Linear::new(4096, classes))?;
    Ok(net)
}

pub(super) fn vgg16(image: Shape, classes: usize) -> Result<Graph, Error> {
    let mut net = Graph::new(image)?;
    let mut features = Counted { net: &mut net, prefix: "features", next: 0 };
    let mut inputs = channels(image);
    for (outputs, layers) in [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)] {
        for _ in 0..layers {
            features.then(Conv::new(inputs, outputs, 3).padding(1))?;
            features.then(Layer::RELU)?;
            inputs = outputs;
        }
        features.then(Layer::MaxPool(Pool::new(2)))?;
    }
    net.then("flatten", Layer::Flatten)?;
    let inputs = net.output_shape().len();
    let mut classifier = Counted { net: &mut net, prefix: "classifier", next: 0 };
    for inputs in [inputs, 4096] {
        classifier.then(Linear::new(inputs, 4096))?;
        classifier.then(Layer::RELU)?;
        classifier.then(Layer::Dropout(0.5))?;
    }
    classifier.then(Linear::new(4096, classes))?;
    Ok(net)
}
