//! Pooling held to its definition: a reference in float64 with shape arithmetic of its own, random cases, and what
//! is checked of each.

pub mod bench;

use kernels::pool::{PoolPlan, PoolSpec, Pooling};
use kernels::{Isa, Layout, Padding};
use proptest::prelude::*;
use proptest::sample::select;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::check::UNIT_ROUNDOFF;
use crate::guard::Guarded;
use crate::verify::same_bits;

/// A test case.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// The pooling's shapes.
    pub spec: PoolSpec,
    /// What is made of each window.
    pub pooling: Pooling,
    /// What the pixels are like.
    pub values: Values,
    /// Threads of the plan.
    pub threads: usize,
    /// f32s by which the buffers are moved off their natural alignment.
    pub offset: usize,
    /// Seed of the data.
    pub seed: u64,
}

/// What pixels are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// Few different ones: windows have several maxima.
    Ties,
    /// All different, near and far from zero.
    Distinct,
    /// Some are infinite, some NaN.
    Special,
}

/// The windows of one axis, found by moving one over the padded input.
struct Windows {
    size: usize,
    before: usize,
    padded: usize,
    kernel: usize,
    stride: usize,
    dilation: usize,
    count: usize,
}

impl Windows {
    fn new(spec: &PoolSpec, axis: usize) -> Self {
        let p = spec.padding();
        let size = [spec.in_height(), spec.in_width()][axis];
        let before = [p.top, p.left][axis];
        let padded = size + before + [p.bottom, p.right][axis];
        let (kernel, stride, dilation) = (spec.kernel()[axis], spec.stride()[axis], spec.dilation()[axis]);
        let end = |window: usize| window * stride + (kernel - 1) * dilation + 1;
        // Rounded down, windows end in the padded input; rounded up, one that begins before the end of the last
        // stride and in the input may end beyond.
        let room = if spec.ceil_mode() { padded + stride - 1 } else { padded };
        let fits = |window: &usize| end(*window) <= room && window * stride < size + before;
        let count = (0..).take_while(fits).count();
        Windows { size, before, padded, kernel, stride, dilation, count }
    }

    /// Places of a window's taps that lie in the input.
    fn places(&self, window: usize) -> impl Iterator<Item = usize> {
        let places = (0..self.kernel).map(move |tap| window * self.stride + tap * self.dilation);
        places.filter_map(|place| place.checked_sub(self.before)).filter(|&place| place < self.size)
    }

    /// What an average counts.
    fn counted(&self, window: usize, padding_too: bool) -> usize {
        if !padding_too {
            return self.places(window).count();
        }
        (0..self.kernel).filter(|tap| window * self.stride + tap * self.dilation < self.padded).count()
    }
}

/// The definition of a pooling.
pub struct Reference<'a> {
    spec: &'a PoolSpec,
    pooling: Pooling,
    windows: [Windows; 2],
}

/// An exact value (to float64's rounding), the sum of the absolute values of its terms, and how many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Term {
    /// The value.
    pub value: f64,
    /// The sum of absolute values.
    pub scale: f64,
    /// Terms.
    pub count: usize,
}

impl Term {
    fn add(&mut self, value: f64) {
        *self = Term { value: self.value + value, scale: self.scale + value.abs(), count: self.count + 1 };
    }

    /// Whether a result is right: as many roundings as terms and a few beside.
    fn allows(&self, got: f32) -> bool {
        let got = f64::from(got);
        if self.value.is_nan() || self.value.is_infinite() || self.count == 0 {
            return got.is_nan() && self.value.is_nan() || got == self.value;
        }
        let allowed = (self.count + 3) as f64 * (UNIT_ROUNDOFF * self.scale + f64::from(f32::from_bits(1)));
        (got - self.value).abs() <= allowed
    }
}

impl<'a> Reference<'a> {
    /// Of a pooling.
    pub fn new(spec: &'a PoolSpec, pooling: Pooling) -> Self {
        Reference { spec, pooling, windows: [Windows::new(spec, 0), Windows::new(spec, 1)] }
    }

    /// Rows and columns of the output.
    pub fn output_size(&self) -> [usize; 2] {
        [self.windows[0].count, self.windows[1].count]
    }

    fn index(&self, [height, width]: [usize; 2], [n, c, y, x]: [usize; 4]) -> usize {
        let channels = self.spec.channels();
        match self.spec.layout() {
            Layout::Nchw => ((n * channels + c) * height + y) * width + x,
            Layout::Nhwc => ((n * height + y) * width + x) * channels + c,
        }
    }

    /// Calls `f` with the output's index of each window, the inputs' indices in the order of rows, and how many an
    /// average counts.
    fn for_each_window(&self, mut f: impl FnMut(usize, &[usize], usize)) {
        let (spec, [rows, columns]) = (self.spec, &self.windows);
        let input = [spec.in_height(), spec.in_width()];
        let padding_too = matches!(self.pooling, Pooling::Average { count_include_pad: true });
        for (n, c) in (0..spec.batch()).flat_map(|n| (0..spec.channels()).map(move |c| (n, c))) {
            for (y, x) in (0..rows.count).flat_map(|y| (0..columns.count).map(move |x| (y, x))) {
                let pixels: Vec<usize> = rows
                    .places(y)
                    .flat_map(|iy| columns.places(x).map(move |ix| (iy, ix)))
                    .map(|(iy, ix)| self.index(input, [n, c, iy, ix]))
                    .collect();
                let counted = rows.counted(y, padding_too) * columns.counted(x, padding_too);
                f(self.index(self.output_size(), [n, c, y, x]), &pixels, counted);
            }
        }
    }

    /// The first of the largest pixels; NaN is larger than any number.
    fn largest(input: &[f32], pixels: &[usize]) -> Option<usize> {
        pixels.iter().copied().reduce(|best, pixel| {
            let larger = input[pixel] > input[best] || (input[pixel].is_nan() && !input[best].is_nan());
            if larger { pixel } else { best }
        })
    }

    /// What the output has to be.
    pub fn forward(&self, input: &[f32]) -> Vec<Term> {
        let mut output = vec![Term::default(); self.spec.output_len()];
        self.for_each_window(|out, pixels, counted| {
            match self.pooling {
                Pooling::Max => {
                    let largest = Reference::largest(input, pixels);
                    output[out].value = largest.map_or(f64::NEG_INFINITY, |pixel| f64::from(input[pixel]));
                }
                Pooling::Average { .. } => {
                    for &pixel in pixels {
                        output[out].add(f64::from(input[pixel]) / counted as f64);
                    }
                }
            };
        });
        output
    }

    /// What the gradient by the input has to be.
    pub fn backward(&self, input: &[f32], grad_output: &[f32]) -> Vec<Term> {
        let mut grads = vec![Term::default(); self.spec.input_len()];
        self.for_each_window(|out, pixels, counted| {
            let grad = f64::from(grad_output[out]);
            match self.pooling {
                Pooling::Max => {
                    if let Some(pixel) = Reference::largest(input, pixels) {
                        grads[pixel].add(grad);
                    }
                }
                Pooling::Average { .. } => {
                    pixels.iter().for_each(|&pixel| grads[pixel].add(grad / counted as f64));
                }
            }
        });
        grads
    }
}

/// The pixels and the gradients by the output of a case.
pub fn tensors(case: &Case) -> (Vec<f32>, Vec<f32>) {
    let mut rng = ChaCha8Rng::seed_from_u64(case.seed);
    let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    let input = (0..case.spec.input_len()).map(|_| match case.values {
        Values::Ties => rng.random_range(-3..=3) as f32,
        Values::Special if rng.random_bool(0.1) => special[rng.random_range(0..3usize)],
        _ => rng.random_range(-1.0..1.0_f32) * 10f32.powi(rng.random_range(-3..3)),
    });
    let input = input.collect();
    (input, (0..case.spec.output_len()).map(|_| rng.random_range(-1.0..1.0)).collect())
}

/// Checks everything about a case that can be checked: shapes, values of both ways, canaries, dirty memory, a second
/// run, another number of threads.
///
/// # Errors
/// What is wrong.
pub fn run_case(isa: Isa, case: &Case) -> Result<(), String> {
    let Case { spec, pooling, threads, offset, .. } = *case;
    let reference = Reference::new(&spec, pooling);
    if reference.output_size() != [spec.out_height(), spec.out_width()] {
        return Err(format!(
            "the output is {:?}, by definition {:?}",
            spec.output_shape(),
            reference.output_size()
        ));
    }
    let (input, grads) = tensors(case);
    let plan = PoolPlan::on(isa, &spec, pooling, threads).map_err(|e| e.to_string())?;
    let single = PoolPlan::on(isa, &spec, pooling, 1).map_err(|e| e.to_string())?;
    let (input, grads) = (Guarded::new(&input, offset), Guarded::new(&grads, offset));
    let forward = |plan: &PoolPlan, output: &mut [f32]| plan.run(input.slice(), output);
    let backward = |plan: &PoolPlan, output: &mut [f32]| plan.backward(input.slice(), grads.slice(), output);
    type Way<'a> = &'a dyn Fn(&PoolPlan, &mut [f32]) -> Result<(), kernels::ConvError>;
    let ways: [(&str, Way<'_>, Vec<Term>); 2] = [
        ("output", &forward, reference.forward(input.slice())),
        ("gradient", &backward, reference.backward(input.slice(), grads.slice())),
    ];
    for (name, run, want) in ways {
        let once = |plan: &PoolPlan| {
            let mut output = Guarded::dirty(want.len(), offset);
            run(plan, output.slice_mut()).map_err(|error| error.to_string())?;
            if output.is_intact() { Ok(output) } else { Err(format!("writes outside the {name}")) }
        };
        let output = once(&plan)?;
        for (i, (got, want)) in output.slice().iter().zip(&want).enumerate() {
            if !want.allows(*got) {
                return Err(format!("{name} {i} is {got:e}, but must be {want:?}"));
            }
        }
        for (what, plan) in [("a second run", &plan), ("one thread", &single)] {
            if !same_bits(output.slice(), once(plan)?.slice()) {
                return Err(format!("{what} gives other bits of the {name}"));
            }
        }
    }
    Ok(())
}

/// Any pooling of few pixels.
pub fn case() -> impl Strategy<Value = Case> {
    let extent = || prop_oneof![3 => 1..=9usize, 2 => 10..=40usize, 1 => 60..=140usize];
    let channels = prop_oneof![3 => 1..=9usize, 2 => 10..=40usize, 1 => 60..=140usize];
    let small = || prop_oneof![6 => 1..=4usize, 2 => 5..=9usize, 1 => 10..=40usize];
    let step = || prop_oneof![4 => Just(1usize), 4 => Just(2usize), 2 => 3..=12usize];
    let dilation = || prop_oneof![4 => Just(1usize), 1 => 2..=4usize];
    let pads = || prop_oneof![1 => Just(0usize), 2 => 0..=4usize, 1 => 0..=40usize];
    let shape = (1..=3usize, channels, [extent(), extent()]);
    let window =
        ([small(), small()], [step(), step()], [dilation(), dilation()], [pads(), pads(), pads(), pads()]);
    let how =
        (any::<bool>(), any::<bool>(), 0..8usize, 0..3usize, select(VALUES.to_vec()), 1..=3usize, 0..16usize);
    // Those of known networks, as often as any other.
    let usual = prop_oneof![Just(None), prop_oneof![Just((2, 2)), Just((3, 1)), Just((3, 2))].prop_map(Some)];
    (shape, window, usual, how, 0..u64::MAX).prop_map(|(shape, window, usual, how, seed)| {
        let (mut kernel, mut stride, mut dilation, pads) = window;
        if let Some((size, step)) = usual {
            (kernel, stride, dilation) = ([size; 2], [step; 2], [1, 1]);
        }
        let (batch, mut channels, mut size) = shape;
        let (nhwc, ceil_mode, global, pooling, values, threads, offset) = how;
        while batch * channels * size[0] * size[1] > 20_000 {
            let axis = usize::from(size[1] > size[0]);
            (channels, size[axis]) = (channels.div_ceil(2), size[axis].div_ceil(2));
        }
        let kernel = if global == 0 { size } else { kernel };
        let reach = [0, 1].map(|axis| (kernel[axis] - 1) * dilation[axis] + 1);
        let [top, left, bottom, right] = std::array::from_fn(|side| match global {
            0 => 0,
            _ => pads[side] % reach[side % 2],
        });
        // A window larger than the padded input is made of a larger input.
        for (axis, padding) in [top + bottom, left + right].into_iter().enumerate() {
            size[axis] = size[axis].max(reach[axis].saturating_sub(padding));
        }
        let spec = PoolSpec::builder()
            .batch(batch)
            .channels(channels)
            .input_size(size[0], size[1])
            .kernel(kernel[0], kernel[1])
            .stride(stride[0], stride[1])
            .padding(Padding { top, left, bottom, right })
            .dilation(dilation[0], dilation[1])
            .ceil_mode(ceil_mode)
            .layout(if nhwc { Layout::Nhwc } else { Layout::Nchw })
            .build();
        let pooling = match pooling {
            0 => Pooling::Max,
            other => Pooling::Average { count_include_pad: other == 1 },
        };
        Case { spec: valid(spec), pooling, values, threads, offset, seed }
    })
}

const VALUES: [Values; 3] = [Values::Ties, Values::Distinct, Values::Special];

#[allow(clippy::expect_used)]
fn valid(spec: Result<PoolSpec, kernels::SpecError>) -> PoolSpec {
    spec.expect("padding is less than the window, and the window fits")
}
