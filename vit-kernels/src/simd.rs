//! The [`Simd`] trait: sixteen f32 lanes on every instruction set.
//!
//! All levels have the same width (one AVX-512 register, two of AVX2, four of SSE2 or NEON), so algorithms, the order
//! of summation and the layout of packed weights are the same everywhere. A level implements only these operations.
use ::half::{bf16, f16};

use crate::gemm::int8::Int8Tile;
use crate::math::Function;

/// Lanes of a vector; also the columns of a weight panel and the partial sums of a row sum.
pub const LANES: usize = 16;

/// Most rows of a register tile on any level.
pub(crate) const MAX_TILE_ROWS: usize = 8;

/// Most panels of a register tile on any level.
pub(crate) const MAX_TILE_PANELS: usize = 4;

/// Most rows of an int8 register tile on any level.
pub(crate) const MAX_INT8_ROWS: usize = 8;

/// All bits of an f32 but its sign.
pub(crate) const MAGNITUDE: u32 = 0x7fff_ffff;

/// 1.5·2²³: added to a number within ±2²², it rounds it to an integer, stored in the lowest bits.
pub(crate) const ROUND_TO_INTEGER: f32 = 12_582_912.0;

/// The body of a kernel, generic over the level.
///
/// `run` and every function it passes an `S` to must be `#[inline(always)]`: only code inlined into [`Simd::call`] is
/// compiled with the level's instructions. Use loops, not `map` or `from_fn`: the compiler may leave their closures out
/// of line, and then every operation in them is a call.
pub(crate) trait Kernel {
    type Output;
    fn run<S: Simd>(self, s: S) -> Self::Output;
}

/// Arithmetic on f32 in lanes: a level's vectors, or one number at a time.
///
/// NaN: `max` and `min` return `b` when either is NaN; `gt` is false.
pub(crate) trait Arithmetic: Copy + Send + Sync + 'static {
    /// Lanes of f32; sixteen for a level.
    type V: Copy;
    /// As many booleans, the result of a comparison.
    type M: Copy;

    /// Whether `mul_add` rounds once.
    const FUSED: bool;

    fn splat(self, x: f32) -> Self::V;
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// a·b + c; rounds once if [`FUSED`](Self::FUSED).
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    fn sqrt(self, a: Self::V) -> Self::V;
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    fn gt(self, a: Self::V, b: Self::V) -> Self::M;
    /// In each lane, `if m { a } else { b }`.
    fn select(self, m: Self::M, a: Self::V, b: Self::V) -> Self::V;
    /// 2ⁿ for every lane of `rounded` = n + [`ROUND_TO_EXPONENT`](crate::math::ROUND_TO_EXPONENT), −126 ≤ n ≤ 127: its
    /// low bits become the exponent. Lanes where `rounded` is NaN are unspecified.
    fn power_of_two(self, rounded: Self::V) -> Self::V;
}

/// A token that proves the CPU has a level's instructions, and the level's operations on vectors of
/// sixteen f32.
pub(crate) trait Simd: Arithmetic {
    /// Rows and panels of the matmul's register tile: its accumulators fill the registers, except those for a row of
    /// weights and one broadcast.
    const TILE_ROWS: usize;
    const TILE_PANELS: usize;

    /// Independent chains of additions, where one chain would wait for the result of each: rows of sums, or panels of a
    /// tile of one row. 1 on cores that have no registers for more, and no long latency either.
    const CHAINS: usize = 4;

    /// Whether the level has vectors. Without, `V` is an array in memory, and loops over numbers are shorter than loops over
    /// arrays.
    const VECTORS: bool = true;

    /// Whether code should rather be short than save a call: a WebAssembly module is loaded over a network.
    const COMPACT: bool = false;

    /// Whether instructions multiply by an element of a register: the tiles then load four elements of A at a time, and
    /// multiply by [`mul_add_element`](Self::mul_add_element) and [`dot_element`](Self::dot_element).
    const BY_ELEMENT: bool = false;

    /// Whether `load_f16` takes only one or two instructions.
    const FAST_F16: bool;

    /// Sixteen i32.
    type I: Copy;
    /// The int8 weights of sixteen outputs for four inputs.
    type Weights: Copy;
    /// Four int8 activations, the same in every lane.
    type Activations: Copy;

    /// Rows and panels of the int8 matmul's register tile.
    const INT8_ROWS: usize;
    const INT8_PANELS: usize;
    /// The offset added to stored int8 activations: 128 if the level multiplies unsigned by signed, else 0.
    const ZERO_POINT: u8;
    /// What [`load_int4`](Self::load_int4) multiplies weights by, a power of two.
    const INT4_FACTOR: f32;

    /// Runs `kernel` out of line, compiled with this level's instructions.
    fn call<K: Kernel>(self, kernel: K) -> K::Output;

    /// Runs `kernel`, which several kernels have in common: in line, or out of line if the level is [`COMPACT`](Self::COMPACT).
    #[inline(always)]
    fn share<K: Kernel>(self, kernel: K) -> K::Output {
        if Self::COMPACT { self.call(kernel) } else { kernel.run(self) }
    }

    /// A function of every lane.
    #[inline(always)]
    fn apply<F: Function>(self, f: F, v: Self::V) -> Self::V {
        f.apply(self, v)
    }

    /// Prefetches the cache line at `at` into L2. `at` may be any address: it is not dereferenced.
    fn prefetch(self, at: *const u8);

    fn load(self, x: &[f32; LANES]) -> Self::V;
    fn store(self, v: Self::V, out: &mut [f32; LANES]);
    /// Widens exactly.
    fn load_f16(self, x: &[f16; LANES]) -> Self::V;
    /// Element `i`, 0 or 1, of each pair, widened exactly.
    fn load_bf16(self, x: &[[bf16; 2]; LANES], i: usize) -> Self::V;
    /// Rounds to nearest, ties to even.
    fn store_f16(self, v: Self::V, out: &mut [f16; LANES]);

    /// Whether [`dot_bf16`](Self::dot_bf16) is one instruction.
    const BF16_DOT: bool = false;

    /// sum + a\[0\]·b\[0\] + a\[1\]·b\[1\], with the same `a` in every lane. A level whose instruction does this adds in an
    /// order of its own, and takes subnormal numbers as 0.
    #[inline(always)]
    fn dot_bf16(self, sum: Self::V, a: &[bf16; 2], b: &[[bf16; 2]; LANES]) -> Self::V {
        dot_widened(self, sum, a, b)
    }
    /// Element `i`, 0 or 1, of a pair in every lane, widened exactly.
    #[inline(always)]
    fn splat_bf16(self, pair: &[bf16; 2], i: usize) -> Self::V {
        self.splat(pair[i].to_f32_const())
    }
    /// Rounds to nearest, ties to even; a number too large becomes infinite.
    #[inline(always)]
    fn store_bf16(self, v: Self::V, out: &mut [bf16; LANES]) {
        let mut lanes = [0.0; LANES];
        self.store(v, &mut lanes);
        for (out, x) in out.iter_mut().zip(lanes) {
            *out = bf16::from_f32_const(x);
        }
    }
    /// Rounds two vectors as [`store_bf16`](Self::store_bf16) does: element i of a pair is from `v[i]`.
    #[inline(always)]
    fn store_bf16_pairs(self, v: [Self::V; 2], out: &mut [[bf16; 2]; LANES]) {
        let mut halves = [[bf16::ZERO; LANES]; 2];
        for (v, half) in v.into_iter().zip(&mut halves) {
            self.store_bf16(v, half);
        }
        for (i, pair) in out.iter_mut().enumerate() {
            *pair = [halves[0][i], halves[1][i]];
        }
    }

    /// Four bf16, widened exactly.
    #[inline(always)]
    fn widen_bf16(self, x: &[bf16; 4]) -> [f32; 4] {
        [x[0].to_f32_const(), x[1].to_f32_const(), x[2].to_f32_const(), x[3].to_f32_const()]
    }
    /// Element `i`, 0 or 1, of four pairs, widened exactly.
    #[inline(always)]
    fn widen_bf16_of_pairs(self, x: &[[bf16; 2]; 4], i: usize) -> [f32; 4] {
        self.widen_bf16(&[x[0][i], x[1][i], x[2][i], x[3][i]])
    }

    /// a\[I\]·b + c, as [`mul_add`](Arithmetic::mul_add).
    #[inline(always)]
    fn mul_add_element<const I: i32>(self, a: &[f32; 4], b: Self::V, c: Self::V) -> Self::V {
        self.mul_add(self.splat(a[I as usize]), b, c)
    }

    /// acc\[m\]\[p\] += a\[m\]\[I\]·b\[0\] + a\[m\]\[J\]·b\[1\] for each of `M` rows, added in this order.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // Constant ranges over arrays unroll into registers.
    fn add_pair_elements<const M: usize, const P: usize, const I: i32, const J: i32>(
        self,
        acc: &mut [[Self::V; P]; M],
        p: usize,
        a: &[[f32; 4]; M],
        b: &[[bf16; 2]; LANES],
    ) {
        for m in 0..M {
            let sum = self.mul_add_element::<I>(&a[m], self.load_bf16(b, 0), acc[m][p]);
            acc[m][p] = self.mul_add_element::<J>(&a[m], self.load_bf16(b, 1), sum);
        }
    }

    /// Rounds to nearest, ties to even, and adds [`ZERO_POINT`](Self::ZERO_POINT). Lanes must be within ±127; NaN
    /// stores an unspecified byte.
    fn store_i8(self, v: Self::V, out: &mut [i8; LANES]);
    /// Rounds four vectors as [`store_i8`](Self::store_i8) does, without a zero point: byte i of a lane is from `v[i]`.
    fn store_groups(self, v: [Self::V; 4], out: &mut [[i8; 4]; LANES]);
    /// In each lane the larger of `a` and |x|; NaN if one is NaN. `a` must not be negative.
    fn max_magnitude(self, a: Self::V, x: Self::V) -> Self::V;
    /// Rounds to nearest, ties to even. Lanes must be within ±2²².
    #[inline(always)]
    fn round(self, v: Self::V) -> Self::V {
        let magic = self.splat(ROUND_TO_INTEGER);
        self.sub(self.add(v, magic), magic)
    }
    fn load_weights(self, x: &[[i8; 4]; LANES]) -> Self::Weights;
    fn splat_activations(self, x: [i8; 4]) -> Self::Activations;
    /// The initial sums: −ZERO_POINT·`sums`, where `sums` is Σ w of each output.
    fn start(self, sums: &[i32; LANES]) -> Self::I;
    /// sum + Σ a·w over the four inputs, with a as stored. Exact modulo 2³².
    fn dot(self, sum: Self::I, a: Self::Activations, w: Self::Weights) -> Self::I;
    /// [`dot`](Self::dot) with a\[I\] in every lane.
    #[inline(always)]
    fn dot_element<const I: i32>(self, sum: Self::I, a: &[[i8; 4]; 4], w: Self::Weights) -> Self::I {
        self.dot(sum, self.splat_activations(a[I as usize]), w)
    }
    /// Inputs that [`peak`](Self::peak) multiplies.
    #[cfg_attr(not(feature = "peak"), allow(dead_code))]
    const PEAK_INPUTS: usize = 4;
    /// The int8 instruction that multiplies most, on whatever operands: `dot`, if that is its fastest.
    #[cfg_attr(not(feature = "peak"), allow(dead_code))]
    #[inline(always)]
    fn peak(self, sum: Self::I, a: Self::Activations, w: Self::Weights) -> Self::I {
        self.dot(sum, a, w)
    }
    /// Rounds to nearest, ties to even.
    fn to_f32(self, i: Self::I) -> Self::V;

    /// The sums of an int8 tile of `M` rows and `P` panels.
    ///
    /// # Safety
    /// The tile's rows of activations and panels of weights are readable.
    #[inline(always)]
    #[allow(unsafe_code)] // The tile has pointers.
    unsafe fn int8_sums<const M: usize, const P: usize>(self, tile: &Int8Tile<'_>) -> [[Self::I; P]; M] {
        // SAFETY: the caller's promise, passed on.
        unsafe { tile.sums(self) }
    }

    /// An int8 tile of `M` rows and `P` panels: its sums, scaled, through its epilogue, written.
    ///
    /// # Safety
    /// As [`int8_sums`](Self::int8_sums), and the tile's rows of output are writable; nothing else refers to them.
    #[inline(always)]
    #[allow(unsafe_code)] // As above.
    unsafe fn int8_tile<const M: usize, const P: usize>(self, tile: &Int8Tile<'_>) {
        // SAFETY: the caller's promise, passed on.
        unsafe { tile.store(self, self.int8_sums::<M, P>(tile)) }
    }

    /// Weights for four inputs, from the low nibbles, and for the next four, from the high ones, times
    /// [`INT4_FACTOR`](Self::INT4_FACTOR).
    fn load_int4(self, x: &[[u8; 4]; LANES]) -> [Self::Weights; 2];
    /// As [`dot`](Self::dot), for weights of `load_int4` and at most 32 inputs; the sums are for `int4_to_f32`.
    #[inline(always)]
    fn dot_int4(self, sum: Self::I, a: Self::Activations, w: Self::Weights) -> Self::I {
        self.dot(sum, a, w)
    }
    /// sum − offset, exact; `offset` is what the zero point adds to the sums, 0 if [`ZERO_POINT`](Self::ZERO_POINT) is.
    fn int4_to_f32(self, sum: Self::I, offset: Self::I) -> Self::V;

    /// The columns of a 16 × 16 matrix given by rows.
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

    /// The first lane.
    #[inline(always)]
    fn first(self, v: Self::V) -> f32 {
        let mut lanes = [0.0; LANES];
        self.store(v, &mut lanes);
        lanes[0]
    }

    /// The sum of all lanes by a fixed tree that adds the upper half to the lower: 16 → 8 → 4 → 2 → 1.
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        self.fold(v, |a, b| a + b)
    }

    /// The largest lane of a vector without negative ones; NaN if one is NaN.
    #[inline(always)]
    fn largest_magnitude(self, v: Self::V) -> f32 {
        // As integers, NaN is above infinity. The compiler turns this into a tree of vector operations.
        let mut lanes = [0.0; LANES];
        self.store(v, &mut lanes);
        let mut largest = 0;
        for x in lanes {
            largest = largest.max(x.to_bits() & MAGNITUDE);
        }
        f32::from_bits(largest)
    }

    /// The largest lane; NaN if one is NaN.
    #[inline(always)]
    fn largest(self, v: Self::V) -> f32 {
        // A NaN on either side wins.
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

/// sum + a\[0\]·b\[0\] + a\[1\]·b\[1\], added in this order: [`Simd::dot_bf16`] of levels without an instruction for it.
#[inline(always)]
pub(crate) fn dot_widened<S: Simd>(s: S, sum: S::V, a: &[bf16; 2], b: &[[bf16; 2]; LANES]) -> S::V {
    let sum = s.mul_add(s.splat_bf16(a, 0), s.load_bf16(b, 0), sum);
    s.mul_add(s.splat_bf16(a, 1), s.load_bf16(b, 1), sum)
}

/// Splits a slice into whole vectors and a shorter tail.
#[inline(always)]
pub(crate) fn lanes<T>(x: &[T]) -> (&[[T; LANES]], &[T]) {
    x.as_chunks::<LANES>()
}

/// [`lanes`] of a mutable slice.
#[inline(always)]
pub(crate) fn lanes_mut<T>(x: &mut [T]) -> (&mut [[T; LANES]], &mut [T]) {
    x.as_chunks_mut::<LANES>()
}
