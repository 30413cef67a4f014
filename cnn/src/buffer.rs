//! Memory that begins on a cache line: vectors of 16 that do not are loaded and stored in two pieces.

use std::ops::{Deref, DerefMut};

use crate::Error;
use crate::error::zeros;

/// f32s of a cache line.
const LINE: usize = 16;

/// Values, the first on a cache line.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    memory: Vec<f32>,
    start: usize,
    len: usize,
}

impl Buffer {
    /// So many zeros, or the error that says how much memory cannot be had.
    pub(crate) fn zeros(len: usize) -> Result<Self, Error> {
        let memory = zeros(len.saturating_add(LINE - 1))?;
        // The vector is never resized, so its memory and with it the start stay.
        let start = memory.as_ptr().align_offset(4 * LINE).min(LINE - 1);
        Ok(Buffer { memory, start, len })
    }
}

impl Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_begin_on_a_cache_line() {
        for len in [0, 1, 15, 16, 1000] {
            let mut buffer = Buffer::zeros(len).unwrap();
            buffer.iter_mut().for_each(|value| *value += 1.0);
            assert_eq!(*buffer, vec![1.0; len][..]);
            assert_eq!(buffer.as_ptr() as usize % 64, 0);
        }
        assert!(Buffer::default().is_empty());
    }

    #[test]
    fn too_much_memory_is_an_error() {
        assert!(matches!(Buffer::zeros(usize::MAX), Err(Error::OutOfMemory { .. })));
    }
}
