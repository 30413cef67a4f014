//! Bands: some rows of an image, padded and in the order that a kernel reads, copied to scratch
//! memory; and the way back for outputs.
//!
//! A band holds the input rows under a few output rows. It is small enough to stay in the level-2
//! cache, and with its padding in place the loops that read it need no cases for the edges.

use std::ops::Range;

use wide::f32x4;

use crate::simd::{Simd, SimdOp};
use crate::spec::{ConvSpec, Layout};

/// One image of some neighbouring groups, of input or output, in either layout.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Image {
    /// Index of the groups' first channel at pixel (0, 0).
    start: usize,
    /// f32s from one channel to the next.
    channel: usize,
    /// f32s from one pixel to the next in a row.
    pixel: usize,
    /// f32s from one row to the next.
    row: usize,
    /// Channels of the groups.
    channels: usize,
}

impl Image {
    /// Image `n` of the input, channels of `groups`.
    pub(crate) fn input(spec: &ConvSpec, n: usize, groups: Range<usize>) -> Self {
        let size = [spec.in_channels(), spec.in_height(), spec.in_width()];
        Image::new(spec.layout(), size, n, groups, spec.group_in_channels())
    }

    /// Image `n` of the input, some of its channels.
    #[cfg(feature = "winograd")]
    pub(crate) fn input_channels(spec: &ConvSpec, n: usize, channels: Range<usize>) -> Self {
        let size = [spec.in_channels(), spec.in_height(), spec.in_width()];
        Image::new(spec.layout(), size, n, channels, 1)
    }

    /// Image `n` of the output, channels of `groups`.
    pub(crate) fn output(spec: &ConvSpec, n: usize, groups: Range<usize>) -> Self {
        let size = [spec.out_channels(), spec.out_height(), spec.out_width()];
        Image::new(spec.layout(), size, n, groups, spec.group_out_channels())
    }

    fn new(layout: Layout, [c, h, w]: [usize; 3], n: usize, groups: Range<usize>, each: usize) -> Self {
        let (first, channels) = (groups.start * each, groups.len() * each);
        let start = n * c * h * w;
        match layout {
            Layout::Nchw => {
                Image { start: start + first * h * w, channel: h * w, pixel: 1, row: w, channels }
            }
            Layout::Nhwc => Image { start: start + first, channel: 1, pixel: c, row: w * c, channels },
        }
    }

    /// Index of channel `c` (of the groups) at (y, x).
    pub(crate) fn at(&self, c: usize, y: usize, x: usize) -> usize {
        self.start + c * self.channel + y * self.row + x * self.pixel
    }

    /// f32s from one pixel to the next in a row.
    pub(crate) fn pixel(&self) -> usize {
        self.pixel
    }

    /// f32s from one channel to the next.
    pub(crate) fn channel(&self) -> usize {
        self.channel
    }

    /// f32s from one row to the next.
    pub(crate) fn row(&self) -> usize {
        self.row
    }
}

/// Rows and columns of the padded input that some output rows read.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    /// Rows, counted in the padded input.
    rows: Range<usize>,
    /// Columns, from the left of the padded input.
    columns: usize,
}

impl Window {
    /// What the output rows `rows` read.
    pub(crate) fn under(spec: &ConvSpec, rows: &Range<usize>) -> Self {
        let [kernel_height, kernel_width] = spec.dilated_kernel();
        let [stride_y, stride_x] = spec.stride();
        Window {
            rows: rows.start * stride_y..(rows.end - 1) * stride_y + kernel_height,
            columns: (spec.out_width() - 1) * stride_x + kernel_width,
        }
    }

    /// Any rows and columns of the padded input; beyond it everything is zero.
    #[cfg(feature = "winograd")]
    pub(crate) fn new(rows: Range<usize>, columns: usize) -> Self {
        Window { rows, columns }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// For each row of the window: its row of the input, if it is not padding.
    fn input_rows(&self, spec: &ConvSpec) -> impl Iterator<Item = Option<usize>> {
        let (top, height) = (spec.padding().top, spec.in_height());
        self.rows.clone().map(move |y| y.checked_sub(top).filter(|&y| y < height))
    }

    /// Rows of the window that are not padding.
    fn inside_rows(&self, spec: &ConvSpec) -> Range<usize> {
        let (top, height) = (spec.padding().top, spec.in_height());
        let start = top.saturating_sub(self.rows.start).min(self.rows.len());
        let end = (top + height).saturating_sub(self.rows.start).min(self.rows.len());
        start..end.max(start)
    }

    /// The first row of the input under the window, if any is.
    fn first_row(&self, spec: &ConvSpec) -> usize {
        self.rows.start.saturating_sub(spec.padding().top)
    }

    /// Columns of the window that are not padding.
    fn input_columns(&self, spec: &ConvSpec) -> Range<usize> {
        let left = spec.padding().left.min(self.columns);
        left..(left + spec.in_width()).min(self.columns).max(left)
    }
}

/// Copies a window of `image` as `[row][column][channel]`, pixels `pitch` f32s apart.
pub(crate) fn pack_pixels(
    spec: &ConvSpec,
    image: &Image,
    window: &Window,
    input: &[f32],
    pitch: usize,
    band: &mut [f32],
) {
    let inside = window.input_columns(spec);
    for (source, row) in window.input_rows(spec).zip(band.chunks_exact_mut(window.columns * pitch)) {
        let Some(y) = source.filter(|_| !inside.is_empty()) else {
            row.fill(0.0);
            continue;
        };
        row[..inside.start * pitch].fill(0.0);
        row[inside.end * pitch..].fill(0.0);
        let row = &mut row[inside.start * pitch..inside.end * pitch];
        let start = image.at(0, y, 0);
        if image.channel == 1 && image.pixel == pitch {
            // Whole rows lie in the input as in the band.
            let len = (inside.len() - 1) * pitch + image.channels;
            row[..len].copy_from_slice(&input[start..start + len]);
        } else if image.channel == 1 {
            for (x, pixel) in row.chunks_exact_mut(pitch).enumerate() {
                let start = start + x * image.pixel;
                pixel[..image.channels].copy_from_slice(&input[start..start + image.channels]);
            }
        } else {
            transpose(&input[start..], image.channel, image.channels, inside.len(), row, pitch);
        }
    }
}

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
        let window = Window::under(spec, &(0..rows));
        // A stride longer than the window is never taken.
        let stride = spec.stride()[1].min(window.columns);
        // The last vector of a row may start at its last multiple of `lanes`.
        let reach = (spec.dilated_kernel()[1] - 1) / stride;
        let phase = spec.out_width().next_multiple_of(lanes) + reach;
        let row = (phase * stride).next_multiple_of(lanes);
        Planes { stride, phase, row, channel: row * window.rows() }
    }

    /// Distance of tap (channel c, row r, column s) of the kernel from output pixel (0, 0).
    pub(crate) fn offset(&self, spec: &ConvSpec, [c, r, s]: [usize; 3]) -> usize {
        let x = s * spec.dilation()[1];
        c * self.channel + r * spec.dilation()[0] * self.row + x % self.stride * self.phase + x / self.stride
    }
}

/// The most output rows, at least 1, whose window (and whatever else a block of rows needs) `fits`.
/// What does not fit with some rows does not fit with more.
pub(crate) fn most_rows(spec: &ConvSpec, fits: impl Fn(usize) -> bool) -> usize {
    let (mut good, mut bad) = (1, spec.out_height() + 1);
    while bad - good > 1 {
        // Double first: a band that fits the cache has few rows, however high the image is.
        let middle = (good * 2).min(good + (bad - good) / 2);
        if fits(middle) {
            good = middle;
        } else {
            bad = middle;
        }
    }
    good
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
                zero(simd, channel, 0..window.rows() * planes.row);
            }
        } else if image.pixel == 1 && planes.stride <= 2 {
            for c in 0..image.channels {
                let first = image.at(c, window.first_row(spec), 0);
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
    let pitch = planes.row;
    let plane = &mut plane[..window.rows() * pitch];
    let input = &input[..(rows.len() - 1) * in_row + inside.len()];
    zero(simd, plane, 0..rows.start * pitch);
    zero(simd, plane, rows.end * pitch..window.rows() * pitch);
    let (len, left) = (inside.len(), inside.start);
    // SAFETY: the slices hold the rows; in a row of `pitch` f32s all windows' columns have room, and whole
    // vectors only where `room` says so.
    unsafe {
        let (from, to) = (input.as_ptr(), plane.as_mut_ptr().add(rows.start * pitch));
        if planes.stride == 1 {
            let room = left + len.next_multiple_of(S::LANES) <= pitch;
            for row in 0..rows.len() {
                let (from, to) = (from.add(row * in_row), to.add(row * pitch));
                zero_columns(simd, to, 0..left);
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
                zero_columns(simd, to, left + x..window.columns);
            }
            return;
        }
        // Columns of even number are in the first phase. For each phase: where its pixels start and how many
        // they are; where it starts and how many columns it has. The first pixel's phase comes first.
        let phases = [(0, window.columns.div_ceil(2)), (planes.phase, window.columns / 2)];
        let starts = [left.div_ceil(2), planes.phase + left / 2];
        let order = if left % 2 == 0 { [0, 1] } else { [1, 0] };
        let phases = order.map(|phase| phases[phase]);
        let sides = [(starts[order[0]], len.div_ceil(2)), (starts[order[1]], len / 2)];
        for row in 0..rows.len() {
            let (from, to) = (from.add(row * in_row), to.add(row * pitch));
            for ((start, pixels), (phase, columns)) in sides.into_iter().zip(phases) {
                zero_columns(simd, to, phase..start);
                zero_columns(simd, to, start + pixels..phase + columns);
            }
            let mut x = 0;
            while x + 2 * S::LANES <= len {
                let (e, o) = simd.unzip(simd.load(from.add(x)), simd.load(from.add(x + S::LANES)));
                simd.store(to.add(sides[0].0 + x / 2), e);
                simd.store(to.add(sides[1].0 + x / 2), o);
                x += 2 * S::LANES;
            }
            if x < len {
                let a = simd.load_partial(from.add(x), S::LANES.min(len - x));
                let rest = (len - x).saturating_sub(S::LANES);
                let b = simd.load_partial(from.add(x + (len - x - rest)), rest);
                let (e, o) = simd.unzip(a, b);
                simd.store_partial(to.add(sides[0].0 + x / 2), e, sides[0].1 - x / 2);
                simd.store_partial(to.add(sides[1].0 + x / 2), o, sides[1].1 - x / 2);
            }
        }
    }
}

/// Zeros in some columns of a row, of which there are mostly few or none.
///
/// # Safety
/// `to` is valid for writes of these columns.
#[inline(always)]
unsafe fn zero_columns<S: Simd>(simd: S, to: *mut f32, columns: Range<usize>) {
    let mut x = columns.start;
    // SAFETY: by the caller's promise.
    unsafe {
        while x + S::LANES < columns.end {
            simd.store(to.add(x), simd.splat(0.0));
            x += S::LANES;
        }
        if x < columns.end {
            simd.store_partial(to.add(x), simd.splat(0.0), columns.end - x);
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
                zero(simd, row, 0..planes.row);
            }
            continue;
        };
        let input = &input[image.at(0, y, 0)..];
        if planes.stride == 1 {
            // Channels lie side by side: all of them at once.
            for row in rows.chunks_mut(planes.channel).take(image.channels) {
                zero(simd, &mut row[..planes.row], 0..inside.start);
                zero(simd, &mut row[..planes.row], inside.end..window.columns);
            }
            let rows = &mut rows[inside.start..];
            transpose(input, image.pixel, inside.len(), image.channels, rows, planes.channel);
            continue;
        }
        for (c, row) in rows.chunks_mut(planes.channel).take(image.channels).enumerate() {
            zero(simd, row, 0..planes.row);
            pack_phases(&input[c * image.channel..], image.pixel, &inside, planes, &mut row[..planes.row]);
        }
    }
}

/// Zeros in some columns of a row; up to a vector of what follows may become zero too.
#[inline(always)]
fn zero<S: Simd>(simd: S, row: &mut [f32], columns: Range<usize>) {
    let zeros = simd.splat(0.0);
    for column in columns.step_by(S::LANES) {
        let row = &mut row[column..];
        // SAFETY: the row has room for what is written.
        unsafe {
            if row.len() >= S::LANES {
                simd.store(row.as_mut_ptr(), zeros);
            } else {
                simd.store_partial(row.as_mut_ptr(), zeros, row.len());
            }
        }
    }
}

/// Copies a row of input pixels, `pixel` f32s apart, into the phases of a row of planes.
fn pack_phases(input: &[f32], pixel: usize, inside: &Range<usize>, planes: &Planes, row: &mut [f32]) {
    for phase in 0..planes.stride {
        // The first column of this phase at or after the padding.
        let skip = (phase + planes.stride - inside.start % planes.stride) % planes.stride;
        let first = (inside.start + skip) / planes.stride;
        let count = inside.len().saturating_sub(skip).div_ceil(planes.stride);
        let to = &mut row[phase * planes.phase + first..][..count];
        for (i, to) in to.iter_mut().enumerate() {
            *to = input[skip * pixel + i * planes.stride * pixel];
        }
    }
}

/// `to[j * to_row + i] = from[i * from_row + j]` for i below `rows`, j below `columns`.
fn transpose(from: &[f32], from_row: usize, rows: usize, columns: usize, to: &mut [f32], to_row: usize) {
    if rows == 0 || columns == 0 {
        return;
    }
    let from = &from[..(rows - 1) * from_row + columns];
    let to = &mut to[..(columns - 1) * to_row + rows];
    // SAFETY: both slices reach from their first to their last element of the block.
    unsafe { transpose_raw(from.as_ptr(), from_row, rows, columns, to.as_mut_ptr(), to_row) }
}

/// `to[j * to_row + i] = from[i * from_row + j]` for i below `rows`, j below `columns`.
///
/// # Safety
/// `from` is valid for reads at all those places, `to` for writes; they do not overlap.
pub(crate) unsafe fn transpose_raw(
    from: *const f32,
    from_row: usize,
    rows: usize,
    columns: usize,
    to: *mut f32,
    to_row: usize,
) {
    let (whole_rows, whole_columns) = (rows / 4 * 4, columns / 4 * 4);
    // SAFETY: every index below is of the form that the caller vouches for.
    unsafe {
        let load = |i: usize, j: usize| f32x4::new(from.add(i * from_row + j).cast::<[f32; 4]>().read());
        for j in (0..whole_columns).step_by(4) {
            for i in (0..whole_rows).step_by(4) {
                let block = f32x4::transpose([load(i, j), load(i + 1, j), load(i + 2, j), load(i + 3, j)]);
                for (k, column) in block.iter().enumerate() {
                    to.add((j + k) * to_row + i).cast::<[f32; 4]>().write(column.to_array());
                }
            }
            for i in whole_rows..rows {
                for k in j..j + 4 {
                    *to.add(k * to_row + i) = *from.add(i * from_row + k);
                }
            }
        }
        for j in whole_columns..columns {
            for i in 0..rows {
                *to.add(j * to_row + i) = *from.add(i * from_row + j);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Wide;

    /// The padded input, by the definition.
    fn padded(spec: &ConvSpec, input: &[f32], n: usize, c: usize, y: usize, x: usize) -> f32 {
        let (h, w) = (spec.in_height(), spec.in_width());
        match (y.checked_sub(spec.padding().top), x.checked_sub(spec.padding().left)) {
            (Some(y), Some(x)) if y < h && x < w => match spec.layout() {
                Layout::Nchw => input[((n * spec.in_channels() + c) * h + y) * w + x],
                Layout::Nhwc => input[((n * h + y) * w + x) * spec.in_channels() + c],
            },
            _ => 0.0,
        }
    }

    #[test]
    fn bands_hold_the_padded_input() {
        for text in [
            "n2 c6 h7 w9 o2 k3x5 p1,2,0,3 g2",
            "n1 c4 h5 w5 o4 k3 s2 p2 d1x2",
            "n1 c1 h3 w2 o1 k2x3 s3 p4,1,5,6",
            "n1 c5 h1 w13 o1 k1x2 s1x3",
        ] {
            for layout in [Layout::Nchw, Layout::Nhwc] {
                let spec = text.parse::<ConvSpec>().unwrap().with_layout(layout);
                let input: Vec<f32> = (1..=spec.input_len()).map(|i| i as f32).collect();
                let channels = spec.group_in_channels();
                for (n, group, rows) in [
                    (spec.batch() - 1, spec.groups() - 1, 0..spec.out_height()),
                    (0, 0, spec.out_height() - 1..spec.out_height()),
                ] {
                    let image = Image::input(&spec, n, group..group + 1);
                    let window = Window::under(&spec, &rows);
                    let pitch = channels + 3;
                    let mut band = vec![f32::NAN; window.rows() * window.columns() * pitch];
                    pack_pixels(&spec, &image, &window, &input, pitch, &mut band);
                    let planes = Planes::new(&spec, rows.len(), 4);
                    let mut split = vec![f32::NAN; planes.channel * channels];
                    pack_planes(Wide, &spec, &image, &window, &input, &planes, &mut split);
                    for y in 0..window.rows() {
                        for x in 0..window.columns() {
                            for c in 0..channels {
                                let y_in = rows.start * spec.stride()[0] + y;
                                let want = padded(&spec, &input, n, group * channels + c, y_in, x);
                                assert_eq!(band[(y * window.columns() + x) * pitch + c], want, "{spec}");
                                let (phase, column) = (x % planes.stride, x / planes.stride);
                                let index =
                                    c * planes.channel + y * planes.row + phase * planes.phase + column;
                                assert_eq!(split[index], want, "{spec} {y} {x} {c}");
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn transposed_twice_is_the_same() {
        for (rows, columns) in [(1, 1), (4, 4), (5, 9), (16, 3), (3, 16)] {
            let from: Vec<f32> = (0..rows * columns).map(|i| i as f32).collect();
            let (mut to, mut back) = (vec![-1.0; columns * (rows + 1)], vec![-1.0; rows * columns]);
            transpose(&from, columns, rows, columns, &mut to, rows + 1);
            transpose(&to, rows + 1, columns, rows, &mut back, columns);
            assert_eq!(back, from);
        }
    }
}
