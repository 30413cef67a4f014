//! What happens to the sums of a tile on their way to memory.

use crate::simd::Simd;

/// What is added to a tile's sums.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bias {
    None,
    /// One value for each column.
    Columns(*const f32),
    /// One value for each row.
    Rows(*const f32),
}

/// What happens to a tile's sums on their way to memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Epilogue {
    pub(crate) bias: Bias,
    /// Add what the output holds.
    pub(crate) accumulate: bool,
    /// Limits of the activation, applied last.
    pub(crate) limits: (f32, f32),
    /// The output lies beyond the level-2 cache: it is asked for while the sums are made.
    pub(crate) far: bool,
    /// Whole tiles whose vectors are aligned are stored past the caches; who stores so fences afterwards.
    pub(crate) streams: bool,
}

impl Epilogue {
    /// Stores plain sums.
    pub(crate) const STORE: Epilogue = Epilogue {
        bias: Bias::None,
        accumulate: false,
        limits: (f32::NEG_INFINITY, f32::INFINITY),
        far: false,
        streams: false,
    };
}

/// Sums of R rows of V vectors before the first product: the bias.
///
/// # Safety
/// The bias is valid for reads of as many f32s as there are columns (`lanes[j]` in vector j) or rows.
#[inline(always)]
pub(super) unsafe fn start<S: Simd, const R: usize, const V: usize>(
    simd: S,
    lanes: [usize; V],
    bias: Bias,
) -> [[S::F32; V]; R] {
    let mut acc = [[simd.splat(0.0); V]; R];
    match bias {
        Bias::None => {}
        Bias::Columns(bias) => {
            for j in 0..V {
                // SAFETY: the bias has a value for every column.
                let b = unsafe { simd.load_partial(bias.wrapping_add(j * S::LANES), lanes[j]) };
                for row in &mut acc {
                    row[j] = b;
                }
            }
        }
        Bias::Rows(bias) => {
            for (i, row) in acc.iter_mut().enumerate() {
                // SAFETY: the bias has R values.
                *row = [simd.splat(unsafe { *bias.add(i) }); V];
            }
        }
    }
    acc
}

/// Adds the previous output, applies the limits and stores `lanes[j]` lanes of vector j of each row to
/// `c[j]`, rows `c_row` apart.
///
/// # Safety
/// Those places are valid for writes, and reads when accumulating.
#[inline(always)]
pub(super) unsafe fn finish<S: Simd, const R: usize, const V: usize>(
    simd: S,
    mut acc: [[S::F32; V]; R],
    c: [*mut f32; V],
    c_row: usize,
    lanes: [usize; V],
    epilogue: &Epilogue,
) {
    // Loops of few instructions each: of longer ones the compiler keeps sums in memory rather than in registers.
    let full = lanes == [S::LANES; V];
    if epilogue.accumulate && full {
        for (i, row) in acc.iter_mut().enumerate() {
            for (j, sum) in row.iter_mut().enumerate() {
                // SAFETY: a whole vector at row i of c[j] is valid, by the caller's promise.
                *sum = simd.add(*sum, unsafe { simd.load(c[j].wrapping_add(i * c_row)) });
            }
        }
    } else if epilogue.accumulate {
        for (i, row) in acc.iter_mut().enumerate() {
            for (j, sum) in row.iter_mut().enumerate() {
                // SAFETY: lanes[j] elements at row i of c[j] are valid, by the caller's promise.
                *sum = simd.add(*sum, unsafe { simd.load_partial(c[j].wrapping_add(i * c_row), lanes[j]) });
            }
        }
    }
    // Short reductions feel two operations for each sum that change nothing.
    if epilogue.limits != Epilogue::STORE.limits {
        let (lo, hi) = (simd.splat(epilogue.limits.0), simd.splat(epilogue.limits.1));
        for row in &mut acc {
            for sum in row {
                *sum = simd.clamp(*sum, lo, hi);
            }
        }
    }
    let places = c.iter().fold(c_row * 4, |places, c| places | *c as usize);
    if !full {
        for (i, row) in acc.iter().enumerate() {
            for (j, &sum) in row.iter().enumerate() {
                // SAFETY: lanes[j] elements at row i of c[j] are valid, by the caller's promise.
                unsafe { simd.store_partial(c[j].wrapping_add(i * c_row), sum, lanes[j]) };
            }
        }
    } else if S::STREAMS && epilogue.streams && places.is_multiple_of(4 * S::LANES) {
        for (i, row) in acc.iter().enumerate() {
            for (j, &sum) in row.iter().enumerate() {
                // SAFETY: as below, and all these places are aligned.
                unsafe { simd.stream(c[j].wrapping_add(i * c_row), sum) };
            }
        }
    } else {
        for (i, row) in acc.iter().enumerate() {
            for (j, &sum) in row.iter().enumerate() {
                // SAFETY: a whole vector at row i of c[j] is valid, by the caller's promise.
                unsafe { simd.store(c[j].wrapping_add(i * c_row), sum) };
            }
        }
    }
}
