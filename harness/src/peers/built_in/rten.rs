//! rten: im2col packed on the fly into a matrix product, depthwise apart.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kernels::ConvSpec;
use rten::{Model as Graph, NodeId, RunOptions, ThreadPool, Value};
use rten_tensor::prelude::*;
use rten_tensor::{NdTensorView, TensorView};

use super::{Made, Model, NO_RUN, nchw, one_line, timed};
use crate::buffer::Buffer;
use crate::data::Tensors;
use crate::engine::Refusal;
use crate::onnx;
use crate::pinning::Pool;

struct Rten<'a> {
    graph: Graph,
    ends: (NodeId, NodeId),
    threads: Arc<ThreadPool>,
    input: Cow<'a, Buffer>,
    shape: [usize; 4],
    last: Option<Value>,
    pool: &'a Pool,
}

pub(super) fn make<'a>(spec: &ConvSpec, tensors: &'a Tensors, pool: &'a Pool) -> Result<Made<'a>, Refusal> {
    let model = onnx::convolution(spec, tensors);
    let (graph, threads, plan) = pool
        .drive_and_adopt(|| {
            let threads = Arc::new(ThreadPool::with_num_threads(pool.threads()));
            let start = Instant::now();
            let graph = threads.run(|| Graph::load(model))?;
            Ok((graph, threads, start.elapsed()))
        })
        .map_err(|error: rten::LoadError| Refusal::unsupported(one_line(&error)))?;
    let (Some(&x), Some(&y)) = (graph.input_ids().first(), graph.output_ids().first()) else {
        return Err(Refusal::unsupported("the model that rten has read has no input or no output"));
    };
    let input = nchw::input(spec, tensors);
    let shape = nchw::input_shape(spec);
    let model = Rten { graph, ends: (x, y), threads, input, shape, last: None, pool };
    Ok(Made { model: Box::new(model), implementation: "rten conv".to_owned(), plan })
}

impl Model for Rten<'_> {
    fn time(&mut self, repeats: u64) -> Result<Duration, String> {
        let Rten { graph, ends: (x, y), threads, input, shape, last, pool } = self;
        let run = || {
            let view = NdTensorView::from_data(*shape, &input[..]);
            let options = RunOptions::default().with_thread_pool(Some(threads.clone()));
            let outputs = graph.run(vec![(*x, view.into())], &[*y], Some(options));
            outputs.map_err(|error| one_line(&error))
        };
        let (time, outputs) = pool.drive(|| threads.run(|| timed(repeats, run)))?;
        *last = outputs.and_then(|outputs| outputs.into_iter().next());
        Ok(time)
    }

    fn output(&self) -> Result<Cow<'_, [f32]>, String> {
        let value = self.last.as_ref().ok_or(NO_RUN)?;
        let view: TensorView<'_, f32> = value.try_into().map_err(|error| one_line(&error))?;
        Ok(view.to_vec().into())
    }
}
