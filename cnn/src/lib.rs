//! Convolutional networks over [`kernels`].
#![forbid(unsafe_code)]

mod data;
pub mod digits;
mod error;
mod file;
mod fusion;
mod graph;
mod inference;
mod layer;
pub mod networks;
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
