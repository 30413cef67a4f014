//! What machine this is.

use kernels::{CacheSizes, ConvSpec, Isa};
use serde::Serialize;
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

/// Facts about the machine.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The CPU's name.
    pub cpu: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Bytes of level-1 data, level-2 and level-3 cache.
    pub caches: [usize; 3],
    /// Bytes of memory that can be had.
    pub available_memory: u64,
    /// Operating system and architecture.
    pub platform: String,
}

impl Machine {
    /// This machine.
    pub fn detect() -> Self {
        let system = System::new_with_specifics(RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing()));
        let brand = system.cpus().first().map(|cpu| cpu.brand().trim().to_owned()).unwrap_or_default();
        let CacheSizes { l1d, l2, l3 } = CacheSizes::detect();
        Machine {
            cpu: if brand.is_empty() { "unknown CPU".to_owned() } else { brand },
            cores: crate::pinning::cores(),
            caches: [l1d, l2, l3],
            available_memory: available_memory(),
            platform: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        }
    }
}

/// Each instruction set, and why it is not available if it is not.
pub fn instruction_sets() -> Vec<(Isa, Option<String>)> {
    Isa::ALL.into_iter().map(|isa| (isa, isa.availability().err().map(|e| e.to_string()))).collect()
}

/// Bytes of memory that can be had now, within the limit of the process's control group.
pub fn available_memory() -> u64 {
    let memory = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(memory);
    let available = system.available_memory();
    system.cgroup_limits().map_or(available, |limits| limits.free_memory.min(available))
}

/// Bytes that running a convolution on so many engines at once takes at most: buffers, packed weights (a
/// Winograd kernel holds up to 64/9 times the weights), the copy that is compared. For cold caches each has
/// several sets of them. `None` when they cannot be counted.
pub fn memory_needed(spec: &ConvSpec, engines: usize, sets: usize) -> Option<u64> {
    let bytes = |len: usize| (len as u64).checked_mul(4);
    let buffers = bytes(spec.input_len())?.checked_add(bytes(spec.output_len())?)?;
    let weights = bytes(spec.weights_len())?;
    // A library may hold input and output in a layout of its own.
    let set = buffers.checked_add(weights.checked_mul(9)?)?;
    let engine = set.checked_mul(sets as u64)?.checked_add(64 << 20)?;
    let shared = buffers.checked_mul(2)?.checked_add(weights)?.checked_mul(sets as u64)?;
    engine.checked_mul(engines as u64)?.checked_add(shared)
}

/// Refuses a convolution that needs more memory than there is.
///
/// # Errors
/// The amounts.
pub fn check_memory(spec: &ConvSpec, engines: usize, sets: usize) -> Result<(), String> {
    check_bytes(spec, memory_needed(spec, engines, sets))
}

/// Refuses a convolution that needs more bytes than there are, or more than can be counted (`None`).
///
/// # Errors
/// The amounts.
pub fn check_bytes(spec: &ConvSpec, needed: Option<u64>) -> Result<(), String> {
    let available = available_memory();
    match needed {
        Some(needed) if needed <= available => Ok(()),
        Some(needed) => Err(format!(
            "`{spec}` needs about {}, but only {} of memory can be had",
            bytes(needed),
            bytes(available)
        )),
        None => Err(format!("`{spec}` needs more bytes of memory than can be counted")),
    }
}

/// Bytes in the unit that reads best.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let unit = (n.max(1).ilog2() / 10) as usize;
    match unit {
        0 => format!("{n} B"),
        _ => {
            let value = n as f64 / (1u64 << (10 * unit)) as f64;
            let decimals = if value < 10.0 && value.fract() > 0.049 { 1 } else { 0 };
            format!("{value:.decimals$} {}", UNITS[unit])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        let cases = [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (5 << 40, "5 TiB")];
        for (n, want) in cases {
            assert_eq!(bytes(n), want);
        }
    }

    #[test]
    fn memory_is_refused_before_it_is_taken() {
        let spec: ConvSpec = "n1000000 c1000 h1000 w1000 o1000 k3".parse().unwrap();
        let message = check_memory(&spec, 1, 1).unwrap_err();
        assert!(message.contains("needs about 21 PiB") && message.contains("can be had"), "{message}");
        assert!(check_memory(&"c1 h3 w3 o1 k3".parse().unwrap(), 1, 1).is_ok());
    }
}
