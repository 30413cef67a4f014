//! Buffers that notice what they should not see: canaries around them, any alignment, dirty contents.

/// A value that no computation gives: a NaN with a payload of its own.
const CANARY: u32 = 0x7fc5_a5a5;

/// f32s of canary on each side.
const MARGIN: usize = 64;

/// A buffer between canaries, starting `offset` f32s off a cache line's start or wherever.
#[derive(Clone, Debug)]
pub struct Guarded {
    memory: Vec<f32>,
    start: usize,
    len: usize,
}

impl Guarded {
    /// A buffer that holds `values`, `offset` f32s further into its memory than the canaries need.
    pub fn new(values: &[f32], offset: usize) -> Self {
        let mut guarded = Guarded::dirty(values.len(), offset);
        guarded.slice_mut().copy_from_slice(values);
        guarded
    }

    /// A buffer of `len` NaNs.
    pub fn dirty(len: usize, offset: usize) -> Self {
        let start = MARGIN + offset;
        let memory = vec![f32::from_bits(CANARY); start + len + MARGIN];
        Guarded { memory, start, len }
    }

    /// The buffer.
    pub fn slice(&self) -> &[f32] {
        &self.memory[self.start..self.start + self.len]
    }

    /// The buffer, to write.
    pub fn slice_mut(&mut self) -> &mut [f32] {
        &mut self.memory[self.start..self.start + self.len]
    }

    /// Whether nobody wrote before or behind the buffer.
    pub fn is_intact(&self) -> bool {
        let canary = |x: &f32| x.to_bits() == CANARY;
        self.memory[..self.start].iter().all(canary)
            && self.memory[self.start + self.len..].iter().all(canary)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_on_either_side_is_noticed() {
        for offset in 0..16 {
            let mut guarded = Guarded::new(&[1.0, 2.0], offset);
            guarded.slice_mut()[1] = 5.0;
            assert!(guarded.is_intact());
            for index in [guarded.start - 1, guarded.start + 2] {
                let mut broken = guarded.clone();
                broken.memory[index] = 0.0;
                assert!(!broken.is_intact());
            }
        }
    }
}
