//! Convolutions, and whole networks, of libraries that know only NCHW, made ready to be measured.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use kernels::ConvSpec;

use super::nchw;
use crate::data::Tensors;
use crate::engine::{Facts, Prepared};
use crate::pinning::Pool;

/// What a library has made ready, with how it is done and how long making it took.
pub struct Made<'a> {
    /// What runs.
    pub model: Box<dyn Model + 'a>,
    /// The library's name for how it is done.
    pub implementation: String,
    /// How long making it took.
    pub plan: Duration,
}

impl fmt::Debug for Made<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Made").field("implementation", &self.implementation).finish_non_exhaustive()
    }
}

/// A convolution or a network that a library has made ready.
pub trait Model {
    /// Runs so many times, on the threads it has; how long that took.
    ///
    /// # Errors
    /// When it fails.
    fn time(&mut self, repeats: u64) -> Result<Duration, String>;

    /// The output of the last run, in NCHW.
    ///
    /// # Errors
    /// When nothing has run, or it cannot be had.
    fn output(&self) -> Result<Cow<'_, [f32]>, String>;
}

impl<'a> Made<'a> {
    /// Ready for the layout of the spec.
    pub(super) fn prepared(
        self,
        spec: &ConvSpec,
        tensors: &'a Tensors,
        pool: &'a Pool,
    ) -> Box<dyn Prepared + 'a> {
        let facts = Facts {
            implementation: self.implementation,
            plan: self.plan,
            workspace_bytes: None,
            packed_bytes: None,
            own_flops: None,
            error_model: nchw::error_model(spec, None),
            stores: None,
            launches: None,
        };
        Box::new(Ready { model: self.model, tensors, pool, spec: *spec, facts })
    }
}

struct Ready<'a> {
    model: Box<dyn Model + 'a>,
    tensors: &'a Tensors,
    pool: &'a Pool,
    spec: ConvSpec,
    facts: Facts,
}

impl Prepared for Ready<'_> {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn time(&mut self, repeats: u64) -> Result<Duration, String> {
        self.model.time(repeats)
    }

    fn store(&mut self, output: &mut [f32]) -> Result<(), String> {
        nchw::store(&self.spec, &self.model.output()?, output);
        Ok(())
    }

    fn reorder(&mut self) -> Option<Duration> {
        let (spec, tensors) = (&self.spec, self.tensors);
        let result = self.model.output().ok()?;
        self.pool.drive(|| nchw::reorder(spec, tensors, &result))
    }
}
