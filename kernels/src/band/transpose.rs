//! Transposing blocks of f32s.

use wide::f32x4;

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
    let (whole_rows, whole_columns) = (rows / 4 * 4, columns / 4 * 4);
    // SAFETY: every index below is of the form that the caller vouches for.
    unsafe {
        let load = |i: usize, j: usize| f32x4::new(from.add(i * from_row + j).cast::<[f32; 4]>().read());
        for j in (0..whole_columns).step_by(4) {
            for i in (0..whole_rows).step_by(4) {
                let block = f32x4::transpose([load(i, j), load(i + 1, j), load(i + 2, j), load(i + 3, j)]);
                for (k, column) in block.iter().enumerate() {
                    to.add((j + k) * to_row + i).cast::<[f32; 4]>().write(column.to_array());
                }
            }
            for i in whole_rows..rows {
                for k in j..j + 4 {
                    *to.add(k * to_row + i) = *from.add(i * from_row + k);
                }
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
