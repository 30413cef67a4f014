//! What can be wrong: every variant names the offending value and says what would be right.

use std::fmt;
use std::path::PathBuf;

use kernels::ConvError;

use crate::Shape;

/// Why a network cannot be built, loaded, run or trained.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// A layer does not take what another gives.
    Shape {
        /// The layer.
        layer: String,
        /// What it takes.
        wanted: String,
        /// The layer it was given.
        from: String,
        /// What that gives.
        given: Shape,
    },
    /// A layer that cannot exist.
    Layer {
        /// Its name.
        layer: String,
        /// What is wrong, with the value and what would be right.
        what: String,
    },
    /// A convolution that a kernel refuses, or whose kernel is unknown.
    Conv {
        /// The layer.
        layer: String,
        /// The kernels' reason.
        error: ConvError,
    },
    /// A buffer of the wrong length.
    Length {
        /// Which buffer.
        what: &'static str,
        /// Its length.
        actual: usize,
        /// The length it must have.
        expected: usize,
    },
    /// An option that makes no sense.
    Option {
        /// Which one.
        option: &'static str,
        /// Its value.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
    /// Memory that cannot be had.
    OutOfMemory {
        /// How much was asked for.
        bytes: usize,
    },
    /// A file that cannot be read or written, or does not hold what it must.
    File {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A model (a network in another format) that is broken, or has what is not supported.
    Model(String),
    /// The loss is no number any more.
    Diverged {
        /// Steps taken before this one.
        step: u64,
        /// The first layer whose output is not finite, or `loss`.
        layer: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Shape { layer, wanted, from, given } => {
                write!(f, "layer `{layer}` wants {wanted}, but `{from}` gives {given}")
            }
            Error::Layer { layer, what } => write!(f, "layer `{layer}`: {what}"),
            Error::Conv { layer, error } => write!(f, "layer `{layer}`: {error}"),
            Error::Length { what, actual, expected } => {
                write!(f, "{what} holds {actual} values, but must hold {expected}")
            }
            Error::Option { option, value, expected } => {
                write!(f, "{option} is {value}, but must be {expected}")
            }
            Error::OutOfMemory { bytes } => write!(f, "{bytes} bytes of memory cannot be had"),
            Error::File { path, what } => write!(f, "{}: {what}", path.display()),
            Error::Model(what) => f.write_str(what),
            Error::Diverged { step, layer } => {
                write!(
                    f,
                    "step {step}: the output of `{layer}` is not finite; a lower learning rate may help"
                )
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Conv { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// `len` zeros, or the error that says how much cannot be had.
pub(crate) fn zeros(len: usize) -> Result<Vec<f32>, Error> {
    let mut values = Vec::new();
    values.try_reserve_exact(len).map_err(|_| Error::OutOfMemory { bytes: len.saturating_mul(4) })?;
    values.resize(len, 0.0);
    Ok(values)
}

/// Fails unless a buffer has the length it must have.
pub(crate) fn check_len(what: &'static str, actual: usize, expected: usize) -> Result<(), Error> {
    if actual == expected { Ok(()) } else { Err(Error::Length { what, actual, expected }) }
}
