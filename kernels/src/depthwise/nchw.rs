//! [`depthwise`](super) in NCHW for any window: lanes are pixels of a row of a padded plane.

use std::sync::Arc;

use super::Window;
use crate::band::{self, Image, Planes, most_rows, pack_planes};
use crate::cache::CacheSizes;
use crate::error::ConvError;
use crate::kernel::{Body, PlanOptions};
use crate::parallel;
use crate::partition::{Partition, Partitioned, Shared, Unit, Worker};
use crate::simd::{Simd, SimdOp};
use crate::spec::ConvSpec;

#[derive(Debug)]
struct Nchw<S> {
    simd: S,
    spec: ConvSpec,
    options: PlanOptions,
    /// As given: `[filter][r][s]`.
    weights: Arc<Vec<f32>>,
    planes: Planes,
}

/// f32s of scratch memory for one output row, if they can be counted: what `supports` asks, with the
/// widest vectors.
pub(super) fn plane_len(spec: &ConvSpec) -> Option<usize> {
    let window = band::Window::under(spec, &(0..1));
    let phases = spec.stride()[1].min(window.columns());
    let phase = spec.out_width().checked_add(16)?.checked_add(window.columns() / phases)?;
    phase.checked_mul(phases)?.checked_add(16)?.checked_mul(window.rows())
}

pub(super) fn arrange<S: Simd>(
    simd: S,
    spec: &ConvSpec,
    options: &PlanOptions,
    weights: Arc<Vec<f32>>,
) -> Result<Box<dyn Body>, ConvError> {
    let threads = parallel::worthwhile(options.threads, spec);
    let images = spec.batch() * spec.in_channels();
    // A plane goes through half the level-1 cache; each is used by all filters of its channel.
    let l1 = CacheSizes::detect().l1d / 8;
    let most = most_rows(spec, |rows| Planes::new(spec, rows, S::LANES).channel <= l1);
    let partition = Partition::new(images, spec.out_height(), most, 1, spec.group_out_channels(), threads);
    let planes = Planes::new(spec, partition.block, S::LANES);
    let worker = Nchw { simd, spec: *spec, options: *options, weights, planes };
    Ok(Box::new(Partitioned { spec: *spec, threads, images, partition, worker }))
}

impl<S: Simd> Worker for Nchw<S> {
    fn scratch_len(&self) -> usize {
        self.planes.channel
    }

    fn unit(&self, unit: &Unit, io: &Shared<'_>, plane: &mut [f32]) {
        let spec = &self.spec;
        let (n, channel) = (unit.image / spec.in_channels(), unit.image % spec.in_channels());
        let window = band::Window::under(spec, &unit.pixels);
        let image = Image::input(spec, n, channel..channel + 1);
        pack_planes(self.simd, spec, &image, &window, io.input, &self.planes, plane);
        for index in unit.filter_tiles.clone() {
            let filter = channel * spec.group_out_channels() + index;
            let rows = Rows { worker: self, io, unit, image: n, filter, plane };
            self.simd.vectorize(Any(rows));
        }
    }
}

/// The unit's output rows of one filter.
struct Rows<'a, S> {
    worker: &'a Nchw<S>,
    io: &'a Shared<'a>,
    unit: &'a Unit,
    image: usize,
    filter: usize,
    plane: &'a [f32],
}

/// What the loops need, as plain values: behind a reference they would be read again after every store.
#[derive(Clone, Copy)]
struct View<S: Simd> {
    simd: S,
    /// The padded plane; rows lie `pitch` f32s apart.
    plane: *const f32,
    pitch: usize,
    /// The unit's first output row.
    output: *mut f32,
    width: usize,
    rows: usize,
    bias: S::F32,
    limits: (S::F32, S::F32),
    accumulate: bool,
}

impl<S: Simd> Rows<'_, S> {
    #[inline(always)]
    fn view(&self, simd: S) -> View<S> {
        let (spec, options) = (&self.worker.spec, &self.worker.options);
        let plane = (self.image * spec.out_channels() + self.filter) * spec.out_height();
        let (lo, hi) = options.limits();
        View {
            simd,
            plane: self.plane.as_ptr(),
            pitch: self.worker.planes.row,
            // SAFETY: the filter's plane and the unit's rows exist.
            output: unsafe { self.io.output.at((plane + self.unit.pixels.start) * spec.out_width()) },
            width: spec.out_width(),
            rows: self.unit.pixels.len(),
            bias: simd.splat(self.io.bias.map_or(0.0, |bias| bias[self.filter])),
            limits: (simd.splat(lo), simd.splat(hi)),
            accumulate: options.accumulate,
        }
    }

    /// The filter's weights.
    #[inline(always)]
    fn weights(&self) -> &[f32] {
        let taps = self.worker.spec.kernel()[0] * self.worker.spec.kernel()[1];
        &self.worker.weights[self.filter * taps..][..taps]
    }

    /// Where the padded pixels under tap column `s` of output column 0 start in a row of the plane.
    #[inline(always)]
    fn column(&self, s: usize) -> usize {
        let Planes { stride, phase, .. } = self.worker.planes;
        let shift = s * self.worker.spec.dilation()[1];
        shift % stride * phase + shift / stride
    }
}

impl<S: Simd> View<S> {
    /// Adds bias and previous output, applies the limits and stores the vector at column x of a row.
    ///
    /// # Safety
    /// The row is one of the unit's, which belong to the caller alone.
    #[inline(always)]
    unsafe fn finish(&self, sum: S::F32, row: usize, x: usize) {
        let simd = self.simd;
        let lanes = S::LANES.min(self.width - x);
        let output = self.output.wrapping_add(row * self.width + x);
        let mut value = simd.add(sum, self.bias);
        // SAFETY: `lanes` columns are left in the row.
        unsafe {
            if self.accumulate {
                value = simd.add(value, simd.load_partial(output, lanes));
            }
            value = simd.clamp(value, self.limits.0, self.limits.1);
            if lanes == S::LANES {
                simd.store(output, value);
            } else {
                simd.store_partial(output, value, lanes);
            }
        }
    }
}

/// Any window.
struct Any<'a, S>(Rows<'a, S>);

impl<S: Simd> SimdOp<S> for Any<'_, S> {
    type Output = ();
    #[inline(always)]
    fn eval(self, simd: S) {
        let view = self.0.view(simd);
        let Window { kernel, stride, dilation } = Window::of(&self.0.worker.spec);
        let weights = self.0.weights();
        for row in 0..view.rows {
            for x in (0..view.width).step_by(S::LANES) {
                let mut acc = simd.splat(0.0);
                for r in 0..kernel[0] {
                    let start = view.plane.wrapping_add((row * stride[0] + r * dilation[0]) * view.pitch + x);
                    for s in 0..kernel[1] {
                        // SAFETY: the plane has room for whole vectors from every output column at every
                        // tap.
                        let pixels = unsafe { simd.load(start.wrapping_add(self.0.column(s))) };
                        acc = simd.mul_add(pixels, simd.splat(weights[r * kernel[1] + s]), acc);
                    }
                }
                // SAFETY: the row is one of the unit's.
                unsafe { view.finish(acc, row, x) };
            }
        }
    }
}
