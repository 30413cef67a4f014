//! The machine's roofs, measured: multiply-adds of each instruction set, bandwidth of each cache.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use kernels::{CacheSizes, Isa, Unavailable, roof};
use serde::{Deserialize, Serialize};

use crate::buffer::{Buffer, LINE};
use crate::pinning::Pool;

/// A loop to be timed whose rate is a roof.
pub trait Roof: Sync {
    /// So many runs on the thread of this number; their work: floating-point operations or bytes.
    fn work(&self, thread: usize, repeats: u64) -> u64;

    /// So many runs on every thread of the pool at once; their time, and the work of all.
    fn time(&self, pool: &Pool, repeats: u64) -> (Duration, u64) {
        let start = Instant::now();
        let work = pool.on_each(|thread| self.work(thread, repeats));
        (start.elapsed(), work.into_iter().sum())
    }
}

/// Multiply-adds in registers: about 20 µs of them.
#[derive(Clone, Copy, Debug)]
pub struct Peak(Isa);

const PEAK_STEPS: u32 = 2000;

impl Peak {
    /// Of an instruction set.
    ///
    /// # Errors
    /// When it is not available.
    pub fn new(isa: Isa) -> Result<Self, Unavailable> {
        isa.availability().map(|()| Peak(isa))
    }
}

impl Roof for Peak {
    fn work(&self, _: usize, repeats: u64) -> u64 {
        // Available: `new` has asked.
        (0..repeats).map(|_| roof::multiply_adds(self.0, PEAK_STEPS).unwrap_or(0)).sum()
    }
}

/// What a bandwidth is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// Bytes read.
    Read,
    /// Bytes written.
    Write,
    /// Bytes read and written, together.
    Copy,
}

/// Reading, writing or copying a buffer, one for each thread. Like those of the rows they begin on a cache
/// line: vectors that cross lines would make the roof too low.
#[derive(Debug)]
pub struct Stream {
    isa: Isa,
    traffic: Traffic,
    buffers: Vec<Mutex<Buffer>>,
}

impl Stream {
    /// Over buffers of so many bytes, one for each thread.
    ///
    /// # Errors
    /// When the instruction set is not available.
    pub fn new(isa: Isa, traffic: Traffic, bytes: usize, pool: &Pool) -> Result<Self, Unavailable> {
        isa.availability()?;
        // Filled by the threads that will use them: that is where their pages should lie.
        let buffers = pool.on_each(|_| {
            let mut buffer = Buffer::zeros(bytes / 4);
            buffer.fill(1.0);
            Mutex::new(buffer)
        });
        Ok(Stream { isa, traffic, buffers })
    }
}

impl Roof for Stream {
    fn work(&self, thread: usize, repeats: u64) -> u64 {
        // No thread panics while it holds its buffer.
        let Ok(mut buffer) = self.buffers[thread].lock() else { return 0 };
        let mut once = || match self.traffic {
            Traffic::Read => roof::read(self.isa, &buffer),
            Traffic::Write => roof::write(self.isa, &mut buffer),
            Traffic::Copy => {
                let (from, to) = halves(&mut buffer);
                roof::copy(self.isa, from, to)
            }
        };
        (0..repeats).map(|_| once().unwrap_or(0)).sum()
    }
}

/// Both halves of a buffer, each from the beginning of a line.
fn halves(buffer: &mut [f32]) -> (&mut [f32], &mut [f32]) {
    buffer.split_at_mut(buffer.len() / 2 / LINE * LINE)
}

/// Work a nanosecond of the fastest of the runs within some time, each of at least `shortest`: GFLOP/s or
/// GB/s.
pub(crate) fn fastest(roof: &dyn Roof, pool: &Pool, time: Duration, shortest: Duration) -> f64 {
    // So much that waiting once for a core does not make it look like nothing.
    let mut repeats = ((1 << 20) / roof.time(pool, 1).1.max(1)).max(1);
    let mut best = 0.0f64;
    let start = Instant::now();
    loop {
        let (taken, work) = roof.time(pool, repeats);
        if work == 0 {
            // It has failed, and would do so again.
            return 0.0;
        }
        best = best.max(work as f64 / taken.as_nanos().max(1) as f64);
        // By the best rate so far: a single run may have waited for its core.
        let expected = work as f64 / best.max(f64::MIN_POSITIVE);
        if expected < shortest.as_nanos() as f64 && repeats < 1 << 24 {
            repeats *= 2;
        } else if start.elapsed() >= time {
            return best;
        }
    }
}

/// Floating-point operations a second, in billions: the fastest of short runs on every thread of a pool
/// at once.
///
/// # Errors
/// When the instruction set is not available.
pub fn peak_gflops(isa: Isa, pool: &Pool, time: Duration) -> Result<f64, Unavailable> {
    Ok(fastest(&Peak::new(isa)?, pool, time, Duration::from_millis(1)))
}

/// A level of the memory, and how large a buffer lies in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// `L1`, `L2`, `L3` or `memory`.
    pub name: &'static str,
    /// Bytes of a buffer that is certain to lie there, each thread's.
    pub buffer: usize,
    /// Bytes that fit, of all threads together.
    pub holds: usize,
}

/// The levels that buffers of so many threads can be told to lie in: the first two are each core's own, the
/// others are shared.
pub fn levels(caches: CacheSizes, threads: usize) -> Vec<Level> {
    let CacheSizes { l1d, l2, l3 } = caches;
    let threads = threads.max(1);
    let mut levels = vec![
        Level { name: "L1", buffer: l1d / 2, holds: l1d.saturating_mul(threads) },
        Level { name: "L2", buffer: l2 / 2, holds: l2.saturating_mul(threads) },
    ];
    if l3 > 4 * l2 {
        let share = (l3 / 4).min(32 << 20) / threads;
        levels.push(Level { name: "L3", buffer: share.max(l2), holds: l3 });
    }
    // A share of a level-3 cache so large that no buffer of ours leaves it is no measure of memory.
    let memory = l3.saturating_mul(4).clamp(64 << 20, 256 << 20);
    if l3 < memory / 2 {
        levels.push(Level { name: "memory", buffer: (memory / threads).max(1 << 20), holds: usize::MAX });
    }
    levels
}

/// The level in which so many bytes lie that threads share out; the last where no level holds them.
pub fn level_of(bytes: u64, caches: CacheSizes, threads: usize) -> Level {
    let levels = levels(caches, threads);
    let fits = levels.iter().find(|level| bytes <= level.holds as u64);
    fits.or(levels.last()).copied().unwrap_or(Level { name: "L1", buffer: 1 << 14, holds: 1 << 14 })
}

/// Bandwidth of one core for buffers of one size, in GB/s (10⁹ bytes).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bandwidth {
    /// Where buffers of this size lie: `L1`, `L2`, `L3` or `memory`.
    pub level: String,
    /// Bytes touched.
    pub bytes: usize,
    /// Bytes read a second.
    pub read: f64,
    /// Bytes written a second.
    pub write: f64,
    /// Bytes read and written a second, together.
    pub copy: f64,
}

/// Bandwidth for every level of the memory, of all threads of the pool together.
///
/// # Errors
/// When the instruction set is not available.
pub fn bandwidths(isa: Isa, caches: CacheSizes, pool: &Pool) -> Result<Vec<Bandwidth>, Unavailable> {
    let of = |level: Level| {
        let rate = |traffic| {
            let stream = Stream::new(isa, traffic, level.buffer, pool)?;
            Ok::<_, Unavailable>(fastest(
                &stream,
                pool,
                Duration::from_millis(20),
                Duration::from_micros(100),
            ))
        };
        Ok(Bandwidth {
            level: level.name.to_owned(),
            bytes: level.buffer,
            read: rate(Traffic::Read)?,
            write: rate(Traffic::Write)?,
            copy: rate(Traffic::Copy)?,
        })
    };
    levels(caches, pool.threads()).into_iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roofs_are_plausible() {
        let pool = Pool::new(1).unwrap();
        let isa = Isa::best().unwrap();
        let peak = peak_gflops(isa, &pool, Duration::from_millis(5)).unwrap();
        assert!(peak > 0.1 && peak < 10_000.0, "{peak}");
        let caches = CacheSizes { l1d: 32 << 10, l2: 256 << 10, l3: 0 };
        for level in bandwidths(isa, caches, &pool).unwrap() {
            for rate in [level.read, level.write, level.copy] {
                assert!(rate > 0.01 && rate < 10_000.0, "{level:?}");
            }
        }
    }

    #[test]
    fn work_of_all_threads_counts() {
        let (one, two) = (Pool::new(1).unwrap(), Pool::new(2).unwrap());
        let isa = Isa::best().unwrap();
        let peak = Peak::new(isa).unwrap();
        assert_eq!(2 * peak.time(&one, 3).1, peak.time(&two, 3).1);
        let stream = |pool| Stream::new(isa, Traffic::Read, 4096, pool).unwrap().time(pool, 2).1;
        assert_eq!((stream(&one), stream(&two)), (8192, 16384));
    }

    /// As the buffers of rows do, whatever their size.
    #[test]
    fn buffers_begin_on_a_line() {
        let pool = Pool::new(2).unwrap();
        let isa = Isa::best().unwrap();
        for bytes in [4096, 24 << 10, 100_004, 1 << 20] {
            let stream = Stream::new(isa, Traffic::Copy, bytes, &pool).unwrap();
            for buffer in &stream.buffers {
                let mut buffer = buffer.lock().unwrap();
                assert_eq!((buffer.len(), buffer.iter().all(|&x| x == 1.0)), (bytes / 4, true));
                let (from, to) = halves(&mut buffer);
                let starts = [from.as_ptr(), to.as_ptr()].map(|start| start.align_offset(64));
                assert_eq!(starts, [0, 0], "{bytes}");
                assert!(from.len() <= to.len() && to.len() - from.len() < 32);
            }
        }
    }

    #[test]
    fn bytes_lie_in_the_level_that_holds_them() {
        let caches = CacheSizes { l1d: 32 << 10, l2: 1 << 20, l3: 32 << 20 };
        let name = |bytes| level_of(bytes, caches, 1).name;
        assert_eq!([name(1), name(33 << 10), name(2 << 20), name(33 << 20)], ["L1", "L2", "L3", "memory"]);
        let large = CacheSizes { l3: 260 << 20, ..caches };
        assert_eq!(level_of(1 << 40, large, 1).name, "L3");
        // Two cores have twice the own caches and one shared.
        let two = |bytes| level_of(bytes, caches, 2).name;
        assert_eq!([two(33 << 10), two(2 << 20), two(33 << 20)], ["L1", "L2", "memory"]);
    }
}
