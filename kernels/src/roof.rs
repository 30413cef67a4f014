//! The machine's limits as loops to be timed: what a kernel's speed is held against.
//!
//! Each function does an amount of work that it returns, with as little else as possible; whoever
//! measures calls it between two readings of a clock, several times, and takes the fastest.

use std::hint::black_box;

use crate::error::Unavailable;
use crate::simd::{Isa, Simd, SimdOp, with_token};

/// Independent sums: more than latency times throughput of a multiply-add on any core, and with two
/// operands they fit sixteen registers.
const CHAINS: usize = 14;

/// Multiply-adds in registers, `steps` for each of the chains that keep all of a core's units busy.
/// Returns the floating-point operations done, two for each multiply-add.
///
/// # Errors
/// When the instruction set is not available.
pub fn multiply_adds(isa: Isa, steps: u32) -> Result<u64, Unavailable> {
    struct Spin(u32);
    impl<S: Simd> SimdOp<S> for Spin {
        type Output = u64;
        #[inline(always)]
        fn eval(self, simd: S) -> u64 {
            // Converges to 2: no overflow, no subnormal numbers.
            let (half, one) = (simd.splat(black_box(0.5)), simd.splat(black_box(1.0)));
            let mut sums = [simd.splat(black_box(0.0)); CHAINS];
            for _ in 0..self.0 {
                for _ in 0..8 {
                    for sum in &mut sums {
                        *sum = simd.mul_add(*sum, half, one);
                    }
                }
            }
            let mut lanes = [0.0; 16];
            for sum in sums {
                // SAFETY: no vector has more than 16 lanes.
                unsafe { simd.store(lanes.as_mut_ptr(), sum) };
                black_box(&lanes);
            }
            2 * 8 * u64::from(self.0) * (CHAINS * S::LANES) as u64
        }
    }
    Ok(with_token!(isa.token()?, s => s.vectorize(Spin(steps))))
}

/// Reads every f32 of `data` once, in vectors. Returns the bytes read.
///
/// # Errors
/// When the instruction set is not available.
pub fn read(isa: Isa, data: &[f32]) -> Result<u64, Unavailable> {
    struct Read<'a>(&'a [f32]);
    impl<S: Simd> SimdOp<S> for Read<'_> {
        type Output = ();
        #[inline(always)]
        fn eval(self, simd: S) {
            let mut sums = [simd.splat(0.0); 8];
            for block in self.0.chunks_exact(8 * S::LANES) {
                for (i, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: the block has eight vectors.
                    *sum = simd.add(*sum, unsafe { simd.load(block.as_ptr().add(i * S::LANES)) });
                }
            }
            let mut lanes = [0.0; 16];
            for sum in sums {
                // SAFETY: no vector has more than 16 lanes.
                unsafe { simd.store(lanes.as_mut_ptr(), sum) };
                black_box(&lanes);
            }
        }
    }
    with_token!(isa.token()?, s => s.vectorize(Read(data)));
    Ok(size_of_val(data) as u64)
}

/// Writes every f32 of `data` once, in vectors. Returns the bytes written.
///
/// # Errors
/// When the instruction set is not available.
pub fn write(isa: Isa, data: &mut [f32]) -> Result<u64, Unavailable> {
    struct Write<'a>(&'a mut [f32]);
    impl<S: Simd> SimdOp<S> for Write<'_> {
        type Output = ();
        #[inline(always)]
        fn eval(self, simd: S) {
            let one = simd.splat(black_box(1.0));
            for block in self.0.chunks_exact_mut(8 * S::LANES) {
                for i in 0..8 {
                    // SAFETY: the block has eight vectors.
                    unsafe { simd.store(block.as_mut_ptr().add(i * S::LANES), one) };
                }
            }
        }
    }
    with_token!(isa.token()?, s => s.vectorize(Write(&mut *data)));
    black_box(&data);
    Ok(size_of_val(data) as u64)
}

/// Copies the shorter of both lengths, in vectors. Returns the bytes read and written together.
///
/// # Errors
/// When the instruction set is not available.
pub fn copy(isa: Isa, from: &[f32], to: &mut [f32]) -> Result<u64, Unavailable> {
    struct Copy<'a>(&'a [f32], &'a mut [f32]);
    impl<S: Simd> SimdOp<S> for Copy<'_> {
        type Output = ();
        #[inline(always)]
        fn eval(self, simd: S) {
            let blocks = self.0.chunks_exact(8 * S::LANES).zip(self.1.chunks_exact_mut(8 * S::LANES));
            for (from, to) in blocks {
                for i in 0..8 {
                    // SAFETY: both blocks have eight vectors.
                    unsafe {
                        simd.store(
                            to.as_mut_ptr().add(i * S::LANES),
                            simd.load(from.as_ptr().add(i * S::LANES)),
                        );
                    }
                }
            }
        }
    }
    let len = from.len().min(to.len());
    with_token!(isa.token()?, s => s.vectorize(Copy(&from[..len], &mut to[..len])));
    black_box(&to);
    Ok(2 * 4 * len as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_counted() {
        for isa in Isa::ALL.into_iter().filter(|isa| isa.availability().is_ok()) {
            assert_eq!(multiply_adds(isa, 3), Ok(3 * 8 * 14 * 2 * isa.lanes() as u64));
            let from: Vec<f32> = (0..1024).map(|i| i as f32).collect();
            let mut to = vec![0.0; 1024];
            assert_eq!(read(isa, &from), Ok(4096));
            assert_eq!(copy(isa, &from, &mut to), Ok(8192));
            assert_eq!(from, to);
            assert_eq!(write(isa, &mut to), Ok(4096));
            assert!(to.iter().all(|&x| x == 1.0));
        }
    }
}
