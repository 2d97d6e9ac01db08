//! x86-64: its levels, and detection of the CPU features they need.
pub(crate) mod avx2;
pub(crate) mod avx512;

use core::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
use core::sync::atomic::{AtomicU16, Ordering};

/// A set of the CPU features that levels need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Features(u16);

impl Features {
    pub(crate) const AVX2: Self = Self(1);
    pub(crate) const FMA: Self = Self(2);
    pub(crate) const F16C: Self = Self(4);
    pub(crate) const AVX512F: Self = Self(8);
    pub(crate) const AVX512BW: Self = Self(16);
    pub(crate) const AVX512_VNNI: Self = Self(32);
    pub(crate) const AVX_VNNI: Self = Self(64);
    pub(crate) const AVX512_BF16: Self = Self(128);
    /// Not a CPU feature: marks that detection has run.
    const DETECTED: Self = Self(1 << 15);

    pub(crate) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) fn has(self, wanted: Self) -> bool {
        self.0 & wanted.0 == wanted.0
    }

    /// The features of this CPU. Cached: CPUID is slow in virtual machines, where it traps.
    pub(crate) fn get() -> Self {
        static CACHE: AtomicU16 = AtomicU16::new(0);
        let mut features = Self(CACHE.load(Ordering::Relaxed));
        if !features.has(Self::DETECTED) {
            features = Self::detect().and(Self::DETECTED);
            CACHE.store(features.0, Ordering::Relaxed);
        }
        features
    }

    /// Reads CPUID and XGETBV (Intel SDM vol. 1, ch. 14 and 15): a feature counts only if the operating system saves
    /// its registers.
    fn detect() -> Self {
        let none = Self(0);
        let bit = |word: u32, bit: u32, feature: Self| if word >> bit & 1 == 1 { feature } else { none };
        let leaf1 = __cpuid(1);
        let osxsave_and_avx = 1 << 27 | 1 << 28;
        if __cpuid(0).eax < 7 || leaf1.ecx & osxsave_and_avx != osxsave_and_avx {
            return none;
        }
        let (leaf7, saved) = (__cpuid_count(7, 0), xcr0());
        // EAX of sub-leaf 0 is the highest sub-leaf of leaf 7.
        let leaf7_1 = if leaf7.eax > 0 { __cpuid_count(7, 1).eax } else { 0 };
        let ymm = bit(leaf7.ebx, 5, Self::AVX2)
            .and(bit(leaf1.ecx, 12, Self::FMA))
            .and(bit(leaf1.ecx, 29, Self::F16C))
            .and(bit(leaf7_1, 4, Self::AVX_VNNI));
        let zmm = bit(leaf7.ebx, 16, Self::AVX512F)
            .and(bit(leaf7.ebx, 30, Self::AVX512BW))
            .and(bit(leaf7.ecx, 11, Self::AVX512_VNNI))
            .and(bit(leaf7_1, 5, Self::AVX512_BF16));
        match (saved & 0x06 == 0x06, saved & 0xe6 == 0xe6) {
            (_, true) => ymm.and(zmm),
            (true, false) => ymm,
            _ => none,
        }
    }
}

/// The register states that the operating system saves. Call only if CPUID reports OSXSAVE.
fn xcr0() -> u64 {
    #[target_feature(enable = "xsave")]
    fn read() -> u64 {
        // SAFETY: register 0 exists wherever XGETBV does.
        unsafe { _xgetbv(0) }
    }
    // SAFETY: OSXSAVE means that XGETBV exists and is enabled.
    unsafe { read() }
}

#[cfg(test)]
mod tests {
    use super::Features;

    #[test]
    fn detection_agrees_with_std() {
        let found = Features::get();
        assert_eq!(found.has(Features::AVX2), std::is_x86_feature_detected!("avx2"));
        assert_eq!(found.has(Features::FMA), std::is_x86_feature_detected!("fma"));
        assert_eq!(found.has(Features::F16C), std::is_x86_feature_detected!("f16c"));
        assert_eq!(found.has(Features::AVX512F), std::is_x86_feature_detected!("avx512f"));
        assert_eq!(found.has(Features::AVX512BW), std::is_x86_feature_detected!("avx512bw"));
        assert_eq!(found.has(Features::AVX512_VNNI), std::is_x86_feature_detected!("avx512vnni"));
        assert_eq!(found.has(Features::AVX512_BF16), std::is_x86_feature_detected!("avx512bf16"));
        assert_eq!(found.has(Features::AVX_VNNI), std::is_x86_feature_detected!("avxvnni"));
    }
}
