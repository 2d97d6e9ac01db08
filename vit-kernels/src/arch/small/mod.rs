//! The level of cores without vectors: Cortex-M and 32-bit RISC-V. Vectors are arrays, in loops.
//!
//! Few registers hold few sums, so the int8 tile goes through a panel by one to four columns at a time:
//!
//! ```text
//! for each block of B groups of inputs:
//!     a = the rows' bytes, widened                  on the stack
//!     for each C columns of the panel's sixteen:
//!         acc[M][C] = their sums so far
//!         for each group: acc[m][c] += a[m]·w[c]    w widened when read, from where it lies
//! ```
#[cfg(arm_dsp)]
mod dsp;
#[cfg(not(arm_dsp))]
mod plain;
mod root;
#[cfg(arm_thumb1)]
mod thumb1;

use core::hint::black_box;
use core::mem::MaybeUninit;

use ::half::{bf16, f16};

use crate::gemm::int8::Int8Tile;
use crate::gemm::{Accumulate, Finish};
use crate::half::Storage;
use crate::math::Function;
use crate::simd::{Arithmetic, Kernel, LANES, MAGNITUDE, ROUND_TO_INTEGER, Simd};
#[cfg(arm_dsp)]
use dsp::{BLOCK, Wide, multiply};
#[cfg(arm_dsp)]
pub(crate) use dsp::{ROWS, columns};
#[cfg(not(arm_dsp))]
pub(crate) use plain::ROWS;
#[cfg(not(any(arm_dsp, arm_thumb1)))]
pub(crate) use plain::columns;
#[cfg(not(any(arm_dsp, arm_thumb1)))]
use plain::multiply;
#[cfg(not(arm_dsp))]
use plain::{BLOCK, Wide};
use root::sqrt;
#[cfg(arm_thumb1)]
pub(crate) use thumb1::columns;
#[cfg(arm_thumb1)]
use thumb1::multiply;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Small;

/// Groups of inputs of one row whose activations are widened at a time; of several rows, `BLOCK`. They are on the stack.
const BLOCK_OF_ONE_ROW: usize = if cfg!(arm_thumb1) { 32 } else { 16 };

/// One number at a time.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

impl Arithmetic for Scalar {
    type V = f32;
    type M = bool;
    const FUSED: bool = false;

    #[inline(always)]
    fn splat(self, x: f32) -> f32 {
        x
    }
    #[inline(always)]
    fn add(self, a: f32, b: f32) -> f32 {
        a + b
    }
    #[inline(always)]
    fn sub(self, a: f32, b: f32) -> f32 {
        a - b
    }
    #[inline(always)]
    fn mul(self, a: f32, b: f32) -> f32 {
        a * b
    }
    #[inline(always)]
    fn div(self, a: f32, b: f32) -> f32 {
        a / b
    }
    #[inline(always)]
    fn mul_add(self, a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }
    #[inline(always)]
    fn sqrt(self, a: f32) -> f32 {
        sqrt(a)
    }
    #[inline(always)]
    fn max(self, a: f32, b: f32) -> f32 {
        if a > b { a } else { b }
    }
    #[inline(always)]
    fn min(self, a: f32, b: f32) -> f32 {
        if a < b { a } else { b }
    }
    #[inline(always)]
    fn gt(self, a: f32, b: f32) -> bool {
        a > b
    }
    #[inline(always)]
    fn select(self, m: bool, a: f32, b: f32) -> f32 {
        if m { a } else { b }
    }
    #[inline(always)]
    fn power_of_two(self, rounded: f32) -> f32 {
        f32::from_bits(rounded.to_bits() << 23)
    }
}

type V = [f32; LANES];

impl Arithmetic for Small {
    type V = V;
    type M = [bool; LANES];
    const FUSED: bool = Scalar::FUSED;

    #[inline(always)]
    fn splat(self, x: f32) -> V {
        [x; LANES]
    }
    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        each(|i| Scalar.add(a[i], b[i]))
    }
    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        each(|i| Scalar.sub(a[i], b[i]))
    }
    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        each(|i| Scalar.mul(a[i], b[i]))
    }
    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        each(|i| Scalar.div(a[i], b[i]))
    }
    #[inline(always)]
    fn mul_add(self, a: V, b: V, c: V) -> V {
        each(|i| Scalar.mul_add(a[i], b[i], c[i]))
    }
    #[inline(always)]
    fn sqrt(self, a: V) -> V {
        each(|i| Scalar.sqrt(a[i]))
    }
    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        each(|i| Scalar.max(a[i], b[i]))
    }
    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        each(|i| Scalar.min(a[i], b[i]))
    }
    #[inline(always)]
    fn gt(self, a: V, b: V) -> [bool; LANES] {
        each(|i| Scalar.gt(a[i], b[i]))
    }
    #[inline(always)]
    fn select(self, m: [bool; LANES], a: V, b: V) -> V {
        each(|i| Scalar.select(m[i], a[i], b[i]))
    }
    #[inline(always)]
    fn power_of_two(self, rounded: V) -> V {
        each(|i| Scalar.power_of_two(rounded[i]))
    }
}

/// A function of every number, one after the other: the steps of sixteen at a time do not fit the registers. Out of line,
/// since flash is short.
#[inline(never)]
pub(crate) fn apply<E: Storage, F: Function>(f: F, x: &mut [E]) {
    for x in x {
        *x = E::from_f32(f.apply(Scalar, x.to_f32()));
    }
}

impl Simd for Small {
    const TILE_ROWS: usize = 1;
    const TILE_PANELS: usize = 1;
    const CHAINS: usize = 1;
    const VECTORS: bool = false;
    const FAST_F16: bool = false;

    type I = [i32; LANES];
    type Weights = [[i8; 4]; LANES];
    type Activations = [i8; 4];
    const INT8_ROWS: usize = ROWS;
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
    fn load(self, x: &[f32; LANES]) -> [f32; LANES] {
        *x
    }
    #[inline(always)]
    fn store(self, v: [f32; LANES], out: &mut [f32; LANES]) {
        *out = v;
    }
    #[inline(always)]
    fn load_f16(self, x: &[f16; LANES]) -> [f32; LANES] {
        each(|i| x[i].to_f32_const())
    }
    #[inline(always)]
    fn load_bf16(self, x: &[[bf16; 2]; LANES], half: usize) -> [f32; LANES] {
        each(|i| f32::from_bits(u32::from(x[i][half].to_bits()) << 16))
    }
    #[inline(always)]
    fn store_f16(self, v: [f32; LANES], out: &mut [f16; LANES]) {
        for (out, x) in out.iter_mut().zip(v) {
            *out = f16::from_f32_const(x);
        }
    }

    #[inline(always)]
    fn store_i8(self, v: [f32; LANES], out: &mut [i8; LANES]) {
        for (out, x) in out.iter_mut().zip(v) {
            *out = rounded(x);
        }
    }
    #[inline(always)]
    fn store_groups(self, v: [V; 4], out: &mut [[i8; 4]; LANES]) {
        for (lane, out) in out.iter_mut().enumerate() {
            for (v, out) in v.iter().zip(out) {
                *out = rounded(v[lane]);
            }
        }
    }
    #[inline(always)]
    fn max_magnitude(self, a: V, x: V) -> V {
        // As integers, NaN is above infinity.
        each(|i| f32::from_bits(a[i].to_bits().max(x[i].to_bits() & MAGNITUDE)))
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
        let a = Wide::new(&a);
        for (sum, w) in sum.iter_mut().zip(w) {
            *sum = a.dot(Wide::new(&w), *sum);
        }
        sum
    }
    #[inline(always)]
    fn load_int4(self, x: &[[u8; 4]; LANES]) -> [[[i8; 4]; LANES]; 2] {
        let signed = |shift: u32| each(|lane| x[lane].map(|byte| (byte << shift).cast_signed() >> 4));
        [signed(4), signed(0)]
    }
    #[inline(always)]
    fn int4_to_f32(self, sum: [i32; LANES], _: [i32; LANES]) -> V {
        self.to_f32(sum)
    }
    #[inline(always)]
    fn to_f32(self, i: [i32; LANES]) -> [f32; LANES] {
        each(|lane| i[lane] as f32)
    }

    #[inline(always)]
    unsafe fn int8_tile<const M: usize, const P: usize>(self, tile: &Int8Tile<'_>) {
        debug_assert_eq!(P, Self::INT8_PANELS);
        let mut sums = [[0; LANES]; M];
        // SAFETY: the caller's promise, passed on.
        unsafe {
            match columns(M) {
                4 => by_columns::<M, 4, BLOCK_OF_ONE_ROW>(tile, &mut sums),
                2 if M == 1 => by_columns::<M, 2, BLOCK_OF_ONE_ROW>(tile, &mut sums),
                2 => by_columns::<M, 2, BLOCK>(tile, &mut sums),
                _ => by_columns::<M, 1, BLOCK>(tile, &mut sums),
            }
            store_sums(&sums, tile);
        }
    }
}

/// Scales a tile's sums, applies its epilogue, and writes them: as [`finish`](crate::gemm::tile::finish), but one number at a
/// time, since a core without vectors would move arrays of them from step to step.
///
/// # Safety
/// The tile has a row for each row of sums, which nothing else refers to.
#[inline(never)]
#[allow(clippy::needless_range_loop)] // Constant ranges over arrays unroll into registers.
unsafe fn store_sums(sums: &[[i32; LANES]], tile: &Int8Tile<'_>) {
    let Finish { bias, scale, accumulate } = tile.finish;
    let (bias, scale) = (bias.and_then(<[f32]>::first_chunk::<LANES>), scale.and_then(<[f32]>::first_chunk::<LANES>));
    let Some(w_scales) = tile.w_scales.first() else { return };
    for (m, (sums, a_scale)) in sums.iter().zip(tile.a_scales).enumerate() {
        let mut row = [0.0; LANES];
        for c in 0..LANES {
            row[c] = sums[c] as f32 * w_scales[c] * a_scale;
        }
        if let Some(bias) = bias {
            for c in 0..LANES {
                row[c] += bias[c];
            }
        }
        if let Some(scale) = scale {
            for c in 0..LANES {
                row[c] *= scale[c];
            }
        }
        // SAFETY: the caller vouches for the rows; they are read only where the epilogue says that they are written.
        unsafe {
            let out = tile.out.add(m * tile.out_row);
            match accumulate {
                Accumulate::Replace => {}
                Accumulate::Add => {
                    for c in 0..LANES {
                        row[c] += *out.add(c);
                    }
                }
                Accumulate::Multiply => {
                    for c in 0..LANES {
                        row[c] *= *out.add(c);
                    }
                }
            }
            for c in 0..LANES {
                *out.add(c) = row[c];
            }
        }
    }
}

/// Words of four widened int8.
pub(crate) const WIDE: usize = size_of::<Wide>() / size_of::<u32>();

/// Four numbers within ±127, rounded to nearest, ties to even, and widened for [`add_products`]. NaN gives anything.
#[inline(always)]
pub(crate) fn widened(x: [f32; 4]) -> [u32; WIDE] {
    Wide::rounded(x).words()
}

/// sums\[m\]\[c\] += Σ a·w over the groups of four inputs of `a`, \[groups\]\[M\]\[[`WIDE`]\]; those of `w`, four bytes for each
/// of `C` columns, lie `step` bytes apart.
#[inline(always)]
pub(crate) fn add_products<const M: usize, const C: usize>(a: &[u32], w: &[i8], step: usize, sums: &mut [[i32; C]; M]) {
    let groups = a.len() / (M * WIDE);
    assert!(groups > 0 && (groups - 1) * step + C * size_of::<[i8; 4]>() <= w.len());
    // SAFETY: `Wide` is an array of integers, and there are as many.
    let a = unsafe { core::slice::from_raw_parts(a.as_ptr().cast::<[Wide; M]>(), groups) };
    // SAFETY: the assertion says that w has as many groups.
    unsafe { multiply(a, w.as_ptr().cast(), step, sums) }
}

/// The nearest integer, ties to even, of a number within ±127.
#[inline(always)]
fn rounded(x: f32) -> i8 {
    ((x + ROUND_TO_INTEGER).to_bits() as u8).cast_signed()
}

/// A vector, lane by lane. Written out: whether the compiler unrolls a loop depends on what is in it, and an array that
/// a loop goes through stays in memory.
#[inline(always)]
fn each<T>(lane: impl Fn(usize) -> T) -> [T; LANES] {
    let four = |i| [lane(i), lane(i + 1), lane(i + 2), lane(i + 3)];
    let ([a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]) = (four(0), four(4), four(8), four(12));
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

/// The sums of the products of `M` rows and a panel, `C` columns and `B` groups of inputs at a time.
///
/// # Safety
/// The tile's rows of activations and its panel of weights are readable.
#[inline(always)]
unsafe fn by_columns<const M: usize, const C: usize, const B: usize>(
    tile: &Int8Tile<'_>,
    sums: &mut [[i32; LANES]; M],
) {
    // Without initial zeros: they would take longer than the rest of what a tile does once.
    let mut a = [[MaybeUninit::<Wide>::uninit(); M]; B];
    let mut first = 0;
    while first < tile.groups {
        let a = &mut a[..B.min(tile.groups - first)];
        for (group, a) in (first..).zip(a.iter_mut()) {
            for (m, a) in a.iter_mut().enumerate() {
                // SAFETY: the caller vouches for M rows of that many groups.
                a.write(Wide::new(unsafe { &*tile.a.add(m * tile.a_row + group * tile.a_step).cast() }));
            }
        }
        // SAFETY: written just now.
        let a = unsafe { core::slice::from_raw_parts(a.as_ptr().cast::<[Wide; M]>(), a.len()) };
        let mut column = 0;
        while column < LANES {
            // SAFETY: the caller vouches for that many groups, each of LANES columns.
            let w = unsafe { tile.w.add(first * tile.w_step).cast::<[i8; 4]>().add(column).cast() };
            let mut acc = [[0; C]; M];
            if first > 0 {
                for (acc, sums) in acc.iter_mut().zip(&*sums) {
                    acc.copy_from_slice(&sums[column..column + C]);
                }
            }
            // SAFETY: as above.
            unsafe { multiply(a, w, tile.w_step * size_of::<[[i8; 4]; LANES]>(), &mut acc) }
            for (acc, sums) in acc.iter().zip(&mut *sums) {
                sums[column..column + C].copy_from_slice(acc);
            }
            column += C;
            if cfg!(arm_dsp) {
                // Not unrolled: the compiler takes `asm!` for short, whatever is in it.
                column = black_box(column);
            }
        }
        first += B;
    }
}
