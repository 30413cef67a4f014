//! Poolings beside the memory's roof: verified, then timed in turns with reading, writing and copying.

use std::time::{Duration, Instant};

use kernels::pool::{PoolPlan, PoolSpec, PoolSpecBuilder, Pooling};
use kernels::{CacheSizes, Isa, Layout, Padding};
use serde::Serialize;

use super::{Case, Reference, Term, Values, tensors};
use crate::buffer::Buffer;
use crate::limits::{Level, Roof, Stream, Traffic, level_of};
use crate::measure::{Spent, Subject, in_turns};
use crate::pinning::Pool;
use crate::statistics::Statistics;

/// A pooling in one direction, measured.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Where it is from.
    pub name: &'static str,
    /// What is pooled how, in words.
    pub what: String,
    /// `nchw` or `nhwc`.
    pub layout: &'static str,
    /// `max` or `average`.
    pub pooling: &'static str,
    /// `forward` or `backward`.
    pub way: &'static str,
    /// Threads.
    pub threads: usize,
    /// Median of a run.
    pub median_ns: f64,
    /// Bytes that are read and written at least.
    pub bytes: [u64; 2],
    /// 10⁹ of those bytes a second.
    pub gb_s: f64,
    /// Where they lie: `L1`, `L2`, `L3` or `memory`.
    pub level: &'static str,
    /// What that level allows for these bytes, measured beside: as many as are both read and written are copied, the
    /// rest is read or written.
    pub roof_gb_s: f64,
    /// `gb_s` over the roof.
    pub of_roof: f64,
}

/// What is measured: names, and what is pooled by windows of which size, stride and padding.
const CASES: [(&str, [usize; 3], [usize; 3]); 7] = [
    ("lecture", [64, 256, 256], [2, 2, 0]),
    ("vgg16-1", [64, 224, 224], [2, 2, 0]),
    ("vgg16-5", [512, 14, 14], [2, 2, 0]),
    ("alexnet-1", [64, 55, 55], [3, 2, 0]),
    ("resnet50", [64, 112, 112], [3, 2, 1]),
    ("inception", [192, 28, 28], [3, 1, 1]),
    ("resnet50-global", [2048, 7, 7], [7, 1, 0]),
];

/// The poolings that are measured on their own.
fn cases(layout: Layout) -> impl Iterator<Item = (&'static str, String, PoolSpecBuilder, Pooling)> {
    CASES.into_iter().flat_map(move |(name, [c, h, w], [k, s, p])| {
        let builder = PoolSpec::builder().channels(c).input_size(h, w).kernel(k, k).stride(s, s);
        let builder = builder.padding(Padding::uniform(p)).layout(layout);
        let what = format!("c{c} h{h} w{w} k{k} s{s} p{p}");
        let average = Pooling::Average { count_include_pad: false };
        let all: &[Pooling] = if k == h { &[average] } else { &[Pooling::Max, average] };
        all.iter().map(move |&pooling| (name, what.clone(), builder.clone(), pooling)).collect::<Vec<_>>()
    })
}

/// Measures all poolings in a layout on a pool's threads, each row for about so long. `carry_on` is told of each row
/// and asked whether to go on.
///
/// # Errors
/// What is wrong with a result, or what the machine refuses.
pub fn bench(
    layout: Layout,
    pool: &Pool,
    time: Duration,
    carry_on: &mut dyn FnMut(Option<&[Row]>) -> bool,
) -> Result<(), String> {
    for (name, what, builder, pooling) in cases(layout) {
        let spec = builder.build().map_err(|error| error.to_string())?;
        let rows = rows(&spec, pooling, pool, time, &mut || carry_on(None))?;
        let rows = rows.map(|row| Row { name, what: what.clone(), ..row });
        if !carry_on(Some(&rows)) {
            break;
        }
    }
    Ok(())
}

/// Both ways of a pooling.
fn rows(
    spec: &PoolSpec,
    pooling: Pooling,
    pool: &Pool,
    time: Duration,
    carry_on: &mut dyn FnMut() -> bool,
) -> Result<[Row; 2], String> {
    let threads = pool.threads();
    let case = Case { spec: *spec, pooling, values: Values::Distinct, threads, offset: 0, seed: 1 };
    let (input, grads) = tensors(&case);
    let (input, grads): (Buffer, Buffer) = (input.into(), grads.into());
    let plan = PoolPlan::new(spec, pooling, threads).map_err(|error| error.to_string())?;
    let (mut output, mut grad_input) = (Buffer::zeros(grads.len()), Buffer::zeros(input.len()));
    output.fill(f32::NAN);
    grad_input.fill(f32::NAN);
    pool.run(|| plan.run(&input, &mut output)).map_err(|error| error.to_string())?;
    pool.run(|| plan.backward(&input, &grads, &mut grad_input)).map_err(|error| error.to_string())?;
    let reference = Reference::new(spec, pooling);
    let right = |got: &[f32], want: Vec<Term>| got.iter().zip(&want).all(|(got, want)| want.allows(*got));
    if !right(&output, reference.forward(&input)) || !right(&grad_input, reference.backward(&input, &grads)) {
        return Err(format!("{pooling:?} of {spec:?} is wrong"));
    }
    let len = |buffer: &Buffer| 4 * buffer.len() as u64;
    let (large, small) = (len(&input), len(&grads));
    let bytes = [[large, small], [if pooling == Pooling::Max { large + small } else { small }, large]];
    let isa = Isa::best().map_err(|reason| reason.to_string())?;
    let levels = bytes.map(|[read, written]| level_of(read + written, CacheSizes::detect(), pool.threads()));
    // Both ways may find their bytes on two levels.
    let mut roofs: Vec<(Level, Traffic, Stream)> = Vec::new();
    for level in levels {
        for traffic in [Traffic::Read, Traffic::Write, Traffic::Copy] {
            if !roofs.iter().any(|(of, kind, _)| (*of, *kind) == (level, traffic)) {
                let stream = Stream::new(isa, traffic, level.buffer, pool).map_err(|e| e.to_string())?;
                roofs.push((level, traffic, stream));
            }
        }
    }
    let timed = |repeats: u64, run: &mut (dyn FnMut() -> Result<(), kernels::ConvError> + Send)| {
        pool.run(|| {
            let start = Instant::now();
            (0..repeats).try_for_each(|_| run()).map_err(|error| error.to_string())?;
            Ok::<_, String>(Spent::all(start.elapsed()))
        })
    };
    let subject = |run| Subject { run, plans: 1, time, warm: true, most_repeats: u64::MAX };
    let mut subjects = vec![
        subject(Box::new(|_, repeats| timed(repeats, &mut || plan.run(&input, &mut output)))
            as Box<dyn FnMut(usize, u64) -> _>),
        subject(Box::new(|_, repeats| {
            timed(repeats, &mut || plan.backward(&input, &grads, &mut grad_input))
        })),
    ];
    for (_, _, stream) in &roofs {
        let run = Box::new(|_, repeats| Ok(Spent::all(stream.time(pool, repeats).0)));
        subjects.push(Subject { time: time / 4, ..subject(run) });
    }
    let mut samples = in_turns(&mut subjects, carry_on).into_iter();
    drop(subjects);
    let mut medians = [0.0; 2];
    for median in &mut medians {
        let samples = samples.next().unwrap_or(Ok(Vec::new()))?;
        *median = Statistics::of(&samples).map_or(f64::NAN, |statistics| statistics.median);
    }
    let mut rates = Vec::new();
    for ((level, traffic, stream), samples) in roofs.iter().zip(samples) {
        let fastest = samples?.iter().map(|sample| sample.ns).fold(f64::INFINITY, f64::min);
        rates.push((*level, *traffic, stream.time(pool, 1).1 as f64 / fastest));
    }
    let row = |way: usize| {
        let ([read, written], level) = (bytes[way], levels[way]);
        let rate = |traffic| {
            let found = rates.iter().find(|(of, kind, _)| (*of, *kind) == (level, traffic));
            found.map_or(f64::NAN, |(.., rate)| *rate)
        };
        let both = 2 * read.min(written);
        let all = (read + written) as f64;
        let rest = if read > written { Traffic::Read } else { Traffic::Write };
        let roof_gb_s =
            all / (both as f64 / rate(Traffic::Copy) + read.abs_diff(written) as f64 / rate(rest));
        let gb_s = all / medians[way];
        Row {
            name: "",
            what: String::new(),
            layout: if spec.layout() == Layout::Nchw { "nchw" } else { "nhwc" },
            pooling: if pooling == Pooling::Max { "max" } else { "average" },
            way: ["forward", "backward"][way],
            threads,
            median_ns: medians[way],
            bytes: bytes[way],
            gb_s,
            level: level.name,
            roof_gb_s,
            of_roof: gb_s / roof_gb_s,
        }
    };
    Ok([row(0), row(1)])
}
