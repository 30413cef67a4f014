//! Holds convolution kernels to account: proves them equal to the definition, and measures them.
//!
//! - [`data`] makes seeded inputs, [`oracle`] computes the definition in float64, [`check`] compares
//!   within the bound that a kernel promises, [`guard`] notices stray writes;
//! - [`strategy`] draws convolutions for property tests, [`verify`] runs them on every kernel.
//! - [`layers`] reads layers of networks, also as [`benchdnn`] and [`onnx`] have them;
//!   [`engine`] is what can be measured on them, our kernels and [`peers`]; [`measure`] times things in turns,
//!   [`gpu`] measures on a GPU, by its own clock, [`limits`] knows the machine's roofs, [`statistics`] what samples say, [`rotation`] empties caches,
//!   [`mod@bench`] makes rows of it all, [`record`] writes and reads them;
//! - [`report`] says what rows mean: a ranking, a page, tables; [`noise`] knows how much they scatter,
//!   [`compare`] sets two runs side by side, [`regret`] says what `auto` loses;
//! - [`machine`] says what machine it is, [`provenance`] where rows come from, [`pinning`] keeps threads on
//!   their cores, [`mod@file`] and [`npy`] write and read files;
//! - [`network`] times whole networks; [`trace`] draws what convolutions and networks make of an image;
//! - [`pooling`], [`matmul`] and [`gradients`] do for poolings, matrix products and backward passes what those of the
//!   first line do for convolutions.
//!
//! It uses only the public interface of [`kernels`].

pub mod bench;
pub mod benchdnn;
pub mod buffer;
pub mod check;
pub mod compare;
pub mod data;
pub mod engine;
pub mod errors;
pub mod file;
pub mod gpu;
pub mod gradients;
pub mod guard;
pub mod layers;
pub mod limits;
pub mod machine;
pub mod matmul;
pub mod measure;
pub mod network;
pub mod noise;
pub mod npy;
pub mod onnx;
pub mod oracle;
pub mod peers;
pub mod pinning;
pub mod pooling;
pub mod provenance;
pub mod record;
pub mod regret;
pub mod report;
pub mod rotation;
pub mod statistics;
pub mod strategy;
pub mod trace;
pub mod verify;

/// The examples of the README, tested.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
