//! `net`: whole networks, known ones and models.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use cnn::{Graph, Inference, InferenceOptions, Weights, networks, onnx};
use harness::machine::bytes;
use harness::network::{self, Timed};
use harness::npy;
use harness::pinning::Pool;
use serde_json::json;

use crate::{Outcome, Stop, args, refused};

pub(crate) fn net(args: &args::Net, out: &mut dyn Write) -> Outcome {
    let network = Network::of(&args.network)?;
    let graph = &network.graph;
    if args.summary {
        return Ok(writeln!(out, "{}", graph.summary())?);
    }
    let time = Duration::try_from_secs_f64(args.time)
        .map_err(|_| refused(format!("--time is {}, but must be a number of seconds", args.time)))?;
    if let Some(path) = &args.save {
        return save(args, &network, path, out);
    }
    let input = args.input.as_ref().map(|path| Images::read(path, graph, &args.batch)).transpose()?;
    let given = input.as_ref().map(|images| images.batch);
    let batches = match (given, args.batch.as_slice()) {
        (Some(batch), _) => &[batch][..],
        (None, []) => &[network.batch.unwrap_or(1)],
        (None, batches) => batches,
    };
    let mut rows = Vec::new();
    let mut shown = false;
    for &batch in batches {
        for &threads in &args.threads {
            let options = InferenceOptions {
                batch,
                threads,
                kernel: args.kernel.clone(),
                accuracy: args.accuracy.into(),
                ..Default::default()
            };
            let (mut inference, timed) = network.time(&options, input.as_ref(), time)?;
            let mut row = json!({ "network": args.network, "kernel": args.kernel, "timed": timed });
            if let Some(images) = &input {
                let output = Pool::new(threads).map_err(refused)?.run(|| inference.run(&images.values));
                let output = output.map_err(refused)?;
                if !shown && let Some(path) = &args.output {
                    let shape = [&[batch], graph.output_shape().dims().as_slice()].concat();
                    npy::write(path, &shape, output).map_err(refused)?;
                }
                let largest: Vec<_> = output.chunks_exact(output.len() / batch).map(largest).collect();
                row["largest"] = json!(largest);
                if !args.json && !shown {
                    writeln!(out, "{}", graph.summary())?;
                    write_largest(&largest, graph, out)?;
                }
            } else if !args.json && !shown && network.weights.is_some() {
                writeln!(out, "{}\n", graph.summary())?;
            }
            shown = true;
            if args.json {
                rows.push(row);
            } else {
                write(args, &timed, out)?;
            }
        }
    }
    match args.json {
        true => Ok(writeln!(out, "{:#}", json!(rows))?),
        false => Ok(()),
    }
}

/// A network by its name, or one from a file, which has weights.
struct Network {
    graph: Graph,
    weights: Option<Weights>,
    batch: Option<usize>,
}

impl Network {
    fn of(name: &str) -> Result<Self, Stop> {
        let path = Path::new(name);
        let is_model = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("onnx"));
        if networks::names().any(|known| known == name) || !(is_model || path.exists()) {
            let graph =
                networks::network(name).map_err(|error| refused(format!("{error}, or an .onnx model")))?;
            return Ok(Network { graph, weights: None, batch: None });
        }
        let onnx::Model { graph, weights, batch } = onnx::load(path).map_err(refused)?;
        Ok(Network { graph, weights: Some(weights), batch })
    }

    /// Ready to run, after it was timed on these images or on random ones.
    fn time(
        &self,
        options: &InferenceOptions,
        input: Option<&Images>,
        time: Duration,
    ) -> Result<(Inference, Timed), Stop> {
        let graph = &self.graph;
        network::check_memory(graph, options.batch).map_err(refused)?;
        let mut inference = match &self.weights {
            Some(weights) => Inference::new(graph, weights, options),
            None => Weights::random(graph, SEED).and_then(|weights| Inference::new(graph, &weights, options)),
        }
        .map_err(refused)?;
        let random;
        let images = match input {
            Some(images) => &images.values,
            None => {
                random = network::images(graph, options.batch);
                &random
            }
        };
        let timed = network::time_on(graph, &mut inference, images, options, time).map_err(refused)?;
        Ok((inference, timed))
    }
}

/// Of weights that are random.
const SEED: u64 = 1;

fn save(args: &args::Net, network: &Network, path: &Path, out: &mut dyn Write) -> Outcome {
    let batch = match args.batch.as_slice() {
        [] => network.batch,
        &[batch] if batch > 0 => Some(batch),
        _ => return Err(refused("--save writes one model: --batch must be one number of at least 1")),
    };
    network::check_memory(&network.graph, 1).map_err(refused)?;
    let random;
    let weights = match &network.weights {
        Some(weights) => weights,
        None => {
            random = Weights::random(&network.graph, SEED).map_err(refused)?;
            &random
        }
    };
    onnx::save(&network.graph, weights, batch, path).map_err(refused)?;
    let batch = batch.map_or("of any size".to_owned(), |batch| format!("of {batch}"));
    Ok(writeln!(out, "{} with batches {batch} is in {}", args.network, path.display())?)
}

/// Images from a file.
struct Images {
    batch: usize,
    values: Vec<f32>,
}

impl Images {
    /// Images that a network takes, in batches of the size that was asked for, if one was.
    fn read(path: &Path, graph: &Graph, batches: &[usize]) -> Result<Self, Stop> {
        let dims = graph.input_shape().dims();
        let array = npy::read(path, 1 + dims.len()).map_err(refused)?;
        let wrong = |what: String| refused(format!("{}: {what}", path.display()));
        let [batch, extents @ ..] = array.shape.as_slice() else {
            return Err(wrong("has no axes".to_owned()));
        };
        if extents != dims {
            let wanted: Vec<String> = dims.iter().map(usize::to_string).collect();
            let (shape, wanted) = (&array.shape, wanted.join(", "));
            return Err(wrong(format!("has shape {shape:?}, but the network takes [batch, {wanted}]")));
        }
        if !matches!(batches, [] | [_]) || batches.first().is_some_and(|asked| asked != batch) {
            return Err(wrong(format!("holds {batch} images, but --batch asks for {batches:?}")));
        }
        Ok(Images { batch: *batch, values: array.values })
    }
}

/// How many outputs are shown.
const SHOWN: usize = 5;
/// Of how many images.
const SHOWN_IMAGES: usize = 16;

/// The largest outputs of an image, with their places.
fn largest(output: &[f32]) -> Vec<(usize, f32)> {
    let mut places: Vec<(usize, f32)> = output.iter().copied().enumerate().collect();
    places.sort_by(|a, b| b.1.total_cmp(&a.1));
    places.truncate(SHOWN);
    places
}

fn write_largest(images: &[Vec<(usize, f32)>], graph: &Graph, out: &mut dyn Write) -> Outcome {
    writeln!(out, "\nlargest of {} outputs, as place: value", graph.output_shape())?;
    for (i, places) in images.iter().take(SHOWN_IMAGES).enumerate() {
        let places: Vec<String> =
            places.iter().map(|(place, value)| format!("{place}: {value:.4}")).collect();
        writeln!(out, "image {i}   {}", places.join("   "))?;
    }
    match images.len().checked_sub(SHOWN_IMAGES + 1) {
        Some(more) => Ok(writeln!(out, "and {} images more\n", more + 1)?),
        None => Ok(writeln!(out)?),
    }
}

fn write(args: &args::Net, timed: &Timed, out: &mut dyn Write) -> Outcome {
    let Timed { batch, threads, runs, median_ms, fastest_ms, images_per_second, gflops, .. } = timed;
    let [activations, scratch, weights] = timed.bytes.map(|n| bytes(n as u64));
    let name = &args.network;
    writeln!(
        out,
        "{name} by {}, batch {batch}, threads {threads}: {median_ms:.2} ms (median of {runs}, fastest \
         {fastest_ms:.2}), {images_per_second:.1} images/s, {gflops:.0} GFLOP/s",
        args.kernel
    )?;
    writeln!(out, "memory: activations {activations}, scratch {scratch}, packed weights {weights}")?;
    let longest = timed.layers.iter().map(|part| part.name.chars().count()).max().unwrap_or(0).max(5);
    writeln!(out, "{:<longest$}  {:>8}  {:>6}  {:>7}  kernel", "layer", "ms", "share", "GFLOP/s")?;
    for part in &timed.layers {
        let gflops = if part.gflops > 0.0 { format!("{:.0}", part.gflops) } else { String::new() };
        writeln!(
            out,
            "{:<longest$}  {:>8.3}  {:>5.1}%  {gflops:>7}  {}",
            part.name,
            part.median_ms,
            100.0 * part.share,
            part.kernel.as_deref().unwrap_or(part.kind),
        )?;
    }
    Ok(writeln!(out)?)
}
