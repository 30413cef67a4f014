//! [`ConvSpecBuilder`]: every dimension is checked before there is a [`ConvSpec`].

use super::{ConvSpec, Layout, Padding};
use crate::error::SpecError;

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
    /// A builder that was given everything of a convolution.
    pub(super) fn of(spec: &ConvSpec) -> Self {
        ConvSpecBuilder {
            batch: Some(spec.batch),
            in_channels: Some(spec.in_channels),
            in_height: Some(spec.in_height),
            in_width: Some(spec.in_width),
            out_channels: Some(spec.out_channels),
            kernel: Some(spec.kernel),
            stride: Some(spec.stride),
            padding: PaddingRule::Explicit(spec.padding),
            dilation: Some(spec.dilation),
            groups: Some(spec.groups),
            layout: spec.layout,
        }
    }

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
pub(crate) fn elements(what: &'static str, dims: &[usize]) -> Result<usize, SpecError> {
    const MOST: usize = isize::MAX as usize / 64;
    dims.iter()
        .try_fold(1usize, |product, &n| product.checked_mul(n))
        .filter(|&count| count <= MOST)
        .ok_or(SpecError::Overflow { what })
}
