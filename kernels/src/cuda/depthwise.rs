//! The launch of the depthwise kernel, see `device/depthwise.cuh`.

use super::params::Params;
use super::schedule::Launch;
use super::variant::Function;
use crate::spec::ConvSpec;

/// Rows of the output that a thread computes.
const ROWS: usize = 4;
/// Threads of a block.
const THREADS: u32 = 128;

/// An instance, for square kernels and strides without dilation; 0 is for all others.
pub(super) struct Instance {
    kernel: usize,
    stride: usize,
    pub(super) function: Function,
    pub(super) line: &'static str,
}

macro_rules! instance {
    ($name:ident, $kernel:literal, $stride:literal) => {
        Instance {
            kernel: $kernel,
            stride: $stride,
            function: Function {
                name: stringify!($name),
                compute_capability: (7, 5),
                threads: THREADS,
                shared_bytes: 0,
                only: false,
            },
            line: concat!("CONV_DEPTHWISE(", stringify!($name), ", ", $kernel, ", ", $stride, ", 4, 128)\n"),
        }
    };
}

/// The one for all others last.
pub(super) static INSTANCES: &[Instance] = &[
    instance!(conv_depthwise_3x3, 3, 1),
    instance!(conv_depthwise_3x3_stride2, 3, 2),
    instance!(conv_depthwise_5x5, 5, 1),
    instance!(conv_depthwise_5x5_stride2, 5, 2),
    instance!(conv_depthwise, 0, 0),
];

/// The launch for a convolution of `groups = in_channels`.
pub(super) fn launch(spec: &ConvSpec, params: Params) -> Launch {
    let fits = |instance: &&Instance| {
        instance.kernel == 0
            || spec.kernel() == [instance.kernel; 2]
                && spec.stride() == [instance.stride; 2]
                && spec.dilation() == [1, 1]
    };
    let function =
        INSTANCES.iter().find(fits).map_or(INSTANCES[INSTANCES.len() - 1].function, |i| i.function);
    // At most as many threads as outputs, which fit.
    let threads = spec.batch() * spec.out_channels() * spec.out_height().div_ceil(ROWS) * spec.out_width();
    Launch {
        function: function.name,
        grid: [threads.div_ceil(THREADS as usize) as u32, 1, 1],
        block: THREADS,
        shared_bytes: 0,
        params,
    }
}
