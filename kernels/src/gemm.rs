//! Loops over register tiles for a block of pixels, in both roles that pixels can have.

use std::ops::Range;

use crate::buffer::LINE;
use crate::kernel::PlanOptions;
use crate::microkernel::{
    Asking, Bias, Copying, Epilogue, Rows, Segments, Tile, balanced, beside_tile_fn, tile_fn,
};
use crate::simd::Simd;
use crate::weights::{Panels, Strips};

/// The part of the reduction that a pass over the tiles covers, and what is done with the sums.
#[derive(Clone, Debug)]
pub(crate) struct Pass {
    /// Steps of the reduction.
    pub(crate) steps: Range<usize>,
    /// Limits, and whether to add to the output.
    pub(crate) epilogue: Epilogue,
    /// The bias of the group's filters in the last pass, if there is one.
    pub(crate) bias: Option<*const f32>,
}

impl Pass {
    /// Pass number `index` of a reduction of `total` steps in passes of `most` steps: the first one
    /// starts from the previous output if the plan accumulates, the last one adds the bias and
    /// applies the limits.
    pub(crate) fn of(
        index: usize,
        total: usize,
        most: usize,
        options: &PlanOptions,
        bias: Option<*const f32>,
    ) -> Self {
        let steps = index * most..((index + 1) * most).min(total);
        let last = steps.end == total;
        Pass {
            epilogue: Epilogue {
                bias: Bias::None,
                accumulate: options.accumulate || index > 0,
                limits: if last { options.limits() } else { Epilogue::STORE.limits },
                far: false,
                streams: false,
            },
            bias: bias.filter(|_| last),
            steps,
        }
    }
}

/// Pixels are rows, filters are columns (NHWC): `c[pixel][filter] (+)= a[pixel]·panel`.
///
/// # Safety
/// `a` is valid for reads of `pass.steps.len()` f32s at each of `pixels` rows `a_row` apart; `c` is
/// valid for writes (and reads, when the pass accumulates) of the filters of `panel_range` of
/// `group` at each of `pixels` rows `c_row` apart, counted from the group's first filter, and nobody
/// else touches those; the bias has a value for each filter of the group.
pub(crate) unsafe fn pixels_by_filters<S: Simd>(
    simd: S,
    a: *const f32,
    a_row: usize,
    pixels: usize,
    panels: &Panels,
    group: usize,
    panel_range: Range<usize>,
    pass: &Pass,
    c: *mut f32,
    c_row: usize,
) {
    let rows = balanced(pixels, S::MR);
    for index in panel_range {
        let panel = panels.panel(group, index);
        let bias = pass.bias.map_or(Bias::None, |b| Bias::Columns(b.wrapping_add(panel.first)));
        let kernel = tile_fn::<S>(rows, panel.vectors);
        // Far outputs that do not lie in one stream are asked for line by line beside the sums: all at once they
        // would keep the tile's own loads waiting.
        let asks = pass.epilogue.far
            && S::LANES == LINE
            && panel.vectors == S::NV
            && c_row > panel.width
            && pass.steps.len() >= rows * S::NV;
        let mut first = 0;
        while first < pixels {
            let n = rows.min(pixels - first);
            let kernel = if n == rows { kernel } else { tile_fn::<S>(n, panel.vectors) };
            let tile = Tile {
                a: a.wrapping_add(first * a_row),
                a_rows: Rows::Apart(a_row),
                a_step: 1,
                b: panel.data[pass.steps.start * panel.width..].as_ptr(),
                b_step: panel.width,
                len: pass.steps.len(),
                outer: Segments::ONE,
                inner: Segments::ONE,
                c: c.wrapping_add(first * c_row + panel.first),
                c_row,
                columns: panel.filters,
                epilogue: Epilogue { bias, far: pass.epilogue.far && !asks, ..pass.epilogue },
            };
            // SAFETY: rows first..first + n of `a` and of `c` are valid, by the caller's promise; the
            // panel holds `width` values for every step.
            unsafe {
                if asks {
                    let mut asking = Asking::new::<S>(tile.c, n, c_row);
                    beside_tile_fn::<S, Asking>(n)(simd, &tile, &mut asking);
                } else {
                    kernel(simd, &tile);
                }
            }
            first += n;
        }
    }
}

/// Filters are rows, pixels are columns (NCHW): `c[filter][pixel] (+)= strip·b`. The pixels come
/// packed in panels of `S::NR`: `b[panel][step][S::NR]`, steps of this pass only. Meanwhile others may be
/// packed: the first tiles take part in the copying, as many as it needs.
///
/// # Safety
/// `c` is valid for writes (and reads, when the pass accumulates) of `pixels` f32s at each filter of
/// `strip_range` of `group`, `c_row` apart, counted from the group's first filter, and nobody else
/// touches those; the bias has a value for each filter of the group. `b` holds all panels. If there is a
/// copying, it has a plane for each step of the pass, whose pixels are valid for reads and whose panels are
/// valid for writes; where it needs tiles there are as many whole panels.
pub(crate) unsafe fn filters_by_pixels<S: Simd>(
    simd: S,
    strips: &Strips,
    group: usize,
    strip_range: Range<usize>,
    b: &[f32],
    pixels: usize,
    pass: &Pass,
    c: *mut f32,
    c_row: usize,
    mut copying: Option<&mut Copying>,
) {
    let panel_len = pass.steps.len() * S::NR;
    for index in strip_range {
        let strip = strips.strip(group, index);
        let bias = pass.bias.map_or(Bias::None, |b| Bias::Rows(b.wrapping_add(strip.first)));
        for (panel, data) in b[..pixels.div_ceil(S::NR) * panel_len].chunks_exact(panel_len).enumerate() {
            let first = panel * S::NR;
            let columns = S::NR.min(pixels - first);
            let tile = Tile {
                a: strip.data[pass.steps.start * strips.rows..].as_ptr(),
                a_rows: Rows::Apart(1),
                a_step: strips.rows,
                b: data.as_ptr(),
                b_step: S::NR,
                len: pass.steps.len(),
                outer: Segments::ONE,
                inner: Segments::ONE,
                c: c.wrapping_add(strip.first * c_row + first),
                c_row,
                columns,
                epilogue: Epilogue { bias, ..pass.epilogue },
            };
            // SAFETY: the strip holds `rows` adjacent values for every step, `data` NR; filters and columns of
            // `c`, and what is copied, are valid, by the caller's promise.
            unsafe {
                match &mut copying {
                    Some(copying) if copying.is_left() => {
                        beside_tile_fn::<S, Copying>(strip.filters)(simd, &tile, copying);
                    }
                    _ => tile_fn::<S>(strip.filters, columns.div_ceil(S::LANES))(simd, &tile),
                }
            }
        }
    }
}
