//! Products of WebAssembly's SIMD without relaxed instructions: every operation rounds.
use core::arch::wasm32::{f32x4_add, f32x4_mul, v128};

/// The level's name.
pub(crate) const NAME: &str = "simd128";

/// Whether `mul_add` may round once.
pub(super) const FUSED: bool = false;

/// a·b + c.
#[inline(always)]
pub(super) fn mul_add(a: v128, b: v128, c: v128) -> v128 {
    f32x4_add(f32x4_mul(a, b), c)
}
