//! candle: im2col in tiles and matrix products; the bias is a sum of its own, which is part of the run.
//!
//! Convolutions use the pool that they are called in. The sum does not: it has threads of candle's own, one
//! for each core or as many as [`THREADS`] says when candle first asks. They cannot be held to a row's number
//! afterwards, so `convbench` sets that to one for the whole program, where nothing else is set.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use kernels::{ConvSpec, Padding};

use super::{Made, Model, NO_RUN, nchw, one_line, timed};
use crate::data::Tensors;
use crate::engine::Refusal;
use crate::pinning::Pool;

struct Candle<'a> {
    input: Tensor,
    weights: Tensor,
    bias: Tensor,
    parameters: Parameters,
    last: Option<Tensor>,
    pool: &'a Pool,
}

/// The environment variable that says how many threads candle sums on.
const THREADS: &str = "CANDLE_NUM_THREADS";

/// Refuses when sums would take more threads than a row is allowed.
fn check_threads(allowed: usize) -> Result<(), Refusal> {
    let set = std::env::var(THREADS).ok().and_then(|text| text.parse().ok()).filter(|&threads| threads > 0);
    let threads: usize = set.unwrap_or_else(candle_core::utils::get_num_threads);
    if threads > allowed {
        let reason =
            format!("candle adds the bias on {threads} threads, but {allowed} are allowed; set {THREADS}");
        return Err(Refusal::unsupported(reason));
    }
    Ok(())
}

/// What candle has one number of for both axes.
struct Parameters {
    padding: usize,
    stride: usize,
    dilation: usize,
    groups: usize,
}

fn parameters(spec: &ConvSpec) -> Result<Parameters, Refusal> {
    let Padding { top, left, bottom, right } = spec.padding();
    let ([stride, across], [dilation, apart]) = (spec.stride(), spec.dilation());
    let refuse = |what: String| Err(Refusal::unsupported(format!("candle does not support {what} ({spec})")));
    if [left, bottom, right] != [top; 3] {
        return refuse(format!("padding {top},{left},{bottom},{right}: it has one for all sides"));
    }
    if stride != across {
        return refuse(format!("stride {stride}x{across}: it has one for both axes"));
    }
    if dilation != apart {
        return refuse(format!("dilation {dilation}x{apart}: it has one for both axes"));
    }
    Ok(Parameters { padding: top, stride, dilation, groups: spec.groups() })
}

pub(super) fn make<'a>(spec: &ConvSpec, tensors: &'a Tensors, pool: &'a Pool) -> Result<Made<'a>, Refusal> {
    check_threads(pool.threads())?;
    let parameters = parameters(spec)?;
    let failed = |error: candle_core::Error| Refusal::unsupported(one_line(&error));
    let tensor =
        |values: &[f32], shape: [usize; 4]| Tensor::from_slice(values, &shape, &Device::Cpu).map_err(failed);
    let [height, width] = spec.kernel();
    let filters = spec.out_channels();
    let input = tensor(&nchw::input(spec, tensors), nchw::input_shape(spec))?;
    let start = Instant::now();
    let weights = tensor(&tensors.weights, [filters, spec.group_in_channels(), height, width])?;
    let bias = tensor(&tensors.bias, [1, filters, 1, 1])?;
    let plan = start.elapsed();
    let model = Candle { input, weights, bias, parameters, last: None, pool };
    Ok(Made { model: Box::new(model), implementation: "candle conv2d".to_owned(), plan })
}

impl Model for Candle<'_> {
    fn time(&mut self, repeats: u64) -> Result<Duration, String> {
        let Candle { input, weights, bias, parameters, last, pool } = self;
        let Parameters { padding, stride, dilation, groups } = *parameters;
        let run = || {
            let products = input.conv2d(weights, padding, stride, dilation, groups);
            products.and_then(|products| products.broadcast_add(bias)).map_err(|error| one_line(&error))
        };
        let (time, output) = pool.run(|| timed(repeats, run))?;
        *last = output;
        Ok(time)
    }

    fn output(&self) -> Result<Cow<'_, [f32]>, String> {
        let output = self.last.as_ref().ok_or(NO_RUN)?;
        let values = output.flatten_all().and_then(|flat| flat.to_vec1());
        values.map(Cow::Owned).map_err(|error| one_line(&error))
    }
}
