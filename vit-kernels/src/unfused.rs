//! Any level without fused multiply–add: every operation rounds, so all levels and targets give the same bits.
#![allow(unsafe_code)] // It forwards a function that takes pointers.

use ::half::{bf16, f16};

use crate::gemm::int8::Int8Tile;
use crate::math::Function;
use crate::simd::{Arithmetic, Kernel, LANES, Simd};

/// A level whose `mul_add` rounds twice.
#[derive(Clone, Copy)]
pub(crate) struct Unfused<S>(S);

/// A kernel that replaces the level it is called on by [`Unfused`].
struct OnUnfused<K>(K);

impl<K: Kernel> Kernel for OnUnfused<K> {
    type Output = K::Output;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> K::Output {
        self.0.run(Unfused(s))
    }
}

/// Calls a kernel on a level, unfused.
pub(crate) fn call<S: Simd, K: Kernel>(s: S, kernel: K) -> K::Output {
    if S::FUSED { s.call(OnUnfused(kernel)) } else { s.call(kernel) }
}

/// A function that replaces the level it is applied on by [`Unfused`].
#[derive(Clone, Copy)]
struct FunctionOnUnfused<F>(F);

impl<F: Function> Function for FunctionOnUnfused<F> {
    #[inline(always)]
    fn apply<S: Arithmetic>(self, s: S, x: S::V) -> S::V {
        self.0.apply(Unfused(s), x)
    }
}

impl<S: Arithmetic> Arithmetic for Unfused<S> {
    type V = S::V;
    type M = S::M;
    const FUSED: bool = false;
    #[inline(always)]
    fn mul_add(self, a: S::V, b: S::V, c: S::V) -> S::V {
        self.0.add(self.0.mul(a, b), c)
    }
    #[inline(always)]
    fn splat(self, x: f32) -> S::V {
        self.0.splat(x)
    }
    #[inline(always)]
    fn add(self, a: S::V, b: S::V) -> S::V {
        self.0.add(a, b)
    }
    #[inline(always)]
    fn sub(self, a: S::V, b: S::V) -> S::V {
        self.0.sub(a, b)
    }
    #[inline(always)]
    fn mul(self, a: S::V, b: S::V) -> S::V {
        self.0.mul(a, b)
    }
    #[inline(always)]
    fn div(self, a: S::V, b: S::V) -> S::V {
        self.0.div(a, b)
    }
    #[inline(always)]
    fn sqrt(self, a: S::V) -> S::V {
        self.0.sqrt(a)
    }
    #[inline(always)]
    fn max(self, a: S::V, b: S::V) -> S::V {
        self.0.max(a, b)
    }
    #[inline(always)]
    fn min(self, a: S::V, b: S::V) -> S::V {
        self.0.min(a, b)
    }
    #[inline(always)]
    fn gt(self, a: S::V, b: S::V) -> S::M {
        self.0.gt(a, b)
    }
    #[inline(always)]
    fn select(self, m: S::M, a: S::V, b: S::V) -> S::V {
        self.0.select(m, a, b)
    }
    #[inline(always)]
    fn power_of_two(self, rounded: S::V) -> S::V {
        self.0.power_of_two(rounded)
    }
}

impl<S: Simd> Simd for Unfused<S> {
    type I = S::I;
    type Weights = S::Weights;
    type Activations = S::Activations;
    const TILE_ROWS: usize = S::TILE_ROWS;
    const TILE_PANELS: usize = S::TILE_PANELS;
    const CHAINS: usize = S::CHAINS;
    const COMPACT: bool = S::COMPACT;
    const BY_ELEMENT: bool = S::BY_ELEMENT;
    const VECTORS: bool = S::VECTORS;
    const FAST_F16: bool = S::FAST_F16;
    const INT8_ROWS: usize = S::INT8_ROWS;
    const INT8_PANELS: usize = S::INT8_PANELS;
    const ZERO_POINT: u8 = S::ZERO_POINT;
    const INT4_FACTOR: f32 = S::INT4_FACTOR;
    const PEAK_INPUTS: usize = S::PEAK_INPUTS;

    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        self.0.call(OnUnfused(kernel))
    }

    #[inline(always)]
    fn apply<F: Function>(self, f: F, v: S::V) -> S::V {
        self.0.apply(FunctionOnUnfused(f), v)
    }

    // The rest forwards to the level.
    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        self.0.prefetch(at);
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> S::V {
        self.0.load(x)
    }
    #[inline(always)]
    fn store(self, v: S::V, out: &mut [f32; LANES]) {
        self.0.store(v, out);
    }
    #[inline(always)]
    fn load_f16(self, x: &[f16; LANES]) -> S::V {
        self.0.load_f16(x)
    }
    #[inline(always)]
    fn load_bf16(self, x: &[[bf16; 2]; LANES], i: usize) -> S::V {
        self.0.load_bf16(x, i)
    }
    #[inline(always)]
    fn splat_bf16(self, pair: &[bf16; 2], i: usize) -> S::V {
        self.0.splat_bf16(pair, i)
    }
    #[inline(always)]
    fn widen_bf16(self, x: &[bf16; 4]) -> [f32; 4] {
        self.0.widen_bf16(x)
    }
    #[inline(always)]
    fn widen_bf16_of_pairs(self, x: &[[bf16; 2]; 4], i: usize) -> [f32; 4] {
        self.0.widen_bf16_of_pairs(x, i)
    }
    #[inline(always)]
    fn store_bf16(self, v: S::V, out: &mut [bf16; LANES]) {
        self.0.store_bf16(v, out);
    }
    #[inline(always)]
    fn store_bf16_pairs(self, v: [S::V; 2], out: &mut [[bf16; 2]; LANES]) {
        self.0.store_bf16_pairs(v, out);
    }
    #[inline(always)]
    fn store_f16(self, v: S::V, out: &mut [f16; LANES]) {
        self.0.store_f16(v, out);
    }
    #[inline(always)]
    fn store_i8(self, v: S::V, out: &mut [i8; LANES]) {
        self.0.store_i8(v, out);
    }
    #[inline(always)]
    fn store_groups(self, v: [S::V; 4], out: &mut [[i8; 4]; LANES]) {
        self.0.store_groups(v, out);
    }
    #[inline(always)]
    fn max_magnitude(self, a: S::V, x: S::V) -> S::V {
        self.0.max_magnitude(a, x)
    }
    #[inline(always)]
    fn round(self, v: S::V) -> S::V {
        self.0.round(v)
    }
    #[inline(always)]
    fn load_weights(self, x: &[[i8; 4]; LANES]) -> S::Weights {
        self.0.load_weights(x)
    }
    #[inline(always)]
    fn splat_activations(self, x: [i8; 4]) -> S::Activations {
        self.0.splat_activations(x)
    }
    #[inline(always)]
    fn start(self, sums: &[i32; LANES]) -> S::I {
        self.0.start(sums)
    }
    #[inline(always)]
    fn dot(self, sum: S::I, a: S::Activations, w: S::Weights) -> S::I {
        self.0.dot(sum, a, w)
    }
    #[inline(always)]
    fn dot_element<const I: i32>(self, sum: S::I, a: &[[i8; 4]; 4], w: S::Weights) -> S::I {
        self.0.dot_element::<I>(sum, a, w)
    }
    #[inline(always)]
    fn peak(self, sum: S::I, a: S::Activations, w: S::Weights) -> S::I {
        self.0.peak(sum, a, w)
    }
    #[inline(always)]
    unsafe fn int8_sums<const M: usize, const P: usize>(self, tile: &Int8Tile<'_>) -> [[S::I; P]; M] {
        // SAFETY: the caller's promise, passed on.
        unsafe { self.0.int8_sums(tile) }
    }
    #[inline(always)]
    unsafe fn int8_tile<const M: usize, const P: usize>(self, tile: &Int8Tile<'_>) {
        // SAFETY: the caller's promise, passed on. A tile's end has no multiply–add.
        unsafe { self.0.int8_tile::<M, P>(tile) }
    }
    #[inline(always)]
    fn to_f32(self, i: S::I) -> S::V {
        self.0.to_f32(i)
    }
    #[inline(always)]
    fn load_int4(self, x: &[[u8; 4]; LANES]) -> [S::Weights; 2] {
        self.0.load_int4(x)
    }
    #[inline(always)]
    fn dot_int4(self, sum: S::I, a: S::Activations, w: S::Weights) -> S::I {
        self.0.dot_int4(sum, a, w)
    }
    #[inline(always)]
    fn int4_to_f32(self, sum: S::I, offset: S::I) -> S::V {
        self.0.int4_to_f32(sum, offset)
    }
    #[inline(always)]
    fn transpose(self, rows: [S::V; LANES]) -> [S::V; LANES] {
        self.0.transpose(rows)
    }
    #[inline(always)]
    fn sum(self, v: S::V) -> f32 {
        self.0.sum(v)
    }
}
