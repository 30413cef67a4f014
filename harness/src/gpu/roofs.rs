//! The GPU's roofs, measured by the same clock as the kernels: what its parts multiply and add in registers, and
//! what its level-2 cache and its memory move.

use std::sync::Mutex;
use std::time::Duration;

use cudarc::driver::sys::CUdevice_attribute;
use cudarc::driver::{CudaFunction, CudaSlice, LaunchConfig, PushKernelArg};

use super::{Failure, Gpu, Level, Unit};
use crate::limits::{Roof, Traffic};
use crate::pinning::Pool;

/// The kernels, compiled at run time for the GPU at hand.
pub(super) const SOURCE: &str = include_str!("roofs.cu");

/// Threads of a block; blocks for each multiprocessor, as many as keep it busy.
const THREADS: u32 = 256;
const BLOCKS: u32 = 8;

/// A kernel that multiplies and adds.
struct Multiplies {
    function: &'static str,
    /// Blocks for each multiprocessor.
    blocks: u32,
    /// Passes of the loop: some tens of microseconds.
    steps: i32,
    /// Floating-point operations of a warp in a pass.
    flops: u64,
}

/// The loop of a part of the GPU. Tensor cores of compute capability 9.0 reach their peak by instructions of
/// warpgroups alone, two to a block.
fn multiplies(unit: Unit, compute_capability: (u32, u32)) -> Multiplies {
    let warpgroups = compute_capability == (9, 0);
    let by_mma = |function, flops: u64| Multiplies { function, blocks: 4, steps: 1000, flops: 8 * flops };
    // Four products of 64×K by K×256 for each four warps.
    let by_warpgroups = |function, flops| Multiplies { function, blocks: 1, steps: 500, flops };
    match unit {
        Unit::Fp32 => {
            Multiplies { function: "roof_fp32", blocks: BLOCKS, steps: 100, flops: 32 * 8 * 16 * 2 }
        }
        Unit::Tf32 if warpgroups => by_warpgroups("roof_wgmma_tf32", 2 * 64 * 256 * 8),
        Unit::Bf16 if warpgroups => by_warpgroups("roof_wgmma_bf16", 2 * 64 * 256 * 16),
        Unit::Tf32 => by_mma("roof_tf32", 2 * 16 * 8 * 8),
        Unit::Bf16 => by_mma("roof_bf16", 2 * 16 * 8 * 16),
    }
}

/// Multiply-adds in registers.
struct Peak {
    gpu: &'static Gpu,
    function: CudaFunction,
    multiplies: Multiplies,
    out: CudaSlice<f32>,
}

/// Multiply-adds of a part of the GPU.
pub(super) fn peak(unit: Unit) -> Result<Box<dyn Roof>, String> {
    let gpu = Gpu::get()?;
    let compute_capability = gpu.device().compute_capability();
    if unit != Unit::Fp32 && compute_capability < (8, 0) {
        return Err(format!("{} has no {} products", gpu.name(), unit.name()));
    }
    let multiplies = multiplies(unit, compute_capability);
    let peak = Peak {
        gpu,
        function: function(gpu, multiplies.function)?,
        multiplies,
        out: gpu.zeros(THREADS as usize)?,
    };
    // One that does not run shows here.
    gpu.time(|| peak.enqueue())?;
    Ok(Box::new(peak))
}

impl Peak {
    fn config(&self) -> LaunchConfig {
        config(self.gpu.device().multiprocessors() * self.multiplies.blocks)
    }

    fn enqueue(&self) -> Result<(), Failure> {
        let (factor, term) = (0.999f32, 0.001f32);
        let mut launch = self.gpu.stream().launch_builder(&self.function);
        launch.arg(&self.out).arg(&factor).arg(&term).arg(&self.multiplies.steps);
        // SAFETY: the arguments are the function's; it writes to its block's places of `out` at most, which has one
        // for each thread of a block.
        unsafe { launch.launch(self.config()) }?;
        Ok(())
    }
}

impl Roof for Peak {
    fn work(&self, _: usize, repeats: u64) -> u64 {
        let warps = u64::from(self.config().grid_dim.0) * u64::from(THREADS / 32);
        repeats * warps * self.multiplies.steps as u64 * self.multiplies.flops
    }

    fn time(&self, _: &Pool, repeats: u64) -> (Duration, u64) {
        match self.gpu.time(|| (0..repeats).try_for_each(|_| self.enqueue())) {
            Ok(time) => (time, self.work(0, repeats)),
            // Nothing in no time: no roof comes of it.
            Err(_) => (Duration::ZERO, 0),
        }
    }
}

/// Reading, writing or copying buffers.
struct Stream {
    gpu: &'static Gpu,
    function: CudaFunction,
    traffic: Traffic,
    /// Read, and written.
    buffers: Mutex<[CudaSlice<f32>; 2]>,
    vectors: u32,
}

/// Traffic of a level.
pub(super) fn stream(traffic: Traffic, level: Level) -> Result<Box<dyn Roof>, String> {
    let gpu = Gpu::get()?;
    let name = match traffic {
        Traffic::Read => "roof_read",
        Traffic::Write => "roof_write",
        Traffic::Copy => "roof_copy",
    };
    // A copy has two halves. What a kernel does not touch need not be large.
    let bytes = if traffic == Traffic::Copy { level.buffer / 2 } else { level.buffer };
    let vectors = u32::try_from(bytes / 16).unwrap_or(u32::MAX / 2);
    let len = |touched: bool| if touched { 4 * vectors as usize } else { 4 * THREADS as usize };
    let buffers = [gpu.zeros(len(traffic != Traffic::Write))?, gpu.zeros(len(traffic != Traffic::Read))?];
    let stream =
        Stream { gpu, function: function(gpu, name)?, traffic, buffers: Mutex::new(buffers), vectors };
    gpu.time(|| stream.enqueue())?;
    Ok(Box::new(stream))
}

impl Stream {
    fn enqueue(&self) -> Result<(), Failure> {
        let mut buffers = self.buffers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let [from, to] = &mut *buffers;
        let blocks =
            (self.gpu.device().multiprocessors() * BLOCKS).min(self.vectors.div_ceil(THREADS)).max(1);
        let mut launch = self.gpu.stream().launch_builder(&self.function);
        launch.arg(&*from).arg(to).arg(&self.vectors);
        // SAFETY: the arguments are the function's; each buffer holds as many vectors as it touches of it.
        unsafe { launch.launch(config(blocks)) }?;
        Ok(())
    }
}

impl Roof for Stream {
    fn work(&self, _: usize, repeats: u64) -> u64 {
        let times = if self.traffic == Traffic::Copy { 2 } else { 1 };
        repeats * times * 16 * u64::from(self.vectors)
    }

    fn time(&self, _: &Pool, repeats: u64) -> (Duration, u64) {
        match self.gpu.time(|| (0..repeats).try_for_each(|_| self.enqueue())) {
            Ok(time) => (time, self.work(0, repeats)),
            Err(_) => (Duration::ZERO, 0),
        }
    }
}

fn config(blocks: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 }
}

fn function(gpu: &Gpu, name: &'static str) -> Result<CudaFunction, String> {
    gpu.device().load_source(name, SOURCE).map_err(|error| error.to_string())
}

/// Bytes of the level-2 cache; those of a small GPU where the driver does not say.
fn l2_bytes(gpu: &Gpu) -> usize {
    gpu.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE).max(1 << 20)
}

/// The level-2 cache and the memory.
pub(super) fn levels(gpu: &Gpu) -> [Level; 2] {
    let l2 = l2_bytes(gpu);
    // So much that little of it is still in the cache when it is read again, and no more than the GPU can spare.
    let memory = (16 * l2).max(256 << 20).min(gpu.device().memory_bytes() / 8);
    [Level { name: "GPU L2", buffer: l2 / 4 }, Level { name: "GPU memory", buffer: memory }]
}

/// Where so many bytes lie that are used again and again. Half the cache is what can be counted on: that of the
/// large GPUs is in two halves, and what lies in the other one may be held twice.
pub(super) fn level_of(gpu: &Gpu, bytes: u64) -> Level {
    let [l2, memory] = levels(gpu);
    if bytes <= l2_bytes(gpu) as u64 / 2 { l2 } else { memory }
}
