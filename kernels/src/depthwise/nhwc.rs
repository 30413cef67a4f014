//! [`depthwise`](super) in NHWC: lanes are channels, pixels are read in place.

use std::ops::Range;
use std::sync::Arc;

use super::{Window, slide, tiles};
use crate::buffer::{AlignedBuffer, LINE};
use crate::cache::CacheSizes;
use crate::error::ConvError;
use crate::kernel::{Body, PlanOptions};
use crate::packed::Packed;
use crate::parallel;
use crate::partition::{Partition, Partitioned, Shared, Unit, Worker};
use crate::simd::{Simd, SimdOp};
use crate::spec::ConvSpec;

#[derive(Debug)]
struct Nhwc<S> {
    simd: S,
    spec: ConvSpec,
    options: PlanOptions,
    /// `[r][s][filter]`, filters rounded up to whole vectors.
    weights: Arc<AlignedBuffer>,
    filters: usize,
}

pub(super) fn pack<S: Simd>(
    simd: S,
    spec: &ConvSpec,
    weights: &[f32],
    options: &PlanOptions,
) -> Result<Packed, ConvError> {
    let filters = padded_filters::<S>(spec);
    let taps = spec.kernel()[0] * spec.kernel()[1];
    // The last vector of a tap may start in its last lane.
    let mut packed = AlignedBuffer::zeros(filters * taps + S::LANES)?;
    for (filter, taps) in weights.chunks_exact(taps).enumerate() {
        for (tap, &weight) in taps.iter().enumerate() {
            packed[tap * filters + filter] = weight;
        }
    }
    Ok(Packed::new(simd, options, packed.bytes(), packed, arrange))
}

fn arrange<S: Simd>(
    simd: S,
    spec: &ConvSpec,
    options: &PlanOptions,
    weights: Arc<AlignedBuffer>,
) -> Result<Box<dyn Body>, ConvError> {
    let threads = parallel::worthwhile(options.threads, spec);
    let filters = padded_filters::<S>(spec);
    let images = spec.batch();
    // A stride that is never taken may be as long as numbers go.
    let row = (4 * spec.in_width() * spec.in_channels()).saturating_mul(spec.stride()[0]);
    let most = CacheSizes::detect().l2 / 2 / row;
    let vectors = filters / S::LANES;
    let partition = Partition::new(images, spec.out_height(), most, 1, vectors, threads);
    let worker = Nhwc { simd, spec: *spec, options: *options, weights, filters };
    Ok(Box::new(Partitioned { spec: *spec, threads, images, partition, worker }))
}

/// Filters, rounded up to whole vectors.
fn padded_filters<S: Simd>(spec: &ConvSpec) -> usize {
    spec.out_channels().next_multiple_of(S::LANES)
}

impl<S: Simd> Worker for Nhwc<S> {
    fn scratch_len(&self) -> usize {
        0
    }

    fn unit(&self, unit: &Unit, io: &Shared<'_>, _: &mut [f32]) {
        let spec = &self.spec;
        let shift = aligning_shift::<S>(spec, io.input);
        let Range { start, mut end } = unit.filter_tiles;
        if end * S::LANES >= spec.out_channels() {
            end = (spec.out_channels() + shift).div_ceil(S::LANES);
        }
        let (image, rows) = (unit.image, unit.pixels.clone());
        let rows = Rows { worker: self, io, image, rows, vectors: start..end, shift };
        match Window::of(spec).special().filter(|_| spec.group_out_channels() == 1) {
            Some((3, 1)) => self.simd.vectorize(Fixed::<_, 3, 1>(rows)),
            Some((3, 2)) => self.simd.vectorize(Fixed::<_, 3, 2>(rows)),
            Some((5, 1)) => self.simd.vectorize(Fixed::<_, 5, 1>(rows)),
            Some((5, 2)) => self.simd.vectorize(Fixed::<_, 5, 2>(rows)),
            _ => self.simd.vectorize(Any(rows)),
        }
    }
}

/// How many filters the first vector lacks, so that all others are read from one cache line each: of two lines
/// with other vectors, one could be gone before its other half is read. Worth a vector more where vectors are as
/// long as lines and many, and where one shift fits all pixels.
fn aligning_shift<S: Simd>(spec: &ConvSpec, input: &[f32]) -> usize {
    let channels = spec.in_channels();
    let many = S::LANES == LINE && channels >= 4 * LINE;
    let worth = many && channels.is_multiple_of(LINE) && spec.group_out_channels() == 1;
    if worth { input.as_ptr().addr() / size_of::<f32>() % S::LANES } else { 0 }
}

/// Some output rows of some vectors of filters.
struct Rows<'a, S> {
    worker: &'a Nhwc<S>,
    io: &'a Shared<'a>,
    image: usize,
    rows: Range<usize>,
    vectors: Range<usize>,
    /// Filters that the first vector lacks.
    shift: usize,
}

/// What the loops need, as plain values: behind a reference they would be read again after every store.
#[derive(Clone, Copy)]
pub(super) struct View<S: Simd> {
    pub(super) simd: S,
    /// The image's first pixel, at channel 0.
    pub(super) input: *const f32,
    /// f32s from pixel to pixel and from row to row of the input.
    pub(super) in_pixel: usize,
    pub(super) in_row: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) top: usize,
    pub(super) left: usize,
    pub(super) weights: *const f32,
    /// f32s from tap to tap.
    pub(super) tap: usize,
    /// The image's first output, at filter 0.
    pub(super) output: *mut f32,
    /// Filters: f32s from output to output.
    pub(super) out_pixel: usize,
    pub(super) out_width: usize,
    shift: usize,
    pub(super) bias: Option<*const f32>,
    pub(super) limits: (S::F32, S::F32),
    pub(super) accumulate: bool,
}

impl<S: Simd> Rows<'_, S> {
    #[inline(always)]
    fn view(&self, simd: S) -> View<S> {
        let (spec, options) = (&self.worker.spec, &self.worker.options);
        let image = spec.in_height() * spec.in_width() * spec.in_channels();
        let out_image = spec.out_height() * spec.out_width() * spec.out_channels();
        let (lo, hi) = options.limits();
        View {
            simd,
            input: self.io.input[self.image * image..].as_ptr(),
            in_pixel: spec.in_channels(),
            in_row: spec.in_width() * spec.in_channels(),
            height: spec.in_height(),
            width: spec.in_width(),
            top: spec.padding().top,
            left: spec.padding().left,
            weights: self.worker.weights.as_ptr(),
            tap: self.worker.filters,
            // SAFETY: the image exists.
            output: unsafe { self.io.output.at(self.image * out_image) },
            out_pixel: spec.out_channels(),
            out_width: spec.out_width(),
            shift: self.shift,
            bias: self.io.bias.map(<[f32]>::as_ptr),
            limits: (simd.splat(lo), simd.splat(hi)),
            accumulate: options.accumulate,
        }
    }
}

/// Some neighbouring filters, at most a vector of them.
#[derive(Clone, Copy)]
pub(super) struct Filters {
    pub(super) first: usize,
    pub(super) lanes: usize,
}

impl<S: Simd> View<S> {
    /// Those of some vectors that have all their filters.
    #[inline(always)]
    pub(super) fn whole(&self, vectors: &Range<usize>) -> Range<usize> {
        let start = vectors.start.max(usize::from(self.shift > 0)).min(vectors.end);
        start..vectors.end.min((self.out_pixel + self.shift) / S::LANES).max(start)
    }

    /// The first filter of a vector.
    #[inline(always)]
    pub(super) fn first(&self, vector: usize) -> usize {
        (vector * S::LANES).saturating_sub(self.shift)
    }

    /// The filters of a vector, as many as there are.
    #[inline(always)]
    pub(super) fn filters(&self, vector: usize) -> Filters {
        let first = self.first(vector);
        let lanes = ((vector + 1) * S::LANES - self.shift).min(self.out_pixel) - first;
        Filters { first, lanes }
    }

    /// The bias of some filters.
    #[inline(always)]
    pub(super) fn bias(&self, Filters { first, lanes }: Filters) -> S::F32 {
        match self.bias {
            // SAFETY: the bias has a value for each filter.
            Some(bias) if lanes == S::LANES => unsafe { self.simd.load(bias.add(first)) },
            // SAFETY: as above.
            Some(bias) => unsafe { self.simd.load_partial(bias.add(first), lanes) },
            None => self.simd.splat(0.0),
        }
    }

    /// A pixel's channels of some filters, one each; with `WHOLE` a vector of them.
    ///
    /// # Safety
    /// `pixel` points to the first filter's channel of a pixel of the input.
    #[inline(always)]
    pub(super) unsafe fn channels<const WHOLE: bool>(&self, pixel: *const f32, filters: Filters) -> S::F32 {
        // SAFETY: the pixel has as many channels as filters.
        unsafe { if WHOLE { self.simd.load(pixel) } else { self.simd.load_partial(pixel, filters.lanes) } }
    }

    /// The weights of a K×K filter.
    #[inline(always)]
    pub(super) fn taps<const K: usize>(&self, filters: Filters) -> [[S::F32; K]; K] {
        let mut taps = [[self.simd.splat(0.0); K]; K];
        for (r, row) in taps.iter_mut().enumerate() {
            for (s, tap) in row.iter_mut().enumerate() {
                let packed = self.weights.wrapping_add((r * K + s) * self.tap + filters.first);
                // SAFETY: the packed weights have whole vectors from every filter of every tap.
                *tap = unsafe { self.simd.load(packed) };
            }
        }
        taps
    }

    /// Where the outputs of some filters at (y, x) are.
    #[inline(always)]
    pub(super) fn output(&self, filters: Filters, y: usize, x: usize) -> *mut f32 {
        self.output.wrapping_add((y * self.out_width + x) * self.out_pixel + filters.first)
    }

    /// Adds the previous output, applies the limits and stores an output; with `WHOLE` all lanes.
    ///
    /// # Safety
    /// The output, one value for each of the filters, is there and belongs to the caller alone.
    #[inline(always)]
    pub(super) unsafe fn finish<const WHOLE: bool>(&self, filters: Filters, sum: S::F32, output: *mut f32) {
        let (simd, lanes) = (self.simd, filters.lanes);
        let mut value = sum;
        // SAFETY: `lanes` filters of this pixel are valid, by the caller's promise.
        unsafe {
            if self.accumulate {
                value = simd.add(value, simd.load_partial(output, lanes));
            }
            value = simd.clamp(value, self.limits.0, self.limits.1);
            if WHOLE {
                simd.store(output, value);
            } else {
                simd.store_partial(output, value, lanes);
            }
        }
    }
}

/// K×K taps with stride T, unrolled; one filter a channel.
struct Fixed<'a, S, const K: usize, const T: usize>(Rows<'a, S>);

impl<S: Simd, const K: usize, const T: usize> SimdOp<S> for Fixed<'_, S, K, T> {
    type Output = ();
    #[inline(always)]
    fn eval(self, simd: S) {
        let Rows { rows, vectors, .. } = &self.0;
        // Three rows of sums beside the weights fill 32 registers.
        if const { S::MR * S::NV > 16 && K.div_ceil(T) <= 3 } {
            slide::columns::<S, K, T>(self.0.view(simd), vectors, rows);
        } else {
            tiles::rows::<S, K, T>(self.0.view(simd), vectors, rows);
        }
    }
}

/// Any window, any vector, any number of filters a channel.
struct Any<'a, S>(Rows<'a, S>);

impl<S: Simd> SimdOp<S> for Any<'_, S> {
    type Output = ();
    #[inline(always)]
    fn eval(self, simd: S) {
        let view = self.0.view(simd);
        let spec = &self.0.worker.spec;
        let Window { kernel, stride, dilation } = Window::of(spec);
        for vector in self.0.vectors.clone() {
            let filters = view.filters(vector);
            for y in self.0.rows.clone() {
                for x in 0..view.out_width {
                    let mut acc = view.bias(filters);
                    for r in 0..kernel[0] {
                        let iy = (y * stride[0] + r * dilation[0]).wrapping_sub(view.top);
                        if iy >= view.height {
                            continue;
                        }
                        for s in 0..kernel[1] {
                            let ix = (x * stride[1] + s * dilation[1]).wrapping_sub(view.left);
                            if ix >= view.width {
                                continue;
                            }
                            let pixel = view.input.wrapping_add(iy * view.in_row + ix * view.in_pixel);
                            let tap =
                                view.weights.wrapping_add((r * kernel[1] + s) * view.tap + filters.first);
                            // SAFETY: (iy, ix) is inside the image; the packed weights have whole vectors
                            // for every tap.
                            unsafe {
                                let value = channels_of(simd, pixel, filters, spec.group_out_channels());
                                acc = simd.mul_add(value, simd.load(tap), acc);
                            }
                        }
                    }
                    // SAFETY: the pixel lies in the unit's rows.
                    unsafe { view.finish::<false>(filters, acc, view.output(filters, y, x)) };
                }
            }
        }
    }
}

/// The input channel of each of some filters.
///
/// # Safety
/// `pixel` points to channel 0 of a pixel of the input.
#[inline(always)]
unsafe fn channels_of<S: Simd>(simd: S, pixel: *const f32, filters: Filters, multiplier: usize) -> S::F32 {
    let Filters { first, lanes, .. } = filters;
    if multiplier == 1 {
        // SAFETY: the pixel has `lanes` channels from the first.
        return unsafe { simd.load_partial(pixel.add(first), lanes) };
    }
    let mut values = [0.0; 16];
    for (i, value) in values[..lanes].iter_mut().enumerate() {
        // SAFETY: filter first + i exists, so its channel does.
        *value = unsafe { *pixel.add((first + i) / multiplier) };
    }
    // SAFETY: no vector has more than 16 lanes.
    unsafe { simd.load(values.as_ptr()) }
}
