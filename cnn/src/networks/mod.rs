//! Networks of the literature, layer by layer as torchvision has them, so that its weights fit.
//!
//! | network | parameters | image |
//! |---|---|---|
//! | [`lenet5`] | 61 706 | 1×28×28 |
//! | [`alexnet`] | 61 100 840 | 3×224×224 |
//! | [`vgg16`] | 138 357 544 | 3×224×224 |
//! | [`resnet18`] | 11 689 512 | 3×224×224 |
//! | [`resnet50`] | 25 557 032 | 3×224×224 |
//! | [`mobilenet_v2`] | 3 504 872 | 3×224×224 |

mod chains;
mod mobilenet;
mod resnet;

use crate::{Error, Graph, Shape};

/// A function that builds a network for images of one size and so many classes.
type Build = fn(Shape, usize) -> Result<Graph, Error>;

/// Name, the image and classes that it is known for, and how it is built.
const NETWORKS: [(&str, Shape, usize, Build); 6] = [
    ("lenet5", Shape::image(1, 28, 28), 10, chains::lenet5),
    ("alexnet", IMAGENET, 1000, chains::alexnet),
    ("vgg16", IMAGENET, 1000, chains::vgg16),
    ("resnet18", IMAGENET, 1000, resnet::resnet18),
    ("resnet50", IMAGENET, 1000, resnet::resnet50),
    ("mobilenet_v2", IMAGENET, 1000, mobilenet::mobilenet_v2),
];

const IMAGENET: Shape = Shape::image(3, 224, 224);

/// The names of all networks.
pub fn names() -> impl Iterator<Item = &'static str> {
    NETWORKS.iter().map(|(name, ..)| *name)
}

/// A network by its name, for the images and classes that it is known for.
///
/// # Errors
/// When no network has this name; the error names those there are.
pub fn network(name: &str) -> Result<Graph, Error> {
    let (_, image, classes, build) = find(name)?;
    build(*image, *classes)
}

/// A network by its name for other images and classes. Fully connected layers take what the maps before them
/// give, so that their weights fit images of one size only.
///
/// ```
/// use cnn::{Shape, networks};
/// let net = networks::sized("resnet18", Shape::image(3, 64, 64), 10)?;
/// assert_eq!(net.output_shape(), Shape::Features(10));
/// # Ok::<(), cnn::Error>(())
/// ```
///
/// # Errors
/// When no network has this name, or the images are too small for it.
pub fn sized(name: &str, image: Shape, classes: usize) -> Result<Graph, Error> {
    find(name)?.3(image, classes)
}

fn find(name: &str) -> Result<&'static (&'static str, Shape, usize, Build), Error> {
    NETWORKS.iter().find(|network| network.0 == name).ok_or_else(|| Error::Option {
        option: "the network",
        value: format!("`{name}`"),
        expected: "lenet5, alexnet, vgg16, resnet18, resnet50 or mobilenet_v2",
    })
}

/// LeNet-5 (LeCun and others, 1998) for digits of 28×28 pixels, with what is usual today: maximum pooling,
/// ReLU, all connections in the second convolution.
///
/// # Errors
/// None that could occur: the type is that of every network.
pub fn lenet5() -> Result<Graph, Error> {
    network("lenet5")
}

/// AlexNet (Krizhevsky and others, 2012) as torchvision has it, after "One weird trick": without local
/// response normalisation.
///
/// # Errors
/// As [`lenet5`].
pub fn alexnet() -> Result<Graph, Error> {
    network("alexnet")
}

/// VGG-16 (Simonyan and Zisserman, 2014).
///
/// # Errors
/// As [`lenet5`].
pub fn vgg16() -> Result<Graph, Error> {
    network("vgg16")
}

/// ResNet-18 (He and others, 2015).
///
/// # Errors
/// As [`lenet5`].
pub fn resnet18() -> Result<Graph, Error> {
    network("resnet18")
}

/// ResNet-50 with the stride in its 3×3 convolutions, as torchvision has it.
///
/// # Errors
/// As [`lenet5`].
pub fn resnet50() -> Result<Graph, Error> {
    network("resnet50")
}

/// MobileNetV2 (Sandler and others, 2018).
///
/// # Errors
/// As [`lenet5`].
pub fn mobilenet_v2() -> Result<Graph, Error> {
    network("mobilenet_v2")
}

/// Channels of a shape.
fn channels(shape: Shape) -> usize {
    shape.volume()[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The counts that torchvision publishes with its weights; multiply-accumulates in units of 10⁹ as well.
    #[test]
    fn counts_are_the_published_ones() {
        let published = [
            ("lenet5", 61_706, 0.0),
            ("alexnet", 61_100_840, 0.71),
            ("vgg16", 138_357_544, 15.47),
            ("resnet18", 11_689_512, 1.81),
            ("resnet50", 25_557_032, 4.09),
            ("mobilenet_v2", 3_504_872, 0.3),
        ];
        assert_eq!(names().collect::<Vec<_>>(), published.map(|(name, ..)| name));
        for (name, parameters, gmacs) in published {
            let net = network(name).unwrap();
            assert_eq!(net.parameter_count(), parameters, "{name}");
            assert!((net.macs() as f64 / 1e9 - gmacs).abs() < 0.006, "{name}: {}", net.macs());
            let rows = net.summary().rows;
            assert_eq!(rows.iter().map(|row| row.parameters).sum::<usize>(), parameters, "{name}");
        }
    }

    #[test]
    fn unknown_names_and_small_images_are_errors() {
        let message = network("lenet6").unwrap_err().to_string();
        assert!(message.contains("`lenet6`") && names().all(|name| message.contains(name)), "{message}");
        let message = sized("alexnet", Shape::image(3, 16, 16), 10).unwrap_err().to_string();
        assert!(message.starts_with("layer `features.5` wants larger maps"), "{message}");
        assert!(message.ends_with("but `features.4` gives 192×1×1"), "{message}");
        assert!(sized("resnet50", Shape::Features(10), 10).is_err());
    }
}
