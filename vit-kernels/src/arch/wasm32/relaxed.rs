//! Products of WebAssembly's relaxed SIMD. A relaxed instruction does what the CPU does fastest, within a short list of
//! results: `relaxed_madd` rounds once or twice, always the same on one machine.
use core::arch::wasm32::{f32x4_relaxed_madd, v128};

/// The level's name.
pub(crate) const NAME: &str = "relaxed-simd";

/// Whether `mul_add` may round once.
pub(super) const FUSED: bool = true;

/// a·b + c.
#[inline(always)]
pub(super) fn mul_add(a: v128, b: v128, c: v128) -> v128 {
    f32x4_relaxed_madd(a, b, c)
}
