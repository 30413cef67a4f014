//! The reference: the definition in float64, with shape arithmetic of its own, and the scale of the
//! error bound that each output is held to.
//!
//! It shares no code with the kernels and takes from a [`ConvSpec`] only what its user gave: sizes of
//! the input, kernel, stride, padding, dilation, groups.

use std::cell::OnceCell;

use kernels::{ConvSpec, ErrorModel, Layout, PlanOptions, WinogradTransform};

use crate::data::Tensors;

/// Position of an output element: image, channel, row, column.
pub type Position = [usize; 4];

/// What an output element has to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expected {
    /// The exact value before the activation (to float64's rounding).
    pub value: f64,
    /// What the error model multiplies with k·u.
    pub scale: f64,
    /// What it multiplies with k·2⁻¹⁴⁹, the smallest number above 0: what numbers too small for a normal
    /// f32 may lose.
    pub underflow: f64,
}

/// What the definition gives for an output element, whichever kernel computes it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sum {
    /// Products, bias and, where it accumulates, what was there before (to float64's rounding).
    pub value: f64,
    /// The same of absolute values.
    pub scale: f64,
}

/// The reference of one convolution.
#[derive(Debug)]
pub struct Oracle<'a> {
    tensors: &'a Tensors,
    with_bias: bool,
    accumulate: bool,
    winograd: Option<Winograd>,
    /// What small operands lose, in units of what `underflow` is multiplied with.
    operand: Option<f64>,
    layout: Layout,
    channels: [usize; 2],
    groups: usize,
    input: [usize; 2],
    /// Output rows and columns, counted by stepping the window over the padded input.
    output: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    /// Padding above and left.
    before: [usize; 2],
    batch: usize,
}

/// What the scale of a Winograd kernel's error needs, computed when first asked for.
#[derive(Debug)]
struct Winograd {
    transform: &'static WinogradTransform,
    /// Tiles of a column and of a row.
    tiles: [usize; 2],
    /// |G g Gᵀ| of each output channel: alpha² values for each input channel.
    u: Vec<OnceCell<Vec<f64>>>,
    /// |Bᵀ||d||B| of each image and tile: alpha² values for each input channel.
    v: Vec<OnceCell<Vec<f64>>>,
}

/// Places of the window: as many as fit while it moves by the stride.
fn places(padded: usize, kernel: usize, stride: usize, dilation: usize) -> usize {
    let reach = (1..kernel).fold(1, |reach, _| reach + dilation);
    (0..).take_while(|place| place * stride + reach <= padded).count()
}

impl<'a> Oracle<'a> {
    /// The reference for a run with these buffers and options, for outputs that promise `model`.
    pub fn new(
        spec: &ConvSpec,
        tensors: &'a Tensors,
        options: &PlanOptions,
        with_bias: bool,
        model: ErrorModel,
    ) -> Self {
        let (kernel, stride, dilation) = (spec.kernel(), spec.stride(), spec.dilation());
        let p = spec.padding();
        let padded = [spec.in_height() + p.top + p.bottom, spec.in_width() + p.left + p.right];
        let output = [0, 1].map(|axis| places(padded[axis], kernel[axis], stride[axis], dilation[axis]));
        let winograd = match model {
            ErrorModel::Winograd { transform, .. } => {
                let tiles = output.map(|size| size.div_ceil(transform.output));
                Some(Winograd {
                    transform,
                    tiles,
                    u: vec![OnceCell::new(); spec.out_channels()],
                    v: vec![OnceCell::new(); spec.batch() * tiles[0] * tiles[1]],
                })
            }
            _ => None,
        };
        let operand = match model {
            ErrorModel::Rounded { k, operand } => Some(operand / (k * f64::from(f32::from_bits(1)))),
            _ => None,
        };
        Oracle {
            tensors,
            with_bias,
            accumulate: options.accumulate,
            winograd,
            operand,
            layout: spec.layout(),
            channels: [spec.in_channels(), spec.out_channels()],
            groups: spec.groups(),
            input: [spec.in_height(), spec.in_width()],
            output,
            kernel,
            stride,
            dilation,
            before: [p.top, p.left],
            batch: spec.batch(),
        }
    }

    /// Rows and columns of the output.
    pub fn output_size(&self) -> [usize; 2] {
        self.output
    }

    /// All positions, in no particular order of memory.
    pub fn positions(&self) -> impl Iterator<Item = Position> + use<> {
        let ([height, width], channels, batch) = (self.output, self.channels[1], self.batch);
        (0..batch).flat_map(move |n| {
            (0..channels)
                .flat_map(move |o| (0..height).flat_map(move |y| (0..width).map(move |x| [n, o, y, x])))
        })
    }

    /// Index of a position in the output buffer.
    pub fn index(&self, [n, o, y, x]: Position) -> usize {
        index(self.layout, [self.channels[1], self.output[0], self.output[1]], [n, o, y, x])
    }

    /// What the output has to be at a position.
    pub fn at(&self, position: Position) -> Expected {
        self.expected(position, self.sum(position))
    }

    /// What the output has to be where the definition gives `sum`.
    pub fn expected(&self, position: Position, sum: Sum) -> Expected {
        let Sum { value, scale } = sum;
        match (&self.winograd, self.operand) {
            (None, None) => Expected { value, scale, underflow: 1.0 },
            (None, Some(operand)) => {
                let mut operands = 0.0;
                self.for_each_term(position, |weight, pixel| operands += weight.abs() + pixel.abs());
                Expected { value, scale, underflow: 1.0 + operand * operands }
            }
            (Some(winograd), _) => {
                let (products, underflow) = self.winograd_scales(winograd, position);
                Expected { value, scale: products + self.extra(position).scale, underflow }
            }
        }
    }

    /// What the definition gives at a position.
    pub fn sum(&self, position: Position) -> Sum {
        let (mut value, mut sum) = (0.0, 0.0);
        self.for_each_term(position, |weight, pixel| {
            let term = weight * pixel;
            value += term;
            sum += term.abs();
        });
        let extra = self.extra(position);
        Sum { value: value + extra.value, scale: sum + extra.scale }
    }

    /// Calls `f` with weight and pixel of each product of the definition.
    fn for_each_term(&self, [n, o, y, x]: Position, mut f: impl FnMut(f64, f64)) {
        let group_inputs = self.channels[0] / self.groups;
        let first = o / (self.channels[1] / self.groups) * group_inputs;
        for c in 0..group_inputs {
            for r in 0..self.kernel[0] {
                for s in 0..self.kernel[1] {
                    let iy = (y * self.stride[0] + r * self.dilation[0]).wrapping_sub(self.before[0]);
                    let ix = (x * self.stride[1] + s * self.dilation[1]).wrapping_sub(self.before[1]);
                    f(self.weight(o, c, r, s), self.pixel(n, first + c, iy, ix));
                }
            }
        }
    }

    /// What is added to the products: bias and what was there before.
    fn extra(&self, position: Position) -> Sum {
        let mut extra = Sum::default();
        let mut add = |term: f64| extra = Sum { value: extra.value + term, scale: extra.scale + term.abs() };
        if self.with_bias {
            add(f64::from(self.tensors.bias[position[1]]));
        }
        if self.accumulate {
            add(f64::from(self.tensors.previous[self.index(position)]));
        }
        extra
    }

    /// The input, or zero where a (wrapped) coordinate lies outside.
    fn pixel(&self, n: usize, c: usize, y: usize, x: usize) -> f64 {
        if y < self.input[0] && x < self.input[1] {
            let size = [self.channels[0], self.input[0], self.input[1]];
            f64::from(self.tensors.input[index(self.layout, size, [n, c, y, x])])
        } else {
            0.0
        }
    }

    fn weight(&self, o: usize, c: usize, r: usize, s: usize) -> f64 {
        let [height, width] = self.kernel;
        f64::from(self.tensors.weights[((o * (self.channels[0] / self.groups) + c) * height + r) * width + s])
    }

    /// Σ over channels of |Aᵀ|(|G g Gᵀ| ⊙ (|Bᵀ||d||B|))|A| for the tile that holds the position; tiles
    /// lie side by side from output (0, 0). And the scale of what underflow loses, as
    /// [`ErrorModel::Winograd`] has it.
    fn winograd_scales(&self, winograd: &Winograd, [n, o, y, x]: Position) -> (f64, f64) {
        let transform = winograd.transform;
        let (m, r) = (transform.output, transform.kernel);
        let alpha = m + r - 1;
        let group_inputs = self.channels[0] / self.groups;
        let first = o / (self.channels[1] / self.groups) * group_inputs;
        let u = winograd.u[o].get_or_init(|| {
            (0..group_inputs)
                .flat_map(|c| sandwich(transform.g, alpha, r, |g| g, |i, j| self.weight(o, c, i, j)))
                .map(f64::abs)
                .collect()
        });
        let (tile_y, tile_x) = (y / m, x / m);
        let tile = (n * winograd.tiles[0] + tile_y) * winograd.tiles[1] + tile_x;
        let v = winograd.v[tile].get_or_init(|| {
            (0..self.channels[0])
                .flat_map(|c| {
                    sandwich(transform.bt, alpha, alpha, f64::abs, |i, j| {
                        let iy = (tile_y * m + i).wrapping_sub(self.before[0]);
                        let ix = (tile_x * m + j).wrapping_sub(self.before[1]);
                        self.pixel(n, c, iy, ix).abs()
                    })
                })
                .collect()
        });
        let elements = alpha * alpha;
        let (row, column) = (transform.at[y % m], transform.at[x % m]);
        let row_sums = transform.bt.iter().map(|row| row.iter().map(|x| x.abs()).sum::<f64>());
        let most = row_sums.fold(0.0, f64::max);
        let (mut scale, mut underflow) = (0.0, 0.0);
        for (u, v) in u.chunks(elements).zip(v.chunks(elements).skip(first)) {
            for (element, (u, v)) in u.iter().zip(v).enumerate() {
                let factor = (row[element / alpha] * column[element % alpha]).abs();
                scale += factor * u * v;
                underflow += factor * (most * u + v + 1.0);
            }
        }
        (scale, underflow)
    }
}

/// `M x Mᵀ` for a `rows × columns` matrix M (each entry through `f`) and a square x.
pub(crate) fn sandwich(
    matrix: &[&[f64]],
    rows: usize,
    columns: usize,
    f: impl Fn(f64) -> f64,
    x: impl Fn(usize, usize) -> f64,
) -> Vec<f64> {
    let half: Vec<f64> = (0..rows * columns)
        .map(|i| (0..columns).map(|k| f(matrix[i / columns][k]) * x(k, i % columns)).sum())
        .collect();
    (0..rows * rows)
        .map(|i| (0..columns).map(|k| half[i / rows * columns + k] * f(matrix[i % rows][k])).sum())
        .collect()
}

fn index(layout: Layout, [channels, height, width]: [usize; 3], [n, c, y, x]: Position) -> usize {
    match layout {
        Layout::Nchw => ((n * channels + c) * height + y) * width + x,
        Layout::Nhwc => ((n * height + y) * width + x) * channels + c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A convolution small enough to do by hand: 3×3 input, 2×2 kernel of 1 2 3 4.
    #[test]
    fn agrees_with_a_sum_by_hand() {
        let spec: ConvSpec = "c1 h3 w3 o1 k2".parse().unwrap();
        let tensors = Tensors {
            input: (1..=9).map(|i| i as f32).collect::<Vec<f32>>().into(),
            weights: vec![1.0, 2.0, 3.0, 4.0].into(),
            bias: vec![0.5].into(),
            previous: vec![10.0; 4].into(),
        };
        let options = PlanOptions { accumulate: true, ..Default::default() };
        let oracle = Oracle::new(&spec, &tensors, &options, true, ErrorModel::Sum { k: 1.0 });
        assert_eq!(oracle.output_size(), [2, 2]);
        // 1·1 + 2·2 + 3·4 + 4·5 = 37
        assert_eq!(oracle.at([0, 0, 0, 0]), Expected { value: 47.5, scale: 47.5, underflow: 1.0 });
        // 1·5 + 2·6 + 3·8 + 4·9 = 77
        assert_eq!(oracle.at([0, 0, 1, 1]).value, 87.5);
    }

    #[test]
    fn counts_places_like_the_lecture() {
        assert_eq!(places(7, 3, 1, 1), 5);
        assert_eq!(places(7, 3, 2, 1), 3);
        assert_eq!(places(7, 3, 3, 1), 2); // (7 − 3)/3 + 1 = 2.33, floored
        assert_eq!(places(32, 5, 1, 1), 28);
        assert_eq!(places(9, 3, 1, 3), 3);
    }
}
