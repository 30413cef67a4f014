//! Work over several threads, split so that results cannot depend on how.
//!
//! Every output element is computed by one task, in an order of operations that the split does not
//! touch; so results are bit-identical for any number of threads.

use std::ops::Range;
#[cfg(feature = "rayon")]
use std::sync::atomic::{AtomicUsize, Ordering};
#[cfg(feature = "rayon")]
use std::time::{Duration, Instant};
#[cfg(feature = "rayon")]
use std::{hint, thread};

use crate::spec::ConvSpec;

/// Work for a thread that is worth handing it over: about 4 µs on one core. (Layers that follow each other find the
/// pool's threads awake: half a microsecond later these have begun.)
const WORTH_A_THREAD: u64 = 250_000;

/// How many threads to use of those allowed: no more than there is work for, in multiply-adds; bringing an
/// element of input or output takes as long as four.
pub(crate) fn worthwhile(threads: usize, spec: &ConvSpec) -> usize {
    let elements = (spec.input_len() as u64).saturating_add(spec.output_len() as u64);
    worthwhile_for(threads, spec.macs().saturating_add(elements.saturating_mul(4)))
}

/// [`worthwhile`] for work that takes as long as so many multiply-adds.
pub(crate) fn worthwhile_for(threads: usize, work: u64) -> usize {
    threads.min(usize::try_from((work / WORTH_A_THREAD).max(1)).unwrap_or(usize::MAX))
}

/// Splits `0..items` into at most `threads` contiguous ranges of nearly equal length and runs
/// `task(range, scratch)` for each, with its own `scratch_len` f32s of `scratch`
/// (which holds `threads * scratch_len`). One range runs on the calling thread without rayon.
pub(crate) fn for_each_range(
    threads: usize,
    items: usize,
    scratch: &mut [f32],
    scratch_len: usize,
    task: &(dyn Fn(Range<usize>, &mut [f32]) + Sync),
) {
    let parts = threads.min(items).max(1);
    #[cfg(feature = "rayon")]
    if parts > 1 {
        let finish = Finish::of(parts);
        return split(0..parts, parts, items, scratch, scratch_len, &|range, scratch| {
            finish.part(|| task(range, scratch));
        });
    }
    split(0..parts, parts, items, scratch, scratch_len, task);
}

fn split(
    parts: Range<usize>,
    of: usize,
    items: usize,
    scratch: &mut [f32],
    scratch_len: usize,
    task: &(dyn Fn(Range<usize>, &mut [f32]) + Sync),
) {
    if parts.len() <= 1 {
        // In 128 bits, because `items * of` need not fit a usize.
        let bound = |part: usize| (items as u128 * part as u128 / of as u128) as usize;
        task(bound(parts.start)..bound(parts.end), &mut scratch[..scratch_len]);
        return;
    }
    #[cfg(feature = "rayon")]
    {
        let middle = parts.start + parts.len() / 2;
        let (left, right) = scratch.split_at_mut((middle - parts.start) * scratch_len);
        rayon::join(
            || split(parts.start..middle, of, items, left, scratch_len, task),
            || split(middle..parts.end, of, items, right, scratch_len, task),
        );
    }
    #[cfg(not(feature = "rayon"))]
    for part in parts {
        split(part..part + 1, of, items, scratch, scratch_len, task);
    }
}

/// About twice what it takes to wake a thread.
#[cfg(feature = "rayon")]
const MOST_WAITING: Duration = Duration::from_micros(50);

/// Looks at the others before the core is offered to them for the first time.
#[cfg(feature = "rayon")]
const LOOKS: usize = 64;

/// Where the parts of a run wait for each other, for a short time: a thread without work is soon put to sleep, and to
/// wake it takes longer than many layers do.
#[cfg(feature = "rayon")]
struct Finish {
    parts: usize,
    begun: AtomicUsize,
    done: AtomicUsize,
}

#[cfg(feature = "rayon")]
impl Finish {
    fn of(parts: usize) -> Self {
        Finish { parts, begun: AtomicUsize::new(0), done: AtomicUsize::new(0) }
    }

    /// Runs a part and waits for the others, but not while one has not begun: it may be for this thread to run.
    fn part(&self, run: impl FnOnce()) {
        self.begun.fetch_add(1, Ordering::Relaxed);
        run();
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        if done == self.parts || self.begun.load(Ordering::Relaxed) < self.parts {
            return;
        }
        let is_done = || self.done.load(Ordering::Relaxed) == self.parts;
        for _ in 0..LOOKS {
            if is_done() {
                return;
            }
            hint::spin_loop();
        }
        // Others may need this core, the part that is waited for among them.
        let start = Instant::now();
        while !is_done() && start.elapsed() < MOST_WAITING {
            thread::yield_now();
        }
    }
}

/// The output, shared by tasks that write disjoint parts of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SharedOutput {
    start: *mut f32,
    len: usize,
}

// SAFETY: it is only a pointer; whoever writes through it promises to write what no other task does.
unsafe impl Send for SharedOutput {}
// SAFETY: as above.
unsafe impl Sync for SharedOutput {}

impl SharedOutput {
    pub(crate) fn new(output: &mut [f32]) -> Self {
        SharedOutput { start: output.as_mut_ptr(), len: output.len() }
    }

    /// A pointer to element `offset`.
    ///
    /// # Safety
    /// `offset <= len`; the caller reads and writes through it only elements of the output that no
    /// other task touches, while the borrow that made this is alive.
    pub(crate) unsafe fn at(self, offset: usize) -> *mut f32 {
        debug_assert!(offset <= self.len);
        // SAFETY: offset is inside the output, by the caller's promise.
        unsafe { self.start.add(offset) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    fn check() {
        for threads in [1, 2, 3, 7] {
            for items in [0, 1, 2, 5, 16] {
                let seen = Mutex::new(vec![0; items]);
                let mut scratch = vec![0.0; threads * 3];
                for_each_range(threads, items, &mut scratch, 3, &|range, scratch| {
                    assert_eq!(scratch.len(), 3);
                    for i in range {
                        seen.lock().unwrap()[i] += 1;
                    }
                });
                assert!(seen.into_inner().unwrap().iter().all(|&n| n == 1), "{threads} {items}");
            }
        }
    }

    #[test]
    fn ranges_cover_everything_once() {
        check();
    }

    /// Also where there are fewer threads than parts, and several callers.
    #[cfg(feature = "rayon")]
    #[test]
    fn ranges_cover_everything_once_in_any_pool() {
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.broadcast(|_| check());
        }
    }
}
