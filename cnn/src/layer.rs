//! What layers there are and what each is told.

use kernels::{Activation, ConvSpec, Padding, SpecError};

use crate::Shape;

/// A layer of a network.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Layer {
    /// Filters that slide over the maps.
    Conv(Conv),
    /// max(0, x), or limits on both sides, of each value.
    Activation(Activation),
    /// The maximum of each window.
    MaxPool(Pool),
    /// The mean of each window.
    AvgPool(Pool),
    /// The mean of each map.
    GlobalAvgPool,
    /// y = W·x + b.
    Linear(Linear),
    /// Each value divided by a root of the squares of its neighbours in depth.
    Lrn(Lrn),
    /// Each channel moved and scaled to mean 0 and variance 1, then by what is learned.
    BatchNorm(BatchNorm),
    /// The sum of two layers' outputs of one shape.
    Add,
    /// Maps in a row, channel by channel.
    Flatten,
    /// In training, each value is 0 with this probability and grows by 1/(1 − p) otherwise; else nothing.
    Dropout(f32),
    /// exp(x) over the sum of exp(x) along an axis of each image: 0 are channels or features, 1 rows, 2 columns.
    Softmax {
        /// The axis.
        axis: usize,
    },
}

impl Layer {
    /// max(0, x).
    pub const RELU: Layer = Layer::Activation(Activation::Relu);
    /// x limited to 0..=6.
    pub const RELU6: Layer = Layer::Activation(Activation::Clamp { min: 0.0, max: 6.0 });

    /// exp(x) over the sum of exp(x) of all features or channels.
    pub const SOFTMAX: Layer = Layer::Softmax { axis: 0 };

    /// The kind, as tables name it.
    pub fn kind(&self) -> &'static str {
        match self {
            Layer::Conv(_) => "Conv",
            Layer::Activation(Activation::Relu) => "ReLU",
            Layer::Activation(Activation::Clamp { .. }) => "Clamp",
            Layer::MaxPool(_) => "MaxPool",
            Layer::AvgPool(_) => "AvgPool",
            Layer::GlobalAvgPool => "GlobalAvgPool",
            Layer::Linear(_) => "Linear",
            Layer::Lrn(_) => "LRN",
            Layer::BatchNorm(_) => "BatchNorm",
            Layer::Add => "Add",
            Layer::Flatten => "Flatten",
            Layer::Dropout(_) => "Dropout",
            Layer::Softmax { .. } => "Softmax",
        }
    }

    /// How many layers' outputs it takes.
    pub fn arity(&self) -> usize {
        if matches!(self, Layer::Add) { 2 } else { 1 }
    }
}

impl From<Conv> for Layer {
    fn from(conv: Conv) -> Self {
        Layer::Conv(conv)
    }
}

impl From<Linear> for Layer {
    fn from(linear: Linear) -> Self {
        Layer::Linear(linear)
    }
}

impl From<Lrn> for Layer {
    fn from(lrn: Lrn) -> Self {
        Layer::Lrn(lrn)
    }
}

impl From<BatchNorm> for Layer {
    fn from(norm: BatchNorm) -> Self {
        Layer::BatchNorm(norm)
    }
}

/// A convolution: `Conv::new(64, 128, 3).padding(1)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Conv {
    /// Channels of the input.
    pub in_channels: usize,
    /// Filters, channels of the output.
    pub out_channels: usize,
    /// Kernel (filter) size `[height, width]`.
    pub kernel: [usize; 2],
    /// Stride `[vertical, horizontal]`.
    pub stride: [usize; 2],
    /// Zero padding on the four sides.
    pub padding: Padding,
    /// Dilation `[vertical, horizontal]`, counted from 1.
    pub dilation: [usize; 2],
    /// Groups of channels; `in_channels` is a depthwise convolution.
    pub groups: usize,
    /// Whether each filter has a bias.
    pub bias: bool,
    /// The convolution kernel's id; `None` takes what the network is run with.
    pub algorithm: Option<String>,
}

impl Conv {
    /// Square filters of `kernel × kernel`, stride 1, no padding, with bias.
    pub fn new(in_channels: usize, out_channels: usize, kernel: usize) -> Self {
        Conv {
            in_channels,
            out_channels,
            kernel: [kernel; 2],
            stride: [1; 2],
            padding: Padding::none(),
            dilation: [1; 2],
            groups: 1,
            bias: true,
            algorithm: None,
        }
    }

    /// The kernels' description of it over a batch of maps of this shape, in NCHW.
    ///
    /// ```
    /// let spec = cnn::Conv::new(3, 10, 5).spec(cnn::Shape::image(3, 32, 32), 2)?;
    /// assert_eq!(spec.output_len(), 2 * 10 * 28 * 28);
    /// # Ok::<(), kernels::SpecError>(())
    /// ```
    ///
    /// # Errors
    /// When there is no such convolution: a filter that is larger than the maps, say.
    pub fn spec(&self, input: Shape, batch: usize) -> Result<ConvSpec, SpecError> {
        let [_, height, width] = input.volume();
        ConvSpec::builder()
            .batch(batch)
            .in_channels(self.in_channels)
            .input_size(height, width)
            .out_channels(self.out_channels)
            .kernel(self.kernel[0], self.kernel[1])
            .stride(self.stride[0], self.stride[1])
            .padding(self.padding)
            .dilation(self.dilation[0], self.dilation[1])
            .groups(self.groups)
            .build()
    }

    /// The same stride in both directions.
    pub fn stride(self, stride: usize) -> Self {
        Conv { stride: [stride; 2], ..self }
    }

    /// The same padding on all sides.
    pub fn padding(self, padding: usize) -> Self {
        Conv { padding: Padding::uniform(padding), ..self }
    }

    /// Groups of channels that do not see each other.
    pub fn groups(self, groups: usize) -> Self {
        Conv { groups, ..self }
    }

    /// Without bias, as before a [`BatchNorm`].
    pub fn no_bias(self) -> Self {
        Conv { bias: false, ..self }
    }

    /// Computed by this kernel, whatever the network is run with.
    pub fn algorithm(self, id: &str) -> Self {
        Conv { algorithm: Some(id.to_owned()), ..self }
    }
}

/// A window that slides over each map: `Pool::new(2)` halves height and width.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// Extent of the window `[height, width]`.
    pub window: [usize; 2],
    /// Stride `[vertical, horizontal]`.
    pub stride: [usize; 2],
    /// Padding on the four sides: never a maximum.
    pub padding: Padding,
    /// Distance between neighbours in a window `[vertical, horizontal]`, counted from 1.
    pub dilation: [usize; 2],
    /// Whether a last window that reaches over the edge counts; one that would start in the padding behind
    /// the map does not.
    pub ceil_mode: bool,
    /// Whether a mean counts the padding as zeros.
    pub count_include_pad: bool,
}

impl Pool {
    /// Square windows side by side.
    pub fn new(window: usize) -> Self {
        Pool {
            window: [window; 2],
            stride: [window; 2],
            padding: Padding::none(),
            dilation: [1; 2],
            ceil_mode: false,
            count_include_pad: true,
        }
    }

    /// The same stride in both directions.
    pub fn stride(self, stride: usize) -> Self {
        Pool { stride: [stride; 2], ..self }
    }

    /// The same padding on all sides.
    pub fn padding(self, padding: usize) -> Self {
        Pool { padding: Padding::uniform(padding), ..self }
    }
}

/// A fully connected layer; weights `[out_features, in_features]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// Length of x.
    pub in_features: usize,
    /// Length of y.
    pub out_features: usize,
}

impl Linear {
    /// From so many features to so many.
    pub fn new(in_features: usize, out_features: usize) -> Self {
        Linear { in_features, out_features }
    }
}

/// Local response normalisation over `size` channels: y = x / (k + alpha/size · Σ x²)^beta.
#[derive(Clone, Debug, PartialEq)]
pub struct Lrn {
    /// Channels of the sum: ⌊(size − 1)/2⌋ before, ⌈(size − 1)/2⌉ behind, as ONNX has it.
    pub size: usize,
    /// Factor of the mean of squares.
    pub alpha: f32,
    /// Exponent.
    pub beta: f32,
    /// What is added to it.
    pub k: f32,
}

impl Lrn {
    /// AlexNet's: 5 channels, alpha 10⁻⁴, beta 0.75, k 2; alpha is that of the sum, not of the mean.
    pub fn alexnet() -> Self {
        Lrn { size: 5, alpha: 5e-4, beta: 0.75, k: 2.0 }
    }
}

/// Batch normalisation: y = weight · (x − mean) / √(variance + epsilon) + bias for each channel.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchNorm {
    /// Channels of the input.
    pub channels: usize,
    /// Keeps the root from 0.
    pub epsilon: f32,
    /// Share of a new batch in the running mean and variance, in training.
    pub momentum: f32,
}

impl BatchNorm {
    /// With epsilon 10⁻⁵ and momentum 0.1.
    pub fn new(channels: usize) -> Self {
        BatchNorm { channels, epsilon: 1e-5, momentum: 0.1 }
    }
}
