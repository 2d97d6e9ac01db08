//! The level every target has: `wide`, with whatever instructions the crate is compiled for.
use ::half::{bf16, f16};
use wide::f32x16;

use crate::simd::{Kernel, LANES, Simd};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Portable;

impl Simd for Portable {
    type V = f32x16;
    type M = f32x16;

    // A vector takes four of SSE2's 16 registers, two of AVX's 16, four of NEON's 32.
    const TILE_ROWS: usize = if cfg!(any(target_feature = "avx", target_arch = "aarch64")) { 6 } else { 2 };
    const TILE_PANELS: usize = 1;
    const FAST_F16: bool = false;
    // As `wide` has it.
    const FUSED: bool = cfg!(any(target_feature = "fma", target_arch = "aarch64"));

    type I = [i32; LANES];
    type Weights = [[i8; 4]; LANES];
    type Activations = [i8; 4];
    const INT8_ROWS: usize = 2;
    const INT8_PANELS: usize = 1;
    const ZERO_POINT: u8 = 0;

    #[inline(never)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }

    #[inline(always)]
    fn prefetch(self, _: *const u8) {}

    #[inline(always)]
    fn splat(self, x: f32) -> f32x16 {
        f32x16::splat(x)
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> f32x16 {
        f32x16::new(*x)
    }
    #[inline(always)]
    fn store(self, v: f32x16, out: &mut [f32; LANES]) {
        *out = v.to_array();
    }

    /// Moves exponent and mantissa into an f32's place and multiplies by 2¹¹² for the difference of the biases, which
    /// is exact for subnormals too. What was infinite or NaN gets all exponent bits.
    #[inline(always)]
    fn load_f16(self, x: &[f16; LANES]) -> f32x16 {
        // One loop for each step: the compiler vectorises them so.
        let (mut bits, mut magnitude) = ([0; LANES], [0.0; LANES]);
        for (bits, x) in bits.iter_mut().zip(x) {
            *bits = u32::from(x.to_bits());
        }
        for (magnitude, bits) in magnitude.iter_mut().zip(bits) {
            *magnitude = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
        }
        for (bits, magnitude) in bits.iter_mut().zip(magnitude) {
            let special = if *bits & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
            *bits = magnitude.to_bits() | special | (*bits & 0x8000) << 16;
        }
        f32x16::new(bits.map(f32::from_bits))
    }
    #[inline(always)]
    fn load_bf16(self, x: &[[bf16; 2]; LANES], i: usize) -> f32x16 {
        // As one word of both the compiler vectorises it.
        f32x16::new(x.map(|[first, second]| {
            let both = u32::from(second.to_bits()) << 16 | u32::from(first.to_bits());
            f32::from_bits(if i == 0 { both << 16 } else { both & 0xffff_0000 })
        }))
    }
    #[inline(always)]
    fn store_f16(self, v: f32x16, out: &mut [f16; LANES]) {
        *out = v.to_array().map(f16::from_f32_const);
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
    // `wide` leaves open what its own max and min do with NaN.
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

    #[inline(always)]
    fn store_i8(self, v: f32x16, out: &mut [i8; LANES]) {
        // Added, 1.5·2²³ rounds to an integer, which stands in the lowest bits.
        let rounded = (v + f32x16::splat(12_582_912.0)).to_array();
        for (out, x) in out.iter_mut().zip(rounded) {
            *out = (x.to_bits() as u8).cast_signed();
        }
    }
    #[inline(always)]
    fn load_weights(self, x: &[[i8; 4]; LANES]) -> [[i8; 4]; LANES] {
        *x
    }
    #[inline(always)]
    fn splat_activations(self, x: [i8; 4]) -> [i8; 4] {
        x
    }
    #[inline(always)]
    fn start(self, _: &[i32; LANES]) -> [i32; LANES] {
        [0; LANES]
    }
    #[inline(always)]
    fn dot(self, mut sum: [i32; LANES], a: [i8; 4], w: [[i8; 4]; LANES]) -> [i32; LANES] {
        for (sum, w) in sum.iter_mut().zip(w) {
            // Products of 8 bits fit 16, and so do sums of two.
            let product = |i: usize| i32::from(i16::from(a[i]) * i16::from(w[i]));
            *sum = sum.wrapping_add(product(0) + product(1) + (product(2) + product(3)));
        }
        sum
    }
    #[inline(always)]
    fn to_f32(self, i: [i32; LANES]) -> f32x16 {
        f32x16::new(i.map(|i| i as f32))
    }
}
