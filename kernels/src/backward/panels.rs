//! Operands of products over pixels, packed for the register tile: `[panel][step][width]`.

use std::ops::Range;

use wide::f32x4;

use crate::band::Image;
use crate::simd::{Simd, SimdOp};
use crate::spec::ConvSpec;

/// Some outputs, whose pixels are the steps of a product.
#[derive(Clone, Debug)]
pub(super) struct Steps {
    pub(super) images: Range<usize>,
    pub(super) rows: Range<usize>,
    pub(super) columns: Range<usize>,
}

impl Steps {
    pub(super) fn len(&self) -> usize {
        self.images.len() * self.rows.len() * self.columns.len()
    }
}

/// Where the channels of a group are, for each output: all distances in f32s.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    start: usize,
    image: usize,
    row: usize,
    pub(super) pixel: usize,
    pub(super) channel: usize,
}

/// Pixels of a [`View`], in runs of neighbouring outputs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Runs {
    /// Of the first channel.
    pub(super) start: usize,
    /// Images, and f32s from one to the next.
    pub(super) images: [usize; 2],
    /// Runs of an image, and f32s from one to the next.
    pub(super) runs: [usize; 2],
    /// Pixels of a run.
    pub(super) len: usize,
}

impl View {
    /// The filters of a group in the output.
    pub(super) fn output(spec: &ConvSpec, group: usize) -> Self {
        let image = Image::output(spec, 0, group..group + 1);
        View {
            start: image.at(0, 0, 0),
            image: spec.output_len() / spec.batch(),
            row: image.row(),
            pixel: image.pixel(),
            channel: image.channel(),
        }
    }

    /// The channels of a group in the input that a 1×1 kernel without padding sees.
    pub(super) fn input(spec: &ConvSpec, group: usize) -> Self {
        let image = Image::input(spec, 0, group..group + 1);
        let [down, right] = spec.stride();
        View {
            start: image.at(0, 0, 0),
            image: spec.input_len() / spec.batch(),
            row: image.row() * down,
            pixel: image.pixel() * right,
            channel: image.channel(),
        }
    }

    /// The pixels of some outputs, in as few runs as they make.
    pub(super) fn runs(&self, steps: &Steps) -> Runs {
        let (rows, columns) = (steps.rows.len(), steps.columns.len());
        let one = rows == 1 || self.row == columns * self.pixel;
        Runs {
            start: self.start
                + steps.images.start * self.image
                + steps.rows.start * self.row
                + steps.columns.start * self.pixel,
            images: [steps.images.len(), self.image],
            runs: if one { [1, 0] } else { [rows, self.row] },
            len: if one { rows * columns } else { columns },
        }
    }
}

/// How columns are cut into panels: a first one that may be narrower, then others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    pub(super) first: usize,
    pub(super) width: usize,
}

impl Cut {
    /// The columns of each panel.
    #[inline(always)]
    pub(super) fn panels(self, columns: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let first = (columns.start + self.first).min(columns.end);
        let rest = (first..columns.end).step_by(self.width);
        std::iter::once(columns.start..first)
            .chain(rest.map(move |start| start..(start + self.width).min(columns.end)))
    }
}

/// Packs some channels of a view under some outputs. What a panel has beyond its channels may be anything finite that is
/// in the data, or what was there.
pub(super) fn pack_view<S: Simd>(
    simd: S,
    view: &View,
    data: &[f32],
    channels: &Range<usize>,
    steps: &Steps,
    cut: Cut,
    to: &mut [f32],
) {
    let runs = view.runs(steps);
    let panel = steps.len() * cut.width;
    for image in 0..runs.images[0] {
        let start = runs.start + image * runs.images[1] + channels.start * view.channel;
        let packed = image * (steps.len() / runs.images[0]) * cut.width;
        let block = Block {
            from: &data[start..],
            row: runs.runs[1],
            rows: runs.runs[0],
            pixel: view.pixel,
            len: runs.len,
            columns: channels.len(),
            cut,
            to: &mut to[packed..],
            panel,
        };
        if view.channel == 1 {
            simd.vectorize(Pixels(block));
        } else {
            pack_planes(simd, block, |column| column * view.channel);
        }
    }
}

/// Packs columns whose pixels lie as in planes, each at its place.
pub(super) fn pack_planes<S: Simd>(simd: S, block: Block<'_>, place: impl Fn(usize) -> usize) {
    simd.vectorize(InPlanes(block, place));
}

/// What is packed of an image, and where.
#[derive(Debug)]
pub(super) struct Block<'a> {
    pub(super) from: &'a [f32],
    /// Runs of pixels, f32s from one to the next, and how many pixels of which distance each has.
    pub(super) row: usize,
    pub(super) rows: usize,
    pub(super) pixel: usize,
    pub(super) len: usize,
    pub(super) columns: usize,
    pub(super) cut: Cut,
    pub(super) to: &'a mut [f32],
    /// f32s from one panel to the next.
    pub(super) panel: usize,
}

impl Block<'_> {
    /// Whether columns at most `far` from the first lie in `from`, and panels in `to`.
    #[inline(always)]
    fn is_inside(&self, far: usize) -> bool {
        let panels = self.cut.panels(0..self.columns).count();
        let packed = (panels - 1) * self.panel + self.rows * self.len * self.cut.width;
        far + (self.rows - 1) * self.row + (self.len - 1) * self.pixel < self.from.len()
            && packed <= self.to.len()
    }
}

/// Pixels whose columns lie side by side.
struct Pixels<'a>(Block<'a>);

impl<S: Simd> SimdOp<S> for Pixels<'_> {
    type Output = ();
    #[inline(always)]
    fn eval(self, simd: S) {
        let block = self.0;
        if block.columns == 0 || !block.is_inside(block.columns - 1) {
            return debug_assert!(false, "columns beyond their operand");
        }
        let (cut, to) = (block.cut, block.to);
        for step in 0..block.rows * block.len {
            let from = step / block.len * block.row + step % block.len * block.pixel;
            for (panel, columns) in cut.panels(0..block.columns).enumerate() {
                let from = &block.from[from..][columns.clone()];
                let to = &mut to[panel * block.panel + step * cut.width..][..cut.width];
                for (from, to) in from.chunks(S::LANES).zip(to.chunks_exact_mut(S::LANES)) {
                    // SAFETY: `to` has a vector, `from` what is read of it.
                    unsafe {
                        let whole = from.len() == S::LANES;
                        let p = from.as_ptr();
                        let value = if whole { simd.load(p) } else { simd.load_partial(p, from.len()) };
                        simd.store(to.as_mut_ptr(), value);
                    }
                }
            }
        }
    }
}

/// Pixels of planes, with the place of each column's first one.
struct InPlanes<'a, P>(Block<'a>, P);

impl<S: Simd, P: Fn(usize) -> usize> SimdOp<S> for InPlanes<'_, P> {
    type Output = ();
    #[inline(always)]
    fn eval(self, _: S) {
        let InPlanes(block, place) = self;
        let inside = (0..block.columns).map(&place).max().is_some_and(|far| block.is_inside(far));
        if !inside || !block.cut.width.is_multiple_of(4) {
            return debug_assert!(false, "columns beyond their planes");
        }
        // SAFETY: all columns lie inside, and panels are whole fours of columns.
        unsafe {
            match block.pixel {
                1 => transpose(block, place, |from| f32x4::new(from.cast::<[f32; 4]>().read())),
                2 => transpose(block, place, |from| {
                    let (a, b) = (from.cast::<[f32; 4]>().read(), from.add(3).cast::<[f32; 4]>().read());
                    f32x4::new([a[0], a[2], b[1], b[3]])
                }),
                pixel => {
                    transpose(block, place, |from| f32x4::new(std::array::from_fn(|i| *from.add(i * pixel))))
                }
            }
        }
    }
}

/// Transposes 4×4 blocks: four pixels, which `load` reads, of four columns. Of a run's last pixels some may be moved
/// twice; beyond a panel's columns the last one is repeated.
///
/// # Safety
/// All columns lie inside their planes and panels, and panels are whole fours of columns.
#[inline(always)]
unsafe fn transpose(block: Block<'_>, place: impl Fn(usize) -> usize, load: impl Fn(*const f32) -> f32x4) {
    let Block { from, row, rows, pixel, len, columns, cut, to, panel } = block;
    let width = cut.width;
    for (i, columns) in cut.panels(0..columns).enumerate() {
        for y in 0..rows {
            for first in columns.clone().step_by(4) {
                // SAFETY: by the caller's promise; at least four pixels are read where a run has so many.
                unsafe {
                    let from: [*const f32; 4] = std::array::from_fn(|k| {
                        from.as_ptr().add(place((first + k).min(columns.end - 1)) + y * row)
                    });
                    let to = to.as_mut_ptr().add(i * panel + y * len * width + first - columns.start);
                    let mut x = 0;
                    while x < len && len >= 4 {
                        let block = f32x4::transpose(from.map(|from| load(from.add(x * pixel))));
                        for (k, column) in block.iter().enumerate() {
                            to.add((x + k) * width).cast::<[f32; 4]>().write(column.to_array());
                        }
                        x = if x + 4 < len { (x + 4).min(len - 4) } else { len };
                    }
                    for x in x..len {
                        for (k, from) in from.iter().enumerate() {
                            *to.add(x * width + k) = *from.add(x * pixel);
                        }
                    }
                }
            }
        }
    }
}
