//! [`ConvSpec`]: what a convolution is, with checked shape arithmetic.

mod builder;
mod parse;

pub use builder::ConvSpecBuilder;
pub(crate) use builder::elements;

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
        ConvSpecBuilder::of(self)
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

    /// The first field in which two convolutions differ, and its value in each; batch, image size and padding
    /// do not count.
    pub(crate) fn difference_beyond_size(&self, other: &Self) -> Option<(&'static str, String, String)> {
        type Field = (&'static str, fn(&ConvSpec) -> String);
        const FIELDS: [Field; 7] = [
            ("in_channels", |spec| spec.in_channels.to_string()),
            ("out_channels", |spec| spec.out_channels.to_string()),
            ("kernel", |spec| extent(spec.kernel)),
            ("stride", |spec| extent(spec.stride)),
            ("dilation", |spec| extent(spec.dilation)),
            ("groups", |spec| spec.groups.to_string()),
            ("layout", |spec| spec.layout.to_string()),
        ];
        fn extent([height, width]: [usize; 2]) -> String {
            format!("{height}x{width}")
        }
        FIELDS
            .iter()
            .map(|(name, value)| (*name, value(self), value(other)))
            .find(|(_, own, others)| own != others)
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
