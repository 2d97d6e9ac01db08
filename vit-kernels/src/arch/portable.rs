//! The level of every target: `wide`, with the instructions that the crate is compiled for.
use ::half::{bf16, f16};
use wide::{f32x4, f32x16, i16x8, i16x16, i16x32, i32x8, i32x16, u16x16, u32x16};

use crate::simd::{Arithmetic, Kernel, LANES, MAGNITUDE, ROUND_TO_INTEGER, Simd};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Portable;

impl Arithmetic for Portable {
    type V = f32x16;
    type M = f32x16;
    // The targets on which `wide` fuses.
    const FUSED: bool = cfg!(any(target_feature = "fma", target_arch = "aarch64"));
    #[inline(always)]
    fn splat(self, x: f32) -> f32x16 {
        f32x16::splat(x)
    }
    #[inline(always)]
    fn add(self, a: f32x16, b: f32x16) -> f32x16 {
        a + b
    }
    #[inline(always)]
    fn sub(self, a: f32x16, b: f32x16) -> f32x16 {
        a - b
    }
    #[inline(always)]
    fn mul(self, a: f32x16, b: f32x16) -> f32x16 {
        a * b
    }
    #[inline(always)]
    fn div(self, a: f32x16, b: f32x16) -> f32x16 {
        a / b
    }
    #[inline(always)]
    fn mul_add(self, a: f32x16, b: f32x16, c: f32x16) -> f32x16 {
        a.mul_add(b, c)
    }
    #[inline(always)]
    fn sqrt(self, a: f32x16) -> f32x16 {
        a.sqrt()
    }
    // `wide` does not specify its max and min of NaN.
    #[inline(always)]
    fn max(self, a: f32x16, b: f32x16) -> f32x16 {
        self.select(self.gt(a, b), a, b)
    }
    #[inline(always)]
    fn min(self, a: f32x16, b: f32x16) -> f32x16 {
        self.select(self.gt(b, a), a, b)
    }
    #[inline(always)]
    fn gt(self, a: f32x16, b: f32x16) -> f32x16 {
        a.simd_gt(b)
    }
    #[inline(always)]
    fn select(self, m: f32x16, a: f32x16, b: f32x16) -> f32x16 {
        m.bitselect(a, b)
    }
    #[inline(always)]
    fn power_of_two(self, rounded: f32x16) -> f32x16 {
        let mut lanes = rounded.to_array();
        for x in &mut lanes {
            *x = f32::from_bits(x.to_bits() << 23);
        }
        f32x16::new(lanes)
    }
}

impl Simd for Portable {
    // A vector takes four of SSE2's 16 registers, two of AVX's 16, four of NEON's 32.
    const TILE_ROWS: usize = if cfg!(any(target_feature = "avx", target_arch = "aarch64")) { 6 } else { 2 };
    const TILE_PANELS: usize = 1;
    const FAST_F16: bool = false;

    type I = i32x16;
    /// Inputs 0 and 2 of each output, and inputs 1 and 3, as pairs of i16.
    type Weights = [i16x32; 2];
    type Activations = [i16x32; 2];
    const INT8_ROWS: usize = 4;
    const INT8_PANELS: usize = 1;
    const ZERO_POINT: u8 = 0;
    const INT4_FACTOR: f32 = 1.0;

    #[inline(never)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }

    #[inline(always)]
    fn prefetch(self, _: *const u8) {}
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> f32x16 {
        f32x16::new(*x)
    }
    #[inline(always)]
    fn store(self, v: f32x16, out: &mut [f32; LANES]) {
        *out = v.to_array();
    }

    /// Shifts sign, exponent and mantissa to their place in an f32 and multiplies by 2¹¹², the difference of the exponent
    /// biases; this is exact for subnormals too. Infinities and NaN, which are rare, get all exponent bits.
    #[inline(always)]
    fn load_f16(self, x: &[f16; LANES]) -> f32x16 {
        let x = u16x16::new(*bytemuck::cast_ref(x));
        let bits: i32x16 = bytemuck::cast(u32x16::from(x) << 16u32);
        // The shift copies the sign into the three bits below it.
        let small = (bits >> 3u32) & i32x16::splat(!(7 << 28));
        let value = bytemuck::cast::<i32x16, f32x16>(small) * f32x16::splat(f32::from_bits((127 + 112) << 23));
        let exponent = u16x16::splat(0x7c00);
        if !(x & exponent).simd_eq(exponent).any() {
            return value;
        }
        let exponent = i32x16::splat(0x1f << 23);
        let special = (small & exponent).simd_eq(exponent) & i32x16::splat(0xff << 23);
        bytemuck::cast(bytemuck::cast::<f32x16, i32x16>(value) | special)
    }
    #[inline(always)]
    fn load_bf16(self, x: &[[bf16; 2]; LANES], i: usize) -> f32x16 {
        let pairs: u32x16 = bytemuck::cast(*x);
        bytemuck::cast(if i == 0 { pairs << 16u32 } else { pairs & u32x16::splat(0xffff_0000) })
    }
    /// A sum rounds: |v| + 2ᵉ⁺¹³, with 2ᵉ the power of two at or below |v|, has the step of an f16 near |v|. Its lowest bits
    /// count these steps, 1024 to 2048, or fewer for subnormal results if e is at least −14. Infinities, NaN and what
    /// rounds to infinity, which are rare, are converted one by one.
    #[inline(always)]
    fn store_f16(self, v: f32x16, out: &mut [f16; LANES]) {
        let bits: i32x16 = bytemuck::cast(v);
        let magnitude: f32x16 = bytemuck::cast(bits & i32x16::splat(MAGNITUDE.cast_signed()));
        // A sum of four is enough to see that all are small, and cheaper than four comparisons.
        let [a, b, c, d]: [f32x4; 4] = bytemuck::cast(magnitude);
        if !((a + b) + (c + d)).simd_lt(f32x4::splat(65504.0)).all() {
            return store_any_f16(v, out);
        }
        let normal: i32x16 = bytemuck::cast(magnitude.fast_max(f32x16::splat(f32::from_bits((127 - 14) << 23))));
        let power = (normal & i32x16::splat(0xff << 23)) + i32x16::splat(13 << 23);
        let sum: i32x16 = bytemuck::cast(magnitude + bytemuck::cast::<i32x16, f32x16>(power));
        let steps = (sum >> 13u32) + (sum & i32x16::splat(0xfff)) - i32x16::splat((127 + 13 - 14) << 10);
        *out = bytemuck::cast(narrow(steps) | (narrow(bits >> 16u32) & i16x16::splat(i16::MIN)));
    }
    #[inline(always)]
    fn store_i8(self, v: f32x16, out: &mut [i8; LANES]) {
        let rounded = (v + f32x16::splat(ROUND_TO_INTEGER)).to_array();
        for (out, x) in out.iter_mut().zip(rounded) {
            *out = (x.to_bits() as u8).cast_signed();
        }
    }
    #[inline(always)]
    fn store_groups(self, v: [f32x16; 4], out: &mut [[i8; 4]; LANES]) {
        let mut words = u32x16::splat(0);
        for (v, shift) in v.into_iter().zip([0u32, 8, 16, 24]) {
            let rounded: u32x16 = bytemuck::cast(v + f32x16::splat(ROUND_TO_INTEGER));
            words |= (rounded & u32x16::splat(0xff)) << shift;
        }
        *out = bytemuck::cast(words.to_array().map(u32::to_le));
    }
    #[inline(always)]
    fn max_magnitude(self, a: f32x16, x: f32x16) -> f32x16 {
        // As integers, NaN is above infinity.
        let (a, x): (i32x16, i32x16) = (bytemuck::cast(a), bytemuck::cast(x));
        let x = x & i32x16::splat(MAGNITUDE.cast_signed());
        bytemuck::cast(a.simd_gt(x).bitselect(a, x))
    }
    #[inline(always)]
    fn load_weights(self, x: &[[i8; 4]; LANES]) -> [i16x32; 2] {
        // Each i16 holds two bytes; the shifts sign-extend one and the other.
        let pairs: i16x32 = bytemuck::cast(*x);
        [(pairs << 8u32) >> 8u32, pairs >> 8u32]
    }
    #[inline(always)]
    fn splat_activations(self, x: [i8; 4]) -> [i16x32; 2] {
        self.load_weights(&[x; LANES])
    }
    #[inline(always)]
    fn start(self, _: &[i32; LANES]) -> i32x16 {
        i32x16::splat(0)
    }
    /// `i16x32::dot` multiplies i16 and adds neighbours, one instruction on x86.
    #[inline(always)]
    fn dot(self, sum: i32x16, a: [i16x32; 2], w: [i16x32; 2]) -> i32x16 {
        sum + a[0].dot(w[0]) + a[1].dot(w[1])
    }
    #[inline(always)]
    fn to_f32(self, i: i32x16) -> f32x16 {
        f32x16::from_i32x16(i)
    }
    #[inline(always)]
    fn load_int4(self, x: &[[u8; 4]; LANES]) -> [[i16x32; 2]; 2] {
        // Each i16 holds four nibbles; a shift to the left and one back sign-extend one of them.
        let nibbles: i16x32 = bytemuck::cast(*x);
        let low = [(nibbles << 12u32) >> 12u32, (nibbles << 4u32) >> 12u32];
        let high = [(nibbles << 8u32) >> 12u32, nibbles >> 12u32];
        [low, high]
    }
    #[inline(always)]
    fn int4_to_f32(self, sum: i32x16, _: i32x16) -> f32x16 {
        self.to_f32(sum)
    }
}

/// The low halves of numbers that fit into them.
#[inline(always)]
fn narrow(x: i32x16) -> i16x16 {
    let halves: [i32x8; 2] = bytemuck::cast(x);
    bytemuck::cast(halves.map(i16x8::from_i32x8_saturate))
}

/// Rounds numbers of which some are not finite in f16.
#[cold]
fn store_any_f16(v: f32x16, out: &mut [f16; LANES]) {
    for (out, x) in out.iter_mut().zip(v.to_array()) {
        *out = f16::from_f32_const(x);
    }
}
