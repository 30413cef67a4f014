//! What windows of a [pooling](super) in NCHW owe to a vector of their columns, on the way back.

use super::axis::Axis;
use crate::simd::Simd;

/// Windows in a buffer.
pub(super) const BUFFER: usize = 1024;

/// What vectors may touch beyond: one of the longest, from any window on.
pub(super) const SLACK: usize = 16;

/// What windows of some rows give to their pixels, as many rows as there is room for, so that what is read has left the
/// CPU's store buffer, which cannot hand on parts of two stores.
pub(super) struct Buffer {
    /// Windows from one row to the next.
    pub(super) pitch: usize,
    /// Of a maximum the window's gradient, of an average each pixel's share.
    pub(super) gives: [f32; BUFFER + SLACK],
    /// Of a maximum which tap of the window it was, counted row by row from the first row in the input; −1 where there
    /// is no window.
    pub(super) takers: [f32; BUFFER + SLACK],
}

/// From inputs to the windows that have them: tap `s` of window `x` is column `stride·x + offset`; with
/// `offset = stride·quotient + remainder` it is among the columns `stride·(x + quotient) + remainder`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reach {
    axis: Axis,
    stride: usize,
    /// The quotient of the last tap, the largest.
    pub(super) last: isize,
    /// That of the first tap.
    first: isize,
}

impl Reach {
    #[inline(always)]
    pub(super) fn new(axis: Axis, stride: usize) -> Self {
        let mut reach = Reach { axis, stride, last: 0, first: 0 };
        (reach.first, reach.last) = (reach.of(0).0, reach.of(axis.kernel - 1).0);
        reach
    }

    /// Quotient and remainder of a tap.
    #[inline(always)]
    fn of(&self, tap: usize) -> (isize, usize) {
        let offset = (tap * self.axis.dilation) as isize - self.axis.before as isize;
        let stride = self.stride as isize;
        (offset.div_euclid(stride), offset.rem_euclid(stride) as usize)
    }

    /// How many windows more than columns there are.
    #[inline(always)]
    pub(super) fn more(&self) -> usize {
        (self.last - self.first) as usize
    }
}

/// What a buffer's windows give to a vector of columns, or a pair with stride 2.
pub(super) struct Owed<'a> {
    pub(super) buffer: &'a Buffer,
    /// The first column's place in it, if the last tap's quotient were 0.
    pub(super) at: usize,
    pub(super) reach: &'a Reach,
    pub(super) columns: usize,
}

impl Owed<'_> {
    /// What a tap's windows give, and which tap takes it.
    ///
    /// # Safety
    /// The tap's windows lie in the buffer, a vector of them with its slack.
    #[inline(always)]
    unsafe fn tap<S: Simd>(&self, simd: S, quotient: isize) -> (S::F32, S::F32) {
        let at = self.at + (self.reach.last - quotient) as usize;
        debug_assert!(at + S::LANES <= BUFFER + SLACK);
        // SAFETY: by the caller's promise.
        unsafe {
            (simd.load(self.buffer.gives.as_ptr().add(at)), simd.load(self.buffer.takers.as_ptr().add(at)))
        }
    }

    /// Windows of `COLUMNS` neighbouring columns, of which with `ODD` the first is the odd one of a pair. `rows` are
    /// numbers of windows' rows, where the columns are, and whether something is there already.
    ///
    /// # Safety
    /// As [`tap`](Self::tap), for all taps; `lanes` columns of each row are valid for reads and writes.
    #[inline(always)]
    pub(super) unsafe fn known<
        S: Simd,
        const MAX: bool,
        const STRIDE: usize,
        const COLUMNS: usize,
        const ODD: bool,
    >(
        &self,
        simd: S,
        rows: impl Iterator<Item = (usize, *mut f32, bool)>,
        lanes: usize,
    ) {
        let zero = simd.splat(0.0);
        let mut taps = [(zero, zero); COLUMNS];
        for (s, tap) in taps.iter_mut().enumerate() {
            // SAFETY: by the caller's promise.
            *tap = unsafe { self.tap(simd, self.reach.of(s).0) };
        }
        let mut number = zero;
        let mut sums = [zero; 2];
        for (r, to, touched) in rows {
            if MAX || r == 0 {
                sums = [zero; 2];
                for (s, (gives, takers)) in taps.into_iter().enumerate() {
                    let sum = &mut sums[if STRIDE == 1 { 0 } else { (s + ODD as usize) % 2 }];
                    *sum = match MAX {
                        true => simd.add_where_equal(*sum, gives, takers, number),
                        false => simd.add(*sum, gives),
                    };
                    number = simd.add(number, simd.splat(1.0));
                }
                sums = in_columns::<S, STRIDE>(simd, sums);
            }
            // SAFETY: by the caller's promise.
            unsafe { put::<S, STRIDE>(simd, sums, to, lanes, touched) };
        }
    }

    /// [`known`](Self::known) for any windows.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    pub(super) unsafe fn any<S: Simd, const MAX: bool, const STRIDE: usize>(
        &self,
        simd: S,
        rows: impl Iterator<Item = (usize, *mut f32, bool)>,
        lanes: usize,
    ) {
        let zero = simd.splat(0.0);
        let mut sums = [zero; 2];
        for (r, to, touched) in rows {
            if MAX || r == 0 {
                for (remainder, sum) in sums.iter_mut().enumerate().take(STRIDE) {
                    *sum = zero;
                    for s in 0..self.columns {
                        let (quotient, of) = self.reach.of(s);
                        if of != remainder {
                            continue;
                        }
                        // SAFETY: by the caller's promise.
                        let (gives, takers) = unsafe { self.tap(simd, quotient) };
                        *sum = match MAX {
                            true => {
                                let number = simd.splat((r * self.columns + s) as f32);
                                simd.add_where_equal(*sum, gives, takers, number)
                            }
                            false => simd.add(*sum, gives),
                        };
                    }
                }
                sums = in_columns::<S, STRIDE>(simd, sums);
            }
            // SAFETY: by the caller's promise.
            unsafe { put::<S, STRIDE>(simd, sums, to, lanes, touched) };
        }
    }
}

/// Sums of even and odd columns as neighbours; with stride 1 they are.
#[inline(always)]
fn in_columns<S: Simd, const STRIDE: usize>(simd: S, sums: [S::F32; 2]) -> [S::F32; 2] {
    if STRIDE == 1 {
        return sums;
    }
    let (first, second) = simd.zip_mixed(simd.mixed(sums[0]), simd.mixed(sums[1]));
    [first, second]
}

/// Stores one vector or two, `lanes` lanes of them, or adds them.
///
/// # Safety
/// As many f32s from `to` on are valid for reads and writes.
#[inline(always)]
pub(super) unsafe fn put<S: Simd, const VECTORS: usize>(
    simd: S,
    sums: [S::F32; 2],
    to: *mut f32,
    lanes: usize,
    add: bool,
) {
    let whole = lanes == VECTORS * S::LANES;
    for (i, sum) in sums.into_iter().enumerate().take(VECTORS) {
        let p = to.wrapping_add(i * S::LANES);
        let lanes = lanes.saturating_sub(i * S::LANES).min(S::LANES);
        // SAFETY: by the caller's promise.
        unsafe {
            match (whole, add) {
                (true, true) => simd.store(p, simd.add(simd.load(p), sum)),
                (true, false) => simd.store(p, sum),
                (false, true) => simd.store_partial(p, simd.add(simd.load_partial(p, lanes), sum), lanes),
                (false, false) => simd.store_partial(p, sum, lanes),
            }
        }
    }
}

/// Stores vectors that no pixel takes from place `from` on, the last of which begins before `to`.
///
/// # Safety
/// Both have [`SLACK`] f32s from `to` on.
#[inline(always)]
pub(super) unsafe fn clear<S: Simd>(simd: S, from: usize, to: usize, gives: &mut [f32], takers: &mut [f32]) {
    let mut i = from;
    while i < to {
        // SAFETY: by the caller's promise; the slack holds a vector.
        unsafe {
            simd.store(gives.as_mut_ptr().add(i), simd.splat(0.0));
            simd.store(takers.as_mut_ptr().add(i), simd.splat(-1.0));
        }
        i += S::LANES;
    }
}
