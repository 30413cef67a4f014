//! Scratch memory that plans run in.

use crate::buffer;
use crate::error::ConvError;

/// Scratch memory for [`Plan::run`](crate::Plan::run), reused from run to run and between plans.
///
/// - [`Workspace::default()`] is empty; it grows on a plan's first run and never after, unless a
///   plan that needs more comes along.
/// - [`Plan::workspace`](crate::Plan::workspace) makes one of full size.
/// - [`Workspace::from_slice`] borrows memory of the caller's and never grows: too small is an
///   error of `run`.
///
/// Its contents mean nothing between runs.
///
/// ```
/// use kernels::{kernel, ConvSpec, PlanOptions, Workspace};
/// let spec: ConvSpec = "c8 h6 w6 o8 k3 p1".parse()?;
/// let weights = vec![0.5; spec.weights_len()];
/// let plan = kernel("auto")?.plan(&spec, &weights, &PlanOptions::default())?;
/// let mut memory = vec![0.0; plan.workspace_len()];
/// let mut output = vec![0.0; spec.output_len()];
/// plan.run(&vec![1.0; spec.input_len()], None, &mut output, &mut Workspace::from_slice(&mut memory))?;
/// # Ok::<(), kernels::ConvError>(())
/// ```
#[derive(Debug, Default)]
pub struct Workspace<'a> {
    memory: Memory<'a>,
}

#[derive(Debug)]
enum Memory<'a> {
    Owned(Vec<f32>),
    Borrowed(&'a mut [f32]),
}

impl Default for Memory<'_> {
    fn default() -> Self {
        Memory::Owned(Vec::new())
    }
}

impl<'a> Workspace<'a> {
    /// A workspace in memory of the caller's, of any alignment. It never grows.
    pub fn from_slice(memory: &'a mut [f32]) -> Self {
        Workspace { memory: Memory::Borrowed(memory) }
    }

    /// Its present length in f32s.
    pub fn len(&self) -> usize {
        match &self.memory {
            Memory::Owned(data) => data.len(),
            Memory::Borrowed(data) => data.len(),
        }
    }

    /// Whether it holds no memory yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first `needed` f32s, growing to that if the memory is owned.
    pub(crate) fn reserve(&mut self, needed: usize) -> Result<&mut [f32], ConvError> {
        match &mut self.memory {
            Memory::Owned(data) => {
                if data.len() < needed {
                    // What is there is dropped first: contents mean nothing, and both at once could
                    // be more than there is.
                    *data = Vec::new();
                    *data = buffer::zeros(needed)?;
                }
                Ok(&mut data[..needed])
            }
            Memory::Borrowed(data) => {
                let actual = data.len();
                data.get_mut(..needed).ok_or(ConvError::WorkspaceTooSmall { actual, needed })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owned_grows_once_and_borrowed_never() {
        let mut owned = Workspace::default();
        assert!(owned.is_empty());
        assert_eq!(owned.reserve(10).unwrap().len(), 10);
        assert_eq!(owned.reserve(4).unwrap().len(), 4);
        assert_eq!(owned.len(), 10);
        let mut memory = [0.0; 8];
        let mut borrowed = Workspace::from_slice(&mut memory);
        assert_eq!(borrowed.reserve(8).unwrap().len(), 8);
        assert_eq!(borrowed.reserve(9), Err(ConvError::WorkspaceTooSmall { actual: 8, needed: 9 }));
    }
}
