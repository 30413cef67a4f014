//! A peer that cannot be had.

use crate::engine::{Engine, Io, Prepared, Refusal};
use crate::pinning::Pool;
use kernels::ConvSpec;

/// Refuses every convolution with the reason why it cannot be had.
#[derive(Debug)]
pub(super) struct Missing {
    /// Its name.
    pub(super) name: &'static str,
    /// Why it cannot be had.
    pub(super) reason: String,
}

impl Engine for Missing {
    fn engine(&self) -> &str {
        self.name
    }

    fn id(&self) -> &str {
        self.name
    }

    fn prepare<'a>(
        &'a self,
        _: &ConvSpec,
        _: Io<'a>,
        _: &'a Pool,
    ) -> Result<Box<dyn Prepared + 'a>, Refusal> {
        Err(Refusal::unavailable(&self.reason))
    }
}
