//! The matrices of the variants, and the transform of the weights.

use crate::kernel::WinogradTransform;

/// F(2×2, 3×3), points 0, ±1, ∞.
pub(super) static F2: WinogradTransform = WinogradTransform {
    output: 2,
    kernel: 3,
    at: &[&[1., 1., 1., 0.], &[0., 1., -1., 1.]],
    g: &[&[1., 0., 0.], &[0.5, 0.5, 0.5], &[0.5, -0.5, 0.5], &[0., 0., 1.]],
    bt: &[&[1., 0., -1., 0.], &[0., 1., 1., 0.], &[0., -1., 1., 0.], &[0., -1., 0., 1.]],
};

/// The points ±P and ±Q of tiles with six input rows.
pub(super) const P: f64 = 11. / 16.;
/// See [`P`].
pub(super) const Q: f64 = 3. / 2.;

/// Bᵀ of six input rows, points 0, ±P, ±Q, ∞.
const BT6: &[&[f64]] = &[
    &[P * P * Q * Q, 0., -P * P - Q * Q, 0., 1., 0.],
    &[0., -P * Q * Q, -Q * Q, P, 1., 0.],
    &[0., P * Q * Q, -Q * Q, -P, 1., 0.],
    &[0., -Q * P * P, -P * P, Q, 1., 0.],
    &[0., Q * P * P, -P * P, -Q, 1., 0.],
    &[0., P * P * Q * Q, 0., -P * P - Q * Q, 0., 1.],
];

/// Bᵀ of eight input rows, points 0, ±1, ±2, ±1/2, ∞.
const BT8: &[&[f64]] = &[
    &[1., 0., -21. / 4., 0., 21. / 4., 0., -1., 0.],
    &[0., 1., 1., -17. / 4., -17. / 4., 1., 1., 0.],
    &[0., -1., 1., 17. / 4., -17. / 4., -1., 1., 0.],
    &[0., 0.5, 0.25, -2.5, -1.25, 2., 1., 0.],
    &[0., -0.5, 0.25, 2.5, -1.25, -2., 1., 0.],
    &[0., 2., 4., -2.5, -5., 0.5, 1., 0.],
    &[0., -2., 4., 2.5, -5., -0.5, 1., 0.],
    &[0., -1., 0., 21. / 4., 0., -21. / 4., 0., 1.],
];

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
    bt: BT6,
};

/// F(2×2, 5×5), points 0, ±11/16, ±3/2, ∞.
pub(super) static F2R5: WinogradTransform = WinogradTransform {
    output: 2,
    kernel: 5,
    at: &[&[1., 1., 1., 1., 1., 0.], &[0., P, -P, Q, -Q, 1.]],
    g: &[
        &[1024. / 1089., 0., 0., 0., 0.],
        &[-32768. / 55055., -2048. / 5005., -128. / 455., -88. / 455., -121. / 910.],
        &[-32768. / 55055., 2048. / 5005., -128. / 455., 88. / 455., -121. / 910.],
        &[512. / 4095., 256. / 1365., 128. / 455., 192. / 455., 288. / 455.],
        &[512. / 4095., -256. / 1365., 128. / 455., -192. / 455., 288. / 455.],
        &[0., 0., 0., 0., 1.],
    ],
    bt: BT6,
};

/// F(6×6, 3×3), points 0, ±1, ±2, ±1/2, ∞, the last pair scaled by 32 so that Aᵀ holds integers.
pub(super) static F6: WinogradTransform = WinogradTransform {
    output: 6,
    kernel: 3,
    at: &[
        &[1., 1., 1., 1., 1., 32., 32., 0.],
        &[0., 1., -1., 2., -2., 16., -16., 0.],
        &[0., 1., 1., 4., 4., 8., 8., 0.],
        &[0., 1., -1., 8., -8., 4., -4., 0.],
        &[0., 1., 1., 16., 16., 2., 2., 0.],
        &[0., 1., -1., 32., -32., 1., -1., 1.],
    ],
    g: &[
        &[1., 0., 0.],
        &[-2. / 9., -2. / 9., -2. / 9.],
        &[-2. / 9., 2. / 9., -2. / 9.],
        &[1. / 90., 1. / 45., 2. / 45.],
        &[1. / 90., -1. / 45., 2. / 45.],
        &[1. / 45., 1. / 90., 1. / 180.],
        &[1. / 45., -1. / 90., 1. / 180.],
        &[0., 0., 1.],
    ],
    bt: BT8,
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
        for t in [&F2, &F4, &F6, &F2R5] {
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
        for t in [&F2, &F4, &F6, &F2R5] {
            for x in t.at.iter().chain(t.bt).copied().flatten() {
                assert_eq!(f64::from(*x as f32), *x);
            }
        }
    }
}
