//! Inference against the definition of every layer in float64.

use cnn::{Graph, Inference, InferenceOptions, Layer, Linear, Shape, networks};
use rayon::ThreadPoolBuilder;

use crate::definition::{self, Mode, images, parameters, place, small_networks, used_weights};

/// Largest difference, as a share of the largest value.
fn error(values: &[f32], exact: &[f64]) -> f64 {
    assert_eq!(values.len(), exact.len());
    let most = exact.iter().fold(1e-30f64, |most, x| most.max(x.abs()));
    let differences = values.iter().zip(exact).map(|(x, y)| (f64::from(*x) - y).abs());
    // NaN stays.
    differences.fold(0.0, |most: f64, x| if x > most || x.is_nan() { x } else { most }) / most
}

/// Every layer of a network by itself: its output beside the definition of what it really read.
fn check_layers(name: &str, net: &Graph, kernel: &str, batch: usize) {
    let weights = used_weights(net, 7);
    let exact = parameters(net, &weights);
    let images = images(net, batch, 3);
    let options = InferenceOptions { batch, kernel: kernel.to_owned(), fuse: false, ..Default::default() };
    let mut inference = Inference::new(net, &weights, &options).unwrap();
    let wide = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
    let mut seen: Vec<Option<Vec<f64>>> = vec![None; net.nodes().len() + 1];
    seen[0] = Some(wide(&images));
    let mut kernels = 0;
    inference
        .run_observed(&images, |step, _, values| {
            let at = place(net, step.value);
            let node = &net.nodes()[at - 1];
            let read = |input: &cnn::Value| {
                // Layers that change nothing have no step: what they read is what they give.
                let mut at = place(net, *input);
                while seen[at].is_none() {
                    at = place(net, net.nodes()[at - 1].inputs()[0]);
                }
                seen[at].clone().unwrap()
            };
            let inputs: Vec<Vec<f64>> = node.inputs().iter().map(read).collect();
            let inputs: Vec<&[f64]> = inputs.iter().map(Vec::as_slice).collect();
            let wanted = definition::layer(net, node, &exact, &inputs, batch, Mode::Inference);
            let off = error(values, &wanted);
            assert!(off < 1e-5, "{name}, `{}` by {:?} with {kernel}: {off:.1e}", step.name, step.kernel);
            let algorithm = step.kernel.as_deref().unwrap_or_default().split('/').next();
            kernels += usize::from(algorithm == Some(kernel) && step.kind == "Conv");
            seen[at] = Some(wide(values));
        })
        .unwrap();
    let convolves = net.nodes().iter().any(|node| matches!(node.layer(), Layer::Conv(_)));
    assert!(kernels > 0 || kernel != "naive" || !convolves, "{name}: no convolution by {kernel}");
}

#[test]
fn every_layer_is_its_definition_with_every_kernel() {
    let ids: Vec<&str> = kernels::kernels().map(|kernel| kernel.id()).collect();
    assert!(ids.len() > 10);
    for (name, net) in small_networks() {
        for kernel in &ids {
            if kernels::kernel(kernel).unwrap().availability().is_ok() {
                check_layers(name, &net, kernel, 2);
            }
        }
    }
}

/// The networks of the literature, on small images.
#[test]
fn networks_are_their_layers_definitions() {
    for (name, size) in
        [("lenet5", 28), ("alexnet", 63), ("resnet18", 33), ("resnet50", 32), ("mobilenet_v2", 40)]
    {
        let channels = if name == "lenet5" { 1 } else { 3 };
        let net = networks::sized(name, Shape::image(channels, size, size), 10).unwrap();
        for kernel in ["auto", "direct", "im2col-gemm", "winograd"] {
            check_layers(name, &net, kernel, 1);
        }
    }
    let vgg = networks::sized("vgg16", Shape::image(3, 32, 32), 10).unwrap();
    check_layers("vgg16", &vgg, "auto", 1);
}

/// Fused, unfused and on threads: the same network.
#[test]
fn fusing_changes_nothing_but_roundings() {
    let mut fused_names = Vec::new();
    let small = small_networks();
    let large = ["resnet18", "mobilenet_v2"]
        .map(|name| (name, networks::sized(name, Shape::image(3, 32, 32), 7).unwrap()));
    for (name, net) in small.iter().chain(&large) {
        let weights = used_weights(net, 11);
        let images = images(net, 3, 5);
        let wide: Vec<f64> = images.iter().map(|&x| f64::from(x)).collect();
        let exact = definition::network(net, &parameters(net, &weights), &wide, 3, Mode::Inference);
        let mut outputs = Vec::new();
        for (fuse, threads) in [(true, 1), (true, 2), (false, 1), (false, 3)] {
            let options = InferenceOptions { batch: 3, fuse, threads, ..Default::default() };
            let mut inference = Inference::new(net, &weights, &options).unwrap();
            let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let output = pool.install(|| inference.run(&images).unwrap().to_vec());
            let off = error(&output, exact.last().unwrap());
            assert!(off < 1e-4, "{name} fused {fuse} on {threads}: {off:.1e}");
            // A second run finds nothing left of the first.
            assert_eq!(inference.run(&images).unwrap(), output, "{name}");
            if fuse {
                fused_names.extend(inference.steps().map(|step| step.name.clone()));
            }
            outputs.push(output);
        }
        assert_eq!(outputs[0], outputs[1], "{name} fused, on 1 and 2 threads");
        assert_eq!(outputs[2], outputs[3], "{name} on 1 and 3 threads");
    }
    for name in ["l0+l1+l2", "short+bn+add1", "layer1.0.conv2+layer1.0.bn2+layer1.0.add+layer1.0.relu"] {
        assert!(fused_names.iter().any(|fused| fused == name), "{name}: {fused_names:?}");
    }
}

/// A window over more channels than there are is one over all.
#[test]
fn windows_may_be_larger_than_depths() {
    let run = |size| {
        let mut net = Graph::new(Shape::Features(3)).unwrap();
        net.then("lrn", cnn::Lrn { size, alpha: size as f32, beta: 1.0, k: 1.0 }).unwrap();
        let weights = cnn::Weights::random(&net, 1).unwrap();
        let mut inference = Inference::new(&net, &weights, &InferenceOptions::default()).unwrap();
        inference.run(&[1.0, 2.0, 3.0]).unwrap().to_vec()
    };
    // Over 1 + 1² + 2² + 3², which beta 1 takes as it is.
    assert!(error(&run(6), &[1.0 / 15.0, 2.0 / 15.0, 3.0 / 15.0]) < 1e-6);
    assert!(error(&run(usize::MAX), &[1.0 / 15.0, 2.0 / 15.0, 3.0 / 15.0]) < 1e-6);
}

/// Activations take turns in little memory.
#[test]
fn activations_share_memory() {
    for (name, most) in [("vgg16", 2), ("resnet50", 4), ("mobilenet_v2", 3)] {
        let net = networks::sized(name, Shape::image(3, 64, 64), 10).unwrap();
        let weights = cnn::Weights::random(&net, 1).unwrap();
        let inference = Inference::new(&net, &weights, &InferenceOptions::default()).unwrap();
        let largest = net.nodes().iter().map(|node| node.shape().len()).max().unwrap();
        let [bytes, _] = inference.memory();
        assert!(bytes <= 4 * most * largest, "{name}: {bytes} bytes, the largest value has {}", 4 * largest);
    }
}

#[test]
fn what_cannot_be_run_is_an_error() {
    let net = networks::lenet5().unwrap();
    let weights = cnn::Weights::random(&net, 1).unwrap();
    let message =
        |options: InferenceOptions| Inference::new(&net, &weights, &options).unwrap_err().to_string();
    let unknown = message(InferenceOptions { kernel: "fft".to_owned(), ..Default::default() });
    assert!(unknown.starts_with("layer `c1`: ") && unknown.contains("`fft`"), "{unknown}");
    assert!(message(InferenceOptions { batch: 0, ..Default::default() }).starts_with("the batch is 0"));
    assert!(
        message(InferenceOptions { batch: usize::MAX, ..Default::default() }).starts_with("the batch is")
    );
    assert!(message(InferenceOptions { threads: 0, ..Default::default() }).starts_with("threads is 0"));

    let mut inference = Inference::new(&net, &weights, &InferenceOptions::default()).unwrap();
    let message = inference.run(&[0.0; 5]).unwrap_err().to_string();
    assert_eq!(message, "the input holds 5 values, but must hold 784");

    let other = networks::sized("lenet5", Shape::image(1, 28, 28), 9).unwrap();
    let message = Inference::new(&other, &weights, &InferenceOptions::default()).unwrap_err().to_string();
    assert!(message.contains("`output.weight` of shape [10, 84]"), "{message}");

    let mut refusing = Graph::new(Shape::image(2, 4, 4)).unwrap();
    refusing.then("conv", cnn::Conv::new(2, 2, 3).stride(2).algorithm("winograd")).unwrap();
    let weights = cnn::Weights::random(&refusing, 1).unwrap();
    let message = Inference::new(&refusing, &weights, &InferenceOptions::default()).unwrap_err().to_string();
    assert!(message.contains("layer `conv`") && message.contains("stride"), "{message}");

    // Nothing that would need threads: they are refused all the same.
    let mut still = Graph::new(Shape::Features(3)).unwrap();
    still.then("relu", Layer::RELU).unwrap();
    let weights = cnn::Weights::random(&still, 1).unwrap();
    let none = InferenceOptions { threads: 0, ..Default::default() };
    assert!(Inference::new(&still, &weights, &none).unwrap_err().to_string().starts_with("threads is 0"));

    let empty = Graph::new(Shape::Features(3)).unwrap();
    let weights = cnn::Weights::random(&empty, 1).unwrap();
    assert!(Inference::new(&empty, &weights, &InferenceOptions::default()).is_err());
}

#[test]
fn what_cannot_be_built_names_layers_and_shapes() {
    let mut net = Graph::new(Shape::image(3, 8, 8)).unwrap();
    let conv = net.then("conv", cnn::Conv::new(3, 4, 3)).unwrap();
    let before = net.clone();
    let mut message = |name: &str, layer: Layer, inputs: &[cnn::Value]| {
        net.push(name, layer, inputs).unwrap_err().to_string()
    };
    assert_eq!(
        message("next", cnn::Conv::new(3, 4, 3).into(), &[conv]),
        "layer `next` wants maps of 3 channels, but `conv` gives 4×6×6"
    );
    assert_eq!(
        message("sum", Layer::Add, &[conv, Graph::INPUT]),
        "layer `sum` wants the shape of `conv`, 4×6×6, but `input` gives 3×8×8"
    );
    assert_eq!(
        message("fc", Linear::new(144, 2).into(), &[conv]),
        "layer `fc` wants 144 features, but `conv` gives 4×6×6"
    );
    let large = message("large", cnn::Conv::new(4, 4, 7).into(), &[conv]);
    assert!(large.starts_with("layer `large` wants larger maps (kernel height 7"), "{large}");
    assert!(message("pool", Layer::MaxPool(cnn::Pool::new(9)), &[conv]).contains("wants larger maps"));
    assert!(message("pool", Layer::MaxPool(cnn::Pool::new(2).stride(0)), &[conv]).contains("stride"));
    assert!(message("groups", cnn::Conv::new(4, 4, 1).groups(3).into(), &[conv]).contains("groups 3"));
    assert!(message("groups", cnn::Conv::new(4, 4, 1).groups(0).into(), &[conv]).contains("groups"));
    assert!(message("conv", Layer::RELU, &[conv]).contains("its name must be new"));
    assert!(message("input", Layer::RELU, &[conv]).contains("its name must be new"));
    assert!(message("relu", Layer::RELU, &[]).contains("reads 0 layers, but ReLU takes 1"));
    assert!(message("norm", cnn::BatchNorm::new(5).into(), &[conv]).contains("wants 5 channels"));
    assert!(
        message("softmax", Layer::Softmax { axis: 3 }, &[conv])
            .contains("its axis is 3, but must be below 3")
    );
    assert!(message("drop", Layer::Dropout(1.0), &[conv]).contains("probability of 1"));
    let huge = message("huge", cnn::Conv::new(4, usize::MAX / 8, 1).into(), &[conv]);
    assert!(huge.contains("`huge`") && huge.contains("address space"), "{huge}");
    assert_eq!(net, before);
    let mut long = Graph::new(Shape::Features(1 << 40)).unwrap();
    let message = long.then("fc", Linear::new(1 << 40, 1 << 40)).unwrap_err().to_string();
    assert!(message.contains("weights do not fit"), "{message}");
    assert!(Graph::new(Shape::image(0, 1, 1)).is_err());
    assert!(Graph::new(Shape::image(usize::MAX, 2, 2)).is_err());
    // A value of another graph.
    let mut other = Graph::new(Shape::image(3, 8, 8)).unwrap();
    assert!(other.push("relu", Layer::RELU, &[conv]).unwrap_err().to_string().contains("not of this graph"));
}
