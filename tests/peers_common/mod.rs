//! What the tests of peers have in common.
//!
//! `CONV_ONNXRUNTIME` names ONNX Runtime's shared library. A peer that is not there is skipped, unless
//! `CONV_REQUIRE_PEERS` lists its name.

use std::cell::RefCell;
use std::path::PathBuf;

use harness::buffer::Buffer;
use harness::data::{Kind, Tensors, tensors};
use harness::engine::{Engine, Io};
use harness::layers::Layer;
use harness::peers::{Paths, find};
use kernels::Workspace;

pub(crate) fn peer(name: &str) -> Box<dyn Engine> {
    let onnxruntime = std::env::var_os("CONV_ONNXRUNTIME").map(PathBuf::from);
    let paths = Paths { onnxruntime, ..Default::default() };
    let mut peers = find(&[name.to_owned()], &paths, None).unwrap();
    assert_eq!(peers.len(), 1);
    peers.remove(0)
}

/// Whether a peer that is not there may be skipped.
pub(crate) fn skip(name: &str, reason: &str) {
    let required = std::env::var("CONV_REQUIRE_PEERS").unwrap_or_default();
    assert!(!required.split(',').any(|required| required == name), "{name} is required: {reason}");
    println!("{name} is skipped: {reason}");
}

/// A layer with buffers.
pub(crate) struct Task {
    pub(crate) layer: Layer,
    pub(crate) output: RefCell<Buffer>,
    tensors: Tensors,
    workspace: RefCell<Workspace<'static>>,
}

impl Task {
    pub(crate) fn new(spec: &str) -> Self {
        let layer = Layer::of_spec(spec.parse().unwrap());
        let tensors = tensors(&layer.spec, Kind::Real, 7);
        let output = RefCell::new(tensors.previous.clone());
        Task { layer, output, tensors, workspace: RefCell::new(Workspace::default()) }
    }

    pub(crate) fn io(&self) -> Io<'_> {
        Io { tensors: &self.tensors, output: &self.output, workspace: &self.workspace }
    }
}
