//! Which values may share memory: buffers are taken when a value is made and given back after its last use.

/// The sizes of buffers, and which are free.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    sizes: Vec<usize>,
    free: Vec<usize>,
}

impl Slots {
    /// A buffer for `len` values: the smallest free one that holds them, else the largest free one, which
    /// grows, else a new one.
    pub(crate) fn take(&mut self, len: usize) -> usize {
        let sizes = &self.sizes;
        let holds =
            self.free.iter().copied().filter(|&slot| sizes[slot] >= len).min_by_key(|&slot| sizes[slot]);
        let slot = holds.or_else(|| self.free.iter().copied().max_by_key(|&slot| sizes[slot]));
        let Some(slot) = slot else {
            self.sizes.push(len);
            return self.sizes.len() - 1;
        };
        self.free.retain(|&free| free != slot);
        self.sizes[slot] = self.sizes[slot].max(len);
        slot
    }

    /// The buffer's value is read no more.
    pub(crate) fn give(&mut self, slot: usize) {
        debug_assert!(!self.free.contains(&slot));
        self.free.push(slot);
    }

    /// How large each buffer must be.
    pub(crate) fn sizes(&self) -> &[usize] {
        &self.sizes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_used_again() {
        let mut slots = Slots::default();
        let (a, b) = (slots.take(10), slots.take(4));
        assert_ne!(a, b);
        slots.give(a);
        slots.give(b);
        assert_eq!((slots.take(3), slots.take(12)), (b, a));
        assert_eq!(slots.sizes(), [12, 4]);
        assert_eq!(slots.take(1), 2);
    }
}
