//! 64-bit Arm: its levels, and detection of the CPU features they need. Every target here has NEON.
//!
//! The levels differ in how they multiply int8, a trait of this module: [`Products`].
mod dotprod;
mod i8mm;
pub(crate) mod neon;
mod smull;

use core::arch::aarch64::{int8x16_t, int32x4_t};

pub(crate) use dotprod::Dotprod;
pub(crate) use i8mm::I8mm;
use neon::Neon;
pub(crate) use smull::Smull;

use crate::gemm::int8::Int8Tile;
use crate::simd::Kernel;

/// Whether this CPU has a feature: with std the operating system says so, without it the target that is compiled for.
macro_rules! detected {
    ($feature:tt) => {{
        #[cfg(any(feature = "std", test))]
        let found = std::arch::is_aarch64_feature_detected!($feature);
        #[cfg(not(any(feature = "std", test)))]
        let found = cfg!(target_feature = $feature);
        found
    }};
}
use detected;

/// Int8 products of a level: a token that proves the CPU has their instructions.
pub(crate) trait Products: Copy + Send + Sync + 'static {
    /// Rows of the int8 register tile.
    const ROWS: usize;

    /// Runs `kernel` out of line, compiled with these instructions.
    fn call<K: Kernel>(self, kernel: K) -> K::Output;

    /// Adds, to each of four sums, the products of four neighbouring bytes. Bytes of `a` are within ±127.
    fn dot(self, sum: int32x4_t, a: int8x16_t, w: int8x16_t) -> int32x4_t;

    /// [`dot`](Self::dot) with bytes 4·I to 4·I + 3 of `a` for all four sums.
    fn dot_element<const I: i32>(self, sum: int32x4_t, a: int8x16_t, w: int8x16_t) -> int32x4_t;

    /// Inputs that [`peak`](Self::peak) multiplies.
    const PEAK_INPUTS: usize = 4;

    /// The instruction that multiplies most, on whatever operands.
    #[inline(always)]
    fn peak(self, sum: int32x4_t, a: int8x16_t, w: int8x16_t) -> int32x4_t {
        self.dot(sum, a, w)
    }

    /// [`Simd::int8_sums`](crate::simd::Simd::int8_sums).
    ///
    /// # Safety
    /// As that.
    #[inline(always)]
    unsafe fn int8_sums<const M: usize, const P: usize>(self, tile: &Int8Tile<'_>) -> [[[int32x4_t; 4]; P]; M] {
        // SAFETY: the caller's promise, passed on.
        unsafe { tile.sums(Neon(self)) }
    }
}
