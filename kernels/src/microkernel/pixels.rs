//! The tile whose columns are pixels read where they lie.

use super::balanced;
use super::epilogue::{Epilogue, finish, start};
use crate::simd::{Simd, SimdOp};
use crate::weights::channel_block;

/// A vector of neighbouring pixels: where it is read and where it is stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PixelVector {
    /// Distance of its first pixel from [`PixelTile::b`].
    pub(crate) b: usize,
    /// Distance of its first output from [`PixelTile::c`].
    pub(crate) c: usize,
    /// Lanes that are stored. (Short numbers: long lists of vectors would crowd the level-1 cache.)
    pub(crate) lanes: u32,
    /// Where its masks start among [`PixelTile::masks`].
    pub(crate) masks: u32,
}

/// A tile whose columns are pixels read where they lie: vector v of step k is at `b + v.b + offsets[k]`, so that
/// the vectors of a tile may come from different rows of an image. Steps are in the
/// [order of blocks](crate::weights::Order::BlockRowColumnChannel).
#[derive(Clone, Copy, Debug)]
pub(crate) struct PixelTile<'a, S: Simd> {
    /// Packed filters, `[step][a_step]`.
    pub(crate) a: *const f32,
    /// f32s from one step of the filters to the next.
    pub(crate) a_step: usize,
    pub(crate) b: *const f32,
    /// Distance of each step's pixels from those of the output; a negative one wraps.
    pub(crate) offsets: &'a [usize],
    /// Channels, each with as many steps, and the distance of a step's pixels from those of the next channel.
    pub(crate) channels: usize,
    pub(crate) channel: usize,
    /// Of a tile with masks, the lanes that are read for each tap, while the others are zero: a vector's from its
    /// [`masks`](PixelVector::masks) on.
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
/// With R rows and V vectors, which are all there: `a` is valid for reads of `R` f32s at every step; the pixels of
/// every vector and step are valid for reads in all lanes, or those of the tap's mask; with masks there are offsets for
/// each channel and tap, and from every vector's first as many masks as taps; `c + v.c` is valid for writes
/// (and reads, when accumulating) of `v.lanes <= LANES` f32s in each of `R` rows; the bias is of rows, with R values.
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
/// `rows · vectors` fit the registers), for vectors with or without masks.
pub(crate) fn pixel_tile_fn<S: Simd, const MASKED: bool>(rows: usize, vectors: usize) -> PixelTileFn<S> {
    match vectors {
        8 => pixel_with_rows::<S, 8, MASKED>(rows),
        4 => pixel_with_rows::<S, 4, MASKED>(rows),
        2 => pixel_with_rows::<S, 2, MASKED>(rows),
        _ => pixel_with_rows::<S, 1, MASKED>(rows),
    }
}

fn pixel_with_rows<S: Simd, const V: usize, const MASKED: bool>(rows: usize) -> PixelTileFn<S> {
    macro_rules! pick {
        ($($r:literal)*) => {
            match rows {
                $($r if const { S::MR >= $r && V * $r <= S::MR * S::NV } => pixel_entry::<S, $r, V, MASKED>,)*
                _ => pixel_entry::<S, 1, V, MASKED>,
            }
        };
    }
    pick!(14 13 12 11 10 9 8 7 6 5 4 3 2)
}

/// # Safety
/// As [`PixelTileFn`].
unsafe fn pixel_entry<S: Simd, const R: usize, const V: usize, const MASKED: bool>(
    simd: S,
    tile: &PixelTile<'_, S>,
) {
    struct Op<'a, S: Simd, const R: usize, const V: usize, const MASKED: bool>(&'a PixelTile<'a, S>);
    impl<S: Simd, const R: usize, const V: usize, const MASKED: bool> SimdOp<S> for Op<'_, S, R, V, MASKED> {
        type Output = ();
        #[inline(always)]
        fn eval(self, simd: S) {
            // SAFETY: `pixel_entry`'s caller vouches for the tile.
            unsafe { pixel_body::<S, R, V, MASKED>(simd, self.0) }
        }
    }
    simd.vectorize(Op::<S, R, V, MASKED>(tile));
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
    let lanes = vectors.map(|vector| vector.lanes as usize);
    // SAFETY: the bias is valid, by the caller's promise.
    let mut acc = unsafe { start::<S, R, V>(simd, lanes, tile.epilogue.bias) };
    let masks = vectors.map(|vector| tile.masks.as_ptr().wrapping_add(vector.masks as usize));
    let b = vectors.map(|vector| tile.b.wrapping_add(vector.b));
    let mut a = tile.a;
    if !MASKED {
        for &offset in tile.offsets {
            // SAFETY: filters and pixels of every step are valid, by the caller's promise.
            unsafe {
                let mut columns = [simd.splat(0.0); V];
                for j in 0..V {
                    columns[j] = simd.load(b[j].wrapping_add(offset));
                }
                multiply(simd, &mut acc, a, &columns);
            }
            a = a.wrapping_add(tile.a_step);
        }
    } else {
        let (mut channels, most) = (tile.channels, channel_block::<S>(tile.channels));
        let taps = tile.offsets.len() / channels.max(1);
        debug_assert_eq!(tile.offsets.len(), channels * taps);
        debug_assert!(vectors.iter().all(|vector| vector.masks as usize + taps <= tile.masks.len()));
        let mut offset = tile.offsets.as_ptr();
        while channels > 0 {
            let block = channels.min(most);
            for tap in 0..taps {
                // SAFETY: there is an offset for each channel and tap, and each vector has a mask for every tap;
                // filters and the masks' pixels of every step are valid, by the caller's promise.
                unsafe {
                    let masks = masks.map(|masks| *masks.add(tap));
                    let mut b = b.map(|b| b.wrapping_add(*offset));
                    for _ in 0..block {
                        let mut columns = [simd.splat(0.0); V];
                        for j in 0..V {
                            columns[j] = simd.load_masked(b[j], masks[j]);
                            b[j] = b[j].wrapping_add(tile.channel);
                        }
                        multiply(simd, &mut acc, a, &columns);
                        a = a.wrapping_add(tile.a_step);
                    }
                }
                offset = offset.wrapping_add(block);
            }
            channels -= block;
        }
    }
    // SAFETY: the output is valid, by the caller's promise.
    unsafe {
        let c = vectors.map(|vector| tile.c.wrapping_add(vector.c));
        finish::<S, R, V>(simd, acc, c, tile.c_row, lanes, &tile.epilogue);
    }
}

/// Adds the products of R weights and V vectors of pixels.
///
/// # Safety
/// `a` is valid for reads of R f32s.
#[inline(always)]
unsafe fn multiply<S: Simd, const R: usize, const V: usize>(
    simd: S,
    acc: &mut [[S::F32; V]; R],
    a: *const f32,
    columns: &[S::F32; V],
) {
    for (i, row) in acc.iter_mut().enumerate() {
        // SAFETY: by the caller's promise.
        let value = simd.splat(unsafe { *a.add(i) });
        for (sum, &column) in row.iter_mut().zip(columns) {
            *sum = simd.mul_add(value, column, *sum);
        }
    }
}
