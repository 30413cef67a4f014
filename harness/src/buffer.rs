//! Buffers that begin on a cache line, as inference engines and the peers that have memory of their own
//! allocate tensors.

use std::ops::{Deref, DerefMut};

/// f32s of a cache line.
pub(crate) const LINE: usize = 16;

/// f32s, the first on a cache line.
#[derive(Debug)]
pub struct Buffer {
    memory: Vec<f32>,
    start: usize,
    len: usize,
}

impl Buffer {
    /// So many zeros.
    pub fn zeros(len: usize) -> Self {
        let memory = vec![0.0; len.saturating_add(LINE - 1)];
        let start = memory.as_ptr().align_offset(4 * LINE).min(LINE - 1);
        Buffer { memory, start, len }
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

impl From<&[f32]> for Buffer {
    fn from(values: &[f32]) -> Self {
        let mut buffer = Buffer::zeros(values.len());
        buffer.copy_from_slice(values);
        buffer
    }
}

impl From<Vec<f32>> for Buffer {
    fn from(values: Vec<f32>) -> Self {
        Buffer::from(&values[..])
    }
}

impl Clone for Buffer {
    /// Elsewhere, the first f32 lies otherwise in its memory.
    fn clone(&self) -> Self {
        Buffer::from(&self[..])
    }
}

impl PartialEq for Buffer {
    fn eq(&self, other: &Self) -> bool {
        self[..] == other[..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_begin_on_a_line() {
        for len in [0, 1, 15, 16, 1000, 100_000] {
            let values: Vec<f32> = (0..len).map(|i| i as f32).collect();
            let buffer = Buffer::from(values.clone());
            assert_eq!(buffer.as_ptr().align_offset(64), 0);
            assert_eq!(buffer[..], values[..]);
            let moved = buffer.clone();
            assert_eq!(moved.as_ptr().align_offset(64), 0);
            assert_eq!(moved, buffer);
            assert_eq!(Buffer::zeros(len).len(), len);
        }
    }
}
