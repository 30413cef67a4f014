//! Labelled images: a [`Dataset`], MNIST's files, batches in an order that a seed decides.

use std::path::Path;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::error::{check_len, zeros};
use crate::{Error, Inference, Shape, file};

/// Images of one shape, each with the number of its class.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    shape: Shape,
    images: Vec<f32>,
    labels: Vec<u8>,
}

/// The most bytes of a file of images: four times MNIST's.
const MOST: u64 = 1 << 28;

impl Dataset {
    /// Images one after the other, each channels, rows, columns.
    ///
    /// # Errors
    /// When there are not as many images as labels, or the shape holds nothing.
    pub fn new(shape: Shape, images: Vec<f32>, labels: Vec<u8>) -> Result<Self, Error> {
        if !shape.is_valid() {
            let expected = "at least 1 in every extent and no larger than memory";
            return Err(Error::Option { option: "an image's shape", value: shape.to_string(), expected });
        }
        check_len("the images", images.len(), labels.len().saturating_mul(shape.len()))?;
        Ok(Dataset { shape, images, labels })
    }

    /// Reads MNIST's own files, not compressed: `train-images-idx3-ubyte` and `train-labels-idx1-ubyte`, for
    /// example. Pixels become 0 (paper) to 1 (ink).
    ///
    /// # Errors
    /// When a file cannot be read, is not of this format, is shorter or longer than its header says, or when
    /// there are not as many images as labels. Memory is taken for what is there, not for what a header claims.
    pub fn mnist(images: &Path, labels: &Path) -> Result<Self, Error> {
        let (extents, pixels) = idx::<3>(images, "images")?;
        let (count, classes) = idx::<1>(labels, "labels")?;
        if count[0] != extents[0] {
            return Err(Error::File {
                path: labels.to_owned(),
                what: format!("has {} labels, but {} has {} images", count[0], images.display(), extents[0]),
            });
        }
        let values = pixels.iter().map(|&pixel| f32::from(pixel) / 255.0).collect();
        Dataset::new(Shape::image(1, extents[1], extents[2]), values, classes)
    }

    /// What one image is.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// How many images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// An image and its class.
    pub fn get(&self, index: usize) -> Option<(&[f32], u8)> {
        let label = *self.labels.get(index)?;
        Some((&self.images[index * self.shape.len()..][..self.shape.len()], label))
    }

    /// The order of all images in this epoch; seed and epoch decide it.
    pub fn order(&self, seed: u64, epoch: u64) -> Vec<usize> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(epoch);
        let mut order: Vec<usize> = (0..self.len()).collect();
        for i in (1..order.len()).rev() {
            order.swap(i, rng.random_range(0..=i));
        }
        order
    }

    /// Copies images and their labels side by side into a batch.
    ///
    /// # Errors
    /// When a buffer is not of the batch's size, or there is no image of such a number.
    pub fn gather(&self, which: &[usize], images: &mut [f32], labels: &mut [u8]) -> Result<(), Error> {
        check_len("the batch of images", images.len(), which.len().saturating_mul(self.shape.len()))?;
        check_len("the batch of labels", labels.len(), which.len())?;
        let places = images.chunks_exact_mut(self.shape.len()).zip(labels);
        for ((image, label), &index) in places.zip(which) {
            let (from, class) = self.get(index).ok_or_else(|| Error::Option {
                option: "the number of an image",
                value: index.to_string(),
                expected: "below the number of images",
            })?;
            image.copy_from_slice(from);
            *label = class;
        }
        Ok(())
    }

    /// The share of images whose class gets the largest of the network's outputs.
    ///
    /// # Errors
    /// When the network is for images of another size.
    pub fn accuracy(&self, network: &mut Inference) -> Result<f64, Error> {
        let batch = network.batch();
        check_len("the batch of images", batch.saturating_mul(self.shape.len()), network.input_len())?;
        let mut images = zeros(network.input_len())?;
        let mut labels = vec![0; batch];
        let mut right = 0;
        for first in (0..self.len()).step_by(batch) {
            // The last batch is filled up with the last image, which does not count again.
            let which: Vec<usize> = (first..first + batch).map(|i| i.min(self.len() - 1)).collect();
            self.gather(&which, &mut images, &mut labels)?;
            let output = network.run(&images)?;
            let rows = output.chunks_exact(output.len() / batch).zip(&labels);
            let fresh = rows.take(self.len() - first);
            right += fresh.filter(|(row, label)| largest(row) == usize::from(**label)).count();
        }
        Ok(right as f64 / self.len().max(1) as f64)
    }
}

/// The place of the largest value, the first of them.
pub(crate) fn largest(values: &[f32]) -> usize {
    let mut best = 0;
    for (i, x) in values.iter().enumerate() {
        if *x > values[best] {
            best = i;
        }
    }
    best
}

/// Extents and bytes of a file in IDX format that holds bytes in `AXES` axes.
fn idx<const AXES: usize>(path: &Path, what: &str) -> Result<([usize; AXES], Vec<u8>), Error> {
    let wrong = |what: String| Error::File { path: path.to_owned(), what };
    let mut bytes = file::read_most(path, MOST)?;
    let head = 4 + 4 * AXES;
    if bytes.len() < head || bytes[..4] != [0, 0, 8, AXES as u8] {
        return Err(wrong(format!("is no MNIST file of {what} (IDX, bytes in {AXES} axes, not compressed)")));
    }
    let (words, _) = bytes[4..head].as_chunks::<4>();
    let mut extents = [0; AXES];
    for (extent, word) in extents.iter_mut().zip(words) {
        *extent = u32::from_be_bytes(*word) as usize;
    }
    let count = extents.iter().try_fold(1usize, |count, &n| count.checked_mul(n));
    let there = bytes.len() - head;
    if count != Some(there) || there == 0 {
        return Err(wrong(format!("has {there} bytes of {what}, but its header says {extents:?}")));
    }
    bytes.drain(..head);
    Ok((extents, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set() -> Dataset {
        Dataset::new(Shape::Features(2), (0..20).map(|i| i as f32).collect(), (0..10).collect()).unwrap()
    }

    #[test]
    fn orders_are_permutations_that_a_seed_decides() {
        let set = set();
        let order = set.order(1, 0);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..10).collect::<Vec<_>>());
        assert_eq!(order, set.order(1, 0));
        assert_ne!(order, set.order(1, 1));
        assert_ne!(order, set.order(2, 0));
    }

    #[test]
    fn batches_are_gathered() {
        let (mut images, mut labels) = ([0.0; 4], [0; 2]);
        set().gather(&[7, 0], &mut images, &mut labels).unwrap();
        assert_eq!((images, labels), ([14.0, 15.0, 0.0, 1.0], [7, 0]));
        assert!(set().gather(&[10, 0], &mut images, &mut labels).unwrap_err().to_string().contains("10"));
        assert!(set().gather(&[1], &mut images, &mut labels).is_err());
        assert!(Dataset::new(Shape::Features(2), vec![0.0; 3], vec![0]).is_err());
        assert!(Dataset::new(Shape::Features(0), vec![], vec![0]).is_err());
        assert!(Dataset::new(Shape::image(usize::MAX, 2, 2), vec![], vec![]).is_err());
        // Without images, of a size that no batch of them can have.
        let none = Dataset::new(Shape::Features(1 << 50), vec![], vec![]).unwrap();
        assert!(none.gather(&[0; 1 << 14], &mut images, &mut labels).is_err());
        let mut net = crate::Graph::new(Shape::Features(3)).unwrap();
        net.then("softmax", crate::Layer::SOFTMAX).unwrap();
        let weights = crate::Weights::random(&net, 1).unwrap();
        let mut inference = Inference::new(&net, &weights, &Default::default()).unwrap();
        assert!(none.accuracy(&mut inference).is_err());
    }

    #[test]
    fn mnist_files_are_read_and_broken_ones_refused() {
        let path = |name: &str| std::env::temp_dir().join(format!("cnn-idx-{}-{name}", std::process::id()));
        let write = |name: &str, magic: [u8; 4], extents: &[u32], data: &[u8]| {
            let mut bytes = magic.to_vec();
            extents.iter().for_each(|n| bytes.extend(n.to_be_bytes()));
            bytes.extend(data);
            std::fs::write(path(name), bytes).unwrap();
            path(name)
        };
        let images = write("images", [0, 0, 8, 3], &[2, 1, 2], &[0, 255, 51, 0]);
        let labels = write("labels", [0, 0, 8, 1], &[2], &[7, 1]);
        let set = Dataset::mnist(&images, &labels).unwrap();
        assert_eq!(set.shape(), Shape::image(1, 1, 2));
        assert_eq!(set.get(1), Some(([0.2, 0.0].as_slice(), 1)));
        let message = |name: &str, magic, extents: &[u32], data: &[u8]| {
            let file = write(name, magic, extents, data);
            let message = Dataset::mnist(&file, &labels).unwrap_err().to_string();
            std::fs::remove_file(file).unwrap();
            message
        };
        let huge = message("huge", [0, 0, 8, 3], &[u32::MAX; 3], &[1; 16]);
        assert!(
            huge.ends_with(
                "has 16 bytes of images, but its header says [4294967295, 4294967295, 4294967295]"
            )
        );
        assert!(message("short", [0, 0, 8, 3], &[2, 2, 2], &[1; 7]).contains("has 7 bytes of images"));
        assert!(message("long", [0, 0, 8, 3], &[2, 2, 2], &[1; 9]).contains("has 9 bytes"));
        assert!(message("empty", [0, 0, 8, 3], &[0, 2, 2], &[]).contains("has 0 bytes"));
        assert!(message("gzip", [31, 139, 8, 0], &[2, 2, 2], &[1; 8]).contains("is no MNIST file of images"));
        assert!(message("head", [0, 0, 8, 3], &[2], &[]).contains("is no MNIST file"));
        assert!(message("three", [0, 0, 8, 3], &[3, 1, 1], &[1; 3]).contains("has 2 labels"));
        let absent = Dataset::mnist(&path("absent"), &labels).unwrap_err().to_string();
        assert!(absent.contains("absent: No such file"), "{absent}");
        std::fs::remove_file(images).unwrap();
        std::fs::remove_file(labels).unwrap();
    }
}
