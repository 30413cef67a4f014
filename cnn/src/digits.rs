//! Digits drawn by a program: 28×28 pixels, each written anew.
//!
//! A digit is a few strokes through points, in one of several ways to write it. For each image every point is
//! moved a little, the strokes are bent by slow waves, then turned, slanted, stretched and moved as a whole, drawn
//! with a pen of some width and pressure, and noise is added. Nothing is taken from any data set: what a network
//! learns of them says how it learns, not how well it reads people's handwriting.

use std::f32::consts::TAU;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::weights::normal;
use crate::{Dataset, Error, Shape};

/// Rows and columns of an image.
pub const SIZE: usize = 28;

/// A point in a square of 1×1, right and down.
type Point = [f32; 2];
/// A smooth line through points.
type Stroke = &'static [Point];

/// The ways to write each digit.
const WAYS: [&[&[Stroke]]; 10] = [
    &[&[&[
        [0.5, 0.05],
        [0.22, 0.2],
        [0.16, 0.5],
        [0.24, 0.82],
        [0.5, 0.95],
        [0.76, 0.8],
        [0.84, 0.5],
        [0.77, 0.2],
        [0.5, 0.05],
    ]]],
    &[
        &[&[[0.5, 0.05], [0.5, 0.95]]],
        &[&[[0.32, 0.24], [0.52, 0.05]], &[[0.52, 0.05], [0.52, 0.95]]],
        &[&[[0.32, 0.24], [0.52, 0.05]], &[[0.52, 0.05], [0.52, 0.95]], &[[0.3, 0.95], [0.74, 0.95]]],
    ],
    &[
        &[
            &[[0.2, 0.26], [0.36, 0.08], [0.66, 0.08], [0.78, 0.28], [0.62, 0.55], [0.2, 0.94]],
            &[[0.2, 0.94], [0.82, 0.94]],
        ],
        &[&[
            [0.22, 0.2],
            [0.5, 0.05],
            [0.76, 0.24],
            [0.6, 0.56],
            [0.3, 0.86],
            [0.2, 0.9],
            [0.3, 0.78],
            [0.5, 0.86],
            [0.82, 0.92],
        ]],
    ],
    &[
        &[
            &[[0.22, 0.14], [0.5, 0.05], [0.74, 0.2], [0.68, 0.4], [0.44, 0.48]],
            &[[0.44, 0.48], [0.74, 0.56], [0.8, 0.76], [0.54, 0.95], [0.2, 0.86]],
        ],
        &[
            &[[0.22, 0.06], [0.76, 0.06]],
            &[[0.76, 0.06], [0.44, 0.42]],
            &[[0.44, 0.42], [0.74, 0.52], [0.78, 0.76], [0.54, 0.95], [0.2, 0.86]],
        ],
    ],
    &[
        &[&[[0.62, 0.05], [0.16, 0.64]], &[[0.16, 0.64], [0.86, 0.64]], &[[0.62, 0.05], [0.62, 0.95]]],
        &[&[[0.24, 0.08], [0.2, 0.5]], &[[0.2, 0.5], [0.8, 0.5]], &[[0.74, 0.06], [0.7, 0.95]]],
    ],
    &[&[
        &[[0.76, 0.06], [0.3, 0.06]],
        &[[0.3, 0.06], [0.26, 0.46]],
        &[[0.26, 0.46], [0.54, 0.38], [0.78, 0.54], [0.74, 0.82], [0.48, 0.95], [0.2, 0.86]],
    ]],
    &[
        &[&[
            [0.7, 0.08],
            [0.4, 0.22],
            [0.24, 0.54],
            [0.26, 0.8],
            [0.5, 0.95],
            [0.76, 0.82],
            [0.74, 0.6],
            [0.5, 0.5],
            [0.27, 0.66],
        ]],
        &[&[[0.5, 0.05], [0.28, 0.4], [0.24, 0.74], [0.48, 0.95], [0.74, 0.78], [0.6, 0.56], [0.3, 0.66]]],
    ],
    &[
        &[&[[0.18, 0.08], [0.82, 0.08]], &[[0.82, 0.08], [0.56, 0.5], [0.42, 0.95]]],
        &[
            &[[0.18, 0.08], [0.82, 0.08]],
            &[[0.82, 0.08], [0.56, 0.5], [0.42, 0.95]],
            &[[0.36, 0.5], [0.74, 0.5]],
        ],
    ],
    &[
        &[&[
            [0.5, 0.48],
            [0.26, 0.32],
            [0.3, 0.12],
            [0.5, 0.05],
            [0.72, 0.13],
            [0.74, 0.32],
            [0.5, 0.48],
            [0.24, 0.66],
            [0.24, 0.84],
            [0.5, 0.95],
            [0.77, 0.84],
            [0.77, 0.66],
            [0.5, 0.48],
        ]],
        &[&[
            [0.74, 0.14],
            [0.46, 0.06],
            [0.28, 0.22],
            [0.46, 0.44],
            [0.74, 0.66],
            [0.7, 0.88],
            [0.44, 0.94],
            [0.26, 0.78],
            [0.44, 0.5],
            [0.74, 0.14],
        ]],
    ],
    &[
        &[
            &[[0.74, 0.3], [0.6, 0.08], [0.34, 0.1], [0.24, 0.32], [0.36, 0.5], [0.6, 0.46], [0.74, 0.3]],
            &[[0.74, 0.3], [0.72, 0.6], [0.6, 0.95]],
        ],
        &[&[
            [0.74, 0.28],
            [0.52, 0.06],
            [0.26, 0.22],
            [0.34, 0.46],
            [0.62, 0.44],
            [0.74, 0.28],
            [0.74, 0.7],
            [0.54, 0.95],
            [0.26, 0.86],
        ]],
    ],
];

/// Draws `count` digits, as many of each as of any other. The same seed gives the same digits, and another seed
/// others.
///
/// ```
/// let digits = cnn::digits::generate(20, 1)?;
/// assert_eq!(digits.len(), 20);
/// assert_eq!(digits, cnn::digits::generate(20, 1)?);
/// # Ok::<(), cnn::Error>(())
/// ```
///
/// # Errors
/// When memory cannot be had.
pub fn generate(count: usize, seed: u64) -> Result<Dataset, Error> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut images = crate::error::zeros(count.saturating_mul(SIZE * SIZE))?;
    let mut labels = Vec::with_capacity(count);
    for (i, image) in images.chunks_exact_mut(SIZE * SIZE).enumerate() {
        let digit = i % 10;
        draw(digit, image, &mut rng);
        labels.push(digit as u8);
    }
    Dataset::new(Shape::image(1, SIZE, SIZE), images, labels)
}

/// How one image's strokes come out.
struct Hand {
    /// Row by row: pixels from points around (0, 0).
    affine: [[f32; 3]; 2],
    /// Amplitude, frequency and phase of the waves along each axis.
    waves: [[f32; 3]; 2],
}

impl Hand {
    fn new(rng: &mut ChaCha8Rng) -> Self {
        let (sin, cos) = rng.random_range(-0.32f32..0.32).sin_cos();
        let slant = rng.random_range(-0.35..0.35);
        let (width, height) = (rng.random_range(11.0..20.0), rng.random_range(15.0..21.0));
        let centre = [0, 1].map(|_| SIZE as f32 / 2.0 - 0.5 + rng.random_range(-3.0..3.0));
        // Stretched, slanted, turned, moved.
        let affine = [
            [cos * width, (cos * slant - sin) * height, centre[0]],
            [sin * width, (sin * slant + cos) * height, centre[1]],
        ];
        let wave = |rng: &mut ChaCha8Rng| {
            [rng.random_range(0.0..0.05), rng.random_range(0.5..1.3), rng.random_range(0.0..TAU)]
        };
        Hand { affine, waves: [wave(rng), wave(rng)] }
    }

    /// The pixel of a point of a stroke.
    fn place(&self, [x, y]: Point) -> Point {
        let bend = |[amplitude, frequency, phase]: [f32; 3], along: f32| {
            amplitude * (TAU * frequency * along + phase).sin()
        };
        let (x, y) = (x + bend(self.waves[0], y) - 0.5, y + bend(self.waves[1], x) - 0.5);
        self.affine.map(|[a, b, c]| a * x + b * y + c)
    }
}

fn draw(digit: usize, image: &mut [f32], rng: &mut ChaCha8Rng) {
    let ways = WAYS[digit];
    let strokes = ways[rng.random_range(0..ways.len())];
    let hand = Hand::new(rng);
    let (radius, pressure) = (rng.random_range(0.5..1.6), rng.random_range(0.6..1.0));
    for stroke in strokes {
        let moved: Vec<Point> = stroke.iter().map(|p| p.map(|x| x + 0.022 * normal(rng))).collect();
        let line: Vec<Point> = curve(&moved).into_iter().map(|point| hand.place(point)).collect();
        for ends in line.windows(2) {
            ink(image, [ends[0], ends[1]], radius, pressure);
        }
    }
    for pixel in image {
        *pixel = (*pixel + 0.1 * normal(rng)).clamp(0.0, 1.0);
    }
}

/// A Catmull-Rom spline through points, as short lines.
fn curve(points: &[Point]) -> Vec<Point> {
    const PIECES: usize = 6;
    let at = |i: isize| points[i.clamp(0, points.len() as isize - 1) as usize];
    let mut line = vec![at(0)];
    for i in 0..points.len() as isize - 1 {
        let [a, b, c, d] = [at(i - 1), at(i), at(i + 1), at(i + 2)];
        for piece in 1..=PIECES {
            let t = piece as f32 / PIECES as f32;
            line.push([0, 1].map(|axis| {
                let (a, b, c, d) = (a[axis], b[axis], c[axis], d[axis]);
                let (linear, square, cube) =
                    (c - a, 2.0 * a - 5.0 * b + 4.0 * c - d, 3.0 * b - a - 3.0 * c + d);
                b + 0.5 * t * (linear + t * (square + t * cube))
            }));
        }
    }
    line
}

/// Darkens the pixels near a line, with a soft edge one pixel wide.
fn ink(image: &mut [f32], [a, b]: [Point; 2], radius: f32, pressure: f32) {
    let reach = radius + 0.5;
    let range = |axis: usize| {
        let (low, high) = (a[axis].min(b[axis]) - reach, a[axis].max(b[axis]) + reach);
        // Pixels outside the image are nobody's.
        low.ceil().clamp(0.0, SIZE as f32) as usize..(high.floor() + 1.0).clamp(0.0, SIZE as f32) as usize
    };
    let along = [b[0] - a[0], b[1] - a[1]];
    let square = (along[0] * along[0] + along[1] * along[1]).max(1e-9);
    for y in range(1) {
        for x in range(0) {
            let from = [x as f32 - a[0], y as f32 - a[1]];
            let share = ((from[0] * along[0] + from[1] * along[1]) / square).clamp(0.0, 1.0);
            let gap = (from[0] - share * along[0]).hypot(from[1] - share * along[1]);
            let pixel = &mut image[y * SIZE + x];
            *pixel = pixel.max(pressure * (reach - gap).clamp(0.0, 1.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_balanced_and_the_seed_decides() {
        let digits = generate(50, 3).unwrap();
        let mut counts = [0; 10];
        for i in 0..digits.len() {
            let (image, label) = digits.get(i).unwrap();
            counts[usize::from(label)] += 1;
            // There is ink, and there is paper.
            let ink: f32 = image.iter().sum();
            assert!((20.0..400.0).contains(&ink), "{label}: {ink}");
            assert!(image.iter().all(|x| (0.0..=1.0).contains(x)));
        }
        assert_eq!(counts, [5; 10]);
        assert_eq!(digits, generate(50, 3).unwrap());
        assert_ne!(digits.get(0), generate(50, 4).unwrap().get(0));
    }

    #[test]
    fn curves_pass_through_their_points() {
        let line = curve(&[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]);
        assert_eq!((line[0], line[6], line[12], line.len()), ([0.0, 0.0], [1.0, 0.0], [1.0, 1.0], 13));
    }
}
