//! Shapes of activations, for one image of a batch.

use std::fmt;

/// What a layer gives for one image: maps, or a row of features.
///
/// ```
/// use cnn::Shape;
/// assert_eq!(Shape::image(64, 56, 56).to_string(), "64×56×56");
/// assert_eq!(Shape::image(64, 56, 56).len(), 200_704);
/// assert_eq!(Shape::Features(1000).to_string(), "1000");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// Maps of `height × width` pixels, one for each channel; in memory channels, rows, columns.
    Image {
        /// Maps, the depth of the volume.
        channels: usize,
        /// Rows of a map.
        height: usize,
        /// Columns of a map.
        width: usize,
    },
    /// Numbers without positions.
    Features(usize),
}

/// The most values of one image: far beyond any memory, far below where products of sizes overflow.
pub(crate) const MOST: usize = isize::MAX as usize / 1024;

impl Shape {
    /// Maps of `height × width` pixels.
    pub const fn image(channels: usize, height: usize, width: usize) -> Self {
        Shape::Image { channels, height, width }
    }

    /// Values of one image; as many as can be counted where there are more.
    pub fn len(&self) -> usize {
        self.volume().iter().fold(1, |count: usize, &n| count.saturating_mul(n))
    }

    /// Whether there are none, which no shape of a graph has.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The extents as a list: three of maps, one of features.
    pub fn dims(&self) -> Vec<usize> {
        match *self {
            Shape::Image { channels, height, width } => vec![channels, height, width],
            Shape::Features(features) => vec![features],
        }
    }

    /// Channels, height and width; features are channels of one pixel.
    pub(crate) fn volume(&self) -> [usize; 3] {
        match *self {
            Shape::Image { channels, height, width } => [channels, height, width],
            Shape::Features(features) => [features, 1, 1],
        }
    }

    /// Whether every extent is at least 1 and the count fits with room for batches.
    pub(crate) fn is_valid(&self) -> bool {
        (1..=MOST).contains(&self.len())
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shape::Image { channels, height, width } => write!(f, "{channels}×{height}×{width}"),
            Shape::Features(features) => write!(f, "{features}"),
        }
    }
}
