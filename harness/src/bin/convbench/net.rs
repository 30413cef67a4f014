//! `net`: whole networks, known ones and models.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cnn::{Graph, Weights, networks, onnx};
use harness::engine::OURS;
use harness::machine::bytes;
use harness::network::{self, Bench, Measured, NetworkRow, Request, SEED};
use harness::npy;
use harness::peers::{self, Paths};
use harness::provenance::Run;
use harness::record::{Lines, Status};
use harness::report::numbers::{digits, percent, time, times};
use harness::report::text::text_table;

use crate::{Outcome, Stop, args, progress, refused};

pub(crate) fn net(args: &args::Net, out: &mut dyn Write) -> Outcome {
    let Network { graph, weights, batch } = Network::of(&args.network)?;
    if args.summary {
        return Ok(writeln!(out, "{}", graph.summary())?);
    }
    let time = Duration::try_from_secs_f64(args.time)
        .map_err(|_| refused(format!("--time is {}, but must be a number of seconds", args.time)))?;
    if let Some(path) = &args.save {
        return save(args, &graph, weights, batch, path, out);
    }
    for id in &args.kernel {
        kernels::kernel(id).map_err(refused)?;
    }
    let input = args.input.as_ref().map(|path| Images::read(path, &graph, &args.batch)).transpose()?;
    let batches = match (&input, args.batch.as_slice()) {
        (Some(images), _) => vec![images.batch],
        (None, []) => vec![batch.unwrap_or(1)],
        (None, batches) => batches.to_vec(),
    };
    let peers = peers(args)?;
    // Of a network that is known by name, the table is an option.
    let with_summary = input.is_some() || weights.is_some();
    let request = Request {
        name: &args.network,
        graph: &graph,
        kernels: &args.kernel,
        accuracy: args.accuracy.into(),
        peers: &peers,
        time,
        run: Arc::new(Run::of_process()),
    };
    let bench = Bench::new(request, weights).map_err(refused)?;
    let named = |path: &Path, error: std::io::Error| refused(format!("{}: {error}", path.display()));
    let create = |path: &Path| Lines::create(path).map_err(|error| named(path, error));
    let mut lines = args.json.as_deref().map(create).transpose()?;
    progress::catch_interrupts();
    let task = Task { args, graph: &graph, bench: &bench, input: input.as_ref(), with_summary };
    let outcome = task.run(&batches, lines.as_mut(), out);
    // What was measured before whoever read the output went away is kept as after Ctrl-C.
    let stopped = progress::interrupted() || matches!(outcome, Err(Stop::Closed));
    match (lines, args.json.as_deref(), &outcome) {
        (Some(lines), Some(path), Ok(()) | Err(Stop::Closed | Stop::Failed(_))) => {
            lines.finish(stopped).map_err(|error| named(path, error))?;
        }
        (Some(lines), ..) => lines.abandon(),
        (None, ..) => {}
    }
    outcome?;
    match progress::interrupted() {
        true => Err(Stop::Failed("stopped before all rows were measured".to_owned())),
        false => Ok(()),
    }
}

/// The other libraries that are asked for.
fn peers(args: &args::Net) -> Result<Vec<Box<dyn harness::engine::Engine>>, Stop> {
    if args.onnxruntime.is_some() && !args.peers.iter().any(|peer| peer == "onnxruntime" || peer == "all") {
        return Err(refused("--onnxruntime is given, but --peers does not name onnxruntime, nor all"));
    }
    let paths = Paths { onnxruntime: args.onnxruntime.clone(), ..Paths::default() };
    peers::find(&args.peers, &paths, None).map_err(refused)
}

/// What is to be measured.
struct Task<'a> {
    args: &'a args::Net,
    graph: &'a Graph,
    bench: &'a Bench<'a>,
    input: Option<&'a Images>,
    /// Whether the table of layers comes first.
    with_summary: bool,
}

impl Task<'_> {
    /// Every batch with every number of threads.
    fn run(&self, batches: &[usize], mut lines: Option<&mut Lines>, out: &mut dyn Write) -> Outcome {
        let args = self.args;
        let mut wrong = None;
        let mut shown = false;
        for &batch in batches {
            for &threads in &args.threads {
                let images = self.input.map(|images| &images.values[..]);
                let mut carry_on = || !progress::interrupted();
                let measured = self.bench.measure(batch, threads, images, &mut carry_on).map_err(refused)?;
                let rows = &measured.rows;
                if !std::mem::replace(&mut shown, true) {
                    self.show(batch, &measured, out)?;
                }
                if let Some(lines) = &mut lines {
                    rows.iter().try_for_each(|row| lines.add(row)).map_err(refused)?;
                }
                write(rows, out)?;
                let is_wrong = |row: &&NetworkRow| row.status == Status::Wrong;
                wrong = wrong.or(rows.iter().find(is_wrong).map(|row| row.requested.clone()));
                if progress::interrupted() {
                    return Ok(());
                }
            }
        }
        match wrong {
            Some(engine) => Err(Stop::Failed(format!("{engine} computes another network"))),
            None => Ok(()),
        }
    }

    /// The table of layers; and what the network gives for the images of a file: into another, and the largest.
    fn show(&self, batch: usize, measured: &Measured, out: &mut dyn Write) -> Outcome {
        if let Some(path) = &self.args.output {
            let shape = [&[batch], self.graph.output_shape().dims().as_slice()].concat();
            npy::write(path, &shape, &measured.output).map_err(refused)?;
        }
        if self.with_summary {
            writeln!(out, "{}\n", self.graph.summary())?;
        }
        match measured.rows.first() {
            Some(row) if self.input.is_some() => write_largest(&row.largest, self.graph, out),
            _ => Ok(()),
        }
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
}

fn save(
    args: &args::Net,
    graph: &Graph,
    weights: Option<Weights>,
    batch: Option<usize>,
    path: &Path,
    out: &mut dyn Write,
) -> Outcome {
    let batch = match args.batch.as_slice() {
        [] => batch,
        &[batch] if batch > 0 => Some(batch),
        _ => return Err(refused("--save writes one model: --batch must be one number of at least 1")),
    };
    network::check_memory(graph, 1, 0).map_err(refused)?;
    let weights = weights.map_or_else(|| Weights::random(graph, SEED), Ok).map_err(refused)?;
    onnx::save(graph, &weights, batch, path).map_err(refused)?;
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

/// Images whose largest outputs are shown.
const SHOWN_IMAGES: usize = 16;

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

/// The rows of a setting; then what the first of ours spends its time on.
fn write(rows: &[NetworkRow], out: &mut dyn Write) -> Outcome {
    let Some(first) = rows.first() else { return Ok(()) };
    writeln!(out, "{}, batch {}, threads {}", first.network, first.batch, first.threads)?;
    let heads =
        ["engine", "median", "quartiles", "fastest", "images/s", "GFLOP/s", "times the first", "first run"];
    let cells = rows.iter().map(|row| {
        let of = |value: Option<f64>, show: fn(f64) -> String| value.map(show).unwrap_or_default();
        let quartiles = row.quarter_ns.zip(row.three_quarters_ns);
        let quartiles = quartiles.map_or(String::new(), |(a, b)| format!("{}–{}", time(a), time(b)));
        let interval = row.ratio_low.zip(row.ratio_high);
        let interval = interval.map_or(String::new(), |(a, b)| format!(" [{}–{}]", digits(a), digits(b)));
        vec![
            row.requested.clone(),
            of(row.median_ns, time),
            quartiles,
            of(row.min_ns, time),
            of(row.images_per_second, digits),
            of(row.gflops, digits),
            row.ratio.map_or(String::new(), |ratio| format!("{}{interval}", times(ratio))),
            of(row.first_ns, time),
        ]
    });
    write!(out, "{}", text_table(&heads, &cells.collect::<Vec<_>>()))?;
    for row in rows {
        if let Some(reason) = &row.reason {
            writeln!(out, "{}: {reason}", row.requested)?;
        }
    }
    if let (Some(activations), Some(scratch), Some(packed)) =
        (first.activation_bytes, first.workspace_bytes, first.packed_bytes)
    {
        let [activations, scratch, packed] = [activations, scratch, packed].map(|n| bytes(n as u64));
        writeln!(out, "memory: activations {activations}, scratch {scratch}, packed weights {packed}")?;
    }
    if first.engine == OURS {
        let all = first.parts_ns();
        let parts = first.parts.iter().map(|part| {
            vec![
                part.name.clone(),
                time(part.median_ns),
                percent(part.median_ns / all),
                if part.gflops > 0.0 { format!("{:.0}", part.gflops) } else { String::new() },
                part.kernel.clone().unwrap_or_else(|| part.kind.clone()),
            ]
        });
        let parts: Vec<Vec<String>> = parts.collect();
        write!(out, "\n{}", text_table(&["layer", "time", "share", "GFLOP/s", "by"], &parts))?;
    }
    Ok(writeln!(out)?)
}
