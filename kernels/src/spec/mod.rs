//! [`ConvSpec`]: what a convolution is, with checked shape arithmetic.

mod parse;

use crate::error::SpecError;

/// Order of the dimensions of input and output. Weights are always `OIHW`, whatever the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Layout {
    /// batch, channels, height, width: pixels of one channel lie side by side.
    #[default]
    Nchw,
    /// batch, height, width, channels: channels of one pixel lie side by side.
    Nhwc,
}

impl Layout {
    /// The name used in spec strings and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Layout::Nchw => "nchw",
            Layout::Nhwc => "nhwc",
        }
    }
}

impl std::fmt::Display for Layout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Zero padding, in pixels, on the four sides of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Padding {
    /// Rows of zeros above the input.
    pub top: usize,
    /// Columns of zeros left of the input.
    pub left: usize,
    /// Rows of zeros below the input.
    pub bottom: usize,
    /// Columns of zeros right of the input.
    pub right: usize,
}

impl Padding {
    /// The same padding on all four sides.
    pub const fn uniform(p: usize) -> Self {
        Padding { top: p, left: p, bottom: p, right: p }
    }

    /// No padding.
    pub const fn none() -> Self {
        Padding::uniform(0)
    }
}

/// A 2D convolution: shapes, stride, padding, dilation, groups and layout.
///
/// A `ConvSpec` that exists is valid: every dimension is at least 1, `groups` divides both channel
/// counts, the dilated kernel fits the padded input, and none of its products (element counts,
/// bytes, multiply-accumulates) overflows.
///
/// As everywhere in deep learning, "convolution" means cross-correlation: the kernel is not flipped.
///
/// ```text
/// output[n][o][y][x] = bias[o] + Σ_c Σ_r Σ_s  weights[o][c][r][s]
///                       · input[n][g·C/G + c][y·stride_h + r·dilation_h − top][x·stride_w + s·dilation_w − left]
/// out = floor((in + pads − dilation·(kernel − 1) − 1) / stride) + 1
/// ```
///
/// # Examples
/// The lecture's example: a 32×32×3 image and ten 5×5 filters with padding 2.
/// ```
/// use kernels::{ConvSpec, Padding};
/// let spec = ConvSpec::builder()
///     .in_channels(3).input_size(32, 32)
///     .out_channels(10).kernel(5, 5).padding(Padding::uniform(2))
///     .build()?;
/// assert_eq!((spec.out_height(), spec.out_width()), (32, 32));
/// assert_eq!(spec.parameters(true), 760);
/// assert_eq!(spec, "c3 h32 w32 o10 k5 p2".parse()?);
/// # Ok::<(), kernels::SpecError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConvSpec {
    batch: usize,
    in_channels: usize,
    in_height: usize,
    in_width: usize,
    out_channels: usize,
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: Padding,
    dilation: [usize; 2],
    groups: usize,
    layout: Layout,
}

impl ConvSpec {
    /// Starts a description; [`ConvSpecBuilder::build`] checks it.
    pub fn builder() -> ConvSpecBuilder {
        ConvSpecBuilder::default()
    }

    /// A builder that starts from this convolution, to change some of it.
    pub fn to_builder(&self) -> ConvSpecBuilder {
        ConvSpecBuilder {
            batch: Some(self.batch),
            in_channels: Some(self.in_channels),
            in_height: Some(self.in_height),
            in_width: Some(self.in_width),
            out_channels: Some(self.out_channels),
            kernel: Some(self.kernel),
            stride: Some(self.stride),
            padding: PaddingRule::Explicit(self.padding),
            dilation: Some(self.dilation),
            groups: Some(self.groups),
            layout: self.layout,
        }
    }

    /// Images in the batch (`n`).
    pub fn batch(&self) -> usize {
        self.batch
    }
    /// Channels of the input (`c`), all groups together.
    pub fn in_channels(&self) -> usize {
        self.in_channels
    }
    /// Rows of the input (`h`), without padding.
    pub fn in_height(&self) -> usize {
        self.in_height
    }
    /// Columns of the input (`w`), without padding.
    pub fn in_width(&self) -> usize {
        self.in_width
    }
    /// Channels of the output (`o`): the number of filters, all groups together.
    pub fn out_channels(&self) -> usize {
        self.out_channels
    }
    /// Kernel (filter) size `[height, width]`.
    pub fn kernel(&self) -> [usize; 2] {
        self.kernel
    }
    /// Stride `[vertical, horizontal]`.
    pub fn stride(&self) -> [usize; 2] {
        self.stride
    }
    /// Zero padding on the four sides.
    pub fn padding(&self) -> Padding {
        self.padding
    }
    /// Dilation `[vertical, horizontal]`, counted from 1 (1 = dense).
    pub fn dilation(&self) -> [usize; 2] {
        self.dilation
    }
    /// Number of groups (`g`); 1 is an ordinary convolution, `in_channels` a depthwise one.
    pub fn groups(&self) -> usize {
        self.groups
    }
    /// Layout of input and output.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Input channels that each filter sees: `in_channels / groups`.
    pub fn group_in_channels(&self) -> usize {
        self.in_channels / self.groups
    }
    /// Filters in each group: `out_channels / groups`.
    pub fn group_out_channels(&self) -> usize {
        self.out_channels / self.groups
    }
    /// Whether each input channel has its own filters (`groups == in_channels`).
    pub fn is_depthwise(&self) -> bool {
        self.groups == self.in_channels
    }

    /// Rows of the output.
    pub fn out_height(&self) -> usize {
        self.out_size(0)
    }
    /// Columns of the output.
    pub fn out_width(&self) -> usize {
        self.out_size(1)
    }

    /// Extent of the padded input `[height, width]`.
    pub fn padded_input(&self) -> [usize; 2] {
        [
            self.in_height + self.padding.top + self.padding.bottom,
            self.in_width + self.padding.left + self.padding.right,
        ]
    }

    /// Extent of the dilated kernel `[height, width]`: dilation·(kernel − 1) + 1.
    pub fn dilated_kernel(&self) -> [usize; 2] {
        [0, 1].map(|axis| self.dilation[axis] * (self.kernel[axis] - 1) + 1)
    }

    /// Rows and columns of the padded input that no window touches because the stride does not
    /// divide (N − F + 2P): `[0, 0]` when it divides.
    pub fn stride_remainder(&self) -> [usize; 2] {
        let (padded, kernel) = (self.padded_input(), self.dilated_kernel());
        [0, 1].map(|axis| (padded[axis] - kernel[axis]) % self.stride[axis])
    }

    fn out_size(&self, axis: usize) -> usize {
        (self.padded_input()[axis] - self.dilated_kernel()[axis]) / self.stride[axis] + 1
    }

    /// Elements (f32s) of the input.
    pub fn input_len(&self) -> usize {
        self.batch * self.in_channels * self.in_height * self.in_width
    }
    /// Elements (f32s) of the weights, `out_channels × in_channels/groups × kernel_h × kernel_w`.
    pub fn weights_len(&self) -> usize {
        self.out_channels * self.group_in_channels() * self.kernel[0] * self.kernel[1]
    }
    /// Elements (f32s) of the output.
    pub fn output_len(&self) -> usize {
        self.batch * self.out_channels * self.out_height() * self.out_width()
    }

    /// Dimensions of the input in the order of [`layout`](Self::layout).
    pub fn input_shape(&self) -> [usize; 4] {
        self.shape(self.in_channels, self.in_height, self.in_width)
    }
    /// Dimensions of the output in the order of [`layout`](Self::layout).
    pub fn output_shape(&self) -> [usize; 4] {
        self.shape(self.out_channels, self.out_height(), self.out_width())
    }
    /// Dimensions of the weights, always `OIHW`.
    pub fn weights_shape(&self) -> [usize; 4] {
        [self.out_channels, self.group_in_channels(), self.kernel[0], self.kernel[1]]
    }

    fn shape(&self, channels: usize, height: usize, width: usize) -> [usize; 4] {
        match self.layout {
            Layout::Nchw => [self.batch, channels, height, width],
            Layout::Nhwc => [self.batch, height, width, channels],
        }
    }

    /// Learned parameters: the weights, and with `bias` one more for each filter.
    pub fn parameters(&self, bias: bool) -> usize {
        self.weights_len() + if bias { self.out_channels } else { 0 }
    }

    /// Multiply-accumulates of the definition, those with padding zeros included. This nominal
    /// count is what GFLOP/s figures are made of.
    pub fn macs(&self) -> u64 {
        self.output_len() as u64
            * (self.group_in_channels() as u64 * self.kernel[0] as u64 * self.kernel[1] as u64)
    }

    /// Multiply-accumulates with real input pixels only, those with padding zeros left out.
    pub fn macs_without_padding(&self) -> u64 {
        let taps = |axis: usize, size: usize, before: usize| -> u64 {
            let out = self.out_size(axis);
            (0..self.kernel[axis])
                .map(|tap| {
                    // Outputs y with 0 <= y*stride + tap*dilation - before < size.
                    let shift = tap * self.dilation[axis];
                    let first = before.saturating_sub(shift).div_ceil(self.stride[axis]);
                    let end = match (size + before).checked_sub(shift + 1) {
                        Some(last) => (last / self.stride[axis] + 1).min(out),
                        None => 0,
                    };
                    end.saturating_sub(first) as u64
                })
                .sum()
        };
        let rows = taps(0, self.in_height, self.padding.top);
        let columns = taps(1, self.in_width, self.padding.left);
        self.batch as u64 * self.out_channels as u64 * self.group_in_channels() as u64 * rows * columns
    }

    /// Floating-point operations of the definition: 2·[`macs`](Self::macs).
    pub fn flops(&self) -> u64 {
        2 * self.macs()
    }

    /// Bytes that any implementation must move at least once: input, weights and output, 4 bytes
    /// each element.
    pub fn min_bytes(&self) -> u64 {
        4 * (self.input_len() as u64 + self.weights_len() as u64 + self.output_len() as u64)
    }

    /// Floating-point operations per byte of [`min_bytes`](Self::min_bytes).
    pub fn arithmetic_intensity(&self) -> f64 {
        self.flops() as f64 / self.min_bytes() as f64
    }

    /// The same convolution in another layout.
    pub fn with_layout(self, layout: Layout) -> Self {
        ConvSpec { layout, ..self }
    }

    /// The same convolution with another batch.
    ///
    /// # Errors
    /// When the batch is 0 or the element counts no longer fit.
    pub fn with_batch(self, batch: usize) -> Result<Self, SpecError> {
        self.to_builder().batch(batch).build()
    }
}

/// How [`ConvSpecBuilder`] pads.
#[derive(Clone, Copy, Debug)]
enum PaddingRule {
    Explicit(Padding),
    Same,
}

/// Builds a [`ConvSpec`]. Batch, stride, dilation and groups default to 1, padding to 0, layout to
/// [`Layout::Nchw`]; the rest must be given.
#[derive(Clone, Debug)]
pub struct ConvSpecBuilder {
    batch: Option<usize>,
    in_channels: Option<usize>,
    in_height: Option<usize>,
    in_width: Option<usize>,
    out_channels: Option<usize>,
    kernel: Option<[usize; 2]>,
    stride: Option<[usize; 2]>,
    padding: PaddingRule,
    dilation: Option<[usize; 2]>,
    groups: Option<usize>,
    layout: Layout,
}

impl Default for ConvSpecBuilder {
    fn default() -> Self {
        ConvSpecBuilder {
            batch: None,
            in_channels: None,
            in_height: None,
            in_width: None,
            out_channels: None,
            kernel: None,
            stride: None,
            padding: PaddingRule::Explicit(Padding::none()),
            dilation: None,
            groups: None,
            layout: Layout::Nchw,
        }
    }
}

impl ConvSpecBuilder {
    /// Images in the batch; 1 if not given.
    pub fn batch(mut self, batch: usize) -> Self {
        self.batch = Some(batch);
        self
    }
    /// Channels of the input, all groups together.
    pub fn in_channels(mut self, channels: usize) -> Self {
        self.in_channels = Some(channels);
        self
    }
    /// Rows of the input, without padding.
    pub fn in_height(mut self, height: usize) -> Self {
        self.in_height = Some(height);
        self
    }
    /// Columns of the input, without padding.
    pub fn in_width(mut self, width: usize) -> Self {
        self.in_width = Some(width);
        self
    }
    /// Rows and columns of the input.
    pub fn input_size(self, height: usize, width: usize) -> Self {
        self.in_height(height).in_width(width)
    }
    /// Number of filters, all groups together.
    pub fn out_channels(mut self, channels: usize) -> Self {
        self.out_channels = Some(channels);
        self
    }
    /// Kernel (filter) height and width.
    pub fn kernel(mut self, height: usize, width: usize) -> Self {
        self.kernel = Some([height, width]);
        self
    }
    /// Vertical and horizontal stride; 1 if not given.
    pub fn stride(mut self, vertical: usize, horizontal: usize) -> Self {
        self.stride = Some([vertical, horizontal]);
        self
    }
    /// Zero padding on the four sides; none if not given.
    pub fn padding(mut self, padding: Padding) -> Self {
        self.padding = PaddingRule::Explicit(padding);
        self
    }
    /// Padding so that the output has ceil(in / stride) rows and columns; an odd row or column of
    /// padding goes to the end (bottom, right).
    pub fn padding_same(mut self) -> Self {
        self.padding = PaddingRule::Same;
        self
    }
    /// Vertical and horizontal dilation, counted from 1 (1 = dense); 1 if not given.
    pub fn dilation(mut self, vertical: usize, horizontal: usize) -> Self {
        self.dilation = Some([vertical, horizontal]);
        self
    }
    /// Number of groups; 1 if not given.
    pub fn groups(mut self, groups: usize) -> Self {
        self.groups = Some(groups);
        self
    }
    /// Layout of input and output; [`Layout::Nchw`] if not given.
    pub fn layout(mut self, layout: Layout) -> Self {
        self.layout = layout;
        self
    }

    /// Checks the description.
    ///
    /// # Errors
    /// A [`SpecError`] that names the offending value: a missing or zero dimension, groups that do
    /// not divide, a kernel larger than the padded input, or sizes whose products overflow.
    pub fn build(self) -> Result<ConvSpec, SpecError> {
        let need = |value: Option<usize>, field| value.ok_or(SpecError::Missing { field });
        let spec = ConvSpec {
            batch: self.batch.unwrap_or(1),
            in_channels: need(self.in_channels, "in_channels")?,
            in_height: need(self.in_height, "in_height")?,
            in_width: need(self.in_width, "in_width")?,
            out_channels: need(self.out_channels, "out_channels")?,
            kernel: self.kernel.ok_or(SpecError::Missing { field: "kernel" })?,
            stride: self.stride.unwrap_or([1, 1]),
            padding: Padding::none(),
            dilation: self.dilation.unwrap_or([1, 1]),
            groups: self.groups.unwrap_or(1),
            layout: self.layout,
        };
        for (field, value) in [
            ("batch", spec.batch),
            ("in_channels", spec.in_channels),
            ("in_height", spec.in_height),
            ("in_width", spec.in_width),
            ("out_channels", spec.out_channels),
            ("kernel height", spec.kernel[0]),
            ("kernel width", spec.kernel[1]),
            ("vertical stride", spec.stride[0]),
            ("horizontal stride", spec.stride[1]),
            ("vertical dilation", spec.dilation[0]),
            ("horizontal dilation", spec.dilation[1]),
            ("groups", spec.groups),
        ] {
            if value == 0 {
                return Err(SpecError::Zero { field });
            }
        }
        for (field, channels) in [("in_channels", spec.in_channels), ("out_channels", spec.out_channels)] {
            if channels % spec.groups != 0 {
                return Err(SpecError::Groups { groups: spec.groups, field, channels });
            }
        }
        let kernel_height = dilated(spec.kernel[0], spec.dilation[0])?;
        let kernel_width = dilated(spec.kernel[1], spec.dilation[1])?;
        let padding = match self.padding {
            PaddingRule::Explicit(padding) => padding,
            PaddingRule::Same => {
                let (top, bottom) = same(spec.in_height, kernel_height, spec.stride[0])?;
                let (left, right) = same(spec.in_width, kernel_width, spec.stride[1])?;
                Padding { top, left, bottom, right }
            }
        };
        let height = fits(spec.in_height, padding.top, padding.bottom, kernel_height, "height")?;
        let width = fits(spec.in_width, padding.left, padding.right, kernel_width, "width")?;
        let out_height = (height - kernel_height) / spec.stride[0] + 1;
        let out_width = (width - kernel_width) / spec.stride[1] + 1;
        let filter = &[spec.in_channels / spec.groups, spec.kernel[0], spec.kernel[1]];
        elements("the input", &[spec.batch, spec.in_channels, spec.in_height, spec.in_width])?;
        elements("the padded input", &[spec.batch, spec.in_channels, height, width])?;
        elements("the weights", &[spec.out_channels, filter[0], filter[1], filter[2]])?;
        let out = elements("the output", &[spec.batch, spec.out_channels, out_height, out_width])?;
        // Floating-point operations are counted in 64 bits: 2 per multiply-accumulate.
        filter
            .iter()
            .try_fold((out as u64).checked_mul(2), |count, &n| count.map(|c| c.checked_mul(n as u64)))
            .flatten()
            .ok_or(SpecError::Overflow { what: "the number of multiply-accumulates" })?;
        Ok(ConvSpec { padding, ..spec })
    }
}

/// Extent of a dilated kernel along one axis.
fn dilated(kernel: usize, dilation: usize) -> Result<usize, SpecError> {
    (kernel - 1)
        .checked_mul(dilation)
        .and_then(|extent| extent.checked_add(1))
        .ok_or(SpecError::Overflow { what: "the dilated kernel" })
}

/// Padding before and after so that out = ceil(in / stride).
fn same(size: usize, kernel: usize, stride: usize) -> Result<(usize, usize), SpecError> {
    // (out - 1) * stride < in, so only the sum can overflow.
    let reach = ((size.div_ceil(stride) - 1) * stride)
        .checked_add(kernel)
        .ok_or(SpecError::Overflow { what: "the padded input" })?;
    let total = reach.saturating_sub(size);
    Ok((total / 2, total - total / 2))
}

/// The padded extent, if the dilated kernel fits it.
fn fits(
    size: usize,
    before: usize,
    after: usize,
    kernel: usize,
    axis: &'static str,
) -> Result<usize, SpecError> {
    let padded_input = size
        .checked_add(before)
        .and_then(|sum| sum.checked_add(after))
        .ok_or(SpecError::Overflow { what: "the padded input" })?;
    if kernel > padded_input {
        return Err(SpecError::KernelTooLarge { axis, kernel, padded_input });
    }
    Ok(padded_input)
}

/// The product of the dimensions, if that many f32s fit the address space with room to spare for
/// the rounding up of packed forms.
fn elements(what: &'static str, dims: &[usize]) -> Result<usize, SpecError> {
    const MOST: usize = isize::MAX as usize / 64;
    dims.iter()
        .try_fold(1usize, |product, &n| product.checked_mul(n))
        .filter(|&count| count <= MOST)
        .ok_or(SpecError::Overflow { what })
}
