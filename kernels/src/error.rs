//! Typed errors. Every variant carries the offending value and says what would be right.

use std::fmt;

use crate::ConvSpec;
use crate::simd::Isa;

/// A convolution description that cannot exist: each variant names the offending value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpecError {
    /// A dimension that must be at least 1 is 0.
    Zero {
        /// Which dimension, by its name in [`ConvSpec`].
        field: &'static str,
    },
    /// A required dimension was not given.
    Missing {
        /// Which dimension, by its name in [`ConvSpec`].
        field: &'static str,
    },
    /// `groups` does not divide a channel count.
    Groups {
        /// The number of groups.
        groups: usize,
        /// `in_channels` or `out_channels`.
        field: &'static str,
        /// The number of channels.
        channels: usize,
    },
    /// The dilated kernel is larger than the padded input.
    KernelTooLarge {
        /// `height` or `width`.
        axis: &'static str,
        /// Extent of the dilated kernel: dilation·(kernel − 1) + 1.
        kernel: usize,
        /// Extent of the input with its padding.
        padded_input: usize,
    },
    /// A side of a pooling has so much padding that a window could lie in it.
    PoolPadding {
        /// `top`, `bottom`, `left` or `right`.
        side: &'static str,
        /// Its padding.
        padding: usize,
        /// Extent of the dilated window: dilation·(kernel − 1) + 1.
        kernel: usize,
    },
    /// A product of dimensions does not fit the address space.
    Overflow {
        /// What does not fit.
        what: &'static str,
    },
    /// A spec string could not be read.
    Parse {
        /// The token that could not be read.
        token: String,
        /// What would be right.
        expected: &'static str,
    },
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SpecError::Zero { field } => write!(f, "{field} is 0, but must be at least 1"),
            SpecError::Missing { field } => write!(f, "{field} is missing"),
            SpecError::Groups { groups, field, channels } => {
                write!(f, "groups {groups} does not divide {field} {channels}")
            }
            SpecError::KernelTooLarge { axis, kernel, padded_input } => write!(
                f,
                "kernel {axis} {kernel} (with dilation) is larger than the padded input {axis} {padded_input}"
            ),
            SpecError::PoolPadding { side, padding, kernel } => {
                write!(f, "{side} padding {padding} is not less than the window's extent {kernel}")
            }
            SpecError::Overflow { what } => write!(f, "{what} does not fit this machine's address space"),
            SpecError::Parse { token, expected } => write!(f, "`{token}` is not {expected}"),
        }
    }
}

impl std::error::Error for SpecError {}

/// Why a kernel cannot run on this machine or in this build.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unavailable {
    /// The CPU does not have the instruction set.
    NotDetected(Isa),
    /// The environment variable `CONV_ISA` caps the choice below this instruction set.
    Capped {
        /// The instruction set asked for.
        isa: Isa,
        /// The cap in force.
        cap: Isa,
    },
    /// The environment variable `CONV_ISA` holds something that is no instruction set.
    InvalidCap(String),
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unavailable::NotDetected(isa) => write!(f, "this CPU does not have {isa}"),
            Unavailable::Capped { isa, cap } => write!(f, "{isa} is above the cap CONV_ISA={cap}"),
            Unavailable::InvalidCap(value) => {
                write!(f, "CONV_ISA is `{value}`, but must be one of {}", Isa::names())
            }
        }
    }
}

impl std::error::Error for Unavailable {}

/// A kernel refuses a convolution that its method does not cover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    kernel: String,
    what: String,
    // Boxed to keep every `Result` of the crate small.
    spec: Box<ConvSpec>,
}

impl Unsupported {
    pub(crate) fn new(kernel: &str, what: String, spec: &ConvSpec) -> Self {
        Unsupported { kernel: kernel.to_owned(), what, spec: Box::new(*spec) }
    }

    /// The id of the kernel that refuses.
    pub fn kernel(&self) -> &str {
        &self.kernel
    }

    /// What the kernel does not support, for example `stride 2x2 (needs 1x1)`.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// The convolution that was refused.
    pub fn spec(&self) -> &ConvSpec {
        &self.spec
    }
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} does not support {} ({})", self.kernel, self.what, self.spec)
    }
}

impl std::error::Error for Unsupported {}

/// Everything that can go wrong between choosing a kernel and running it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConvError {
    /// The description is no convolution.
    Spec(SpecError),
    /// No kernel has this id.
    UnknownKernel {
        /// The id that was asked for.
        id: String,
        /// The ids there are in this build, separated by commas.
        known: String,
    },
    /// The kernel cannot run here.
    Unavailable {
        /// The kernel's id.
        kernel: String,
        /// Why.
        reason: Unavailable,
    },
    /// The kernel does not cover this convolution.
    Unsupported(Unsupported),
    /// A buffer has the wrong length.
    BufferLength {
        /// `input`, `weights`, `bias` or `output`.
        buffer: &'static str,
        /// Its length in f32s.
        actual: usize,
        /// The length it must have, in f32s.
        expected: usize,
    },
    /// A borrowed workspace is too small.
    WorkspaceTooSmall {
        /// Its length in f32s.
        actual: usize,
        /// The length the plan needs, in f32s.
        needed: usize,
    },
    /// An option has a value that makes no sense.
    Option {
        /// The field of `PlanOptions`.
        option: &'static str,
        /// Its value.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
    /// A line of text is not a choice of [`choices`](crate::choices).
    Choices {
        /// Its number, from 1.
        line: usize,
        /// Its text, at most 80 characters.
        text: String,
        /// What it must have.
        expected: &'static str,
    },
    /// A plan cannot be resized to a convolution that differs in more than its size.
    Resize {
        /// The field of [`ConvSpec`] that differs.
        field: &'static str,
        /// Its value.
        actual: String,
        /// Its value in the plan, the only one that would be right.
        expected: String,
    },
    /// Memory for packed weights or a workspace could not be had.
    OutOfMemory {
        /// How many bytes were asked for.
        bytes: usize,
    },
}

impl fmt::Display for ConvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConvError::Spec(e) => e.fmt(f),
            ConvError::UnknownKernel { id, known } => {
                write!(f, "unknown kernel `{id}`; this build has {known}")
            }
            ConvError::Unavailable { kernel, reason } => write!(f, "{kernel} is not available: {reason}"),
            ConvError::Unsupported(e) => e.fmt(f),
            ConvError::BufferLength { buffer, actual, expected } => {
                write!(f, "{buffer} has {actual} elements, but must have {expected}")
            }
            ConvError::WorkspaceTooSmall { actual, needed } => {
                write!(f, "the borrowed workspace has {actual} f32s, but the plan needs {needed}")
            }
            ConvError::Option { option, value, expected } => {
                write!(f, "option {option} is {value}, but must be {expected}")
            }
            ConvError::Choices { line, text, expected } => {
                write!(f, "line {line}, `{text}`, is no choice: it must have {expected}")
            }
            ConvError::Resize { field, actual, expected } => write!(
                f,
                "{field} is {actual}, but must stay {expected}: a plan can be resized to another batch, image \
                 size or padding only"
            ),
            ConvError::OutOfMemory { bytes } => write!(f, "{bytes} bytes of memory could not be had"),
        }
    }
}

impl std::error::Error for ConvError {}

impl From<SpecError> for ConvError {
    fn from(e: SpecError) -> Self {
        ConvError::Spec(e)
    }
}

impl From<Unsupported> for ConvError {
    fn from(e: Unsupported) -> Self {
        ConvError::Unsupported(e)
    }
}
