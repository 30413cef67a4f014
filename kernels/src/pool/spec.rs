//! [`PoolSpec`]: what a pooling is, with checked shape arithmetic.

use super::axis::Axis;
use crate::error::SpecError;
use crate::spec::{Layout, Padding};

/// A 2D pooling: shapes, window, stride, padding, dilation, rounding and layout.
///
/// One that exists is valid: every dimension is at least 1, there is an output, no side has as much padding as
/// the window is long, and none of its products overflows.
///
/// ```text
/// out = (in + pads − dilation·(kernel − 1) − 1) / stride + 1, rounded down, or up in ceil mode
/// ```
/// In ceil mode the last window may reach beyond the padding; one that would start in the right or bottom padding
/// is left out, as in ONNX and PyTorch.
///
/// # Examples
/// The lecture's: 2×2 windows with stride 2 halve the image.
/// ```
/// use kernels::pool::PoolSpec;
/// let spec = PoolSpec::builder().channels(64).input_size(224, 224).kernel(2, 2).stride(2, 2).build()?;
/// assert_eq!((spec.out_height(), spec.out_width()), (112, 112));
/// # Ok::<(), kernels::SpecError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PoolSpec {
    batch: usize,
    channels: usize,
    input: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: Padding,
    dilation: [usize; 2],
    ceil_mode: bool,
    layout: Layout,
    output: [usize; 2],
}

/// Builds a [`PoolSpec`]. Batch and dilation default to 1, padding to 0, stride to the window's size, layout to
/// [`Layout::Nchw`]; the rest must be given.
#[derive(Clone, Debug, Default)]
pub struct PoolSpecBuilder {
    batch: Option<usize>,
    channels: Option<usize>,
    in_height: Option<usize>,
    in_width: Option<usize>,
    kernel: Option<[usize; 2]>,
    stride: Option<[usize; 2]>,
    padding: Padding,
    dilation: Option<[usize; 2]>,
    ceil_mode: bool,
    layout: Layout,
}

impl PoolSpec {
    /// Starts a description; [`PoolSpecBuilder::build`] checks it.
    pub fn builder() -> PoolSpecBuilder {
        PoolSpecBuilder::default()
    }

    /// One window over the whole image: what global pooling is.
    ///
    /// ```
    /// use kernels::{Layout, pool::PoolSpec};
    /// let spec = PoolSpec::global(8, 2048, 7, 7, Layout::Nhwc)?;
    /// assert_eq!(spec.output_shape(), [8, 1, 1, 2048]);
    /// # Ok::<(), kernels::SpecError>(())
    /// ```
    ///
    /// # Errors
    /// As [`PoolSpecBuilder::build`].
    pub fn global(
        batch: usize,
        channels: usize,
        in_height: usize,
        in_width: usize,
        layout: Layout,
    ) -> Result<Self, SpecError> {
        let sized = PoolSpec::builder().batch(batch).channels(channels).input_size(in_height, in_width);
        sized.kernel(in_height, in_width).layout(layout).build()
    }

    /// Images in the batch.
    pub fn batch(&self) -> usize {
        self.batch
    }
    /// Channels, as many in the output as in the input.
    pub fn channels(&self) -> usize {
        self.channels
    }
    /// Rows of the input, without padding.
    pub fn in_height(&self) -> usize {
        self.input[0]
    }
    /// Columns of the input, without padding.
    pub fn in_width(&self) -> usize {
        self.input[1]
    }
    /// Window size `[height, width]`.
    pub fn kernel(&self) -> [usize; 2] {
        self.kernel
    }
    /// Stride `[vertical, horizontal]`.
    pub fn stride(&self) -> [usize; 2] {
        self.stride
    }
    /// Padding on the four sides.
    pub fn padding(&self) -> Padding {
        self.padding
    }
    /// Dilation `[vertical, horizontal]`, counted from 1.
    pub fn dilation(&self) -> [usize; 2] {
        self.dilation
    }
    /// Whether the output's size is rounded up.
    pub fn ceil_mode(&self) -> bool {
        self.ceil_mode
    }
    /// Layout of input and output.
    pub fn layout(&self) -> Layout {
        self.layout
    }
    /// Rows of the output.
    pub fn out_height(&self) -> usize {
        self.output[0]
    }
    /// Columns of the output.
    pub fn out_width(&self) -> usize {
        self.output[1]
    }
    /// Elements (f32s) of the input.
    pub fn input_len(&self) -> usize {
        self.batch * self.channels * self.input[0] * self.input[1]
    }
    /// Elements (f32s) of the output.
    pub fn output_len(&self) -> usize {
        self.batch * self.channels * self.output[0] * self.output[1]
    }
    /// Dimensions of the input in the order of [`layout`](Self::layout).
    pub fn input_shape(&self) -> [usize; 4] {
        self.shape(self.input)
    }
    /// Dimensions of the output in the order of [`layout`](Self::layout).
    pub fn output_shape(&self) -> [usize; 4] {
        self.shape(self.output)
    }

    fn shape(&self, [height, width]: [usize; 2]) -> [usize; 4] {
        match self.layout {
            Layout::Nchw => [self.batch, self.channels, height, width],
            Layout::Nhwc => [self.batch, height, width, self.channels],
        }
    }

    /// Windows along an axis: 0 is vertical, 1 horizontal.
    pub(super) fn axis(&self, axis: usize) -> Axis {
        let p = self.padding;
        let (before, after) = [(p.top, p.bottom), (p.left, p.right)][axis];
        Axis {
            size: self.input[axis],
            before,
            after,
            kernel: self.kernel[axis],
            stride: self.stride[axis],
            dilation: self.dilation[axis],
        }
    }
}

impl PoolSpecBuilder {
    /// Images in the batch; 1 if not given.
    pub fn batch(mut self, batch: usize) -> Self {
        self.batch = Some(batch);
        self
    }
    /// Channels.
    pub fn channels(mut self, channels: usize) -> Self {
        self.channels = Some(channels);
        self
    }
    /// Rows and columns of the input.
    pub fn input_size(mut self, height: usize, width: usize) -> Self {
        (self.in_height, self.in_width) = (Some(height), Some(width));
        self
    }
    /// Rows and columns of the window.
    pub fn kernel(mut self, height: usize, width: usize) -> Self {
        self.kernel = Some([height, width]);
        self
    }
    /// Vertical and horizontal stride; the window's size if not given.
    pub fn stride(mut self, vertical: usize, horizontal: usize) -> Self {
        self.stride = Some([vertical, horizontal]);
        self
    }
    /// Padding on the four sides, which no maximum takes and an average may count; none if not given.
    pub fn padding(mut self, padding: Padding) -> Self {
        self.padding = padding;
        self
    }
    /// Vertical and horizontal dilation, counted from 1; 1 if not given.
    pub fn dilation(mut self, vertical: usize, horizontal: usize) -> Self {
        self.dilation = Some([vertical, horizontal]);
        self
    }
    /// Whether the output's size is rounded up; down if not given.
    pub fn ceil_mode(mut self, ceil_mode: bool) -> Self {
        self.ceil_mode = ceil_mode;
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
    /// A [`SpecError`] that names the offending value: a missing or zero dimension, a window larger than the padded
    /// input, padding as long as the window, or sizes whose products overflow.
    pub fn build(self) -> Result<PoolSpec, SpecError> {
        let need = |value: Option<usize>, field| value.ok_or(SpecError::Missing { field });
        let kernel = self.kernel.ok_or(SpecError::Missing { field: "kernel" })?;
        let mut spec = PoolSpec {
            batch: self.batch.unwrap_or(1),
            channels: need(self.channels, "channels")?,
            input: [need(self.in_height, "in_height")?, need(self.in_width, "in_width")?],
            kernel,
            stride: self.stride.unwrap_or(kernel),
            padding: self.padding,
            dilation: self.dilation.unwrap_or([1, 1]),
            ceil_mode: self.ceil_mode,
            layout: self.layout,
            output: [0, 0],
        };
        for (field, value) in [
            ("batch", spec.batch),
            ("channels", spec.channels),
            ("in_height", spec.input[0]),
            ("in_width", spec.input[1]),
            ("kernel height", spec.kernel[0]),
            ("kernel width", spec.kernel[1]),
            ("vertical stride", spec.stride[0]),
            ("horizontal stride", spec.stride[1]),
            ("vertical dilation", spec.dilation[0]),
            ("horizontal dilation", spec.dilation[1]),
        ] {
            if value == 0 {
                return Err(SpecError::Zero { field });
            }
        }
        let sides = [("top", "bottom"), ("left", "right")];
        for axis in 0..2 {
            spec.output[axis] =
                spec.axis(axis).outputs(spec.ceil_mode, ["height", "width"][axis], sides[axis])?;
        }
        let elements = |what, [height, width]: [usize; 2]| {
            crate::spec::elements(what, &[spec.batch, spec.channels, height, width])
        };
        elements("the input", spec.input)?;
        elements("the output", spec.output)?;
        // Divisors of averages are products of extents with padding.
        crate::spec::elements("the window", &spec.kernel)?;
        Ok(spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outputs(size: usize, kernel: usize, stride: usize, padding: [usize; 2], ceil_mode: bool) -> usize {
        let padding = Padding { top: padding[0], bottom: padding[1], left: 0, right: 0 };
        let spec = PoolSpec::builder().channels(1).input_size(size, 1).kernel(kernel, 1).stride(stride, 1);
        spec.padding(padding).ceil_mode(ceil_mode).build().unwrap().out_height()
    }

    #[test]
    fn outputs_are_rounded_as_pytorch_and_onnx_have_it() {
        assert_eq!(outputs(224, 2, 2, [0, 0], false), 112);
        assert_eq!(outputs(112, 3, 2, [1, 1], false), 56);
        assert_eq!(outputs(55, 3, 2, [0, 0], false), 27);
        assert_eq!((outputs(4, 3, 2, [0, 0], false), outputs(4, 3, 2, [0, 0], true)), (1, 2));
        // A window larger than the input, cut by it.
        assert_eq!(outputs(2, 3, 2, [0, 0], true), 1);
        // The third window of three would start in the bottom padding.
        assert_eq!(outputs(4, 2, 3, [1, 1], true), 2);
        assert_eq!(outputs(2, 3, 3, [1, 1], true), 1);
    }

    #[test]
    fn bad_windows_are_named() {
        let spec = || PoolSpec::builder().channels(1).input_size(4, 4);
        let padded = |bottom| spec().kernel(2, 2).padding(Padding { bottom, ..Padding::none() }).build();
        assert!(padded(1).is_ok());
        let error = SpecError::PoolPadding { side: "bottom", padding: 2, kernel: 2 };
        assert_eq!(padded(2), Err(error.clone()));
        assert_eq!(error.to_string(), "bottom padding 2 is not less than the window's extent 2");
        assert_eq!(
            spec().kernel(5, 1).build(),
            Err(SpecError::KernelTooLarge { axis: "height", kernel: 5, padded_input: 4 })
        );
        assert_eq!(spec().build(), Err(SpecError::Missing { field: "kernel" }));
        assert_eq!(spec().kernel(1, 0).build(), Err(SpecError::Zero { field: "kernel width" }));
        let huge = usize::MAX;
        assert!(spec().kernel(1, 2).dilation(1, huge).build().is_err());
        assert!(spec().kernel(2, 2).stride(huge, huge).ceil_mode(true).build().is_err());
        assert!(PoolSpec::builder().channels(huge).input_size(huge, 2).kernel(1, 1).build().is_err());
    }
}
