//! A row before it has times: what is known of an engine on a layer, and whether its result is right.

use std::sync::Arc;

use kernels::{ErrorModel, Layout, PlanOptions, Stores};

use crate::check::{Exactness, Sampling, verdict};
use crate::engine::{Engine, Facts, Io, Prepared, Refusal};
use crate::gradients;
use crate::layers::Layer;
use crate::pinning::Pool;
use crate::provenance::Run;
use crate::record::{Clock, Record, Role, SCHEMA, Status, accuracy_name, stores_name};
use crate::statistics::median;

/// A row of which nothing is known yet.
pub fn blank(
    layer: &Layer,
    engine: &dyn Engine,
    pool: &Pool,
    clock: Clock,
    run: Option<&Arc<Run>>,
) -> Record {
    Record {
        schema: SCHEMA,
        layer: layer.name.clone(),
        network: layer.network.clone(),
        count: layer.count,
        spec: layer.spec.to_string(),
        requested: engine.id().to_owned(),
        kernel: engine.id().to_owned(),
        engine: engine.engine().to_owned(),
        engine_version: engine.version(),
        // A GPU does not know how many the host has.
        threads: if clock == Clock::Device { 1 } else { pool.threads() },
        accuracy: engine.accuracy().map(|accuracy| accuracy_name(accuracy).to_owned()),
        stores: engine.stores().map(|stores| stores_name(stores).to_owned()),
        layout: match layer.spec.layout() {
            Layout::Nchw => "nchw",
            Layout::Nhwc => "nhwc",
        }
        .to_owned(),
        clock,
        role: Role::Main,
        status: Status::Ok,
        reason: None,
        samples: 0,
        plans: 0,
        median_ns: None,
        min_ns: None,
        mad_ns: None,
        ci_low_ns: None,
        ci_high_ns: None,
        gflops: None,
        peak_fraction: None,
        workspace_bytes: None,
        packed_bytes: None,
        plan_ns: None,
        max_error: None,
        error_bound: None,
        error_measure: None,
        pinned: pool.is_pinned(),
        baseline: None,
        ratio: None,
        ratio_low: None,
        ratio_high: None,
        auto_ratio: None,
        auto_ratio_low: None,
        auto_ratio_high: None,
        first_ns: None,
        reorder_ns: None,
        intensity: None,
        peak_gflops: None,
        bandwidth_gb_s: None,
        bandwidth_level: None,
        roof_gflops: None,
        roof: None,
        roof_fraction: None,
        own_gflops: None,
        own_fraction: None,
        streams: None,
        device: engine.device(),
        precision: engine.precision(),
        launches: None,
        op: engine.gradient(),
        run: run.cloned(),
    }
}

/// Times that a reordering is repeated; the median counts.
const REORDERS: usize = 5;

/// An engine's convolution for a layer, run once and verified; what there is to know before timing goes into
/// the row.
///
/// # Errors
/// What became of the row instead, and why.
pub fn verified<'a>(
    engine: &'a dyn Engine,
    layer: &Layer,
    io: Io<'a>,
    pool: &'a Pool,
    sampling: Sampling,
    row: &mut Record,
) -> Result<Box<dyn Prepared + 'a>, Refusal> {
    let mut prepared = engine.prepare(&layer.spec, io, pool)?;
    let Facts { implementation, plan, workspace_bytes, packed_bytes, error_model, stores, launches, .. } =
        prepared.facts().clone();
    row.kernel = implementation;
    row.plan_ns = Some(plan.as_nanos() as f64);
    row.workspace_bytes = workspace_bytes;
    row.packed_bytes = packed_bytes;
    row.streams = stores.map(|stores| stores == Stores::Streaming);
    row.launches = launches;
    // What is left of another engine's result would hide an output that this one does not write.
    io.output.borrow_mut().fill(f32::NAN);
    let failed = |reason| Refusal { status: Status::Unavailable, reason };
    row.first_ns = Some(prepared.time(1).map_err(failed)?.as_nanos() as f64);
    let mut output = io.output.borrow_mut();
    prepared.store(&mut output).map_err(failed)?;
    let options = PlanOptions::default();
    let verdict = match engine.gradient() {
        None => {
            verdict(&layer.spec, error_model, io.tensors, true, &options, &output, sampling, Exactness::Bound)
        }
        Some(of) => {
            let models = prepared.error_models();
            gradients::verdict(of, &layer.spec, &models, io.tensors, &output, sampling, Exactness::Bound)
        }
    };
    row.max_error = Some(verdict.max_error);
    row.error_bound = Some(verdict.bound);
    row.error_measure = Some(measure_of(error_model).to_owned());
    if let Some(mismatch) = verdict.mismatch {
        return Err(Refusal { status: Status::Wrong, reason: mismatch.to_string() });
    }
    let mut reorders: Vec<f64> =
        (0..REORDERS).map_while(|_| prepared.reorder()).map(|time| time.as_nanos() as f64).collect();
    row.reorder_ns = median(&mut reorders);
    Ok(prepared)
}

/// Convolutions that are compared with the oracle whole.
const MOST_WHOLE_MACS: u64 = 2_000_000;
/// Places of a large one that are compared.
const POINTS: usize = 100;
/// Places that are compared of another set of the same buffers.
pub(super) const FEW_POINTS: usize = 16;

/// How much of a layer's output is compared with the oracle.
pub fn sampling(layer: &Layer) -> Sampling {
    if layer.spec.macs() <= MOST_WHOLE_MACS { Sampling::All } else { Sampling::Points(POINTS) }
}

fn measure_of(model: ErrorModel) -> &'static str {
    match model {
        ErrorModel::Sum { .. } => "2^-24 (sum|w||x| + |b|)",
        ErrorModel::Winograd { .. } => "2^-24 (sum |A'|(|G g G'| * (|B'||d||B|))|A| + |b|)",
        _ => "the kernel's own",
    }
}
