//! [`depthwise`](super) in NCHW for windows that are compiled in: lanes are pixels of a row, read where they
//! lie. What a vector would read beyond a row is masked, rows beyond the plane are left out.
//!
//! With stride 1 each tap loads its own vector of a row. With stride 2 a pair of vectors, whose even and odd
//! columns are parted, serves all taps: tap s of output x is tap s − 2 of output x + 1, so each two taps have sums
//! of their own, which are moved by a column for each two taps when they are added at the end.

use std::sync::Arc;

use super::Window;
use crate::error::ConvError;
use crate::kernel::{Body, PlanOptions};
use crate::parallel;
use crate::partition::{Partition, Partitioned, Shared, Unit, Worker};
use crate::simd::{Simd, SimdOp};
use crate::spec::ConvSpec;

#[derive(Debug)]
struct InPlace<S> {
    simd: S,
    spec: ConvSpec,
    options: PlanOptions,
    /// As given: `[filter][r][s]`.
    weights: Arc<Vec<f32>>,
}

/// Output rows of a tile. Seven divide the usual heights and leave room for nine weights among 32 registers.
const fn most_rows<S: Simd>(kernel: usize, stride: usize) -> usize {
    let registers = S::MR * S::NV;
    match (kernel, stride) {
        (_, 1) | (3, _) if registers > 16 => 7,
        (_, 1) => 4,
        _ if registers > 16 => 4,
        _ => 2,
    }
}

/// Output columns of a vector. With stride 2 the last ones lack taps, unless those are padding.
pub(super) fn columns(spec: &ConvSpec, lanes: usize) -> usize {
    let ([_, kernel], [_, stride]) = (spec.kernel(), spec.stride());
    let all = stride == 1 || lanes * stride >= spec.in_width() + spec.padding().left;
    if all { lanes } else { lanes - kernel / 2 }
}

/// The body for one of the [special](Window::special) windows.
pub(super) fn arrange<S: Simd>(
    simd: S,
    spec: &ConvSpec,
    options: &PlanOptions,
    weights: Arc<Vec<f32>>,
) -> Result<Box<dyn Body>, ConvError> {
    let threads = parallel::worthwhile(options.threads, spec);
    // A plane is read row by row as it lies: no cache asks for blocks of it.
    let (images, rows) = (spec.batch(), spec.out_height());
    let tile = most_rows::<S>(spec.kernel()[0], spec.stride()[0]);
    let partition = Partition::new(images, rows, rows, tile, spec.out_channels(), threads);
    let worker = InPlace { simd, spec: *spec, options: *options, weights };
    Ok(Box::new(Partitioned { spec: *spec, threads, images, partition, worker }))
}

impl<S: Simd> Worker for InPlace<S> {
    fn scratch_len(&self) -> usize {
        0
    }

    fn unit(&self, unit: &Unit, io: &Shared<'_>, _: &mut [f32]) {
        let filters = Filters { worker: self, io, unit };
        match Window::of(&self.spec).special() {
            Some((3, 1)) => self.simd.vectorize(Fixed::<_, 3, 1>(filters)),
            Some((3, 2)) => self.simd.vectorize(Fixed::<_, 3, 2>(filters)),
            Some((5, 1)) => self.simd.vectorize(Fixed::<_, 5, 1>(filters)),
            Some((5, 2)) => self.simd.vectorize(Fixed::<_, 5, 2>(filters)),
            _ => {}
        }
    }
}

/// The unit's output rows of its filters.
struct Filters<'a, S> {
    worker: &'a InPlace<S>,
    io: &'a Shared<'a>,
    unit: &'a Unit,
}

/// K×K taps with stride T, unrolled.
struct Fixed<'a, S, const K: usize, const T: usize>(Filters<'a, S>);

/// What the loops need, as plain values: behind a reference they would be read again after every store.
#[derive(Clone, Copy)]
struct View<S: Simd> {
    simd: S,
    /// The input plane.
    input: *const f32,
    height: usize,
    width: usize,
    top: usize,
    left: usize,
    /// The output plane.
    output: *mut f32,
    out_width: usize,
    /// Output columns of a vector.
    step: usize,
    bias: S::F32,
    /// Limits of the activation, if there is one.
    limits: Option<(S::F32, S::F32)>,
    accumulate: bool,
}

/// Lanes of the vectors to be loaded for a vector of output columns that are there, and how many are to be
/// stored.
#[derive(Clone, Copy)]
struct Edge<S: Simd, const K: usize> {
    /// With stride 1 a vector for each tap, with stride 2 two vectors.
    loads: [S::Mask; K],
    store: usize,
}

/// The masks of a row's first vector, of its last one, and of those that lie inside.
struct Edges<S: Simd, const K: usize> {
    first: Edge<S, K>,
    last: Edge<S, K>,
    none: Edge<S, K>,
}

impl<S: Simd, const K: usize, const T: usize> SimdOp<S> for Fixed<'_, S, K, T> {
    type Output = ();
    #[inline(always)]
    fn eval(self, simd: S) {
        let Filters { worker: InPlace { spec, options, weights, .. }, io, unit } = self.0;
        let (plane, out_plane) = (spec.in_height() * spec.in_width(), spec.out_height() * spec.out_width());
        let (first, out_first) = (unit.image * spec.in_channels(), unit.image * spec.out_channels());
        let mut view = View {
            simd,
            input: io.input.as_ptr(),
            height: spec.in_height(),
            width: spec.in_width(),
            top: spec.padding().top,
            left: spec.padding().left,
            // SAFETY: the output starts there.
            output: unsafe { io.output.at(0) },
            out_width: spec.out_width(),
            step: if T == 1 { S::LANES } else { columns(spec, S::LANES) },
            bias: simd.splat(0.0),
            limits: options.activation.map(|_| {
                let (lo, hi) = options.limits();
                (simd.splat(lo), simd.splat(hi))
            }),
            accumulate: options.accumulate,
        };

        let edges = Edges {
            first: view.edge::<K, T>(0),
            last: view.edge::<K, T>((view.out_width - 1) / view.step * view.step),
            none: Edge { loads: [simd.mask(0, S::LANES); K], store: view.step },
        };
        let multiplier = spec.group_out_channels();
        for filter in unit.filter_tiles.clone() {
            let channel = if multiplier == 1 { filter } else { filter / multiplier };
            view.input = io.input.as_ptr().wrapping_add((first + channel) * plane);
            // SAFETY: the filter's plane exists.
            view.output = unsafe { io.output.at((out_first + filter) * out_plane) };
            if let Some(bias) = io.bias {
                view.bias = simd.splat(bias[filter]);
            }
            let mut taps = [[simd.splat(0.0); K]; K];
            for (row, values) in taps.iter_mut().zip(weights[filter * K * K..][..K * K].chunks_exact(K)) {
                for (tap, &value) in row.iter_mut().zip(values) {
                    *tap = simd.splat(value);
                }
            }
            let (mut y, end) = (unit.pixels.start, unit.pixels.end);
            if const { most_rows::<S>(K, T) == 7 } {
                while y + 7 <= end {
                    rows::<S, K, T, 7>(view, &taps, &edges, y);
                    y += 7;
                }
            }
            if const { most_rows::<S>(K, T) >= 4 } {
                while y + 4 <= end {
                    rows::<S, K, T, 4>(view, &taps, &edges, y);
                    y += 4;
                }
            }
            while y + 2 <= end {
                rows::<S, K, T, 2>(view, &taps, &edges, y);
                y += 2;
            }
            if y < end {
                rows::<S, K, T, 1>(view, &taps, &edges, y);
            }
        }
    }
}

impl<S: Simd> View<S> {
    /// The masks for the output columns from x.
    #[inline(always)]
    fn edge<const K: usize, const T: usize>(&self, x: usize) -> Edge<S, K> {
        let simd = self.simd;
        let mut loads = [simd.mask(0, 0); K];
        for (s, mask) in loads.iter_mut().enumerate() {
            // Counted from the first column of the padding.
            let column = x * T + if T == 1 { s } else { s * S::LANES };
            let end = (self.width + self.left).saturating_sub(column);
            *mask = simd.mask(self.left.saturating_sub(column), end);
        }
        Edge { loads, store: self.step.min(self.out_width - x) }
    }

    /// Whether the vectors for the output columns from x lie inside the image and their outputs inside the row.
    #[inline(always)]
    fn inside<const K: usize, const T: usize>(&self, x: usize) -> bool {
        let end = if T == 1 { x + S::LANES + K - 1 } else { (x + S::LANES) * T };
        x * T >= self.left && end <= self.width + self.left && x + self.step <= self.out_width
    }

    /// The pixels of a row for the output columns from x: with stride 1 those under each tap, with stride 2 those
    /// of even columns and those of odd ones, in an order that [`Simd::in_order`] makes good.
    ///
    /// # Safety
    /// The row exists, and with `INSIDE` the columns are [inside](Self::inside); else `edge` is theirs.
    #[inline(always)]
    unsafe fn pixels<const K: usize, const T: usize, const INSIDE: bool>(
        &self,
        row: usize,
        x: usize,
        edge: &Edge<S, K>,
    ) -> [S::F32; K] {
        let simd = self.simd;
        // May point before the row: then the first lanes are masked.
        let start = self.input.wrapping_add(row * self.width + x * T).wrapping_sub(self.left);
        let mut pixels = [simd.splat(0.0); K];
        for s in 0..if T == 1 { K } else { 2 } {
            let from = start.wrapping_add(if T == 1 { s } else { s * S::LANES });
            // SAFETY: the lanes that are read lie in the row, by the caller's promise.
            pixels[s] =
                unsafe { if INSIDE { simd.load(from) } else { simd.load_masked(from, edge.loads[s]) } };
        }
        if T == 2 {
            (pixels[0], pixels[1]) = simd.unzip_mixed(pixels[0], pixels[1]);
        }
        pixels
    }

    /// Adds the previous output to the sums of R rows from (y, x), applies the limits and stores them.
    ///
    /// # Safety
    /// The rows are the unit's, which belong to the caller alone; with `WHOLE` they have a whole vector from
    /// x, else `lanes`.
    #[inline(always)]
    unsafe fn finish<const R: usize, const WHOLE: bool>(
        &self,
        mut sums: [S::F32; R],
        y: usize,
        x: usize,
        lanes: usize,
    ) {
        let simd = self.simd;
        let output = self.output.wrapping_add(y * self.out_width + x);
        if self.accumulate {
            for (i, sum) in sums.iter_mut().enumerate() {
                // SAFETY: by the caller's promise.
                *sum = simd
                    .add(*sum, unsafe { simd.load_partial(output.wrapping_add(i * self.out_width), lanes) });
            }
        }
        if let Some((lo, hi)) = self.limits {
            for sum in &mut sums {
                *sum = simd.clamp(*sum, lo, hi);
            }
        }
        for (i, &sum) in sums.iter().enumerate() {
            let output = output.wrapping_add(i * self.out_width);
            // SAFETY: by the caller's promise.
            unsafe {
                if WHOLE {
                    simd.store(output, sum);
                } else {
                    simd.store_partial(output, sum, lanes);
                }
            }
        }
    }
}

/// R output rows from y.
#[inline(always)]
fn rows<S: Simd, const K: usize, const T: usize, const R: usize>(
    view: View<S>,
    taps: &[[S::F32; K]; K],
    edges: &Edges<S, K>,
    y: usize,
) {
    let all = y * T >= view.top && (y + R - 1) * T + K <= view.height + view.top;
    for x in (0..view.out_width).step_by(view.step) {
        let inside = view.inside::<K, T>(x);
        if inside && all {
            tile::<S, K, T, R, true>(view, taps, &edges.none, y, x);
            continue;
        }
        let edge = if inside {
            edges.none
        } else if x == 0 {
            edges.first
        } else if x + view.step >= view.out_width {
            edges.last
        } else {
            view.edge::<K, T>(x)
        };
        tile::<S, K, T, R, false>(view, taps, &edge, y, x);
    }
}

/// A vector of columns of R output rows.
#[inline(always)]
fn tile<S: Simd, const K: usize, const T: usize, const R: usize, const INSIDE: bool>(
    view: View<S>,
    taps: &[[S::F32; K]; K],
    edge: &Edge<S, K>,
    y: usize,
    x: usize,
) {
    let simd = view.simd;
    // With stride 2: sums of taps 0 and 1, 2 and 3, 4.
    let mut acc = [[view.bias; R], [simd.splat(0.0); R], [simd.splat(0.0); R]];
    // The input rows under the tile one by one, each with constant indices.
    macro_rules! rows {
        ($($row:literal)*) => {
            $(if const { $row < (R - 1) * T + K } {
                tile_row::<S, K, T, R, INSIDE, $row>(view, taps, edge, y, x, &mut acc);
            })*
        };
    }
    rows!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16);
    let [mut sums, second, third] = acc;
    if T == 2 {
        for i in 0..R {
            sums[i] = simd.add(simd.in_order::<0>(sums[i]), simd.in_order::<1>(second[i]));
            if K > 3 {
                sums[i] = simd.add(sums[i], simd.in_order::<2>(third[i]));
            }
        }
    }
    // SAFETY: the tile lies in the unit's rows; `edge` is of x.
    unsafe {
        if T == 1 {
            view.finish::<R, INSIDE>(sums, y, x, edge.store);
        } else {
            view.finish::<R, false>(sums, y, x, edge.store);
        }
    }
}

/// Adds what input row ROW of a tile gives to its outputs.
#[inline(always)]
fn tile_row<S: Simd, const K: usize, const T: usize, const R: usize, const INSIDE: bool, const ROW: usize>(
    view: View<S>,
    taps: &[[S::F32; K]; K],
    edge: &Edge<S, K>,
    y: usize,
    x: usize,
    acc: &mut [[S::F32; R]; 3],
) {
    // May wrap below zero, which is no row either.
    let row = (y * T + ROW).wrapping_sub(view.top);
    if !INSIDE && row >= view.height {
        return;
    }
    // SAFETY: the row was checked, `INSIDE` for all of the tile; `edge` is of x.
    let pixels = unsafe { view.pixels::<K, T, INSIDE>(row, x, edge) };
    for s in 0..K {
        let (pixels, sums) = if T == 1 { (pixels[s], &mut acc[0]) } else { (pixels[s % 2], &mut acc[s / 2]) };
        for (i, sum) in sums.iter_mut().enumerate() {
            let r = ROW.wrapping_sub(i * T);
            if r < K {
                *sum = view.simd.mul_add(pixels, taps[r][s], *sum);
            }
        }
    }
}
