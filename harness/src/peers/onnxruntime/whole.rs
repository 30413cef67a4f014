//! Whole networks: optimized as far as the library can, and what it records of its operators.

use std::borrow::Cow;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::Temporary;
use super::api::{End, Level, Library, Session};
use crate::file::read_most;
use crate::network::{Model, Part};
use crate::pinning::Pool;
use crate::statistics::median;

/// A session of a network, and how long making it took. Its threads are kept on the pool's cores.
pub(super) fn session<'a>(
    library: &'a Library,
    model: &Model<'a>,
    pool: &Pool,
    profile: Option<&Path>,
) -> Result<(Session<'a>, Duration), String> {
    pool.drive_and_adopt(|| {
        let ends = [
            End { name: Model::INPUT, shape: &model.input_shape },
            End { name: &model.output, shape: &model.output_shape },
        ];
        let input = Cow::Borrowed(model.input);
        let start = Instant::now();
        let session = Session::new(library, model.bytes, Level::All, pool.threads(), profile, input, ends)?;
        Ok((session, start.elapsed()))
    })
}

/// Runs that are recorded, after one that is not counted.
const RUNS: usize = 3;
/// Most bytes of a record.
const MOST: u64 = 64 << 20;

/// An event of the library's record.
#[derive(Deserialize)]
struct Event {
    #[serde(default)]
    cat: String,
    name: String,
    /// Microseconds.
    #[serde(default)]
    dur: f64,
    #[serde(default)]
    args: Arguments,
}

#[derive(Default, Deserialize)]
struct Arguments {
    op_name: Option<String>,
}

/// What each operator takes, as the library records it.
pub(super) fn parts(library: &Library, model: &Model<'_>, pool: &Pool) -> Result<Vec<Part>, String> {
    let start = std::env::temp_dir().join(format!("convbench-profile-{}", std::process::id()));
    let (mut session, _) = session(library, model, pool, Some(&start))?;
    pool.drive(|| (0..=RUNS).try_for_each(|_| session.run()))?;
    let file = Temporary(session.end_profile()?);
    let mut bytes = Vec::new();
    read_most(File::open(&file.0).map_err(|error| error.to_string())?, MOST, &mut bytes)?;
    let events: Vec<Event> = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    Ok(of_events(events))
}

/// An operator's event of a run ends so.
const END: &str = "_kernel_time";

fn of_events(events: Vec<Event>) -> Vec<Part> {
    let mut parts: Vec<(String, String, Vec<f64>)> = Vec::new();
    for Event { cat, name, dur, args } in events {
        let ("Node", Some(name), Some(operator)) = (&cat[..], name.strip_suffix(END), args.op_name) else {
            continue;
        };
        match parts.iter_mut().find(|(known, ..)| known == name) {
            Some((.., times)) => times.push(1e3 * dur),
            None => parts.push((name.to_owned(), kind(&operator).to_owned(), vec![1e3 * dur])),
        }
    }
    let parts = parts.into_iter().map(|(name, kind, times)| {
        // The first run meets its memory for the first time.
        let mut later = times[1..].to_vec();
        Part { name, kind, kernel: None, median_ns: median(&mut later).unwrap_or(times[0]), gflops: 0.0 }
    });
    parts.collect()
}

/// Our word for the library's operator.
fn kind(operator: &str) -> &str {
    match operator {
        "FusedConv" => "Conv",
        "Gemm" | "FusedGemm" | "MatMul" => "Linear",
        "GlobalAveragePool" => "GlobalAvgPool",
        "AveragePool" => "AvgPool",
        "BatchNormalization" => "BatchNorm",
        "Relu" => "ReLU",
        "Clip" => "Clamp",
        "ReorderInput" | "ReorderOutput" => "Reorder",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_become_parts() {
        let text = r#"[
            {"cat":"Session","name":"model_loading","dur":9},
            {"cat":"Node","name":"a_kernel_time","dur":90,"args":{"op_name":"FusedConv"}},
            {"cat":"Node","name":"a_fence_before","dur":7,"args":{"op_name":"FusedConv"}},
            {"cat":"Node","name":"b_kernel_time","dur":5,"args":{"op_name":"Gemm"}},
            {"cat":"Node","name":"a_kernel_time","dur":20,"args":{"op_name":"FusedConv"}},
            {"cat":"Node","name":"b_kernel_time","dur":3,"args":{"op_name":"Gemm"}}
        ]"#;
        let parts = of_events(serde_json::from_str(text).unwrap());
        let seen: Vec<_> = parts.iter().map(|p| (p.name.as_str(), p.kind.as_str(), p.median_ns)).collect();
        assert_eq!(seen, [("a", "Conv", 20e3), ("b", "Linear", 3e3)]);
    }
}
