//! Convolutional networks over [`kernels`]: layers, graphs, inference in planned memory, training.
//!
//! A [`Graph`] is layers and who reads whom, with shapes inferred and checked as it grows; [`Weights`] are its
//! numbers, at random or from a safetensors file with torchvision's names; [`onnx`] reads both from other
//! frameworks' models; [`Inference`] runs it with any convolution kernel; [`Training`] teaches it. [`networks`] has
//! LeNet-5 to MobileNetV2. Nothing here panics: what cannot be done is an [`Error`] that names layers and shapes.
//!
//! # Build one and look at it
//! ```
//! use cnn::{Conv, Graph, Layer, Linear, Pool, Shape};
//!
//! let mut net = Graph::new(Shape::image(3, 32, 32))?;
//! net.then("conv", Conv::new(3, 10, 5).padding(2))?;
//! net.then("relu", Layer::RELU)?;
//! net.then("pool", Layer::MaxPool(Pool::new(2)))?;
//! net.then("flatten", Layer::Flatten)?;
//! net.then("scores", Linear::new(10 * 16 * 16, 10))?;
//! assert_eq!(net.parameter_count(), 760 + 25_610);
//! println!("{}", net.summary()); // layer, output, parameters, MACs, receptive field
//! # Ok::<(), cnn::Error>(())
//! ```
//!
//! # Run one of the literature's
//! ```
//! use cnn::{Inference, InferenceOptions, Shape, Weights, networks};
//!
//! let net = networks::sized("resnet18", Shape::image(3, 64, 64), 10)?;
//! let weights = Weights::random(&net, 1)?; // or Weights::load(&net, path)
//! let options = InferenceOptions { kernel: "direct".to_owned(), ..Default::default() };
//! let mut inference = Inference::new(&net, &weights, &options)?;
//! let scores = inference.run(&vec![0.5; 3 * 64 * 64])?;
//! assert_eq!(scores.len(), 10);
//! # Ok::<(), cnn::Error>(())
//! ```
//!
//! # Run one of another framework's
//! ```no_run
//! use std::path::Path;
//!
//! use cnn::{Inference, InferenceOptions, onnx};
//!
//! let model = onnx::load(Path::new("model.onnx"))?; // as PyTorch or another framework exports it
//! println!("{}", model.graph.summary());
//! let mut inference = Inference::new(&model.graph, &model.weights, &InferenceOptions::default())?;
//! let output = inference.run(&vec![0.5; model.graph.input_shape().len()])?;
//! # Ok::<(), cnn::Error>(())
//! ```
//!
//! # Teach one
//! See [`Training`], and the example `train_lenet`, which teaches LeNet-5 to read [`digits`] or MNIST's files.
//! `LECTURE.md` goes through a lecture on such networks, with an example for each part.
//!
//! # Guarantees
//! - Runs allocate nothing; activations share memory that is planned once.
//! - Results, and training by a seed, are bit-identical for any number of threads.
//! - Images and maps lie channels, rows, columns.
#![forbid(unsafe_code)]

mod buffer;
mod data;
pub mod digits;
mod error;
pub mod file;
mod fusion;
mod graph;
mod inference;
mod layer;
pub mod networks;
pub mod onnx;
mod ops;
mod optimizer;
mod shape;
mod slots;
mod summary;
mod training;
mod weights;

pub use data::Dataset;
pub use error::Error;
pub use graph::{Graph, Node, Parameter, Role, Value};
pub use inference::{Inference, InferenceOptions, StepInfo};
pub use layer::{BatchNorm, Conv, Layer, Linear, Lrn, Pool};
pub use optimizer::Optimizer;
pub use shape::Shape;
pub use summary::{Row, Summary};
pub use training::{Training, TrainingOptions};
pub use weights::Weights;

/// The examples of `LECTURE.md`, tested.
#[cfg(doctest)]
#[doc = include_str!("../LECTURE.md")]
struct Lecture;
