//! Rows of outputs of a [pooling](super) in NCHW.

use std::marker::PhantomData;
use std::ops::Range;

use super::PoolPlan;
use super::axis::{Axis, Span};
use super::pairs::Pairs;
use super::reduction::{Doubt, Planes, Reduction};
use super::strips::{Strip, strips};
use super::threes::Threes;
use crate::buffer::LINE;
use crate::parallel::SharedOutput;
use crate::simd::{Simd, SimdOp};

/// Columns of a buffer in which the rows of windows are reduced: of as many rows of outputs as it holds, so that what is
/// read has left the CPU's store buffer, which cannot hand on parts of two stores.
const BUFFER: usize = 2048;

/// What vectors may touch beyond the last column that counts: pairs of the longest, from any tap on.
const SLACK: usize = 48;

/// Rows of outputs, counted through all planes. They are the caller's alone.
pub(super) struct Rows<'a, R> {
    pub(super) plan: &'a PoolPlan,
    pub(super) input: &'a [f32],
    pub(super) rows: Range<usize>,
    /// The outputs of these rows.
    pub(super) out: &'a mut [f32],
    how: PhantomData<R>,
}

impl<'a, R: Reduction> Rows<'a, R> {
    /// # Safety
    /// The rows lie in the output, and nobody else touches them while this is alive.
    pub(super) unsafe fn new(
        plan: &'a PoolPlan,
        input: &'a [f32],
        output: SharedOutput,
        rows: Range<usize>,
    ) -> Self {
        let len = plan.spec.out_width();
        // SAFETY: by the caller's promise.
        let out = unsafe { std::slice::from_raw_parts_mut(output.at(rows.start * len), rows.len() * len) };
        Rows { plan, input, rows, out, how: PhantomData }
    }

    /// Computes them.
    pub(super) fn compute<S: Simd>(self, simd: S) {
        let spec = &self.plan.spec;
        let axis = spec.axis(1);
        let none_is_cut = axis.inner(spec.out_width()) == (0..spec.out_width());
        if self.plan.is_whole() {
            self.whole_planes(simd);
        } else if axis.stride == 2 && axis.dilation == 1 && axis.kernel <= 2 && none_is_cut {
            match spec.out_width() <= S::Half::LANES {
                true => simd.half().vectorize(Pairs(self)),
                false => simd.vectorize(Pairs(self)),
            }
        } else if S::LANES >= 8
            && spec.kernel() == [3, 3]
            && spec.dilation() == [1, 1]
            && spec.stride() == [1, 1]
        {
            simd.vectorize(Threes::<R, 1>(self));
        } else if S::LANES >= 8
            && spec.kernel() == [3, 3]
            && spec.dilation() == [1, 1]
            && spec.stride() == [2, 2]
        {
            simd.vectorize(Threes::<R, 2>(self));
        } else if axis.extent() <= BUFFER {
            simd.vectorize(Buffered(self));
        } else {
            simd.vectorize(FarApart(self));
        }
    }

    /// Planes that are one window each.
    fn whole_planes<S: Simd>(self, simd: S) {
        let spec = &self.plan.spec;
        let len = spec.in_height() * spec.in_width();
        let input = &self.input[self.rows.start * len..self.rows.end * len];
        simd.vectorize(Planes::<R> { input, len, out: &mut *self.out, how: PhantomData });
        if R::DIVIDES {
            let divisor = self.plan.spans[0][0].counted * self.plan.spans[1][0].counted;
            self.out.iter_mut().for_each(|value| *value /= divisor);
        }
    }
}

/// Stores a vector of outputs, with `ROOM` a whole one, else as many lanes as there are outputs. Sums are divided by
/// `rows` times the counts of their columns.
///
/// # Safety
/// As many outputs as are stored are valid for writes, a vector of `counts` for reads.
#[inline(always)]
pub(super) unsafe fn finish<S: Simd, R: Reduction, const ROOM: bool>(
    simd: S,
    value: S::F32,
    (rows, counts): (f32, *const f32),
    out: *mut f32,
    outputs: usize,
) {
    // SAFETY: by the caller's promise.
    unsafe {
        let value = match R::DIVIDES {
            true => simd.div(value, simd.mul(simd.splat(rows), simd.load(counts))),
            false => value,
        };
        match ROOM {
            true => simd.store(out, value),
            false => simd.store_partial(out, value, outputs.min(S::LANES)),
        }
    }
}

/// A vector of the input, or what of it there is.
///
/// # Safety
/// With `WHOLE` the vector lies in the input.
#[inline(always)]
pub(super) unsafe fn load<S: Simd, const WHOLE: bool>(simd: S, input: &[f32], at: usize) -> S::F32 {
    let p = input.as_ptr().wrapping_add(at);
    // SAFETY: by the caller's promise, or no more lanes than there are.
    unsafe {
        match WHOLE {
            true => simd.load(p),
            false => simd.load_partial(p, input.len().saturating_sub(at).min(S::LANES)),
        }
    }
}

/// What begins on a cache line.
#[repr(align(64))]
struct Aligned<T>(T);

/// Windows whose columns fit a buffer: their rows are reduced first, column by column.
struct Buffered<'a, R>(Rows<'a, R>);

impl<S: Simd, R: Reduction> SimdOp<S> for Buffered<'_, R> {
    type Output = ();
    #[inline(always)]
    fn eval(self, simd: S) {
        let Rows { plan, input, rows, out, .. } = self.0;
        let spec = &plan.spec;
        let axis = spec.axis(1);
        let source = Source::new(plan, input);
        let columns = |windows: usize| (windows - 1) * axis.stride + axis.extent();
        let most = (BUFFER - axis.extent()) / axis.stride + 1;
        // With room for vectors that begin at the last column.
        let pitch = (columns(spec.out_width().min(most)) + LINE - 1).next_multiple_of(LINE);
        let size = [spec.out_height(), spec.out_width()];
        let mut buffer = Aligned([R::IDENTITY; BUFFER + SLACK]);
        let mut out = out;
        for strip in strips(rows, size, [(BUFFER / pitch).max(1), most]) {
            let (first, len) = (strip.columns.start * axis.stride, columns(strip.columns.len()));
            let spans = &plan.spans[0][strip.rows.clone()];
            let doubted =
                source.reduce::<S, R>(simd, strip.plane, strip.rows, first, len, &mut buffer.0, pitch);
            let sums = Sums {
                axis,
                buffer: &buffer.0,
                pitch,
                spans,
                counts: &plan.counts[strip.columns.start..],
                outputs: strip.columns.len(),
            };
            match doubted {
                false => sums.store::<S, R::OfNumbers>(simd, out),
                true => sums.store::<S, R>(simd, out),
            }
            out = &mut out[sums.outputs * spans.len()..];
        }
    }
}

/// Where columns come from.
struct Source<'a> {
    input: &'a [f32],
    spans: &'a [Span],
    vertical: Axis,
    /// Rows of outputs whose windows have all their rows in the input.
    inner: Range<usize>,
    /// Columns of a plane, and those before them that are padding.
    width: usize,
    left: usize,
    /// f32s from one row of a window to the next.
    pitch: usize,
}

impl<'a> Source<'a> {
    fn new(plan: &'a PoolPlan, input: &'a [f32]) -> Self {
        let (spec, vertical) = (&plan.spec, plan.spec.axis(0));
        Source {
            input,
            spans: &plan.spans[0],
            vertical,
            inner: vertical.inner(spec.out_height()),
            width: spec.in_width(),
            left: spec.padding().left,
            pitch: plan.vertical_pitch(),
        }
    }

    /// Reduces the rows of windows: `len` columns from `first` on, counted in the padded input, for some rows of
    /// outputs, to rows of the buffer that are `pitch` f32s apart. Returns whether there may be a NaN among them.
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "a buffer and its pitch, a range and where it is from")]
    fn reduce<S: Simd, R: Reduction>(
        &self,
        simd: S,
        plane: usize,
        rows: Range<usize>,
        first: usize,
        len: usize,
        buffer: &mut [f32; BUFFER + SLACK],
        pitch: usize,
    ) -> bool {
        debug_assert!(
            pitch * (rows.len() - 1) + len <= BUFFER && (rows.len() == 1 || len + S::LANES <= pitch + 1)
        );
        let start = self.left.saturating_sub(first).min(len);
        let end = (self.width + self.left).saturating_sub(first).clamp(start, len);
        let columns = Columns {
            source: self,
            // Used only where there is a column.
            first: (plane * self.vertical.size * self.width + first + start).wrapping_sub(self.left),
            start,
            end,
            len,
            pitch,
        };
        let count = (end - start).next_multiple_of(S::LANES);
        // Windows come in their order, so do the ends of what they read.
        let whole = self.spans[rows.clone()].iter().rposition(|span| {
            let last = span.place * self.width + span.taps.saturating_sub(1) * self.pitch;
            start == end || columns.first + last + count <= self.input.len()
        });
        let middle = rows.start + whole.map_or(0, |last| last + 1);
        let (whole, rest) = (rows.start..middle, middle..rows.end);
        let first = buffer.as_mut_ptr();
        let last = first.wrapping_add(whole.len() * pitch);
        // SAFETY: the rows of the buffer lie in it, all their vectors as well, with the slack; all vectors of whole rows
        // are in the input.
        unsafe {
            let doubted = columns.reduce::<S, R::OfNumbers, R, true>(simd, whole.clone(), first);
            if doubted {
                columns.reduce::<S, R, R, true>(simd, whole, first);
            }
            columns.reduce::<S, R, R, false>(simd, rest, last) || doubted
        }
    }
}

/// Columns of windows to be reduced, those from `start` to `end` from the input, the others padding.
struct Columns<'a> {
    source: &'a Source<'a>,
    /// The f32 of column `start` in the first row of the plane.
    first: usize,
    start: usize,
    end: usize,
    len: usize,
    /// f32s from one row of the buffer to the next.
    pitch: usize,
}

impl Columns<'_> {
    /// Reduces the windows of rows of outputs by `Q`. Returns whether there may have been a NaN, which `R` cares about.
    ///
    /// # Safety
    /// Vectors that begin at one of `len` columns of each row of `buffer` are valid for writes; with `WHOLE` those that
    /// begin at columns `start` to `end` lie in the input.
    #[inline(always)]
    unsafe fn reduce<S: Simd, Q: Reduction, R: Reduction, const WHOLE: bool>(
        &self,
        simd: S,
        rows: Range<usize>,
        buffer: *mut f32,
    ) -> bool {
        let source = self.source;
        let mut doubt = Doubt::none(simd);
        let identity = simd.splat(R::IDENTITY);
        // SAFETY: by the caller's promise. What is stored beyond a part of a row is overwritten by the next part.
        unsafe {
            let start = source.inner.start.clamp(rows.start, rows.end);
            let inner = start..source.inner.end.clamp(start, rows.end);
            let to = |y: usize| buffer.wrapping_add((y - rows.start) * self.pitch);
            for y in rows.clone() {
                for column in (0..self.start).step_by(S::LANES) {
                    simd.store(to(y).add(column), identity);
                }
            }
            for y in rows.start..inner.start {
                self.row::<S, Q, R, WHOLE>(simd, source.spans[y], to(y), &mut doubt);
            }
            match (source.vertical.dilation, source.vertical.kernel, source.vertical.stride) {
                (1, 3, 1) => {
                    self.slide::<S, Q, R, 3, 1, WHOLE>(simd, inner.clone(), to(inner.start), &mut doubt)
                }
                (1, 3, 2) => {
                    self.slide::<S, Q, R, 3, 2, WHOLE>(simd, inner.clone(), to(inner.start), &mut doubt)
                }
                _ => {
                    for y in inner.clone() {
                        self.row::<S, Q, R, WHOLE>(simd, source.spans[y], to(y), &mut doubt);
                    }
                }
            }
            for y in inner.end..rows.end {
                self.row::<S, Q, R, WHOLE>(simd, source.spans[y], to(y), &mut doubt);
            }
            for y in rows.clone() {
                for column in (self.end..self.len).step_by(S::LANES) {
                    simd.store(to(y).add(column), identity);
                }
            }
        }
        doubt.remains::<R>(simd)
    }

    /// Reduces a row of windows, to `to`.
    ///
    /// # Safety
    /// As [`reduce`](Self::reduce).
    #[inline(always)]
    unsafe fn row<S: Simd, Q: Reduction, R: Reduction, const WHOLE: bool>(
        &self,
        simd: S,
        span: Span,
        to: *mut f32,
        doubt: &mut Doubt<S>,
    ) {
        let Source { input, width, pitch, .. } = *self.source;
        for column in (self.start..self.end).step_by(S::LANES) {
            let at = self.first + span.place * width + column - self.start;
            let mut sum = simd.splat(R::IDENTITY);
            for r in 0..span.taps {
                // SAFETY: by the caller's promise.
                let value = unsafe { load::<S, WHOLE>(simd, input, at + r * pitch) };
                doubt.see::<R>(simd, value);
                sum = Q::vectors(simd, sum, value);
            }
            // SAFETY: by the caller's promise.
            unsafe { simd.store(to.add(column), sum) };
        }
    }

    /// Reduces rows of windows of `ROWS` neighbouring rows of which two have all but `STRIDE`, to rows from `to` on.
    ///
    /// # Safety
    /// As [`reduce`](Self::reduce).
    #[inline(always)]
    unsafe fn slide<
        S: Simd,
        Q: Reduction,
        R: Reduction,
        const ROWS: usize,
        const STRIDE: usize,
        const WHOLE: bool,
    >(
        &self,
        simd: S,
        rows: Range<usize>,
        to: *mut f32,
        doubt: &mut Doubt<S>,
    ) {
        if rows.is_empty() {
            return;
        }
        let first = self.first + self.source.spans[rows.start].place * self.source.width;
        let (mut column, count) = (self.start, rows.len());
        while column < self.end {
            let (at, to) = (first + column - self.start, to.wrapping_add(column));
            // SAFETY: by the caller's promise.
            unsafe {
                if column + S::LANES < self.end {
                    self.vectors::<S, Q, R, ROWS, STRIDE, 2, WHOLE>(simd, at, count, to, doubt);
                    column += 2 * S::LANES;
                } else {
                    self.vectors::<S, Q, R, ROWS, STRIDE, 1, WHOLE>(simd, at, count, to, doubt);
                    column += S::LANES;
                }
            }
        }
    }

    /// V vectors of columns of [`slide`](Self::slide), from `at` on.
    ///
    /// # Safety
    /// As [`reduce`](Self::reduce).
    #[inline(always)]
    unsafe fn vectors<
        S: Simd,
        Q: Reduction,
        R: Reduction,
        const ROWS: usize,
        const STRIDE: usize,
        const V: usize,
        const WHOLE: bool,
    >(
        &self,
        simd: S,
        at: usize,
        count: usize,
        to: *mut f32,
        doubt: &mut Doubt<S>,
    ) {
        let Source { input, width, .. } = *self.source;
        let (mut at, mut to) = (at, to);
        let mut rows = [[simd.splat(R::IDENTITY); V]; ROWS];
        // SAFETY: by the caller's promise.
        unsafe {
            for row in rows.iter_mut().skip(STRIDE) {
                for (i, value) in row.iter_mut().enumerate() {
                    *value = load::<S, WHOLE>(simd, input, at + i * S::LANES);
                    doubt.see::<R>(simd, *value);
                }
                at += width;
            }
            for _ in 0..count {
                for r in 0..ROWS {
                    if r + STRIDE < ROWS {
                        rows[r] = rows[(r + STRIDE) % ROWS];
                        continue;
                    }
                    for (i, value) in rows[r].iter_mut().enumerate() {
                        *value = load::<S, WHOLE>(simd, input, at + i * S::LANES);
                    }
                    at += width;
                }
                for i in 0..V {
                    let (mut sum, mut seen) = (rows[0][i], Doubt::of(rows[ROWS - STRIDE][i]));
                    for (r, row) in rows.iter().enumerate().skip(1) {
                        sum = Q::vectors(simd, sum, row[i]);
                        if r > ROWS - STRIDE {
                            seen.see::<R>(simd, row[i]);
                        }
                    }
                    doubt.join::<R>(simd, seen);
                    simd.store(to.add(i * S::LANES), sum);
                }
                to = to.wrapping_add(self.pitch);
            }
        }
    }
}

/// Columns to be reduced to outputs.
struct Sums<'a> {
    axis: Axis,
    buffer: &'a [f32; BUFFER + SLACK],
    /// f32s from one row of the buffer to the next.
    pitch: usize,
    /// A row each.
    spans: &'a [Span],
    /// Counts of the columns of outputs, and a vector more.
    counts: &'a [f32],
    /// Outputs of a row.
    outputs: usize,
}

impl Sums<'_> {
    /// Computes the first outputs of `out`; those that come later may be anything afterwards.
    #[inline(always)]
    fn store<S: Simd, R: Reduction>(&self, simd: S, out: &mut [f32]) {
        match (self.axis.stride, self.axis.kernel) {
            (1, 3) => self.vectors::<S, R, 1, 3>(simd, out),
            (1, _) => self.vectors::<S, R, 1, 0>(simd, out),
            (2, 3) => self.vectors::<S, R, 2, 3>(simd, out),
            (2, _) => self.vectors::<S, R, 2, 0>(simd, out),
            _ => self.one_by_one::<R>(out),
        }
    }

    /// Outputs of stride 1 or 2. Windows have `COLUMNS` columns, or, for 0, any number.
    #[inline(always)]
    fn vectors<S: Simd, R: Reduction, const STRIDE: usize, const COLUMNS: usize>(
        &self,
        simd: S,
        out: &mut [f32],
    ) {
        assert!(self.outputs * self.spans.len() <= out.len() && self.outputs + S::LANES <= self.counts.len());
        let last = self.outputs * (self.spans.len() - 1) + self.outputs.next_multiple_of(S::LANES);
        // SAFETY: there are as many outputs and counts; with `ROOM` every vector has room.
        unsafe {
            match last <= out.len() {
                true => self.rows::<S, R, STRIDE, COLUMNS, true>(simd, out.as_mut_ptr()),
                false => self.rows::<S, R, STRIDE, COLUMNS, false>(simd, out.as_mut_ptr()),
            }
        }
    }

    /// [`vectors`](Self::vectors), with `ROOM` whole ones.
    ///
    /// # Safety
    /// All outputs are valid for writes, with `ROOM` vectors of them from every one that begins a vector; a vector of
    /// counts of each output's column for reads.
    #[inline(always)]
    unsafe fn rows<S: Simd, R: Reduction, const STRIDE: usize, const COLUMNS: usize, const ROOM: bool>(
        &self,
        simd: S,
        out: *mut f32,
    ) {
        let columns = if COLUMNS == 0 { self.axis.kernel } else { COLUMNS };
        for (i, span) in self.spans.iter().enumerate() {
            let row = self.buffer.as_ptr().wrapping_add(i * self.pitch);
            let out = out.wrapping_add(i * self.outputs);
            let mut x = 0;
            while x < self.outputs {
                // SAFETY: by the caller's promise; the last tap of the row's last window lies in the first BUFFER columns
                // of the buffer, those of the vector's first window as well, two vectors from there on in the slack.
                unsafe {
                    let at = row.add(STRIDE * x);
                    let sum = match STRIDE {
                        1 => self.side_by_side::<S, R>(simd, at, columns),
                        _ => self.in_pairs::<S, R>(simd, at, columns),
                    };
                    let counts = self.counts.as_ptr().add(x);
                    finish::<S, R, ROOM>(simd, sum, (span.counted, counts), out.add(x), self.outputs - x);
                }
                x += S::LANES;
            }
        }
    }

    /// Outputs of stride 1: neighbouring windows are neighbouring vectors.
    ///
    /// # Safety
    /// A vector from each tap of the first window on is valid for reads.
    #[inline(always)]
    unsafe fn side_by_side<S: Simd, R: Reduction>(&self, simd: S, at: *const f32, columns: usize) -> S::F32 {
        // SAFETY: by the caller's promise.
        unsafe {
            let mut sum = simd.load(at);
            for s in 1..columns {
                sum = R::vectors(simd, sum, simd.load(at.add(s * self.axis.dilation)));
            }
            sum
        }
    }

    /// Outputs of stride 2: the even ones of two vectors, and, where taps are neighbours, the odd ones for the next tap.
    ///
    /// # Safety
    /// Two vectors from each tap of the first window on are valid for reads.
    #[inline(always)]
    unsafe fn in_pairs<S: Simd, R: Reduction>(&self, simd: S, at: *const f32, columns: usize) -> S::F32 {
        let taps = if self.axis.dilation == 1 { 2 } else { 1 };
        let mut sum = simd.splat(R::IDENTITY);
        for s in (0..columns).step_by(taps) {
            // SAFETY: by the caller's promise.
            let (even, odd) = unsafe {
                let at = at.add(s * self.axis.dilation);
                simd.unzip_mixed(simd.load(at), simd.load(at.add(S::LANES)))
            };
            sum = if s == 0 { even } else { R::vectors(simd, sum, even) };
            if taps == 2 && s + 1 < columns {
                sum = R::vectors(simd, sum, odd);
            }
        }
        simd.in_order::<0>(sum)
    }

    /// Outputs of any stride.
    #[inline(always)]
    fn one_by_one<R: Reduction>(&self, out: &mut [f32]) {
        let rows = self.buffer.chunks(self.pitch).zip(out.chunks_mut(self.outputs));
        for (span, (row, out)) in self.spans.iter().zip(rows) {
            for (x, (out, count)) in out.iter_mut().zip(self.counts).enumerate() {
                let columns = row[x * self.axis.stride..].iter().step_by(self.axis.dilation);
                *out = columns.take(self.axis.kernel).fold(R::IDENTITY, |sum, &value| R::scalars(sum, value));
                if R::DIVIDES {
                    *out /= span.counted * count;
                }
            }
        }
    }
}

/// Windows that no buffer holds: one at a time, as many of its taps as a buffer holds.
struct FarApart<'a, R>(Rows<'a, R>);

impl<S: Simd, R: Reduction> SimdOp<S> for FarApart<'_, R> {
    type Output = ();
    #[inline(always)]
    fn eval(self, simd: S) {
        let Rows { plan, input, rows, out, .. } = self.0;
        let spec = &plan.spec;
        let axis = spec.axis(1);
        let source = Source::new(plan, input);
        let mut buffer = Aligned([R::IDENTITY; BUFFER + SLACK]);
        let most = (BUFFER - 1) / axis.dilation + 1;
        let windows = strips(rows, [spec.out_height(), spec.out_width()], [1, 1]);
        for (Strip { plane, rows, columns }, out) in windows.zip(out) {
            let (y, x) = (rows.start, columns.start);
            *out = R::IDENTITY;
            for tap in (0..axis.kernel).step_by(most) {
                let taps = most.min(axis.kernel - tap);
                let first = x * axis.stride + tap * axis.dilation;
                let len = (taps - 1) * axis.dilation + 1;
                source.reduce::<S, R>(simd, plane, y..y + 1, first, len, &mut buffer.0, 0);
                let values = buffer.0[..BUFFER].iter().step_by(axis.dilation).take(taps);
                *out = values.fold(*out, |sum, &value| R::scalars(sum, value));
            }
            if R::DIVIDES {
                *out /= plan.spans[0][y].counted * plan.counts[x];
            }
        }
    }
}
