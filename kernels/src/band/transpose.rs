//! Transposing blocks of f32s.

use wide::f32x4;

use crate::buffer::LINE;
use crate::cache::CacheSizes;
use crate::simd::prefetch;

/// Rows of planes beyond the level-2 cache that are read together. They often lie a multiple of 4 KiB apart, so that
/// their lines fall in one set of the level-1 cache: no more of them than it has ways.
const WAYS: usize = 8;

/// `to[j * to_row + i] = from[i * from_row + j]` for i below `rows`, j below `columns`.
pub(super) fn transpose(
    from: &[f32],
    from_row: usize,
    rows: usize,
    columns: usize,
    to: &mut [f32],
    to_row: usize,
) {
    if rows == 0 || columns == 0 {
        return;
    }
    let from = &from[..(rows - 1) * from_row + columns];
    let to = &mut to[..(columns - 1) * to_row + rows];
    // SAFETY: both slices reach from their first to their last element of the block.
    unsafe { transpose_raw(from.as_ptr(), from_row, rows, columns, to.as_mut_ptr(), to_row) }
}

/// `to[j * to_row + i] = from[i * from_row + j]` for i below `rows`, j below `columns`.
///
/// # Safety
/// `from` is valid for reads at all those places, `to` for writes; they do not overlap.
pub(crate) unsafe fn transpose_raw(
    from: *const f32,
    from_row: usize,
    rows: usize,
    columns: usize,
    to: *mut f32,
    to_row: usize,
) {
    if rows == 0 || columns == 0 {
        return;
    }
    let (whole_rows, whole_columns) = (rows / 4 * 4, columns / 4 * 4);
    // Of planes that the level-2 cache does not hold, lines are asked for ahead of their use.
    let far = CacheSizes::detect().l2 / 4;
    // SAFETY: every index below is of the form that the caller vouches for; prefetches may go anywhere.
    unsafe {
        let load = |i: usize, j: usize| f32x4::new(from.add(i * from_row + j).cast::<[f32; 4]>().read());
        let block = |i: usize, j: usize| {
            let block = f32x4::transpose([load(i, j), load(i + 1, j), load(i + 2, j), load(i + 3, j)]);
            for (k, column) in block.iter().enumerate() {
                to.add((j + k) * to_row + i).cast::<[f32; 4]>().write(column.to_array());
            }
        };
        if from_row >= far / rows {
            // Planes are read: each line to its end, while those of the next row come.
            for first in (0..whole_columns).step_by(LINE) {
                let line = first..whole_columns.min(first + LINE);
                for top in (0..whole_rows).step_by(WAYS) {
                    let tops = top..whole_rows.min(top + WAYS);
                    for i in tops.clone() {
                        prefetch(from.wrapping_add(i * from_row + first + columns));
                    }
                    for j in line.clone().step_by(4) {
                        for i in tops.clone().step_by(4) {
                            block(i, j);
                        }
                    }
                }
            }
        } else {
            let planes_are_written = to_row >= far / columns;
            for j in (0..whole_columns).step_by(4) {
                for i in (0..whole_rows).step_by(4) {
                    if planes_are_written && i % LINE == 0 {
                        for k in 4..8 {
                            prefetch(to.wrapping_add((j + k) * to_row + i));
                        }
                    }
                    block(i, j);
                }
            }
        }
        for j in 0..whole_columns {
            for i in whole_rows..rows {
                *to.add(j * to_row + i) = *from.add(i * from_row + j);
            }
        }
        for j in whole_columns..columns {
            for i in 0..rows {
                *to.add(j * to_row + i) = *from.add(i * from_row + j);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposed_twice_is_the_same() {
        for (rows, columns) in [(1, 1), (4, 4), (5, 9), (16, 3), (3, 16)] {
            let from: Vec<f32> = (0..rows * columns).map(|i| i as f32).collect();
            let (mut to, mut back) = (vec![-1.0; columns * (rows + 1)], vec![-1.0; rows * columns]);
            transpose(&from, columns, rows, columns, &mut to, rows + 1);
            transpose(&to, rows + 1, columns, rows, &mut back, columns);
            assert_eq!(back, from);
        }
    }
}
