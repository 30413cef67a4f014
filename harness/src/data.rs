//! Seeded data: the same spec, kind and seed give the same numbers everywhere.

use kernels::ConvSpec;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::buffer::Buffer;

/// What the numbers are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Small integers, so sparse or small that every partial sum stays below 2²⁴: a kernel that sums
    /// the definition's products has to be exact, in whatever order it sums.
    Integer,
    /// Inputs as after a ReLU and weights of He's initialisation, roughly: what networks hold.
    Real,
    /// Cancellation, a large dynamic range between channels, one huge weight, subnormal numbers and
    /// negative zeros.
    Adversarial,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 3] = [Kind::Integer, Kind::Real, Kind::Adversarial];
}

/// The buffers of a convolution.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensors {
    /// `spec.input_len()` values in the spec's layout.
    pub input: Buffer,
    /// `spec.weights_len()` values, OIHW.
    pub weights: Buffer,
    /// `spec.out_channels()` values.
    pub bias: Buffer,
    /// `spec.output_len()` values: what the output holds before a run that accumulates.
    pub previous: Buffer,
}

/// Fills the buffers of a convolution.
pub fn tensors(spec: &ConvSpec, kind: Kind, seed: u64) -> Tensors {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut fill = |len: usize, f: &mut dyn FnMut(usize, &mut ChaCha8Rng) -> f32| -> Buffer {
        let mut buffer = Buffer::zeros(len);
        for (i, value) in buffer.iter_mut().enumerate() {
            *value = f(i, &mut rng);
        }
        buffer
    };
    let terms = (spec.weights_len() / spec.out_channels()) as f32;
    match kind {
        Kind::Integer => {
            // |input| <= 8 and |weights| <= 8: 64 a term. Beyond 2¹⁷ terms weights become sparse.
            let density = (f64::from(1 << 17) / f64::from(terms)).min(1.0);
            let integer = |rng: &mut ChaCha8Rng| rng.random_range(-8..=8) as f32;
            Tensors {
                input: fill(spec.input_len(), &mut |_, rng| integer(rng)),
                weights: fill(spec.weights_len(), &mut |_, rng| {
                    if rng.random_bool(density) { integer(rng) } else { 0.0 }
                }),
                bias: fill(spec.out_channels(), &mut |_, rng| integer(rng)),
                previous: fill(spec.output_len(), &mut |_, rng| integer(rng)),
            }
        }
        Kind::Real => {
            let scale = (2.0 / terms).sqrt();
            Tensors {
                input: fill(spec.input_len(), &mut |_, rng| normal(rng).max(0.0)),
                weights: fill(spec.weights_len(), &mut |_, rng| scale * normal(rng)),
                bias: fill(spec.out_channels(), &mut |_, rng| 0.1 * normal(rng)),
                previous: fill(spec.output_len(), &mut |_, rng| normal(rng)),
            }
        }
        Kind::Adversarial => Tensors {
            input: fill(spec.input_len(), &mut |i, rng| match i % 7 {
                // Nearly constant: transforms that subtract neighbours cancel.
                0..4 => 1000.0 + rng.random_range(-1e-3..1e-3),
                4 => -0.0,
                5 => f32::from_bits(rng.random_range(1..1 << 20)),
                _ => normal(rng) * 10f32.powi(rng.random_range(-6..6)),
            }),
            weights: fill(spec.weights_len(), &mut |i, rng| match i % 11 {
                0 => 1e6 * normal(rng),
                1 => f32::from_bits(rng.random_range(1..1 << 20)),
                2 => -0.0,
                _ => normal(rng) * 10f32.powi(rng.random_range(-3..3)),
            }),
            bias: fill(spec.out_channels(), &mut |_, rng| 1e5 * normal(rng)),
            previous: fill(spec.output_len(), &mut |_, rng| 1e4 * normal(rng)),
        },
    }
}

/// Approximately normal: the sum of twelve uniform numbers less six.
fn normal(rng: &mut impl Rng) -> f32 {
    (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_decides() {
        let spec: ConvSpec = "c3 h5 w5 o4 k3".parse().unwrap();
        for kind in Kind::ALL {
            assert_eq!(tensors(&spec, kind, 7), tensors(&spec, kind, 7));
            assert_ne!(tensors(&spec, kind, 7), tensors(&spec, kind, 8));
        }
    }

    #[test]
    fn integer_sums_stay_exact() {
        let spec: ConvSpec = "c40000 h3 w3 o1 k3".parse().unwrap();
        let t = tensors(&spec, Kind::Integer, 1);
        let most: f64 = t.weights.iter().map(|w| f64::from(w.abs()) * 8.0).sum();
        assert!(most < f64::from(1 << 24), "{most}");
    }
}
