//! Half vectors for tiles that whole ones do not fill, on CPUs with AVX-512.

use std::arch::x86_64::*;

use super::{Avx512, Simd, SimdOp, avx2_mask, places_in_order, places_when_mixed, places_when_moved};

/// Vectors of 256 bits with the registers and masks of AVX-512.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512Half(pub(super) Avx512);

#[inline(always)]
fn avx512_half_mask(n: usize) -> __mmask8 {
    debug_assert!(n <= 8);
    ((1u32 << n) - 1) as __mmask8
}

// SAFETY: it is only made of an `Avx512`, which proves AVX-512 VL, AVX2 and FMA among others.
unsafe impl Simd for Avx512Half {
    type F32 = __m256;
    type Mask = __mmask8;
    type Half = Self;
    const LANES: usize = 8;
    const MR: usize = Avx512::MR;
    const NV: usize = Avx512::NV;

    #[inline]
    fn vectorize<O: SimdOp<Self>>(self, op: O) -> O::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        fn entry<O: SimdOp<Avx512Half>>(simd: Avx512Half, op: O) -> O::Output {
            op.eval(simd)
        }
        // SAFETY: the token proves AVX-512 F, BW, DQ and VL, AVX2 and FMA.
        unsafe { entry(self, op) }
    }

    on_256_bits!();

    #[inline(always)]
    fn half(self) -> Self {
        self
    }

    #[inline(always)]
    fn mask_of(self, bits: u32) -> __mmask8 {
        bits as __mmask8
    }

    #[inline(always)]
    unsafe fn load_partial(self, p: *const f32, n: usize) -> __m256 {
        // SAFETY: the token proves AVX-512 VL; masked lanes are not read, the caller's pointer is
        // valid for the n <= 8 others.
        unsafe { _mm256_maskz_loadu_ps(avx512_half_mask(n), p) }
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, v: __m256, n: usize) {
        // SAFETY: the token proves AVX-512 VL; masked lanes are not written, the caller's pointer is
        // valid for the n <= 8 others.
        unsafe { _mm256_mask_storeu_ps(p, avx512_half_mask(n), v) }
    }
    #[inline(always)]
    unsafe fn load_masked(self, p: *const f32, mask: __mmask8) -> __m256 {
        // SAFETY: the token proves AVX-512 VL; the caller's pointer is valid for the lanes that are read.
        unsafe { _mm256_maskz_loadu_ps(mask, p) }
    }
    #[inline(always)]
    unsafe fn load_masked_or(self, p: *const f32, mask: __mmask8, other: __m256) -> __m256 {
        // SAFETY: as in `load_masked`.
        unsafe { _mm256_mask_loadu_ps(other, mask, p) }
    }
    #[inline(always)]
    unsafe fn store_masked(self, p: *mut f32, v: __m256, mask: __mmask8) {
        // SAFETY: the token proves AVX-512 VL; the caller's pointer is valid for the lanes that are written.
        unsafe { _mm256_mask_storeu_ps(p, mask, v) }
    }
    #[inline(always)]
    fn has_nan_in(self, v: __m256, mask: __mmask8) -> bool {
        // SAFETY: the token proves AVX-512 VL.
        unsafe { _mm256_mask_cmp_ps_mask::<_CMP_UNORD_Q>(mask, v, v) != 0 }
    }
}
