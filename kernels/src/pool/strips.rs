//! How rows of a [pooling](super)'s windows are cut into what a buffer holds.

use std::ops::Range;

/// Neighbouring windows of neighbouring rows of a plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Strip {
    pub(super) plane: usize,
    pub(super) rows: Range<usize>,
    pub(super) columns: Range<usize>,
}

/// Rows that are counted through planes of `height` rows each, cut into strips of at most `most` rows and columns: of
/// whole rows, or of one, so that what they have comes in its order in memory.
#[inline(always)]
pub(super) fn strips(
    rows: Range<usize>,
    [height, width]: [usize; 2],
    [most_rows, most_columns]: [usize; 2],
) -> impl Iterator<Item = Strip> {
    let most_rows = if width > most_columns { 1 } else { most_rows };
    let (mut plane, mut y, mut x) = (rows.start / height, rows.start % height, 0);
    let mut left = rows.len();
    std::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let count = most_rows.min(height - y).min(left);
        let strip = Strip { plane, rows: y..y + count, columns: x..width.min(x + most_columns) };
        x = strip.columns.end;
        if x == width {
            (x, y, left) = (0, y + count, left - count);
        }
        if y == height {
            (y, plane) = (0, plane + 1);
        }
        Some(strip)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strips_are_whole_rows_or_parts_of_one() {
        let strip = |plane, rows, columns| Strip { plane, rows, columns };
        let all: Vec<_> = strips(2..7, [3, 5], [2, 5]).collect();
        assert_eq!(
            all,
            [strip(0, 2..3, 0..5), strip(1, 0..2, 0..5), strip(1, 2..3, 0..5), strip(2, 0..1, 0..5)]
        );
        let all: Vec<_> = strips(2..4, [3, 5], [2, 4]).collect();
        let row = |plane, y: usize| [strip(plane, y..y + 1, 0..4), strip(plane, y..y + 1, 4..5)];
        assert_eq!(all, [row(0, 2), row(1, 0)].concat());
        assert_eq!(strips(1..1, [3, 5], [4, 4]).next(), None);
    }
}
