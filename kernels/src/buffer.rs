//! Memory that starts on a cache line, taken without panicking.

use std::ops::{Deref, DerefMut};

use crate::error::ConvError;

/// f32s in a cache line of 64 bytes.
pub(crate) const LINE: usize = 16;

/// The part of `slice` that starts on a cache line and is `len` long, if there is one. A slice of
/// `len + LINE - 1` f32s always has it.
pub(crate) fn align(slice: &mut [f32], len: usize) -> Option<&mut [f32]> {
    let offset = if len == 0 { 0 } else { misalignment(slice.as_ptr()) };
    slice.get_mut(offset..offset.checked_add(len)?)
}

/// f32s from `p` to the next cache line.
fn misalignment(p: *const f32) -> usize {
    (64 - p as usize % 64) % 64 / 4
}

/// f32s, rounded up to an odd number of cache lines: what lies so far apart falls in different sets of a cache.
pub(crate) fn odd_lines(len: usize) -> usize {
    (len.div_ceil(LINE) | 1) * LINE
}

/// An empty vector with room for `len` values, or the error that says how much could not be had.
pub(crate) fn try_vec<T>(len: usize) -> Result<Vec<T>, ConvError> {
    let mut data = Vec::new();
    data.try_reserve_exact(len)
        .map_err(|_| ConvError::OutOfMemory { bytes: len.saturating_mul(size_of::<T>()) })?;
    Ok(data)
}

/// A vector of `len` zeros, or the error that says how much could not be had.
pub(crate) fn zeros(len: usize) -> Result<Vec<f32>, ConvError> {
    let mut data = try_vec(len)?;
    data.resize(len, 0.0);
    Ok(data)
}

/// Zero-initialised f32s that start on a cache line.
#[derive(Debug)]
pub(crate) struct AlignedBuffer {
    data: Vec<f32>,
    offset: usize,
    len: usize,
}

impl AlignedBuffer {
    pub(crate) fn zeros(len: usize) -> Result<Self, ConvError> {
        let data = zeros(len + LINE - 1)?;
        // The vector is never resized, so its memory and with it the offset stay.
        let offset = misalignment(data.as_ptr());
        Ok(AlignedBuffer { data, offset, len })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.data.len() * 4
    }
}

impl Deref for AlignedBuffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.data[self.offset..self.offset + self.len]
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.data[self.offset..self.offset + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_start_on_a_cache_line() {
        for len in [0, 1, 15, 16, 1000] {
            let buffer = AlignedBuffer::zeros(len).unwrap();
            assert_eq!(buffer.len(), len);
            assert_eq!(buffer.as_ptr() as usize % 64, 0);
        }
        let mut plain = vec![0.0; 100];
        for start in 0..20 {
            let aligned = align(&mut plain[start..], 100 - 20 - LINE + 1).unwrap();
            assert_eq!(aligned.as_ptr() as usize % 64, 0);
        }
        assert!(align(&mut plain, 101).is_none());
    }

    #[test]
    fn too_much_memory_is_an_error() {
        let bytes = usize::MAX / 8;
        assert_eq!(zeros(bytes / 4), Err(ConvError::OutOfMemory { bytes: bytes / 4 * 4 }));
    }
}
