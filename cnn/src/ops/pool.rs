//! Pooling layers as the kernels' poolings.

use kernels::pool::{PoolPlan, PoolSpec, Pooling};
use kernels::{ConvError, Layout, SpecError};

use crate::Shape;
use crate::layer::Pool;

/// The kernels' description of a pooling over maps of this shape.
pub(crate) fn spec(pool: &Pool, input: Shape, batch: usize) -> Result<PoolSpec, SpecError> {
    let [channels, height, width] = input.volume();
    PoolSpec::builder()
        .batch(batch)
        .channels(channels)
        .input_size(height, width)
        .kernel(pool.window[0], pool.window[1])
        .stride(pool.stride[0], pool.stride[1])
        .padding(pool.padding)
        .dilation(pool.dilation[0], pool.dilation[1])
        .ceil_mode(pool.ceil_mode)
        .build()
}

/// The maximum of each window.
pub(crate) fn max(pool: &Pool, input: Shape, batch: usize, threads: usize) -> Result<PoolPlan, ConvError> {
    PoolPlan::new(&spec(pool, input, batch)?, Pooling::Max, threads)
}

/// The mean of each window.
pub(crate) fn average(
    pool: &Pool,
    input: Shape,
    batch: usize,
    threads: usize,
) -> Result<PoolPlan, ConvError> {
    let pooling = Pooling::Average { count_include_pad: pool.count_include_pad };
    PoolPlan::new(&spec(pool, input, batch)?, pooling, threads)
}

/// The mean of each map.
pub(crate) fn global(input: Shape, batch: usize, threads: usize) -> Result<PoolPlan, ConvError> {
    let [channels, height, width] = input.volume();
    let spec = PoolSpec::global(batch, channels, height, width, Layout::Nchw)?;
    PoolPlan::new(&spec, Pooling::Average { count_include_pad: false }, threads)
}
