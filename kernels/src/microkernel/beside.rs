//! What tiles do beside their sums, a little each step.
//!
//! A pass that only copies waits for memory, one that only multiplies leaves memory idle. A line or two of memory
//! for each step of a tile are hardly felt beside its multiply-adds; all at once they are.

use super::{Adjacent, Apart, Rows, Tile, body};
use crate::buffer::LINE;
use crate::simd::{Simd, SimdOp, prefetch};

/// What a tile does beside its sums.
pub(crate) trait Beside<S: Simd>: Copy {
    /// Rows of the tile are adjacent, whatever the tile says.
    const ADJACENT: bool;
    /// A step's part of it.
    ///
    /// # Safety
    /// The memory that it touches is valid.
    unsafe fn step(&mut self, simd: S);
}

/// Nothing.
#[derive(Clone, Copy)]
pub(super) struct Nothing;

impl<S: Simd> Beside<S> for Nothing {
    const ADJACENT: bool = false;
    #[inline(always)]
    unsafe fn step(&mut self, _: S) {}
}

/// Asks for the output of the tile, a line of it each step: row by row, vector by vector, and where there are more
/// steps on to the right, where outputs of the tiles that follow lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asking {
    at: *const f32,
    row: usize,
    rows: usize,
    /// Rows of the current vector that are to come.
    left: usize,
    /// From behind the last row to the first row's next vector, wrapped.
    next: usize,
}

impl Asking {
    /// For the output of `rows` rows from `c` on, `row` f32s apart.
    pub(crate) fn new<S: Simd>(c: *const f32, rows: usize, row: usize) -> Self {
        Asking { at: c, row, rows, left: rows, next: S::LANES.wrapping_sub(rows * row) }
    }
}

impl<S: Simd> Beside<S> for Asking {
    const ADJACENT: bool = false;
    #[inline(always)]
    unsafe fn step(&mut self, _: S) {
        prefetch(self.at);
        self.left -= 1;
        let is_last = self.left == 0;
        self.at = self.at.wrapping_add(self.row).wrapping_add(if is_last { self.next } else { 0 });
        self.left = if is_last { self.rows } else { self.left };
    }
}

/// Asks for what the next tiles read, a line a step, so that it comes while these have theirs near.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fetching {
    at: *const f32,
    end: *const f32,
}

impl Fetching {
    pub(crate) fn new(data: &[f32]) -> Self {
        Fetching { at: data.as_ptr(), end: data.as_ptr_range().end }
    }

    /// Whether something is left to be asked for by another tile.
    pub(crate) fn is_left(&self) -> bool {
        self.at < self.end
    }
}

impl<S: Simd> Beside<S> for Fetching {
    const ADJACENT: bool = false;
    #[inline(always)]
    unsafe fn step(&mut self, _: S) {
        prefetch(self.at);
        self.at = self.at.wrapping_add(LINE);
    }
}

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
    /// Rows of panels that are to come.
    rows: usize,
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
        Copying { from, to, panels, left: panels, pitch, next_from, next_to, rows: planes * panels }
    }

    /// Whether something is left to be copied by another tile.
    pub(crate) fn is_left(&self) -> bool {
        self.rows > 0
    }
}

impl<S: Simd> Beside<S> for Copying {
    const ADJACENT: bool = true;
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
        self.rows -= 1;
    }
}

/// A tile of [`Simd::NV`] vectors that does something beside, compiled for an instruction set.
///
/// # Safety
/// As [`TileFn`](super::TileFn), with rows at equal distances, or adjacent ones if it says so; what it does beside
/// touches valid memory, in as many steps as the tile has.
pub(crate) type BesideTileFn<S, B> = unsafe fn(S, &Tile<'_>, &mut B);

/// That tile with `rows` rows (1 to [`Simd::MR`]).
pub(crate) fn beside_tile_fn<S: Simd, B: Beside<S>>(rows: usize) -> BesideTileFn<S, B> {
    match S::NV {
        4.. if const { S::NV >= 4 } => with_rows::<S, B, 4>(rows),
        3 if const { S::NV == 3 } => with_rows::<S, B, 3>(rows),
        2 if const { S::NV == 2 } => with_rows::<S, B, 2>(rows),
        _ => with_rows::<S, B, 1>(rows),
    }
}

fn with_rows<S: Simd, B: Beside<S>, const V: usize>(rows: usize) -> BesideTileFn<S, B> {
    macro_rules! pick {
        ($($r:literal)*) => {
            match rows {
                $($r if const { S::MR >= $r } => entry::<S, B, $r, V>,)*
                _ => entry::<S, B, 1, V>,
            }
        };
    }
    pick!(14 13 12 11 10 9 8 7 6 5 4 3 2)
}

/// # Safety
/// As [`BesideTileFn`].
unsafe fn entry<S: Simd, B: Beside<S>, const R: usize, const V: usize>(
    simd: S,
    tile: &Tile<'_>,
    beside: &mut B,
) {
    struct Op<'a, B, const R: usize, const V: usize>(&'a Tile<'a>, B);
    impl<S: Simd, B: Beside<S>, const R: usize, const V: usize> SimdOp<S> for Op<'_, B, R, V> {
        type Output = B;
        #[inline(always)]
        fn eval(self, simd: S) -> B {
            let Op(tile, beside) = self;
            // SAFETY: `entry`'s caller vouches for the tile and for what it does beside.
            unsafe {
                match tile.a_rows {
                    _ if B::ADJACENT => body::<S, R, V, _>(simd, tile, Adjacent, beside),
                    Rows::Apart(distance) => body::<S, R, V, _>(simd, tile, Apart(distance), beside),
                    Rows::At(_) => {
                        debug_assert!(false, "rows are not at equal distances");
                        beside
                    }
                }
            }
        }
    }
    *beside = simd.vectorize(Op::<B, R, V>(tile, *beside));
}

#[cfg(test)]
mod tests {
    use super::super::{Epilogue, Segments, tile_fn};
    use super::*;
    use crate::simd::on_every_isa;

    /// Tiles of every number of rows give the sums of those that do nothing beside, and pack what they should.
    fn check<S: Simd>(simd: S) {
        let (planes, panels) = (5, 3);
        let plane = (panels * S::NR + 7).max(2 * LINE);
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
                    beside_tile_fn::<S, _>(rows)(simd, &tile(&mut c), &mut copying);
                    tile_fn::<S>(rows, S::NV)(simd, &tile(&mut want));
                }
                assert_eq!(c, want, "{rows} rows");
            }
            let mut asking = Asking::new::<S>(c.as_ptr(), rows, S::NR);
            c.fill(1.0);
            // SAFETY: as above; nothing is touched beside.
            unsafe { beside_tile_fn::<S, _>(rows)(simd, &tile(&mut c), &mut asking) };
            assert_eq!(c, want, "{rows} rows");
            let at = c.as_ptr().wrapping_add(planes % rows * S::NR + planes / rows * S::LANES);
            assert_eq!((asking.at, asking.left), (at, rows - planes % rows), "{rows} rows");
            let mut fetching = Fetching::new(&from[..2 * planes * LINE]);
            for tiles in 1..=2 {
                c.fill(1.0);
                // SAFETY: as above.
                unsafe { beside_tile_fn::<S, _>(rows)(simd, &tile(&mut c), &mut fetching) };
                assert_eq!((&c, fetching.is_left()), (&want, tiles < 2), "{rows} rows");
            }
            for (i, &value) in packed.iter().enumerate() {
                let (panel, row, column) = (i / S::NR / planes, i / S::NR % planes, i % S::NR);
                assert_eq!(value, from[row * plane + panel * S::NR + column], "{rows} rows, {i}");
            }
        }
    }

    #[test]
    fn tiles_sum_and_pack() {
        on_every_isa!(s => check(s));
    }
}
