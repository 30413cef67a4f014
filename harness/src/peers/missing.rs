//! A peer that cannot be had.

use crate::engine::{Engine, Io, Prepared, Refusal};
use crate::network::Model;
use crate::peers::made::Made;
use crate::pinning::Pool;
use crate::record::Gradient;
use kernels::ConvSpec;

/// Refuses every convolution with the reason why it cannot be had.
#[derive(Debug)]
pub(super) struct Missing {
    /// Its name.
    pub(super) name: &'static str,
    /// Why it cannot be had.
    pub(super) reason: String,
    /// Whether it would be timed by a GPU's clock.
    on_device: bool,
    /// What it was asked for.
    gradient: Option<Gradient>,
}

impl Missing {
    /// A library for the CPU.
    pub(super) fn new(name: &'static str, reason: String) -> Self {
        Missing { name, reason, on_device: false, gradient: None }
    }

    /// A library for GPUs.
    #[cfg(not(feature = "cuda"))]
    pub(super) fn of_gpu(name: &'static str, reason: String) -> Self {
        Missing { name, reason, on_device: true, gradient: None }
    }
}

impl Missing {
    /// One that is measured going forward only.
    pub(super) fn without(name: &'static str, of: Gradient) -> Self {
        let reason = format!("{name} is not measured for {}", of.name());
        Missing { name, reason, on_device: false, gradient: Some(of) }
    }
}

impl Engine for Missing {
    fn engine(&self) -> &str {
        self.name
    }

    fn id(&self) -> &str {
        self.name
    }

    fn gradient(&self) -> Option<Gradient> {
        self.gradient
    }

    fn on_device(&self) -> bool {
        self.on_device
    }

    fn prepare<'a>(
        &'a self,
        _: &ConvSpec,
        _: Io<'a>,
        _: &'a Pool,
    ) -> Result<Box<dyn Prepared + 'a>, Refusal> {
        Err(Refusal::unavailable(&self.reason))
    }

    fn network<'a>(&'a self, _: &Model<'a>, _: &'a Pool) -> Result<Made<'a>, Refusal> {
        Err(Refusal::unavailable(&self.reason))
    }
}
