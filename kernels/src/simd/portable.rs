//! The portable instruction set: vectors of the `wide` crate, as long as the build's registers.
//!
//! `wide` chooses its instructions when it is compiled, so this is SSE2 in a default x86-64 build,
//! NEON on AArch64, and AVX or AVX-512 only in builds that ask for them with `-C target-cpu`.
//! Without the `fma` target feature `mul_add` rounds twice; the error bounds allow for it.

use super::{Simd, SimdOp};

#[cfg(target_feature = "avx512f")]
mod shape {
    pub(super) type V = wide::f32x16;
    pub(super) const LANES: usize = 16;
    pub(super) const MR: usize = 14;
    pub(super) const NV: usize = 2;
}
#[cfg(all(target_feature = "avx", not(target_feature = "avx512f")))]
mod shape {
    pub(super) type V = wide::f32x8;
    pub(super) const LANES: usize = 8;
    pub(super) const MR: usize = 6;
    pub(super) const NV: usize = 2;
}
#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
mod shape {
    // 32 registers of 128 bits.
    pub(super) type V = wide::f32x4;
    pub(super) const LANES: usize = 4;
    pub(super) const MR: usize = 6;
    pub(super) const NV: usize = 4;
}
#[cfg(not(any(target_feature = "avx", all(target_arch = "aarch64", target_feature = "neon"))))]
mod shape {
    // 16 registers of 128 bits; without FMA a product needs a register of its own.
    pub(super) type V = wide::f32x4;
    pub(super) const LANES: usize = 4;
    pub(super) const MR: usize = 2;
    pub(super) const NV: usize = 4;
}
use shape::{LANES, V};

/// The portable instruction set, there on every machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wide;

// SAFETY: the crate was compiled for the target features that `wide` uses.
unsafe impl Simd for Wide {
    type F32 = V;
    /// A bit for each lane.
    type Mask = u32;
    type Half = Self;
    const LANES: usize = LANES;
    const MR: usize = shape::MR;
    const NV: usize = shape::NV;
    const MASKS: bool = false;

    #[inline]
    fn vectorize<O: SimdOp<Self>>(self, op: O) -> O::Output {
        op.eval(self)
    }

    #[inline(always)]
    fn half(self) -> Self {
        self
    }

    #[inline(always)]
    fn mask_of(self, bits: u32) -> u32 {
        bits
    }
    #[inline(always)]
    fn splat(self, x: f32) -> V {
        V::splat(x)
    }
    #[inline(always)]
    fn mul_add(self, a: V, b: V, c: V) -> V {
        a.mul_add(b, c)
    }
    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        a + b
    }
    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        a - b
    }
    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        a * b
    }
    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        a / b
    }
    #[inline(always)]
    fn clamp(self, x: V, lo: V, hi: V) -> V {
        // Comparisons with NaN are false, so NaN passes through both selections.
        let x = x.simd_lt(lo).select(lo, x);
        hi.simd_lt(x).select(hi, x)
    }
    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        // Comparisons with NaN are false: of NaN and a number the second selection takes NaN.
        let larger = a.simd_gt(b).select(a, b);
        a.simd_eq(a).select(larger, a)
    }
    #[inline(always)]
    fn max_of_numbers(self, a: V, b: V) -> V {
        a.fast_max(b)
    }
    #[inline(always)]
    fn has_nan(self, v: V) -> bool {
        v.simd_ne(v).to_bitmask() != 0
    }
    #[inline(always)]
    fn has_nan_in(self, v: V, mask: u32) -> bool {
        v.simd_ne(v).to_bitmask() & mask != 0
    }
    #[inline(always)]
    fn where_equal(self, a: V, b: V, yes: V, no: V) -> V {
        a.simd_eq(b).select(yes, no)
    }
    #[inline(always)]
    fn larger(self, (largest, place): (V, V), value: V, at: V) -> (V, V) {
        // Comparisons with NaN are false: what is not at most the largest is larger, or one of them is NaN.
        let stays = value.simd_le(largest) | largest.simd_ne(largest);
        (stays.select(largest, value), stays.select(place, at))
    }
    #[inline(always)]
    fn add_where_equal(self, sum: V, x: V, a: V, b: V) -> V {
        sum + (a.simd_eq(b) & x)
    }
    #[inline(always)]
    fn unzip_mixed(self, a: V, b: V) -> (V, V) {
        let (a, b) = (a.to_array(), b.to_array());
        let at = |i: usize| if i < LANES { a[i] } else { b[i - LANES] };
        (V::new(std::array::from_fn(|i| at(2 * i))), V::new(std::array::from_fn(|i| at(2 * i + 1))))
    }
    #[inline(always)]
    fn in_order<const SKIP: usize>(self, v: V) -> V {
        let lanes = v.to_array();
        V::new(std::array::from_fn(|i| if i + SKIP < LANES { lanes[(i + SKIP) % LANES] } else { 0.0 }))
    }
    #[inline(always)]
    fn moved<const SKIP: usize>(self, v: V) -> V {
        // Its lanes are never mixed.
        self.in_order::<SKIP>(v)
    }
    #[inline(always)]
    fn raised<const BY: usize>(self, v: V) -> V {
        let lanes = v.to_array();
        V::new(std::array::from_fn(|i| if i < BY { 0.0 } else { lanes[i - BY] }))
    }
    #[inline(always)]
    fn mixed(self, v: V) -> V {
        v
    }
    #[inline(always)]
    fn zip_mixed(self, even: V, odd: V) -> (V, V) {
        let (even, odd) = (even.to_array(), odd.to_array());
        let at = |i: usize| if i.is_multiple_of(2) { even[i / 2] } else { odd[i / 2] };
        (V::new(std::array::from_fn(at)), V::new(std::array::from_fn(|i| at(LANES + i))))
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> V {
        // SAFETY: the caller's pointer is valid for LANES f32s.
        V::new(unsafe { p.cast::<[f32; LANES]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: V) {
        // SAFETY: the caller's pointer is valid for LANES f32s.
        unsafe { p.cast::<[f32; LANES]>().write_unaligned(v.to_array()) }
    }
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f32, n: usize) -> V {
        let mut lanes = [0.0; LANES];
        for (i, lane) in lanes.iter_mut().enumerate() {
            if i < n {
                // SAFETY: i < n, and the caller's pointer is valid for n f32s.
                *lane = unsafe { *p.add(i) };
            }
        }
        V::new(lanes)
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, v: V, n: usize) {
        for (i, lane) in v.to_array().into_iter().enumerate() {
            if i < n {
                // SAFETY: i < n, and the caller's pointer is valid for n f32s.
                unsafe { *p.add(i) = lane };
            }
        }
    }
    #[inline(always)]
    unsafe fn load_masked(self, p: *const f32, mask: u32) -> V {
        // SAFETY: by the caller's promise.
        unsafe { self.load_masked_or(p, mask, V::splat(0.0)) }
    }
    #[inline(always)]
    unsafe fn load_masked_or(self, p: *const f32, mask: u32, other: V) -> V {
        let mut lanes = other.to_array();
        for (i, lane) in lanes.iter_mut().enumerate() {
            if mask >> i & 1 == 1 {
                // SAFETY: by the caller's promise for lanes of the mask.
                *lane = unsafe { *p.wrapping_add(i) };
            }
        }
        V::new(lanes)
    }
    #[inline(always)]
    unsafe fn store_masked(self, p: *mut f32, v: V, mask: u32) {
        for (i, lane) in v.to_array().into_iter().enumerate() {
            if mask >> i & 1 == 1 {
                // SAFETY: by the caller's promise for lanes of the mask.
                unsafe { *p.wrapping_add(i) = lane };
            }
        }
    }
}
