//! [`depthwise`](super) in NHWC: lanes are channels, pixels are read in place.

use std::ops::Range;

use super::Window;
use crate::buffer::AlignedBuffer;
use crate::cache::CacheSizes;
use crate::error::ConvError;
use crate::kernel::{Body, PlanOptions};
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
    weights: AlignedBuffer,
    filters: usize,
}

pub(super) fn prepare<S: Simd>(
    simd: S,
    spec: &ConvSpec,
    weights: &[f32],
    options: &PlanOptions,
) -> Result<Box<dyn Body>, ConvError> {
    let threads = parallel::worthwhile(options.threads, spec);
    let filters = spec.out_channels().next_multiple_of(S::LANES);
    let taps = spec.kernel()[0] * spec.kernel()[1];
    let mut packed = AlignedBuffer::zeros(filters * taps)?;
    for (filter, taps) in weights.chunks_exact(taps).enumerate() {
        for (tap, &weight) in taps.iter().enumerate() {
            packed[tap * filters + filter] = weight;
        }
    }
    let images = spec.batch();
    let row = 4 * spec.in_width() * spec.in_channels() * spec.stride()[0];
    let most = CacheSizes::detect().l2 / 2 / row;
    let vectors = filters / S::LANES;
    let partition = Partition::new(images, spec.out_height(), most, ROWS, vectors, threads);
    let worker = Nhwc { simd, spec: *spec, options: *options, weights: packed, filters };
    Ok(Box::new(Partitioned { spec: *spec, threads, images, partition, worker }))
}

/// Output rows of a tile.
const ROWS: usize = 2;

/// Most input columns under a tile.
const MOST_COLUMNS: usize = 17;

impl<S: Simd> Worker for Nhwc<S> {
    fn scratch_len(&self) -> usize {
        0
    }

    fn packed_bytes(&self) -> usize {
        self.weights.bytes()
    }

    fn unit(&self, unit: &Unit, io: &Shared<'_>, _: &mut [f32]) {
        let whole = |vector: usize| {
            (vector + 1) * S::LANES <= self.spec.out_channels() && self.spec.group_out_channels() == 1
        };
        for vector in unit.filter_tiles.clone() {
            let rows = Rows { worker: self, io, image: unit.image, rows: unit.pixels.clone(), vector };
            match Window::of(&self.spec).special() {
                Some((3, 1)) if whole(vector) => self.simd.vectorize(Fixed::<_, 3, 1>(rows)),
                Some((3, 2)) if whole(vector) => self.simd.vectorize(Fixed::<_, 3, 2>(rows)),
                Some((5, 1)) if whole(vector) => self.simd.vectorize(Fixed::<_, 5, 1>(rows)),
                Some((5, 2)) if whole(vector) => self.simd.vectorize(Fixed::<_, 5, 2>(rows)),
                _ => self.simd.vectorize(Any(rows)),
            }
        }
    }
}

/// Some output rows of a vector of filters.
struct Rows<'a, S> {
    worker: &'a Nhwc<S>,
    io: &'a Shared<'a>,
    image: usize,
    rows: Range<usize>,
    vector: usize,
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
    /// The image's first output, at this vector's first filter.
    output: *mut f32,
    out_pixel: usize,
    out_width: usize,
    bias: S::F32,
    limits: (S::F32, S::F32),
    accumulate: bool,
    /// The vector's first filter, and how many it has.
    first: usize,
    lanes: usize,
}

impl<S: Simd> Rows<'_, S> {
    #[inline(always)]
    fn view(&self, simd: S) -> View<S> {
        let (spec, options) = (&self.worker.spec, &self.worker.options);
        let first = self.vector * S::LANES;
        let lanes = S::LANES.min(spec.out_channels() - first);
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
            weights: self.worker.weights[first..].as_ptr(),
            tap: self.worker.filters,
            // SAFETY: the image and the filter exist.
            output: unsafe { self.io.output.at(self.image * out_image + first) },
            out_pixel: spec.out_channels(),
            out_width: spec.out_width(),
            bias: match self.io.bias {
                // SAFETY: the bias has a value for each of the vector's filters.
                Some(bias) => unsafe { simd.load_partial(bias[first..].as_ptr(), lanes) },
                None => simd.splat(0.0),
            },
            limits: (simd.splat(lo), simd.splat(hi)),
            accumulate: options.accumulate,
            first,
            lanes,
        }
    }
}

/// A pixel of padding, for vectors of any instruction set.
static ZEROS: [f32; 16] = [0.0; 16];

impl<S: Simd> View<S> {
    /// Adds bias and previous output, applies the limits and stores the output at (y, x); with `WHOLE`
    /// all lanes.
    ///
    /// # Safety
    /// The output is there and belongs to the caller alone.
    #[inline(always)]
    unsafe fn finish<const WHOLE: bool>(&self, sum: S::F32, y: usize, x: usize) {
        let simd = self.simd;
        let output = self.output.wrapping_add((y * self.out_width + x) * self.out_pixel);
        let mut value = simd.add(sum, self.bias);
        // SAFETY: `lanes` filters of this pixel are valid, by the caller's promise.
        unsafe {
            if self.accumulate {
                value = simd.add(value, simd.load_partial(output, self.lanes));
            }
            value = simd.clamp(value, self.limits.0, self.limits.1);
            if WHOLE {
                simd.store(output, value);
            } else {
                simd.store_partial(output, value, self.lanes);
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
                fixed_rows::<S, K, T, 2>(view, y);
            } else {
                fixed_rows::<S, K, T, 1>(view, y);
            }
            y += ROWS;
        }
    }
}

#[inline(always)]
fn fixed_rows<S: Simd, const K: usize, const T: usize, const R: usize>(view: View<S>, y: usize) {
    let width = view.out_width;
    let mut x = 0;
    // Seven columns fit AVX-512's registers and divide the usual widths.
    if const { S::LANES == 16 } {
        while x + 7 <= width {
            fixed_tile::<S, K, T, R, 7>(view, y, x);
            x += 7;
        }
    }
    while x + 4 <= width {
        fixed_tile::<S, K, T, R, 4>(view, y, x);
        x += 4;
    }
    while x + 2 <= width {
        fixed_tile::<S, K, T, R, 2>(view, y, x);
        x += 2;
    }
    if x < width {
        fixed_tile::<S, K, T, R, 1>(view, y, x);
    }
}

/// R×P outputs from (y, x).
#[inline(always)]
fn fixed_tile<S: Simd, const K: usize, const T: usize, const R: usize, const P: usize>(
    view: View<S>,
    y: usize,
    x: usize,
) {
    let simd = view.simd;
    let mut acc = [[simd.splat(0.0); P]; R];
    let inside = x * T >= view.left && x * T + (P - 1) * T + K <= view.width + view.left;
    for row in 0..(R - 1) * T + K {
        // May wrap below zero, which is no row either.
        let iy = (y * T + row).wrapping_sub(view.top);
        if iy >= view.height {
            continue;
        }
        let input = view.input.wrapping_add(iy * view.in_row + view.first);
        let mut pixels = [simd.splat(0.0); MOST_COLUMNS];
        for (column, loaded) in pixels.iter_mut().enumerate().take((P - 1) * T + K) {
            let ix = (x * T + column).wrapping_sub(view.left);
            let pixel = input.wrapping_add(ix.wrapping_mul(view.in_pixel));
            // Chosen by address, not by a branch around the load.
            let pixel = if inside || ix < view.width { pixel } else { ZEROS.as_ptr() };
            // SAFETY: (iy, ix) is inside the image and has this vector's channels, or it is padding.
            *loaded = unsafe { simd.load(pixel) };
        }
        for (i, sums) in acc.iter_mut().enumerate() {
            let r = row.wrapping_sub(i * T);
            if r >= K {
                continue;
            }
            for s in 0..K {
                // SAFETY: the packed weights have whole vectors for every tap.
                let weight = unsafe { simd.load(view.weights.wrapping_add((r * K + s) * view.tap)) };
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = simd.mul_add(pixels[j * T + s], weight, *sum);
                }
            }
        }
    }
    for (i, row) in acc.iter().enumerate() {
        for (j, &sum) in row.iter().enumerate() {
            // SAFETY: the tile lies in the unit's rows and in the row.
            unsafe { view.finish::<true>(sum, y + i, x + j) };
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
        let Window { kernel, stride, dilation } = Window::of(&self.0.worker.spec);
        let multiplier = self.0.worker.spec.group_out_channels();
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
                        let tap = view.weights.wrapping_add((r * kernel[1] + s) * view.tap);
                        // SAFETY: (iy, ix) is inside the image; the packed weights have whole vectors for
                        // every tap.
                        unsafe {
                            let value = channels_of(&view, pixel, multiplier);
                            acc = simd.mul_add(value, simd.load(tap), acc);
                        }
                    }
                }
                // SAFETY: the pixel lies in the unit's rows.
                unsafe { view.finish::<false>(acc, y, x) };
            }
        }
    }
}

/// The input channel of each of the vector's filters.
///
/// # Safety
/// `pixel` points to channel 0 of a pixel of the input.
#[inline(always)]
unsafe fn channels_of<S: Simd>(view: &View<S>, pixel: *const f32, multiplier: usize) -> S::F32 {
    if multiplier == 1 {
        // SAFETY: the pixel has `lanes` channels from the first.
        return unsafe { view.simd.load_partial(pixel.add(view.first), view.lanes) };
    }
    let mut values = [0.0; 16];
    for (i, value) in values[..view.lanes].iter_mut().enumerate() {
        // SAFETY: filter first + i exists, so its channel does.
        *value = unsafe { *pixel.add((view.first + i) / multiplier) };
    }
    // SAFETY: no vector has more than 16 lanes.
    unsafe { view.simd.load(values.as_ptr()) }
}
