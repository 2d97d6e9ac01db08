//! Int8 products of every 64-bit Arm: SMULL, then pairs and pairs of pairs are added.
use core::arch::aarch64::*;

use super::{Neon, Products};
use crate::simd::Kernel;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Smull;

impl Products for Smull {
    // Sixteen accumulators, four registers of weights, four of activations, two for products.
    const ROWS: usize = 4;

    #[inline(never)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(Neon(self))
    }
    /// Two products sum to at most 2·127·128, so nothing overflows 16 bits.
    #[inline(always)]
    fn dot(self, sum: int32x4_t, a: int8x16_t, w: int8x16_t) -> int32x4_t {
        // SAFETY: the target has NEON.
        unsafe {
            let low = vmull_s8(vget_low_s8(a), vget_low_s8(w));
            vpadalq_s16(sum, vpaddq_s16(low, vmull_high_s8(a, w)))
        }
    }
    #[inline(always)]
    fn dot_element<const I: i32>(self, sum: int32x4_t, a: int8x16_t, w: int8x16_t) -> int32x4_t {
        // SAFETY: the target has NEON.
        unsafe { self.dot(sum, vreinterpretq_s8_s32(vdupq_laneq_s32::<I>(vreinterpretq_s32_s8(a))), w) }
    }
}
