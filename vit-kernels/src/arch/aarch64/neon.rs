//! NEON: a vector is four registers.
use core::arch::aarch64::*;
use core::arch::asm;

use ::half::{bf16, f16};

use super::Products;
use crate::gemm::int8::Int8Tile;
use crate::simd::{Arithmetic, Kernel, LANES, Simd};

/// NEON, which the target has, and the instructions of `P` for int8.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Neon<P>(pub(crate) P);

/// Prefetches into L2: no intrinsic for it is stable.
#[inline(always)]
pub(super) fn prefetch(at: *const u8) {
    // SAFETY: a prefetch does not read, and never faults.
    unsafe { asm!("prfm pldl2keep, [{}]", in(reg) at, options(nomem, nostack, preserves_flags)) }
}

/// Element `i`, 0 or 1, of four pairs of bf16, widened exactly.
#[inline(always)]
fn widen(pairs: uint32x4_t, i: usize) -> float32x4_t {
    // SAFETY: the target has NEON.
    unsafe {
        let bits = if i == 0 { vshlq_n_u32::<16>(pairs) } else { vandq_u32(pairs, vdupq_n_u32(0xffff_0000)) };
        vreinterpretq_f32_u32(bits)
    }
}

/// Rounds to bf16, the upper half of each word: to nearest, ties to even. NaN stays NaN, and becomes quiet.
#[inline(always)]
fn round_bf16(x: float32x4_t) -> uint32x4_t {
    // SAFETY: the target has NEON.
    unsafe {
        let bits = vreinterpretq_u32_f32(x);
        let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
        let rounded = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd);
        vbslq_u32(vceqq_f32(x, x), rounded, vorrq_u32(bits, vdupq_n_u32(0x0040_0000)))
    }
}

/// An array of an expression's value for the registers `$i`, 0 to 3, of a vector. A macro, since closures may be left
/// out of line.
macro_rules! four {
    ($i:ident => $value:expr) => {
        // SAFETY: the target has NEON; pointers stay within the array that a reference of the caller's is to.
        unsafe {
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
        }
    };
}

impl<P: Products> Arithmetic for Neon<P> {
    type V = [float32x4_t; 4];
    type M = [uint32x4_t; 4];
    const FUSED: bool = true;
    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        four!(_i => vdupq_n_f32(x))
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        four!(i => vaddq_f32(a[i], b[i]))
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        four!(i => vsubq_f32(a[i], b[i]))
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        four!(i => vmulq_f32(a[i], b[i]))
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        four!(i => vdivq_f32(a[i], b[i]))
    }
    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        four!(i => vfmaq_f32(c[i], a[i], b[i]))
    }
    #[inline(always)]
    fn sqrt(self, a: Self::V) -> Self::V {
        four!(i => vsqrtq_f32(a[i]))
    }
    // FMAX and FMIN return NaN when either is NaN.
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        self.select(self.gt(a, b), a, b)
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        self.select(self.gt(b, a), a, b)
    }
    #[inline(always)]
    fn gt(self, a: Self::V, b: Self::V) -> Self::M {
        four!(i => vcgtq_f32(a[i], b[i]))
    }
    #[inline(always)]
    fn select(self, m: Self::M, a: Self::V, b: Self::V) -> Self::V {
        four!(i => vbslq_f32(m[i], a[i], b[i]))
    }
    #[inline(always)]
    fn power_of_two(self, rounded: Self::V) -> Self::V {
        four!(i => vreinterpretq_f32_u32(vshlq_n_u32::<23>(vreinterpretq_u32_f32(rounded[i]))))
    }
}

impl<P: Products> Simd for Neon<P> {
    // 5 × 16: twenty accumulators, four registers of weights, five of A: 29 of 32.
    const TILE_ROWS: usize = 5;
    const TILE_PANELS: usize = 1;
    const BY_ELEMENT: bool = true;
    const FAST_F16: bool = true;

    type I = [int32x4_t; 4];
    type Weights = [int8x16_t; 4];
    type Activations = int8x16_t;
    const INT8_ROWS: usize = P::ROWS;
    const INT8_PANELS: usize = 1;
    const ZERO_POINT: u8 = 0;
    const PEAK_INPUTS: usize = P::PEAK_INPUTS;
    // A nibble in the upper half of a byte is 16 times its value.
    const INT4_FACTOR: f32 = 16.0;

    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        self.0.call(kernel)
    }

    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        prefetch(at);
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::V {
        four!(i => vld1q_f32(x.as_ptr().add(4 * i)))
    }
    #[inline(always)]
    fn store(self, v: Self::V, out: &mut [f32; LANES]) {
        four!(i => vst1q_f32(out.as_mut_ptr().add(4 * i), v[i]));
    }
    #[inline(always)]
    fn load_f16(self, x: &[f16; LANES]) -> Self::V {
        let p = x.as_ptr().cast::<u16>();
        // SAFETY: the target has NEON; sixteen f16 are two unaligned 128-bit words.
        unsafe {
            let (a, b) = (vreinterpretq_f16_u16(vld1q_u16(p)), vreinterpretq_f16_u16(vld1q_u16(p.add(8))));
            let (low_a, low_b) = (vget_low_f16(a), vget_low_f16(b));
            [vcvt_f32_f16(low_a), vcvt_high_f32_f16(a), vcvt_f32_f16(low_b), vcvt_high_f32_f16(b)]
        }
    }
    #[inline(always)]
    fn load_bf16(self, x: &[[bf16; 2]; LANES], i: usize) -> Self::V {
        let p = x.as_ptr().cast::<u32>();
        let pairs = four!(i => vld1q_u32(p.add(4 * i)));
        [widen(pairs[0], i), widen(pairs[1], i), widen(pairs[2], i), widen(pairs[3], i)]
    }
    #[inline(always)]
    fn store_f16(self, v: Self::V, out: &mut [f16; LANES]) {
        let p = out.as_mut_ptr().cast::<u16>();
        four!(i => vst1_u16(p.add(4 * i), vreinterpret_u16_f16(vcvt_f16_f32(v[i]))));
    }
    #[inline(always)]
    fn store_bf16(self, v: Self::V, out: &mut [bf16; LANES]) {
        let p = out.as_mut_ptr().cast::<u16>();
        let words = [round_bf16(v[0]), round_bf16(v[1]), round_bf16(v[2]), round_bf16(v[3])];
        let halves = four!(i => vreinterpretq_u16_u32(words[i]));
        // SAFETY: the target has NEON; sixteen bf16 are two unaligned 128-bit words.
        unsafe {
            vst1q_u16(p, vuzp2q_u16(halves[0], halves[1]));
            vst1q_u16(p.add(8), vuzp2q_u16(halves[2], halves[3]));
        }
    }
    #[inline(always)]
    fn store_bf16_pairs(self, v: [Self::V; 2], out: &mut [[bf16; 2]; LANES]) {
        let p = out.as_mut_ptr().cast::<u32>();
        // The shift keeps the upper half, which is the second of a pair.
        four!(i => vst1q_u32(p.add(4 * i), vsriq_n_u32::<16>(round_bf16(v[1][i]), round_bf16(v[0][i]))));
    }
    // SHLL widens and shifts at once.
    #[inline(always)]
    fn widen_bf16(self, x: &[bf16; 4]) -> [f32; 4] {
        // SAFETY: the target has NEON; four bf16 are an unaligned 64-bit word.
        unsafe {
            let mut lanes = [0.0; 4];
            vst1q_f32(lanes.as_mut_ptr(), vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(x.as_ptr().cast()))));
            lanes
        }
    }
    #[inline(always)]
    fn widen_bf16_of_pairs(self, x: &[[bf16; 2]; 4], i: usize) -> [f32; 4] {
        // SAFETY: the target has NEON; four pairs are an unaligned 128-bit word.
        unsafe {
            let mut lanes = [0.0; 4];
            vst1q_f32(lanes.as_mut_ptr(), widen(vld1q_u32(x.as_ptr().cast()), i));
            lanes
        }
    }
    #[inline(always)]
    fn mul_add_element<const I: i32>(self, a: &[f32; 4], b: Self::V, c: Self::V) -> Self::V {
        four!(i => vfmaq_laneq_f32::<I>(c[i], b[i], vld1q_f32(a.as_ptr())))
    }
    /// One register of weights after another: all four, widened, do not fit beside the sums.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // Constant ranges over arrays unroll into registers.
    fn add_pair_elements<const M: usize, const N: usize, const I: i32, const J: i32>(
        self,
        acc: &mut [[Self::V; N]; M],
        p: usize,
        a: &[[f32; 4]; M],
        b: &[[bf16; 2]; LANES],
    ) {
        for i in 0..4 {
            // SAFETY: the target has NEON; pointers stay within the arrays.
            unsafe {
                let pairs = vld1q_u32(b.as_ptr().cast::<u32>().add(4 * i));
                let (first, second) = (widen(pairs, 0), widen(pairs, 1));
                for m in 0..M {
                    acc[m][p][i] = vfmaq_laneq_f32::<I>(acc[m][p][i], first, vld1q_f32(a[m].as_ptr()));
                }
                for m in 0..M {
                    acc[m][p][i] = vfmaq_laneq_f32::<J>(acc[m][p][i], second, vld1q_f32(a[m].as_ptr()));
                }
            }
        }
    }
    #[inline(always)]
    fn transpose(self, r: [Self::V; LANES]) -> [Self::V; LANES] {
        let mut out = r;
        for row in 0..4 {
            for column in 0..4 {
                // SAFETY: the target has NEON.
                unsafe {
                    let [a, b] = [r[4 * row][column], r[4 * row + 1][column]];
                    let [c, d] = [r[4 * row + 2][column], r[4 * row + 3][column]];
                    // Pairs of rows: columns 0 and 2, columns 1 and 3.
                    let (ab, ab1) = (vreinterpretq_f64_f32(vtrn1q_f32(a, b)), vreinterpretq_f64_f32(vtrn2q_f32(a, b)));
                    let (cd, cd1) = (vreinterpretq_f64_f32(vtrn1q_f32(c, d)), vreinterpretq_f64_f32(vtrn2q_f32(c, d)));
                    out[4 * column][row] = vreinterpretq_f32_f64(vtrn1q_f64(ab, cd));
                    out[4 * column + 1][row] = vreinterpretq_f32_f64(vtrn1q_f64(ab1, cd1));
                    out[4 * column + 2][row] = vreinterpretq_f32_f64(vtrn2q_f64(ab, cd));
                    out[4 * column + 3][row] = vreinterpretq_f32_f64(vtrn2q_f64(ab1, cd1));
                }
            }
        }
        out
    }
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        // SAFETY: the target has NEON.
        unsafe {
            let v = vaddq_f32(vaddq_f32(v[0], v[2]), vaddq_f32(v[1], v[3]));
            vpadds_f32(vadd_f32(vget_low_f32(v), vget_high_f32(v)))
        }
    }

    #[inline(always)]
    fn store_i8(self, v: Self::V, out: &mut [i8; LANES]) {
        let rounded = four!(i => vcvtnq_s32_f32(v[i]));
        // SAFETY: the target has NEON; sixteen bytes are writable.
        unsafe {
            let low = vmovn_high_s32(vmovn_s32(rounded[0]), rounded[1]);
            let high = vmovn_high_s32(vmovn_s32(rounded[2]), rounded[3]);
            vst1q_s8(out.as_mut_ptr(), vmovn_high_s16(vmovn_s16(low), high));
        }
    }
    #[inline(always)]
    fn store_groups(self, v: [Self::V; 4], out: &mut [[i8; 4]; LANES]) {
        let p = out.as_mut_ptr().cast::<i32>();
        four!(i => {
            // Each shift keeps the bytes below it, and overwrites those above.
            let word = vsliq_n_s32::<8>(vcvtnq_s32_f32(v[0][i]), vcvtnq_s32_f32(v[1][i]));
            let word = vsliq_n_s32::<16>(word, vcvtnq_s32_f32(v[2][i]));
            vst1q_s32(p.add(4 * i), vsliq_n_s32::<24>(word, vcvtnq_s32_f32(v[3][i])));
        });
    }
    #[inline(always)]
    fn max_magnitude(self, a: Self::V, x: Self::V) -> Self::V {
        // As integers, NaN is above infinity.
        four!(i => {
            let x = vreinterpretq_u32_f32(vabsq_f32(x[i]));
            vreinterpretq_f32_u32(vmaxq_u32(vreinterpretq_u32_f32(a[i]), x))
        })
    }
    #[inline(always)]
    fn load_weights(self, x: &[[i8; 4]; LANES]) -> Self::Weights {
        let p = x.as_ptr().cast::<i8>();
        four!(i => vld1q_s8(p.add(16 * i)))
    }
    #[inline(always)]
    fn splat_activations(self, x: [i8; 4]) -> int8x16_t {
        // SAFETY: the target has NEON.
        unsafe { vreinterpretq_s8_s32(vdupq_n_s32(i32::from_le_bytes(x.map(i8::cast_unsigned)))) }
    }
    #[inline(always)]
    fn start(self, _: &[i32; LANES]) -> Self::I {
        four!(_i => vdupq_n_s32(0))
    }
    #[inline(always)]
    fn dot(self, sum: Self::I, a: int8x16_t, w: Self::Weights) -> Self::I {
        let p = self.0;
        [p.dot(sum[0], a, w[0]), p.dot(sum[1], a, w[1]), p.dot(sum[2], a, w[2]), p.dot(sum[3], a, w[3])]
    }
    #[inline(always)]
    fn dot_element<const I: i32>(self, sum: Self::I, a: &[[i8; 4]; 4], w: Self::Weights) -> Self::I {
        // SAFETY: the target has NEON; sixteen bytes are readable.
        let (p, a) = (self.0, unsafe { vld1q_s8(a.as_ptr().cast()) });
        [
            p.dot_element::<I>(sum[0], a, w[0]),
            p.dot_element::<I>(sum[1], a, w[1]),
            p.dot_element::<I>(sum[2], a, w[2]),
            p.dot_element::<I>(sum[3], a, w[3]),
        ]
    }
    #[inline(always)]
    fn peak(self, sum: Self::I, a: int8x16_t, w: Self::Weights) -> Self::I {
        let p = self.0;
        [p.peak(sum[0], a, w[0]), p.peak(sum[1], a, w[1]), p.peak(sum[2], a, w[2]), p.peak(sum[3], a, w[3])]
    }
    #[inline(always)]
    unsafe fn int8_sums<const M: usize, const N: usize>(self, tile: &Int8Tile<'_>) -> [[Self::I; N]; M] {
        // SAFETY: the caller's promise, passed on.
        unsafe { self.0.int8_sums(tile) }
    }
    #[inline(always)]
    fn to_f32(self, i: Self::I) -> Self::V {
        four!(j => vcvtq_f32_s32(i[j]))
    }
    #[inline(always)]
    fn load_int4(self, x: &[[u8; 4]; LANES]) -> [Self::Weights; 2] {
        let p = x.as_ptr().cast::<i8>();
        let bytes = four!(i => vld1q_s8(p.add(16 * i)));
        let upper = 0xf0_u8.cast_signed();
        [four!(i => vshlq_n_s8::<4>(bytes[i])), four!(i => vandq_s8(bytes[i], vdupq_n_s8(upper)))]
    }
    #[inline(always)]
    fn int4_to_f32(self, sum: Self::I, _: Self::I) -> Self::V {
        self.to_f32(sum)
    }
}
