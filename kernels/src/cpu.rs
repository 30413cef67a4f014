//! What is known of a CPU beyond its instruction sets and the sizes of its caches, where no flag tells: few
//! shipped constants that weigh costs against each other. Wrong ones cost speed, never correctness.

use std::sync::OnceLock;

/// What costs weigh on a CPU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rates {
    /// f32s that the arithmetic takes at once: half a vector where it takes two turns for one.
    pub(crate) lanes: usize,
    /// Multiply-adds of so many lanes in the time that a core takes to bring an f32 from the third cache,
    /// in streams that it sees coming.
    pub(crate) third_cache: f64,
    /// The same from memory.
    pub(crate) memory: f64,
}

impl Rates {
    /// Of this machine with vectors of so many lanes.
    pub(crate) fn detect(lanes: usize) -> Self {
        // Asked once: in a virtual machine each question takes many microseconds.
        static FAMILY: OnceLock<Option<u32>> = OnceLock::new();
        Rates::of(lanes, *FAMILY.get_or_init(amd_family))
    }

    /// Of a CPU of this family of AMD, or of another maker.
    pub(crate) fn of(lanes: usize, amd_family: Option<u32>) -> Self {
        match amd_family {
            // Zen 3 and 4: a third cache for each few cores, close to them; 512-bit operations in two turns.
            Some(25) => Rates { lanes: lanes.min(8), third_cache: 0.6, memory: 1.5 },
            Some(23 | 26..) => Rates { lanes, third_cache: 0.6, memory: 1.5 },
            // Measured on a Xeon whose third cache spans the socket.
            _ => Rates { lanes, third_cache: 1.75, memory: 1.75 },
        }
    }
}

/// The family of a CPU of AMD.
#[cfg(target_arch = "x86_64")]
#[allow(unused_unsafe)] // The intrinsics became safe functions in a later standard library.
fn amd_family() -> Option<u32> {
    use std::arch::x86_64::__cpuid;
    // SAFETY: every x86-64 CPU has the CPUID instruction and its first two leaves.
    let (vendor, version) = unsafe { (__cpuid(0), __cpuid(1).eax) };
    let mut name = [0; 12];
    for (letters, register) in name.chunks_exact_mut(4).zip([vendor.ebx, vendor.edx, vendor.ecx]) {
        letters.copy_from_slice(&register.to_le_bytes());
    }
    let (base, extended) = (version >> 8 & 0xf, version >> 20 & 0xff);
    (&name == b"AuthenticAMD").then_some(if base == 0xf { base + extended } else { base })
}

#[cfg(not(target_arch = "x86_64"))]
fn amd_family() -> Option<u32> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halved_vectors_weigh_half() {
        assert_eq!(Rates::of(16, Some(25)).lanes, 8);
        assert_eq!(Rates::of(16, Some(26)).lanes, 16);
        assert_eq!(Rates::of(16, None).lanes, 16);
        assert_eq!(Rates::of(8, Some(25)).lanes, 8);
        assert!(Rates::detect(4).lanes == 4);
    }
}
