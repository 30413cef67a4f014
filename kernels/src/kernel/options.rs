//! What can be asked of a plan.

use crate::error::ConvError;

/// What is applied to each output element after bias and sum. NaN passes through.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// max(0, x).
    Relu,
    /// x limited to `min..=max` (ReLU6 is 0 to 6).
    Clamp {
        /// The lower limit.
        min: f32,
        /// The upper limit, no lower than `min`.
        max: f32,
    },
}

impl Activation {
    /// Lower and upper limit.
    pub(crate) fn limits(self) -> (f32, f32) {
        match self {
            Activation::Relu => (0.0, f32::INFINITY),
            Activation::Clamp { min, max } => (min, max),
        }
    }

    /// The activation of one value.
    pub fn apply(self, x: f32) -> f32 {
        let (min, max) = self.limits();
        if x < min {
            min
        } else if x > max {
            max
        } else {
            x
        }
    }
}

/// Which algorithms may be chosen, by their rounding errors: the less is asked of them, the later the variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Accuracy {
    /// Only algorithms that sum the products of the definition.
    Strict,
    /// Also Winograd with an error at most about twice that of summing: F(2×2,3×3), F(4×4,3×3) and F(2×2,5×5).
    #[default]
    Standard,
    /// Also Winograd with an error about eight times that of summing: F(6×6,3×3).
    Relaxed,
}

/// How `auto` finds the fastest kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Effort {
    /// By rules and estimates, without running anything.
    #[default]
    Estimate,
    /// By running every kernel that may be taken on the convolution, those that may win twice at least, and again for a quarter of a
    /// second. Meanwhile there are plans of all of them, with their packed weights, and an input and an output
    /// beside the caller's; where memory lacks for that, [`Estimate`](Self::Estimate) decides. What was chosen is
    /// remembered for the next plan of the same convolution, see [`choices`](crate::choices).
    Measure,
}

/// Where outputs go first. The results are the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Stores {
    /// Into the caches, from which whoever comes next can read them.
    #[default]
    Cached,
    /// Past the caches, straight to memory: for outputs that no cache holds and that nobody reads soon. A line
    /// is then not read before it is written, and nothing else is put out of the caches.
    ///
    /// Kernels do so where they can, and [`Plan::stores`](crate::Plan::stores) tells: `pointwise` in NHWC, with AVX-512,
    /// where a group's filters fill whole cache lines and nothing is accumulated. It is little: on Zen 4 up to 6 %
    /// less time where outputs of 8 MB and more lie in one stream (32 filters or fewer), 0 to 3 % elsewhere. Stores
    /// to an output that does not start on a cache line go to the caches all the same.
    Streaming,
}

/// How to prepare a convolution. Write `PlanOptions { threads: 4, ..Default::default() }`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlanOptions {
    /// Threads that a run may use; 1 never touches rayon, more uses the pool that the run is called
    /// in (the global one if none). Small convolutions use fewer. Results do not depend on it, not
    /// in a single bit.
    pub threads: usize,
    /// Applied to each output element last.
    pub activation: Option<Activation>,
    /// Add the convolution to what the output holds (a residual sum), before the activation.
    pub accumulate: bool,
    /// Which algorithms `auto` and `winograd` may choose. A kernel asked for by its own name is taken, unless
    /// it does more than sum products in f32 and [`Accuracy::Strict`] is asked for.
    pub accuracy: Accuracy,
    /// How `auto` finds the fastest kernel; others ignore it.
    pub effort: Effort,
    /// Where outputs go first; kernels that cannot do it otherwise than [`Stores::Cached`] ignore it.
    pub stores: Stores,
}

impl Default for PlanOptions {
    fn default() -> Self {
        PlanOptions {
            threads: 1,
            activation: None,
            accumulate: false,
            accuracy: Accuracy::Standard,
            effort: Effort::Estimate,
            stores: Stores::Cached,
        }
    }
}

impl PlanOptions {
    pub(crate) fn check(&self) -> Result<(), ConvError> {
        let error = |option, value: String, expected| Err(ConvError::Option { option, value, expected });
        check_threads(self.threads)?;
        if let Some(Activation::Clamp { min, max }) = self.activation
            && !matches!(min.partial_cmp(&max), Some(std::cmp::Ordering::Less | std::cmp::Ordering::Equal))
        {
            return error("activation", format!("clamp to {min}..={max}"), "a range with min <= max");
        }
        Ok(())
    }

    /// Limits of the activation; infinite ones when there is none.
    pub(crate) fn limits(&self) -> (f32, f32) {
        self.activation.map_or((f32::NEG_INFINITY, f32::INFINITY), Activation::limits)
    }
}

/// The check of every number of threads.
pub(crate) fn check_threads(threads: usize) -> Result<(), ConvError> {
    let expected = match threads {
        0 => "at least 1",
        2.. if cfg!(not(feature = "rayon")) => "1 in a build without the feature `rayon`",
        _ => return Ok(()),
    };
    Err(ConvError::Option { option: "threads", value: threads.to_string(), expected })
}
