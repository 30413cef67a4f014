//! Vectors of f32 for every instruction set, behind one small trait.
//!
//! Kernel bodies are generic over [`Simd`], written once, and compiled once for each instruction
//! set: `wide` (portable, whatever the build's target features allow) and `core::arch` for AVX2+FMA
//! and AVX-512, chosen at run time. A value of a token type ([`x86::Avx2`], [`x86::Avx512`]) exists
//! only where the CPU has the instructions, so holding one is the proof that they may be used.
//!
//! Rules for a body (each of them costs a factor of ten when broken):
//! - everything under an entry is `#[inline(always)]`; an intrinsic that is not inlined into its
//!   `#[target_feature]` entry becomes a function call;
//! - entries are reached through [`Simd::vectorize`] inside each task of a thread pool, because
//!   target features do not reach closures;
//! - accumulators are arrays indexed only by loops with constant bounds, or they spill.

mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::fmt;
use std::sync::OnceLock;

use crate::error::Unavailable;

pub(crate) use portable::Wide;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

/// A body of code to be compiled for an instruction set.
pub(crate) trait SimdOp<S: Simd> {
    /// What the body returns.
    type Output;
    /// The body; implementations are `#[inline(always)]`.
    fn eval(self, simd: S) -> Self::Output;
}

/// An instruction set's vector of f32 and what convolution needs of it.
///
/// # Safety
/// A value of the implementing type must exist only where its instructions may be executed.
pub(crate) unsafe trait Simd: Copy + Send + Sync + fmt::Debug + 'static {
    /// The vector.
    type F32: Copy;
    /// Some lanes of a vector.
    type Mask: Copy + Send + Sync + fmt::Debug;
    /// The same with vectors of half the length, where instructions for them use the same registers; else
    /// the same.
    type Half: Simd;
    /// f32s in a vector.
    const LANES: usize;
    /// Most rows of a register tile that is [`NV`](Self::NV) vectors wide: the accumulators
    /// `MR × NV`, `NV` operands and a broadcast must fit the register file.
    const MR: usize;
    /// Vectors in a row of a register tile.
    const NV: usize;
    /// Columns of a full register tile.
    const NR: usize = Self::NV * Self::LANES;
    /// Whether tiles can load the lanes of masks in about the time that whole vectors take.
    const MASKS: bool = true;

    /// Runs `op` compiled with this instruction set's features.
    fn vectorize<O: SimdOp<Self>>(self, op: O) -> O::Output;

    /// Vectors of half the length.
    fn half(self) -> Self::Half;

    /// The lanes of a vector from `start` up to but not including `end`, both of which may lie beyond the last.
    #[inline(always)]
    fn mask(self, start: usize, end: usize) -> Self::Mask {
        let below = |lane: usize| (1u32 << lane.min(Self::LANES)) - 1;
        self.mask_of(below(end) & !below(start))
    }
    /// The lanes whose bits are set, counted from the lowest.
    fn mask_of(self, bits: u32) -> Self::Mask;
    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::F32;
    /// `a·b + c`, fused where the instruction set can.
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// `a + b`.
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a − b`.
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a·b`.
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a/b`.
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// Lane by lane `if x < lo { lo } else if x > hi { hi } else { x }`, so NaN stays NaN.
    fn clamp(self, x: Self::F32, lo: Self::F32, hi: Self::F32) -> Self::F32;
    /// Lane by lane the larger one; NaN where either is NaN.
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// [`max`](Self::max) where neither is NaN.
    fn max_of_numbers(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// Whether a lane is NaN.
    fn has_nan(self, v: Self::F32) -> bool;
    /// Whether a lane of `mask` is NaN.
    fn has_nan_in(self, v: Self::F32, mask: Self::Mask) -> bool;
    /// The largest value so far and where it is, after another one was looked at: lane by lane that one where it is
    /// larger, or the first NaN.
    fn larger(
        self,
        so_far: (Self::F32, Self::F32),
        value: Self::F32,
        at: Self::F32,
    ) -> (Self::F32, Self::F32);
    /// Lane by lane `yes` where `a == b`, else `no`.
    fn where_equal(self, a: Self::F32, b: Self::F32, yes: Self::F32, no: Self::F32) -> Self::F32;
    /// Lane by lane `sum + x` where `a == b`, else `sum`.
    fn add_where_equal(self, sum: Self::F32, x: Self::F32, a: Self::F32, b: Self::F32) -> Self::F32;
    /// Of the `2·LANES` values of both, one after the other: those of even places, and those of odd ones.
    #[inline(always)]
    fn unzip(self, a: Self::F32, b: Self::F32) -> (Self::F32, Self::F32) {
        let (even, odd) = self.unzip_mixed(a, b);
        (self.in_order::<0>(even), self.in_order::<0>(odd))
    }
    /// [`unzip`](Self::unzip) with less work: lanes come in an order which [`in_order`](Self::in_order) makes
    /// good, at any time later.
    fn unzip_mixed(self, a: Self::F32, b: Self::F32) -> (Self::F32, Self::F32);
    /// Lanes as [`unzip_mixed`](Self::unzip_mixed) leaves them, put in order, without the first `SKIP`; the last
    /// `SKIP` lanes are zero.
    fn in_order<const SKIP: usize>(self, v: Self::F32) -> Self::F32;
    /// The lanes without the first `SKIP`, then as many of any value.
    fn moved<const SKIP: usize>(self, v: Self::F32) -> Self::F32;
    /// `BY` zeros, then the lanes but for as many of the last ones.
    fn raised<const BY: usize>(self, v: Self::F32) -> Self::F32;
    /// Lanes in order, put as [`unzip_mixed`](Self::unzip_mixed) leaves them: what `in_order::<0>` makes good.
    fn mixed(self, v: Self::F32) -> Self::F32;
    /// The two vectors from which [`unzip_mixed`](Self::unzip_mixed) makes these.
    fn zip_mixed(self, even: Self::F32, odd: Self::F32) -> (Self::F32, Self::F32);

    /// Loads `LANES` f32s.
    ///
    /// # Safety
    /// `p` is valid for reads of `LANES` f32s; no alignment is needed.
    unsafe fn load(self, p: *const f32) -> Self::F32;
    /// Stores `LANES` f32s.
    ///
    /// # Safety
    /// `p` is valid for writes of `LANES` f32s; no alignment is needed.
    unsafe fn store(self, p: *mut f32, v: Self::F32);
    /// Whether [`stream`](Self::stream) does more than [`store`](Self::store): only where a vector is a cache line.
    /// Halves of lines were measured to gain nothing.
    const STREAMS: bool = false;
    /// Stores `LANES` f32s past the caches, where the instruction set can; to be seen by another thread after
    /// [`fence_streams`].
    ///
    /// # Safety
    /// As [`store`](Self::store), and `p` is a multiple of the vector's size.
    #[inline(always)]
    unsafe fn stream(self, p: *mut f32, v: Self::F32) {
        // SAFETY: by the caller's promise.
        unsafe { self.store(p, v) }
    }
    /// Loads the first `n` lanes, zeros the others; touches nothing beyond `n`.
    ///
    /// # Safety
    /// `n <= LANES` and `p` is valid for reads of `n` f32s.
    unsafe fn load_partial(self, p: *const f32, n: usize) -> Self::F32;
    /// Stores the first `n` lanes; touches nothing beyond `n`.
    ///
    /// # Safety
    /// `n <= LANES` and `p` is valid for writes of `n` f32s.
    unsafe fn store_partial(self, p: *mut f32, v: Self::F32, n: usize);
    /// Loads the lanes of `mask`, zeros the others; touches nothing else.
    ///
    /// # Safety
    /// `p`, which itself may point outside, plus each lane of `mask` is valid for reads.
    unsafe fn load_masked(self, p: *const f32, mask: Self::Mask) -> Self::F32;
    /// Loads the lanes of `mask`, takes the others from `other`; touches nothing else.
    ///
    /// # Safety
    /// As [`load_masked`](Self::load_masked).
    unsafe fn load_masked_or(self, p: *const f32, mask: Self::Mask, other: Self::F32) -> Self::F32;
    /// Stores the lanes of `mask`; touches nothing else.
    ///
    /// # Safety
    /// `p`, which itself may point outside, plus each lane of `mask` is valid for writes.
    unsafe fn store_masked(self, p: *mut f32, v: Self::F32, mask: Self::Mask);
}

/// An instruction set that kernel bodies are compiled for, in ascending order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Isa {
    /// The `wide` crate, with the target features of the build: SSE2 by default on x86-64, NEON on
    /// AArch64, more with `-C target-cpu`.
    Wide,
    /// AVX2 with FMA, found at run time.
    Avx2,
    /// AVX-512 (F, BW, DQ, VL), found at run time.
    Avx512,
}

impl Isa {
    /// Every instruction set, in ascending order of preference.
    pub const ALL: [Isa; 3] = [Isa::Wide, Isa::Avx2, Isa::Avx512];

    /// The name used in kernel ids, in `CONV_ISA` and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Wide => "wide",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        }
    }

    pub(crate) fn names() -> String {
        Isa::ALL.map(Isa::name).join(", ")
    }

    fn from_name(name: &str) -> Option<Isa> {
        Isa::ALL.into_iter().find(|isa| isa.name() == name)
    }

    /// Whether kernels may use this instruction set on this machine: the CPU has it, and the
    /// environment variable `CONV_ISA` (read once) does not cap the choice below it.
    ///
    /// # Errors
    /// The reason why not.
    pub fn availability(self) -> Result<(), Unavailable> {
        self.token().map(|_| ())
    }

    /// The best available instruction set.
    ///
    /// # Errors
    /// When `CONV_ISA` holds something that is no instruction set.
    pub fn best() -> Result<Isa, Unavailable> {
        let mut best = Isa::Wide;
        for isa in Isa::ALL {
            match isa.availability() {
                Ok(()) => best = isa,
                Err(error @ Unavailable::InvalidCap(_)) => return Err(error),
                Err(_) => {}
            }
        }
        Ok(best)
    }

    /// f32s in a vector of this instruction set, in this build.
    pub fn lanes(self) -> usize {
        match self {
            Isa::Wide => Wide::LANES,
            Isa::Avx2 => 8,
            Isa::Avx512 => 16,
        }
    }

    /// Columns of a full register tile, and so filters of a panel.
    pub(crate) fn columns(self) -> usize {
        match self {
            Isa::Wide => Wide::NR,
            Isa::Avx2 => 2 * 8,
            Isa::Avx512 => 2 * 16,
        }
    }

    /// The proof that this instruction set may be used.
    pub(crate) fn token(self) -> Result<Token, Unavailable> {
        let cap = cap()?;
        if self > cap {
            return Err(Unavailable::Capped { isa: self, cap });
        }
        match self {
            Isa::Wide => Some(Token::Wide(Wide)),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Avx2::detect().map(Token::Avx2),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Avx512::detect().map(Token::Avx512),
            #[cfg(not(target_arch = "x86_64"))]
            _ => None,
        }
        .ok_or(Unavailable::NotDetected(self))
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The cap that `CONV_ISA` sets, the best instruction set when it is not set.
fn cap() -> Result<Isa, Unavailable> {
    static CAP: OnceLock<Result<Isa, Unavailable>> = OnceLock::new();
    CAP.get_or_init(|| match std::env::var_os("CONV_ISA") {
        None => Ok(Isa::Avx512),
        Some(value) => {
            let value = value.to_string_lossy();
            Isa::from_name(&value).ok_or_else(|| Unavailable::InvalidCap(value.chars().take(40).collect()))
        }
    })
    .clone()
}

/// A token of any instruction set; matched once, when a plan is made.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Token {
    Wide(Wide),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
}

/// An expression for whichever instruction set a token is of.
macro_rules! with_token {
    ($token:expr, $simd:ident => $body:expr) => {
        match $token {
            $crate::simd::Token::Wide($simd) => $body,
            #[cfg(target_arch = "x86_64")]
            $crate::simd::Token::Avx2($simd) => $body,
            #[cfg(target_arch = "x86_64")]
            $crate::simd::Token::Avx512($simd) => $body,
        }
    };
}
pub(crate) use with_token;

/// Asks for a line of memory that will be used soon.
#[inline(always)]
pub(crate) fn prefetch(line: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which no address makes fail.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(line.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

/// Orders streamed stores before all later ones, such as the one that tells another thread of them.
pub(crate) fn fence_streams() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 CPU has the instruction.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

/// Runs a check with every instruction set that this machine has.
#[cfg(test)]
macro_rules! on_every_isa {
    ($simd:ident => $body:expr) => {
        for isa in $crate::simd::Isa::ALL {
            match isa.token() {
                Ok(token) => $crate::simd::with_token!(token, $simd => $body),
                Err(reason) => println!("{isa}: not tested, {reason}"),
            }
        }
    };
}
#[cfg(test)]
pub(crate) use on_every_isa;

#[cfg(test)]
mod tests;
