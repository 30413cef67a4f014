//! What a network is shown: an image from a file, or a drawn digit, brought to the size that it takes.

use std::fs::File;
use std::io::{BufReader, Cursor};
use std::path::Path;

use png::{ColorType, Decoder, Limits, Transformations};

use crate::file::read_most;
use crate::{machine, npy};

/// Values of an image, channels, rows, columns.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    /// The values.
    pub values: Vec<f32>,
    /// `[channels, height, width]`.
    pub shape: [usize; 3],
    /// Where they come from, for people.
    pub about: String,
    /// Whether the channels have nothing to do with each other.
    pub apart: bool,
}

impl Input {
    /// Whether it is a picture: grey, or red, green and blue.
    pub fn in_colours(&self) -> bool {
        matches!(self.shape[0], 1 | 3) && !self.apart
    }
}

/// Most bytes of an image's file.
const MOST_FILE: u64 = 64 << 20;
/// Most pixels of an image in a file.
const MOST_PIXELS: usize = 1 << 26;

/// Reads an image: `.npy` of exactly this shape (axes of 1 before it may be there or not), or PNG, which is
/// stretched to this size; black is 0 and white 1.
///
/// # Errors
/// One line that names the file.
pub fn read(path: &Path, shape: [usize; 3]) -> Result<Input, String> {
    let input = match path.extension().is_some_and(|end| end.eq_ignore_ascii_case("npy")) {
        true => read_npy(path, shape)?,
        false => read_png(path, shape).map_err(|what| format!("{}: {what}", path.display()))?,
    };
    if let Some(value) = input.values.iter().find(|x| !x.is_finite()) {
        return Err(format!("{}: holds {value}, but every value must be finite", path.display()));
    }
    Ok(input)
}

fn read_npy(path: &Path, shape: [usize; 3]) -> Result<Input, String> {
    let array = npy::read_of(path, &[2, 3, 4])?;
    let mut own = vec![1; 4 - array.shape.len()];
    own.extend(&array.shape);
    if own != [&[1][..], &shape].concat() {
        return Err(format!(
            "{}: has shape {:?}, but the network takes {shape:?}",
            path.display(),
            array.shape
        ));
    }
    let about = format!("{}, as it is", path.display());
    Ok(Input { values: array.values, shape, about, apart: false })
}

fn read_png(path: &Path, shape: [usize; 3]) -> Result<Input, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    read_most(file, MOST_FILE, &mut bytes)?;
    let most = (4 * MOST_PIXELS).min((machine::available_memory() / 2) as usize);
    let mut decoder = Decoder::new_with_limits(BufReader::new(Cursor::new(bytes)), Limits { bytes: most });
    decoder.set_transformations(Transformations::normalize_to_color8());
    let wrong = |error: png::DecodingError| format!("is no PNG image: {error}").replace('\n', " ");
    let mut reader = decoder.read_info().map_err(wrong)?;
    let size = [reader.info().height, reader.info().width].map(|n| n as usize);
    let large = || format!("{}×{} pixels are too many: at most {MOST_PIXELS}", size[0], size[1]);
    let len = reader.output_buffer_size().filter(|&len| len <= most).ok_or_else(large)?;
    let mut pixels = vec![0; len];
    let kind = reader.next_frame(&mut pixels).map_err(wrong)?.color_type;
    let (colours, alpha) = match kind {
        ColorType::Rgb => (3, false),
        ColorType::Rgba => (3, true),
        ColorType::GrayscaleAlpha => (1, true),
        ColorType::Grayscale | ColorType::Indexed => (1, false),
    };
    let step = colours + usize::from(alpha);
    // What is transparent is black.
    let value = |pixel: &[u8], c: usize| {
        let opacity = if alpha { f32::from(pixel[colours]) / 255.0 } else { 1.0 };
        f32::from(pixel[c]) / 255.0 * opacity
    };
    let grey = |pixel: &[u8]| match colours {
        1 => value(pixel, 0),
        _ => 0.299 * value(pixel, 0) + 0.587 * value(pixel, 1) + 0.114 * value(pixel, 2),
    };
    let [channels, height, width] = shape;
    let mut values = Vec::with_capacity(channels * height * width);
    for c in 0..channels {
        let plane: Vec<f32> = match (channels, colours) {
            (3, 3) => pixels.chunks_exact(step).map(|pixel| value(pixel, c)).collect(),
            _ => pixels.chunks_exact(step).map(grey).collect(),
        };
        values.extend(resized(&plane, size, [height, width]));
    }
    let mut about = format!("{}, {} colours", path.display(), if colours == 3 { "in" } else { "without" });
    if size != [height, width] {
        about += &format!(", {}×{} pixels brought to {height}×{width}", size[0], size[1]);
    }
    if channels != colours {
        about +=
            &format!(", its brightness in {}", if channels == 1 { "one channel" } else { "every channel" });
    }
    Ok(Input { values, shape, about, apart: false })
}

/// Digits that are drawn to choose from.
const DRAWN: usize = 20;
/// The digit of the first channel.
const FIRST: usize = 3;

/// A drawn digit, in every channel the same or, to tell channels apart, in each another.
///
/// # Errors
/// When memory cannot be had.
pub fn digit(shape: [usize; 3], seed: u64, apart: bool) -> Result<Input, String> {
    let set = cnn::digits::generate(DRAWN, seed).map_err(|error| error.to_string())?;
    let [channels, height, width] = shape;
    let mut values = Vec::with_capacity(channels * height * width);
    for c in 0..channels {
        let index = if apart { (FIRST + c) % DRAWN } else { FIRST };
        let (image, _) = set.get(index).ok_or("a digit is needed")?;
        values.extend(resized(image, [cnn::digits::SIZE; 2], [height, width]));
    }
    let side = cnn::digits::SIZE;
    let which = match (channels, apart) {
        (1, _) => format!("a drawn {FIRST}"),
        (_, true) => format!("drawn digits, another in each channel, from {FIRST} on"),
        (_, false) => format!("a drawn {FIRST}, the same in every channel"),
    };
    let scaled = match [height, width] == [side; 2] {
        true => String::new(),
        false => format!(", {side}×{side} pixels brought to {height}×{width}"),
    };
    let apart = apart && channels > 1;
    Ok(Input { values, shape, about: format!("{which} (seed {seed}){scaled}"), apart })
}

/// A plane brought to another size: neighbours are mixed, each the less the further it is.
fn resized(plane: &[f32], from: [usize; 2], to: [usize; 2]) -> Vec<f32> {
    if from == to {
        return plane.to_vec();
    }
    let [rows, columns] = [0, 1].map(|axis| shares(from[axis], to[axis]));
    let lines = plane.chunks_exact(from[1]).flat_map(|line| {
        columns.iter().map(|shares| shares.iter().map(|&(x, share)| line[x] * share).sum::<f32>())
    });
    let lines: Vec<f32> = lines.collect();
    let places = rows.iter().flat_map(|shares| (0..to[1]).map(move |x| (shares, x)));
    places.map(|(shares, x)| shares.iter().map(|&(y, share)| lines[y * to[1] + x] * share).sum()).collect()
}

/// For each new place the old ones that it is made of, and their shares.
fn shares(from: usize, to: usize) -> Vec<Vec<(usize, f32)>> {
    let scale = from as f64 / to as f64;
    let reach = scale.max(1.0);
    let of = |i: usize| {
        let centre = (i as f64 + 0.5) * scale - 0.5;
        let first = (centre - reach).ceil().max(0.0) as usize;
        let last = ((centre + reach).floor().max(0.0) as usize).min(from - 1);
        let all = (first..=last).map(|k| (k, (1.0 - (k as f64 - centre).abs() / reach).max(0.0)));
        let all: Vec<(usize, f64)> = all.collect();
        let sum: f64 = all.iter().map(|(_, share)| share).sum();
        all.into_iter().map(|(k, share)| (k, (share / sum) as f32)).collect()
    };
    (0..to).map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_change_and_brightness_stays() {
        let plane = [0.0, 1.0, 1.0, 0.0];
        assert_eq!(resized(&plane, [2, 2], [2, 2]), plane);
        let large = resized(&plane, [2, 2], [8, 8]);
        assert!((large.iter().sum::<f32>() / 64.0 - 0.5).abs() < 1e-6);
        assert_eq!((large[0], large[7], large[56]), (0.0, 1.0, 1.0));
        let back = resized(&large, [8, 8], [1, 1]);
        assert!((back[0] - 0.5).abs() < 1e-6, "{back:?}");
        for (from, to) in [(1, 5), (5, 1), (28, 224), (224, 28), (7, 3)] {
            let all = shares(from, to);
            assert!(all.iter().flatten().all(|&(place, _)| place < from));
            assert!(all.iter().all(|s| (s.iter().map(|(_, x)| x).sum::<f32>() - 1.0).abs() < 1e-6));
        }
    }

    #[test]
    fn digits_fill_the_shape() {
        let own = digit([1, 28, 28], 1, true).unwrap();
        let set = cnn::digits::generate(DRAWN, 1).unwrap();
        assert_eq!(own.values, set.get(FIRST).unwrap().0);
        let three = digit([3, 16, 12], 1, true).unwrap();
        assert_eq!(three.values.len(), 3 * 16 * 12);
        assert_ne!(three.values[..192], three.values[192..384]);
    }
}
