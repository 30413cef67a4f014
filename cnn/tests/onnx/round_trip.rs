//! What is written is read as it was.

use std::fs;

use cnn::onnx::{self, Model};
use cnn::{
    BatchNorm, Conv, Error, Graph, Inference, InferenceOptions, Layer, Linear, Lrn, Pool, Shape, Value,
    Weights, networks,
};

/// Every layer, with what is special about it.
fn all_layers() -> Graph {
    let mut net = Graph::new(Shape::image(4, 20, 18)).unwrap();
    let padding = kernels::Padding { top: 2, left: 0, bottom: 1, right: 3 };
    let conv = Conv { kernel: [3, 2], stride: [1, 2], dilation: [2, 1], padding, ..Conv::new(4, 6, 1) };
    net.then("conv", conv.groups(2)).unwrap();
    net.then("relu", Layer::RELU).unwrap();
    net.then("lrn", Lrn { size: 3, alpha: 0.5, beta: 0.6, k: 1.5 }).unwrap();
    net.then("max", Layer::MaxPool(Pool { ceil_mode: true, dilation: [2, 1], ..Pool::new(2).stride(1) }))
        .unwrap();
    let short = net.last();
    net.then("pointwise", Conv::new(6, 6, 1).no_bias()).unwrap();
    net.then("norm", BatchNorm { channels: 6, epsilon: 1e-3, momentum: 0.25 }).unwrap();
    net.push("add", Layer::Add, &[net.last(), short]).unwrap();
    net.then("clip", Layer::RELU6).unwrap();
    net.then("softmax", Layer::Softmax { axis: 2 }).unwrap();
    net.then(
        "average",
        Layer::AvgPool(Pool { count_include_pad: false, ..Pool::new(3).stride(2).padding(1) }),
    )
    .unwrap();
    net.then("apart", Layer::AvgPool(Pool { dilation: [1, 2], ..Pool::new(2).stride(1) })).unwrap();
    net.then("global", Layer::GlobalAvgPool).unwrap();
    net.then("flatten", Layer::Flatten).unwrap();
    net.then("dropout", Layer::Dropout(0.25)).unwrap();
    net.then("scores", Linear::new(6, 5)).unwrap();
    net.then("probabilities", Layer::SOFTMAX).unwrap();
    net
}

/// The layers, their inputs and their shapes.
fn without_momentum(graph: &Graph) -> Vec<(String, Layer, Vec<Value>, Shape)> {
    let nodes = graph.nodes().iter().map(|node| {
        let layer = match node.layer().clone() {
            Layer::BatchNorm(norm) => BatchNorm { momentum: 0.0, ..norm }.into(),
            layer => layer,
        };
        (node.name().to_owned(), layer, node.inputs().to_vec(), node.shape())
    });
    nodes.collect()
}

fn output(graph: &Graph, weights: &Weights) -> Vec<f32> {
    let mut inference = Inference::new(graph, weights, &InferenceOptions::default()).unwrap();
    let input: Vec<f32> = (0..graph.input_shape().len()).map(|i| (i % 13) as f32 / 13.0 - 0.4).collect();
    inference.run(&input).unwrap().to_vec()
}

#[test]
fn networks_come_back() {
    let small = |name: &str| networks::sized(name, Shape::image(3, 32, 32), 10).unwrap();
    let nets = [all_layers(), networks::lenet5().unwrap(), small("resnet18"), small("mobilenet_v2")];
    for (net, batch) in nets.iter().zip([None, Some(1), Some(8)].into_iter().cycle()) {
        let weights = Weights::random(net, 3).unwrap();
        let bytes = onnx::write(net, &weights, batch).unwrap();
        let model = onnx::read(bytes).unwrap();
        // 1 − 0.1, the momentum that is written, is not as precise as 0.1.
        let same = without_momentum(&model.graph) == without_momentum(net);
        assert!(same, "{}\n{}", net.summary(), model.graph.summary());
        assert!(model.weights == weights && model.batch == batch);
        assert_eq!(output(&model.graph, &model.weights), output(net, &weights));
    }
}

#[test]
fn files_are_written_whole_or_not_at_all() {
    let net = all_layers();
    let weights = Weights::random(&net, 1).unwrap();
    let folder = std::env::temp_dir().join(format!("cnn-onnx-{}", std::process::id()));
    let path = folder.join("a.onnx");
    let message = onnx::save(&net, &weights, None, &path).unwrap_err().to_string();
    assert!(message.contains("a.onnx: No such file"), "{message}");
    fs::create_dir_all(&folder).unwrap();
    onnx::save(&net, &weights, None, &path).unwrap();
    assert_eq!(fs::read(&path).unwrap(), onnx::write(&net, &weights, None).unwrap());
    assert_eq!(onnx::load(&path).unwrap(), Model { graph: net, weights, batch: None });
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    let message = onnx::load(&folder.join("b.onnx")).unwrap_err().to_string();
    assert!(message.contains("b.onnx: No such file"), "{message}");
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn what_is_no_network_is_not_written() {
    let net = networks::lenet5().unwrap();
    let weights = Weights::random(&all_layers(), 1).unwrap();
    assert!(onnx::write(&net, &weights, None).is_err());
    let empty = Graph::new(Shape::Features(3)).unwrap();
    let weights = Weights::random(&empty, 1).unwrap();
    assert!(matches!(onnx::write(&empty, &weights, None), Err(Error::Model(_))));
}
