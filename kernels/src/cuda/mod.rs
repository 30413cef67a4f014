//! Convolutions on NVIDIA GPUs.
#![allow(dead_code)]

mod cache;
mod driver;
mod nvrtc;
