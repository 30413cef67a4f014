//! The matrices of both variants, and the transform of the weights.

use crate::kernel::WinogradTransform;

/// F(2×2, 3×3), points 0, ±1, ∞.
pub(super) static F2: WinogradTransform = WinogradTransform {
    output: 2,
    kernel: 3,
    at: &[&[1., 1., 1., 0.], &[0., 1., -1., 1.]],
    g: &[&[1., 0., 0.], &[0.5, 0.5, 0.5], &[0.5, -0.5, 0.5], &[0., 0., 1.]],
    bt: &[&[1., 0., -1., 0.], &[0., 1., 1., 0.], &[0., -1., 1., 0.], &[0., -1., 0., 1.]],
};

/// The points ±P and ±Q of F(4×4, 3×3).
pub(super) const P: f64 = 11. / 16.;
/// See [`P`].
pub(super) const Q: f64 = 3. / 2.;

/// F(4×4, 3×3), points 0, ±11/16, ±3/2, ∞.
pub(super) static F4: WinogradTransform = WinogradTransform {
    output: 4,
    kernel: 3,
    at: &[
        &[1., 1., 1., 1., 1., 0.],
        &[0., P, -P, Q, -Q, 0.],
        &[0., P * P, P * P, Q * Q, Q * Q, 0.],
        &[0., P * P * P, -P * P * P, Q * Q * Q, -Q * Q * Q, 1.],
    ],
    g: &[
        &[1024. / 1089., 0., 0.],
        &[-32768. / 55055., -2048. / 5005., -128. / 455.],
        &[-32768. / 55055., 2048. / 5005., -128. / 455.],
        &[512. / 4095., 256. / 1365., 128. / 455.],
        &[512. / 4095., -256. / 1365., 128. / 455.],
        &[0., 0., 1.],
    ],
    bt: &[
        &[P * P * Q * Q, 0., -P * P - Q * Q, 0., 1., 0.],
        &[0., -P * Q * Q, -Q * Q, P, 1., 0.],
        &[0., P * Q * Q, -Q * Q, -P, 1., 0.],
        &[0., -Q * P * P, -P * P, Q, 1., 0.],
        &[0., Q * P * P, -P * P, -Q, 1., 0.],
        &[0., P * P * Q * Q, 0., -P * P - Q * Q, 0., 1.],
    ],
};

/// G g Gᵀ of one filter and channel, in float64: element (i, j) for i and j below alpha.
pub(super) fn transform_weights(transform: &WinogradTransform, g: &[f32]) -> impl Fn(usize, usize) -> f64 {
    let r = transform.kernel;
    move |i, j| {
        let (left, right) = (transform.g[i], transform.g[j]);
        let mut sum = 0.0;
        for y in 0..r {
            for x in 0..r {
                sum += left[y] * f64::from(g[y * r + x]) * right[x];
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In one dimension: Aᵀ[(G g) ⊙ (Bᵀ d)] is the convolution.
    #[test]
    fn transforms_compute_convolutions() {
        for t in [&F2, &F4] {
            let alpha = t.output + t.kernel - 1;
            let d: Vec<f64> = (0..alpha).map(|i| (i * i) as f64 - 3.5).collect();
            let g: Vec<f64> = (0..t.kernel).map(|i| 2.0 - i as f64 * 0.7).collect();
            let dot = |row: &[f64], x: &[f64]| row.iter().zip(x).map(|(a, b)| a * b).sum::<f64>();
            let product: Vec<f64> = (0..alpha).map(|i| dot(t.g[i], &g) * dot(t.bt[i], &d)).collect();
            for y in 0..t.output {
                let want: f64 = (0..t.kernel).map(|k| d[y + k] * g[k]).sum();
                assert!((dot(t.at[y], &product) - want).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn constants_of_the_data_transforms_are_exact() {
        for t in [&F2, &F4] {
            for x in t.at.iter().chain(t.bt).copied().flatten() {
                assert_eq!(f64::from(*x as f32), *x);
            }
        }
    }
}
