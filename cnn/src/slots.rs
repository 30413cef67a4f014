//! Which values may share memory: buffers are taken when a value is made and given back after its last use.
//!
//! To write a cache line of which another core has a copy takes a core ten times as long as to write one that it alone
//! has, or that none has. So values that threads read of each other do not share buffers with those that each thread reads
//! by itself, and their buffers rest until the caches have lost them.

/// Who reads a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Each thread mostly what it has written.
    Apart,
    /// Threads what others have written.
    Across,
}

/// The sizes of buffers, and which are free.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    slots: Vec<Slot>,
    /// Values for which buffers that were read across have to rest, in f32s of values that are made meanwhile.
    rest: usize,
    /// f32s of values made so far.
    made: usize,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    size: usize,
    access: Access,
    /// f32s of the value that is there.
    len: usize,
    /// From where on it may be taken, if it is free.
    rested: Option<usize>,
}

impl Slots {
    /// Buffers of values that are read across rest while that many f32s are made.
    pub(crate) fn resting(rest: usize) -> Self {
        Slots { rest, ..Slots::default() }
    }

    /// A buffer for `len` values: of those that are free, rested and accessed alike the smallest that holds them, else
    /// the largest, which grows, else a new one.
    pub(crate) fn take(&mut self, len: usize, access: Access) -> usize {
        let made = self.made;
        self.made += len;
        // Of long values the caches lose the beginning before the end is read.
        let access = if len < self.rest { access } else { Access::Apart };
        let free =
            self.slots.iter().enumerate().filter(|(_, slot)| {
                slot.access == access && slot.rested.is_some_and(|rested| rested <= made)
            });
        let holds = free.clone().filter(|(_, slot)| slot.size >= len).min_by_key(|(_, slot)| slot.size);
        let index = match holds.or_else(|| free.max_by_key(|(_, slot)| slot.size)) {
            Some((index, _)) => index,
            None => {
                self.slots.push(Slot { size: 0, access, len, rested: None });
                self.slots.len() - 1
            }
        };
        let slot = &mut self.slots[index];
        *slot = Slot { size: slot.size.max(len), len, rested: None, ..*slot };
        index
    }

    /// The buffer's value is read no more.
    pub(crate) fn give(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        debug_assert!(slot.rested.is_none());
        slot.rested = Some(match slot.access {
            Access::Apart => self.made,
            Access::Across => self.made + self.rest.saturating_sub(slot.len),
        });
    }

    /// How large each buffer must be.
    pub(crate) fn sizes(&self) -> Vec<usize> {
        self.slots.iter().map(|slot| slot.size).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_used_again() {
        let mut slots = Slots::default();
        let mut take = |len| slots.take(len, Access::Apart);
        let (a, b) = (take(10), take(4));
        assert_ne!(a, b);
        slots.give(a);
        slots.give(b);
        let mut take = |len| slots.take(len, Access::Apart);
        assert_eq!((take(3), take(12)), (b, a));
        assert_eq!(take(1), 2);
        assert_eq!(slots.sizes(), [12, 4, 1]);
    }

    #[test]
    fn what_threads_read_of_each_other_rests() {
        let mut slots = Slots::resting(20);
        let (apart, across) = (slots.take(5, Access::Apart), slots.take(5, Access::Across));
        slots.give(apart);
        slots.give(across);
        // Neither the other kind's nor one that has not rested while 15 more were made.
        let second = slots.take(5, Access::Across);
        assert_ne!(second, across);
        assert_eq!(slots.take(10, Access::Apart), apart);
        assert_eq!(slots.take(5, Access::Across), across);
        // Long values need neither rest nor buffers of their own.
        let long = slots.take(20, Access::Across);
        slots.give(long);
        assert_eq!(slots.take(20, Access::Apart), long);
    }
}
