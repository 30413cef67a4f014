//! The bounds that kernels promise for their rounding errors.

use crate::spec::ConvSpec;

/// The bound that a kernel promises for its rounding errors, with u = 2⁻²⁴ and y the exact result
/// before the activation.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum ErrorModel {
    /// The products of the definition are summed, each exactly once, in some order:
    /// |ŷ − y| ≤ `k`·u·(Σ|w||x| + |bias| + |previous output|), and integer data whose sums stay below
    /// 2²⁴ give the exact result.
    ///
    /// `k` is the number of roundings that one term can go through: one for its product, one for
    /// each of the additions (terms of the sum, bias, previous output). Where products are too small
    /// for a normal f32, add `k`·2⁻¹⁴⁹.
    Sum {
        /// The factor k.
        k: f64,
    },
    /// Winograd's F(m×m, r×r): |ŷ − y| ≤ `k`·u·(Σ over channels of |Aᵀ|(|G g Gᵀ| ⊙ (|Bᵀ||d||B|))|A|
    /// + |bias| + |previous output|), with `transform`'s matrices and the tile's own input d.
    ///
    /// Where intermediate results are too small for a normal f32, each rounding loses up to 2⁻¹⁵⁰ whatever
    /// its size, and what it loses is multiplied on its way as the result itself: add `k`·2⁻¹⁴⁹·(Σ over
    /// channels of |Aᵀ|(ρ|G g Gᵀ| + |Bᵀ||d||B| + 1)|A|), ρ the largest sum of a row of |Bᵀ|.
    Winograd {
        /// The factor k.
        k: f64,
        /// The matrices.
        transform: &'static WinogradTransform,
    },
    /// As [`Sum`](Self::Sum), but the products are of operands that were rounded or split, and summed by
    /// hardware that truncates: |ŷ − y| ≤ `k`·u·(Σ|w||x| + |bias| + |previous output|), and integer data
    /// need not give the exact result.
    ///
    /// An operand too small for the format that it is rounded to loses up to `operand` whatever its size: add
    /// `operand`·Σ(|w| + |x|), and `k`·2⁻¹⁴⁹ as for sums.
    ///
    /// All of this is for operands below 2¹²⁸ − 2¹¹⁹ (3.396·10³⁸). Larger ones may be rounded to infinity, and where
    /// operands are split, these and infinities make NaN of every output that reads them. A NaN stays one.
    Rounded {
        /// The factor k.
        k: f64,
        /// What small operands lose.
        operand: f64,
    },
}

/// The matrices of a Winograd algorithm F(m×m, r×r) with tiles of (m+r−1)×(m+r−1): the output tile
/// is Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A.
#[derive(Debug, PartialEq)]
pub struct WinogradTransform {
    /// Output rows and columns of a tile, m.
    pub output: usize,
    /// Kernel size, r.
    pub kernel: usize,
    /// Aᵀ, m rows of m+r−1.
    pub at: &'static [&'static [f64]],
    /// G, m+r−1 rows of r.
    pub g: &'static [&'static [f64]],
    /// Bᵀ, m+r−1 rows of m+r−1.
    pub bt: &'static [&'static [f64]],
}

impl ErrorModel {
    /// The model of any kernel that sums the definition's products.
    pub(crate) fn sum(spec: &ConvSpec) -> Self {
        let terms = spec.group_in_channels() * spec.kernel()[0] * spec.kernel()[1];
        // One rounding of the product (where multiply and add are not fused), at most `terms`
        // additions (an accumulator starts at 0, partial sums are added to each other), one for the
        // bias, one for the previous output.
        ErrorModel::Sum { k: terms as f64 + 3.0 }
    }
}
