//! The lane trait: sixteen f32 lanes, on every instruction set.
//!
//! One width for all levels (one AVX-512 register, two of AVX2, four of SSE2 or NEON) makes an algorithm, its order of
//! summation and the layout of packed weights the same everywhere: a level is nothing but these operations.
use ::half::{bf16, f16};

/// Lanes of a vector, columns of a weight panel, partial sums of a row sum.
pub const LANES: usize = 16;

/// The largest number of rows that a register tile has on any level.
pub(crate) const MAX_TILE_ROWS: usize = 8;

/// The largest number of panels that a register tile spans on any level.
pub(crate) const MAX_TILE_PANELS: usize = 4;

/// Rows of the int8 register tile on any level, at most.
pub(crate) const MAX_INT8_ROWS: usize = 8;

/// What runs on a level: the body of a kernel, generic over the lanes.
///
/// `run` has to be `#[inline(always)]`, and so has whatever it calls that takes an `S`: only code inlined into
/// [`Simd::call`] is compiled with the level's instructions. Hence loops instead of `map` and `from_fn`, whose closures
/// the compiler may leave out of line, where every operation becomes a call.
pub(crate) trait Kernel {
    type Output;
    fn run<S: Simd>(self, s: S) -> Self::Output;
}

/// A token that proves the CPU has the instructions, and the operations they offer.
///
/// NaN: `max` and `min` return `b` when either is NaN; `gt` is false.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// Sixteen f32.
    type V: Copy;
    /// Sixteen truth values.
    type M: Copy;

    /// Rows and panels of the matmul's register tile: as many accumulators as the register file holds beside a row of
    /// weights and one broadcast.
    const TILE_ROWS: usize;
    const TILE_PANELS: usize;

    /// Whether `load_f16` is an instruction or two.
    const FAST_F16: bool;

    /// Whether `mul_add` rounds once.
    const FUSED: bool;

    /// Sixteen i32.
    type I: Copy;
    /// Sixteen outputs' int8 weights for four inputs.
    type Weights: Copy;
    /// Four int8 activations, the same in every lane.
    type Activations: Copy;

    /// Rows and panels of the int8 matmul's register tile.
    const INT8_ROWS: usize;
    const INT8_PANELS: usize;
    /// What is added to int8 activations when they are stored: 128 where the level multiplies unsigned by signed.
    const ZERO_POINT: u8;

    /// Runs `kernel` out of line, compiled with this level's instructions.
    fn call<K: Kernel>(self, kernel: K) -> K::Output;

    /// Asks for the cache line at `at`, in L2. Any address will do: nothing is read.
    fn prefetch(self, at: *const u8);

    fn splat(self, x: f32) -> Self::V;
    fn load(self, x: &[f32; LANES]) -> Self::V;
    fn store(self, v: Self::V, out: &mut [f32; LANES]);
    /// Exact.
    fn load_f16(self, x: &[f16; LANES]) -> Self::V;
    /// The first or the second of sixteen pairs, `i` being 0 or 1. Exact.
    fn load_bf16(self, x: &[[bf16; 2]; LANES], i: usize) -> Self::V;
    /// To nearest, ties to even.
    fn store_f16(self, v: Self::V, out: &mut [f16; LANES]);

    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// a·b + c; fused where the level has it.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    fn sqrt(self, a: Self::V) -> Self::V;
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    fn gt(self, a: Self::V, b: Self::V) -> Self::M;
    /// Lane by lane `if m { a } else { b }`.
    fn select(self, m: Self::M, a: Self::V, b: Self::V) -> Self::V;
    /// 2ⁿ for every lane of `rounded` = n + [`ROUND_TO_EXPONENT`](crate::math::ROUND_TO_EXPONENT), −126 ≤ n ≤ 127: its
    /// low bits become the exponent. Where `rounded` is NaN the result may be any number.
    fn power_of_two(self, rounded: Self::V) -> Self::V;

    /// To nearest, ties to even, and [`ZERO_POINT`](Self::ZERO_POINT) added. Lanes are within ±127; NaN gives any byte.
    fn store_i8(self, v: Self::V, out: &mut [i8; LANES]);
    fn load_weights(self, x: &[[i8; 4]; LANES]) -> Self::Weights;
    fn splat_activations(self, x: [i8; 4]) -> Self::Activations;
    /// Where sums of products start: −ZERO_POINT·`sums`, which are Σ w.
    fn start(self, sums: &[i32; LANES]) -> Self::I;
    /// sum + Σ a·w over the four inputs, a as it is stored. Exact modulo 2³².
    fn dot(self, sum: Self::I, a: Self::Activations, w: Self::Weights) -> Self::I;
    /// To nearest, ties to even.
    fn to_f32(self, i: Self::I) -> Self::V;

    /// Rows to columns.
    #[inline(always)]
    fn transpose(self, rows: [Self::V; LANES]) -> [Self::V; LANES] {
        let mut from = [[0.0; LANES]; LANES];
        for (row, out) in rows.iter().zip(&mut from) {
            self.store(*row, out);
        }
        let mut columns = rows;
        for (column, out) in columns.iter_mut().enumerate() {
            let mut lanes = [0.0; LANES];
            for (lane, row) in lanes.iter_mut().zip(&from) {
                *lane = row[column];
            }
            *out = self.load(&lanes);
        }
        columns
    }

    /// The sum of all lanes, by the one fixed tree: halves onto each other, 16 → 8 → 4 → 2 → 1.
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        self.fold(v, |a, b| a + b)
    }

    /// The largest lane; NaN if one is NaN.
    #[inline(always)]
    fn largest(self, v: Self::V) -> f32 {
        // Whichever side is NaN wins.
        self.fold(v, |a, b| if a > b || a.is_nan() { a } else { b })
    }

    #[inline(always)]
    fn fold(self, v: Self::V, op: impl Fn(f32, f32) -> f32) -> f32 {
        let mut lanes = [0.0; LANES];
        self.store(v, &mut lanes);
        let mut width = LANES / 2;
        while width > 0 {
            for i in 0..width {
                lanes[i] = op(lanes[i], lanes[i + width]);
            }
            width /= 2;
        }
        lanes[0]
    }
}

/// Splits into whole vectors and a tail shorter than one.
#[inline(always)]
pub(crate) fn lanes<T>(x: &[T]) -> (&[[T; LANES]], &[T]) {
    x.as_chunks::<LANES>()
}

/// [`lanes`] of a mutable slice.
#[inline(always)]
pub(crate) fn lanes_mut<T>(x: &mut [T]) -> (&mut [[T; LANES]], &mut [T]) {
    x.as_chunks_mut::<LANES>()
}
