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
