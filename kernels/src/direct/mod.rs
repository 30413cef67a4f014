//! `direct`: the definition in registers, without an im2col buffer.
//!
//! # Idea
//! A register tile holds a block of outputs, pixels × filters, over the whole reduction; input pixels
//! are read where they lie. What lies along the lanes of a vector is chosen by shape, when weights are
//! packed (other sizes of the same plan keep it):
//!
//! - *filters* ([`filters`]): a step broadcasts one channel of each pixel and multiplies it with a
//!   vector of filters. Good for 8 and more filters.
//! - *pixels* ([`pixels`], [`inplace`]): a step loads a vector of neighbouring pixels and multiplies it with one
//!   weight of each filter. Good for few filters (LeNet's 6, groups of 4 or 8) where vectors of filters
//!   would be mostly empty, and for wide rows.
//!
//! # Data layout
//! A *band*, the padded input rows under some output rows, is copied to scratch memory in the order
//! that the form reads, so that its loops know no edges. It stays in half the
//! level-2 cache. Without padding inputs are read in place; by vectors of pixels only in NCHW where masks are cheap and
//! rows are as long as those of the output, but then with padding too.
//!
//! ```text
//! filters: band [row][column][channel],      weights [panel][r][s][channel][vectors · LANES]
//! pixels:  band [channel][row][phase][column], weights [strip][channels / 8][r][s][channel][rows]
//! ```
//! (Few channels of pixels' weights lie one after the other, each with its taps.)
//!
//! # Supports and refuses
//! Everything, except paddings so large that one band would not fit memory sensibly.
//!
//! # Error model
//! One chain of multiply-adds for each output element: [`ErrorModel::Sum`]. Pixels in the padding
//! are multiplied as zeros: an infinite or NaN weight meets them and gives NaN.
//!
//! # Source
//! Zhang, Franchetti, Low, "High Performance Zero-Memory Overhead Direct Convolutions", ICML 2018;
//! Georganas et al., "Anatomy of High-Performance Deep Learning Convolutions on SIMD Architectures",
//! SC 2018.
//!
//! [`ErrorModel::Sum`]: crate::ErrorModel::Sum

mod filters;
mod inplace;
mod pixels;

use crate::band::Window;
use crate::error::ConvError;
use crate::kernel::PlanOptions;
use crate::packed::Packed;
use crate::registry::Algorithm;
use crate::simd::Simd;
use crate::spec::{ConvSpec, Layout};

/// Explicit SIMD without im2col.
pub(crate) struct Direct;

impl Algorithm for Direct {
    const NAME: &'static str = "direct";

    fn supports(spec: &ConvSpec) -> Result<(), String> {
        match row_len(spec) {
            Some(len) if len <= MOST_IN_A_ROW => Ok(()),
            _ => Err(format!(
                "an output row that reads {} rows of {} padded columns (needs at most {MOST_IN_A_ROW} f32s \
                 for a row)",
                spec.dilated_kernel()[0],
                spec.padded_input()[1],
            )),
        }
    }

    fn pack<S: Simd>(
        simd: S,
        spec: &ConvSpec,
        weights: &[f32],
        options: &PlanOptions,
    ) -> Result<Packed, ConvError> {
        if lanes_are_pixels::<S>(spec) {
            pixels::pack(simd, spec, weights, options)
        } else {
            filters::pack(simd, spec, weights, options)
        }
    }
}

/// Most f32s of scratch memory for one output row: 16 MiB. Only paddings or rows far beyond those of
/// real networks come near.
const MOST_IN_A_ROW: usize = 4 << 20;

/// f32s of scratch memory that either form needs for one output row, if they can be counted.
fn row_len(spec: &ConvSpec) -> Option<usize> {
    let row = Window::under(spec, &(0..1));
    // The widest vectors, so that the answer is the same for every instruction set.
    let lanes = 16;
    let phases = spec.stride()[1].min(row.columns());
    let phase = spec.out_width().checked_add(lanes)?.checked_add(row.columns() / phases)?;
    let columns = phase.checked_mul(phases)?.checked_add(lanes)?;
    let band = columns.checked_mul(row.rows())?.checked_mul(spec.group_in_channels())?;
    band.checked_add(spec.out_width().checked_mul(2 * lanes)?)
}

/// Which form costs less, in a vector's multiply-adds for each output: the sums, in vectors of which
/// some lanes are empty, and where the form has to convert the layout the transpositions, about
/// one and a half multiply-adds of a vector for each element of output and input (not where it is read in place).
fn lanes_are_pixels<S: Simd>(spec: &ConvSpec) -> bool {
    let steps = (spec.group_in_channels() * spec.kernel()[0] * spec.kernel()[1]) as f64;
    let inputs = spec.input_len() as f64 / spec.output_len() as f64;
    let conversion = |in_place| 1.5 * (1.0 + if in_place { 0.0 } else { inputs });
    let mut filters = steps * filled::<S>(spec.group_out_channels());
    if spec.group_out_channels() <= S::LANES {
        // A single vector of filters: nearly as many loads as multiply-adds.
        filters *= 1.0 + 1.0 / S::MR as f64;
    }
    let pixels =
        if inplace::pays::<S>(spec) { inplace::cost::<S>(spec) } else { filled::<S>(spec.out_width()) };
    let pixels = steps * pixels;
    match spec.layout() {
        Layout::Nchw => pixels < filters + conversion(filters::reads_in_place(spec)),
        Layout::Nhwc => pixels + conversion(false) < filters,
    }
}

/// Lanes of the vectors that hold n values, for each value.
fn filled<S: Simd>(n: usize) -> f64 {
    n.next_multiple_of(S::LANES) as f64 / n as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::AlignedBuffer;
    use crate::kernel::Io;
    use crate::simd::on_every_isa;

    /// Numbers whose sums depend on their order.
    fn numbers(len: usize) -> Vec<f32> {
        (0..len).map(|i| (i * 7919 % 1013) as f32 * 0.37 - 187.0).collect()
    }

    fn run(packed: &Packed, spec: &ConvSpec) -> Vec<u32> {
        let body = packed.body(spec).unwrap();
        let mut scratch = AlignedBuffer::zeros(body.scratch_len()).unwrap();
        let mut output = vec![f32::NAN; spec.output_len()];
        body.run(Io { input: &numbers(spec.input_len()), bias: None, output: &mut output }, &mut scratch);
        output.into_iter().map(f32::to_bits).collect()
    }

    fn check<S: Simd>(simd: S) {
        for (narrow, wide) in [
            ("c64 h5 w5 o40 k3 p1", "n2 c64 h6 w64 o40 k3 p1"),
            ("c64 h5 w5 o6 k3 p1 nhwc", "n2 c64 h6 w64 o6 k3 p1 nhwc"),
        ] {
            let (narrow, wide): (ConvSpec, ConvSpec) = (narrow.parse().unwrap(), wide.parse().unwrap());
            assert!(!lanes_are_pixels::<S>(&narrow) && lanes_are_pixels::<S>(&wide));
            let (weights, options) = (numbers(wide.weights_len()), PlanOptions::default());
            for (from, to) in [(narrow, wide), (wide, narrow)] {
                let filters = |spec| filters::pack(simd, spec, &weights, &options).unwrap();
                let pixels = |spec| pixels::pack(simd, spec, &weights, &options).unwrap();
                let (by_filters, by_pixels) = (run(&filters(&to), &to), run(&pixels(&to), &to));
                assert_ne!(by_filters, by_pixels, "the forms cannot be told apart on `{to}`");
                assert_eq!(run(&filters(&from), &to), by_filters, "`{from}` to `{to}`");
                assert_eq!(run(&pixels(&from), &to), by_pixels, "`{from}` to `{to}`");
                let kept = if lanes_are_pixels::<S>(&from) { by_pixels } else { by_filters };
                let packed = Direct::pack(simd, &from, &weights, &options).unwrap();
                assert_eq!(run(&packed, &to), kept, "`{from}` to `{to}`");
            }
        }
    }

    /// Another size keeps the form in which the weights are packed, also where its own plan would take the
    /// other, and has the bits of that form.
    #[test]
    fn sizes_keep_the_form() {
        on_every_isa!(s => check(s));
    }
}
