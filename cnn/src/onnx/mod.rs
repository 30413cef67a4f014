//! Networks in ONNX's format: [`load`] reads one that any framework wrote, [`save`] writes ours for others.
//!
//! ```
//! use cnn::{Inference, InferenceOptions, Weights, networks, onnx};
//!
//! let net = networks::lenet5()?;
//! let path = std::env::temp_dir().join(format!("lenet-{}.onnx", std::process::id()));
//! onnx::save(&net, &Weights::random(&net, 1)?, None, &path)?;
//!
//! let model = onnx::load(&path)?;
//! assert_eq!((&model.graph, model.batch), (&net, None));
//! let mut inference = Inference::new(&model.graph, &model.weights, &InferenceOptions::default())?;
//! assert_eq!(inference.run(&[0.5; 28 * 28])?.len(), 10);
//! # std::fs::remove_file(path).unwrap();
//! # Ok::<(), cnn::Error>(())
//! ```
//!
//! # What is read
//! Feed-forward networks of float32 with one input and one output, by the operators' versions 7 and later, with a
//! batch that is fixed or not:
//!
//! | operator | what of it |
//! |---|---|
//! | `Conv` | one or two spatial axes, groups, dilations, any padding, `auto_pad` |
//! | `MaxPool`, `AveragePool`, `GlobalAveragePool` | the same, `ceil_mode`, `count_include_pad`; not the places of maxima |
//! | `Gemm`, `MatMul` | of a row of features with a constant matrix |
//! | `Relu`, `Clip`, `Softmax` | any axis but the batch |
//! | `BatchNormalization`, `LRN`, `Dropout` | in inference |
//! | `Add`, `Sum` | of two values of one shape, or of a bias behind `Conv` and `MatMul` |
//! | `Flatten`, `Reshape`, `Squeeze`, `Unsqueeze` | where they make a row of features of each image, or change nothing |
//! | `Identity`, `Constant` | all; so is arithmetic on shapes, such as `Shape` and `Gather` |
//!
//! Anything else is an error that names the node and its operator. So is anything broken, and reading takes no more
//! memory than a small multiple of the file.

mod attributes;
mod constants;
mod convolutions;
mod infer;
mod operators;
pub mod proto;
mod read;
mod rearrange;
mod rules;
mod value;
mod window;
mod wire;
mod write;

pub use convolutions::{Found, convolutions};
pub use read::{Model, load, read};
pub use write::{save, write};

use prost::Message;
use prost::bytes::Bytes;

/// Most bytes that a model takes in memory for each of its own; what people write takes half as much.
const MOST_GROWTH: u64 = 64;
/// What it may take beside.
const MOST_BESIDE: u64 = 1 << 20;

/// The messages of a model, in memory of no more than a multiple of its bytes.
fn decode(bytes: Bytes) -> Result<proto::Model, String> {
    const NO_MODEL: &str = "is no ONNX model, or is cut off";
    let needed = wire::decoded_size(&bytes).ok_or(NO_MODEL)?;
    let most = MOST_GROWTH * bytes.len() as u64 + MOST_BESIDE;
    if needed > most {
        return Err(format!(
            "would take {needed} bytes of memory, more than a model of its size should ({most})"
        ));
    }
    let model = proto::Model::decode(bytes).map_err(|_| NO_MODEL)?;
    match &model.graph {
        Some(graph) if !graph.node.is_empty() => Ok(model),
        Some(_) => Err("is an ONNX model without nodes, or no ONNX model".to_owned()),
        None => Err("is no ONNX model: it has no graph".to_owned()),
    }
}
