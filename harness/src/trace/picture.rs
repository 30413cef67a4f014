//! Pictures of numbers as PNG, in two colours that fit a bright page and a dark one.
//!
//! 0 is transparent; the larger a number, the more of its sign's colour covers the page: orange above 0, blue below.

use std::io::{self, Cursor};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

/// The colour of positive numbers, red, green, blue.
pub const POSITIVE: [u8; 3] = [230, 110, 10];
/// The colour of negative numbers.
pub const NEGATIVE: [u8; 3] = [20, 120, 200];

/// Levels of each sign.
const LEVELS: usize = 127;

/// A PNG file.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// Pixels, `[height, width]`.
    pub size: [usize; 2],
    /// The file.
    pub bytes: Vec<u8>,
}

impl Picture {
    /// As a page holds it.
    pub fn data_url(&self) -> String {
        format!("data:image/png;base64,{}", BASE64_STANDARD.encode(&self.bytes))
    }
}

/// Numbers in rows, to be drawn.
#[derive(Clone, Copy, Debug)]
pub struct Map<'a> {
    /// Row by row.
    pub values: &'a [f32],
    /// `[height, width]`.
    pub size: [usize; 2],
}

impl Map<'_> {
    /// Means of squares of `step × step` numbers; the last of a row and column may be of fewer.
    fn shrunk(&self, step: usize) -> (Vec<f32>, [usize; 2]) {
        let [height, width] = self.size;
        let size = self.size.map(|n| n.div_ceil(step));
        let mean = |y: usize, x: usize| {
            let (bottom, right) = ((y + step).min(height), (x + step).min(width));
            let rows = (y..bottom).flat_map(|y| &self.values[y * width + x..y * width + right]);
            rows.sum::<f32>() / ((bottom - y) * (right - x)) as f32
        };
        let places = (0..size[0]).flat_map(|y| (0..size[1]).map(move |x| (y * step, x * step)));
        (places.map(|(y, x)| mean(y, x)).collect(), size)
    }
}

/// The largest finite size of some numbers.
pub fn largest(values: &[f32]) -> f32 {
    values.iter().filter(|x| x.is_finite()).fold(0.0, |most, x| most.max(x.abs()))
}

/// Draws one map, a number `cell` = `[height, width]` pixels.
///
/// # Errors
/// When it is too large for a PNG.
pub fn map(map: Map<'_>, most: f32, cell: [usize; 2]) -> io::Result<Picture> {
    let size = [map.size[0] * cell[0], map.size[1] * cell[1]];
    let width = map.size[1];
    let pixels = (0..size[0])
        .flat_map(|y| (0..size[1]).map(move |x| colour(map.values[y / cell[0] * width + x / cell[1]], most)));
    indexed(size, &pixels.collect::<Vec<u8>>())
}

/// Draws maps of one size in rows of so many, with gaps. Large ones are shrunk to cells of about `side` pixels,
/// small ones stretched.
///
/// # Errors
/// When it is too large for a PNG.
pub fn grid(maps: &[Map<'_>], most: f32, columns: usize, side: usize) -> io::Result<Picture> {
    let extent = maps.first().map_or(1, |map| map.size[0].max(map.size[1]).max(1));
    let (step, zoom) = (extent.div_ceil(side), (side / extent).max(1));
    let gap = (side / 16).max(1);
    let shrunk: Vec<(Vec<f32>, [usize; 2])> = maps.iter().map(|map| map.shrunk(step)).collect();
    let cell = shrunk.first().map_or([1; 2], |(_, size)| size.map(|n| n * zoom));
    let columns = columns.clamp(1, maps.len().max(1));
    let rows = maps.len().div_ceil(columns);
    let size = [(rows * (cell[0] + gap)).saturating_sub(gap), columns * (cell[1] + gap) - gap];
    let mut pixels = vec![0; size[0] * size[1]];
    for (i, (values, of)) in shrunk.iter().enumerate() {
        let (top, left) = (i / columns * (cell[0] + gap), i % columns * (cell[1] + gap));
        for y in 0..cell[0] {
            for x in 0..cell[1] {
                pixels[(top + y) * size[1] + left + x] = colour(values[y / zoom * of[1] + x / zoom], most);
            }
        }
    }
    indexed(size, &pixels)
}

/// The place of a number in the palette; what is no number is the last.
fn colour(value: f32, most: f32) -> u8 {
    if !value.is_finite() {
        return NOT_FINITE;
    }
    let level = (value.abs() / most.max(f32::MIN_POSITIVE)).min(1.0) * LEVELS as f32;
    level.round() as u8 + if value < 0.0 { LEVELS as u8 } else { 0 } * u8::from(level >= 0.5)
}

const NOT_FINITE: u8 = 2 * LEVELS as u8 + 1;

fn indexed([height, width]: [usize; 2], pixels: &[u8]) -> io::Result<Picture> {
    let signs = [POSITIVE, NEGATIVE].map(|colour| std::iter::repeat_n(colour, LEVELS));
    let colours = std::iter::once([128; 3]).chain(signs.into_iter().flatten()).chain([[200, 0, 120]]);
    let levels = (1..=LEVELS).map(|level| (255 * level / LEVELS) as u8);
    let opacity: Vec<u8> = std::iter::once(0).chain(levels.clone()).chain(levels).chain([255]).collect();
    encode([height, width], pixels, png::ColorType::Indexed, |encoder| {
        encoder.set_palette(colours.flatten().collect::<Vec<u8>>());
        encoder.set_trns(opacity);
    })
}

/// An image of one channel or three as it is: the least value black, the largest bright.
///
/// # Errors
/// When it is too large for a PNG.
pub fn image(values: &[f32], channels: usize, size: [usize; 2], zoom: usize) -> io::Result<Picture> {
    let finite = || values.iter().copied().filter(|x| x.is_finite());
    let (low, high) = finite().fold((0f32, f32::MIN_POSITIVE), |(low, high), x| (low.min(x), high.max(x)));
    let plane = size[0] * size[1];
    let kept = if channels == 3 { 3 } else { 1 };
    let large = size.map(|n| n * zoom);
    let places = (0..large[0]).flat_map(|y| (0..large[1]).map(move |x| y / zoom * size[1] + x / zoom));
    let bytes = places.flat_map(|place| {
        (0..kept).map(move |c| ((values[c * plane + place] - low) / (high - low) * 255.0) as u8)
    });
    let kind = if kept == 3 { png::ColorType::Rgb } else { png::ColorType::Grayscale };
    encode(large, &bytes.collect::<Vec<u8>>(), kind, |_| ())
}

/// Draws filters of three channels as red, green and blue, in rows of so many: grey is 0, the largest weight of all
/// reaches an end of the scale.
///
/// # Errors
/// When it is too large for a PNG.
pub fn coloured(
    weights: &[f32],
    count: usize,
    [height, width]: [usize; 2],
    columns: usize,
    side: usize,
) -> io::Result<Picture> {
    let most = largest(weights).max(f32::MIN_POSITIVE);
    let zoom = (side / height.max(width)).max(1);
    let (gap, plane) = ((side / 16).max(1), height * width);
    let cell = [height * zoom, width * zoom];
    let columns = columns.clamp(1, count.max(1));
    let size = [count.div_ceil(columns) * (cell[0] + gap) - gap, columns * (cell[1] + gap) - gap];
    let mut pixels = vec![0u8; 4 * size[0] * size[1]];
    for (i, filter) in weights.chunks_exact(3 * plane).take(count).enumerate() {
        let (top, left) = (i / columns * (cell[0] + gap), i % columns * (cell[1] + gap));
        for (y, x) in (0..cell[0]).flat_map(|y| (0..cell[1]).map(move |x| (y, x))) {
            let at = |c: usize| 127.5 + filter[c * plane + y / zoom * width + x / zoom] / most * 127.5;
            let pixel = &mut pixels[4 * ((top + y) * size[1] + left + x)..][..4];
            pixel.copy_from_slice(&[at(0) as u8, at(1) as u8, at(2) as u8, 255]);
        }
    }
    encode(size, &pixels, png::ColorType::Rgba, |_| ())
}

fn encode(
    [height, width]: [usize; 2],
    pixels: &[u8],
    kind: png::ColorType,
    set: impl FnOnce(&mut png::Encoder<'_, &mut Cursor<Vec<u8>>>),
) -> io::Result<Picture> {
    let side = |n: usize| u32::try_from(n).map_err(io::Error::other);
    let mut bytes = Cursor::new(Vec::new());
    let mut encoder = png::Encoder::new(&mut bytes, side(width)?, side(height)?);
    encoder.set_color(kind);
    set(&mut encoder);
    encoder.write_header()?.write_image_data(pixels)?;
    Ok(Picture { size: [height, width], bytes: bytes.into_inner() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_by_sign_and_size() {
        assert_eq!([0.0, 1.0, -1.0, 2.0].map(|x| colour(x, 1.0)), [0, 127, 254, 127]);
        assert_eq!([0.5, -0.5, -0.001].map(|x| colour(x, 1.0)), [64, 191, 0]);
        assert_eq!([colour(f32::NAN, 1.0), colour(0.0, 0.0)], [NOT_FINITE, 0]);
    }

    /// What is drawn is read again by the decoder, as colours.
    #[test]
    fn grids_hold_every_map() {
        let values = [1.0, 0.0, 0.0, -1.0, 0.0, 1.0, 1.0, 0.0, 0.5, 0.5, 0.5, 0.5];
        let maps: Vec<Map<'_>> = values.chunks(4).map(|values| Map { values, size: [2, 2] }).collect();
        let picture = grid(&maps, 1.0, 2, 4).unwrap();
        assert_eq!(picture.size, [9, 9]);
        let mut decoder = png::Decoder::new(Cursor::new(&picture.bytes));
        decoder.set_transformations(png::Transformations::EXPAND);
        let mut reader = decoder.read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        let at = |y: usize, x: usize| &pixels[4 * (y * 9 + x)..4 * (y * 9 + x) + 4];
        let [positive, negative] = [POSITIVE, NEGATIVE].map(|[r, g, b]| [r, g, b, 255]);
        assert_eq!((at(0, 0), at(1, 1), at(3, 3)), (&positive[..], &positive[..], &negative[..]));
        assert_eq!((at(0, 7), at(5, 0)), (&positive[..], &[POSITIVE[0], POSITIVE[1], POSITIVE[2], 128][..]));
        assert!([at(0, 2), at(0, 4), at(8, 8)].iter().all(|pixel| pixel[3] == 0));
    }

    #[test]
    fn large_maps_are_shrunk_to_means() {
        let values: Vec<f32> = (0..15).map(|i| i as f32).collect();
        let (shrunk, size) = Map { values: &values, size: [3, 5] }.shrunk(2);
        assert_eq!((shrunk, size), (vec![3.0, 5.0, 6.5, 10.5, 12.5, 14.0], [2, 3]));
    }
}
