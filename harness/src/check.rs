//! Compares an output with the oracle, within the bound that its plan promises.

use kernels::{Activation, ConvSpec, ErrorModel, PlanOptions};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::data::Tensors;
use crate::oracle::{Expected, Oracle, Position};

/// u: half a unit in the last place of 1.0f32.
pub const UNIT_ROUNDOFF: f64 = 1.0 / (1u32 << 24) as f64;

/// Which outputs are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampling {
    /// All of them.
    All,
    /// Corners, last rows and columns, first and last channels and images, and random others, about
    /// this many in all.
    Points(usize),
}

/// What is demanded beyond the error bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exactness {
    /// The error bound alone.
    Bound,
    /// The data are integers whose sums are exact: kernels that sum products must be, too.
    Integers,
}

/// The result of a comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Largest error, as a share of what the bound allows there; above 1 is wrong.
    pub share: f64,
    /// Largest error in units of u times the error model's scale.
    pub max_error: f64,
    /// The error model's k: what `max_error` may be.
    pub bound: f64,
    /// Outputs compared.
    pub compared: usize,
    /// The worst output that is wrong, if one is.
    pub mismatch: Option<Mismatch>,
}

impl Verdict {
    /// Whether every compared output is right.
    pub fn is_right(&self) -> bool {
        self.mismatch.is_none()
    }
}

/// An output that is wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mismatch {
    /// Image, channel, row, column.
    pub position: Position,
    /// What the kernel computed.
    pub got: f32,
    /// What is right, after the activation.
    pub want: f64,
    /// How far from it the bound allows.
    pub allowed: f64,
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [n, o, y, x] = self.position;
        write!(
            f,
            "output [n {n}, o {o}, y {y}, x {x}] is {:e}, but must be {:e} within {:e}",
            self.got, self.want, self.allowed
        )
    }
}

/// The factor k of an error model.
pub fn bound_factor(model: ErrorModel) -> f64 {
    match model {
        ErrorModel::Sum { k } | ErrorModel::Winograd { k, .. } | ErrorModel::Rounded { k, .. } => k,
        // A model that this crate does not know allows nothing.
        _ => 0.0,
    }
}

/// Compares `output`, computed with these buffers and options by something that promises errors within
/// `model`, with the float64 definition.
pub fn verdict(
    spec: &ConvSpec,
    model: ErrorModel,
    tensors: &Tensors,
    with_bias: bool,
    options: &PlanOptions,
    output: &[f32],
    sampling: Sampling,
    exactness: Exactness,
) -> Verdict {
    let oracle = Oracle::new(spec, tensors, options, with_bias, model);
    let size = [spec.batch(), spec.out_channels(), oracle.output_size()[0], oracle.output_size()[1]];
    let at = |position| oracle.at(position);
    match sampling {
        Sampling::All => judge(&oracle, model, options, output, exactness, oracle.positions(), at),
        Sampling::Points(points) => {
            judge(&oracle, model, options, output, exactness, sample(size, points).into_iter(), at)
        }
    }
}

/// Compares `output` at some positions with what is expected there.
pub(crate) fn judge(
    oracle: &Oracle<'_>,
    model: ErrorModel,
    options: &PlanOptions,
    output: &[f32],
    exactness: Exactness,
    positions: impl Iterator<Item = Position>,
    expected: impl Fn(Position) -> Expected,
) -> Verdict {
    let bound = bound_factor(model);
    let exact = exactness == Exactness::Integers && matches!(model, ErrorModel::Sum { .. });
    let activate = |x: f64| match options.activation {
        None => x,
        Some(Activation::Relu) => x.max(0.0),
        Some(Activation::Clamp { min, max }) => x.clamp(f64::from(min), f64::from(max)),
    };
    let mut verdict = Verdict { share: 0.0, max_error: 0.0, bound, compared: 0, mismatch: None };
    for position in positions {
        verdict.compared += 1;
        let expected = expected(position);
        let got = output[oracle.index(position)];
        let want = activate(expected.value);
        let underflow = bound * f64::from(f32::from_bits(1)) * expected.underflow;
        let allowed = if exact { 0.0 } else { bound * UNIT_ROUNDOFF * expected.scale + underflow };
        // The activation may bring the two nearer, never further apart.
        let error = (f64::from(got) - want).abs();
        let share = if error == 0.0 { 0.0 } else { error / allowed };
        // Written so that NaN is wrong.
        let right = error <= allowed;
        if !right && verdict.mismatch.is_none_or(|_| share > verdict.share || share.is_nan()) {
            verdict.mismatch = Some(Mismatch { position, got, want, allowed });
        }
        verdict.share = verdict.share.max(if share.is_nan() { f64::INFINITY } else { share });
        if expected.scale > 0.0 {
            verdict.max_error = verdict.max_error.max(error / (UNIT_ROUNDOFF * expected.scale));
        }
    }
    verdict
}

/// Positions of a large output that are worth comparing: every combination of first, last and random
/// places along each axis, then random ones.
fn sample(size: [usize; 4], points: usize) -> Vec<Position> {
    let mut rng = ChaCha8Rng::seed_from_u64(size.iter().fold(0, |hash, &n| hash * 31 + n as u64));
    let mut positions = Vec::new();
    for corner in 0..16 {
        positions.push([0, 1, 2, 3].map(|axis| if corner >> axis & 1 == 0 { 0 } else { size[axis] - 1 }));
    }
    while positions.len() < points.max(16) {
        let mut position = size.map(|n| rng.random_range(0..n));
        // Two thirds of them on an edge of one axis: tails and padding are where kernels go wrong.
        let axis = rng.random_range(0..6);
        if axis < 4 {
            position[axis] = size[axis] - 1 - rng.random_range(0..size[axis].min(3));
        }
        positions.push(position);
    }
    positions
}
