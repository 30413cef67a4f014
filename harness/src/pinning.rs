//! Threads that stay on their cores.

use std::sync::atomic::{AtomicBool, Ordering};

/// Cores this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Keeps the calling thread on the `index`-th core that the process may use. False where the system
/// does not allow it.
pub fn pin(index: usize) -> bool {
    let ids = core_affinity::get_core_ids().unwrap_or_default();
    // From the last one: the first core of a machine is where interrupts and other programs like to be.
    let id = ids.iter().rev().nth(index % ids.len().max(1)).copied();
    id.is_some_and(core_affinity::set_for_current)
}

/// Threads that stay on their cores, for kernels to run in.
#[derive(Debug)]
pub struct Pool {
    pool: rayon::ThreadPool,
    pinned: bool,
}

impl Pool {
    /// A pool of so many threads, each on a core of its own while there are enough.
    ///
    /// # Errors
    /// When the system gives no more threads.
    pub fn new(threads: usize) -> Result<Self, String> {
        static FAILED: AtomicBool = AtomicBool::new(false);
        FAILED.store(false, Ordering::Relaxed);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .start_handler(|index| {
                if !pin(index) {
                    FAILED.store(true, Ordering::Relaxed);
                }
            })
            .build()
            .map_err(|error| format!("{threads} threads could not be started: {error}"))?;
        // Every thread has run its start handler once it takes part in this.
        pool.broadcast(|_| ());
        Ok(Pool { pool, pinned: !FAILED.load(Ordering::Relaxed) })
    }

    /// Whether every thread stays on its core.
    pub fn is_pinned(&self) -> bool {
        self.pinned
    }

    /// Threads.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Runs something in the pool: kernels then use its threads.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.pool.install(work)
    }

    /// Runs something on every thread of the pool at once.
    pub fn on_each<R: Send>(&self, work: impl Fn() -> R + Sync) -> Vec<R> {
        self.pool.broadcast(|_| work())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_has_its_threads() {
        let pool = Pool::new(3).unwrap();
        assert_eq!((pool.threads(), pool.on_each(|| 1).len(), pool.run(|| 7)), (3, 3, 7));
    }
}
