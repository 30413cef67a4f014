//! Holds convolution kernels to account: proves them equal to the definition, and measures them.
//!
//! - [`data`] makes seeded inputs, [`oracle`] computes the definition in float64, [`check`] compares
//!   within the bound that a kernel promises, [`guard`] notices stray writes;
//! - [`strategy`] draws convolutions for property tests, [`verify`] runs them on every kernel.
//! - [`layers`] reads layers of networks, [`measure`] times things in turns, [`limits`] measures the
//!   machine's roofs, [`mod@bench`] makes rows of them, [`record`] writes the rows;
//! - [`machine`] says what machine it is, [`pinning`] keeps threads on their cores, [`mod@file`] and [`npy`]
//!   write and read files.
//!
//! It uses only the public interface of [`kernels`].

pub mod bench;
pub mod check;
pub mod data;
pub mod file;
pub mod guard;
pub mod layers;
pub mod limits;
pub mod machine;
pub mod measure;
pub mod npy;
pub mod oracle;
pub mod pinning;
pub mod record;
pub mod report;
pub mod strategy;
pub mod verify;

/// The examples of the README, tested.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
