//! AVX2+FMA and AVX-512 through `core::arch`, found at run time.

use std::arch::x86_64::*;

use super::{Simd, SimdOp};

/// Proof that the CPU has AVX2 and FMA.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2(());

/// Proof that the CPU has AVX-512 F, BW, DQ and VL (and AVX2 and FMA).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512(());

impl Avx2 {
    pub(crate) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Avx2(()))
    }
}

impl Avx512 {
    pub(crate) fn detect() -> Option<Self> {
        (Avx2::detect().is_some()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl"))
        .then_some(Avx512(()))
    }
}

/// Where `unzip_mixed` leaves the values from `skip` on, and after the last the first ones: it takes two of each
/// vector in turns, within each four lanes.
const fn places_when_mixed<const LANES: usize>(skip: usize) -> [i32; LANES] {
    let mut places = [0; LANES];
    let mut lane = 0;
    while lane < LANES {
        let i = (lane + skip) % LANES;
        let (second, i) = (i / (LANES / 2), i % (LANES / 2));
        places[lane] = (i / 2 * 4 + second * 2 + i % 2) as i32;
        lane += 1;
    }
    places
}

/// For each lane that `unzip_mixed` leaves, where it is in order: the inverse of [`places_when_mixed`].
const fn places_in_order<const LANES: usize>() -> [i32; LANES] {
    let mixed = places_when_mixed::<LANES>(0);
    let mut places = [0; LANES];
    let mut lane = 0;
    while lane < LANES {
        places[mixed[lane] as usize] = lane as i32;
        lane += 1;
    }
    places
}

/// For each lane which one it gets when all are moved down.
const fn places_when_moved<const LANES: usize>(skip: usize) -> [i32; LANES] {
    let mut places = [0; LANES];
    let mut lane = 0;
    while lane < LANES {
        places[lane] = ((lane + skip) % LANES) as i32;
        lane += 1;
    }
    places
}

/// What is the same for all vectors of 256 bits, whose tokens prove AVX2 and FMA.
macro_rules! on_256_bits {
    () => {
        #[inline(always)]
        fn splat(self, x: f32) -> __m256 {
            // SAFETY: the token proves AVX2 and FMA.
            unsafe { _mm256_set1_ps(x) }
        }
        #[inline(always)]
        fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
            // SAFETY: the token proves AVX2 and FMA.
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        fn add(self, a: __m256, b: __m256) -> __m256 {
            // SAFETY: the token proves AVX2 and FMA.
            unsafe { _mm256_add_ps(a, b) }
        }
        #[inline(always)]
        fn sub(self, a: __m256, b: __m256) -> __m256 {
            // SAFETY: the token proves AVX2 and FMA.
            unsafe { _mm256_sub_ps(a, b) }
        }
        #[inline(always)]
        fn mul(self, a: __m256, b: __m256) -> __m256 {
            // SAFETY: the token proves AVX2 and FMA.
            unsafe { _mm256_mul_ps(a, b) }
        }
        #[inline(always)]
        fn clamp(self, x: __m256, lo: __m256, hi: __m256) -> __m256 {
            // `max` and `min` return their second operand when either is NaN.
            // SAFETY: the token proves AVX2 and FMA.
            unsafe { _mm256_min_ps(hi, _mm256_max_ps(lo, x)) }
        }
        #[inline(always)]
        fn div(self, a: __m256, b: __m256) -> __m256 {
            // SAFETY: the token proves AVX2 and FMA.
            unsafe { _mm256_div_ps(a, b) }
        }
        #[inline(always)]
        fn max(self, a: __m256, b: __m256) -> __m256 {
            // `max` returns its second operand when either is NaN, so only NaN of the first is lost.
            // SAFETY: the token proves AVX2 and FMA.
            unsafe { _mm256_blendv_ps(_mm256_max_ps(a, b), a, _mm256_cmp_ps::<_CMP_UNORD_Q>(a, a)) }
        }

        #[inline(always)]
        fn max_of_numbers(self, a: __m256, b: __m256) -> __m256 {
            // SAFETY: the token proves AVX2 and FMA.
            unsafe { _mm256_max_ps(a, b) }
        }
        #[inline(always)]
        fn has_nan(self, v: __m256) -> bool {
            // SAFETY: the token proves AVX2 and FMA.
            unsafe { _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v)) != 0 }
        }
        #[inline(always)]
        fn where_equal(self, a: __m256, b: __m256, yes: __m256, no: __m256) -> __m256 {
            // SAFETY: the token proves AVX2 and FMA.
            unsafe { _mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_EQ_OQ>(a, b)) }
        }
        #[inline(always)]
        fn larger(self, (largest, place): (__m256, __m256), value: __m256, at: __m256) -> (__m256, __m256) {
            // SAFETY: the token proves AVX2 and FMA.
            unsafe {
                let numbers = _mm256_cmp_ps::<_CMP_ORD_Q>(largest, largest);
                let takes = _mm256_and_ps(numbers, _mm256_cmp_ps::<_CMP_NLE_UQ>(value, largest));
                (_mm256_blendv_ps(largest, value, takes), _mm256_blendv_ps(place, at, takes))
            }
        }
        #[inline(always)]
        fn add_where_equal(self, sum: __m256, x: __m256, a: __m256, b: __m256) -> __m256 {
            // SAFETY: the token proves AVX2 and FMA.
            unsafe { _mm256_add_ps(sum, _mm256_and_ps(x, _mm256_cmp_ps::<_CMP_EQ_OQ>(a, b))) }
        }

        #[inline(always)]
        fn unzip_mixed(self, a: __m256, b: __m256) -> (__m256, __m256) {
            // Within each half: a's two, then b's two.
            // SAFETY: the token proves AVX2 and FMA.
            unsafe { (_mm256_shuffle_ps::<0b10_00_10_00>(a, b), _mm256_shuffle_ps::<0b11_01_11_01>(a, b)) }
        }
        #[inline(always)]
        fn in_order<const SKIP: usize>(self, v: __m256) -> __m256 {
            let places = const { places_when_mixed::<8>(SKIP) };
            // SAFETY: the token proves AVX2 and FMA; there are eight places.
            let v = unsafe { _mm256_permutevar8x32_ps(v, _mm256_loadu_si256(places.as_ptr().cast())) };
            if SKIP == 0 {
                return v;
            }
            // SAFETY: as above; SKIP <= 8.
            unsafe { _mm256_and_ps(v, _mm256_castsi256_ps(avx2_mask(8 - SKIP))) }
        }
        #[inline(always)]
        fn moved<const SKIP: usize>(self, v: __m256) -> __m256 {
            let places = const { places_when_moved::<8>(SKIP) };
            // SAFETY: the token proves AVX2 and FMA; there are eight places.
            unsafe { _mm256_permutevar8x32_ps(v, _mm256_loadu_si256(places.as_ptr().cast())) }
        }
        #[inline(always)]
        fn raised<const BY: usize>(self, v: __m256) -> __m256 {
            let places = const { places_when_moved::<8>(8 - BY) };
            // SAFETY: the token proves AVX2 and FMA; there are eight places.
            unsafe {
                let moved = _mm256_permutevar8x32_ps(v, _mm256_loadu_si256(places.as_ptr().cast()));
                _mm256_andnot_ps(_mm256_castsi256_ps(avx2_mask(BY)), moved)
            }
        }
        #[inline(always)]
        fn mixed(self, v: __m256) -> __m256 {
            let places = const { places_in_order::<8>() };
            // SAFETY: the token proves AVX2 and FMA; there are eight places.
            unsafe { _mm256_permutevar8x32_ps(v, _mm256_loadu_si256(places.as_ptr().cast())) }
        }
        #[inline(always)]
        fn zip_mixed(self, even: __m256, odd: __m256) -> (__m256, __m256) {
            // SAFETY: the token proves AVX2 and FMA.
            unsafe { (_mm256_unpacklo_ps(even, odd), _mm256_unpackhi_ps(even, odd)) }
        }

        #[inline(always)]
        unsafe fn load(self, p: *const f32) -> __m256 {
            // SAFETY: the token proves AVX2; the caller's pointer is valid for 8 f32s.
            unsafe { _mm256_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32, v: __m256) {
            // SAFETY: the token proves AVX2; the caller's pointer is valid for 8 f32s.
            unsafe { _mm256_storeu_ps(p, v) }
        }
    };
}

/// `mask(n)` starts a load or store of the first `n` of 8 lanes: all ones, then zeros.
static AVX2_MASKS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

/// # Safety
/// AVX2 is there and `n <= 8`.
#[inline(always)]
unsafe fn avx2_mask(n: usize) -> __m256i {
    debug_assert!(n <= 8);
    // SAFETY: n <= 8, so the 8 values from 8 - n lie inside the table of 16.
    unsafe { _mm256_loadu_si256(AVX2_MASKS.as_ptr().add(8 - n).cast()) }
}

// Behind the macro, which it uses.
mod half;
use half::Avx512Half;

// SAFETY: `Avx2` is only made by `detect`, after the CPU was asked.
unsafe impl Simd for Avx2 {
    type F32 = __m256;
    type Mask = __m256i;
    type Half = Self;
    const LANES: usize = 8;
    // 12 accumulators, 2 operands and a broadcast of 16 registers.
    const MR: usize = 6;
    const NV: usize = 2;
    // Masks of vectors take registers of vectors, which tiles leave none of.
    const MASKS: bool = false;

    #[inline]
    fn vectorize<O: SimdOp<Self>>(self, op: O) -> O::Output {
        #[target_feature(enable = "avx2,fma")]
        fn entry<O: SimdOp<Avx2>>(simd: Avx2, op: O) -> O::Output {
            op.eval(simd)
        }
        // SAFETY: the token proves AVX2 and FMA.
        unsafe { entry(self, op) }
    }

    on_256_bits!();

    #[inline(always)]
    fn half(self) -> Self {
        self
    }

    #[inline(always)]
    fn mask(self, start: usize, end: usize) -> __m256i {
        // SAFETY: the token proves AVX2; min(…) <= 8, so the masks lie in their table.
        unsafe { _mm256_andnot_si256(avx2_mask(start.min(8)), avx2_mask(end.min(8))) }
    }
    #[inline(always)]
    fn mask_of(self, bits: u32) -> __m256i {
        let lanes: [i32; 8] = std::array::from_fn(|i| -((bits >> i & 1) as i32));
        // SAFETY: the token proves AVX2; there are eight lanes.
        unsafe { _mm256_loadu_si256(lanes.as_ptr().cast()) }
    }

    #[inline(always)]
    unsafe fn load_partial(self, p: *const f32, n: usize) -> __m256 {
        // SAFETY: the token proves AVX2; masked lanes are not read, the caller's pointer is valid
        // for the n <= 8 others.
        unsafe { _mm256_maskload_ps(p, avx2_mask(n)) }
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, v: __m256, n: usize) {
        debug_assert!(n <= 8);
        // In pieces: masked stores take many cycles on some CPUs.
        // SAFETY: the token proves AVX2; the pieces add up to n, and the caller's pointer is valid for n <= 8
        // f32s.
        unsafe {
            if n == 8 {
                return _mm256_storeu_ps(p, v);
            }
            let (mut p, mut v, mut rest) = (p, _mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            if n & 4 != 0 {
                _mm_storeu_ps(p, v);
                (p, v) = (p.add(4), rest);
            }
            rest = _mm_movehl_ps(v, v);
            if n & 2 != 0 {
                _mm_storel_epi64(p.cast(), _mm_castps_si128(v));
                (p, v) = (p.add(2), rest);
            }
            if n & 1 != 0 {
                _mm_store_ss(p, v);
            }
        }
    }
    #[inline(always)]
    unsafe fn load_masked(self, p: *const f32, mask: __m256i) -> __m256 {
        // SAFETY: the token proves AVX2; the caller's pointer is valid for the lanes that are read.
        unsafe { _mm256_maskload_ps(p, mask) }
    }
    #[inline(always)]
    unsafe fn load_masked_or(self, p: *const f32, mask: __m256i, other: __m256) -> __m256 {
        // SAFETY: as in `load_masked`.
        unsafe { _mm256_blendv_ps(other, _mm256_maskload_ps(p, mask), _mm256_castsi256_ps(mask)) }
    }
    #[inline(always)]
    unsafe fn store_masked(self, p: *mut f32, v: __m256, mask: __m256i) {
        // SAFETY: the token proves AVX2; the caller's pointer is valid for the lanes that are written.
        unsafe { _mm256_maskstore_ps(p, mask, v) }
    }
    #[inline(always)]
    fn has_nan_in(self, v: __m256, mask: __m256i) -> bool {
        // SAFETY: the token proves AVX2.
        unsafe {
            let nan = _mm256_and_ps(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v), _mm256_castsi256_ps(mask));
            _mm256_movemask_ps(nan) != 0
        }
    }
}

#[inline(always)]
fn avx512_mask(n: usize) -> __mmask16 {
    debug_assert!(n <= 16);
    ((1u32 << n) - 1) as __mmask16
}

// SAFETY: `Avx512` is only made by `detect`, after the CPU was asked.
unsafe impl Simd for Avx512 {
    type F32 = __m512;
    type Mask = __mmask16;
    type Half = Avx512Half;
    const LANES: usize = 16;
    // 28 accumulators, 2 operands and a broadcast of 32 registers.
    const MR: usize = 14;
    const NV: usize = 2;

    #[inline]
    fn vectorize<O: SimdOp<Self>>(self, op: O) -> O::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        fn entry<O: SimdOp<Avx512>>(simd: Avx512, op: O) -> O::Output {
            op.eval(simd)
        }
        // SAFETY: the token proves AVX-512 F, BW, DQ and VL, AVX2 and FMA.
        unsafe { entry(self, op) }
    }

    #[inline(always)]
    fn half(self) -> Avx512Half {
        Avx512Half(self)
    }

    #[inline(always)]
    fn mask_of(self, bits: u32) -> __mmask16 {
        bits as __mmask16
    }
    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: the token proves AVX-512.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn clamp(self, x: __m512, lo: __m512, hi: __m512) -> __m512 {
        // `max` and `min` return their second operand when either is NaN.
        // SAFETY: the token proves AVX-512.
        unsafe { _mm512_min_ps(hi, _mm512_max_ps(lo, x)) }
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512.
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // `max` returns its second operand when either is NaN, so only NaN of the first is lost.
        // SAFETY: the token proves AVX-512.
        unsafe {
            let lost = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, a);
            _mm512_mask_mov_ps(_mm512_max_ps(a, b), lost, a)
        }
    }
    #[inline(always)]
    fn max_of_numbers(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn has_nan(self, v: __m512) -> bool {
        // SAFETY: the token proves AVX-512.
        unsafe { _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v) != 0 }
    }
    #[inline(always)]
    fn has_nan_in(self, v: __m512, mask: __mmask16) -> bool {
        // SAFETY: the token proves AVX-512.
        unsafe { _mm512_mask_cmp_ps_mask::<_CMP_UNORD_Q>(mask, v, v) != 0 }
    }
    #[inline(always)]
    fn where_equal(self, a: __m512, b: __m512, yes: __m512, no: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512.
        unsafe { _mm512_mask_mov_ps(no, _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b), yes) }
    }
    #[inline(always)]
    fn larger(self, (largest, place): (__m512, __m512), value: __m512, at: __m512) -> (__m512, __m512) {
        // SAFETY: the token proves AVX-512.
        unsafe {
            let numbers = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(largest, largest);
            let takes = _mm512_mask_cmp_ps_mask::<_CMP_NLE_UQ>(numbers, value, largest);
            (_mm512_mask_mov_ps(largest, takes, value), _mm512_mask_mov_ps(place, takes, at))
        }
    }
    #[inline(always)]
    fn add_where_equal(self, sum: __m512, x: __m512, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves AVX-512.
        unsafe { _mm512_mask_add_ps(sum, _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b), sum, x) }
    }
    #[inline(always)]
    fn unzip_mixed(self, a: __m512, b: __m512) -> (__m512, __m512) {
        // Within each quarter: a's two, then b's two.
        // SAFETY: the token proves AVX-512.
        unsafe { (_mm512_shuffle_ps::<0b10_00_10_00>(a, b), _mm512_shuffle_ps::<0b11_01_11_01>(a, b)) }
    }
    #[inline(always)]
    fn in_order<const SKIP: usize>(self, v: __m512) -> __m512 {
        let places = const { places_when_mixed::<16>(SKIP) };
        // SAFETY: the token proves AVX-512; there are sixteen places.
        unsafe {
            let places = _mm512_loadu_si512(places.as_ptr().cast());
            _mm512_maskz_permutexvar_ps(avx512_mask(16 - SKIP), places, v)
        }
    }
    #[inline(always)]
    fn moved<const SKIP: usize>(self, v: __m512) -> __m512 {
        let places = const { places_when_moved::<16>(SKIP) };
        // SAFETY: the token proves AVX-512; there are sixteen places.
        unsafe { _mm512_permutexvar_ps(_mm512_loadu_si512(places.as_ptr().cast()), v) }
    }
    #[inline(always)]
    fn raised<const BY: usize>(self, v: __m512) -> __m512 {
        let places = const { places_when_moved::<16>(16 - BY) };
        // SAFETY: the token proves AVX-512; there are sixteen places.
        unsafe {
            let places = _mm512_loadu_si512(places.as_ptr().cast());
            _mm512_maskz_permutexvar_ps(!avx512_mask(BY), places, v)
        }
    }
    #[inline(always)]
    fn mixed(self, v: __m512) -> __m512 {
        let places = const { places_in_order::<16>() };
        // SAFETY: the token proves AVX-512; there are sixteen places.
        unsafe { _mm512_permutexvar_ps(_mm512_loadu_si512(places.as_ptr().cast()), v) }
    }
    #[inline(always)]
    fn zip_mixed(self, even: __m512, odd: __m512) -> (__m512, __m512) {
        // SAFETY: the token proves AVX-512.
        unsafe { (_mm512_unpacklo_ps(even, odd), _mm512_unpackhi_ps(even, odd)) }
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m512 {
        // SAFETY: the token proves AVX-512; the caller's pointer is valid for 16 f32s.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m512) {
        // SAFETY: the token proves AVX-512; the caller's pointer is valid for 16 f32s.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    const STREAMS: bool = true;
    #[inline(always)]
    unsafe fn stream(self, p: *mut f32, v: __m512) {
        // SAFETY: the token proves AVX-512; the caller's pointer is aligned and valid for 16 f32s.
        unsafe { _mm512_stream_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f32, n: usize) -> __m512 {
        // SAFETY: the token proves AVX-512; masked lanes are not read, the caller's pointer is
        // valid for the n <= 16 others.
        unsafe { _mm512_maskz_loadu_ps(avx512_mask(n), p) }
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, v: __m512, n: usize) {
        // SAFETY: the token proves AVX-512; masked lanes are not written, the caller's pointer is
        // valid for the n <= 16 others.
        unsafe { _mm512_mask_storeu_ps(p, avx512_mask(n), v) }
    }
    #[inline(always)]
    unsafe fn load_masked(self, p: *const f32, mask: __mmask16) -> __m512 {
        // SAFETY: the token proves AVX-512; the caller's pointer is valid for the lanes that are read.
        unsafe { _mm512_maskz_loadu_ps(mask, p) }
    }
    #[inline(always)]
    unsafe fn load_masked_or(self, p: *const f32, mask: __mmask16, other: __m512) -> __m512 {
        // SAFETY: as in `load_masked`.
        unsafe { _mm512_mask_loadu_ps(other, mask, p) }
    }
    #[inline(always)]
    unsafe fn store_masked(self, p: *mut f32, v: __m512, mask: __mmask16) {
        // SAFETY: the token proves AVX-512; the caller's pointer is valid for the lanes that are written.
        unsafe { _mm512_mask_storeu_ps(p, mask, v) }
    }
}
