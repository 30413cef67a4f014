//! The machine's roofs, measured: multiply-adds of each instruction set, bandwidth of each cache.

use std::time::{Duration, Instant};

use kernels::{CacheSizes, Isa, Unavailable, roof};
use serde::Serialize;

use crate::pinning::Pool;

/// Floating-point operations a second, in billions: the fastest of short runs on every thread of a pool
/// at once.
///
/// # Errors
/// When the instruction set is not available.
pub fn peak_gflops(isa: Isa, pool: &Pool, time: Duration) -> Result<f64, Unavailable> {
    let mut steps = 1000;
    let mut best = 0.0f64;
    let start = Instant::now();
    // Doubles until a run takes a millisecond; then the fastest until the time is up.
    loop {
        let run = Instant::now();
        let work: Result<u64, Unavailable> =
            pool.on_each(|| roof::multiply_adds(isa, steps)).into_iter().sum();
        let taken = run.elapsed();
        let gflops = work? as f64 / taken.as_nanos().max(1) as f64;
        if taken < Duration::from_millis(1) && steps < 1 << 24 {
            steps *= 2;
            continue;
        }
        best = best.max(gflops);
        if start.elapsed() >= time {
            return Ok(best);
        }
    }
}

/// Bandwidth of one core for buffers of one size, in GB/s (10⁹ bytes).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bandwidth {
    /// Where buffers of this size lie: `L1`, `L2`, `L3` or `memory`.
    pub level: &'static str,
    /// Bytes touched.
    pub bytes: usize,
    /// Bytes read a second.
    pub read: f64,
    /// Bytes written a second.
    pub write: f64,
    /// Bytes read and written a second, together.
    pub copy: f64,
}

/// Bandwidth of one core of the pool for every level of the memory.
///
/// # Errors
/// When the instruction set is not available.
pub fn bandwidths(isa: Isa, caches: CacheSizes, pool: &Pool) -> Result<Vec<Bandwidth>, Unavailable> {
    let memory = (4 * caches.l3).clamp(64 << 20, 256 << 20);
    let mut levels = vec![("L1", caches.l1d / 2), ("L2", caches.l2 / 2)];
    if caches.l3 > 4 * caches.l2 {
        levels.push(("L3", (caches.l3 / 4).clamp(4 * caches.l2, 32 << 20)));
    }
    // A share of a level-3 cache so large that no buffer of ours leaves it is no measure of memory.
    if caches.l3 < memory / 2 {
        levels.push(("memory", memory));
    }
    pool.run(|| levels.into_iter().map(|(level, bytes)| bandwidth(isa, level, bytes)).collect())
}

fn bandwidth(isa: Isa, level: &'static str, bytes: usize) -> Result<Bandwidth, Unavailable> {
    let mut whole = vec![1.0f32; bytes / 4];
    let time = Duration::from_millis(20);
    let read = fastest(time, &mut || roof::read(isa, &whole))?;
    let write = fastest(time, &mut || roof::write(isa, &mut whole))?;
    let (from, to) = whole.split_at_mut(bytes / 8);
    let copy = fastest(time, &mut || roof::copy(isa, from, to))?;
    Ok(Bandwidth { level, bytes, read, write, copy })
}

/// Most bytes a nanosecond of runs of at least 100 µs.
fn fastest(time: Duration, work: &mut dyn FnMut() -> Result<u64, Unavailable>) -> Result<f64, Unavailable> {
    let mut repeats = 1u32;
    let mut best = 0.0f64;
    let start = Instant::now();
    loop {
        let run = Instant::now();
        let mut bytes = 0;
        for _ in 0..repeats {
            bytes += work()?;
        }
        let taken = run.elapsed();
        if taken < Duration::from_micros(100) {
            repeats *= 2;
            continue;
        }
        best = best.max(bytes as f64 / taken.as_nanos() as f64);
        if start.elapsed() >= time {
            return Ok(best);
        }
    }
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
}
