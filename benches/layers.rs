//! `cargo bench`: every kernel on a dozen layers, on one thread and on all cores, by criterion; then all
//! of them again in turns for a ranking, and a report under `target/convbench/`.
//!
//! `CONV_NETWORK=resnet50,vgg16` takes the layers of those networks instead. With a filter or any other
//! option of criterion there is no ranking.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{Criterion, Throughput};
use harness::bench::{BASELINE, Observer, Request, blank, sampling, usual, verified};
use harness::data::{Kind, tensors};
use harness::engine::{Engine, Io, Ours};
use harness::file::write_whole;
use harness::layers::{Layer, network};
use harness::machine;
use harness::pinning::{Pool, cores};
use harness::provenance::Run;
use harness::record::{Clock, Record};
use harness::report::results::{self, Source};
use harness::report::text::ranking_text;
use kernels::{Accuracy, Stores, Workspace};

/// Wall time, with throughput in GFLOP/s.
struct Gflops(WallTime);

impl Measurement for Gflops {
    type Intermediate = <WallTime as Measurement>::Intermediate;
    type Value = Duration;

    fn start(&self) -> Self::Intermediate {
        self.0.start()
    }

    fn end(&self, start: Self::Intermediate) -> Duration {
        self.0.end(start)
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        self.0.add(a, b)
    }

    fn zero(&self) -> Duration {
        self.0.zero()
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        self.0.to_f64(value)
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        self
    }
}

impl ValueFormatter for Gflops {
    fn scale_values(&self, typical: f64, values: &mut [f64]) -> &'static str {
        self.0.formatter().scale_values(typical, values)
    }

    /// Elements are floating-point operations; values are nanoseconds.
    fn scale_throughputs(&self, typical: f64, throughput: &Throughput, values: &mut [f64]) -> &'static str {
        match throughput {
            Throughput::Elements(flops) => {
                for value in values {
                    *value = *flops as f64 / *value;
                }
                "GFLOP/s"
            }
            other => self.0.formatter().scale_throughputs(typical, other, values),
        }
    }

    fn scale_for_machines(&self, values: &mut [f64]) -> &'static str {
        self.0.formatter().scale_for_machines(values)
    }
}

fn criterion_runs(criterion: &mut Criterion<Gflops>, layers: &[Layer], pools: &[Pool]) -> Result<(), String> {
    for layer in layers {
        machine::check_memory(&layer.spec, 1, 1)?;
        let tensors = tensors(&layer.spec, Kind::Real, 0);
        let output = RefCell::new(tensors.previous.clone());
        let workspace = RefCell::new(Workspace::default());
        let io = Io { tensors: &tensors, output: &output, workspace: &workspace };
        let kernels: Vec<Ours> = {
            let (accuracy, stores) = (Accuracy::default(), Stores::default());
            usual(layer, accuracy)
                .into_iter()
                .map(|kernel| Ours { accuracy, stores, ..Ours::new(kernel) })
                .collect()
        };
        for pool in pools {
            let mut group = criterion.benchmark_group(format!("{}/{}t", layer.name, pool.threads()));
            group.throughput(Throughput::Elements(layer.spec.flops()));
            for kernel in &kernels {
                let mut prepared = None;
                let mut failure = None;
                group.bench_function(kernel.id(), |bencher| {
                    // Not before the filter has let it through.
                    if prepared.is_none() && failure.is_none() {
                        let mut row = blank(layer, kernel, pool, Clock::Warm, None);
                        match verified(kernel, layer, io, pool, sampling(layer), &mut row) {
                            Ok(right) => prepared = Some(right),
                            Err(refusal) => failure = Some(refusal.reason),
                        }
                    }
                    bencher.iter_custom(|repeats| match &mut prepared {
                        // A run that worked once fails only with the machine.
                        Some(prepared) => prepared.time(repeats).unwrap_or_default(),
                        None => Duration::from_nanos(1),
                    });
                });
                if let Some(reason) = failure {
                    return Err(format!("{} on `{}`: {reason}", kernel.id(), layer.spec));
                }
            }
            group.finish();
        }
    }
    Ok(())
}

struct Progress {
    done: usize,
    of: usize,
}

impl Observer for Progress {
    fn next(&mut self, layer: &Layer, threads: usize, _: Clock) {
        self.done += 1;
        println!("ranking {}/{}: {}, {}", self.done, self.of, layer.name, results::threads(threads));
    }

    fn rows(&mut self, _: &[Record]) {}

    fn carry_on(&mut self) -> bool {
        true
    }
}

fn ranking(layers: Vec<Layer>, pools: &[Pool]) -> Result<(), String> {
    let threads: Vec<usize> = pools.iter().map(Pool::threads).collect();
    let mut progress = Progress { done: 0, of: layers.len() * threads.len() };
    let request = Request {
        layers,
        gradient: None,
        kernels: Vec::new(),
        accuracy: Accuracy::default(),
        stores: Stores::default(),
        peers: Vec::new(),
        threads,
        clocks: vec![Clock::Warm],
        time: Duration::from_millis(250),
        roofs: true,
        baseline: BASELINE.to_owned(),
        run: Arc::new(Run::new("cargo bench".to_owned())),
    };
    let rows = harness::bench::bench(&request, &mut progress)?;
    println!("\n{}", ranking_text(&rows));
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("convbench");
    let save = || {
        std::fs::create_dir_all(&folder)?;
        write_whole(&folder.join("rows.jsonl"), |file| {
            for row in &rows {
                serde_json::to_writer(&mut *file, row)?;
                writeln!(file)?;
            }
            Ok(())
        })
    };
    save().map_err(|error| format!("{}: {error}", folder.display()))?;
    let source = Source { name: "rows.jsonl".to_owned(), rows, networks: Vec::new(), interrupted: false };
    harness::report::write(&folder, vec![source])?;
    println!("report: {}", folder.join(harness::report::PAGE).display());
    Ok(())
}

fn run() -> Result<(), String> {
    let names = std::env::var("CONV_NETWORK").unwrap_or_else(|_| "default".to_owned());
    let mut layers = Vec::new();
    for name in names.split(',') {
        layers.extend(network(name).map_err(|error| error.to_string())?);
    }
    let counts = if cores() > 1 { vec![1, cores()] } else { vec![1] };
    let pools = counts.into_iter().map(Pool::new).collect::<Result<Vec<_>, _>>()?;
    if !pools.iter().all(Pool::is_pinned) {
        println!("the system does not let threads be kept on their cores: figures scatter");
    }
    let mut criterion = Criterion::default()
        .with_measurement(Gflops(WallTime))
        .sample_size(10)
        .warm_up_time(Duration::from_millis(150))
        .measurement_time(Duration::from_millis(400))
        .nresamples(2000)
        .without_plots()
        .configure_from_args();
    criterion_runs(&mut criterion, &layers, &pools)?;
    criterion.final_summary();
    if std::env::args().skip(1).all(|argument| argument == "--bench") {
        ranking(layers, &pools)?;
    }
    Ok(())
}

fn main() -> std::process::ExitCode {
    match run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            std::process::ExitCode::FAILURE
        }
    }
}
