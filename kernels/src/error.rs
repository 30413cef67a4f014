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
    /// The CUDA driver's library could not be loaded.
    NoDriver {
        /// Its name or path.
        library: String,
        /// What the system's loader says.
        reason: String,
    },
    /// The CUDA driver is older than what the kernels need.
    DriverTooOld {
        /// The newest CUDA version it supports.
        version: (u32, u32),
        /// The oldest that would do.
        needed: (u32, u32),
    },
    /// The CUDA driver's library lacks a function.
    DriverLacks {
        /// The library's name or path.
        library: String,
        /// The function.
        function: &'static str,
    },
    /// The CUDA driver does not start.
    DriverFailed {
        /// The function that failed.
        call: &'static str,
        /// The name of the driver's error code.
        code: String,
    },
    /// There is no such GPU.
    NoDevice {
        /// The number asked for, from 0.
        ordinal: usize,
        /// How many the driver knows.
        count: usize,
    },
    /// The GPU is older than what the kernel needs.
    ComputeCapability {
        /// The GPU's name.
        device: String,
        /// Its compute capability.
        actual: (u32, u32),
        /// The lowest that would do.
        needed: (u32, u32),
    },
    /// NVRTC, which compiles kernels for the GPU, could not be loaded.
    NoCompiler {
        /// The names or the path that were tried.
        library: String,
        /// What the system's loader says.
        reason: String,
    },
    /// NVRTC does not go with the GPU or its driver.
    Compiler {
        /// NVRTC's version.
        version: (u32, u32),
        /// What is wrong with it, and what would be right.
        problem: String,
    },
    /// The GPU stopped working earlier in this process.
    DeviceLost {
        /// The name of the driver's error code.
        code: String,
    },
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unavailable::NotDetected(isa) => write!(f, "this CPU does not have {isa}"),
            Unavailable::Capped { isa, cap } => write!(f, "{isa} is above the cap CONV_ISA={cap}"),
            Unavailable::InvalidCap(value) => {
                write!(f, "CONV_ISA is `{value}`, but must be one of {}", Isa::names())
            }
            Unavailable::NoDriver { library, reason } => write!(
                f,
                "no CUDA: the driver's library {library} could not be loaded ({reason}); it comes with NVIDIA's \
                 driver, and CONV_CUDA_DRIVER may name its path"
            ),
            Unavailable::DriverTooOld { version: (a, b), needed: (c, d) } => write!(
                f,
                "the CUDA driver supports CUDA {a}.{b}, but must be one that supports {c}.{d} or newer"
            ),
            Unavailable::DriverLacks { library, function } => {
                write!(f, "{library} has no {function}: it is no CUDA driver, or one that is too old")
            }
            Unavailable::DriverFailed { call, code } => {
                write!(f, "the CUDA driver does not start: {call} says {code}")
            }
            Unavailable::NoDevice { count: 0, .. } => write!(f, "the CUDA driver finds no GPU"),
            Unavailable::NoDevice { ordinal, count } => {
                write!(f, "there is no GPU {ordinal}: the CUDA driver finds {count}, counted from 0")
            }
            Unavailable::ComputeCapability { device, actual: (a, b), needed: (c, d) } => {
                write!(f, "{device} has compute capability {a}.{b}, but the kernel needs {c}.{d} or higher")
            }
            Unavailable::NoCompiler { library, reason } => write!(
                f,
                "NVRTC could not be loaded: {library} ({reason}); it comes with the CUDA toolkit and as the \
                 Python package nvidia-cuda-nvrtc, and CONV_NVRTC may name its path"
            ),
            Unavailable::Compiler { version: (a, b), problem } => write!(f, "NVRTC {a}.{b} {problem}"),
            Unavailable::DeviceLost { code } => {
                write!(f, "the GPU stopped working in this process ({code}): only a new process can use it")
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
    /// Memory of the GPU could not be had.
    DeviceOutOfMemory {
        /// How many bytes were asked for.
        bytes: usize,
    },
    /// The GPU stopped working: nothing that runs on it can be used any more.
    DeviceLost {
        /// The function of the driver that first reported it.
        call: &'static str,
        /// The name of the driver's error code.
        code: String,
    },
    /// A function of the CUDA driver failed; the GPU goes on working.
    Device {
        /// The function.
        call: &'static str,
        /// The name of the driver's error code.
        code: String,
    },
    /// A kernel's code for the GPU could not be compiled or loaded.
    DeviceCode {
        /// The kernel's function on the GPU.
        function: &'static str,
        /// What failed, with the first line of the compiler's log or the driver's error code.
        problem: String,
    },
    /// A buffer on the GPU was not allocated on the stream that it is used on, which alone puts its allocation,
    /// use and release in order.
    Stream {
        /// `input`, `output` or `scratch`; `stream` for a stream of another device.
        buffer: &'static str,
    },
    /// A buffer on the GPU does not start where its kernels, which move four f32s at a time, can read it.
    Alignment {
        /// `input`, `output` or `scratch`.
        buffer: &'static str,
        /// Bytes from the last place that would do to its start.
        actual: u64,
        /// A multiple of so many bytes would do; allocations start at one.
        expected: u64,
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
            ConvError::DeviceOutOfMemory { bytes } => {
                write!(f, "{bytes} bytes of the GPU's memory could not be had")
            }
            ConvError::DeviceLost { call, code } => {
                write!(f, "the GPU stopped working ({call}: {code}): only a new process can use it")
            }
            ConvError::Device { call, code } => write!(f, "the CUDA driver's {call} failed: {code}"),
            ConvError::DeviceCode { function, problem } => {
                write!(f, "the GPU kernel {function} could not be loaded: {problem}")
            }
            ConvError::Stream { buffer: "stream" } => {
                write!(f, "the stream belongs to another context than the plan's device")
            }
            ConvError::Stream { buffer } => {
                write!(f, "{buffer} was allocated on another stream than the one it is used on")
            }
            ConvError::Alignment { buffer, actual, expected } => {
                write!(
                    f,
                    "{buffer} starts {actual} bytes behind a multiple of {expected} bytes, but must at one"
                )
            }
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
