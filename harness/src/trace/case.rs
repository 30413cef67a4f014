//! A convolution with its data: what the figures are drawn from.

use kernels::{ConvSpec, PlanOptions, kernel};

use super::Failure;
use crate::check::{self, Exactness, Sampling};
use crate::data::Tensors;

/// Multiply-adds up to which every output is compared with the definition.
const COMPARED_WHOLE: u64 = 20_000_000;
/// Outputs that are compared of larger layers.
const COMPARED: usize = 200;

/// A convolution of one image (channels, rows, columns), computed by a kernel.
#[derive(Clone, Debug)]
pub struct Case {
    /// The layer's name.
    pub layer: String,
    /// The convolution.
    pub spec: ConvSpec,
    /// Its input, weights and bias.
    pub tensors: Tensors,
    /// Whether it has a bias.
    pub with_bias: bool,
    /// The kernel that ran.
    pub kernel: String,
    /// What it gave.
    pub output: Vec<f32>,
    /// Outputs that were compared with the definition in float64.
    pub compared: usize,
    /// The output that is followed: channel, row, column.
    pub at: [usize; 3],
}

/// A product of a sum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Term {
    /// Of the input, 0 in the padding.
    pub pixel: f64,
    /// Of the filter.
    pub weight: f64,
}

impl Case {
    /// Runs the kernel of this id, or `auto` where it does not cover the convolution, and compares.
    ///
    /// # Errors
    /// What the kernel refuses; or that it computed something wrong.
    pub fn new(
        layer: &str,
        spec: ConvSpec,
        tensors: Tensors,
        with_bias: bool,
        id: &str,
    ) -> Result<Self, Failure> {
        let named = kernel(id).map_err(Failure::refused)?;
        let kernel = match named.supports(&spec) {
            Ok(()) => named,
            Err(_) => kernel("auto").map_err(Failure::refused)?,
        };
        let mut case = Case {
            layer: layer.to_owned(),
            spec,
            tensors,
            with_bias,
            kernel: String::new(),
            output: Vec::new(),
            compared: 0,
            at: [0; 3],
        };
        let run = case.run(kernel.id())?;
        (case.kernel, case.output, case.compared) = (run.kernel, run.output, run.compared);
        Ok(case)
    }

    /// Runs a kernel on the same data and compares its output with the definition.
    pub(super) fn run(&self, id: &str) -> Result<Run, Failure> {
        let options = PlanOptions::default();
        let Tensors { input, weights, bias, .. } = &self.tensors;
        let bias = self.with_bias.then_some(&bias[..]);
        let plan = kernel(id)
            .and_then(|kernel| kernel.plan(&self.spec, weights, &options))
            .map_err(Failure::refused)?;
        let mut output = vec![0.0; self.spec.output_len()];
        plan.run(input, bias, &mut output, &mut plan.workspace()).map_err(Failure::refused)?;
        let sampling = match self.spec.macs() <= COMPARED_WHOLE {
            true => Sampling::All,
            false => Sampling::Points(COMPARED),
        };
        let (spec, exactness, model) = (&self.spec, Exactness::Bound, plan.error_model());
        let verdict = check::verdict(
            spec,
            model,
            &self.tensors,
            self.with_bias,
            &options,
            &output,
            sampling,
            exactness,
        );
        let kernel = plan.kernel_id().to_owned();
        match verdict.mismatch {
            Some(mismatch) => Err(Failure::Wrong(format!("{kernel} is wrong on `{spec}`: {mismatch}"))),
            None => Ok(Run { kernel, output, compared: verdict.compared }),
        }
    }

    /// Follows this output, or the one of the first map that is furthest from 0.
    ///
    /// # Errors
    /// When there is no such output.
    pub fn follow(&mut self, at: Option<[usize; 3]>) -> Result<(), Failure> {
        let [_, channels, height, width] = self.spec.output_shape();
        self.at = match at {
            Some([o, y, x]) if o < channels && y < height && x < width => [o, y, x],
            Some([o, y, x]) => {
                return Err(Failure::Refused(format!(
                    "output {o},{y},{x} is not there: `{}` gives {channels}×{height}×{width}",
                    self.layer
                )));
            }
            None => {
                let map = &self.output[..height * width];
                let largest =
                    (0..map.len()).max_by(|&a, &b| map[a].abs().total_cmp(&map[b].abs())).unwrap_or(0);
                [0, largest / width, largest % width]
            }
        };
        Ok(())
    }

    /// The first input channel that the followed output sees.
    pub fn first_channel(&self) -> usize {
        self.at[0] / self.spec.group_out_channels() * self.spec.group_in_channels()
    }

    /// A value of the padded input, rows and columns counted from the padding's corner; `None` in the padding.
    pub fn padded(&self, channel: usize, row: usize, column: usize) -> Option<f32> {
        let [_, _, height, width] = self.spec.input_shape();
        let (row, column) =
            (row.checked_sub(self.spec.padding().top)?, column.checked_sub(self.spec.padding().left)?);
        (row < height && column < width)
            .then(|| self.tensors.input[(channel * height + row) * width + column])
    }

    /// A weight of a filter; channels are counted within its group.
    pub fn weight(&self, filter: usize, channel: usize, r: usize, s: usize) -> f32 {
        let [_, channels, height, width] = self.spec.weights_shape();
        self.tensors.weights[((filter * channels + channel) * height + r) * width + s]
    }

    /// The product of an output's sum at this place of the filter.
    pub fn term(&self, [o, y, x]: [usize; 3], channel: usize, r: usize, s: usize) -> Term {
        let first = o / self.spec.group_out_channels() * self.spec.group_in_channels();
        let ([down, right], [dh, dw]) = (self.spec.stride(), self.spec.dilation());
        let pixel = self.padded(first + channel, y * down + r * dh, x * right + s * dw);
        Term { pixel: f64::from(pixel.unwrap_or(0.0)), weight: f64::from(self.weight(o, channel, r, s)) }
    }

    /// The sum of a channel's products, in float64.
    pub fn channel_sum(&self, at: [usize; 3], channel: usize) -> f64 {
        let [height, width] = self.spec.kernel();
        let places = (0..height).flat_map(|r| (0..width).map(move |s| (r, s)));
        places.map(|(r, s)| self.term(at, channel, r, s)).map(|term| term.pixel * term.weight).sum()
    }

    /// The filter's bias.
    pub fn bias(&self, filter: usize) -> f64 {
        if self.with_bias { f64::from(self.tensors.bias[filter]) } else { 0.0 }
    }

    /// An output by the definition, in float64.
    pub fn sum(&self, at: [usize; 3]) -> f64 {
        let channels = 0..self.spec.group_in_channels();
        self.bias(at[0]) + channels.map(|channel| self.channel_sum(at, channel)).sum::<f64>()
    }

    /// An output as a kernel gave it.
    pub fn given(&self, output: &[f32], [o, y, x]: [usize; 3]) -> f64 {
        let [_, _, height, width] = self.spec.output_shape();
        f64::from(output[(o * height + y) * width + x])
    }
}

/// What a kernel gave.
pub(super) struct Run {
    pub(super) kernel: String,
    pub(super) output: Vec<f32>,
    pub(super) compared: usize,
}
