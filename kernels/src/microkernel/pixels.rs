//! The tile whose columns are pixels read where they lie.

use super::balanced;
use super::epilogue::{Epilogue, finish, start};
use crate::simd::{Simd, SimdOp};
use crate::weights::CHANNELS;

/// A vector of neighbouring pixels: where it is read and where it is stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PixelVector {
    /// Distance of its first pixel from [`PixelTile::b`].
    pub(crate) b: usize,
    /// Distance of its first output from [`PixelTile::c`].
    pub(crate) c: usize,
    /// Lanes that are stored.
    pub(crate) lanes: usize,
    /// Where its masks start among [`PixelTile::masks`], if some tap does not read the whole vector.
    pub(crate) masks: Option<usize>,
}

/// A tile whose columns are pixels read where they lie: vector v of tap t of channel c is at
/// `b + v.b + c · channel + offsets[t]`, so that the vectors of a tile may come from different rows of an
/// image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PixelTile<'a, S: Simd> {
    /// Packed filters, `[step][a_step]`.
    pub(crate) a: *const f32,
    /// f32s from one step of the filters to the next.
    pub(crate) a_step: usize,
    pub(crate) b: *const f32,
    pub(crate) channels: usize,
    /// f32s from one channel of the pixels to the next.
    pub(crate) channel: usize,
    /// Distance of each tap's pixels from those of the output; a negative one wraps.
    pub(crate) offsets: &'a [usize],
    /// The lanes that are read for each tap, while the others are zero, of vectors whose
    /// [`masks`](PixelVector::masks) start there. The first ones are all lanes for every tap, unless no vector has
    /// masks.
    pub(crate) masks: &'a [S::Mask],
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
/// With R rows and V vectors, which are all there: `a` is valid for reads of `R` f32s at every tap of every
/// channel; the pixels of every vector and tap are valid for reads in all lanes, or those of its mask;
/// `c + v.c` for writes (and reads, when accumulating) of `v.lanes <= LANES` f32s in each of `R` rows; the bias
/// is of rows, with R values.
pub(crate) type PixelTileFn<S> = unsafe fn(S, &PixelTile<'_, S>);

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
unsafe fn pixel_entry<S: Simd, const R: usize, const V: usize>(simd: S, tile: &PixelTile<'_, S>) {
    struct Op<'a, S: Simd, const R: usize, const V: usize>(&'a PixelTile<'a, S>);
    impl<S: Simd, const R: usize, const V: usize> SimdOp<S> for Op<'_, S, R, V> {
        type Output = ();
        #[inline(always)]
        fn eval(self, simd: S) {
            // SAFETY: `pixel_entry`'s caller vouches for the tile.
            unsafe {
                if S::MASKS && self.0.vectors.iter().any(|vector| vector.masks.is_some()) {
                    pixel_body::<S, R, V, true>(simd, self.0);
                } else {
                    pixel_body::<S, R, V, false>(simd, self.0);
                }
            }
        }
    }
    simd.vectorize(Op::<S, R, V>(tile));
}

/// # Safety
/// As [`PixelTileFn`].
#[inline(always)]
unsafe fn pixel_body<S: Simd, const R: usize, const V: usize, const MASKED: bool>(
    simd: S,
    tile: &PixelTile<'_, S>,
) {
    let Some(vectors) = tile.vectors.first_chunk::<V>() else {
        return debug_assert!(false, "a tile of {V} vectors has {}", tile.vectors.len());
    };
    let lanes = vectors.map(|vector| vector.lanes);
    // SAFETY: the bias is valid, by the caller's promise.
    let mut acc = unsafe { start::<S, R, V>(simd, lanes, tile.epilogue.bias) };
    let masks = vectors.map(|vector| tile.masks.as_ptr().wrapping_add(vector.masks.unwrap_or(0)));
    let mut b = vectors.map(|vector| tile.b.wrapping_add(vector.b));
    let mut a = tile.a;
    let mut channels = tile.channels;
    while channels > 0 {
        let block = channels.min(CHANNELS);
        for (tap, &offset) in tile.offsets.iter().enumerate() {
            let mut b = b.map(|b| b.wrapping_add(offset));
            // SAFETY: each vector has a mask for every tap.
            let lanes = masks.map(|masks| MASKED.then(|| unsafe { *masks.add(tap) }));
            for _ in 0..block {
                // SAFETY: filters and pixels of every step are valid, by the caller's promise.
                unsafe {
                    let mut columns = [simd.splat(0.0); V];
                    for j in 0..V {
                        columns[j] = match lanes[j] {
                            Some(mask) => simd.load_masked(b[j], mask),
                            None => simd.load(b[j]),
                        };
                        b[j] = b[j].wrapping_add(tile.channel);
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
        }
        b = b.map(|b| b.wrapping_add(block * tile.channel));
        channels -= block;
    }
    // SAFETY: the output is valid, by the caller's promise.
    unsafe {
        let c = vectors.map(|vector| tile.c.wrapping_add(vector.c));
        finish::<S, R, V>(simd, acc, c, tile.c_row, lanes, &tile.epilogue);
    }
}
