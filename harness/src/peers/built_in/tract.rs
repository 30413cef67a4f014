//! tract: lowers a convolution to im2col and a matrix product, or to a depthwise operator.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kernels::ConvSpec;
use tract_onnx::prelude::multithread::{Executor, multithread_tract_scope};
use tract_onnx::prelude::*;

use super::{Made, Model, NO_RUN, nchw, one_line, timed};
use crate::data::Tensors;
use crate::engine::Refusal;
use crate::pinning::Pool;
use crate::{network, onnx};

struct Tract<'a> {
    plan: Arc<TypedSimplePlan>,
    threads: Arc<rayon::ThreadPool>,
    input: TValue,
    last: Option<TValue>,
    pool: &'a Pool,
}

pub(super) fn make<'a>(spec: &ConvSpec, tensors: &'a Tensors, pool: &'a Pool) -> Result<Made<'a>, Refusal> {
    let input = Tensor::from_shape(&nchw::input_shape(spec), &nchw::input(spec, tensors));
    made(&onnx::convolution(spec, tensors), input, pool)
}

pub(super) fn network<'a>(model: &network::Model<'_>, pool: &'a Pool) -> Result<Made<'a>, Refusal> {
    made(model.bytes, Tensor::from_shape(&model.input_shape, model.input), pool)
}

fn made<'a>(model: &[u8], input: TractResult<Tensor>, pool: &'a Pool) -> Result<Made<'a>, Refusal> {
    let (plan, threads, time) = pool
        .drive_and_adopt(|| {
            let threads = rayon::ThreadPoolBuilder::new().num_threads(pool.threads()).build()?;
            let start = Instant::now();
            let model = tract_onnx::onnx().model_for_read(&mut &*model)?.into_optimized()?;
            Ok((model.into_runnable()?, Arc::new(threads), start.elapsed()))
        })
        .map_err(|error: TractError| Refusal::unsupported(one_line(&*error)))?;
    let input = input.map_err(|error| Refusal::unsupported(one_line(&*error)))?.into();
    let implementation = operators(&plan);
    let model = Tract { plan, threads, input, last: None, pool };
    Ok(Made { model: Box::new(model), implementation, plan: time })
}

/// What is left of the model when it is optimized.
fn operators(plan: &TypedSimplePlan) -> String {
    let nodes = plan.model().nodes().iter().map(|node| node.op.name());
    let names: Vec<_> = nodes.filter(|name| !matches!(name.as_ref(), "Source" | "Const")).collect();
    format!("tract {}", names.join(" "))
}

impl Model for Tract<'_> {
    fn time(&mut self, repeats: u64) -> Result<Duration, String> {
        let Tract { plan, threads, input, last, pool } = self;
        let executor = match pool.threads() {
            1 => Executor::SingleThread,
            _ => Executor::MultiThread(threads.clone()),
        };
        let run = || plan.run(tvec!(input.clone())).map_err(|error| one_line(&*error));
        let all = || multithread_tract_scope(executor, || timed(repeats, run));
        let (time, outputs) = pool.drive(|| threads.install(all))?;
        *last = outputs.and_then(|outputs| outputs.into_iter().next());
        Ok(time)
    }

    fn output(&self) -> Result<Cow<'_, [f32]>, String> {
        let value = self.last.as_ref().ok_or(NO_RUN)?;
        let values = value.to_plain_array_view::<f32>().map_err(|error| one_line(&*error))?;
        Ok(values.iter().copied().collect())
    }
}
