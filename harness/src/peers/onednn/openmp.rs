//! OpenMP's threads, which most builds of oneDNN use: how many, where, and how long.
//!
//! The number is a setting of the thread that calls. Workers start with the first parallel region, on
//! whatever core their maker is kept on, and then wait for the next region busily (GCC's for about 8 ms,
//! Intel's for 200 ms), on the core where another engine's thread may by then have its turn. Workers that
//! sleep at once (`OMP_WAIT_POLICY=passive`) would be no answer: each region then waits for them to wake,
//! which is several times what a small convolution takes. So a team is gathered before each turn, each worker on
//! its own core, and dismissed after it: during its turn the library finds its workers ready, as in a program
//! that does nothing else, and afterwards none is left that takes time from others.

use std::ffi::{c_int, c_uint, c_void};

use libloading::Library;

use crate::pinning::Pool;

/// The functions of the OpenMP runtime that a library has been linked with.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenMp {
    set_num_threads: unsafe extern "C" fn(c_int),
    thread_num: unsafe extern "C" fn() -> c_int,
    /// Runs a function on every thread of a team: what GCC makes of `#pragma omp parallel`. LLVM's and
    /// Intel's runtimes have it, too.
    parallel: unsafe extern "C" fn(unsafe extern "C" fn(*mut c_void), *mut c_void, c_uint, c_uint),
    /// Since OpenMP 5.0.
    pause_resource_all: unsafe extern "C" fn(c_int) -> c_int,
}

/// `omp_pause_hard`: workers end, and start anew with the next region. (Intel's runtime lets them wait on
/// busily after a soft pause.)
const PAUSE_HARD: c_int = 2;

impl OpenMp {
    /// The runtime of a library; none if it has not all that is needed to put threads where they belong.
    pub(super) fn of(library: &Library) -> Option<Self> {
        // SAFETY: OpenMP's standard and GCC's documented interface give the functions these types.
        unsafe {
            Some(OpenMp {
                set_num_threads: *library.get("omp_set_num_threads\0").ok()?,
                thread_num: *library.get("omp_get_thread_num\0").ok()?,
                parallel: *library.get("GOMP_parallel\0").ok()?,
                pause_resource_all: *library.get("omp_pause_resource_all\0").ok()?,
            })
        }
    }

    /// Runs something on the calling thread, with a team for it: as many threads as the pool has, each kept
    /// on the pool's core of its number. They end with this.
    pub(super) fn with_team<R>(&self, pool: &Pool, work: impl FnOnce() -> R) -> R {
        let threads = c_int::try_from(pool.threads()).unwrap_or(c_int::MAX);
        // SAFETY: any positive number is right.
        unsafe { (self.set_num_threads)(threads) };
        if threads == 1 {
            return work();
        }
        self.on_each(&|index| {
            // A thread that cannot be kept makes figures scatter, no more.
            let _ = pool.keep(index);
        });
        let result = work();
        // SAFETY: this thread is in no parallel region. It tells whether the runtime could free what it
        // holds; if not, workers wait until they fall asleep.
        let _ = unsafe { (self.pause_resource_all)(PAUSE_HARD) };
        result
    }

    /// Runs something on each thread of the calling thread's team; it gets the thread's number.
    fn on_each(&self, work: &(dyn Fn(usize) + Sync)) {
        struct Call<'a> {
            work: &'a (dyn Fn(usize) + Sync),
            thread_num: unsafe extern "C" fn() -> c_int,
        }
        unsafe extern "C" fn call(data: *mut c_void) {
            // SAFETY: `data` is the `Call` below, which outlives the region and is shared between threads
            // as its parts may be.
            let Call { work, thread_num } = unsafe { &*data.cast::<Call<'_>>() };
            // SAFETY: it has no conditions.
            let index = unsafe { thread_num() };
            work(usize::try_from(index).unwrap_or(0));
        }
        let mut data = Call { work, thread_num: self.thread_num };
        // SAFETY: the region ends before this returns. 0 threads are as many as were set, 0 no flags.
        unsafe { (self.parallel)(call, (&raw mut data).cast(), 0, 0) };
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use super::*;

    /// Each thread of a team is on its own core of the pool; all but the driver are gone afterwards.
    #[test]
    fn a_team_is_placed_and_goes() {
        let Ok(library) = super::super::of_system() else {
            eprintln!("skipped: the system has no library of oneDNN");
            return;
        };
        let Some(openmp) = &library.openmp else {
            eprintln!("skipped: the system's oneDNN does not use OpenMP");
            return;
        };
        let pool = Pool::new(2).unwrap();
        let seen = Mutex::new(Vec::new());
        let look = |index: usize| {
            let cores = core_affinity::get_core_ids().unwrap();
            seen.lock().unwrap().push((index, rustix::thread::gettid().as_raw_pid(), cores));
        };
        let driver = pool.drive(|| {
            openmp.with_team(&pool, || openmp.on_each(&look));
            rustix::thread::gettid().as_raw_pid()
        });
        let mut seen = seen.into_inner().unwrap();
        seen.sort_by_key(|(index, ..)| *index);
        let [(0, first, own), (1, other, others)] = &seen[..] else { panic!("{seen:?}") };
        assert!(*first == driver && *other != driver, "{seen:?}");
        if pool.is_pinned() && crate::pinning::cores() > 1 {
            assert_eq!((own.len(), others.len()), (1, 1));
            assert_ne!(own, others);
        }
        // The system clears away a thread a moment after it has ended.
        let task = format!("/proc/self/task/{other}");
        let gone = || !std::path::Path::new(&task).exists();
        assert!((0..1000).any(|_| gone() || {
            std::thread::sleep(Duration::from_millis(1));
            false
        }));
    }
}
