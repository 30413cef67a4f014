//! Tiles side by side, in one call.
//!
//! Of a reduction of 49 steps a call's own work, addresses and tables, is a tenth: tiles that differ only in their columns
//! share it.

use super::beside::Nothing;
use super::{Apart, Rows, Tile, body};
use crate::simd::{Simd, SimdOp};

/// So many tiles of [`Simd::NV`] vectors side by side, and f32s from the column operand of one to that of the next,
/// compiled for an instruction set.
///
/// # Safety
/// As [`TileFn`](super::TileFn), for each of the tiles, with rows at equal distances.
pub(crate) type TilesFn<S> = unsafe fn(S, &Tile<'_>, usize, usize);

/// Those tiles with `rows` rows (1 to [`Simd::MR`]).
pub(crate) fn tiles_fn<S: Simd>(rows: usize) -> TilesFn<S> {
    match S::NV {
        4.. if const { S::NV >= 4 } => with_rows::<S, 4>(rows),
        3 if const { S::NV == 3 } => with_rows::<S, 3>(rows),
        2 if const { S::NV == 2 } => with_rows::<S, 2>(rows),
        _ => with_rows::<S, 1>(rows),
    }
}

fn with_rows<S: Simd, const V: usize>(rows: usize) -> TilesFn<S> {
    macro_rules! pick {
        ($($r:literal)*) => {
            match rows {
                $($r if const { S::MR >= $r } => entry::<S, $r, V>,)*
                _ => entry::<S, 1, V>,
            }
        };
    }
    pick!(14 13 12 11 10 9 8 7 6 5 4 3 2)
}

/// # Safety
/// As [`TilesFn`].
unsafe fn entry<S: Simd, const R: usize, const V: usize>(
    simd: S,
    tile: &Tile<'_>,
    count: usize,
    panel: usize,
) {
    struct Op<'a, const R: usize, const V: usize>(Tile<'a>, usize, usize);
    impl<S: Simd, const R: usize, const V: usize> SimdOp<S> for Op<'_, R, V> {
        type Output = ();
        #[inline(always)]
        fn eval(self, simd: S) {
            let Op(mut tile, count, panel) = self;
            let Rows::Apart(distance) = tile.a_rows else {
                return debug_assert!(false, "rows are not at equal distances");
            };
            for _ in 0..count {
                // SAFETY: `entry`'s caller vouches for each of the tiles.
                unsafe { body::<S, R, V, _>(simd, &tile, Apart(distance), Nothing) };
                // Wrapping: behind the last tile nothing is read or written.
                tile.b = tile.b.wrapping_add(panel);
                tile.c = tile.c.wrapping_add(V * S::LANES);
            }
        }
    }
    simd.vectorize(Op::<R, V>(*tile, count, panel));
}

#[cfg(test)]
mod tests {
    use super::super::{Epilogue, Segments, tile_fn};
    use super::*;
    use crate::simd::on_every_isa;

    /// Tiles of every number of rows give the sums of those that are called one by one.
    fn check<S: Simd>(simd: S) {
        let (steps, count) = (5, 3);
        let a: Vec<f32> = (0..S::MR * steps).map(|i| (i % 7) as f32 - 3.0).collect();
        let b: Vec<f32> = (0..count * steps * S::NR).map(|i| (i % 5) as f32 - 2.0).collect();
        for rows in 1..=S::MR {
            let (mut c, mut want) = (vec![1.0; rows * count * S::NR], vec![1.0; rows * count * S::NR]);
            let tile = |b: &[f32], c: &mut [f32]| Tile {
                a: a.as_ptr(),
                a_rows: Rows::Apart(steps),
                a_step: 1,
                b: b.as_ptr(),
                b_step: S::NR,
                len: steps,
                outer: Segments::ONE,
                inner: Segments::ONE,
                c: c.as_mut_ptr(),
                c_row: count * S::NR,
                columns: S::NR,
                epilogue: Epilogue { accumulate: true, ..Epilogue::STORE },
            };
            // SAFETY: operands have so many rows, steps and panels, outputs so many rows of as many tiles.
            unsafe { tiles_fn::<S>(rows)(simd, &tile(&b, &mut c), count, steps * S::NR) };
            for i in 0..count {
                let (b, want) = (&b[i * steps * S::NR..], &mut want[i * S::NR..]);
                // SAFETY: as above.
                unsafe { tile_fn::<S>(rows, S::NV)(simd, &tile(b, want)) };
            }
            assert_eq!(c, want, "{rows} rows");
            assert!(c.iter().any(|&sum| sum != 1.0), "{rows} rows");
        }
    }

    #[test]
    fn tiles_are_those_one_by_one() {
        on_every_isa!(s => check(s));
    }
}
