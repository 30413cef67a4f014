//! Bands as planes: for kernels that read neighbouring pixels of a channel as a vector.

use std::ops::Range;

use super::transpose::transpose;
use super::{Image, Window};
use crate::buffer::odd_lines;
use crate::simd::{Simd, SimdOp};
use crate::spec::ConvSpec;

/// How [`pack_planes`] lays a band out: `[channel][row][phase][column]`, where phase p holds the
/// columns x with x mod stride = p, so that the pixels of neighbouring outputs lie side by side
/// whatever the stride.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Planes {
    /// Horizontal stride: the number of phases.
    pub(crate) stride: usize,
    /// f32s from one phase to the next.
    pub(crate) phase: usize,
    /// f32s from one row to the next.
    pub(crate) row: usize,
    /// f32s from one channel to the next.
    pub(crate) channel: usize,
}

impl Planes {
    /// For bands of at most `rows` output rows, read in vectors of `lanes` from every output column.
    pub(crate) fn new(spec: &ConvSpec, rows: usize, lanes: usize) -> Self {
        Planes::of_columns(spec, rows, spec.out_width(), lanes)
    }

    /// The same for `columns` neighbouring outputs of each row.
    pub(crate) fn of_columns(spec: &ConvSpec, rows: usize, columns: usize, lanes: usize) -> Self {
        let window_rows = (rows - 1) * spec.stride()[0] + spec.dilated_kernel()[0];
        let window_columns = (columns - 1) * spec.stride()[1] + spec.dilated_kernel()[1];
        // A stride longer than the window is never taken.
        let stride = spec.stride()[1].min(window_columns);
        // The last vector of a row may start at its last multiple of `lanes`.
        let reach = (spec.dilated_kernel()[1] - 1) / stride;
        let phase = columns.next_multiple_of(lanes) + reach;
        let row = (phase * stride).next_multiple_of(lanes);
        // An odd number of cache lines: channels a power of two apart would share sets of the level-1 cache.
        Planes { stride, phase, row, channel: odd_lines(row * window_rows) }
    }

    /// Of rows as they are, whatever the stride: one phase with all columns.
    pub(crate) fn whole(spec: &ConvSpec, rows: usize, lanes: usize) -> Self {
        let window = Window::under(spec, &(0..rows));
        let row = window.columns.next_multiple_of(lanes);
        Planes { stride: 1, phase: row, row, channel: odd_lines(row * window.rows()) }
    }

    /// Distance of tap (channel c, row r, column s) of the kernel from output pixel (0, 0).
    pub(crate) fn offset(&self, spec: &ConvSpec, [c, r, s]: [usize; 3]) -> usize {
        let x = s * spec.dilation()[1];
        c * self.channel + r * spec.dilation()[0] * self.row + x % self.stride * self.phase + x / self.stride
    }
}

/// Copies a window of `image` as [`Planes`]; padding is zero. Beyond the window's last column a row may hold
/// anything.
pub(crate) fn pack_planes<S: Simd>(
    simd: S,
    spec: &ConvSpec,
    image: &Image,
    window: &Window,
    input: &[f32],
    planes: &Planes,
    band: &mut [f32],
) {
    simd.vectorize(PackPlanes { spec, image, window, input, planes, band });
}

struct PackPlanes<'a> {
    spec: &'a ConvSpec,
    image: &'a Image,
    window: &'a Window,
    input: &'a [f32],
    planes: &'a Planes,
    band: &'a mut [f32],
}

impl<S: Simd> SimdOp<S> for PackPlanes<'_> {
    type Output = ();
    #[inline(always)]
    fn eval(self, simd: S) {
        let PackPlanes { spec, image, window, input, planes, band } = self;
        let inside = window.input_columns(spec);
        if inside.is_empty() || window.inside_rows(spec).is_empty() {
            for channel in band.chunks_mut(planes.channel).take(image.channels) {
                zero(simd, &mut channel[..window.rows() * planes.row]);
            }
        } else if image.pixel == 1 && planes.stride <= 2 {
            for c in 0..image.channels {
                let first = image.at(c, window.first_row(spec), window.first_input_column(spec));
                pack_plane(
                    simd,
                    spec,
                    window,
                    &input[first..],
                    image.row,
                    planes,
                    &mut band[c * planes.channel..],
                );
            }
        } else {
            pack_plane_rows(simd, spec, image, window, input, planes, band);
        }
    }
}

/// Rows of one channel that are not padding, pixels side by side.
struct Rows<'a> {
    /// From the first pixel of the first row.
    input: &'a [f32],
    /// f32s from one row to the next.
    pitch: usize,
    count: usize,
    /// Columns of the window that they fill.
    inside: Range<usize>,
}

impl Rows<'_> {
    /// The input from the first pixel to the last.
    #[inline(always)]
    fn input(&self) -> &[f32] {
        &self.input[..(self.count - 1) * self.pitch + self.inside.len()]
    }
}

/// [`pack_planes`] of one channel whose pixels lie side by side, for strides 1 and 2: planes may be so small
/// that each row's share of the work around them counts. `input` starts at the first row that is read.
#[inline(always)]
fn pack_plane<S: Simd>(
    simd: S,
    spec: &ConvSpec,
    window: &Window,
    input: &[f32],
    in_row: usize,
    planes: &Planes,
    plane: &mut [f32],
) {
    let (inside, rows) = (window.input_columns(spec), window.inside_rows(spec));
    let plane = &mut plane[..window.rows() * planes.row];
    let (start, end) = (rows.start * planes.row, rows.end * planes.row);
    zero(simd, &mut plane[..start]);
    zero(simd, &mut plane[end..]);
    let rows = Rows { input, pitch: in_row, count: rows.len(), inside };
    if planes.stride == 1 {
        copy_rows(simd, &rows, window.columns, planes, &mut plane[start..end]);
    } else {
        unzip_rows(simd, &rows, window.columns, planes, &mut plane[start..end]);
    }
}

/// Copies rows as they are, for stride 1, with zeros in the rest of the window's `columns`.
#[inline(always)]
fn copy_rows<S: Simd>(simd: S, rows: &Rows<'_>, columns: usize, planes: &Planes, plane: &mut [f32]) {
    let (left, len) = (rows.inside.start, rows.inside.len());
    let (input, plane) = (rows.input(), &mut plane[..rows.count * planes.row]);
    let room = left + len.next_multiple_of(S::LANES) <= planes.row;
    for row in 0..rows.count {
        // SAFETY: each row of `input` has the `len` pixels that are read. What is written lies in the
        // window's columns, for which each row of `plane` has room; only the vector with the last pixels
        // may reach beyond, where `room` says that the row does too.
        unsafe {
            let from = input.as_ptr().add(row * rows.pitch);
            let to = plane.as_mut_ptr().add(row * planes.row);
            zero_raw(simd, to, 0..left);
            let mut x = 0;
            while x + S::LANES <= len {
                simd.store(to.add(left + x), simd.load(from.add(x)));
                x += S::LANES;
            }
            if x < len {
                let tail = simd.load_partial(from.add(x), len - x);
                if room {
                    simd.store(to.add(left + x), tail);
                    x += S::LANES;
                } else {
                    simd.store_partial(to.add(left + x), tail, len - x);
                    x = len;
                }
            }
            zero_raw(simd, to, left + x..columns);
        }
    }
}

/// Copies rows for stride 2, even columns to the first phase and odd ones to the second, with zeros in the
/// rest of the window's `columns`.
#[inline(always)]
fn unzip_rows<S: Simd>(simd: S, rows: &Rows<'_>, columns: usize, planes: &Planes, plane: &mut [f32]) {
    let (left, len) = (rows.inside.start, rows.inside.len());
    let (input, plane) = (rows.input(), &mut plane[..rows.count * planes.row]);
    // For each phase: where its pixels start and how many they are; where it starts and how many columns it
    // has. The first pixel's phase comes first.
    let phases = [(0, columns.div_ceil(2)), (planes.phase, columns / 2)];
    let starts = [left.div_ceil(2), planes.phase + left / 2];
    let order = if left % 2 == 0 { [0, 1] } else { [1, 0] };
    let phases = order.map(|phase| phases[phase]);
    let sides = [(starts[order[0]], len.div_ceil(2)), (starts[order[1]], len / 2)];
    // The last pixels of a row, fewer than fill both vectors, and how far the stores of each side reach: whole
    // vectors, where the phase has room, take their zeros along.
    let whole = len / (2 * S::LANES) * (2 * S::LANES);
    let rest = [S::LANES.min(len - whole), (len - whole).saturating_sub(S::LANES)];
    let first = whole / 2;
    let room = whole < len
        && sides.iter().zip(&phases).all(|(side, phase)| side.0 + first + S::LANES <= phase.0 + planes.phase);
    let ends = sides.map(|(start, pixels)| start + if room { first + S::LANES } else { pixels });
    for row in 0..rows.count {
        // SAFETY: each row of `input` has the `len` pixels that are read. What is written lies in the
        // window's columns, for which both phases of each row of `plane` have room: x is even, so that
        // x / 2 pixels of each side come before pixel x, and no side gets more than its half of them; only the
        // vectors with the last pixels may reach beyond, where `room` says that the phases do too.
        unsafe {
            let from = input.as_ptr().add(row * rows.pitch);
            let to = plane.as_mut_ptr().add(row * planes.row);
            for i in 0..2 {
                zero_raw(simd, to, phases[i].0..sides[i].0);
                zero_raw(simd, to, ends[i]..phases[i].0 + phases[i].1);
            }
            for x in (0..whole).step_by(2 * S::LANES) {
                let (e, o) = simd.unzip(simd.load(from.add(x)), simd.load(from.add(x + S::LANES)));
                simd.store(to.add(sides[0].0 + x / 2), e);
                simd.store(to.add(sides[1].0 + x / 2), o);
            }
            if whole < len {
                let a = simd.load_partial(from.add(whole), rest[0]);
                let b = simd.load_partial(from.add(whole + rest[0]), rest[1]);
                let (e, o) = simd.unzip(a, b);
                let to = sides.map(|side| to.add(side.0 + first));
                if room {
                    simd.store(to[0], e);
                    simd.store(to[1], o);
                } else {
                    simd.store_partial(to[0], e, sides[0].1 - first);
                    simd.store_partial(to[1], o, sides[1].1 - first);
                }
            }
        }
    }
}

/// [`pack_planes`] row by row, for any stride and layout.
#[inline(always)]
fn pack_plane_rows<S: Simd>(
    simd: S,
    spec: &ConvSpec,
    image: &Image,
    window: &Window,
    input: &[f32],
    planes: &Planes,
    band: &mut [f32],
) {
    let inside = window.input_columns(spec);
    for (row_index, source) in window.input_rows(spec).enumerate() {
        let rows = &mut band[row_index * planes.row..];
        let Some(y) = source else {
            for row in rows.chunks_mut(planes.channel).take(image.channels) {
                zero(simd, &mut row[..planes.row]);
            }
            continue;
        };
        let input = &input[image.at(0, y, window.first_input_column(spec))..];
        if image.channel == 1 {
            // Channels lie side by side: all of them at once.
            for phase in 0..planes.stride {
                let (skip, first, count) = phase_of(&inside, planes, phase);
                let rows = &mut rows[phase * planes.phase..];
                for row in rows.chunks_mut(planes.channel).take(image.channels) {
                    zero(simd, &mut row[..first.min(planes.phase)]);
                    zero(simd, &mut row[(first + count).min(planes.phase)..planes.phase]);
                }
                if count > 0 {
                    let (input, rows) = (&input[skip * image.pixel..], &mut rows[first..]);
                    let distance = planes.stride * image.pixel;
                    transpose(input, distance, count, image.channels, rows, planes.channel);
                }
            }
            continue;
        }
        for (c, row) in rows.chunks_mut(planes.channel).take(image.channels).enumerate() {
            let row = &mut row[..planes.row];
            zero(simd, row);
            pack_phases(&input[c * image.channel..], image.pixel, &inside, planes, row);
        }
    }
}

/// Fills a slice with zeros, in vectors of the kernel that reads it.
#[inline(always)]
fn zero<S: Simd>(simd: S, columns: &mut [f32]) {
    // SAFETY: the slice has these columns.
    unsafe { zero_raw(simd, columns.as_mut_ptr(), 0..columns.len()) }
}

/// Zeros in some columns of a row, of which there are mostly few or none.
///
/// # Safety
/// `to` is valid for writes of these columns.
#[inline(always)]
unsafe fn zero_raw<S: Simd>(simd: S, to: *mut f32, columns: Range<usize>) {
    let mut x = columns.start;
    // SAFETY: by the caller's promise.
    unsafe {
        while x + S::LANES <= columns.end {
            simd.store(to.add(x), simd.splat(0.0));
            x += S::LANES;
        }
        if x < columns.end {
            simd.store_partial(to.add(x), simd.splat(0.0), columns.end - x);
        }
    }
}

/// Of a phase, for a row whose `inside` columns are pixels: its first pixel, the column of the phase where that
/// belongs, and how many pixels there are, `stride` apart.
fn phase_of(inside: &Range<usize>, planes: &Planes, phase: usize) -> (usize, usize, usize) {
    let skip = (phase + planes.stride - inside.start % planes.stride) % planes.stride;
    let first = (inside.start + skip) / planes.stride;
    (skip, first, inside.len().saturating_sub(skip).div_ceil(planes.stride))
}

/// Copies a row of input pixels, `pixel` f32s apart, into the phases of a row of planes.
fn pack_phases(input: &[f32], pixel: usize, inside: &Range<usize>, planes: &Planes, row: &mut [f32]) {
    for phase in 0..planes.stride {
        let (skip, first, count) = phase_of(inside, planes, phase);
        let to = &mut row[phase * planes.phase + first..][..count];
        for (i, to) in to.iter_mut().enumerate() {
            *to = input[skip * pixel + i * planes.stride * pixel];
        }
    }
}
