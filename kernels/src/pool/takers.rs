//! Which taps of windows of a [pooling](super) in NCHW were the largest.

use crate::simd::Simd;

/// The input under a row of windows.
pub(super) struct Reading<'a> {
    pub(super) input: &'a [f32],
    /// Its first pixel.
    pub(super) first: usize,
    /// f32s from one row of the windows to the next.
    pub(super) row: usize,
    pub(super) rows: usize,
    pub(super) width: usize,
    pub(super) columns: usize,
    /// f32s from one tap of a row to the next.
    pub(super) column: usize,
}

impl Reading<'_> {
    /// Whether vectors of so many columns lie in the input for all taps of windows that begin at column `from`.
    #[inline(always)]
    pub(super) fn is_whole(&self, from: isize, columns: usize) -> bool {
        let first = self.first as isize + from;
        first >= 0
            && first as usize + (self.rows - 1) * self.row + (self.columns - 1) * self.column + columns
                <= self.input.len()
    }

    /// Which tap of each window is the first of the largest; `places` are those of the first taps in the input, which
    /// they are where all are −∞. Windows begin at column `from` and `STRIDE` columns apart.
    ///
    /// # Safety
    /// With `WHOLE` whole vectors of columns, twice as many with stride 2, lie in the input for all taps, and the
    /// windows' taps all lie in their rows.
    #[inline(always)]
    pub(super) unsafe fn takers<S: Simd, const STRIDE: usize, const WHOLE: bool>(
        &self,
        simd: S,
        from: isize,
        places: S::F32,
    ) -> S::F32 {
        // With stride 2 lanes are as `unzip_mixed` leaves them, and neighbouring taps come in pairs.
        let places = if STRIDE == 2 { simd.mixed(places) } else { places };
        let together = if STRIDE == 2 && self.column == 1 { 2 } else { 1 };
        let one = simd.splat(1.0);
        let mut so_far = (simd.splat(f32::NEG_INFINITY), places);
        let mut number = simd.splat(0.0);
        for r in 0..self.rows {
            for s in (0..self.columns).step_by(together) {
                let column = from + (s * self.column) as isize;
                // SAFETY: by the caller's promise.
                let (here, beside) = unsafe {
                    let first = self.load::<S, WHOLE>(simd, r, column);
                    match STRIDE {
                        1 => (first, first),
                        _ => {
                            let second = self.load::<S, WHOLE>(simd, r, column + S::LANES as isize);
                            simd.unzip_mixed(first, second)
                        }
                    }
                };
                so_far = simd.larger(so_far, here, number);
                number = simd.add(number, one);
                if together == 2 && s + 1 < self.columns {
                    so_far = simd.larger(so_far, beside, number);
                    number = simd.add(number, one);
                }
            }
        }
        if STRIDE == 2 { simd.in_order::<0>(so_far.1) } else { so_far.1 }
    }

    /// A vector of columns of a row; what lies beyond the row's ends is −∞.
    ///
    /// # Safety
    /// With `WHOLE` it lies in the input, and columns beyond the row's ends may be anything.
    #[inline(always)]
    unsafe fn load<S: Simd, const WHOLE: bool>(&self, simd: S, r: usize, column: isize) -> S::F32 {
        let p = self.input.as_ptr().wrapping_add(self.first + r * self.row).wrapping_offset(column);
        // SAFETY: by the caller's promise; else only columns of the row, which lies in the input.
        unsafe {
            if WHOLE {
                return simd.load(p);
            }
            let before = usize::try_from(-column).unwrap_or(0);
            let end = usize::try_from(self.width as isize - column).unwrap_or(0);
            simd.load_masked_or(p, simd.mask(before, end.max(before)), simd.splat(f32::NEG_INFINITY))
        }
    }
}
