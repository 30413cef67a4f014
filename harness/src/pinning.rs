//! Threads that stay on their cores.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Cores this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The core that the `index`-th thread is kept on.
fn core(index: usize) -> Option<core_affinity::CoreId> {
    let ids = core_affinity::get_core_ids().unwrap_or_default();
    // From the last one: the first core of a machine is where interrupts and other programs like to be.
    ids.iter().rev().nth(index % ids.len().max(1)).copied()
}

/// Keeps the calling thread on the `index`-th core that the process may use. False where the system
/// does not allow it.
pub fn pin(index: usize) -> bool {
    core(index).is_some_and(core_affinity::set_for_current)
}

/// Threads that stay on their cores, for kernels to run in, and a driver for libraries that bring threads
/// of their own.
#[derive(Debug)]
pub struct Pool {
    pool: rayon::ThreadPool,
    driver: rayon::ThreadPool,
    cores: Vec<Option<core_affinity::CoreId>>,
    pinned: bool,
}

impl Pool {
    /// A pool of so many threads, each on a core of its own while there are enough.
    ///
    /// # Errors
    /// When the system gives no more threads.
    pub fn new(threads: usize) -> Result<Self, String> {
        if threads == 0 {
            return Err("0 threads cannot run anything: at least 1 is needed".to_owned());
        }
        let alone = threads <= core_affinity::get_core_ids().unwrap_or_default().len();
        // Asked before any thread is pinned: a pinned one sees only its own core.
        let cores: Vec<_> = (0..threads).map(core).collect();
        let (pool, all) = pinned_pool(&cores)?;
        let (driver, first) = pinned_pool(&cores[..1])?;
        Ok(Pool { pool, driver, cores, pinned: all && first && alone })
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

    /// Runs something on every thread of the pool at once; it gets the thread's number.
    pub fn on_each<R: Send>(&self, work: impl Fn(usize) -> R + Sync) -> Vec<R> {
        self.pool.broadcast(|context| work(context.index()))
    }

    /// Runs something on a thread of its own, always the same, on the pool's first core: for a library
    /// that starts threads itself.
    pub fn drive<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.driver.install(work)
    }

    /// Keeps the calling thread, one of a library's own, on the pool's core of this number. False where the
    /// system does not allow it.
    pub fn keep(&self, index: usize) -> bool {
        self.cores.get(index).copied().flatten().is_some_and(core_affinity::set_for_current)
    }

    /// As [`drive`](Self::drive); threads that are started meanwhile are kept on the pool's other cores, one
    /// on each in turn. (A new thread inherits its maker's core: all would share one.)
    pub fn drive_and_adopt<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        let before = threads::all();
        let result = self.drive(work);
        let others = self.cores.iter().skip(1).chain(self.cores.first()).flatten().cycle();
        let new = threads::all().into_iter().filter(|id| !before.contains(id));
        for (id, core) in new.zip(others) {
            threads::pin(id, core.id);
        }
        result
    }
}

fn pinned_pool(cores: &[Option<core_affinity::CoreId>]) -> Result<(rayon::ThreadPool, bool), String> {
    let threads = cores.len();
    let cores = cores.to_vec();
    let failed = Arc::new(AtomicBool::new(false));
    let any = Arc::clone(&failed);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .start_handler(move |index| {
            if !cores[index].is_some_and(core_affinity::set_for_current) {
                any.store(true, Ordering::Relaxed);
            }
        })
        .build()
        .map_err(|error| format!("{threads} threads could not be started: {error}"))?;
    // Every thread has run its start handler once it takes part in this.
    pool.broadcast(|_| ());
    Ok((pool, !failed.load(Ordering::Relaxed)))
}

/// The threads of this process, whoever made them.
#[cfg(target_os = "linux")]
mod threads {
    use rustix::thread::{CpuSet, Pid, sched_setaffinity};

    pub(super) fn all() -> Vec<i32> {
        let entries = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }

    pub(super) fn pin(id: i32, core: usize) {
        let mut set = CpuSet::new();
        set.set(core);
        // It may have ended; a thread that cannot be pinned makes figures scatter, no more.
        let _ = sched_setaffinity(Pid::from_raw(id), &set);
    }
}

/// Elsewhere threads of others stay where the system puts them.
#[cfg(not(target_os = "linux"))]
mod threads {
    pub(super) fn all() -> Vec<i32> {
        Vec::new()
    }

    pub(super) fn pin(_: i32, _: usize) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_has_its_threads() {
        let pool = Pool::new(3).unwrap();
        assert_eq!((pool.threads(), pool.on_each(|_| 1).len(), pool.run(|| 7)), (3, 3, 7));
        assert_eq!(pool.on_each(|index| index), [0, 1, 2]);
        assert!(Pool::new(0).unwrap_err().starts_with("0 threads"));
        // More threads than cores share them.
        assert!(!Pool::new(cores() + 1).unwrap().is_pinned());
        let driver = || std::thread::current().id();
        assert_eq!(pool.drive(driver), pool.drive(driver));
    }
}
