//! Int8 products by SDOT. Its intrinsics are not stable; the assembler knows it.
use core::arch::aarch64::*;
use core::arch::asm;

use super::{Neon, Products, detected};
use crate::simd::Kernel;

/// Proof that the CPU has SDOT: only [`detect`](Self::detect) makes one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dotprod(());

impl Dotprod {
    pub(crate) fn detect() -> Option<Self> {
        detected!("dotprod").then_some(Self(()))
    }
}

impl Products for Dotprod {
    const ROWS: usize = 5;

    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "dotprod")]
        fn enter<K: Kernel>(token: Dotprod, kernel: K) -> K::Output {
            kernel.run(Neon(token))
        }
        // SAFETY: the token proves the feature.
        unsafe { enter(self, kernel) }
    }
    #[inline(always)]
    fn dot(self, sum: int32x4_t, a: int8x16_t, w: int8x16_t) -> int32x4_t {
        // SAFETY: the token proves the feature.
        unsafe { sdot(sum, a, w) }
    }
    #[inline(always)]
    fn dot_element<const I: i32>(self, sum: int32x4_t, a: int8x16_t, w: int8x16_t) -> int32x4_t {
        // SAFETY: the token proves the feature.
        unsafe { sdot_element::<I>(sum, a, w) }
    }
}

#[inline]
#[target_feature(enable = "dotprod")]
pub(super) fn sdot(mut sum: int32x4_t, a: int8x16_t, w: int8x16_t) -> int32x4_t {
    // SAFETY: it only computes `sum`.
    unsafe {
        asm!("sdot {0:v}.4s, {1:v}.16b, {2:v}.16b", inlateout(vreg) sum, in(vreg) w, in(vreg) a,
            options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

#[inline]
#[target_feature(enable = "dotprod")]
pub(super) fn sdot_element<const I: i32>(mut sum: int32x4_t, a: int8x16_t, w: int8x16_t) -> int32x4_t {
    // SAFETY: it only computes `sum`.
    unsafe {
        asm!("sdot {0:v}.4s, {1:v}.16b, {2:v}.4b[{3}]", inlateout(vreg) sum, in(vreg) w, in(vreg) a, const I,
            options(pure, nomem, nostack, preserves_flags));
    }
    sum
}
