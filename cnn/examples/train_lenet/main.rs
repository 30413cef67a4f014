//! Trains LeNet-5 on digits until it reads at least 98 % of some that it never saw, and a linear classifier
//! beside it, which must stay below 93 % or the digits would be too easy.
//!
//! `cargo run --release --example train_lenet` draws the digits; `-- --mnist FOLDER` reads MNIST's four files,
//! not compressed, from a folder instead. `--seed N` and `--threads N` set those. `--output FOLDER` is where the
//! weights go, the learned filters, some digits, a digit's activation maps and the curve of the losses
//! (`target/lenet` if not given).

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use cnn::{
    Dataset, Graph, Inference, InferenceOptions, Layer, Linear, Optimizer, Training, TrainingOptions,
    Weights, digits, networks,
};
use indicatif::{ProgressBar, ProgressStyle};

mod pictures;

const EPOCHS: u64 = 4;
const BATCH: usize = 50;
/// Share of the held-out digits that the network must read.
const ENOUGH: f64 = 0.98;
/// Share that the linear classifier must stay below on digits drawn here.
const TOO_EASY: f64 = 0.93;

struct Options {
    seed: u64,
    threads: usize,
    mnist: Option<PathBuf>,
    output: PathBuf,
}

fn options() -> Result<Options, Box<dyn Error>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(8);
    let mut options = Options { seed: 1, threads, mnist: None, output: "target/lenet".into() };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let value = args.next().ok_or_else(|| format!("{arg} needs a value"))?;
        match arg.as_str() {
            "--seed" => options.seed = value.parse()?,
            "--threads" => options.threads = value.parse()?,
            "--mnist" => options.mnist = Some(value.into()),
            "--output" => options.output = value.into(),
            _ => return Err(format!("{arg} is none of --seed, --threads, --mnist and --output").into()),
        }
    }
    Ok(options)
}

/// Digits to learn from, and others to be examined on.
fn data(options: &Options) -> Result<[Dataset; 2], Box<dyn Error>> {
    let Some(folder) = &options.mnist else {
        // Far apart, whatever the seed: no held-out digit is drawn from the numbers of a learned one.
        return Ok([digits::generate(20_000, options.seed)?, digits::generate(4_000, !options.seed)?]);
    };
    let read = |name: &str| {
        let path = |what: &str| folder.join(format!("{name}-{what}-ubyte"));
        Dataset::mnist(&path("images-idx3"), &path("labels-idx1"))
    };
    Ok([read("train")?, read("t10k")?])
}

fn inference(net: &Graph, weights: &Weights, options: &Options) -> Result<Inference, cnn::Error> {
    let options = InferenceOptions { batch: BATCH, threads: options.threads, ..Default::default() };
    Inference::new(net, weights, &options)
}

/// Trains a network; gives its weights and the loss of each step.
fn train(
    net: &Graph,
    set: &Dataset,
    options: &Options,
    name: &'static str,
) -> Result<(Weights, Vec<f32>), Box<dyn Error>> {
    let rate = 2e-3;
    let training = TrainingOptions {
        batch: BATCH,
        threads: options.threads,
        optimizer: Optimizer::adam(rate),
        seed: options.seed,
        ..Default::default()
    };
    let mut training = Training::new(net, Weights::random(net, options.seed)?, &training)?;
    let steps = set.len() / BATCH;
    let bar = ProgressBar::new(EPOCHS * steps as u64).with_prefix(name);
    bar.set_style(ProgressStyle::with_template("{prefix:>9} {bar:40} {pos}/{len} {msg} {elapsed}")?);
    let mut images = vec![0.0; BATCH * set.shape().len()];
    let mut labels = vec![0; BATCH];
    let mut losses = Vec::new();
    for epoch in 0..EPOCHS {
        // The rate falls along half a cosine.
        let progress = epoch as f32 / EPOCHS as f32;
        training.set_rate(rate * (0.5 + 0.5 * (std::f32::consts::PI * progress).cos()))?;
        for which in set.order(options.seed, epoch).chunks_exact(BATCH) {
            set.gather(which, &mut images, &mut labels)?;
            losses.push(training.step(&images, &labels)?);
            bar.inc(1);
        }
        let last = &losses[losses.len() - steps..];
        bar.set_message(format!("loss {:.4}", last.iter().sum::<f32>() / steps as f32));
    }
    bar.finish();
    Ok((training.weights().clone(), losses))
}

fn run() -> Result<bool, Box<dyn Error>> {
    let options = options()?;
    std::fs::create_dir_all(&options.output)?;
    let start = Instant::now();
    let [set, held_out] = data(&options)?;
    if set.len() < BATCH {
        return Err(format!("{} digits to learn are too few: a step takes {BATCH}", set.len()).into());
    }
    println!("{} digits to learn, {} held out, seed {}", set.len(), held_out.len(), options.seed);

    let net = networks::sized("lenet5", set.shape(), 10)?;
    println!("{}", net.summary());
    let (weights, losses) = train(&net, &set, &options, "LeNet-5")?;
    let accuracy = held_out.accuracy(&mut inference(&net, &weights, &options)?)?;

    let mut linear = Graph::new(set.shape())?;
    linear.then("flatten", Layer::Flatten)?;
    linear.then("scores", Linear::new(set.shape().len(), 10))?;
    let (linear_weights, linear_losses) = train(&linear, &set, &options, "linear")?;
    let linear_accuracy = held_out.accuracy(&mut inference(&linear, &linear_weights, &options)?)?;

    weights.save(&options.output.join("lenet5.safetensors"))?;
    draw(&net, &weights, &held_out, &options.output)?;
    pictures::curves(&options.output.join("loss.svg"), &[("LeNet-5", &losses), ("linear", &linear_losses)])?;

    println!(
        "LeNet-5 reads {:.2} % of the held-out digits, {:.0} s in all",
        100.0 * accuracy,
        start.elapsed().as_secs_f64()
    );
    println!("a linear classifier reads {:.2} %", 100.0 * linear_accuracy);
    println!("pictures and weights: {}", options.output.display());
    let hard = options.mnist.is_some() || linear_accuracy < TOO_EASY;
    if accuracy < ENOUGH {
        eprintln!("that is less than {:.0} %", 100.0 * ENOUGH);
    }
    if !hard {
        eprintln!("these digits are too easy: the linear classifier reads {:.0} % or more", 100.0 * TOO_EASY);
    }
    Ok(accuracy >= ENOUGH && hard)
}

/// The learned filters, some digits, and the activation maps of the first of them.
fn draw(net: &Graph, weights: &Weights, set: &Dataset, folder: &Path) -> Result<(), Box<dyn Error>> {
    let [_, height, width] = set.shape().dims()[..] else { return Err("images are needed".into()) };
    let filters = weights.get("c1.weight").ok_or("c1 has weights")?;
    pictures::grid(&folder.join("filters.png"), filters, [5, 5], 6, pictures::Scale::Signed)?;
    let all: Vec<f32> = (0..60).filter_map(|i| set.get(i)).flat_map(|(image, _)| image).copied().collect();
    pictures::grid(&folder.join("digits.png"), &all, [height, width], 10, pictures::Scale::Positive)?;
    let (image, _) = set.get(3).ok_or("a digit is needed")?;
    let mut inference =
        Inference::new(net, weights, &InferenceOptions { fuse: false, ..Default::default() })?;
    let mut failed = None;
    inference.run_observed(image, |step, _, values| {
        if let [_, height, width] = net.shape(step.value).dims()[..]
            && step.name.starts_with("relu")
        {
            let path = folder.join(format!("maps-{}.png", step.name));
            let drawn = pictures::grid(&path, values, [height, width], 8, pictures::Scale::Positive);
            failed = failed.take().or(drawn.err());
        }
    })?;
    failed.map_or(Ok(()), Err)
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("train_lenet: {error}");
            ExitCode::FAILURE
        }
    }
}
