//! [`depthwise`](super) in NHWC where [`slide`](super::slide) lacks registers: tiles of a few output rows and
//! columns, input row by input row.

use std::ops::Range;

use super::nhwc::{Filters, View};
use crate::simd::Simd;

/// Output rows of a tile.
const ROWS: usize = 2;

/// Most input columns under a tile.
const MOST_COLUMNS: usize = 11;

/// A pixel of padding, for vectors of any instruction set.
static ZEROS: [f32; 16] = [0.0; 16];

/// Output rows of some vectors of filters.
#[inline(always)]
pub(super) fn rows<S: Simd, const K: usize, const T: usize>(
    view: View<S>,
    vectors: &Range<usize>,
    rows: &Range<usize>,
) {
    let (mut y, end) = (rows.start, rows.end);
    while y < end {
        if y + ROWS <= end {
            fixed_rows::<S, K, T, 2>(view, vectors, y);
        } else {
            fixed_rows::<S, K, T, 1>(view, vectors, y);
        }
        y += ROWS;
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
    // Seven columns divide the usual widths; their pixels and sums fit 32 registers.
    if const { S::MR * S::NV > 16 && 6 * T + K <= MOST_COLUMNS } {
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
    // Whole vectors in a loop of their own, which only counts filters.
    let whole = view.whole(vectors);
    for vector in (vectors.start..whole.start).chain(whole.end..vectors.end) {
        fixed_vector::<S, K, T, R, P, false, false>(view, view.filters(vector), y, x);
    }
    let mut filters = Filters { first: view.first(whole.start), lanes: S::LANES };
    for _ in whole {
        if inside {
            fixed_vector::<S, K, T, R, P, true, true>(view, filters, y, x);
        } else {
            fixed_vector::<S, K, T, R, P, false, true>(view, filters, y, x);
        }
        filters.first += S::LANES;
    }
}

/// A vector of filters of R×P outputs from (y, x), which with `INSIDE` read no padding left or right; with
/// `WHOLE` the vector has all its filters.
#[inline(always)]
fn fixed_vector<
    S: Simd,
    const K: usize,
    const T: usize,
    const R: usize,
    const P: usize,
    const INSIDE: bool,
    const WHOLE: bool,
>(
    view: View<S>,
    filters: Filters,
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
        let input = view.input.wrapping_add(iy * view.in_row + filters.first);
        let input = input.wrapping_add(start.wrapping_mul(view.in_pixel));
        let mut pixels = [simd.splat(0.0); MOST_COLUMNS];
        for (column, loaded) in pixels.iter_mut().enumerate().take((P - 1) * T + K) {
            let pixel = input.wrapping_add(column * view.in_pixel);
            // Chosen by address, not by a branch around the load.
            let pixel =
                if INSIDE || start.wrapping_add(column) < view.width { pixel } else { ZEROS.as_ptr() };
            // SAFETY: the pixel is inside the image and has this vector's channels, or it is padding.
            *loaded = unsafe { view.channels::<WHOLE>(pixel, filters) };
        }
        for (i, sums) in acc.iter_mut().enumerate() {
            let r = row.wrapping_sub(i * T);
            if r >= K {
                continue;
            }
            for s in 0..K {
                // SAFETY: the packed weights have whole vectors from every filter of every tap.
                let weight =
                    unsafe { simd.load(view.weights.wrapping_add((r * K + s) * view.tap + filters.first)) };
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = simd.mul_add(pixels[j * T + s], weight, *sum);
                }
            }
        }
    }
    let bias = view.bias(filters);
    for (i, row) in acc.iter().enumerate() {
        for (j, &sum) in row.iter().enumerate() {
            // SAFETY: the tile lies in the unit's rows and in the row.
            unsafe { view.finish::<WHOLE>(filters, simd.add(sum, bias), view.output(filters, y + i, x + j)) };
        }
    }
}
