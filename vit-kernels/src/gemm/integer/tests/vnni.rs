//! VNNI's arithmetic in plain integers, for machines without it: activations are stored with 128 added, and int4
//! weights are loaded times 16.
use ::half::{bf16, f16};

use crate::arch::Portable;
use crate::simd::{Arithmetic, Kernel, LANES, Simd};

type V = <Portable as Arithmetic>::V;

/// [`Portable`], but for integers.
#[derive(Clone, Copy)]
pub(super) struct PlainVnni(pub(super) Portable);

impl Arithmetic for PlainVnni {
    type V = V;
    type M = <Portable as Arithmetic>::M;
    const FUSED: bool = false;
    fn splat(self, x: f32) -> V {
        self.0.splat(x)
    }
    fn add(self, a: V, b: V) -> V {
        self.0.add(a, b)
    }
    fn sub(self, a: V, b: V) -> V {
        self.0.sub(a, b)
    }
    fn mul(self, a: V, b: V) -> V {
        self.0.mul(a, b)
    }
    fn div(self, a: V, b: V) -> V {
        self.0.div(a, b)
    }
    fn mul_add(self, a: V, b: V, c: V) -> V {
        self.0.mul_add(a, b, c)
    }
    fn sqrt(self, a: V) -> V {
        self.0.sqrt(a)
    }
    fn max(self, a: V, b: V) -> V {
        self.0.max(a, b)
    }
    fn min(self, a: V, b: V) -> V {
        self.0.min(a, b)
    }
    fn gt(self, a: V, b: V) -> Self::M {
        self.0.gt(a, b)
    }
    fn select(self, m: Self::M, a: V, b: V) -> V {
        self.0.select(m, a, b)
    }
    fn power_of_two(self, rounded: V) -> V {
        self.0.power_of_two(rounded)
    }
}

impl Simd for PlainVnni {
    type I = [i32; LANES];
    type Weights = [[i8; 4]; LANES];
    type Activations = [u8; 4];
    const TILE_ROWS: usize = Portable::TILE_ROWS;
    const TILE_PANELS: usize = Portable::TILE_PANELS;
    const FAST_F16: bool = false;
    const INT8_ROWS: usize = 8;
    const INT8_PANELS: usize = 3;
    const ZERO_POINT: u8 = 128;
    const INT4_FACTOR: f32 = 16.0;

    fn load_weights(self, x: &[[i8; 4]; LANES]) -> [[i8; 4]; LANES] {
        *x
    }
    fn splat_activations(self, x: [i8; 4]) -> [u8; 4] {
        x.map(i8::cast_unsigned)
    }
    fn start(self, sums: &[i32; LANES]) -> [i32; LANES] {
        sums.map(|sum| -128 * sum)
    }
    fn dot(self, mut sum: [i32; LANES], a: [u8; 4], w: [[i8; 4]; LANES]) -> [i32; LANES] {
        for (sum, w) in sum.iter_mut().zip(w) {
            *sum += a.iter().zip(w).map(|(a, w)| i32::from(*a) * i32::from(w)).sum::<i32>();
        }
        sum
    }
    fn to_f32(self, i: [i32; LANES]) -> V {
        self.0.load(&i.map(|x| x as f32))
    }
    fn load_int4(self, x: &[[u8; 4]; LANES]) -> [[[i8; 4]; LANES]; 2] {
        [
            x.map(|bytes| bytes.map(|byte| (byte << 4).cast_signed())),
            x.map(|bytes| bytes.map(|byte| (byte & 0xf0).cast_signed())),
        ]
    }
    fn int4_to_f32(self, sum: [i32; LANES], offset: [i32; LANES]) -> V {
        let mut exact = sum;
        exact.iter_mut().zip(offset).for_each(|(sum, offset)| *sum -= offset);
        self.to_f32(exact)
    }

    // The rest forwards.
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }
    fn prefetch(self, _: *const u8) {}
    fn max_magnitude(self, a: V, x: V) -> V {
        self.0.max_magnitude(a, x)
    }
    fn load(self, x: &[f32; LANES]) -> V {
        self.0.load(x)
    }
    fn store(self, v: V, out: &mut [f32; LANES]) {
        self.0.store(v, out);
    }
    fn load_f16(self, x: &[f16; LANES]) -> V {
        self.0.load_f16(x)
    }
    fn load_bf16(self, x: &[[bf16; 2]; LANES], i: usize) -> V {
        self.0.load_bf16(x, i)
    }
    fn store_f16(self, v: V, out: &mut [f16; LANES]) {
        self.0.store_f16(v, out);
    }
    fn store_i8(self, v: V, out: &mut [i8; LANES]) {
        self.0.store_i8(v, out);
    }
    fn store_groups(self, v: [V; 4], out: &mut [[i8; 4]; LANES]) {
        self.0.store_groups(v, out);
    }
}
