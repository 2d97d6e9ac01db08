//! Arithmetic on two registers, half a vector: a function is applied to one half after the other, so that its code is half as
//! long, and what it keeps fits in registers. On one register at a time it would wait for its own results.
use core::arch::wasm32::*;

use super::products;
use crate::math::Function;
use crate::simd::Arithmetic;

/// Arithmetic on `N` registers.
#[derive(Clone, Copy)]
pub(super) struct Registers<const N: usize>;

/// Applies a function to each half of a vector. Out of line: an activation is applied in several places.
#[inline(never)]
pub(super) fn to_halves<F: Function>(f: F, v: &mut [v128; 4]) {
    for half in v.as_chunks_mut().0 {
        *half = f.apply(Registers::<2>, *half);
    }
}

// Loops over constant ranges unroll into registers.
#[allow(clippy::needless_range_loop)]
impl<const N: usize> Arithmetic for Registers<N> {
    type V = [v128; N];
    type M = [v128; N];
    const FUSED: bool = products::FUSED;
    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [f32x4_splat(x); N]
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        let mut out = b;
        for i in 0..N {
            out[i] = f32x4_add(a[i], b[i]);
        }
        out
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        let mut out = b;
        for i in 0..N {
            out[i] = f32x4_sub(a[i], b[i]);
        }
        out
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        let mut out = b;
        for i in 0..N {
            out[i] = f32x4_mul(a[i], b[i]);
        }
        out
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        let mut out = b;
        for i in 0..N {
            out[i] = f32x4_div(a[i], b[i]);
        }
        out
    }
    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        let mut out = c;
        for i in 0..N {
            out[i] = products::mul_add(a[i], b[i], c[i]);
        }
        out
    }
    #[inline(always)]
    fn sqrt(self, a: Self::V) -> Self::V {
        let mut out = a;
        for i in 0..N {
            out[i] = f32x4_sqrt(a[i]);
        }
        out
    }
    // Not pmax and pmin: with relaxed SIMD the compiler makes relaxed_max and relaxed_min of them, which treat NaN as the
    // CPU does.
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        let mut out = b;
        for i in 0..N {
            out[i] = v128_bitselect(a[i], b[i], f32x4_gt(a[i], b[i]));
        }
        out
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        let mut out = b;
        for i in 0..N {
            out[i] = v128_bitselect(a[i], b[i], f32x4_gt(b[i], a[i]));
        }
        out
    }
    #[inline(always)]
    fn gt(self, a: Self::V, b: Self::V) -> Self::M {
        let mut out = b;
        for i in 0..N {
            out[i] = f32x4_gt(a[i], b[i]);
        }
        out
    }
    #[inline(always)]
    fn select(self, m: Self::M, a: Self::V, b: Self::V) -> Self::V {
        let mut out = b;
        for i in 0..N {
            out[i] = v128_bitselect(a[i], b[i], m[i]);
        }
        out
    }
    #[inline(always)]
    fn power_of_two(self, rounded: Self::V) -> Self::V {
        let mut out = rounded;
        for i in 0..N {
            out[i] = i32x4_shl(rounded[i], 23);
        }
        out
    }
}
