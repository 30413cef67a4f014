//! Matrix products on the register tiles of the convolutions: linear layers, and what their gradients need.
//!
//! Matrices are dense and lie row by row. [`Matmul`] packs its right side once, as a linear layer's weights ask for;
//! [`multiply`] takes both as they are, either of them transposed.
//!
//! ```
//! use kernels::PlanOptions;
//! use kernels::matmul::Matmul;
//!
//! // A linear layer of 3 inputs and 2 outputs, its weights a row for each output: y = x·Wᵀ + b.
//! let weights = [1., 0., 0., /* */ 0., 1., 1.];
//! let layer = Matmul::new(3, 2, &weights, true, &PlanOptions::default())?;
//! let mut y = [0.0; 4];
//! layer.run(&[1., 2., 3., /* */ 4., 5., 6.], Some(&[10., 20.]), &mut y)?;
//! assert_eq!(y, [11., 25., /* */ 14., 31.]);
//! # Ok::<(), kernels::ConvError>(())
//! ```
//!
//! # How
//! The right side comes in panels of a register tile's columns, steps of the reduction in passes that fill half the
//! level-1 cache with a panel; the left side is read in place. Threads share the rows and panels of the result; each
//! of its elements is summed in one order, whatever their number.

mod row;

use std::ops::Range;

use crate::band::transpose_raw;
use crate::buffer::LINE;
use crate::error::{ConvError, SpecError};
use crate::kernel::{PlanOptions, check_len};
use crate::microkernel::{Bias, Epilogue, Rows, Segments, Tile, balanced, tile_fn};
use crate::parallel::{self, SharedOutput};
use crate::simd::{Isa, Simd, Token, with_token};
use crate::spec::elements;
use crate::weights::Panels;
use row::Row;

/// f32s of a packed panel of a pass: half the level-1 cache of most machines, and little for a stack.
const PANEL: usize = 4096;

/// A product with a matrix that is packed once: `c = activation(a·b + bias [+ c])`.
///
/// Of the [`PlanOptions`] threads, activation and accumulate count. Runs allocate nothing and give the same bits for
/// any number of threads.
#[derive(Debug)]
pub struct Matmul {
    k: usize,
    n: usize,
    options: PlanOptions,
    token: Token,
    panels: Panels,
}

impl Matmul {
    /// Packs `b`, a matrix of k rows and n columns; `transposed` where it lies as n rows of k, as the weights of a
    /// linear layer of k inputs and n outputs do.
    ///
    /// # Errors
    /// When k or n is 0 or their product does not fit, `b` has another length, an option makes no sense, `CONV_ISA`
    /// names no instruction set, or memory cannot be had.
    pub fn new(
        k: usize,
        n: usize,
        b: &[f32],
        transposed: bool,
        options: &PlanOptions,
    ) -> Result<Self, ConvError> {
        Matmul::on(Isa::best().map_err(unavailable)?, k, n, b, transposed, options)
    }

    /// [`new`](Self::new) on a chosen instruction set.
    ///
    /// # Errors
    /// As [`new`](Self::new), and when the instruction set is not available.
    pub fn on(
        isa: Isa,
        k: usize,
        n: usize,
        b: &[f32],
        transposed: bool,
        options: &PlanOptions,
    ) -> Result<Self, ConvError> {
        options.check()?;
        check_dimensions(&[("k", k), ("n", n)])?;
        check_len("b", b.len(), elements("the right matrix", &[k, n])?)?;
        let token = isa.token().map_err(unavailable)?;
        let (column, step) = if transposed { (k, 1) } else { (1, n) };
        let panels = with_token!(token, s => pack(s, k, n, |j, p| b[j * column + p * step]))?;
        Ok(Matmul { k, n, options: *options, token, panels })
    }

    /// Rows of the packed matrix, columns of `a`.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Columns of the packed matrix and of the result.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Bytes of the packed matrix.
    pub fn packed_bytes(&self) -> usize {
        self.panels.bytes()
    }

    /// Multiplies the rows of `a`, as many as there are, each of k values; `c` has as many of n. The bias has a value
    /// for each column.
    ///
    /// # Errors
    /// When a buffer has the wrong length; `c` is then untouched.
    pub fn run(&self, a: &[f32], bias: Option<&[f32]>, c: &mut [f32]) -> Result<(), ConvError> {
        let m = a.len() / self.k;
        check_len("a", a.len(), m * self.k)?;
        check_len("c", c.len(), elements("the result", &[m, self.n])?)?;
        if let Some(bias) = bias {
            check_len("bias", bias.len(), self.n)?;
        }
        let left = Left { data: a, row: self.k, step: 1 };
        let job = Job {
            sizes: [m, self.n, self.k],
            left,
            right: Right::Packed(&self.panels),
            bias,
            options: &self.options,
            output: SharedOutput::new(c),
        };
        with_token!(self.token, s => job.run(s));
        Ok(())
    }
}

fn pack<S: Simd>(_: S, k: usize, n: usize, value: impl Fn(usize, usize) -> f32) -> Result<Panels, ConvError> {
    Panels::pack_with::<S>(1, k, n, value)
}

/// Sizes of a product c = a·b: a has m rows and k columns, b k rows and n columns.
///
/// ```
/// use kernels::PlanOptions;
/// use kernels::matmul::{Product, multiply};
///
/// // The gradient of a linear layer's weights: outputs' gradients, transposed, times inputs.
/// let (grads, inputs) = ([1., 2., /* */ 3., 4.], [1., 0., 1., /* */ 0., 1., 1.]);
/// let mut grad_weights = [0.0; 6];
/// let product = Product::new(2, 3, 2).transpose_a();
/// multiply(&product, &grads, &inputs, &mut grad_weights, &PlanOptions::default())?;
/// assert_eq!(grad_weights, [1., 3., 4., /* */ 2., 4., 6.]);
/// # Ok::<(), kernels::ConvError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    sizes: [usize; 3],
    a_transposed: bool,
    b_transposed: bool,
    isa: Option<Isa>,
}

impl Product {
    /// Of m rows, n columns and k terms for each element.
    pub fn new(m: usize, n: usize, k: usize) -> Self {
        Product { sizes: [m, n, k], a_transposed: false, b_transposed: false, isa: None }
    }

    /// The same where a lies as k rows of m.
    pub fn transpose_a(self) -> Self {
        Product { a_transposed: true, ..self }
    }

    /// The same where b lies as n rows of k.
    pub fn transpose_b(self) -> Self {
        Product { b_transposed: true, ..self }
    }

    /// The same on a chosen instruction set, where the best would be taken.
    pub fn on(self, isa: Isa) -> Self {
        Product { isa: Some(isa), ..self }
    }
}

/// Computes `c = activation(a·b [+ c])` of matrices as they are. Of the [`PlanOptions`] threads, activation and
/// accumulate count. Nothing is allocated.
///
/// # Errors
/// When a size is 0 or a product of them does not fit, a buffer has another length, an option makes no sense, or the
/// instruction set is not available; `c` is then untouched.
pub fn multiply(
    product: &Product,
    a: &[f32],
    b: &[f32],
    c: &mut [f32],
    options: &PlanOptions,
) -> Result<(), ConvError> {
    options.check()?;
    let [m, n, k] = product.sizes;
    check_dimensions(&[("m", m), ("n", n), ("k", k)])?;
    check_len("a", a.len(), elements("the left matrix", &[m, k])?)?;
    check_len("b", b.len(), elements("the right matrix", &[k, n])?)?;
    check_len("c", c.len(), elements("the result", &[m, n])?)?;
    let isa = product.isa.map_or_else(Isa::best, Ok).map_err(unavailable)?;
    let token = isa.token().map_err(unavailable)?;
    let (row, step) = if product.a_transposed { (1, m) } else { (k, 1) };
    let (column, b_step) = if product.b_transposed { (k, 1) } else { (1, n) };
    let job = Job {
        sizes: product.sizes,
        left: Left { data: a, row, step },
        right: Right::Given { data: b, column, step: b_step },
        bias: None,
        options,
        output: SharedOutput::new(c),
    };
    with_token!(token, s => job.run(s));
    Ok(())
}

/// The left matrix in place.
#[derive(Clone, Copy, Debug)]
struct Left<'a> {
    data: &'a [f32],
    /// f32s from one row to the next.
    row: usize,
    /// f32s from one step of the reduction to the next.
    step: usize,
}

/// The right matrix.
#[derive(Clone, Copy, Debug)]
enum Right<'a> {
    Packed(&'a Panels),
    Given {
        data: &'a [f32],
        /// f32s from one column to the next.
        column: usize,
        /// f32s from one step of the reduction to the next.
        step: usize,
    },
}

/// A product whose buffers have been checked.
#[derive(Debug)]
struct Job<'a> {
    /// m, n, k.
    sizes: [usize; 3],
    left: Left<'a>,
    right: Right<'a>,
    bias: Option<&'a [f32]>,
    options: &'a PlanOptions,
    output: SharedOutput,
}

impl Job<'_> {
    fn run<S: Simd>(&self, simd: S) {
        let [m, n, k] = self.sizes;
        let panels = match self.right {
            Right::Packed(panels) => panels.count,
            Right::Given { .. } => n.div_ceil(S::NR),
        };
        let work = [n, k].iter().fold(m as u64, |work, &size| work.saturating_mul(size as u64));
        let threads = parallel::worthwhile_for(self.options.threads, work);
        // Panels are cut first: each is packed by one thread then.
        let columns = threads.min(panels);
        let tiles = m.div_ceil(S::MR);
        let rows = threads.div_ceil(columns).min(tiles).max(1);
        parallel::for_each_range(threads, rows * columns, &mut [], 0, &|units, _| {
            for unit in units {
                let part = |count: usize, part: usize, of: usize| count * part / of..count * (part + 1) / of;
                let tiles = part(tiles, unit / columns, rows);
                let rows = tiles.start * S::MR..(tiles.end * S::MR).min(m);
                self.unit(simd, rows, part(panels, unit % columns, columns));
            }
        });
    }

    /// Computes some rows of some panels of columns.
    fn unit<S: Simd>(&self, simd: S, rows: Range<usize>, mut panels: Range<usize>) {
        let [m, n, k] = self.sizes;
        if let Right::Packed(all) = self.right
            && m == 1
        {
            let Job { left, bias, options, output, .. } = *self;
            let row = Row { values: left.data, panels: all, bias, options, output };
            // SAFETY: the result has a row, in which these panels' columns belong to this unit alone.
            panels = unsafe { row.run(simd, panels) };
        }
        // A panel that is packed and meets a single tile has no reason to be cut.
        let whole = rows.len() <= S::MR && matches!(self.right, Right::Packed(_));
        let most = if whole { k } else { balanced(k, PANEL / S::NR) };
        let mut scratch = Scratch([0.0; PANEL]);
        let height = balanced(rows.len(), S::MR);
        for start in (0..k).step_by(most) {
            let steps = start..(start + most).min(k);
            let last = steps.end == k;
            let limits = if last { self.options.limits() } else { Epilogue::STORE.limits };
            let accumulate = self.options.accumulate || start > 0;
            for index in panels.clone() {
                let (b, width, vectors, first, columns) = match self.right {
                    Right::Packed(panels) => {
                        let panel = panels.panel(0, index);
                        let b = &panel.data[start * panel.width..];
                        (b, panel.width, panel.vectors, panel.first, panel.filters)
                    }
                    Right::Given { data, column, step } => {
                        let first = index * S::NR;
                        let columns = S::NR.min(n - first);
                        let vectors = columns.div_ceil(S::LANES);
                        let width = vectors * S::LANES;
                        let from = &data[first * column + start * step..];
                        if column == 1 {
                            for (row, p) in scratch.0.chunks_exact_mut(width).zip(0..steps.len()) {
                                row[..columns].copy_from_slice(&from[p * step..][..columns]);
                            }
                        } else {
                            let from = &from[..(columns - 1) * column + steps.len()];
                            let to = scratch.0.as_mut_ptr();
                            // SAFETY: `from` has these steps of all columns, a pass fits the panel, and `width` is no
                            // less than the columns.
                            unsafe { transpose_raw(from.as_ptr(), column, columns, steps.len(), to, width) };
                        }
                        (&scratch.0[..], width, vectors, first, columns)
                    }
                };
                let bias = self.bias.filter(|_| last);
                let bias = bias.map_or(Bias::None, |bias| Bias::Columns(bias[first..].as_ptr()));
                let mut row = rows.start;
                while row < rows.end {
                    let count = height.min(rows.end - row);
                    let tile = Tile {
                        a: self.left.data[row * self.left.row + start * self.left.step..].as_ptr(),
                        a_rows: Rows::Apart(self.left.row),
                        a_step: self.left.step,
                        b: b.as_ptr(),
                        b_step: width,
                        len: steps.len(),
                        outer: Segments::ONE,
                        inner: Segments::ONE,
                        // SAFETY: row and column lie inside the result.
                        c: unsafe { self.output.at(row * n + first) },
                        c_row: n,
                        columns,
                        epilogue: Epilogue { bias, accumulate, limits, ..Epilogue::STORE },
                    };
                    // SAFETY: the left matrix has these rows at these steps, the panel `width` columns at each; the
                    // result's rows and columns belong to this unit alone, and the bias has a value for each column.
                    unsafe { tile_fn::<S>(count, vectors)(simd, &tile) };
                    row += count;
                }
            }
        }
    }
}

/// A panel of a pass, on a cache line.
#[repr(align(64))]
struct Scratch([f32; PANEL]);

const _: () = assert!(PANEL.is_multiple_of(LINE));

fn check_dimensions(dimensions: &[(&'static str, usize)]) -> Result<(), ConvError> {
    match dimensions.iter().find(|(_, size)| *size == 0) {
        Some((field, _)) => Err(SpecError::Zero { field }.into()),
        None => Ok(()),
    }
}

fn unavailable(reason: crate::Unavailable) -> ConvError {
    ConvError::Unavailable { kernel: "matmul".to_owned(), reason }
}
