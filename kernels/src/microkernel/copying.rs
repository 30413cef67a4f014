//! Tiles that copy while they multiply: columns of later tiles are packed in the shadow of the sums.
//!
//! A pass that only copies waits for memory, one that only multiplies leaves memory idle. A vector or two for
//! each step of a tile are hardly felt beside its multiply-adds.

use super::{Adjacent, Beside, Tile, body};
use crate::buffer::LINE;
use crate::simd::{Simd, SimdOp, prefetch};

/// Packs whole panels of pixels of planes, `[plane][pixel]`, as `[panel][plane][NR]`: a row of a panel a step,
/// of each panel in a plane, then in the next plane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copying {
    from: *const f32,
    to: *mut f32,
    panels: usize,
    /// Panels of the current plane that are to come.
    left: usize,
    /// f32s from one panel to the next.
    pitch: usize,
    /// From behind the last panel of a plane to the first of the next, wrapped where that lies before.
    next_from: usize,
    next_to: usize,
    /// Tiles that are to copy.
    tiles: usize,
}

impl Copying {
    /// Packs `panels` panels of the pixels from `from` on, in `planes` planes `plane` f32s apart, to `to`. So many
    /// tiles with a step for each plane complete it.
    pub(crate) fn new<S: Simd>(
        from: *const f32,
        plane: usize,
        planes: usize,
        to: *mut f32,
        panels: usize,
    ) -> Self {
        let pitch = planes * S::NR;
        let next_from = plane.wrapping_sub(panels * S::NR);
        let next_to = S::NR.wrapping_sub(panels * pitch);
        Copying { from, to, panels, left: panels, pitch, next_from, next_to, tiles: panels }
    }

    /// Whether another tile is to copy.
    pub(crate) fn is_left(&self) -> bool {
        self.tiles > 0
    }
}

impl<S: Simd> Beside<S> for Copying {
    #[inline(always)]
    unsafe fn step(&mut self, simd: S) {
        // The same pixels of the next run of panels.
        for line in (0..S::NR).step_by(LINE) {
            prefetch(self.from.wrapping_add(self.panels * S::NR + line));
        }
        for j in 0..S::NV {
            // SAFETY: this row of the panel is valid at both places, by the caller's promise.
            unsafe { simd.store(self.to.add(j * S::LANES), simd.load(self.from.add(j * S::LANES))) };
        }
        self.left -= 1;
        let is_last = self.left == 0;
        let (next_from, next_to) = if is_last { (self.next_from, self.next_to) } else { (0, 0) };
        self.from = self.from.wrapping_add(S::NR).wrapping_add(next_from);
        self.to = self.to.wrapping_add(self.pitch).wrapping_add(next_to);
        self.left = if is_last { self.panels } else { self.left };
    }
}

/// A tile of adjacent rows and [`Simd::NV`] vectors that copies, compiled for an instruction set.
///
/// # Safety
/// As [`TileFn`](super::TileFn); rows are adjacent, and the copying has a tile left, with a plane for each step,
/// whose pixels are valid for reads and whose panels are valid for writes.
pub(crate) type CopyingTileFn<S> = unsafe fn(S, &Tile<'_>, &mut Copying);

/// The copying tile with `rows` rows (1 to [`Simd::MR`]).
pub(crate) fn copying_tile_fn<S: Simd>(rows: usize) -> CopyingTileFn<S> {
    match S::NV {
        4.. if const { S::NV >= 4 } => with_rows::<S, 4>(rows),
        3 if const { S::NV == 3 } => with_rows::<S, 3>(rows),
        2 if const { S::NV == 2 } => with_rows::<S, 2>(rows),
        _ => with_rows::<S, 1>(rows),
    }
}

fn with_rows<S: Simd, const V: usize>(rows: usize) -> CopyingTileFn<S> {
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
/// As [`CopyingTileFn`].
unsafe fn entry<S: Simd, const R: usize, const V: usize>(simd: S, tile: &Tile<'_>, copying: &mut Copying) {
    struct Op<'a, const R: usize, const V: usize>(&'a Tile<'a>, Copying);
    impl<S: Simd, const R: usize, const V: usize> SimdOp<S> for Op<'_, R, V> {
        type Output = Copying;
        #[inline(always)]
        fn eval(self, simd: S) -> Copying {
            // SAFETY: `entry`'s caller vouches for the tile and for what is copied.
            unsafe { body::<S, R, V, _>(simd, self.0, Adjacent, self.1) }
        }
    }
    *copying = simd.vectorize(Op::<R, V>(tile, *copying));
    copying.tiles -= 1;
}

#[cfg(test)]
mod tests {
    use super::super::{Epilogue, Rows, Segments, tile_fn};
    use super::*;
    use crate::simd::on_every_isa;

    /// Tiles of every number of rows give the sums of those that do not copy, and pack what they should.
    fn check<S: Simd>(simd: S) {
        let (planes, panels) = (5, 3);
        let plane = panels * S::NR + 7;
        let from: Vec<f32> = (0..planes * plane).map(|i| i as f32).collect();
        let a: Vec<f32> = (0..planes * S::MR).map(|i| (i % 7) as f32 - 3.0).collect();
        let b: Vec<f32> = (0..planes * S::NR).map(|i| (i % 5) as f32 - 2.0).collect();
        for rows in 1..=S::MR {
            let tile = |c: &mut [f32]| Tile {
                a: a.as_ptr(),
                a_rows: Rows::Apart(1),
                a_step: S::MR,
                b: b.as_ptr(),
                b_step: S::NR,
                len: planes,
                outer: Segments::ONE,
                inner: Segments::ONE,
                c: c.as_mut_ptr(),
                c_row: S::NR,
                columns: S::NR,
                epilogue: Epilogue::STORE,
            };
            let mut packed = vec![f32::NAN; panels * planes * S::NR];
            let mut copying = Copying::new::<S>(from.as_ptr(), plane, planes, packed.as_mut_ptr(), panels);
            let (mut c, mut want) = (vec![0.0; rows * S::NR], vec![1.0; rows * S::NR]);
            while copying.is_left() {
                // SAFETY: operands have so many steps, outputs so many rows; planes and panels are whole.
                unsafe {
                    copying_tile_fn::<S>(rows)(simd, &tile(&mut c), &mut copying);
                    tile_fn::<S>(rows, S::NV)(simd, &tile(&mut want));
                }
                assert_eq!(c, want, "{rows} rows");
            }
            for (i, &value) in packed.iter().enumerate() {
                let (panel, row, column) = (i / S::NR / planes, i / S::NR % planes, i % S::NR);
                assert_eq!(value, from[row * plane + panel * S::NR + column], "{rows} rows, {i}");
            }
        }
    }

    #[test]
    fn copying_tiles_sum_and_pack() {
        on_every_isa!(s => check(s));
    }
}
