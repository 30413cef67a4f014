//! Gradients of every layer against differences of the float64 definition; training by seed and on threads.

use cnn::{
    Conv, Error, Graph, Layer, Linear, Optimizer, Shape, Training, TrainingOptions, Weights, digits, networks,
};
use rayon::ThreadPoolBuilder;

use crate::definition::{self, Mode, Parameters, images, parameters, small_networks, used_weights};

fn loss(net: &Graph, parameters: &Parameters, images: &[f64], labels: &[u8]) -> f64 {
    let logits = definition::network(net, parameters, images, labels.len(), Mode::Training).pop().unwrap();
    let rows = logits.chunks_exact(logits.len() / labels.len()).zip(labels);
    let losses =
        rows.map(|(row, &label)| row.iter().map(|x| x.exp()).sum::<f64>().ln() - row[usize::from(label)]);
    losses.sum::<f64>() / labels.len() as f64
}

#[test]
fn gradients_are_differences_of_the_definition() {
    let labels = [2, 0, 3];
    for (name, net) in small_networks() {
        let weights = used_weights(&net, 5);
        let pictures = images(&net, 3, 9);
        let wide: Vec<f64> = pictures.iter().map(|&x| f64::from(x)).collect();
        let mut exact = parameters(&net, &weights);
        let options = TrainingOptions { batch: 3, ..Default::default() };
        let mut training = Training::new(&net, weights, &options).unwrap();
        let found = f64::from(training.differentiate(&pictures, &labels).unwrap());
        let wanted = loss(&net, &exact, &wide, &labels);
        assert!((found - wanted).abs() < 1e-5 * wanted, "{name}: loss {found} for {wanted}");
        for (i, parameter) in net.parameters().iter().enumerate() {
            if !parameter.role.is_learned() {
                assert!(training.gradient(i).unwrap().is_empty());
                continue;
            }
            let step = 1e-5;
            // All of a few, some of many.
            let stride = parameter.len().div_ceil(40);
            let (mut most, mut largest) = (0.0f64, 0.0f64);
            for j in (0..parameter.len()).step_by(stride) {
                let here = exact[i][j];
                let mut at = |value| {
                    exact[i][j] = value;
                    loss(&net, &exact, &wide, &labels)
                };
                let difference = (at(here + step) - at(here - step)) / (2.0 * step);
                exact[i][j] = here;
                most = most.max((f64::from(training.gradient(i).unwrap()[j]) - difference).abs());
                largest = largest.max(difference.abs());
            }
            // A bias before a batch normalisation has no effect, and a gradient of rounding errors.
            assert!(
                most < 2e-4 * largest + 1e-7,
                "{name}, `{}`: off by {most:.1e} of {largest:.1e}",
                parameter.name
            );
        }
    }
}

fn digits_of(steps: usize, threads: usize, seed: u64, kernel: &str, net: &Graph) -> (Vec<f32>, Weights) {
    let set = digits::generate(80, 1).unwrap();
    let options = TrainingOptions {
        batch: 16,
        threads,
        seed,
        optimizer: Optimizer::sgd(0.02),
        kernel: kernel.to_owned(),
    };
    let mut training = Training::new(net, Weights::random(net, seed).unwrap(), &options).unwrap();
    let mut images = vec![0.0; 16 * 784];
    let mut labels = vec![0; 16];
    let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let losses = (0..steps).map(|step| {
        let order = set.order(seed, step as u64);
        set.gather(&order[..16], &mut images, &mut labels).unwrap();
        pool.install(|| training.step(&images, &labels).unwrap())
    });
    (losses.collect(), training.weights().clone())
}

/// LeNet-5 with what else there is to train in it.
fn rich() -> Graph {
    let mut net = Graph::new(Shape::image(1, 28, 28)).unwrap();
    net.then("conv1", Conv::new(1, 6, 5).stride(2).no_bias()).unwrap();
    net.then("norm", cnn::BatchNorm::new(6)).unwrap();
    net.then("relu", Layer::RELU).unwrap();
    net.then("lrn", cnn::Lrn::alexnet()).unwrap();
    let branch = net.last();
    net.then("conv2", Conv::new(6, 6, 3).padding(1)).unwrap();
    net.push("add", Layer::Add, &[branch, net.last()]).unwrap();
    net.then("pool", Layer::AvgPool(cnn::Pool::new(2))).unwrap();
    net.then("flatten", Layer::Flatten).unwrap();
    net.then("dropout", Layer::Dropout(0.3)).unwrap();
    net.then("scores", Linear::new(216, 10)).unwrap();
    net
}

#[test]
fn training_is_the_same_on_any_number_of_threads() {
    for net in [networks::lenet5().unwrap(), rich()] {
        let one = digits_of(6, 1, 3, "auto", &net);
        assert_eq!(one, digits_of(6, 3, 3, "auto", &net));
        assert_eq!(one, digits_of(6, 1, 3, "auto", &net));
        assert_ne!(one.0, digits_of(6, 1, 4, "auto", &net).0);
    }
}

#[test]
fn losses_fall_whatever_the_kernel() {
    let net = networks::lenet5().unwrap();
    for kernel in ["auto", "naive", "direct", "im2col-gemm"] {
        let (losses, _) = digits_of(40, 1, 1, kernel, &net);
        assert!(losses[39] < 0.7 * losses[0], "{kernel}: {losses:?}");
    }
}

/// Running statistics move towards those of the batches, and inference then agrees with training.
#[test]
fn running_statistics_are_observed() {
    let mut net = Graph::new(Shape::Features(1)).unwrap();
    net.then("norm", cnn::BatchNorm::new(1)).unwrap();
    net.then("scores", Linear::new(1, 2)).unwrap();
    let options = TrainingOptions { batch: 4, optimizer: Optimizer::sgd(1e-6), ..Default::default() };
    let mut training = Training::new(&net, Weights::random(&net, 1).unwrap(), &options).unwrap();
    for _ in 0..200 {
        training.step(&[1.0, 2.0, 3.0, 6.0], &[0, 1, 0, 1]).unwrap();
    }
    let observed = |name: &str| training.weights().get(name).unwrap()[0];
    assert!((observed("norm.running_mean") - 3.0).abs() < 1e-4);
    // Of a sample: 14/3.
    assert!((observed("norm.running_var") - 14.0 / 3.0).abs() < 1e-4);
}

/// A step that fails changes no weights, running statistics neither; nor does a gradient without a step.
#[test]
fn only_steps_change_weights() {
    let mut net = Graph::new(Shape::Features(1)).unwrap();
    net.then("norm", cnn::BatchNorm::new(1)).unwrap();
    net.then("scores", Linear::new(1, 2)).unwrap();
    let weights = Weights::random(&net, 1).unwrap();
    let options = TrainingOptions { batch: 2, ..Default::default() };
    let mut training = Training::new(&net, weights.clone(), &options).unwrap();
    assert!(training.step(&[1.0, f32::NAN], &[0, 1]).is_err());
    training.differentiate(&[1.0, 2.0], &[0, 0]).unwrap();
    assert_eq!(*training.weights(), weights);
    training.step(&[1.0, 2.0], &[0, 0]).unwrap();
    let changed = |i| training.weights().values(i) != weights.values(i);
    assert!((0..weights.parameters().len()).all(changed));
}

/// Half of the values are dropped, the others doubled, and gradients go the same way.
#[test]
fn dropout_drops_its_share() {
    let mut net = Graph::new(Shape::Features(1000)).unwrap();
    net.then("dropout", Layer::Dropout(0.5)).unwrap();
    net.then("scores", Linear::new(1000, 2)).unwrap();
    let weights = Weights::random(&net, 1).unwrap();
    let mut training = Training::new(&net, weights.clone(), &TrainingOptions::default()).unwrap();
    let gradient = |training: &mut Training| {
        training.differentiate(&[1.0; 1000], &[0]).unwrap();
        training.gradient(0).unwrap().to_vec()
    };
    let first = gradient(&mut training);
    // dW = dy · x, and x is 0 or 2 times what it was.
    let kept = first[..1000].iter().filter(|g| **g != 0.0).count();
    assert!((420..580).contains(&kept), "{kept}");
    assert!(
        first[..1000]
            .iter()
            .all(|g| *g == 0.0 || *g == first[..1000].iter().copied().find(|g| *g != 0.0).unwrap())
    );
    assert_eq!(first, gradient(&mut training));
    training.step(&[1.0; 1000], &[0]).unwrap();
    let zeros = |g: &[f32]| g[..1000].iter().map(|g| *g == 0.0).collect::<Vec<_>>();
    assert_ne!(zeros(&first), zeros(&gradient(&mut training)));
    let other = TrainingOptions { seed: 1, ..Default::default() };
    assert_ne!(zeros(&first), zeros(&gradient(&mut Training::new(&net, weights, &other).unwrap())));
}

#[test]
fn a_loss_that_is_no_number_stops_with_step_and_layer() {
    let net = networks::lenet5().unwrap();
    let options = TrainingOptions { optimizer: Optimizer::sgd(1e30), ..Default::default() };
    let mut training = Training::new(&net, Weights::random(&net, 1).unwrap(), &options).unwrap();
    let image = vec![0.5; 784];
    let error = (0..5).find_map(|_| training.step(&image, &[1]).err()).unwrap();
    assert!(matches!(&error, Error::Diverged { step: 1.., layer } if layer != "input"), "{error}");

    let mut weights = Weights::random(&net, 1).unwrap();
    weights.values_mut(4).unwrap()[0] = f32::NAN;
    let mut training = Training::new(&net, weights, &options).unwrap();
    let error = training.step(&image, &[1]).unwrap_err();
    assert_eq!(error, Error::Diverged { step: 0, layer: "f5".to_owned() });
    let error = training.step(&[f32::NAN; 784], &[1]).unwrap_err();
    assert_eq!(error, Error::Diverged { step: 0, layer: "input".to_owned() });
}

#[test]
fn what_cannot_be_trained_is_an_error() {
    let net = networks::lenet5().unwrap();
    let new = |options: TrainingOptions| Training::new(&net, Weights::random(&net, 1).unwrap(), &options);
    let message = |options| new(options).unwrap_err().to_string();
    assert!(message(TrainingOptions { batch: 0, ..Default::default() }).starts_with("the batch is 0"));
    assert!(message(TrainingOptions { threads: 0, ..Default::default() }).starts_with("threads is 0"));
    let rate = TrainingOptions { optimizer: Optimizer::sgd(-1.0), ..Default::default() };
    assert!(message(rate).starts_with("rate is -1"));
    let mut training = new(TrainingOptions::default()).unwrap();
    assert!(training.step(&[0.0; 784], &[10]).unwrap_err().to_string().starts_with("a label is 10"));
    assert!(training.step(&[0.0; 783], &[1]).is_err() && training.step(&[0.0; 784], &[]).is_err());
    assert!(training.set_rate(0.0).is_err());
    let wide = networks::sized("lenet5", Shape::image(1, 28, 28), 300).unwrap();
    let weights = Weights::random(&wide, 1).unwrap();
    let message = Training::new(&wide, weights, &TrainingOptions::default()).unwrap_err().to_string();
    assert!(message.contains("1 to 256 classes"), "{message}");
}
