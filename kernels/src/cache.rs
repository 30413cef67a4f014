//! Sizes of the caches of one core, from which kernels derive their blocks.

use std::sync::OnceLock;

/// Bytes of data cache that one core has, or shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheSizes {
    /// Level 1, data.
    pub l1d: usize,
    /// Level 2.
    pub l2: usize,
    /// Level 3; 0 if there is none or it is not known.
    pub l3: usize,
}

impl CacheSizes {
    /// Whether so many f32s, written one after the other, have left the level-2 cache long before the last.
    pub(crate) fn is_far(&self, len: usize) -> bool {
        len > self.l2
    }

    /// What blocks are derived from where the machine does not tell.
    pub const FALLBACK: CacheSizes = CacheSizes { l1d: 32 << 10, l2: 512 << 10, l3: 0 };

    /// The sizes that this machine reports (read once), with [`FALLBACK`](Self::FALLBACK) for what it
    /// does not report or reports as nonsense.
    pub fn detect() -> CacheSizes {
        static SIZES: OnceLock<CacheSizes> = OnceLock::new();
        *SIZES.get_or_init(|| {
            let found = read();
            let sane = |bytes: usize, fallback| if bytes >= 4 << 10 { bytes } else { fallback };
            CacheSizes {
                l1d: sane(found.l1d, Self::FALLBACK.l1d),
                l2: sane(found.l2, Self::FALLBACK.l2),
                l3: found.l3,
            }
        })
    }
}

/// Cache descriptions of CPUID: leaf 4 on Intel, 0x8000001D on AMD, in the same format.
#[cfg(target_arch = "x86_64")]
#[allow(unused_unsafe)] // The intrinsics became safe functions in a later standard library.
fn read() -> CacheSizes {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    let mut sizes = CacheSizes { l1d: 0, l2: 0, l3: 0 };
    // SAFETY: every x86-64 CPU has the CPUID instruction.
    let highest = |base| unsafe { __cpuid(base) }.eax;
    for (base, leaf) in [(0x8000_0000u32, 0x8000_001D), (0, 4)] {
        if highest(base) < leaf {
            continue;
        }
        for index in 0..16 {
            // SAFETY: as above; the leaf was checked to exist.
            let r = unsafe { __cpuid_count(leaf, index) };
            let (kind, level) = (r.eax & 31, (r.eax >> 5) & 7);
            if kind == 0 {
                break;
            }
            let field = |value: u32, low: u32, bits: u32| ((value >> low) & ((1 << bits) - 1)) as usize + 1;
            let bytes =
                field(r.ebx, 22, 10) * field(r.ebx, 12, 10) * field(r.ebx, 0, 12) * (r.ecx as usize + 1);
            // 1 is a data cache, 3 a unified one.
            match (kind, level) {
                (1, 1) => sizes.l1d = bytes,
                (1 | 3, 2) => sizes.l2 = bytes,
                (1 | 3, 3) => sizes.l3 = bytes,
                _ => {}
            }
        }
        if sizes.l1d > 0 {
            break;
        }
    }
    sizes
}

#[cfg(not(target_arch = "x86_64"))]
fn read() -> CacheSizes {
    CacheSizes { l1d: 0, l2: 0, l3: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_plausible() {
        let sizes = CacheSizes::detect();
        assert!((4 << 10..1 << 20).contains(&sizes.l1d), "{sizes:?}");
        assert!(sizes.l2 >= sizes.l1d, "{sizes:?}");
    }
}
