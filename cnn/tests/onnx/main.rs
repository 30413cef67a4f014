//! Networks in ONNX's format: written and read again, by every operator, broken.

mod damage;
mod node;
mod operators;
mod round_trip;
