//! [`depthwise`](super) in NHWC: lanes are channels, pixels are read in place.

use std::ops::Range;
use std::sync::Arc;

use super::Window;
use crate::buffer::AlignedBuffer;
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
    let mut packed = AlignedBuffer::zeros(filters * taps)?;
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
    let row = 4 * spec.in_width() * spec.in_channels() * spec.stride()[0];
    let most = CacheSizes::detect().l2 / 2 / row;
    let vectors = filters / S::LANES;
    let partition = Partition::new(images, spec.out_height(), most, ROWS, vectors, threads);
    let worker = Nhwc { simd, spec: *spec, options: *options, weights, filters };
    Ok(Box::new(Partitioned { spec: *spec, threads, images, partition, worker }))
}

/// Filters, rounded up to whole vectors.
fn padded_filters<S: Simd>(spec: &ConvSpec) -> usize {
    spec.out_channels().next_multiple_of(S::LANES)
}

/// Output rows of a tile.
const ROWS: usize = 2;

/// Most input columns under a tile.
const MOST_COLUMNS: usize = 17;

impl<S: Simd> Worker for Nhwc<S> {
    fn scratch_len(&self) -> usize {
        0
    }

    fn unit(&self, unit: &Unit, io: &Shared<'_>, _: &mut [f32]) {
        let spec = &self.spec;
        let whole = if spec.group_out_channels() == 1 { spec.out_channels() / S::LANES } else { 0 };
        let rows = |vectors: Range<usize>| Rows {
            worker: self,
            io,
            image: unit.image,
            rows: unit.pixels.clone(),
            vectors,
        };
        let Range { start, end } = unit.filter_tiles;
        let special = Window::of(spec).special();
        let middle = if special.is_some() { whole.clamp(start, end) } else { start };
        let fixed = rows(start..middle);
        match special {
            Some((3, 1)) => self.simd.vectorize(Fixed::<_, 3, 1>(fixed)),
            Some((3, 2)) => self.simd.vectorize(Fixed::<_, 3, 2>(fixed)),
            Some((5, 1)) => self.simd.vectorize(Fixed::<_, 5, 1>(fixed)),
            Some((5, 2)) => self.simd.vectorize(Fixed::<_, 5, 2>(fixed)),
            _ => {}
        }
        if middle < end {
            self.simd.vectorize(Any(rows(middle..end)));
        }
    }
}

/// Some output rows of some vectors of filters.
struct Rows<'a, S> {
    worker: &'a Nhwc<S>,
    io: &'a Shared<'a>,
    image: usize,
    rows: Range<usize>,
    vectors: Range<usize>,
}

/// What the loops need, as plain values: behind a reference they would be read again after every store.
#[derive(Clone, Copy)]
struct View<S: Simd> {
    simd: S,
    /// The image's first pixel, at channel 0.
    input: *const f32,
    /// f32s from pixel to pixel and from row to row of the input.
    in_pixel: usize,
    in_row: usize,
    height: usize,
    width: usize,
    top: usize,
    left: usize,
    weights: *const f32,
    /// f32s from tap to tap.
    tap: usize,
    /// The image's first output, at filter 0.
    output: *mut f32,
    out_pixel: usize,
    out_width: usize,
    bias: Option<*const f32>,
    limits: (S::F32, S::F32),
    accumulate: bool,
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
            bias: self.io.bias.map(<[f32]>::as_ptr),
            limits: (simd.splat(lo), simd.splat(hi)),
            accumulate: options.accumulate,
        }
    }
}

/// A pixel of padding, for vectors of any instruction set.
static ZEROS: [f32; 16] = [0.0; 16];

/// Some neighbouring filters, at most a vector of them.
#[derive(Clone, Copy)]
struct Filters<S: Simd> {
    first: usize,
    lanes: usize,
    bias: S::F32,
}

impl<S: Simd> View<S> {
    /// A vector's filters, of which there are `lanes`.
    ///
    /// # Safety
    /// There are as many filters from `first`.
    #[inline(always)]
    unsafe fn filters(&self, first: usize, lanes: usize) -> Filters<S> {
        let simd = self.simd;
        let bias = match self.bias {
            // SAFETY: the bias has a value for each filter.
            Some(bias) if lanes == S::LANES => unsafe { simd.load(bias.add(first)) },
            // SAFETY: as above.
            Some(bias) => unsafe { simd.load_partial(bias.add(first), lanes) },
            None => simd.splat(0.0),
        };
        Filters { first, lanes, bias }
    }

    /// Adds bias and previous output, applies the limits and stores the output at (y, x); with `WHOLE`
    /// all lanes.
    ///
    /// # Safety
    /// The output is there and belongs to the caller alone.
    #[inline(always)]
    unsafe fn finish<const WHOLE: bool>(&self, filters: Filters<S>, sum: S::F32, y: usize, x: usize) {
        let simd = self.simd;
        let Filters { first, lanes, bias } = filters;
        let output = self.output.wrapping_add((y * self.out_width + x) * self.out_pixel + first);
        let mut value = simd.add(sum, bias);
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

/// K×K taps with stride T, unrolled; whole vectors, one filter a channel.
struct Fixed<'a, S, const K: usize, const T: usize>(Rows<'a, S>);

impl<S: Simd, const K: usize, const T: usize> SimdOp<S> for Fixed<'_, S, K, T> {
    type Output = ();
    #[inline(always)]
    fn eval(self, simd: S) {
        let view = self.0.view(simd);
        let (mut y, end) = (self.0.rows.start, self.0.rows.end);
        while y < end {
            if y + ROWS <= end {
                fixed_rows::<S, K, T, 2>(view, &self.0.vectors, y);
            } else {
                fixed_rows::<S, K, T, 1>(view, &self.0.vectors, y);
            }
            y += ROWS;
        }
    }
}

/// R output rows, tile by tile; within a tile vector by vector, so that memory is read as it lies.
#[inline(always)]
fn fixed_rows<S: Simd, const K: usize, const T: usize, const R: usize>(
    view: View<S>,
    vectors: &Range<usize>,
    y: usize,
) {
    let width = view.out_width;
    let mut x = 0;
    // Seven columns fit AVX-512's registers and divide the usual widths.
    if const { S::LANES == 16 && 6 * T + K <= 15 } {
        while x + 7 <= width {
            fixed_tile::<S, K, T, R, 7>(view, vectors, y, x);
            x += 7;
        }
    }
    while x + 4 <= width {
        fixed_tile::<S, K, T, R, 4>(view, vectors, y, x);
        x += 4;
    }
    while x + 2 <= width {
        fixed_tile::<S, K, T, R, 2>(view, vectors, y, x);
        x += 2;
    }
    if x < width {
        fixed_tile::<S, K, T, R, 1>(view, vectors, y, x);
    }
}

/// R×P outputs from (y, x).
#[inline(always)]
fn fixed_tile<S: Simd, const K: usize, const T: usize, const R: usize, const P: usize>(
    view: View<S>,
    vectors: &Range<usize>,
    y: usize,
    x: usize,
) {
    let inside = x * T >= view.left && x * T + (P - 1) * T + K <= view.width + view.left;
    for vector in vectors.clone() {
        if inside {
            fixed_vector::<S, K, T, R, P, true>(view, vector * S::LANES, y, x);
        } else {
            fixed_vector::<S, K, T, R, P, false>(view, vector * S::LANES, y, x);
        }
    }
}

/// A vector of filters of R×P outputs from (y, x), which with `INSIDE` read no padding left or right.
#[inline(always)]
fn fixed_vector<
    S: Simd,
    const K: usize,
    const T: usize,
    const R: usize,
    const P: usize,
    const INSIDE: bool,
>(
    view: View<S>,
    first: usize,
    y: usize,
    x: usize,
) {
    let simd = view.simd;
    let mut acc = [[simd.splat(0.0); P]; R];
    // May wrap below zero: then the first column is padding and its address is not used.
    let start = (x * T).wrapping_sub(view.left);
    for row in 0..(R - 1) * T + K {
        // May wrap below zero, which is no row either.
        let iy = (y * T + row).wrapping_sub(view.top);
        if iy >= view.height {
            continue;
        }
        let input = view.input.wrapping_add(iy * view.in_row + first);
        let input = input.wrapping_add(start.wrapping_mul(view.in_pixel));
        let mut pixels = [simd.splat(0.0); MOST_COLUMNS];
        for (column, loaded) in pixels.iter_mut().enumerate().take((P - 1) * T + K) {
            let pixel = input.wrapping_add(column * view.in_pixel);
            // Chosen by address, not by a branch around the load.
            let pixel =
                if INSIDE || start.wrapping_add(column) < view.width { pixel } else { ZEROS.as_ptr() };
            // SAFETY: the pixel is inside the image and has this vector's channels, or it is padding.
            *loaded = unsafe { simd.load(pixel) };
        }
        for (i, sums) in acc.iter_mut().enumerate() {
            let r = row.wrapping_sub(i * T);
            if r >= K {
                continue;
            }
            for s in 0..K {
                // SAFETY: the packed weights have whole vectors for every tap.
                let weight = unsafe { simd.load(view.weights.wrapping_add((r * K + s) * view.tap + first)) };
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = simd.mul_add(pixels[j * T + s], weight, *sum);
                }
            }
        }
    }
    // SAFETY: the vector has all its filters.
    let filters = unsafe { view.filters(first, S::LANES) };
    for (i, row) in acc.iter().enumerate() {
        for (j, &sum) in row.iter().enumerate() {
            // SAFETY: the tile lies in the unit's rows and in the row.
            unsafe { view.finish::<true>(filters, sum, y + i, x + j) };
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
            let first = vector * S::LANES;
            // SAFETY: as many filters are there.
            let filters = unsafe { view.filters(first, S::LANES.min(spec.out_channels() - first)) };
            for y in self.0.rows.clone() {
                for x in 0..view.out_width {
                    let mut acc = simd.splat(0.0);
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
                            let tap = view.weights.wrapping_add((r * kernel[1] + s) * view.tap + first);
                            // SAFETY: (iy, ix) is inside the image; the packed weights have whole vectors
                            // for every tap.
                            unsafe {
                                let value = channels_of(simd, pixel, filters, spec.group_out_channels());
                                acc = simd.mul_add(value, simd.load(tap), acc);
                            }
                        }
                    }
                    // SAFETY: the pixel lies in the unit's rows.
                    unsafe { view.finish::<false>(filters, acc, y, x) };
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
unsafe fn channels_of<S: Simd>(simd: S, pixel: *const f32, filters: Filters<S>, multiplier: usize) -> S::F32 {
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
