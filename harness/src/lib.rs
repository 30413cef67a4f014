//! Holds convolution kernels to account: proves them equal to the definition, and measures them.
//!
//! - [`data`] makes seeded inputs, [`oracle`] computes the definition in float64, [`check`] compares
//!   within the bound that a kernel promises, [`guard`] notices stray writes;
//! - [`strategy`] draws convolutions for property tests, [`verify`] runs them on every kernel.
//!
//! It uses only the public interface of [`kernels`].

pub mod check;
pub mod data;
pub mod guard;
pub mod oracle;
pub mod strategy;
pub mod verify;
