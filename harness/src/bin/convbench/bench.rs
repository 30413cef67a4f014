//! `bench`: kernels on layers.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use harness::bench::{Observer, Request};
use harness::gpu;
use harness::layers::{self, Layer, Skipped};
use harness::peers::{self, Paths};
use harness::provenance::Run;
use harness::record::{Clock, Gradient, Lines, Record, Role, Status};
use harness::report::results::{Setting, threads};
use harness::report::text::{by_layer, cells, heads, ranking_text, text_table};
use indicatif::ProgressBar;
use kernels::ConvError;
use kernels::backward::{Op, kernels_of};

use crate::{Outcome, Stop, args, progress, refused};

pub(crate) fn bench(args: &args::Bench, out: &mut dyn Write) -> Outcome {
    let (layers, skipped) = wanted(&args.what)?;
    if args.list {
        return list(&layers, &skipped, out);
    }
    for skipped in &skipped {
        writeln!(out, "{skipped}")?;
    }
    let roofs = args.roofs || (args.what.spec.is_empty() && args.what.problem.is_empty());
    measure(request(&args.what, layers, roofs)?, args.json.as_deref(), out).map(|_| ())
}

/// Measures what is asked for, without roofs, and returns the rows if that went well.
pub(crate) fn rows(what: &args::What) -> Result<Vec<Record>, Stop> {
    measure(request(what, wanted(what)?.0, false)?, None, &mut std::io::sink())
}

/// The layers, as they are to be measured; and what of their files cannot be.
fn wanted(args: &args::What) -> Result<(Vec<Layer>, Vec<Skipped>), Stop> {
    args.check().map_err(refused)?;
    let (layers, skipped) = layers(args)?;
    let layers = layers::with_layout(layers, args.layout.map(Into::into));
    Ok((layers::with_batches(layers, &args.batch).map_err(refused)?, skipped))
}

/// The kernels that are named, as those of an operation.
///
/// # Errors
/// An id that it has no kernel of.
pub(crate) fn ids(op: Op, named: &[String]) -> Result<Vec<&'static str>, Stop> {
    let known = kernels_of(op);
    let find = |id: &String| match (known.iter().find(|known| *known == id), op) {
        (Some(id), _) => Ok(*id),
        (None, Op::BackwardWeights) => {
            let known = known.join(", ");
            Err(refused(ConvError::UnknownKernel { id: id.chars().take(40).collect(), known }))
        }
        (None, _) => kernels::kernel(id).map(|kernel| kernel.id()).map_err(refused),
    };
    named.iter().map(find).collect()
}

/// Checks all that is asked for.
fn request(args: &args::What, layers: Vec<Layer>, roofs: bool) -> Result<Request, Stop> {
    kernels::Isa::best().map_err(refused)?;
    let op = args.op.into();
    let gradient = Gradient::of(op);
    let kernels = ids(op, &args.kernel)?;
    if let Some(threads) = args.threads.iter().find(|&&threads| threads == 0 || threads > 1024) {
        return Err(refused(format!("--threads is {threads}, but must be 1 to 1024")));
    }
    let paths = Paths {
        onednn: args.onednn.clone(),
        onnxruntime: args.onnxruntime.clone(),
        cudnn: args.cudnn.clone(),
    };
    let peers = peers::find(&args.peers, &paths, gradient).map_err(refused)?;
    let gpu_kernel = |id: &&str| kernels::kernel(id).is_ok_and(|kernel| kernel.on_gpu());
    let on_gpu = kernels.iter().any(gpu_kernel) || peers.iter().any(|p| p.on_device());
    let clocks = match &args.clock[..] {
        [] if on_gpu => vec![Clock::Warm, Clock::Device],
        [] => vec![Clock::Warm],
        clocks => clocks.iter().map(|&clock| clock.into()).collect(),
    };
    if !on_gpu && clocks.contains(&Clock::Device) {
        return Err(refused("--clock device times what runs on a GPU, but no such kernel or peer is named"));
    }
    let mut run = Run::of_process();
    if on_gpu {
        run.gpu = gpu::devices().ok().and_then(|devices| devices.first().map(ToString::to_string));
    }
    let mut request = Request {
        layers,
        gradient,
        kernels,
        accuracy: args.accuracy.into(),
        stores: args.stores.into(),
        peers,
        threads: args.threads.clone(),
        clocks,
        time: seconds("--time", args.time, 3600.0)?,
        roofs,
        baseline: args.baseline.clone(),
        run: Arc::new(run),
    };
    let known = |id: &str| {
        kernels_of(op).contains(&id)
            || id == harness::bench::BASELINE
            || request.peers.iter().any(|peer| peer.id() == id)
    };
    if !known(&args.baseline) {
        return Err(refused(format!("--baseline {} is no kernel and no peer of this run", args.baseline)));
    }
    if let Some(budget) = args.budget {
        let budget = seconds("--budget", budget, 1e6)?;
        let settings = request.settings();
        let rows = request
            .layers
            .iter()
            .flat_map(|layer| settings.iter().map(|(_, clock)| request.rows_of(layer, *clock)));
        let rows = rows.sum::<usize>().max(1);
        request.time = (budget / u32::try_from(rows).unwrap_or(u32::MAX)).max(Duration::from_millis(1));
    }
    Ok(request)
}

/// Measures, shows rows as they come, and concludes.
fn measure(request: Request, json: Option<&Path>, out: &mut dyn Write) -> Result<Vec<Record>, Stop> {
    let lines = match json {
        Some(path) => Some(Lines::create(path).map_err(|error| named(path, &error))?),
        None => None,
    };
    progress::catch_interrupts();
    let steps = request.layers.len() * request.settings().len();
    let bar = progress::bar(steps as u64);
    let mut terminal = Terminal { out: &mut *out, lines, bar, error: None };
    let heading = format!("{}, {} cores\n", request.run.cpu, request.run.cores);
    terminal.print(&heading)?;
    let outcome = harness::bench::bench(&request, &mut terminal);
    terminal.bar.finish_and_clear();
    let Terminal { lines, error, .. } = terminal;
    // What was measured before whoever read the output went away is kept as after Ctrl-C.
    let stopped = progress::interrupted() || matches!(error, Some(Stop::Closed));
    match (lines, json, &outcome, &error) {
        (Some(lines), Some(path), Ok(_), None | Some(Stop::Closed)) => {
            lines.finish(stopped).map_err(|error| named(path, &error))?;
        }
        (Some(lines), ..) => lines.abandon(),
        (None, ..) => {}
    }
    if let Some(error) = error {
        return Err(error);
    }
    let rows = outcome.map_err(refused)?;
    conclude(&request, &rows, out)?;
    Ok(rows)
}

/// A length of time that makes sense.
pub(crate) fn seconds(option: &str, value: f64, most: f64) -> Result<Duration, Stop> {
    let time = Duration::try_from_secs_f64(value).ok();
    time.filter(|time| *time >= Duration::from_millis(1) && value <= most)
        .ok_or_else(|| refused(format!("{option} is {value}, but must be 0.001 to {most} seconds")))
}

fn named(path: &Path, error: &std::io::Error) -> Stop {
    refused(format!("{}: {error}", path.display()))
}

/// The layers asked for, the default ones if none are; and what of their files cannot be measured.
fn layers(args: &args::What) -> Result<(Vec<Layer>, Vec<Skipped>), Stop> {
    let mut all: Vec<Layer> = args.spec.iter().map(|spec| Layer::of_spec(*spec)).collect();
    all.extend(args.problem.iter().cloned());
    let mut skipped = Vec::new();
    for path in &args.layers {
        let (layers, more) = layers::read(path).map_err(refused)?;
        all.extend(layers);
        skipped.extend(more);
    }
    for name in &args.network {
        all.extend(layers::network(name).map_err(refused)?);
    }
    if all.is_empty() {
        all = layers::network("default").map_err(refused)?;
    }
    Ok((all, skipped))
}

fn list(layers: &[Layer], skipped: &[Skipped], out: &mut dyn Write) -> Outcome {
    let rows: Vec<Vec<String>> = layers
        .iter()
        .map(|layer| vec![layer.name.clone(), layer.count.to_string(), layer.spec.to_string()])
        .collect();
    write!(out, "{}", text_table(&["layer", "count", "spec"], &rows))?;
    for skipped in skipped {
        writeln!(out, "{skipped}")?;
    }
    Ok(writeln!(out, "\nnetworks: {}", layers::network_names().join(", "))?)
}

struct Terminal<'a> {
    out: &'a mut dyn Write,
    lines: Option<Lines>,
    bar: ProgressBar,
    error: Option<Stop>,
}

impl Terminal<'_> {
    fn print(&mut self, text: &str) -> Outcome {
        let out = &mut *self.out;
        self.bar.suspend(|| writeln!(out, "{text}").and_then(|()| out.flush()))?;
        Ok(())
    }

    fn show(&mut self, rows: &[Record]) -> Outcome {
        for layer in by_layer(rows) {
            let Some(first) = layer.first() else { continue };
            let name = if first.layer == first.spec { "" } else { first.layer.as_str() };
            let cells: Vec<Vec<String>> = layer.iter().map(|row| cells(row).to_vec()).collect();
            let setting = match Setting::of(first) {
                setting if setting.is_plain() && first.clock == Clock::Warm => threads(first.threads),
                setting => setting.label(),
            };
            let head = format!("{name} {}, {setting}", first.spec);
            let mut text = format!("{}\n{}", head.trim_start(), text_table(&heads(&layer), &cells));
            for row in layer.iter().filter(|row| row.status != Status::Ok) {
                let reason = row.reason.as_deref().unwrap_or_default();
                text += &format!("{}: {reason}\n", row.requested);
            }
            self.print(&text)?;
        }
        Ok(())
    }
}

impl Observer for Terminal<'_> {
    fn next(&mut self, layer: &Layer, _: usize, _: Clock) {
        self.bar.set_message(layer.name.clone());
    }

    fn rows(&mut self, rows: &[Record]) {
        self.bar.inc(1);
        let mut write = || {
            if let Some(lines) = &mut self.lines {
                for row in rows {
                    lines.add(row).map_err(refused)?;
                }
            }
            self.show(rows)
        };
        if let Err(error) = write() {
            self.error.get_or_insert(error);
        }
    }

    fn carry_on(&mut self) -> bool {
        !progress::interrupted() && self.error.is_none()
    }
}

/// The ranking, and the exit code: wrong results fail, a request none of whose rows could be met is
/// refused.
fn conclude(request: &Request, rows: &[Record], out: &mut dyn Write) -> Outcome {
    let main = || rows.iter().filter(|row| row.role == Role::Main);
    if request.layers.len() > 1 && rows.iter().any(|row| row.status == Status::Ok) {
        write!(out, "{}", ranking_text(rows))?;
    }
    let wrong = rows.iter().filter(|row| row.status == Status::Wrong).count();
    if wrong > 0 {
        return Err(Stop::Failed(format!("{wrong} of {} rows are wrong", rows.len())));
    }
    if progress::interrupted() {
        return Err(Stop::Failed("stopped before all rows were measured".to_owned()));
    }
    match main().find_map(|row| row.reason.clone()) {
        Some(reason) if main().all(|row| row.status != Status::Ok) => Err(Stop::Refused(reason)),
        _ => Ok(()),
    }
}
