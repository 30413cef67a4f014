//! Bands: some rows of an image, padded and in the order that a kernel reads, copied to scratch
//! memory; and the way back for outputs.
//!
//! A band holds the input rows under a few output rows. It is small enough to stay in the level-2
//! cache, and with its padding in place the loops that read it need no cases for the edges.

mod planes;
mod transpose;

use std::ops::Range;

pub(crate) use planes::{Planes, pack_planes};
use transpose::transpose;
pub(crate) use transpose::transpose_raw;

use crate::simd::prefetch;
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
    /// The first column, counted in the padded input.
    first_column: usize,
    columns: usize,
}

impl Window {
    /// What the output rows `rows` read.
    pub(crate) fn under(spec: &ConvSpec, rows: &Range<usize>) -> Self {
        let [kernel_height, kernel_width] = spec.dilated_kernel();
        let [stride_y, stride_x] = spec.stride();
        Window {
            rows: rows.start * stride_y..(rows.end - 1) * stride_y + kernel_height,
            first_column: 0,
            columns: (spec.out_width() - 1) * stride_x + kernel_width,
        }
    }

    /// Any rows and columns of the padded input; beyond it everything is zero.
    pub(crate) fn new(rows: Range<usize>, columns: Range<usize>) -> Self {
        Window { rows, first_column: columns.start, columns: columns.len() }
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

    /// The first column of the input under the window, if any is.
    fn first_input_column(&self, spec: &ConvSpec) -> usize {
        self.first_column.saturating_sub(spec.padding().left)
    }

    /// Columns of the window that are not padding.
    fn input_columns(&self, spec: &ConvSpec) -> Range<usize> {
        let (left, width) = (spec.padding().left, spec.in_width());
        let start = left.saturating_sub(self.first_column).min(self.columns);
        let end = (left + width).saturating_sub(self.first_column).min(self.columns);
        start..end.max(start)
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
        let start = image.at(0, y, window.first_input_column(spec));
        if image.channel == 1 && image.pixel == pitch {
            // Whole rows lie in the input as in the band.
            let len = (inside.len() - 1) * pitch + image.channels;
            row[..len].copy_from_slice(&input[start..start + len]);
        } else if image.channel == 1 {
            for (x, pixel) in row.chunks_exact_mut(pitch).enumerate() {
                let start = start + x * image.pixel;
                copy_channels(&input[start..start + image.channels], &mut pixel[..image.channels]);
            }
        } else {
            transpose(&input[start..], image.channel, image.channels, inside.len(), row, pitch);
        }
    }
}

/// Copies the channels of a pixel. Those of a group are few: calling memcpy would take longer than the copy.
/// The channels behind them, the next group's, are asked for.
#[inline(always)]
fn copy_channels(from: &[f32], to: &mut [f32]) {
    if from.len() > MOST_IN_LINE {
        to.copy_from_slice(from);
        return;
    }
    prefetch(from.as_ptr().wrapping_add(from.len()));
    let ((from, from_rest), (to, to_rest)) = (from.as_chunks::<4>(), to.as_chunks_mut::<4>());
    for (from, to) in from.iter().zip(to) {
        *to = *from;
    }
    for (from, to) in from_rest.iter().zip(to_rest) {
        *to = *from;
    }
}

/// Most channels that are copied without calling memcpy.
const MOST_IN_LINE: usize = 64;

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
}
