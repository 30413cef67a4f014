//! The register tile that every GEMM-like kernel ends in.
//!
//! # Idea
//! A block of `rows × vectors` accumulators stays in registers over the whole reduction. Each step
//! loads `vectors` vectors of the column operand, broadcasts one f32 of the row operand for each
//! row, and multiplies and adds: an outer product.
//!
//! ```text
//!             column operand b: vectors × LANES columns
//!             ┌──────┬──────┐
//!  row        │ b[0] │ b[1] │   one load each per step
//!  operand a  ├──────┼──────┤
//!  (pixel or  │ acc  │ acc  │   acc[i][j] += a[i] · b[j]
//!  filter) i  │ …    │ …    │
//!             └──────┴──────┘
//! ```
//! Rows are pixels and columns are output channels in NHWC; rows are filters and columns are pixels
//! in NCHW. So the same tile serves both layouts, and stores along the columns are contiguous.
//!
//! # Register budget
//! `rows · vectors` accumulators, `vectors` operands, one broadcast; the largest tile of each
//! instruction set is [`Simd::MR`] × [`Simd::NV`]: 14 × 2 of 32 registers on AVX-512, 6 × 2 of 16 on
//! AVX2.

mod beside;
mod epilogue;
mod pixels;
mod tiles;

use beside::Nothing;
pub(crate) use beside::{Asking, Beside, Copying, Fetching, beside_tile_fn};
pub(crate) use epilogue::{Bias, Epilogue};
use epilogue::{finish, start};
pub(crate) use pixels::{PixelTile, PixelVector, pixel_tile_fn, pixel_tile_shape};
pub(crate) use tiles::tiles_fn;

use crate::simd::{Simd, SimdOp, prefetch};

/// A run of equal strides over both operands: `count` segments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segments {
    pub(crate) count: usize,
    /// f32s from one segment of the row operand to the next.
    pub(crate) a: usize,
    /// f32s from one segment of the column operand to the next.
    pub(crate) b: usize,
}

impl Segments {
    pub(crate) const ONE: Segments = Segments { count: 1, a: 0, b: 0 };
}

/// Where the rows of a tile's row operand are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rows<'a> {
    /// That many f32s apart.
    Apart(usize),
    /// At these distances from the first: pixels of several rows of an image, say.
    At(&'a [usize]),
}

/// One tile's work: `c[i][j] = epilogue(Σ a[i]·b[j])` over two levels of segments of `len` steps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tile<'a> {
    pub(crate) a: *const f32,
    pub(crate) a_rows: Rows<'a>,
    /// f32s from one step of the row operand to the next.
    pub(crate) a_step: usize,
    pub(crate) b: *const f32,
    /// f32s from one step of the column operand to the next.
    pub(crate) b_step: usize,
    /// Steps in a segment.
    pub(crate) len: usize,
    pub(crate) outer: Segments,
    pub(crate) inner: Segments,
    pub(crate) c: *mut f32,
    /// f32s from one row of the output to the next.
    pub(crate) c_row: usize,
    /// Columns that are stored, at most `vectors · LANES`.
    pub(crate) columns: usize,
    pub(crate) epilogue: Epilogue,
}

/// A tile of a fixed number of rows and vectors, compiled for an instruction set.
///
/// # Safety
/// With R rows and V vectors, for every segment and step: `a` is valid for reads at `R` rows, `b`
/// for reads of `V · LANES` f32s; `c` is valid for writes (and reads, when accumulating) of
/// `columns <= V · LANES` f32s in each of `R` rows; the bias is valid for reads of as many f32s as
/// there are columns or rows.
pub(crate) type TileFn<S> = unsafe fn(S, &Tile<'_>);

/// Most rows of a tile of any instruction set.
pub(crate) const MOST_ROWS: usize = 14;

/// The tile with `rows` rows (1 to [`Simd::MR`]) and `vectors` vectors (1 to [`Simd::NV`]).
pub(crate) fn tile_fn<S: Simd>(rows: usize, vectors: usize) -> TileFn<S> {
    debug_assert!((1..=S::MR).contains(&rows) && (1..=S::NV).contains(&vectors));
    match vectors {
        4.. if const { S::NV >= 4 } => with_rows::<S, 4>(rows),
        3 if const { S::NV >= 3 } => with_rows::<S, 3>(rows),
        2 if const { S::NV >= 2 } => with_rows::<S, 2>(rows),
        _ => with_rows::<S, 1>(rows),
    }
}

fn with_rows<S: Simd, const V: usize>(rows: usize) -> TileFn<S> {
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
/// As [`TileFn`].
unsafe fn entry<S: Simd, const R: usize, const V: usize>(simd: S, tile: &Tile<'_>) {
    struct Op<'a, const R: usize, const V: usize>(&'a Tile<'a>);
    impl<S: Simd, const R: usize, const V: usize> SimdOp<S> for Op<'_, R, V> {
        type Output = ();
        #[inline(always)]
        fn eval(self, simd: S) {
            // Two loops, because the distance between rows decides how they are addressed.
            // SAFETY: `entry`'s caller vouches for the tile.
            unsafe {
                match self.0.a_rows {
                    Rows::Apart(distance) => {
                        body::<S, R, V, _>(simd, self.0, Apart(distance), Nothing);
                    }
                    Rows::At(distances) => {
                        let Some(distances) = distances.first_chunk::<R>() else {
                            return debug_assert!(false, "a tile of {R} rows has {}", distances.len());
                        };
                        body::<S, R, V, _>(simd, self.0, At(*distances), Nothing);
                    }
                }
            }
        }
    }
    simd.vectorize(Op::<R, V>(tile));
}

/// How the rows of a tile are addressed.
trait Addresses: Copy {
    /// Pointers that move from step to step.
    type Bases: Copy;
    fn bases(self, a: *const f32) -> Self::Bases;
    fn step(self, bases: Self::Bases, distance: usize) -> Self::Bases;
    fn row(self, bases: Self::Bases, i: usize) -> *const f32;
}

/// Rows at equal distances. One pointer for every four rows: a single one would make each row's
/// address wait for the one before, fourteen cycles for the fourteen that the arithmetic takes.
#[derive(Clone, Copy)]
struct Apart(usize);

impl Addresses for Apart {
    type Bases = [*const f32; MOST_ROWS.div_ceil(4)];
    #[inline(always)]
    fn bases(self, a: *const f32) -> Self::Bases {
        std::array::from_fn(|quarter| opaque(a.wrapping_add(4 * quarter * self.0)))
    }
    #[inline(always)]
    fn step(self, bases: Self::Bases, distance: usize) -> Self::Bases {
        bases.map(|base| base.wrapping_add(distance))
    }
    #[inline(always)]
    fn row(self, bases: Self::Bases, i: usize) -> *const f32 {
        bases[i / 4].wrapping_add(i % 4 * self.0)
    }
}

/// The same pointer, of which the compiler no longer knows where it came from: it would join the bases
/// of [`Apart`] to one chain again (4 % slower where the tile runs at the peak).
#[inline(always)]
#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(unused_mut))]
#[allow(clippy::pointers_in_nomem_asm_block)] // The pointer is not used in it.
fn opaque(mut p: *const f32) -> *const f32 {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    // SAFETY: there is no instruction in it.
    unsafe {
        std::arch::asm!("/* {0} */", inout(reg) p, options(pure, nomem, nostack, preserves_flags));
    }
    p
}

/// Rows side by side.
#[derive(Clone, Copy)]
struct Adjacent;

impl Addresses for Adjacent {
    type Bases = *const f32;
    #[inline(always)]
    fn bases(self, a: *const f32) -> *const f32 {
        a
    }
    #[inline(always)]
    fn step(self, base: *const f32, distance: usize) -> *const f32 {
        base.wrapping_add(distance)
    }
    #[inline(always)]
    fn row(self, base: *const f32, i: usize) -> *const f32 {
        base.wrapping_add(i)
    }
}

/// Rows anywhere.
#[derive(Clone, Copy)]
struct At<const R: usize>([usize; R]);

impl<const R: usize> Addresses for At<R> {
    type Bases = *const f32;
    #[inline(always)]
    fn bases(self, a: *const f32) -> *const f32 {
        a
    }
    #[inline(always)]
    fn step(self, base: *const f32, distance: usize) -> *const f32 {
        base.wrapping_add(distance)
    }
    #[inline(always)]
    fn row(self, base: *const f32, i: usize) -> *const f32 {
        base.wrapping_add(self.0[i])
    }
}

/// # Safety
/// As [`TileFn`]; what the tile does beside touches valid memory.
#[inline(always)]
unsafe fn body<S: Simd, const R: usize, const V: usize, B: Beside<S>>(
    simd: S,
    tile: &Tile<'_>,
    rows: impl Addresses,
    mut beside: B,
) -> B {
    let mut lanes = [0; V];
    let mut c = [tile.c; V];
    for j in 0..V {
        lanes[j] = tile.columns.saturating_sub(j * S::LANES).min(S::LANES);
        c[j] = tile.c.wrapping_add(j * S::LANES);
    }
    if tile.epilogue.far {
        for i in 0..R {
            for c in c {
                prefetch(c.wrapping_add(i * tile.c_row));
            }
        }
    }
    // SAFETY: the bias is valid, by the caller's promise.
    let mut acc = unsafe { start::<S, R, V>(simd, lanes, tile.epilogue.bias) };
    for outer in 0..tile.outer.count {
        for inner in 0..tile.inner.count {
            // SAFETY: segments and steps lie inside the operands, by the caller's promise.
            unsafe {
                let mut a = rows.bases(tile.a.add(outer * tile.outer.a + inner * tile.inner.a));
                let mut b = tile.b.add(outer * tile.outer.b + inner * tile.inner.b);
                for _ in 0..tile.len {
                    // First: stores further down would keep loads apart, and sums out of registers.
                    beside.step(simd);
                    let mut columns = [simd.splat(0.0); V];
                    for (j, column) in columns.iter_mut().enumerate() {
                        *column = simd.load(b.add(j * S::LANES));
                    }
                    for (i, row) in acc.iter_mut().enumerate() {
                        let value = simd.splat(*rows.row(a, i));
                        for (sum, &column) in row.iter_mut().zip(&columns) {
                            *sum = simd.mul_add(value, column, *sum);
                        }
                    }
                    // Wrapping: after the last step the pointers may leave their buffers unread.
                    a = rows.step(a, tile.a_step);
                    b = b.wrapping_add(tile.b_step);
                }
            }
        }
    }
    // SAFETY: the output is valid, by the caller's promise.
    unsafe { finish::<S, R, V>(simd, acc, c, tile.c_row, lanes, &tile.epilogue) }
    beside
}

/// How many rows each of the fewest tiles over `n` rows has at most: 13 rows for 26, not 14 and 12.
pub(crate) fn balanced(n: usize, most: usize) -> usize {
    n.div_ceil(n.div_ceil(most).max(1)).max(1)
}

#[cfg(test)]
mod tests {
    use std::any::type_name;

    use super::*;
    use crate::buffer::AlignedBuffer;
    use crate::simd::on_every_isa;

    /// Every tile shape against plain sums, with column tails, both biases, accumulation and limits.
    fn check<S: Simd>(simd: S) {
        let (len, outer, inner) = (3, 2, 2);
        for vectors in 1..=S::NV {
            for rows in 1..=S::MR {
                let width = vectors * S::LANES;
                let steps = len * outer * inner;
                let a: Vec<f32> = (0..rows * steps).map(|i| (i % 7) as f32 - 3.0).collect();
                let b: Vec<f32> = (0..width * steps).map(|i| (i % 5) as f32 - 2.0).collect();
                let bias: Vec<f32> = (0..width.max(rows)).map(|i| i as f32).collect();
                for (columns, mode) in [(width, 0), (width, 1), (width - 1, 2), (1, 1)] {
                    // Some stream: rows of whole vectors, on a line.
                    let c_row = if mode == 1 { columns + width } else { columns + 3 };
                    let mut c = AlignedBuffer::zeros(rows * c_row).unwrap();
                    c.fill(10.0);
                    let epilogue = Epilogue {
                        bias: match mode {
                            0 => Bias::None,
                            1 => Bias::Columns(bias.as_ptr()),
                            _ => Bias::Rows(bias.as_ptr()),
                        },
                        accumulate: mode == 2,
                        limits: (-5.0, 40.0),
                        far: mode == 1,
                        streams: mode == 1,
                    };
                    let distances: Vec<usize> = (0..rows).map(|i| i * steps).collect();
                    let tile = Tile {
                        a: a.as_ptr(),
                        a_rows: if mode == 1 { Rows::At(&distances) } else { Rows::Apart(steps) },
                        a_step: 1,
                        b: b.as_ptr(),
                        b_step: width,
                        len,
                        outer: Segments { count: outer, a: len * inner, b: len * inner * width },
                        inner: Segments { count: inner, a: len, b: len * width },
                        c: c.as_mut_ptr(),
                        c_row,
                        columns,
                        epilogue,
                    };
                    // SAFETY: the operands have rows · steps and width · steps elements.
                    unsafe { tile_fn::<S>(rows, vectors)(simd, &tile) };
                    for i in 0..rows {
                        for j in 0..c_row {
                            let sum: f32 =
                                (0..steps).map(|k| a[i * steps + k] * b[k * width + j.min(width - 1)]).sum();
                            let want = match mode {
                                _ if j >= columns => 10.0,
                                0 => sum.clamp(-5.0, 40.0),
                                1 => (sum + bias[j]).clamp(-5.0, 40.0),
                                _ => (sum + bias[i] + 10.0).clamp(-5.0, 40.0),
                            };
                            assert_eq!(
                                c[i * c_row + j],
                                want,
                                "{} {rows}x{vectors} {i} {j}",
                                type_name::<S>()
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn tiles_of_every_shape_and_isa() {
        on_every_isa!(s => check(s));
    }

    #[test]
    fn balanced_tiles() {
        assert_eq!(balanced(26, 14), 13);
        assert_eq!(balanced(56, 14), 14);
        assert_eq!(balanced(5, 14), 5);
        assert_eq!(balanced(15, 14), 8);
    }
}
