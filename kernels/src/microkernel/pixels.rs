//! The tile whose columns are pixels read where they lie.

use super::balanced;
use super::epilogue::{Epilogue, finish, start};
use crate::simd::{Simd, SimdOp};

/// A vector of neighbouring pixels: where it is read and where it is stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PixelVector {
    /// Distance of its first pixel from [`PixelTile::b`].
    pub(crate) b: usize,
    /// Distance of its first output from [`PixelTile::c`].
    pub(crate) c: usize,
    /// Lanes that are stored.
    pub(crate) lanes: usize,
}

/// A tile whose columns are pixels read where they lie: vector v of step k is at
/// `b + v.b + offsets[k]`, so that the vectors of a tile may come from different rows of an image,
/// and a step may be any tap of any channel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PixelTile<'a> {
    /// Packed filters, `[step][a_step]`.
    pub(crate) a: *const f32,
    /// f32s from one step of the filters to the next.
    pub(crate) a_step: usize,
    pub(crate) b: *const f32,
    /// Distance of each step's pixels from those of the first tap.
    pub(crate) offsets: &'a [usize],
    /// As many as the tile has. (Made long before the tile runs: reading wide what was just written
    /// narrow would stall.)
    pub(crate) vectors: &'a [PixelVector],
    pub(crate) c: *mut f32,
    /// f32s from one filter of the output to the next.
    pub(crate) c_row: usize,
    pub(crate) epilogue: Epilogue,
}

/// Most vectors of a [`PixelTile`].
const MOST_VECTORS: usize = 8;

/// A pixel tile of a fixed number of rows and vectors, compiled for an instruction set.
///
/// # Safety
/// With R rows and V vectors, which are all there: `a` is valid for reads of `R` f32s at every step,
/// `b + v.b + offset` for reads of a vector for every vector v and every offset, `c + v.c` for writes
/// (and reads, when accumulating) of `v.lanes <= LANES` f32s in each of `R` rows; the bias is of rows,
/// with R values.
pub(crate) type PixelTileFn<S> = unsafe fn(S, &PixelTile<'_>);

/// Rows and vectors of the pixel tile for that many filters: as many rows as there are, as many
/// vectors as registers are left for.
pub(crate) fn pixel_tile_shape<S: Simd>(filters: usize) -> (usize, usize) {
    let rows = balanced(filters, S::MR);
    let mut vectors = 1;
    while vectors < MOST_VECTORS && rows * vectors * 2 <= S::MR * S::NV {
        vectors *= 2;
    }
    (rows, vectors)
}

/// The pixel tile with `rows` rows (1 to [`Simd::MR`]) and `vectors` vectors (1, 2, 4 or 8, of which
/// `rows · vectors` fit the registers).
pub(crate) fn pixel_tile_fn<S: Simd>(rows: usize, vectors: usize) -> PixelTileFn<S> {
    match vectors {
        8 => pixel_with_rows::<S, 8>(rows),
        4 => pixel_with_rows::<S, 4>(rows),
        2 => pixel_with_rows::<S, 2>(rows),
        _ => pixel_with_rows::<S, 1>(rows),
    }
}

fn pixel_with_rows<S: Simd, const V: usize>(rows: usize) -> PixelTileFn<S> {
    macro_rules! pick {
        ($($r:literal)*) => {
            match rows {
                $($r if const { S::MR >= $r && V * $r <= S::MR * S::NV } => pixel_entry::<S, $r, V>,)*
                _ => pixel_entry::<S, 1, V>,
            }
        };
    }
    pick!(14 13 12 11 10 9 8 7 6 5 4 3 2)
}

/// # Safety
/// As [`PixelTileFn`].
unsafe fn pixel_entry<S: Simd, const R: usize, const V: usize>(simd: S, tile: &PixelTile<'_>) {
    struct Op<'a, const R: usize, const V: usize>(&'a PixelTile<'a>);
    impl<S: Simd, const R: usize, const V: usize> SimdOp<S> for Op<'_, R, V> {
        type Output = ();
        #[inline(always)]
        fn eval(self, simd: S) {
            // SAFETY: `pixel_entry`'s caller vouches for the tile.
            unsafe { pixel_body::<S, R, V>(simd, self.0) }
        }
    }
    simd.vectorize(Op::<R, V>(tile));
}

/// # Safety
/// As [`PixelTileFn`].
#[inline(always)]
unsafe fn pixel_body<S: Simd, const R: usize, const V: usize>(simd: S, tile: &PixelTile<'_>) {
    let Some(vectors) = tile.vectors.first_chunk::<V>() else {
        return debug_assert!(false, "a tile of {V} vectors has {}", tile.vectors.len());
    };
    let lanes = vectors.map(|vector| vector.lanes);
    // SAFETY: the bias is valid, by the caller's promise.
    let mut acc = unsafe { start::<S, R, V>(simd, lanes, tile.epilogue.bias) };
    let b = vectors.map(|vector| tile.b.wrapping_add(vector.b));
    let mut a = tile.a;
    for &offset in tile.offsets {
        // SAFETY: filters and pixels of every step are valid, by the caller's promise.
        unsafe {
            let mut columns = [simd.splat(0.0); V];
            for j in 0..V {
                columns[j] = simd.load(b[j].wrapping_add(offset));
            }
            for (i, row) in acc.iter_mut().enumerate() {
                let value = simd.splat(*a.add(i));
                for (sum, &column) in row.iter_mut().zip(&columns) {
                    *sum = simd.mul_add(value, column, *sum);
                }
            }
        }
        a = a.wrapping_add(tile.a_step);
    }
    // SAFETY: the output is valid, by the caller's promise.
    unsafe {
        let c = vectors.map(|vector| tile.c.wrapping_add(vector.c));
        finish::<S, R, V>(simd, acc, c, tile.c_row, lanes, &tile.epilogue);
    }
}
