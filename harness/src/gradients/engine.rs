//! Our gradients as engines of a benchmark.

use std::time::{Duration, Instant};

use kernels::backward::{DataPlan, WeightsPlan};
use kernels::{Accuracy, ConvError, ConvSpec, ErrorModel, PlanOptions};

use crate::engine::{Engine, Facts, Io, OURS, Prepared, Refusal};
use crate::pinning::Pool;
use crate::record::Gradient;

/// One of our kernels, for a gradient.
#[derive(Clone, Copy, Debug)]
pub struct Ours {
    /// The gradient.
    pub of: Gradient,
    /// The kernel's id.
    pub id: &'static str,
    /// What is asked of its rounding errors.
    pub accuracy: Accuracy,
}

impl Engine for Ours {
    fn engine(&self) -> &str {
        OURS
    }

    fn id(&self) -> &str {
        self.id
    }

    fn gradient(&self) -> Option<Gradient> {
        Some(self.of)
    }

    fn accuracy(&self) -> Option<Accuracy> {
        Some(self.accuracy)
    }

    fn prepare<'a>(
        &'a self,
        spec: &ConvSpec,
        io: Io<'a>,
        pool: &'a Pool,
    ) -> Result<Box<dyn Prepared + 'a>, Refusal> {
        let options = PlanOptions { threads: pool.threads(), accuracy: self.accuracy, ..Default::default() };
        let refusal = |error| match error {
            ConvError::Unavailable { .. } => Refusal::unavailable(error),
            error => Refusal::unsupported(error),
        };
        let start = Instant::now();
        let plan = match self.of {
            Gradient::BackwardData => {
                DataPlan::new(self.id, spec, &io.tensors.weights, &options).map(Plan::Data)
            }
            Gradient::BackwardWeights => WeightsPlan::new(self.id, spec, &options).map(Plan::Weights),
        };
        let plan = plan.map_err(refusal)?;
        let elapsed = start.elapsed();
        let error_models = plan.error_models();
        let Some(&error_model) = error_models.first() else {
            return Err(Refusal::unsupported("no pixel of the input meets an output"));
        };
        let facts = Facts {
            implementation: plan.kernel_id().to_owned(),
            plan: elapsed,
            workspace_bytes: Some(4 * plan.workspace_len()),
            packed_bytes: plan.packed_bytes(),
            own_flops: plan.own_flops(),
            error_model,
            stores: None,
            launches: None,
        };
        Ok(Box::new(OurPlan { plan, io, pool, facts, error_models }))
    }
}

enum Plan {
    Data(DataPlan),
    Weights(WeightsPlan),
}

impl Plan {
    fn kernel_id(&self) -> &str {
        match self {
            Plan::Data(plan) => plan.kernel_id(),
            Plan::Weights(plan) => plan.kernel_id(),
        }
    }

    fn workspace_len(&self) -> usize {
        match self {
            Plan::Data(plan) => plan.workspace_len(),
            Plan::Weights(plan) => plan.workspace_len(),
        }
    }

    fn packed_bytes(&self) -> Option<usize> {
        match self {
            Plan::Data(plan) => Some(plan.packed_bytes()),
            Plan::Weights(_) => None,
        }
    }

    /// What Winograd's arithmetic needs, where that is what runs.
    fn own_flops(&self) -> Option<u64> {
        match self {
            Plan::Data(plan) => plan.kernel_id().starts_with("winograd").then(|| plan.flops()),
            Plan::Weights(_) => None,
        }
    }

    fn error_models(&self) -> Vec<ErrorModel> {
        match self {
            Plan::Data(plan) => plan.error_models().collect(),
            Plan::Weights(plan) => vec![plan.error_model()],
        }
    }
}

struct OurPlan<'a> {
    plan: Plan,
    io: Io<'a>,
    pool: &'a Pool,
    facts: Facts,
    error_models: Vec<ErrorModel>,
}

impl Prepared for OurPlan<'_> {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn error_models(&self) -> Vec<ErrorModel> {
        self.error_models.clone()
    }

    fn time(&mut self, repeats: u64) -> Result<Duration, String> {
        let OurPlan { plan, io, pool, .. } = self;
        let (to, workspace) = (&mut io.output.borrow_mut()[..], &mut *io.workspace.borrow_mut());
        let (input, grads) = (&io.tensors.input[..], &io.tensors.previous[..]);
        pool.run(|| {
            let start = Instant::now();
            for _ in 0..repeats {
                match plan {
                    Plan::Data(plan) => plan.run(grads, None, to, workspace),
                    Plan::Weights(plan) => {
                        let (weights, bias) = to.split_at_mut(plan.spec().weights_len());
                        plan.run(input, grads, weights, Some(bias), workspace)
                    }
                }
                .map_err(|error| error.to_string())?;
            }
            Ok(start.elapsed())
        })
    }

    fn store(&mut self, _: &mut [f32]) -> Result<(), String> {
        Ok(())
    }
}
