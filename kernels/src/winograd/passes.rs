//! The transforms of tiles, in vectors: of input on its way to V, of M on its way to the output.

use std::marker::PhantomData;
use std::ops::Range;

use super::transform::{Line, MOST_ALPHA, Variant};
use crate::simd::{Simd, SimdOp};

/// Pixels with their channels side by side, of which some coordinates are padding.
#[derive(Clone, Copy)]
pub(super) struct Source {
    /// Pixel (0, 0), channel 0.
    pub(super) start: *const f32,
    pub(super) row: usize,
    pub(super) pixel: usize,
    /// Where tile 0 of the tile row starts (wrapped where that is padding).
    pub(super) y: usize,
    pub(super) x: usize,
    pub(super) height: usize,
    pub(super) width: usize,
}

/// A pixel of padding.
static ZEROS: [f32; 16] = [0.0; 16];

/// V = Bᵀ d B for some tiles of a tile row.
pub(super) struct Input<S, V> {
    pub(super) source: Source,
    pub(super) tiles: Range<usize>,
    pub(super) channels: usize,
    pub(super) v: *mut f32,
    /// V's channel of the source's first.
    pub(super) v_first: usize,
    pub(super) v_tile: usize,
    pub(super) v_plane: usize,
    pub(super) variant: PhantomData<V>,
    pub(super) simd: PhantomData<S>,
}

impl<S: Simd, V: Variant> SimdOp<S> for Input<S, V> {
    type Output = ();
    #[inline(always)]
    fn eval(self, simd: S) {
        let source = self.source;
        let mut rows = [(ZEROS.as_ptr(), false); MOST_ALPHA];
        for (i, row) in rows.iter_mut().enumerate().take(V::ALPHA) {
            let y = source.y.wrapping_add(i);
            if y < source.height {
                *row = (source.start.wrapping_add(y * source.row), true);
            }
        }
        for (index, tile) in self.tiles.clone().enumerate() {
            let x = source.x.wrapping_add(tile * V::M);
            let v = self.v.wrapping_add(index * self.v_tile + self.v_first);
            let mut c = 0;
            while c < self.channels {
                let lanes = S::LANES.min(self.channels - c);
                let mut d = [[simd.splat(0.0); MOST_ALPHA]; MOST_ALPHA];
                for j in 0..V::ALPHA {
                    let mut column = [simd.splat(0.0); MOST_ALPHA];
                    let xj = x.wrapping_add(j);
                    for i in 0..V::ALPHA {
                        let (row, is_row) = rows[i];
                        let inside = is_row && xj < source.width;
                        let pixel = row.wrapping_add(xj.wrapping_mul(source.pixel).wrapping_add(c));
                        let pixel = if inside { pixel } else { ZEROS.as_ptr() };
                        // SAFETY: (y, x) is inside and has `lanes` channels from c, or it is padding.
                        column[i] = unsafe {
                            if lanes == S::LANES { simd.load(pixel) } else { simd.load_partial(pixel, lanes) }
                        };
                    }
                    d[j] = V::input(simd, column);
                }
                for i in 0..V::ALPHA {
                    let mut line: Line<S> = [simd.splat(0.0); MOST_ALPHA];
                    for j in 0..V::ALPHA {
                        line[j] = d[j][i];
                    }
                    let line = V::input(simd, line);
                    for j in 0..V::ALPHA {
                        let element = v.wrapping_add((i * V::ALPHA + j) * self.v_plane + c);
                        // SAFETY: V has room for this tile's channels, rounded up to whole vectors.
                        unsafe { simd.store(element, line[j]) };
                    }
                }
                c += S::LANES;
            }
        }
    }
}

/// output = Aᵀ M A for the tiles of a tile row and a panel of filters.
pub(super) struct Output<S, V> {
    pub(super) m: *const f32,
    pub(super) m_tile: usize,
    pub(super) m_plane: usize,
    pub(super) tiles: usize,
    /// Output rows and columns that exist.
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) filters: usize,
    pub(super) bias: Option<*const f32>,
    pub(super) accumulate: bool,
    pub(super) limits: (f32, f32),
    /// Output pixel (0, 0) of the first tile, first filter of the panel.
    pub(super) output: *mut f32,
    pub(super) pixel: usize,
    pub(super) row: usize,
    pub(super) variant: PhantomData<V>,
    pub(super) simd: PhantomData<S>,
}

impl<S: Simd, V: Variant> SimdOp<S> for Output<S, V> {
    type Output = ();
    #[inline(always)]
    fn eval(self, simd: S) {
        let (lo, hi) = (simd.splat(self.limits.0), simd.splat(self.limits.1));
        let mut f = 0;
        while f < self.filters {
            let lanes = S::LANES.min(self.filters - f);
            let bias = match self.bias {
                // SAFETY: the bias has a value for each of the panel's filters.
                Some(bias) => unsafe { simd.load_partial(bias.add(f), lanes) },
                None => simd.splat(0.0),
            };
            for tile in 0..self.tiles {
                let m = self.m.wrapping_add(tile * self.m_tile + f);
                let mut half = [[simd.splat(0.0); MOST_ALPHA]; MOST_ALPHA];
                for j in 0..V::ALPHA {
                    let mut column: Line<S> = [simd.splat(0.0); MOST_ALPHA];
                    for i in 0..V::ALPHA {
                        let element = m.wrapping_add((i * V::ALPHA + j) * self.m_plane);
                        // SAFETY: M has whole vectors for every tile, filter and element.
                        column[i] = unsafe { simd.load(element) };
                    }
                    half[j] = V::output(simd, column);
                }
                for i in 0..V::M {
                    if i >= self.rows {
                        break;
                    }
                    let mut line: Line<S> = [simd.splat(0.0); MOST_ALPHA];
                    for j in 0..V::ALPHA {
                        line[j] = half[j][i];
                    }
                    let line = V::output(simd, line);
                    for j in 0..V::M {
                        let x = tile * V::M + j;
                        if x >= self.columns {
                            break;
                        }
                        let output = self.output.wrapping_add(i * self.row + x * self.pixel + f);
                        let mut value = simd.add(line[j], bias);
                        // SAFETY: (row i, column x) exists and has `lanes` filters from f.
                        unsafe {
                            if self.accumulate {
                                value = simd.add(value, simd.load_partial(output, lanes));
                            }
                            value = simd.clamp(value, lo, hi);
                            if lanes == S::LANES {
                                simd.store(output, value);
                            } else {
                                simd.store_partial(output, value, lanes);
                            }
                        }
                    }
                }
            }
            f += S::LANES;
        }
    }
}
