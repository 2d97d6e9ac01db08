//! WebAssembly's SIMD: a vector is four v128.
//!
//! Engines have few registers for a function's values (V8 on x86-64 about 13 of 16), and what does not fit goes through
//! the stack: tiles have eight accumulators.
use core::arch::wasm32::*;

use ::half::{bf16, f16};

use super::register::{self, Registers};
use super::widened;
use crate::gemm::int8::Int8Tile;
use crate::math::Function;
use crate::simd::{Arithmetic, Kernel, LANES, MAGNITUDE, ROUND_TO_INTEGER, Simd};

/// SIMD, which the module is compiled with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Simd128;

/// An array of an expression's value for the registers `$i`, 0 to 3, of a vector. A macro, since closures may be left
/// out of line.
macro_rules! four {
    ($i:ident => $value:expr) => {
        [
            {
                let $i = 0usize;
                $value
            },
            {
                let $i = 1usize;
                $value
            },
            {
                let $i = 2usize;
                $value
            },
            {
                let $i = 3usize;
                $value
            },
        ]
    };
}

/// Loads register `i` of an array of four.
#[inline(always)]
fn load<T, const N: usize>(x: &[T; N], i: usize) -> v128 {
    const { assert!(size_of::<[T; N]>() == 64) }
    debug_assert!(i < 4);
    // SAFETY: the array has 64 bytes; a load needs no alignment.
    unsafe { v128_load(x.as_ptr().cast::<v128>().add(i)) }
}

/// Stores register `i` of an array of four.
#[inline(always)]
fn store<T, const N: usize>(x: &mut [T; N], i: usize, v: v128) {
    const { assert!(size_of::<[T; N]>() == 64) }
    debug_assert!(i < 4);
    // SAFETY: the array has 64 bytes; a store needs no alignment.
    unsafe { v128_store(x.as_mut_ptr().cast::<v128>().add(i), v) }
}

/// Rounds to nearest, ties to even, as i32. Lanes must be within ±2²²; NaN becomes an unspecified number.
#[inline(always)]
fn round_to_i32(v: v128) -> v128 {
    let magic = f32x4_splat(ROUND_TO_INTEGER);
    i32x4_sub(f32x4_add(v, magic), magic)
}

/// Four registers.
const VECTOR: Registers<4> = Registers;

impl Arithmetic for Simd128 {
    type V = [v128; 4];
    type M = [v128; 4];
    const FUSED: bool = Registers::<4>::FUSED;
    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        VECTOR.splat(x)
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        VECTOR.add(a, b)
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        VECTOR.sub(a, b)
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        VECTOR.mul(a, b)
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        VECTOR.div(a, b)
    }
    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        VECTOR.mul_add(a, b, c)
    }
    #[inline(always)]
    fn sqrt(self, a: Self::V) -> Self::V {
        VECTOR.sqrt(a)
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        VECTOR.max(a, b)
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        VECTOR.min(a, b)
    }
    #[inline(always)]
    fn gt(self, a: Self::V, b: Self::V) -> Self::M {
        VECTOR.gt(a, b)
    }
    #[inline(always)]
    fn select(self, m: Self::M, a: Self::V, b: Self::V) -> Self::V {
        VECTOR.select(m, a, b)
    }
    #[inline(always)]
    fn power_of_two(self, rounded: Self::V) -> Self::V {
        VECTOR.power_of_two(rounded)
    }
}

impl Simd for Simd128 {
    const TILE_ROWS: usize = 2;
    const TILE_PANELS: usize = 1;
    const FAST_F16: bool = false;
    // A vector is four chains.
    const CHAINS: usize = 2;
    const COMPACT: bool = true;

    type I = [v128; 4];
    /// Of each register, inputs 0 and 2 of four outputs, and inputs 1 and 3, as pairs of i16.
    type Weights = [[v128; 2]; 4];
    type Activations = [v128; 2];
    const INT8_ROWS: usize = 8;
    const INT8_PANELS: usize = widened::PANELS;
    const ZERO_POINT: u8 = 0;
    const INT4_FACTOR: f32 = 1.0;

    #[inline(never)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }

    #[inline(always)]
    fn apply<F: Function>(self, f: F, mut v: Self::V) -> Self::V {
        register::to_halves(f, &mut v);
        v
    }

    // WebAssembly has no prefetch.
    #[inline(always)]
    fn prefetch(self, _: *const u8) {}
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::V {
        four!(i => load(x, i))
    }
    #[inline(always)]
    fn store(self, v: Self::V, out: &mut [f32; LANES]) {
        four!(i => store(out, i, v[i]));
    }
    /// As the portable level: exponent and mantissa, shifted to their place, times 2¹¹²; infinities and NaN get all
    /// exponent bits.
    #[inline(always)]
    fn load_f16(self, x: &[f16; LANES]) -> Self::V {
        let p = x.as_ptr().cast::<u64>();
        four!(i => {
            // SAFETY: sixteen f16 are four times 64 bits; a load needs no alignment.
            let bits = unsafe { u32x4_load_extend_u16x4(p.add(i).cast()) };
            let magnitude = i32x4_shl(v128_and(bits, u32x4_splat(0x7fff)), 13);
            let magnitude = f32x4_mul(magnitude, u32x4_splat((127 + 112) << 23));
            let exponent = u32x4_splat(0x7c00);
            let special = v128_and(i32x4_eq(v128_and(bits, exponent), exponent), u32x4_splat(0x7f80_0000));
            let sign = i32x4_shl(v128_and(bits, u32x4_splat(0x8000)), 16);
            v128_or(v128_or(magnitude, special), sign)
        })
    }
    #[inline(always)]
    fn load_bf16(self, x: &[[bf16; 2]; LANES], i: usize) -> Self::V {
        if i == 0 {
            four!(j => i32x4_shl(load(x, j), 16))
        } else {
            four!(j => v128_and(load(x, j), u32x4_splat(0xffff_0000)))
        }
    }
    /// As the portable level: normal results round by adding just below half a step, plus 1 if the last bit kept is odd;
    /// subnormal results by adding ½, an f32 with the same step. The rest is infinite or NaN.
    #[inline(always)]
    fn store_f16(self, v: Self::V, out: &mut [f16; LANES]) {
        let words = four!(i => {
            let magnitude = v128_and(v[i], u32x4_splat(MAGNITUDE));
            let odd = v128_and(u32x4_shr(magnitude, 13), u32x4_splat(1));
            let normal = i32x4_add(i32x4_add(magnitude, i32x4_splat(((15 - 127) << 23) + 0xfff)), odd);
            let half = f32x4_splat(0.5);
            let subnormal = i32x4_sub(f32x4_add(magnitude, half), half);
            let nan = v128_and(i32x4_gt(magnitude, i32x4_splat(0x7f80_0000)), i32x4_splat(0x200));
            let special = v128_or(nan, i32x4_splat(0x7c00));
            let is_subnormal = i32x4_gt(i32x4_splat((127 - 14) << 23), magnitude);
            let is_special = i32x4_gt(magnitude, i32x4_splat(((127 + 16) << 23) - 1));
            let result = v128_bitselect(special, i32x4_shr(normal, 13), is_special);
            let sign = v128_and(u32x4_shr(v[i], 16), u32x4_splat(0x8000));
            v128_or(v128_bitselect(subnormal, result, is_subnormal), sign)
        });
        let p = out.as_mut_ptr().cast::<v128>();
        // SAFETY: sixteen f16 are two v128; a store needs no alignment.
        unsafe {
            v128_store(p, u16x8_narrow_i32x4(words[0], words[1]));
            v128_store(p.add(1), u16x8_narrow_i32x4(words[2], words[3]));
        }
    }
    // Longer than a call of it takes time.
    #[inline(never)]
    fn transpose(self, r: [Self::V; LANES]) -> [Self::V; LANES] {
        let mut out = r;
        for row in 0..4 {
            for column in 0..4 {
                for (i, v) in transposed(four!(i => r[4 * row + i][column])).into_iter().enumerate() {
                    out[4 * column + i][row] = v;
                }
            }
        }
        out
    }
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        let v = f32x4_add(f32x4_add(v[0], v[2]), f32x4_add(v[1], v[3]));
        let v = f32x4_add(v, i64x2_shuffle::<1, 1>(v, v));
        f32x4_extract_lane::<0>(v) + f32x4_extract_lane::<1>(v)
    }

    #[inline(always)]
    fn store_i8(self, v: Self::V, out: &mut [i8; LANES]) {
        let rounded = four!(i => round_to_i32(v[i]));
        let (low, high) = (i16x8_narrow_i32x4(rounded[0], rounded[1]), i16x8_narrow_i32x4(rounded[2], rounded[3]));
        // SAFETY: sixteen bytes are writable; a store needs no alignment.
        unsafe { v128_store(out.as_mut_ptr().cast(), i8x16_narrow_i16x8(low, high)) }
    }
    #[inline(always)]
    fn store_groups(self, v: [Self::V; 4], out: &mut [[i8; 4]; LANES]) {
        four!(i => {
            let [a, b, c, d] = four!(j => round_to_i32(v[j][i]));
            let bytes = i8x16_narrow_i16x8(i16x8_narrow_i32x4(a, b), i16x8_narrow_i32x4(c, d));
            store(out, i, i8x16_shuffle::<0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15>(bytes, bytes));
        });
    }
    #[inline(always)]
    fn max_magnitude(self, a: Self::V, x: Self::V) -> Self::V {
        // As integers, NaN is above infinity.
        four!(i => i32x4_max(a[i], v128_and(x[i], u32x4_splat(MAGNITUDE))))
    }
    #[inline(always)]
    fn load_weights(self, x: &[[i8; 4]; LANES]) -> Self::Weights {
        four!(i => even_and_odd(load(x, i)))
    }
    #[inline(always)]
    fn splat_activations(self, x: [i8; 4]) -> Self::Activations {
        even_and_odd(i32x4_splat(i32::from_le_bytes(x.map(i8::cast_unsigned))))
    }
    #[inline(always)]
    fn start(self, _: &[i32; LANES]) -> Self::I {
        [i32x4_splat(0); 4]
    }
    #[inline(always)]
    fn dot(self, sum: Self::I, a: Self::Activations, w: Self::Weights) -> Self::I {
        four!(i => i32x4_add(i32x4_add(sum[i], i32x4_dot_i16x8(a[0], w[i][0])), i32x4_dot_i16x8(a[1], w[i][1])))
    }
    #[inline(always)]
    unsafe fn int8_tile<const M: usize, const P: usize>(self, tile: &Int8Tile<'_>) {
        // SAFETY: the caller's promise, passed on.
        unsafe {
            // Of one row nothing is used again.
            if M == 1 { widened::one_row(self, tile, P) } else { widened::tile(self, tile, [M, P]) }
        }
    }
    #[inline(always)]
    fn to_f32(self, i: Self::I) -> Self::V {
        four!(j => f32x4_convert_i32x4(i[j]))
    }
    #[inline(always)]
    fn load_int4(self, x: &[[u8; 4]; LANES]) -> [Self::Weights; 2] {
        // Each i16 holds four nibbles; a shift to the left and one back sign-extend one of them.
        let nibbles = four!(i => load(x, i));
        [
            four!(i => [i16x8_shr(i16x8_shl(nibbles[i], 12), 12), i16x8_shr(i16x8_shl(nibbles[i], 4), 12)]),
            four!(i => [i16x8_shr(i16x8_shl(nibbles[i], 8), 12), i16x8_shr(nibbles[i], 12)]),
        ]
    }
    #[inline(always)]
    fn int4_to_f32(self, sum: Self::I, _: Self::I) -> Self::V {
        self.to_f32(sum)
    }
}

/// The columns of a 4 × 4 matrix of 32-bit lanes given by rows.
#[inline(always)]
pub(super) fn transposed([a, b, c, d]: [v128; 4]) -> [v128; 4] {
    // Pairs of rows: columns 0 and 1, columns 2 and 3.
    let (ab, ab1) = (i32x4_shuffle::<0, 4, 1, 5>(a, b), i32x4_shuffle::<2, 6, 3, 7>(a, b));
    let (cd, cd1) = (i32x4_shuffle::<0, 4, 1, 5>(c, d), i32x4_shuffle::<2, 6, 3, 7>(c, d));
    [
        i64x2_shuffle::<0, 2>(ab, cd),
        i64x2_shuffle::<1, 3>(ab, cd),
        i64x2_shuffle::<0, 2>(ab1, cd1),
        i64x2_shuffle::<1, 3>(ab1, cd1),
    ]
}

/// The bytes of each pair, sign-extended to i16.
#[inline(always)]
pub(super) fn even_and_odd(pairs: v128) -> [v128; 2] {
    [i16x8_shr(i16x8_shl(pairs, 8), 8), i16x8_shr(pairs, 8)]
}
