//! [`depthwise`](super) in NHWC with many registers: strips of a few output columns, whose sums of the rows that
//! an input row meets stay in registers while the input slides by. So each pixel of a strip is loaded once.

use std::ops::Range;

use super::nhwc::{Filters, View};
use crate::simd::Simd;

/// Output rows of some vectors of filters, in strips.
#[inline(always)]
pub(super) fn columns<S: Simd, const K: usize, const T: usize>(
    view: View<S>,
    vectors: &Range<usize>,
    rows: &Range<usize>,
) {
    let width = view.out_width;
    let mut x = 0;
    // Seven columns divide the usual widths.
    while x + 7 <= width {
        strips::<S, K, T, 7>(view, vectors, rows, x);
        x += 7;
    }
    if x + 4 <= width {
        strips::<S, K, T, 4>(view, vectors, rows, x);
        x += 4;
    }
    if x + 3 <= width {
        strips::<S, K, T, 3>(view, vectors, rows, x);
        x += 3;
    }
    if x + 2 <= width {
        strips::<S, K, T, 2>(view, vectors, rows, x);
        x += 2;
    }
    if x < width {
        strips::<S, K, T, 1>(view, vectors, rows, x);
    }
}

/// P output columns from x, vector by vector.
#[inline(always)]
fn strips<S: Simd, const K: usize, const T: usize, const P: usize>(
    view: View<S>,
    vectors: &Range<usize>,
    rows: &Range<usize>,
    x: usize,
) {
    let inside = x * T >= view.left && x * T + (P - 1) * T + K <= view.width + view.left;
    for vector in vectors.clone() {
        let filters = view.filters(vector);
        match (inside, filters.lanes == S::LANES) {
            (true, true) => strip::<S, K, T, P, true, true>(view, filters, rows, x),
            (false, true) => strip::<S, K, T, P, false, true>(view, filters, rows, x),
            (_, false) => strip::<S, K, T, P, false, false>(view, filters, rows, x),
        }
    }
}

/// A vector of filters of P output columns from x, row after row: each pixel is loaded once and multiplied with
/// all weights that meet it. With `INSIDE` no padding is left or right, with `WHOLE` the vector
/// has all its filters.
#[inline(always)]
fn strip<S: Simd, const K: usize, const T: usize, const P: usize, const INSIDE: bool, const WHOLE: bool>(
    view: View<S>,
    filters: Filters,
    rows: &Range<usize>,
    x: usize,
) {
    let taps = view.taps::<K>(filters);
    // T input rows a step meet the last `depth` output rows; a row of sums leaves its place to a new one.
    let depth = K.div_ceil(T);
    let steps = rows.len() + depth - 1;
    let bias = view.bias(filters);
    let mut sums = [[bias; P]; K];
    let pitches = [view.in_pixel, view.out_pixel];
    let mut step = 0;
    // Literals, so that indices are constants.
    macro_rules! steps {
        ($($place:literal)*) => {
            $(
                if $place < depth {
                    if step == steps {
                        return;
                    }
                    sums[$place] = [bias; P];
                    macro_rules! row {
                        ($t:literal) => {
                            let at = [rows.start + step, x, $t];
                            let pitch = &pitches[0];
                            slide::<S, K, T, P, INSIDE, WHOLE>(view, &taps, filters, pitch, at, $place, &mut sums);
                        };
                    }
                    row!(0);
                    if T == 2 {
                        row!(1);
                    }
                    if step + 1 >= depth {
                        let y = rows.start + step + 1 - depth;
                        let output = view.output(filters, y, x);
                        let pitch = unforeseen(&pitches[1]);
                        for (j, &sum) in sums[($place + 1) % depth].iter().enumerate() {
                            let output = output.wrapping_add(j * pitch);
                            // SAFETY: the output lies in the unit's rows and in the row.
                            unsafe { view.finish::<WHOLE>(filters, sum, output) };
                        }
                    }
                    step += 1;
                }
            )*
        };
    }
    loop {
        steps!(0 1 2);
    }
}

/// Adds what input row t under the outputs at (y, x), whose sums are at `place`, gives to them and to the rows
/// above.
#[inline(always)]
fn slide<S: Simd, const K: usize, const T: usize, const P: usize, const INSIDE: bool, const WHOLE: bool>(
    view: View<S>,
    taps: &[[S::F32; K]; K],
    filters: Filters,
    pitch: &usize,
    [y, x, t]: [usize; 3],
    place: usize,
    sums: &mut [[S::F32; P]; K],
) {
    // May wrap below zero, which is no row either.
    let row = (y * T + t).wrapping_sub(view.top);
    if row >= view.height {
        return;
    }
    // May wrap below zero: then the first columns are padding.
    let start = (x * T).wrapping_sub(view.left);
    let input = view.input.wrapping_add(row * view.in_row + filters.first);
    let input = input.wrapping_add(start.wrapping_mul(view.in_pixel));
    let pitch = unforeseen(pitch);
    // Literals, so that indices are constants.
    macro_rules! columns {
        ($($column:literal)*) => {
            $(if $column < (P - 1) * T + K && (INSIDE || start.wrapping_add($column) < view.width) {
                // SAFETY: the pixel is inside the image.
                let pixel = unsafe { view.channels::<WHOLE>(input.wrapping_add($column * pitch), filters) };
                meet::<S, K, T, P>(view.simd, pixel, taps, [t, $column], place, sums);
            })*
        };
    }
    columns!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16);
}

/// The value, read anew: of one that stays the same the compiler makes an address for each pixel of a strip, and
/// moves all of them, in memory, from row to row.
#[inline(always)]
fn unforeseen(value: &usize) -> usize {
    // SAFETY: a reference can be read.
    unsafe { std::ptr::read_volatile(value) }
}

/// Adds the products of a pixel in row t of a step with the weights that meet it.
#[inline(always)]
fn meet<S: Simd, const K: usize, const T: usize, const P: usize>(
    simd: S,
    pixel: S::F32,
    taps: &[[S::F32; K]; K],
    [t, column]: [usize; 2],
    place: usize,
    sums: &mut [[S::F32; P]; K],
) {
    let depth = K.div_ceil(T);
    for above in 0..depth {
        let r = t + above * T;
        for j in 0..P {
            let s = column.wrapping_sub(j * T);
            if r < K && s < K {
                let sum = &mut sums[(place + depth - above) % depth][j];
                *sum = simd.mul_add(pixel, taps[r][s], *sum);
            }
        }
    }
}
